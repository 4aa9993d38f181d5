"""A manifest copied whole: from a file to PostgreSQL and back it is the same, and a damaged one is not copied."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dcsync.cluster.database import parse_database
from dcsync.cluster.manifest import open_shared_manifest
from dcsync.core.events import Event, EventKind
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.core.ports import AccountFacts, KnownJob
from dcsync.core.table import TableFacts
from dcsync.errors import ManifestCorrupt
from dcsync.manifest import HookRuns, SqlManifest, StandingAlerts, StoredValues, open_manifest
from dcsync.manifest.copy import copy_rows, move_out
from dcsync.manifest.schema import OF_HOSTS, metadata
from tests.fakes import JOB_ID, NOON, make_job, make_request, make_stored, make_transfer
from tests.rigs.manifests import make_known_request, make_publication

ACME = AccountName("acme")
COPIED = [table for table in metadata.sorted_tables if table.name not in OF_HOSTS and table.name != "meta"]


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[SqlManifest]:
    async with open_manifest(tmp_path / "manifest.sqlite") as manifest:
        yield manifest


@pytest.fixture
async def shared(database: str) -> AsyncIterator[SqlManifest]:
    async with open_shared_manifest(parse_database(database)) as manifest:
        yield manifest


async def fill(manifest: SqlManifest, jobs: int = 3) -> None:
    """Put something into every table."""
    known = [KnownJob(job=make_job(id=JobId(f"job-{number}")), state=JobState.SEEN) for number in range(jobs)]
    requests = [(make_known_request(), make_request())]
    await manifest.record_poll(ACME, jobs=known, requests=requests, at=NOON)
    await manifest.learn(ACME, AccountFacts(bytes_per_second=1 / 3, etag_is_md5=True))
    names = ["b.csv", "B-a.csv", "ä.csv", "a_b.csv", "ab.csv", "a-c.csv"]
    files = tuple(make_stored(name, inode=2**64 - 1, table=TableFacts(header=(name,), rows=2)) for name in names)
    await manifest.publish(
        ACME, *make_publication(JobId("job-0"), "acme/0", files=files, transfer=make_transfer(seconds=0.1 + 0.2))
    )
    await manifest.move(ACME, JobId("job-1"), JobState.FAILED, at=NOON, attempts=2, reason_code="A", reason="ä\n")
    await manifest.record_run(
        ACME,
        started_at=NOON,
        ended_at=NOON,
        published=1,
        failed=1,
        calls=3,
        fetched_bytes=2**40,
        linked_bytes=0,
        error_code=None,
    )
    event = Event(kind=EventKind.SNAPSHOT, account="acme", at=NOON, message="new", job="job-0")
    await StandingAlerts(manifest).settle([], standing=[], hooks=[(("true",), event)], values={"told:acme": "x"})
    await manifest.set_instance("before")


async def content(manifest: SqlManifest) -> dict[str, Any]:
    async with manifest.reading() as connection:
        return {table.name: sorted(map(repr, (await connection.execute(sa.select(table))).all())) for table in COPIED}


async def test_there_and_back_every_row_is_the_same_with_its_digest(
    tmp_path: Path, file: SqlManifest, shared: SqlManifest
) -> None:
    await fill(file)
    before = await content(file)

    assert await copy_rows(file, shared, instance="there") == 3
    assert await content(shared) == before
    assert await shared.instance() == "there"
    assert await StoredValues(shared).load("told:acme") == "x"

    async with open_manifest(tmp_path / "back.sqlite") as back:
        await copy_rows(shared, back, instance="back")
        assert await content(back) == before
    # Opening it compares every row with its digest.
    async with open_manifest(tmp_path / "back.sqlite") as back:
        assert await back.instance() == "back"
    assert await file.instance() == "before"


async def test_the_copy_goes_on_counting_where_the_original_was(file: SqlManifest, shared: SqlManifest) -> None:
    await fill(file)
    await copy_rows(file, shared, instance="there")

    await fill_more(shared)

    hooks = await HookRuns(shared).latest()
    assert [hook.id for hook in hooks] == [2, 1]


async def fill_more(manifest: SqlManifest) -> None:
    event = Event(kind=EventKind.SNAPSHOT, account="acme", at=NOON, message="new", job="job-1")
    await HookRuns(manifest).add([(("true",), event)])


async def test_what_was_there_is_replaced(file: SqlManifest, shared: SqlManifest) -> None:
    await fill(shared, jobs=5)
    await fill(file, jobs=2)

    await copy_rows(file, shared, instance="there")

    assert await content(shared) == await content(file)


@pytest.mark.parametrize("which", ["file", "shared"])
async def test_a_damaged_manifest_is_not_copied_and_the_target_stays(
    file: SqlManifest, shared: SqlManifest, which: str
) -> None:
    source, target = (file, shared) if which == "file" else (shared, file)
    await fill(source)
    async with source.writing() as connection:
        await connection.execute(sa.text("UPDATE content SET size = size + 1 WHERE name = 'b.csv'"))

    with pytest.raises(ManifestCorrupt, match="the manifest to copy is damaged"):
        await copy_rows(source, target, instance="there")

    assert await target.jobs(ACME) == {}
    assert await target.instance() is None


async def test_a_manifest_that_is_moved_out_is_whole_in_the_file_and_gone_from_the_database(
    tmp_path: Path, shared: SqlManifest
) -> None:
    await fill(shared)
    before = await content(shared)

    await move_out(shared, tmp_path / "out.sqlite")

    async with open_manifest(tmp_path / "out.sqlite") as out:
        assert await content(out) == before
    assert await shared.jobs(ACME) == {}
    assert await shared.instance() == "before"
    assert JOB_ID not in await shared.jobs(ACME)
