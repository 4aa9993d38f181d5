"""Completion in a shell: account names from the configuration, data requests from the manifest."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from click.shell_completion import ShellComplete

from dcsync.cli import group
from tests.cli.conftest import Dcsync
from tests.rigs.served import Served


def completed(*words: str, start: str = "") -> dict[str, str | None]:
    """Return what a shell offers after these words, with the help of each."""
    found = ShellComplete(group.dcsync, {}, "dcsync", "_DCSYNC_COMPLETE").get_completions(list(words), start)
    return {item.value: item.help for item in found}


@pytest.mark.parametrize("command", ["sync", "prune", "verify", "jobs", "requests", "diff", "at"])
def test_account_names_come_from_the_configuration(side: Served, command: str) -> None:
    assert side.config.is_file()
    assert completed(command, "--account") == {"acme": None}
    assert completed(command, "--account", start="ac") == {"acme": None}
    assert completed(command, "--account", start="x") == {}


@pytest.mark.parametrize("command", ["sync", "jobs", "diff", "at"])
def test_data_requests_come_from_the_manifest(side: Served, dcsync: Dcsync, command: str) -> None:
    request = side.sandbox.world.add_request("Nightly")
    side.sandbox.world.add_job(request, completed_at=datetime.now(UTC), files={"a.csv": b"id\n"}, with_archive=False)
    assert dcsync("sync").status == 0

    assert completed(command, "--request") == {request: "Nightly"}
    assert completed(command, "--request", start=request[:4]) == {request: "Nightly"}
    assert completed("--config", str(side.config), command, "--request", start="~") == {}


@pytest.mark.parametrize("words", [("at", "latest"), ("diff", "--rows", "--table")])
def test_tables_are_those_of_the_newest_snapshots(side: Served, dcsync: Dcsync, words: tuple[str, ...]) -> None:
    request = side.sandbox.world.add_request("Nightly")
    files = {"admin_users.csv": b"id\n", "issues_issues.csv": b"id\n", "README.html": b"x"}
    side.sandbox.world.add_job(request, completed_at=datetime.now(UTC), files=files, with_archive=False)
    assert dcsync("sync").status == 0

    assert completed(*words) == {"admin_users": None, "issues_issues": None}
    assert completed(*words, start="is") == {"issues_issues": None}


def test_loads_come_from_the_configuration(side: Served) -> None:
    side.config.write_text(side.config.read_text() + '\n[[load]]\nname = "warehouse"\nto = "env:X"\n')

    assert completed("load") == {"warehouse": None, "status": None}
    assert completed("load", start="wa") == {"warehouse": None}
    assert "--json" in completed("load", "status", start="--")


@pytest.mark.parametrize("option", ["--account", "--request"])
def test_a_problem_completes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    monkeypatch.setenv("DCSYNC_CONFIG", "/nonexistent/config.toml")

    assert completed("sync", option) == {}
    assert completed("at", "latest") == {}
    assert completed("load") == {"status": None}
    assert capsys.readouterr() == ("", "")
