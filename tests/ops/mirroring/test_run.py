"""Whole runs: what is published, in which order, at what price, and what becomes of what cannot be."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import logging
import os
import stat
import zlib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import structlog

from dcsync.auth.token_store import TokenPair, TokenStore
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountId, AccountName, JobId
from dcsync.errors import (
    AccessRefused,
    ExitStatus,
    LoginRequired,
    ManifestError,
    MirrorNotMounted,
    TokenStoreUnusable,
)
from dcsync.log import configure
from dcsync.ops.context import AccountSettings, NullObserver
from dcsync.ops.mirroring.run import AccountOutcome, Wanted, exit_status
from dcsync.sandbox import Fault, Synthetic
from tests.rigs.mirror import (
    ARCHIVE,
    Mirror,
    add_extract,
    assert_proved_by_sums,
    mirroring,
    sidecar,
    tables,
    walk_folders,
)
from tests.rigs.zips import make_zip

MIB = 1 << 20


# --- what comes out ---------------------------------------------------------------------------------------------------


async def test_a_made_up_account_is_mirrored_byte_for_byte(mirror: Mirror) -> None:
    request = mirror.world.add_request("My Company Data Extract", tables=40)
    jobs = [
        mirror.world.add_job(request, completed_at=mirror.clock.now() - timedelta(days=3 - day), day=day)
        for day in range(3)
    ]

    outcome = await mirror.sync_one()

    assert [published.job for published in outcome.published] == jobs
    for job in jobs:
        mirror.assert_identical(job)
        assert_proved_by_sums(mirror.snapshot_of(job))


async def test_the_tree_is_as_documented(mirror: Mirror) -> None:
    request = mirror.world.add_request("My Company's Ünusual Extract (full)")
    job = add_extract(mirror, tables(2), request=request)

    await mirror.sync()

    folder = mirror.root / "acme" / f"my-company-s-unusual-extract-full-{request[:8]}"
    snapshot = folder / "2026/11/22" / f"120000Z-{job[:8]}"
    assert snapshot.is_dir()
    assert str((folder / "latest").readlink()) == f"2026/11/22/120000Z-{job[:8]}"
    assert {path.name for path in snapshot.iterdir()} == {*tables(2), "SHA256SUMS", "_dcsync.json"}
    for path in snapshot.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o444
    for path in walk_folders(mirror.root):
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert list((mirror.root / ".dcsync" / "staging").iterdir()) == []


async def test_the_sidecar_says_where_everything_came_from(mirror: Mirror) -> None:
    request = mirror.world.add_request("Nightly")
    body = b"id\n"
    job = add_extract(mirror, {"a_b.csv": body, "autodesk_data_extract.zip": b"PK"}, request=request)

    await mirror.sync()

    document = sidecar(mirror.snapshot_of(job))
    assert document["account"] == {"name": "acme", "id": mirror.world.account_id}
    assert document["request"] == {"id": request, "description": "Nightly", "delta": False}
    assert document["job"]["completed_at"] == "2026-11-22T12:00:00.000Z"
    assert document["strategy"]["name"] == "files"
    assert document["files"] == [
        {
            "name": "a_b.csv",
            "original": "a_b.csv",
            "size": len(body),
            "crc32": f"{zlib.crc32(body):08x}",
            "md5": hashlib.md5(body, usedforsecurity=False).hexdigest(),
            "sha256": hashlib.sha256(body).hexdigest(),
            "etag": f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"',
            "how": "fetched",
            "packed": None,
            "rows": 0,
            "header": ["id"],
            "why": "not in the snapshot before",
        }
    ]
    assert [skip["original"] for skip in document["skipped"]] == ["autodesk_data_extract.zip"]


async def test_the_umask_does_not_change_who_can_read_the_mirror(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    before = os.umask(0o077)
    try:
        await mirror.sync()
    finally:
        os.umask(before)

    snapshot = mirror.snapshot_of(job)
    for folder in [snapshot, *list(snapshot.parents)[: len(snapshot.relative_to(mirror.root).parts) - 1]]:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755


async def test_the_hive_layout_makes_partitions(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"layout": "hive"}
    job = add_extract(mirror, tables(1))

    await mirror.sync()

    (request,) = (mirror.root / "account=acme").iterdir()
    assert (request / "date=2026-11-22" / f"job={job[:8]}" / "admin_table_000.csv").is_file()
    assert str((request / "_latest").readlink()) == f"date=2026-11-22/job={job[:8]}"


async def test_a_time_zone_decides_the_day(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"timezone": "Pacific/Auckland"}
    add_extract(mirror, tables(1))

    await mirror.sync()

    local = datetime(2026, 11, 22, 12, tzinfo=ZoneInfo("UTC")).astimezone(ZoneInfo("Pacific/Auckland"))
    (snapshot,) = mirror.snapshots()
    assert "2026/11/23" in str(snapshot)
    assert snapshot.name.startswith(local.strftime("%H%M%S+1300"))


async def test_latest_as_hard_links_is_a_real_folder(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"latest": "hardlinks"}
    add_extract(mirror, tables(2), days_ago=1)
    await mirror.sync()
    job = add_extract(mirror, {**tables(1), "new.csv": b"new\n"})

    await mirror.sync()

    (latest,) = mirror.root.glob("acme/*/latest")
    snapshot = mirror.snapshot_of(job)
    assert latest.is_dir()
    assert not latest.is_symlink()
    assert {path.name: path.stat().st_ino for path in latest.iterdir()} == {
        path.name: path.stat().st_ino for path in snapshot.iterdir()
    }


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
async def test_a_latest_that_cannot_be_moved_takes_no_published_snapshot_back(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The disk is full between the commit and the swap: the next start moves it."""
    first = add_extract(mirror, tables(2), days_ago=1)
    await mirror.sync()
    second = add_extract(mirror, tables(2, seed=1))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "symlink", refuse)
        outcome = await mirror.sync_one()

    assert [published.job for published in outcome.published] == [second]
    assert (outcome.failed, outcome.error) == ([], None)
    (latest,) = mirror.root.glob("acme/*/latest")
    assert latest.resolve() == mirror.snapshot_of(first)
    await mirror.sync()
    assert latest.resolve() == mirror.snapshot_of(second)


