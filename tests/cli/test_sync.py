"""`dcsync sync`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from dcsync.sandbox import Fault
from tests.cli.conftest import Dcsync
from tests.rigs.mirror import assert_identical, tables
from tests.rigs.opens import Opens, counting_opens
from tests.rigs.served import TOKEN, Served
from tests.rigs.synced import add_job, snapshot


def test_sync_reports_the_published_snapshots(side: Served, dcsync: Dcsync) -> None:
    job = add_job(side)

    result = dcsync("sync")

    assert result.status == 0
    assert result.out.startswith("acme: published acme/nightly-")
    assert "3 files, 2.9 KiB downloaded, 0 B hard-linked, 4 API calls" in result.out
    assert_identical(snapshot(side), side.sandbox.world, job)
    # The result says it.
    assert result.err == ""


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
        ("file:{folder}/none", "C-SECRET", "/none does not exist"),
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
