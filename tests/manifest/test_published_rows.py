"""What an account's events need: its published snapshots by time, its data requests, and its sums."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, DataRequest, JobId, RequestId
from dcsync.core.ports import KnownJob, KnownRequest
from dcsync.manifest import SqlManifest, Sums, open_manifest
from tests.fakes import NOON, REQUEST_ID, make_job, make_published, make_request, make_snapshot, make_transfer
from tests.rigs.sqlite import downgrade

ACME, BETA = AccountName("acme"), AccountName("beta")
MINUTE = timedelta(minutes=1)
LONG_AGO = NOON - timedelta(days=1000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "manifest.sqlite"


@pytest.fixture
async def manifest(path: Path) -> AsyncIterator[SqlManifest]:
    async with open_manifest(path) as opened:
        yield opened


async def publish(manifest: SqlManifest, job: str, at: datetime = NOON, *, account: AccountName = ACME) -> None:
    known = KnownJob(job=make_job(id=JobId(job)), state=JobState.SEEN)
    await manifest.record_poll(account, jobs=[known], requests=[], at=NOON)
    transfer = make_transfer(calls=3, fetched_bytes=80, linked_bytes=7)
    record = make_published(job, folder=f"{account}/{job}", at=at, transfer=transfer)
    await manifest.publish(account, record, make_snapshot().files)


def make_known_request(identifier: str = REQUEST_ID) -> KnownRequest:
    return KnownRequest(id=RequestId(identifier), description="Nightly", slug="nightly", is_delta=False)


async def test_snapshots_after_a_time_come_in_the_order_of_publishing(manifest: SqlManifest) -> None:
    await publish(manifest, "b", NOON + MINUTE)
    await publish(manifest, "c", NOON + MINUTE)
    await publish(manifest, "a", NOON + 2 * MINUTE)
    await publish(manifest, "old", NOON)
    await publish(manifest, "others", NOON + MINUTE, account=BETA)

    assert [row.job for row in await manifest.history.published_after(ACME, NOON)] == ["b", "c", "a"]
    assert [row.job for row in await manifest.history.published_after(ACME, NOON - timedelta(microseconds=1))] == [
        "old",
        "b",
        "c",
        "a",
    ]
    assert await manifest.history.published_after(ACME, NOON + 2 * MINUTE) == ()


async def test_a_snapshot_that_is_asked_for_by_id_is_there_whenever_it_was_published(manifest: SqlManifest) -> None:
    await publish(manifest, "a")
    await publish(manifest, "b")
    await publish(manifest, "others", account=BETA)

    assert [row.job for row in await manifest.history.published_after(ACME, NOON, also=["a", "others", "no"])] == ["a"]


async def test_a_snapshot_is_described_even_when_its_data_request_is_unknown(manifest: SqlManifest) -> None:
    await publish(manifest, "a")
    (before,) = await manifest.history.published_after(ACME, LONG_AGO)
    await manifest.record_poll(ACME, jobs=[], requests=[(make_known_request(), None)], at=NOON)

    (row,) = await manifest.history.published_after(ACME, LONG_AGO)

    assert (before.description, row.description) == ("", "Nightly")
    assert (row.request, row.folder, row.completed_at) == (REQUEST_ID, "acme/a", NOON)
    assert (row.published_at, row.fetched_bytes, row.linked_bytes) == (NOON, 80, 7)


async def test_a_job_whose_folder_is_gone_is_not_a_snapshot(manifest: SqlManifest) -> None:
    await publish(manifest, "a")
    await manifest.move(ACME, JobId("a"), JobState.SEEN, at=NOON)

    assert await manifest.history.published_after(ACME, LONG_AGO, also=["a"]) == ()


async def test_data_requests_are_returned_as_the_api_last_described_them(manifest: SqlManifest) -> None:
    other = RequestId("0b5f0a52-0000-4000-8000-000000000002")
    first = make_request(schedule_interval="DAY", effective_from=NOON, extra={"new": [1]})
    await manifest.record_poll(
        ACME, jobs=[], requests=[(make_known_request(), first), (make_known_request(other), None)], at=NOON
    )
    assert await documents(manifest) == {REQUEST_ID: first, other: None}
    assert await manifest.requests(BETA) == {}

    changed = make_request(schedule_interval="WEEK", is_active=False)
    await manifest.record_poll(ACME, jobs=[], requests=[(make_known_request(), changed)], at=NOON)
    # Without a description the last one stays.
    await manifest.record_poll(ACME, jobs=[], requests=[(make_known_request(), None)], at=NOON)

    assert await documents(manifest) == {REQUEST_ID: changed, other: None}


async def documents(manifest: SqlManifest) -> dict[RequestId, DataRequest | None]:
    return {request: known.document for request, known in (await manifest.requests(ACME)).items()}


async def test_sums_include_all_snapshots_of_an_account_even_pruned_ones(manifest: SqlManifest) -> None:
    assert await manifest.sums(ACME) == Sums()
    for job in ("a", "b"):
        await publish(manifest, job)
    await publish(manifest, "c", account=BETA)
    await manifest.move(ACME, JobId("a"), JobState.PRUNED, at=NOON)
    await manifest.record_poll(
        ACME, jobs=[KnownJob(job=make_job(id=JobId("d")), state=JobState.SEEN)], requests=[], at=NOON
    )

    assert await manifest.sums(ACME) == Sums(snapshots=2, calls=6, fetched_bytes=160, linked_bytes=14)


async def test_a_reader_can_ask_whether_the_schema_is_current(path: Path) -> None:
    async with open_manifest(path) as manifest:
        assert await manifest.is_current()
    downgrade(path, "0002")

    async with open_manifest(path, read_only=True) as manifest:
        assert not await manifest.is_current()