@pytest.mark.parametrize(("name", "what"), [("instance.new", "written"), ("instance", "read")])
async def test_a_state_folder_that_does_not_keep_the_instance_is_an_error_of_ours(
    mirror: Mirror, name: str, what: str
) -> None:
    (mirror.state / name).mkdir(parents=True)

    with pytest.raises(ManifestError, match=rf"instance cannot be {what}: Is a directory"):
        await mirror.sync()

    assert mirror.visible() == []


async def test_latest_only_moves_forward(mirror: Mirror) -> None:
    newest = add_extract(mirror, tables(1))
    await mirror.sync()
    add_extract(mirror, tables(1, seed=1), days_ago=2)

    await mirror.sync()

    (latest,) = mirror.root.glob("acme/*/latest")
    assert latest.resolve() == mirror.snapshot_of(newest)
    assert len(mirror.snapshots()) == 2


async def test_a_delta_request_has_a_folder_of_its_own_and_no_latest(mirror: Mirror) -> None:
    full = mirror.world.add_request("Full")
    delta = mirror.world.add_request("Full", service_groups=("cdcissues",))
    add_extract(mirror, tables(1), request=full)
    job = add_extract(mirror, {"issues_changes.csv": b"id\n"}, request=delta)

    await mirror.sync()

    assert [path.parent.name for path in mirror.root.glob("acme/*/latest")] == [f"full-{full[:8]}"]
    mirror.assert_identical(job)


@pytest.mark.parametrize("status", [403, 404])
@pytest.mark.parametrize("groups", [("cdcissues",), ("admin",)], ids=["a delta", "no delta"])
async def test_a_request_that_cannot_be_read_gets_a_latest_when_it_is_known_to_be_no_delta(
    mirror: Mirror, status: int, groups: tuple[str, ...]
) -> None:
    request = mirror.world.add_request("Nightly", service_groups=groups)
    first = add_extract(mirror, tables(2), request=request, days_ago=3)
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=status, match=f"/requests/{request}", times=2))

    await mirror.sync()
    second = add_extract(mirror, tables(2, seed=1), request=request, days_ago=2)
    await mirror.sync()

    assert not list(mirror.root.glob("acme/*/latest"))
    assert [sidecar(mirror.snapshot_of(job))["request"]["delta"] for job in (first, second)] == [None, None]
    # Only a new job of it is a reason to ask again.
    asked = mirror.sandbox.count("api", path_contains=f"/requests/{request}")
    await mirror.sync()
    assert mirror.sandbox.count("api", path_contains=f"/requests/{request}") == asked == 2
    third = add_extract(mirror, tables(2, seed=2), request=request, days_ago=1)
    await mirror.sync()
    await mirror.sync()
    is_delta = groups == ("cdcissues",)
    assert sidecar(mirror.snapshot_of(third))["request"] == {
        "id": request,
        "description": "Nightly",
        "delta": is_delta,
    }
    # The folder that it got at first sight stays its own.
    assert {path.parents[3] for path in mirror.snapshots()} == {mirror.snapshot_of(first).parents[3]}
    latest = [path.resolve() for path in mirror.root.glob("acme/*/latest")]
    assert latest == ([] if is_delta else [mirror.snapshot_of(third)])
    assert mirror.sandbox.count("api", path_contains=f"/requests/{request}") == 3


async def test_requests_that_may_not_be_listed_are_read_one_by_one(mirror: Mirror) -> None:
    for description in ("Nightly", "Weekly"):
        add_extract(mirror, tables(1), request=mirror.world.add_request(description))
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=403, match=r"/requests\?", times=None))

    outcome = await mirror.sync_one()

    assert outcome.exit_status is ExitStatus.DONE
    assert {path.name.partition("-")[0] for path in (mirror.root / "acme").iterdir()} == {"nightly", "weekly"}


