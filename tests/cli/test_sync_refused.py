"""`dcsync sync` where something is missing, refused or held by another run: message and exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from dcsync.cli.sync import print_outcomes
from dcsync.core.alerts import AlertCode
from dcsync.core.model import AccountId, AccountName
from dcsync.manifest.broken import BrokenPart
from dcsync.ops.context import AccountSettings
from dcsync.ops.mirroring.outcome import AccountOutcome
from dcsync.sandbox import Fault
from tests.cli.conftest import Dcsync
from tests.rigs.ended import ending
from tests.rigs.served import TOKEN, Served
from tests.rigs.synced import add_job, snapshot

#: `nobody` on Debian; any user without rights would do.
NOBODY = 65534


def test_a_failed_job_is_reported_with_code_time_and_advice(side: Served, dcsync: Dcsync) -> None:
    add_job(side)
    side.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/data-listing"))

    result = dcsync("sync")

    assert result.status == 3
    assert "[L-MISSING]" in result.err
    assert "next attempt" in result.err
    assert "do:" in result.err


def test_a_wrong_token_is_exit_12_and_says_what_to_do(
    side: Served, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, "wrong")

    result = dcsync("sync")

    assert result.status == 12
    assert "[T-LOGIN]" in result.err
    assert "new access token" in result.err
    assert "Traceback" not in result.err


def test_no_permission_for_the_account_is_exit_13(side: Served, dcsync: Dcsync) -> None:
    text = side.config.read_text().replace(side.sandbox.world.hub_id, "b.00000000-0000-4000-8000-000000000000")
    side.config.write_text(text)

    result = dcsync("sync")

    assert result.status == 13
    assert "No access to this account" in result.err
    assert "custom integrations" in result.err


@pytest.mark.parametrize("options", [[], ["--dry-run"]], ids=["sync", "dry run"])
def test_a_disk_that_is_not_mounted_is_exit_14(side: Served, dcsync: Dcsync, options: list[str]) -> None:
    add_job(side)
    dcsync("sync")
    side.root.rename(side.folder / "elsewhere")
    side.root.mkdir()
    calls = side.sandbox.count()

    result = dcsync("sync", *options)

    assert result.status == 14
    assert "M-UNMOUNTED" in result.err
    assert "nothing was written" in result.err
    assert list(side.root.iterdir()) == []
    assert side.sandbox.count() == calls


@pytest.mark.parametrize("options", [[], ["--dry-run"]], ids=["sync", "dry run"])
def test_a_missing_root_is_reported_before_anything_is_created(
    side: Served, dcsync: Dcsync, options: list[str]
) -> None:
    side.root.rmdir()

    result = dcsync("sync", *options)

    assert result.status == 14
    assert f"{side.root} does not exist" in result.err
    assert "mkdir -p" in result.err
    assert not side.root.exists()


def test_an_unreachable_api_is_reported_without_a_traceback(side: Served, dcsync: Dcsync) -> None:
    text = side.config.read_text().replace(side.sandbox.base_url, "http://127.0.0.1:9")
    side.config.write_text(text)

    result = subprocess.run(
        [sys.executable, "-m", "dcsync", "--config", side.config, "status"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0
    assert "Traceback" not in result.stderr


@pytest.mark.needs_root
@pytest.mark.needs_tool("setpriv")
@pytest.mark.parametrize(
    ("locked", "code", "status"), [("mirror", "F-PERM", 3), ("state", "D-MANIFEST", 3), ("config.toml", "C-CONFIG", 2)]
)
def test_a_missing_permission_is_reported_with_the_path_and_the_uid(
    side: Served, locked: str, code: str, status: int
) -> None:
    add_job(side)
    side.state.mkdir()
    path = side.folder / locked
    os.chown(path, NOBODY, NOBODY)
    path.chmod(0o600 if path.is_file() else 0o755)
    # Root without CAP_DAC_OVERRIDE obeys permissions like any user, and can still read this checkout.
    without = "--bounding-set=-dac_override,-dac_read_search"

    result = subprocess.run(
        ["setpriv", without, "--inh-caps=-all", sys.executable, "-m", "dcsync", "--config", side.config, "sync"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert f"uid {os.geteuid()}" in result.stderr, result.stderr
    assert str(path) in result.stderr
    assert code in result.stderr
    assert result.returncode == status
    assert "Traceback" not in result.stderr
    assert list(side.root.rglob("*.csv")) == []


@pytest.mark.needs_root
@pytest.mark.needs_tool("setpriv")
@pytest.mark.parametrize(
    ("locked", "mode"),
    [
        ("acme", 0o700),
        ("acme/{request}", 0o700),
        ("{day}", 0o555),
        (".dcsync/staging", 0o555),
        (".dcsync/instance", 0o400),
    ],
)
def test_a_missing_permission_inside_the_mirror_names_the_exact_path_and_the_user(
    side: Served, dcsync: Dcsync, locked: str, mode: int
) -> None:
    now = datetime.now(UTC)
    # Noon of yesterday, so that both are of one day.
    noon = (now - now.replace(hour=12, minute=0, second=0) + timedelta(days=1)) / timedelta(days=1)
    add_job(side, days_ago=noon)
    assert dcsync("sync").status == 0
    day = snapshot(side).parent
    path = side.root / locked.format(day=day, request=day.parents[2].name)
    add_job(side, days_ago=noon, seed=1)
    os.chown(path, NOBODY, NOBODY)
    path.chmod(mode)
    without = "--bounding-set=-dac_override,-dac_read_search"

    result = subprocess.run(
        ["setpriv", without, "--inh-caps=-all", sys.executable, "-m", "dcsync", "--config", side.config, "sync"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 3, result.stderr
    assert "F-PERM" in result.stderr
    assert f"(uid {os.geteuid()}, root) read and write permission for {path}\n" in result.stderr.replace('"', "\n")
    assert "Traceback" not in result.stderr


@pytest.mark.needs_root
@pytest.mark.needs_tool("setpriv")
@pytest.mark.parametrize("there", [True, False], ids=["there", "to be made"])
def test_a_state_folder_may_be_in_one_that_cannot_be_listed(side: Served, there: bool) -> None:
    add_job(side)
    closed = side.folder / "closed"
    state = closed / "state"
    state.mkdir(mode=0o700, parents=True)
    if not there:
        state.rmdir()
    os.chown(closed, NOBODY, NOBODY)
    # Other users can enter the folder and create files in it, but not list it.
    closed.chmod(0o733)
    side.config.write_text(side.config.read_text().replace(str(side.state), str(state)))
    without = "--bounding-set=-dac_override,-dac_read_search"

    result = subprocess.run(
        ["setpriv", without, "--inh-caps=-all", sys.executable, "-m", "dcsync", "--config", side.config, "sync"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stderr
    assert "published acme/nightly-" in result.stdout
    assert (state / "manifest.sqlite").is_file()


def test_a_second_run_is_exit_11_with_the_first_one_s_pid(side: Served, dcsync: Dcsync) -> None:
    add_job(side)
    side.sandbox.faults.add(Fault(server="storage", kind="hang", seconds=600))
    with ending(
        subprocess.Popen(
            [sys.executable, "-m", "dcsync", "sync"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    ) as first:
        try:
            while side.sandbox.count("api", path_contains="/data/") == 0:
                assert first.poll() is None

            result = dcsync("sync")

            assert result.status == 11
            assert f"pid {first.pid}" in result.err
        finally:
            first.send_signal(signal.SIGTERM)
            out, err = first.communicate(timeout=120)

    assert first.returncode == 130, err
    assert b"interrupted" in err
    assert b"Traceback" not in err
    assert out == b""


def test_what_keeps_data_out_without_a_failed_job_is_said_and_is_no_success(side: Served, dcsync: Dcsync) -> None:
    odd, unclear = add_job(side), add_job(side)
    jobs = side.sandbox.world.jobs
    jobs[odd].id, jobs[unclear].status = "../x", "Archived"

    result = dcsync("sync")

    assert result.status == 3
    assert "an entry of Autodesk's job list cannot be used: a job has the unusable `id` '../x'" in result.err
    assert "1 job has a status that dcsync does not know (see dcsync status) [L-STATUS]" in result.err
    assert dcsync("status", "--check").status == 3


def test_a_name_that_matches_no_data_request_is_said_and_ends_with_2(side: Served, dcsync: Dcsync) -> None:
    add_job(side)
    side.config.write_text(f'{side.config.read_text()}\nrequests = ["Nihgtly"]\n')

    result = dcsync("sync")

    assert result.status == 2
    assert "acme: no visible data request matches 'Nihgtly' in [[account]] requests" in result.err
    assert dcsync("status", "--check").status == 2


@pytest.mark.parametrize("as_json", [False, True])
def test_what_could_not_be_read_is_named(capsys: pytest.CaptureFixture[str], *, as_json: bool) -> None:
    account = AccountSettings(name=AccountName("acme"), id=AccountId("1"))
    part = BrokenPart(code=AlertCode.L_REQUEST, subject="17", message="data request 17 cannot be read: \x1b[31m500")

    print_outcomes([AccountOutcome(account=account, broken=[part])], as_json=as_json, dry_run=False)

    printed = capsys.readouterr()
    if as_json:
        (entry,) = json.loads(printed.out)["accounts"][0]["broken"]
        assert entry == {"code": "L-REQUEST", "subject": "17", "message": part.message}
    else:
        assert "acme: data request 17 cannot be read: " in printed.err
        assert "\x1b" not in printed.err
        assert "500 [L-REQUEST]\n  do:   its extracts wait for its description" in printed.err
