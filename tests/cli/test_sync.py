"""`dcsync sync`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dcsync.cli.sync import print_outcomes
from dcsync.core.alerts import AlertCode
from dcsync.core.model import AccountId, AccountName
from dcsync.manifest.broken import BrokenPart
from dcsync.ops.context import AccountSettings
from dcsync.ops.mirroring.outcome import AccountOutcome
from dcsync.sandbox import Fault
from tests.cli.conftest import Dcsync
from tests.rigs.mirror import assert_identical, tables
from tests.rigs.opens import Opens, counting_opens
from tests.rigs.served import TOKEN, Served

#: `nobody` on Debian; any user without rights would do.
NOBODY = 65534


def add_job(side: Served, *, description: str = "Nightly", days_ago: float = 0.0, seed: int = 0) -> str:
    world = side.sandbox.world
    request = next((entry.id for entry in world.requests.values() if entry.description == description), None)
    request = request or world.add_request(description)
    completed = datetime.now(UTC) - timedelta(days=days_ago)
    return world.add_job(request, completed_at=completed, files=tables(3, seed=seed), with_archive=False)


def snapshot(side: Served) -> Path:
    (found,) = side.root.glob("acme/*/[0-9]*/**/_dcsync.json")
    return found.parent


def test_sync_reports_the_published_snapshots(side: Served, dcsync: Dcsync) -> None:
    job = add_job(side)

    result = dcsync("sync")

    assert result.status == 0
    assert result.out.startswith("acme: published acme/nightly-")
    assert "3 files, 2.9 KiB downloaded, 0 B hard-linked, 4 API calls" in result.out
    assert_identical(snapshot(side), side.sandbox.world, job)
    assert "snapshot published" in result.err


def test_nothing_new_is_one_line_and_silence_in_the_log(side: Served, dcsync: Dcsync) -> None:
    add_job(side)
    dcsync("sync")

    result = dcsync("sync")

    assert result.status == 0
    assert result.out == "acme: nothing new (1 call)\n"
    assert result.err == ""


def test_json_is_one_document_on_stdout(side: Served, dcsync: Dcsync) -> None:
    job = add_job(side)

    result = dcsync("sync", "--json")

    (account,) = result.json["accounts"]
    assert account["name"] == "acme"
    assert [published["job"] for published in account["published"]] == [job]
    assert account["error"] is None


def test_a_dry_run_on_a_new_machine_shows_the_plan(side: Served, dcsync: Dcsync) -> None:
    add_job(side)

    result = dcsync("sync", "--dry-run")

    assert result.status == 0
    assert "would publish acme/nightly-" in result.out
    assert "0 files hard-linked, 0 from the ZIP, 3 downloaded individually" in result.out
    assert "* files      3 calls     2.9 KiB" in result.out
    assert list(side.root.iterdir()) == []


def test_a_dry_run_in_json_names_every_file(side: Served, dcsync: Dcsync) -> None:
    add_job(side)

    result = dcsync("sync", "--dry-run", "--json")

    (planned,) = result.json["accounts"][0]["planned"]
    assert {file["name"]: file["action"] for file in planned["files"]} == dict.fromkeys(tables(3), "fetch")


def test_a_dry_run_shows_plans_and_failures(side: Served, dcsync: Dcsync) -> None:
    failing, other = add_job(side, days_ago=1), add_job(side)
    side.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/data-listing"))

    result = dcsync("sync", "--dry-run")

    assert result.status == 3
    assert f"(job {other})" in result.out
    assert f"acme: job {failing} cannot be planned: " in result.err
    assert "[L-MISSING]" in result.err
    assert "next attempt" not in result.err


def test_a_dry_run_with_only_failures_does_not_report_nothing_to_do(side: Served, dcsync: Dcsync) -> None:
    add_job(side)
    side.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/data-listing"))

    result = dcsync("sync", "--dry-run")

    assert result.out == ""
    assert "cannot be planned" in result.err


def test_a_quarantined_job_is_counted_by_every_later_run(side: Served, dcsync: Dcsync) -> None:
    add_job(side, days_ago=2)
    side.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/data-listing"))
    first = dcsync("sync")

    result = dcsync("sync")

    assert "is quarantined" in first.err
    assert "dcsync sync --job" in first.err
    assert result.status == 0
    assert result.out == "acme: nothing new, 1 quarantined (see dcsync status) (1 call)\n"
    assert dcsync("sync", "--json").json["accounts"][0]["given_up"] == 1


def test_an_extract_that_was_always_too_old_is_nothing_new_and_says_so_when_named(side: Served, dcsync: Dcsync) -> None:
    job = add_job(side, days_ago=31)

    plain, result = dcsync("sync"), dcsync("sync", "--job", job)

    assert (plain.status, plain.err) == (0, "")
    assert plain.out.startswith("acme: nothing new (")
    assert result.status == 3
    assert f"job {job}: nothing to do: it can no longer be downloaded" in result.err
    for words in ("next try", "retries for one day", "tries again", "retried"):
        assert words not in result.err
    assert dcsync("sync").out == "acme: nothing new (1 call)\n"


def test_a_run_can_be_limited_to_a_request(side: Served, dcsync: Dcsync) -> None:
    add_job(side)
    add_job(side, description="Weekly")

    dcsync("sync", "--request", "Week*")

    assert [path.name[:6] for path in (side.root / "acme").iterdir()] == ["weekly"]


def test_an_unknown_account_is_reported_with_the_known_ones(side: Served, dcsync: Dcsync) -> None:
    result = dcsync("sync", "--account", "acne")

    assert result.status == 2
    assert "no account 'acne'" in result.err
    assert "acme" in result.err


def test_an_unknown_request_is_reported_with_the_known_ones(side: Served, dcsync: Dcsync) -> None:
    add_job(side)
    add_job(side, description="Weekly")

    result = dcsync("sync", "--request", "nosuch", "--request", "Week*")

    assert result.status == 2
    assert "unknown data request in these accounts: nosuch; known data requests: 'Nightly' (" in result.err
    assert "'Weekly' (" in result.err
    # The known data request is mirrored anyway.
    assert "published acme/weekly-" in result.out


def test_an_unknown_request_is_reported_before_any_request_ran(side: Served, dcsync: Dcsync) -> None:
    result = dcsync("sync", "--request", "nosuch")

    assert result.status == 2
    assert "unknown data request in these accounts: nosuch; no data request has run yet" in result.err


def test_an_unknown_job_is_reported(side: Served, dcsync: Dcsync) -> None:
    add_job(side)

    result = dcsync("sync", "--job", "11111111-2222-3333-4444-555555555555")

    assert "unknown job" in result.err
    assert result.status == 2


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
    side.sandbox.faults.add(Fault(server="storage", kind="hang", seconds=30))
    with subprocess.Popen(
        [sys.executable, "-m", "dcsync", "sync"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as first:
        try:
            while side.sandbox.count("api", path_contains="/data/") == 0:
                assert first.poll() is None

            result = dcsync("sync")

            assert result.status == 11
            assert f"pid {first.pid}" in result.err
        finally:
            first.send_signal(signal.SIGTERM)
            out, err = first.communicate(timeout=20)

    assert first.returncode == 130, err
    assert b"interrupted" in err
    assert b"Traceback" not in err
    assert out == b""


def test_a_closed_pipe_is_no_error(side: Served) -> None:
    add_job(side)
    reading, writing = os.pipe()
    os.close(reading)

    with os.fdopen(writing, "wb") as closed:
        result = subprocess.run(
            [sys.executable, "-m", "dcsync", "jobs", "--json"], stdout=closed, stderr=subprocess.PIPE, check=False
        )

    assert result.stderr == b""
    assert result.returncode == 0


def test_a_refresh_token_in_the_configuration_is_used_once_in_two_runs(
    side: Served, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = side.sandbox.tokens.issue_refresh_token("tester")
    text = side.config.read_text().replace(
        f'access_token = "env:{TOKEN}"',
        'client_id = "sandbox"\nclient_secret = "sandbox-secret"\nrefresh_token = "env:SEED"',
    )
    side.config.write_text(text)
    monkeypatch.setenv("SEED", seed)
    add_job(side)

    assert dcsync("sync").status == 0
    monkeypatch.delenv("SEED")
    assert dcsync("sync").status == 0

    assert side.sandbox.tokens.refresh_count == 1
    stored = json.loads((side.state / "token.json").read_text())
    assert stored["refresh_token"] in side.sandbox.tokens.live_refresh_tokens
    assert (side.state / "token.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("reference", "code", "words"),
    [
        ("env:NO_SUCH_SEED", "C-SECRET", "the environment variable NO_SUCH_SEED is not set"),
        ("file:{folder}/none", "C-SECRET", "/none: No such file or directory"),
        ("file:{folder}/loose", "C-EXPOSED", "/loose has mode 0644, so others can use it"),
    ],
)
def test_an_unreadable_refresh_token_is_reported_instead_of_a_missing_sign_in(
    side: Served, dcsync: Dcsync, reference: str, code: str, words: str
) -> None:
    (side.folder / "loose").write_text(side.sandbox.tokens.issue_refresh_token("tester"))
    (side.folder / "loose").chmod(0o644)
    text = side.config.read_text().replace(
        f'access_token = "env:{TOKEN}"',
        'client_id = "sandbox"\nclient_secret = "sandbox-secret"\n'
        f'refresh_token = "{reference.format(folder=side.folder)}"',
    )
    side.config.write_text(text)

    result = dcsync("sync")

    assert result.status == 2
    assert words in result.err
    assert f"[{code}]" in result.err
    assert "no token is stored" not in result.err
    assert side.sandbox.count("token") == 0


def test_a_run_opens_one_manifest_and_one_pool_of_threads(side: Served, dcsync: Dcsync) -> None:
    add_job(side)

    with counting_opens() as opens:
        assert dcsync("sync").status == 0

    assert opens == Opens(manifests=1, reading=0, pools=1)


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