# --- what it costs ----------------------------------------------------------------------------------------------------


async def test_n_files_cost_n_signing_calls_a_listing_and_the_poll(mirror: Mirror) -> None:
    add_extract(mirror, tables(25))

    outcome = await mirror.sync_one()

    assert mirror.sandbox.count("api", path_contains="/data/") == 25
    assert mirror.sandbox.count("api", path_contains="/data-listing") == 1
    assert mirror.sandbox.count("storage") == 25
    # And one for the jobs and one for the request's description.
    assert mirror.sandbox.count("api") == 25 + 1 + 2
    assert outcome.calls == mirror.sandbox.count("api")


async def test_a_poll_that_finds_nothing_costs_one_call(mirror: Mirror) -> None:
    for day in range(60):
        add_extract(mirror, {"a.csv": b"a\n"}, days_ago=29 - day / 3)
    await mirror.sync()
    before = mirror.sandbox.count()

    outcome = await mirror.sync_one()

    assert mirror.sandbox.count() - before == 1
    assert outcome.calls == 1
    assert outcome.exit_status is ExitStatus.DONE


async def test_a_dry_run_writes_nothing_and_downloads_nothing(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(3))

    outcome = await mirror.sync_one(dry_run=True)

    (planned,) = outcome.planned
    assert planned.job == job
    assert planned.price.calls == 3
    assert planned.price.size == sum(map(len, tables(3).values()))
    assert mirror.sandbox.count("api", path_contains="/data/") == 0
    assert list(mirror.root.iterdir()) == []
    assert not (mirror.state / "manifest.sqlite").exists()


async def test_a_dry_run_goes_on_after_a_job_that_cannot_be_planned_and_records_nothing(mirror: Mirror) -> None:
    jobs = [add_extract(mirror, tables(4, seed=day), days_ago=3 - day) for day in range(3)]
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/data-listing"))

    outcome = await mirror.sync_one(dry_run=True)

    assert [planned.job for planned in outcome.planned] == jobs[1:]
    assert [(failed.job, failed.code, failed.next_try_at) for failed in outcome.failed] == [
        (jobs[0], "L-MISSING", None)
    ]
    assert outcome.exit_status is ExitStatus.INCOMPLETE
    assert list(mirror.root.iterdir()) == []
    assert not (mirror.state / "manifest.sqlite").exists()


async def test_a_dry_run_stops_at_what_stops_an_account(mirror: Mirror) -> None:
    for day in range(3):
        add_extract(mirror, tables(4, seed=day), days_ago=3 - day)
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=503, match="/data-listing", times=None))

    outcome = await mirror.sync_one(dry_run=True)

    assert outcome.error is not None
    assert outcome.error.code == "A-SERVER"
    assert (outcome.planned, outcome.failed) == ([], [])


async def test_a_dry_run_knows_what_is_mirrored_already(mirror: Mirror) -> None:
    add_extract(mirror, tables(1), days_ago=1)
    await mirror.sync()
    job = add_extract(mirror, tables(1))

    outcome = await mirror.sync_one(dry_run=True)

    assert [planned.job for planned in outcome.planned] == [job]
    assert outcome.planned[0].plan.fetches[0].unless is not None
    assert len(mirror.snapshots()) == 1


async def test_the_quota_is_kept_though_the_extract_needs_more(tmp_path: Path) -> None:
    # The clock jumps a minute while a download that has its URL already is on its way.
    async with mirroring(tmp_path, url_lifetime_s=1000.0) as mirror:
        mirror.config["api"] = {"requests_per_minute": 20}
        add_extract(mirror, tables(50))

        await mirror.sync()

        # 19 may be used in any minute: 53 calls begin in three minutes, two pauses apart.
        assert mirror.sandbox.count("api") == 53
        assert 120 <= mirror.clock.monotonic() - 1000 <= 190


async def test_a_429_pauses_every_call_for_as_long_as_it_asks(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(5))
    mirror.sandbox.faults.add(
        Fault(server="api", kind="status", status=429, headers={"Retry-After": "37"}, match="/data/", skip=2)
    )

    await mirror.sync()

    mirror.assert_identical(job)
    assert 37 <= max(mirror.clock.slept) <= 39


# --- which jobs -------------------------------------------------------------------------------------------------------


async def test_only_complete_and_successful_jobs_are_mirrored(mirror: Mirror) -> None:
    request = mirror.world.add_request("Nightly")
    good = add_extract(mirror, tables(1), request=request)
    for status, completion in [
        ("queued", None),
        ("running", None),
        ("complete", "failed"),
        ("complete", "cancelled"),
        ("brewing", None),
    ]:
        mirror.world.add_job(request, status=status, completion=completion)

    outcome = await mirror.sync_one()

    assert [published.job for published in outcome.published] == [good]
    assert outcome.waiting == 3
    assert outcome.exit_status is ExitStatus.DONE
    assert mirror.sandbox.count("api", path_contains="/data-listing") == 1


