"""`dcsync hooks` and `dcsync notify`."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime

import pytest

from dcsync.mirror.root import FileLock
from tests.cli.conftest import Dcsync
from tests.rigs.mirror import tables
from tests.rigs.served import Served


def add_job(side: Served) -> str:
    world = side.sandbox.world
    request = next(iter(world.requests), None) or world.add_request("Nightly")
    return world.add_job(request, completed_at=datetime.now(UTC), files=tables(1), with_archive=False)


def configure(side: Served, script: str, *, on: Sequence[str] = ("snapshot",)) -> None:
    hook = ["[[hook]]", f"on = {json.dumps(list(on))}", f"run = {json.dumps(['/bin/sh', '-c', script])}"]
    side.write_config(*hook)


def heard(side: Served) -> list[str]:
    place = side.folder / "heard"
    return [json.loads(line)["job"] for line in place.read_text().splitlines()] if place.exists() else []


@contextmanager
def held(side: Served, role: str) -> Iterator[None]:
    """Lock the state folder, as another process does."""
    with FileLock(side.state / "lock", "the state folder", role=role):
        yield


# --- list -------------------------------------------------------------------------------------------------------------


def test_a_sync_runs_hooks_and_they_are_listed_newest_first(side: Served, dcsync: Dcsync) -> None:
    configure(side, f"cat >> {side.folder}/heard")
    jobs = []
    for _ in range(2):
        jobs.append(add_job(side))
        assert dcsync("sync").status == 0

    result = dcsync("hooks", "list")

    assert heard(side) == jobs
    assert result.status == 0
    assert [jobs.index(job) for line in result.out.splitlines() for job in jobs if job in line] == [1, 0]
    assert "done" in result.out


def test_listing_hook_runs_creates_and_changes_nothing(side: Served, dcsync: Dcsync) -> None:
    """A daemon of an older version may be writing to the manifest."""
    configure(side, "true")
    first = dcsync("hooks", "list")
    assert (first.status, list(side.state.glob("manifest*"))) == (0, [])
    job = add_job(side)
    assert dcsync("sync").status == 0
    with closing(sqlite3.connect(side.state / "manifest.sqlite")) as manifest:
        manifest.execute("UPDATE alembic_version SET version_num = '0001'")
        manifest.execute("DELETE FROM meta WHERE key = 'seal'")
        manifest.commit()
    before = (side.state / "manifest.sqlite").read_bytes()

    with held(side, "run"):
        results = [dcsync("hooks", "list"), dcsync("hooks", "rerun", job)]

    for result in results:
        assert result.status != 0
        assert "older dcsync" in result.err
    assert (side.state / "manifest.sqlite").read_bytes() == before


def test_a_failing_hook_does_not_fail_the_sync_and_is_listed_with_its_error(side: Served, dcsync: Dcsync) -> None:
    configure(side, "echo no such table; exit 7")
    job = add_job(side)

    assert dcsync("sync").status == 0
    (run,) = dcsync("hooks", "list", "--json").json["hooks"]

    assert run.keys() == {
        "id",
        "account",
        "job",
        "event",
        "argv",
        "state",
        "attempts",
        "created_at",
        "next_try_at",
        "ended_at",
        "exit_status",
        "error",
    }
    assert (run["account"], run["job"], run["event"], run["state"]) == ("acme", job, "snapshot", "due")
    assert (run["attempts"], run["exit_status"], run["error"]) == (1, 7, "no such table")
    assert run["next_try_at"] > run["ended_at"]


def test_the_list_is_limited_to_a_job_and_a_number(side: Served, dcsync: Dcsync) -> None:
    configure(side, "true")
    jobs = [add_job(side) for _ in range(3)]
    dcsync("sync")

    assert len(dcsync("hooks", "list", "--limit", "2", "--json").json["hooks"]) == 2
    assert [run["job"] for run in dcsync("hooks", "list", "--job", jobs[0], "--json").json["hooks"]] == [jobs[0]]
    assert dcsync("hooks", "list", "--job", "no", "--json").json == {"hooks": []}


def test_before_the_first_run_there_is_nothing_to_list(side: Served, dcsync: Dcsync) -> None:
    assert dcsync("hooks", "list").status == 0
    assert dcsync("hooks", "list", "--json").json == {"hooks": []}


# --- rerun ------------------------------------------------------------------------------------------------------------


def test_a_rerun_runs_the_hooks_of_a_snapshot_as_they_are_configured_now(side: Served, dcsync: Dcsync) -> None:
    job = add_job(side)
    dcsync("sync")
    configure(side, f"cat >> {side.folder}/heard")

    result = dcsync("hooks", "rerun", job)

    assert (result.status, result.out) == (0, "/bin/sh: done\n")
    assert heard(side) == [job]
    dcsync("hooks", "rerun", job)
    assert heard(side) == [job, job]


def test_a_failed_rerun_is_reported(side: Served, dcsync: Dcsync) -> None:
    job = add_job(side)
    dcsync("sync")
    configure(side, "echo still no table; exit 1")

    result = dcsync("hooks", "rerun", job)

    assert (result.status, result.out) == (3, "/bin/sh: failed: still no table\n")


def test_a_rerun_needs_a_snapshot_and_a_hook(side: Served, dcsync: Dcsync) -> None:
    job = add_job(side)
    dcsync("sync")

    without_hook = dcsync("hooks", "rerun", job)
    configure(side, "true", on=["failure"])
    without_such_a_hook = dcsync("hooks", "rerun", job)
    configure(side, "true")
    without_snapshot = dcsync("hooks", "rerun", "no-such-job")

    assert [result.status for result in (without_hook, without_such_a_hook, without_snapshot)] == [2, 2, 2]
    assert "no hook is configured for the event snapshot" in without_such_a_hook.err
    assert "no snapshot of a job no-such-job is in the mirror" in without_snapshot.err


def test_while_the_daemon_runs_it_does_the_rerun(side: Served, dcsync: Dcsync) -> None:
    job = add_job(side)
    dcsync("sync")
    configure(side, f"cat >> {side.folder}/heard")

    with held(side, "run"):
        result = dcsync("hooks", "rerun", job)
    assert result.status == 0
    assert result.out.startswith("1 hook run queued; the daemon starts")
    assert heard(side) == []

    dcsync("sync")
    assert heard(side) == [job]


def test_while_a_sync_runs_a_rerun_is_refused(side: Served, dcsync: Dcsync) -> None:
    job = add_job(side)
    dcsync("sync")
    configure(side, f"cat >> {side.folder}/heard")

    with held(side, "sync"):
        assert dcsync("hooks", "rerun", job).status == 11
    dcsync("sync")

    assert heard(side) == []


# --- sync and what follows --------------------------------------------------------------------------------------------


def test_a_sync_writes_the_metrics_and_a_dry_run_does_not(side: Served, dcsync: Dcsync) -> None:
    place = side.folder / "dcsync.prom"
    side.write_config("[metrics]", f"textfile = {json.dumps(str(place))}")
    add_job(side)

    dcsync("sync", "--dry-run")
    assert not place.exists()
    dcsync("sync")

    assert 'dcsync_snapshots_total{account="acme"} 1.0' in place.read_text()


def test_a_dry_run_sends_no_events(side: Served, dcsync: Dcsync) -> None:
    configure(side, f"cat >> {side.folder}/heard", on=["snapshot", "failure", "alert", "recovered"])
    add_job(side)

    dcsync("sync", "--dry-run")

    assert heard(side) == []


def test_a_missing_notify_secret_is_reported_before_the_run(side: Served, dcsync: Dcsync) -> None:
    side.write_config("[heartbeat]", 'url = "env:DCSYNC_NO_SUCH_VARIABLE"')
    add_job(side)

    result = dcsync("sync")

    assert result.status == 2
    assert "DCSYNC_NO_SUCH_VARIABLE is not set" in result.err
    assert not list(side.root.glob("acme/**/_dcsync.json"))


# --- notify -----------------------------------------------------------------------------------------------------------


def test_notify_without_addresses_says_what_to_do(side: Served, dcsync: Dcsync) -> None:
    result = dcsync("notify", "--test")

    assert result.status == 2
    assert "notify.urls is empty" in result.err
    assert "https://github.com/caronc/apprise/wiki" in result.err


def test_notify_requires_the_option_test(side: Served, dcsync: Dcsync) -> None:
    assert dcsync("notify").status == 2


def test_without_apprise_the_error_names_the_extra_to_install(
    side: Served, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch
) -> None:
    side.write_config("[notify]", 'urls = ["json://127.0.0.1:9/hunter2"]')
    monkeypatch.setitem(sys.modules, "apprise", None)  # as if it were not installed
    add_job(side)

    for command in (("notify", "--test"), ("sync",)):
        result = dcsync(*command)
        assert result.status == 2
        assert "which is not installed" in result.err
        assert ".[notify]" in result.err
        assert "hunter2" not in result.err
    # A dry run sends no messages, so it needs no secret for them.
    assert dcsync("sync", "--dry-run").status == 0


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
def test_notify_sends_to_every_address_or_reports_the_failed_ones(side: Served, dcsync: Dcsync) -> None:
    # The sandbox answers 404 for any unknown path, so no message arrives there.
    port = side.sandbox.base_url.rpartition(":")[2]
    side.write_config("[notify]", f'urls = ["json://127.0.0.1:{port}/hunter2"]')

    result = dcsync("notify", "--test")

    assert result.status == 3
    assert re.fullmatch(r"address 1 \(json\): failed: Failed to send JSON .* error=401\.\n", result.out)
    assert "hunter2" not in result.out + result.err
