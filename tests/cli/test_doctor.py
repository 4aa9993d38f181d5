"""`dcsync doctor`."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from dcsync.sandbox import Fault
from tests.cli.conftest import Dcsync
from tests.rigs.ended import ending
from tests.rigs.mirror import tables
from tests.rigs.served import TOKEN, Served

NOBODY = 65534


def add_job(side: Served) -> None:
    request = side.sandbox.world.add_request("Nightly")
    side.sandbox.world.add_job(request, completed_at=datetime.now(UTC), files=tables(1), with_archive=False)


def test_each_check_is_a_line_followed_by_its_advice(side: Served, dcsync: Dcsync) -> None:
    add_job(side)
    dcsync("sync")

    result = dcsync("doctor")

    assert result.status == 0
    assert result.err == ""
    lines = result.out.splitlines()
    assert lines[0].startswith(f"ok    configuration: {side.config}, dcsync ")
    token = lines.index("warn  token: auth.access_token expires one hour after it was issued and cannot be renewed")
    assert lines[token + 1].startswith("      do: for unattended runs use ")
    assert "ok    requests.acme: 1 data request visible" in lines
    assert {line[:6] for line in lines} == {"ok    ", "warn  ", "      "}


def test_json_has_the_documented_keys(side: Served, dcsync: Dcsync) -> None:
    add_job(side)
    dcsync("sync")

    document = dcsync("doctor", "--json").json

    assert document.keys() == {"checks", "worst"}
    assert document["worst"] == "warn"
    assert {frozenset(check) for check in document["checks"]} == {frozenset(("name", "level", "message", "advice"))}
    assert {check["name"]: check["level"] for check in document["checks"]}["token"] == "warn"


def test_without_a_configuration_it_is_exit_2_and_says_how_to_get_one(
    side: Served, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch
) -> None:
    side.config.unlink()

    result = dcsync("doctor")

    assert result.status == 2
    assert "fail  configuration: " in result.out
    assert "do: create one with `dcsync init`" in result.out
    assert "skip  api: needs configuration" in result.out


def test_an_old_name_in_the_configuration_is_a_warning_of_its_check(side: Served, dcsync: Dcsync) -> None:
    side.config.write_text(side.config.read_text().replace("[mirror]\n", '[mirror]\nstrategy = "archive"\n'))

    checks = {check["name"]: check for check in dcsync("doctor", "--json").json["checks"]}

    assert checks["configuration"]["level"] == "warn"
    assert 'mirror.strategy: "archive" is now called "zip".' in checks["configuration"]["message"]
    assert checks["configuration"]["advice"] == "use the new names in these lines"


def test_every_problem_of_a_configuration_has_a_line(side: Served, dcsync: Dcsync) -> None:
    side.config.write_text('[mirror]\nroot = "x"\nstrategie = "auto"\n[auth]\nclient_id = "x"\n')

    result = dcsync("doctor")

    assert result.status == 2
    first, second, *_ = result.out.splitlines()
    assert first.startswith("fail  configuration: ")
    assert first.endswith("config.toml:2: mirror.root: 'x' is not an absolute path")
    assert second.startswith("      ")
    assert second.endswith('config.toml:3: mirror.strategie: unknown key; did you mean "strategy"?')


def test_a_token_that_is_not_accepted_is_exit_12(side: Served, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "wrong-canary")

    result = dcsync("doctor")

    assert result.status == 12
    assert "fail  api: " in result.out
    assert "canary" not in result.out + result.err


def test_a_missing_permission_is_exit_13(side: Served, dcsync: Dcsync) -> None:
    text = side.config.read_text().replace(side.sandbox.world.hub_id, "b.00000000-0000-4000-8000-000000000000")
    side.config.write_text(text)

    result = dcsync("doctor")

    assert result.status == 13
    assert "fail  permission.acme: " in result.out
    assert "No access to this account" in result.out
    assert "Executive or Project Administrator role" in result.out


def test_a_disk_that_is_not_mounted_is_exit_14(side: Served, dcsync: Dcsync) -> None:
    add_job(side)
    dcsync("sync")
    side.root.rename(side.folder / "elsewhere")
    side.root.mkdir()

    result = dcsync("doctor", "--json")

    assert result.status == 14
    assert result.json["worst"] == "fail"
    assert list(side.root.iterdir()) == []


def test_doctor_works_during_a_sync_and_reports_it(side: Served, dcsync: Dcsync) -> None:
    add_job(side)
    side.sandbox.faults.add(Fault(server="storage", kind="hang", seconds=600))
    with ending(subprocess.Popen([sys.executable, "-m", "dcsync", "sync"], stderr=subprocess.PIPE)) as sync:
        try:
            while side.sandbox.count("api", path_contains="/data/") == 0:
                assert sync.poll() is None

            result = dcsync("doctor")

            assert result.status == 0
            assert f"ok    lock: held by a sync, pid {sync.pid}\n" in result.out
            assert sync.poll() is None
        finally:
            sync.terminate()
            sync.communicate(timeout=120)


@pytest.mark.needs_root
@pytest.mark.needs_tool("setpriv")
@pytest.mark.parametrize(("locked", "failing"), [("mirror", "mirror.root"), ("state", "state.dir")])
def test_an_unwritable_folder_fails_with_its_path_and_the_uid(side: Served, locked: str, failing: str) -> None:
    side.state.mkdir()
    path = side.folder / locked
    os.chown(path, NOBODY, NOBODY)
    path.chmod(0o755)
    # Root without CAP_DAC_OVERRIDE obeys permissions like any user, and can still read this checkout.
    without = "--bounding-set=-dac_override,-dac_read_search"

    result = subprocess.run(
        ["setpriv", without, "--inh-caps=-all", sys.executable, "-m", "dcsync", "doctor"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 3
    assert f"fail  {failing}: " in result.stdout
    assert f"{path} cannot be written (as uid {os.geteuid()})" in result.stdout
    assert "Traceback" not in result.stderr