async def test_a_job_that_is_running_is_mirrored_when_it_is_complete(mirror: Mirror) -> None:
    request = mirror.world.add_request("Nightly")
    job = mirror.world.add_job(request, files=tables(1), takes_s=600.0, status="running", completion="success")
    assert (await mirror.sync_one()).waiting == 1

    mirror.clock.advance(601)
    await mirror.sync()

    mirror.assert_identical(job)


async def test_the_oldest_goes_first_and_a_failing_one_stops_nobody(mirror: Mirror) -> None:
    jobs = [add_extract(mirror, tables(1, seed=day), days_ago=9 - day) for day in range(4)]
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, times=None, match=f"{jobs[1]}/data-li"))

    outcome = await mirror.sync_one()

    assert [published.job for published in outcome.published] == [jobs[0], jobs[2], jobs[3]]
    assert [failed.job for failed in outcome.failed] == [jobs[1]]
    assert outcome.exit_status is ExitStatus.INCOMPLETE


async def test_include_exclude_and_keep_archive_choose_the_files(mirror: Mirror) -> None:
    files = {"admin_users.csv": b"a\n", "admin_roles.csv": b"b\n", "forms_forms.csv": b"c\n"}
    job = add_extract(mirror, files, with_archive=True)
    mirror.config["account"] = [
        {
            "name": "acme",
            "id": mirror.world.hub_id,
            "include": ["admin_*", "*.zip"],
            "exclude": ["*_roles.csv"],
        }
    ]
    mirror.config["mirror"] = {"keep_archive": True}

    await mirror.sync()

    names = {path.name for path in mirror.snapshot_of(job).iterdir()}
    assert names == {"admin_users.csv", "autodesk_data_extract.zip", "SHA256SUMS", "_dcsync.json"}


@pytest.mark.parametrize(
    ("account", "wanted", "expected"),
    [
        ({"requests": ["Night*"]}, Wanted(), ["Nightly"]),
        ({}, Wanted(requests=("Week*",)), ["Weekly"]),
        ({"start": "2026-11-22"}, Wanted(), ["Weekly"]),
    ],
)
async def test_a_run_can_be_limited(
    mirror: Mirror, account: dict[str, Any], wanted: Wanted, expected: list[str]
) -> None:
    nightly, weekly = mirror.world.add_request("Nightly"), mirror.world.add_request("Weekly")
    add_extract(mirror, tables(1), request=nightly, days_ago=1)
    add_extract(mirror, tables(1), request=weekly)
    mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id, **account}]

    await mirror.sync(wanted=wanted)

    assert [sidecar(snapshot)["request"]["description"] for snapshot in mirror.snapshots()] == expected


async def test_one_job_can_be_asked_for(mirror: Mirror) -> None:
    add_extract(mirror, tables(1), days_ago=1)
    job = add_extract(mirror, tables(1))

    outcome = await mirror.sync_one(wanted=Wanted(jobs=(job,)))

    assert [published.job for published in outcome.published] == [job]


async def test_projects_are_asked_for_one_by_one(mirror: Mirror) -> None:
    request = mirror.world.add_request("Tower B", project_id="3f3a1f0a-0000-4000-8000-000000000001")
    job = add_extract(mirror, tables(1), request=request)
    mirror.config["account"] = [
        {"name": "acme", "id": mirror.world.hub_id, "projects": ["3f3a1f0a-0000-4000-8000-000000000001"]}
    ]

    await mirror.sync()

    mirror.assert_identical(job)
    (call,) = [call for call in mirror.sandbox.calls if call.path.endswith("/jobs")]
    assert call.query["projectId"] == "3f3a1f0a-0000-4000-8000-000000000001"
    assert call.query["sort"] == "desc"


async def test_an_extract_that_will_expire_is_shouted_about_and_one_that_expired_is_a_loss(mirror: Mirror) -> None:
    add_extract(mirror, tables(1), days_ago=29)
    gone = add_extract(mirror, tables(1, seed=1), days_ago=31)

    outcome = await mirror.sync_one()

    assert len(outcome.expiring) == 2
    assert [(failed.job, failed.state) for failed in outcome.failed] == [(gone, JobState.EXPIRED)]
    assert "cannot be had any more" in outcome.failed[0].hint
    assert "again for a day" not in outcome.failed[0].hint
    # Said once: the next run is silent about it.
    assert not (await mirror.sync_one()).failed


