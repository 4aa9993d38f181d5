"""Which jobs a run mirrors, in which order, and the exit status it asks for."""

from __future__ import annotations

from typing import Any

import pytest

from dcsync.core.lifecycle import LOSS_HINTS, JobState
from dcsync.core.model import AccountId, AccountName, JobId
from dcsync.errors import (
    AccessRefused,
    ExitStatus,
    LoginRequired,
    MirrorNotMounted,
)
from dcsync.ops.context import AccountSettings
from dcsync.ops.mirroring.outcome import AccountOutcome, Wanted, exit_status
from dcsync.sandbox import Fault
from tests.rigs.mirror import (
    Mirror,
    add_extract,
    assert_proved_by_sums,
    sidecar,
    tables,
)


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
    # The last one has a status that nobody knows.
    assert (outcome.waiting, outcome.unclear) == (3, 1)
    assert outcome.exit_status is ExitStatus.INCOMPLETE
    # That of the mirrored job, and the question whether the last one has any.
    assert mirror.sandbox.count("api", path_contains="/data-listing") == 2


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
    # The listing and a signed URL, each job for itself. No time passes here.
    assert [(published.transfer.calls, published.transfer.seconds) for published in outcome.published] == [(2, 0.0)] * 3
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


async def test_an_extract_that_nears_its_end_is_reported_and_one_that_expired_is_a_loss(mirror: Mirror) -> None:
    gone = add_extract(mirror, tables(1, seed=1), days_ago=29)
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match=f"{gone}/data-listing", times=None))
    await mirror.sync()
    # The operator asks for it again, two days later.
    async with mirror.opened() as context:
        await context.manifest.move(mirror.acme, JobId(gone), JobState.SEEN, at=mirror.clock.now())
    mirror.clock.advance(2 * 86400)
    add_extract(mirror, tables(1), days_ago=29)

    outcome = await mirror.sync_one()

    assert len(outcome.expiring) == 2
    assert [(failed.job, failed.state) for failed in outcome.failed] == [(gone, JobState.EXPIRED)]
    assert outcome.failed[0].hint == LOSS_HINTS[JobState.EXPIRED]
    # Reported once: the next run is silent about it.
    assert not (await mirror.sync_one()).failed


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
