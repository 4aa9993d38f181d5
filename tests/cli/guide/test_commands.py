"""Commands of the guide: in this process, or as processes where the state folder belongs to another user."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from dcsync.cli.guide.commands import Commands, StoppedError, _spawn
from tests.cli.conftest import log_as_before
from tests.cli.guide.conftest import Home


def test_an_answer_has_status_json_and_words(with_account: Home) -> None:
    with log_as_before():
        commands = Commands(with_account.place)
        good, bad = commands.answer("requests", "--json"), commands.answer("requests", "--json", "--account", "acne")

    assert (good.status, good.value, good.words) == (0, {"requests": []}, "")
    assert (bad.status, bad.value) == (2, None)
    assert "the accounts are: acme" in bad.words


def test_a_process_answers_in_the_same_way(with_account: Home) -> None:
    line = ["--config", str(with_account.place), "requests", "--json"]
    good, bad = _spawn(line, reads=True), _spawn([*line, "--account", "acne"], reads=True)

    assert (good.status, good.value, good.words) == (0, {"requests": []}, "")
    assert (bad.status, bad.value) == (2, None)
    assert "the accounts are: acme" in bad.words


@pytest.mark.needs_root
def test_in_the_state_folder_of_another_user_root_starts_processes(
    with_account: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them then runs as that user (tests/cli/test_as_owner.py)."""
    os.chown(with_account.folder / "state", 65534, 65534)
    script = with_account.folder / "python"
    script.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))

    answer = Commands(with_account.place).answer("accounts", "--json")

    assert (answer.status, answer.value) == (
        0,
        ["-m", "dcsync", "--config", str(with_account.place), "accounts", "--json"],
    )
    assert Commands(with_account.place).run("sync") == 0


def test_an_interrupt_ends_the_command_and_the_guide(with_account: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcsync.cli.guide.commands.run", lambda _: 130)

    with pytest.raises(StoppedError) as stopped:
        Commands(with_account.place).run("sync")

    assert stopped.value.status == 130


def test_the_guide_outlives_an_interrupt_of_its_process(with_account: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C reaches both processes. The command ends, and the guide says how to go on."""
    script = with_account.folder / "python"
    script.write_text(
        f"#!{sys.executable}\nimport os, signal\nos.kill(os.getppid(), signal.SIGINT)\nraise SystemExit(130)\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    assert threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)

    assert _spawn(["sync"]).status == 130
    assert signal.getsignal(signal.SIGINT) is before