# --- bad answers of the API -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b'[{"name": "", "size": 1}]', "no name"),
        (b'[{"name": null, "size": 1}]', "no name"),
        (b'[{"name": "a.csv", "size": -1}]', "a.csv"),
        (b'[{"name": "a.csv", "size": "many"}]', "many"),
        (b'[{"name": "a.csv", "size": 1}, {"name": "a.csv", "size": 2}]', "twice"),
        (b'{"files": []}', "not an array"),
        (b"[]", "empty"),
        (b"[1]", "not an object"),
    ],
)
async def test_a_listing_that_cannot_be_mirrored_is_named_and_nothing_is_published(
    mirror: Mirror, body: bytes, word: str
) -> None:
    add_extract(mirror, tables(1))
    mirror.sandbox.faults.add(Fault(server="api", kind="json", body=body, match="/data-listing", times=None))

    outcome = await mirror.sync_one()

    (failed,) = outcome.failed
    assert failed.code == "L-LISTING"
    assert word in failed.message
    assert failed.hint
    assert mirror.visible() == []


async def test_html_with_status_200_stops_the_account_and_shows_how_it_begins(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    page = b"<html><title>Corporate proxy login</title></html>"
    mirror.sandbox.faults.add(Fault(server="api", kind="json", body=page, times=None))

    outcome = await mirror.sync_one()

    assert outcome.error is not None
    assert outcome.error.code == "A-ANSWER"
    assert "Corporate proxy login" in outcome.error.message
    assert outcome.exit_status is ExitStatus.INCOMPLETE
    assert mirror.visible() == []


async def test_a_missing_listing_is_looked_for_a_day_and_then_set_aside(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/data-listing", times=None))

    first = await mirror.sync_one()
    mirror.clock.advance(12 * 3600)
    second = await mirror.sync_one()
    mirror.clock.advance(13 * 3600)
    third = await mirror.sync_one()

    assert [outcome.failed[0].state for outcome in (first, second, third)] == [
        JobState.FAILED,
        JobState.FAILED,
        JobState.QUARANTINED,
    ]
    assert first.failed[0].code == "L-MISSING"
    assert "looks again for a day" in first.failed[0].hint
    assert "not tried again unless you ask" in third.failed[0].hint
    # Set aside is not forgotten, as long as the server has it.
    assert (await mirror.sync_one()).given_up == 1
    mirror.clock.advance(30 * 86400)
    mirror.environ["TOKEN"] = mirror.sandbox.tokens.issue_access_token("tester")
    assert (await mirror.sync_one()).given_up == 0


async def test_a_failed_job_waits_for_its_time(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/data-listing"))
    await mirror.sync()
    before = mirror.sandbox.count()

    outcome = await mirror.sync_one()

    assert outcome.due_later == 1
    assert outcome.exit_status is ExitStatus.INCOMPLETE
    assert mirror.sandbox.count() - before == 1


async def test_a_wrong_token_asks_for_a_login(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    mirror.environ["TOKEN"] = "not a token that anybody issued"

    outcome = await mirror.sync_one()

    assert outcome.exit_status is ExitStatus.LOGIN_REQUIRED
    assert mirror.sandbox.count("api") == 1


async def test_an_account_that_may_not_be_seen_does_not_hold_up_the_others(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    other = "b.00000000-0000-4000-8000-000000000000"
    mirror.config["account"] = [{"name": "foreign", "id": other}, {"name": "acme", "id": mirror.world.hub_id}]

    foreign, own = await mirror.sync()

    assert foreign.exit_status is ExitStatus.PERMISSION_DENIED
    assert foreign.error is not None
    assert "No access to this account" in foreign.error.message
    assert [published.job for published in own.published] == [job]
    assert exit_status([foreign, own]) is ExitStatus.PERMISSION_DENIED


async def test_an_api_that_is_down_ends_the_account_and_is_asked_again_next_time(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=503, body=b"<h1>Busy</h1>", times=5))

    outcome = await mirror.sync_one()
    assert outcome.error is not None
    assert outcome.error.code == "A-SERVER"

    await mirror.sync()
    mirror.assert_identical(job)


async def test_a_listing_that_is_empty_at_once_deletes_nothing(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    await mirror.sync()
    body = b'{"pagination": {"limit": 100, "offset": 0, "totalResults": 0}, "results": []}'
    mirror.sandbox.faults.add(Fault(server="api", kind="json", body=body, times=None))

    outcome = await mirror.sync_one()

    assert outcome.exit_status is ExitStatus.DONE
    mirror.assert_identical(job)


# --- names (rule N) ---------------------------------------------------------------------------------------------------


async def test_names_that_no_disk_should_see_are_saved_under_safe_ones(mirror: Mirror) -> None:
    files = {
        "../../etc/passwd": b"1",
        "a/b.csv": b"2",
        "CON.csv": b"3",
        "_DCSYNC.json": b"4",
        "sha256sums": b"5",
        "trailing.": b"6",
        "bidi\u202etxt.csv": b"7",
        "Readme.csv": b"8",
        "README.csv": b"9",
        "line\nbreak.csv": b"10",
        "50%.csv": b"11",
        "ok-(1)+'&.csv": b"12",
        "x" * 250 + ".csv": b"13",
    }
    job = add_extract(mirror, files)

    await mirror.sync()

    mirror.assert_identical(job)
    assert_proved_by_sums(mirror.snapshot_of(job))
    names = {entry["original"]: entry["name"] for entry in sidecar(mirror.snapshot_of(job))["files"]}
    assert names["../../etc/passwd"] == "..%2F..%2Fetc%2Fpasswd"
    assert names["50%.csv"] == "50%.csv"
    assert names["ok-(1)+'&.csv"] == "ok-(1)+'&.csv"
    assert names["README.csv"] == "README.csv"
    assert names["Readme.csv"].startswith("Readme~")
    assert not (mirror.folder / "etc").exists()


async def test_names_that_end_in_part_are_files_like_any_other(mirror: Mirror) -> None:
    files = {"x.csv": b"A" * 700_000, "x.csv.part": b"B" * 3000, "y.csv": b"c" * 600_000, "y.csv.part": b"D" * 700_000}
    job = add_extract(mirror, files)
    # The others are whole while these two are half here.
    for name in ("x.csv", "y.csv"):
        mirror.sandbox.faults.add(Fault(server="storage", kind="cut", amount=300_000, match=f"{name}$"))
        mirror.sandbox.faults.add(Fault(server="storage", kind="slow", amount=2_000_000, match=f"{name}$"))

    await mirror.sync()

    mirror.assert_identical(job)
    assert_proved_by_sums(mirror.snapshot_of(job))


# --- being cut short --------------------------------------------------------------------------------------------------


class Cancelling(NullObserver):
    """Cancels the test's own task, as a signal does, once so much has come."""

    def __init__(self, *, after_files: int | None = None, after_bytes: int | None = None) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.done = self.received = 0
        self._after_files, self._after_bytes = after_files, after_bytes

    def file_done(self, job: JobId, name: str) -> None:
        self.done += 1
        if self.done == self._after_files:
            self.task.cancel()

    def file_advanced(self, job: JobId, name: str, size: int) -> None:
        self.received += size
        if self._after_bytes is not None and self.received > self._after_bytes:
            self.task.cancel()


async def test_a_cancelled_run_keeps_what_is_whole_and_the_next_one_fetches_the_rest(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(30))
    mirror.config["transfer"] = {"concurrency": 2}

    cancelling = Cancelling(after_files=10)
    with pytest.raises(asyncio.CancelledError):
        await mirror.sync(observer=cancelling)
    cancelling.task.uncancel()
    assert mirror.visible() == []
    signed_before = mirror.sandbox.count("api", path_contains="/data/")

    await mirror.sync()

    mirror.assert_identical(job)
    signed_after = mirror.sandbox.count("api", path_contains="/data/") - signed_before
    assert signed_after <= 30 - cancelling.done


async def test_a_file_that_was_half_here_goes_on_in_the_next_run(mirror: Mirror) -> None:
    job = add_extract(mirror, {"forms_forms.csv": Synthetic(6 * MIB)})

    cancelling = Cancelling(after_bytes=4 * MIB)
    with pytest.raises(asyncio.CancelledError):
        await mirror.sync(observer=cancelling)
    cancelling.task.uncancel()

    await mirror.sync()

    mirror.assert_identical(job)
    resumed = [call.headers["range"] for call in mirror.sandbox.calls if "range" in call.headers]
    assert len(resumed) == 1
    assert int(resumed[0].removeprefix("bytes=").rstrip("-")) >= 3 * MIB


async def test_a_damaged_file_in_the_staging_is_not_believed(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(3))
    mirror.sandbox.faults.add(Fault(server="storage", kind="expired", match="table_002", times=9))
    await mirror.sync()
    (staged,) = (mirror.root / ".dcsync/staging").rglob("admin_table_000.csv")
    staged.chmod(0o644)
    staged.write_bytes(b"x" * staged.stat().st_size)
    mirror.clock.advance(7 * 3600)

    await mirror.sync()

    mirror.assert_identical(job)


async def test_an_unfinished_file_that_was_linked_after_all_is_not_published(mirror: Mirror) -> None:
    files = {f"t{n}.csv": b"%d," % n * 3000 for n in range(4)} | {"large.csv": b"yesterday" * MIB}
    add_extract(mirror, files, days_ago=1, with_archive=True)
    await mirror.sync()
    mirror.config["mirror"] = {"strategy": "files"}
    job = add_extract(mirror, {**files, "large.csv": b"different" * MIB}, with_archive=True)
    cancelling = Cancelling(after_bytes=4 * MIB)
    with pytest.raises(asyncio.CancelledError):
        await mirror.sync(observer=cancelling)
    cancelling.task.uncancel()
    assert list((mirror.root / ".dcsync/staging").rglob("large.csv.part"))
    mirror.world.replace_file(job, "large.csv", files["large.csv"])
    mirror.world.replace_file(job, ARCHIVE, make_zip(files))
    mirror.config["mirror"] = {"strategy": "archive"}

    await mirror.sync()

    mirror.assert_identical(job)
    hows = {entry["name"]: entry["how"] for entry in sidecar(mirror.snapshot_of(job))["files"]}
    assert hows["large.csv"] == "linked"


async def test_a_member_that_no_later_plan_wants_is_not_published(mirror: Mirror) -> None:
    files = {f"t{n}.csv": b"%d," % n * 3000 for n in range(5)}
    job = add_extract(mirror, {**files, "extra.csv": b"not in the archive", ARCHIVE: make_zip({**files, "s/a": b"a"})})
    mirror.sandbox.faults.add(Fault(server="storage", kind="status", match=r"extra\.csv", times=None))
    assert (await mirror.sync_one()).failed
    assert list((mirror.root / ".dcsync/staging").rglob("s%*a"))
    mirror.sandbox.faults.clear()
    # Without the archive nothing says what it is.
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match=ARCHIVE, times=None))
    mirror.clock.advance(7 * 3600)

    await mirror.sync()

    mirror.assert_identical(job)
    assert not list(mirror.snapshot_of(job).rglob("*~*"))
    assert_proved_by_sums(mirror.snapshot_of(job))


async def test_what_the_configuration_excludes_by_now_is_not_published(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(3))
    mirror.sandbox.faults.add(Fault(server="storage", kind="status", match="table_002", times=None))
    assert (await mirror.sync_one()).failed
    mirror.sandbox.faults.clear()
    mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id, "exclude": ["*_000.csv"]}]
    mirror.clock.advance(7 * 3600)

    await mirror.sync()

    snapshot = mirror.snapshot_of(job)
    names = {"admin_table_001.csv", "admin_table_002.csv", "SHA256SUMS", "_dcsync.json"}
    assert {path.name for path in snapshot.iterdir()} == names
    assert_proved_by_sums(snapshot)


# --- disk -------------------------------------------------------------------------------------------------------------


async def test_a_snapshot_that_does_not_fit_is_not_begun_and_a_smaller_one_is(mirror: Mirror) -> None:
    free = os.statvfs(mirror.root)
    huge = add_extract(mirror, {"huge.csv": Synthetic(free.f_bavail * free.f_frsize)}, days_ago=1)
    small = add_extract(mirror, tables(1))
    # An MD5 of so many bytes would take its time.
    mirror.world.jobs[huge].listing = [{"name": "huge.csv", "size": free.f_bavail * free.f_frsize}]

    outcome = await mirror.sync_one()

    (failed,) = outcome.failed
    assert failed.code == "F-SPACE"
    assert "bytes are needed" in failed.message
    assert [published.job for published in outcome.published] == [small]
    assert mirror.sandbox.count("storage") == 1


async def test_something_else_in_a_snapshot_s_place_is_never_overwritten(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    await mirror.sync_one(dry_run=True)
    (planned,) = (await mirror.sync_one(dry_run=True)).planned
    place = mirror.root / planned.folder
    place.mkdir(parents=True)
    (place / "mine.txt").write_text("keep me")

    await mirror.sync()

    assert (place / "mine.txt").read_text() == "keep me"
    assert [path.name for path in place.iterdir()] == ["mine.txt"]
    # The job got a longer name instead.
    mirror.assert_identical(job)


# --- secrets ----------------------------------------------------------------------------------------------------------


async def test_no_token_and_no_signature_reaches_any_log_or_file(
    mirror: Mirror, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """FAULTS S: also where things go wrong."""
    seed = mirror.sandbox.tokens.issue_refresh_token("tester")
    mirror.environ["SEED"] = seed
    mirror.config["auth"] = {
        "method": "token",
        "client_id": "sandbox",
        "client_secret": "sandbox-secret",
        "refresh_token": "env:SEED",
    }
    add_extract(mirror, tables(3))
    for kind in ("reset", "cut", "expired", "status", "short"):
        mirror.sandbox.faults.add(Fault(server="storage", kind=kind, amount=10, status=500, times=2))
    stream = io.StringIO()
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    configure("debug", "json", stream=stream)
    try:
        outcome = await mirror.sync_one()
    finally:
        structlog.reset_defaults()
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)

    secrets = {seed, "sandbox-secret", *mirror.sandbox.tokens.live_refresh_tokens}
    secrets |= {
        call.headers["authorization"].removeprefix("Bearer ")
        for call in mirror.sandbox.calls
        if "authorization" in call.headers
    }
    signed = [call.query for call in mirror.sandbox.calls if call.server == "storage"]
    assert signed
    for query in signed:
        secrets |= {query["Signature"], query["x-amz-security-token"]}
    texts = {"log": stream.getvalue(), "caplog": caplog.text, "output": "".join(capsys.readouterr())}
    texts["outcome"] = repr(outcome)
    for path in [*mirror.state.iterdir(), *mirror.root.rglob("*")]:
        if path.is_file() and not path.name.startswith("token"):
            texts[str(path)] = path.read_bytes().decode("latin-1")
    assert "progress" in texts["log"] or "snapshot" in texts["log"] or "could not be fetched" in texts["log"]
    for where, text in texts.items():
        for secret in secrets:
            assert secret not in text, where


def make_outcome(**changes: Any) -> AccountOutcome:
    return AccountOutcome(account=AccountSettings(name=AccountName("acme"), id=AccountId("x")), **changes)


def test_the_status_of_a_run_is_that_of_the_account_that_needs_a_person_soonest() -> None:
    done, later = make_outcome(), make_outcome(due_later=1)
    login = make_outcome(error=LoginRequired("x"))
    denied, unsafe = make_outcome(error=AccessRefused("x")), make_outcome(error=MirrorNotMounted("x"))

    assert exit_status([]) is ExitStatus.DONE
    assert exit_status([done]) is ExitStatus.DONE
    assert exit_status([done, later]) is ExitStatus.INCOMPLETE
    assert exit_status([later, denied]) is ExitStatus.PERMISSION_DENIED
    assert exit_status([login, denied]) is ExitStatus.LOGIN_REQUIRED
    assert exit_status([login, unsafe]) is ExitStatus.UNSAFE


async def test_a_bug_that_one_job_meets_is_quarantined_after_three_runs_and_the_others_go_on(mirror: Mirror) -> None:
    """FAULTS D13."""
    poison = add_extract(mirror, tables(2), days_ago=2)
    good = add_extract(mirror, tables(2, seed=1), days_ago=1)

    class Broken(NullObserver):
        def job_started(self, account: AccountName, job: JobId, label: str, *, files: int, size: int) -> None:
            if job == poison:
                message = "a secret"
                raise RuntimeError(message)

    outcomes = []
    for _ in range(3):
        outcomes.append(await mirror.sync_one(observer=Broken()))
        mirror.clock.advance(7 * 3600)
    calls_before = len(mirror.sandbox.calls)
    last = await mirror.sync_one(observer=Broken())

    assert [outcome.failed[0].state for outcome in outcomes] == [
        JobState.FAILED,
        JobState.FAILED,
        JobState.QUARANTINED,
    ]
    assert {outcome.exit_status for outcome in outcomes} == {ExitStatus.BUG}
    assert outcomes[0].failed[0].message == "an unexpected RuntimeError; the log has where it came up"
    assert mirror.snapshots() == [mirror.snapshot_of(good)]
    assert len(mirror.sandbox.calls) - calls_before == 1
    assert (last.failed, last.given_up) == ([], 1)


async def test_a_new_token_that_the_disk_refuses_is_saved_before_the_run_ends(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS rule T: one run by a timer has no next chance, and the token before is spent."""
    mirror.config["auth"] = {"method": "login", "client_id": "sandbox", "client_secret": "sandbox-secret"}
    mirror.state.mkdir()
    store = TokenStore(mirror.state)
    store.save(TokenPair(refresh_token=mirror.sandbox.tokens.issue_refresh_token("anna")))
    save, refused = TokenStore.save, list[TokenPair]()

    def refuse_once(self: TokenStore, pair: TokenPair) -> None:
        if not refused:
            refused.append(pair)
            message = "writing the token store failed: Input/output error"
            raise TokenStoreUnusable(message)
        save(self, pair)

    monkeypatch.setattr(TokenStore, "save", refuse_once)
    outcome = await mirror.sync_one()

    assert isinstance(outcome.error, TokenStoreUnusable)
    stored = store.read()
    assert stored is not None
    assert {stored.refresh_token} == mirror.sandbox.tokens.live_refresh_tokens
    assert (await mirror.sync_one()).error is None
    assert mirror.sandbox.tokens.refresh_count == 1


async def test_two_accounts_with_one_id_do_not_meet_in_the_staging(mirror: Mirror) -> None:
    """One company twice, with other files of the same extract each: neither touches what the other has staged."""
    hub = mirror.world.hub_id
    mirror.config["account"] = [
        {"name": "all", "id": hub},
        {"name": "users-only", "id": hub, "include": ["admin_users*"]},
    ]
    files = {**tables(6), "admin_users.csv": b"id\n1\n"}
    for day in range(2):
        add_extract(mirror, {**files, "new.csv": b"%d" % day}, days_ago=2 - day)
    mirror.sandbox.faults.add(Fault(server="storage", kind="delay", seconds=0.2, times=None))

    outcomes = await mirror.sync()

    assert [(outcome.error, outcome.failed) for outcome in outcomes] == [(None, []), (None, [])]
    assert [len(outcome.published) for outcome in outcomes] == [2, 2]
    for name, count in (("all", 8), ("users-only", 1)):
        folders = sorted(path.parent for path in mirror.root.glob(f"{name}/*/[0-9]*/**/_dcsync.json"))
        assert [len(list(folder.glob("*.csv"))) for folder in folders] == [count, count]
        for folder in folders:
            assert_proved_by_sums(folder)
            assert sidecar(folder)["account"]["name"] == name
    assert list((mirror.root / ".dcsync/staging").iterdir()) == []
