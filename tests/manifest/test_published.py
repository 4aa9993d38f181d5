"""Looking back: what the manifest tells of published snapshots and their tables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId, RequestId, StoredFile
from dcsync.core.ports import KnownJob
from dcsync.core.summary import PastSnapshot, Summary
from dcsync.core.table import TableFacts
from dcsync.manifest import SqlManifest, open_manifest
from dcsync.manifest.schema import job as job_table
from tests.fakes import NOON, REQUEST_ID, make_published, make_stored, make_transfer

ACME = AccountName("acme")
OTHER = RequestId("other")
IDS = TableFacts(header=("id",), rows=1)


@pytest.fixture
async def manifest(tmp_path: Path) -> AsyncIterator[SqlManifest]:
    async with open_manifest(tmp_path / "manifest.sqlite") as opened:
        yield opened


async def publish(
    manifest: SqlManifest,
    job: str,
    *files: StoredFile,
    days_ago: float | None = 0,
    request: RequestId = REQUEST_ID,
    summary: Summary | None = None,
    folder: str | None = None,
) -> None:
    completed_at = None if days_ago is None else NOON - timedelta(days=days_ago)
    transfer = make_transfer(fetched_bytes=7)
    record = make_published(
        job,
        folder=folder or f"acme/{job}",
        request_id=request,
        completed_at=completed_at,
        transfer=transfer,
        summary=summary or Summary(files=0, size=0),
    )
    await manifest.record_poll(ACME, jobs=[KnownJob(job=record.job, state=JobState.SEEN)], requests=[], at=NOON)
    await manifest.publish(ACME, record, files)
    if summary is None:
        # As a version that kept no summaries left it.
        async with manifest.writing() as connection:
            await connection.execute(sa.update(job_table).where(job_table.c.id == job).values(summary=None))


async def past(manifest: SqlManifest) -> list[PastSnapshot]:
    return list(await manifest.history.snapshots(ACME))


async def test_what_is_known_of_a_table_is_read_back_with_its_snapshot(manifest: SqlManifest) -> None:
    files = (
        make_stored("a.csv", table=TableFacts(header=("id", "Größe\n"), rows=1 << 40)),
        make_stored("b.csv", table=TableFacts(header=(), rows=None, is_cut=True)),
        make_stored("c.html"),
    )
    await publish(manifest, "one", *files)

    snapshot = await manifest.history.snapshot(ACME, JobId("one"))

    assert snapshot is not None
    assert snapshot.files == files
    assert await manifest.snapshot_before(ACME, REQUEST_ID, None) == snapshot


async def test_a_header_is_kept_once_and_a_cut_one_is_another(manifest: SqlManifest) -> None:
    for job in ("one", "two"):
        await publish(
            manifest,
            job,
            make_stored("a.csv", table=IDS),
            make_stored("b.csv", table=IDS),
            make_stored("c.csv", table=TableFacts(header=("id",), rows=1, is_cut=True)),
        )

    async with manifest.reading() as connection:
        assert await connection.scalar(sa.text("SELECT count(*) FROM header")) == 2


async def test_publishing_twice_and_at_once_keeps_a_header_once(manifest: SqlManifest) -> None:
    await publish(manifest, "one", make_stored("a.csv", table=IDS))
    async with asyncio.TaskGroup() as group:
        for job in ("two", "three", "four"):
            group.create_task(publish(manifest, job, make_stored("a.csv", table=TableFacts(header=("x",), rows=2))))

    assert len(await past(manifest)) == 4


async def test_snapshots_are_in_order_of_their_jobs_time_with_the_undated_first(manifest: SqlManifest) -> None:
    await publish(manifest, "new", days_ago=0)
    await publish(manifest, "undated", days_ago=None)
    await publish(manifest, "old", days_ago=9)

    assert [one.job for one in await past(manifest)] == ["undated", "old", "new"]


async def test_a_summary_is_kept_also_when_its_files_are_pruned(manifest: SqlManifest) -> None:
    summary = Summary(files=5, size=1 << 50, rows=3)
    await publish(manifest, "one", make_stored("a.csv", table=IDS), summary=summary)
    await manifest.move(ACME, JobId("one"), JobState.PRUNED, at=NOON)

    (found,) = await past(manifest)

    assert (found.is_pruned, found.summary, found.folder, found.fetched_bytes) == (True, summary, "acme/one", 7)
    assert await manifest.history.snapshot(ACME, JobId("one")) is None


async def test_a_snapshot_of_an_older_version_is_added_up(manifest: SqlManifest) -> None:
    await publish(manifest, "one", make_stored("a.csv", b"12345", table=IDS), make_stored("b.html", b"1"))
    await publish(manifest, "two", make_stored("a.csv", b"123"), days_ago=-1)
    await publish(manifest, "three", days_ago=-2)
    await publish(manifest, "four", make_stored("a.csv", b"1"), days_ago=-3, summary=Summary(files=9, size=9))

    assert [one.summary for one in await past(manifest)] == [
        Summary(files=2, size=6, rows=1),
        Summary(files=1, size=3),
        Summary(files=0, size=0),
        Summary(files=9, size=9),
    ]


async def test_tables_before_are_those_of_the_request_newest_first(manifest: SqlManifest) -> None:
    for days_ago in range(5):
        table = TableFacts(header=("id",), rows=days_ago)
        await publish(
            manifest, f"job-{days_ago}", make_stored("a.csv", table=table), make_stored("x.html"), days_ago=days_ago
        )
    await publish(manifest, "elsewhere", make_stored("a.csv", table=IDS), days_ago=1.5, request=OTHER)

    found = await manifest.history.tables_before(ACME, REQUEST_ID, NOON - timedelta(days=1), limit=2)
    undated = await manifest.history.tables_before(ACME, REQUEST_ID, None, limit=1)

    assert [one["a.csv"].rows for one in found if one["a.csv"] is not None] == [2, 3]
    assert [one.keys() for one in found] == [{"a.csv"}, {"a.csv"}]
    assert undated[0]["a.csv"] == TableFacts(header=("id",), rows=0)


async def test_row_counts_are_those_that_are_known_of_the_tables_asked_for(manifest: SqlManifest) -> None:
    await publish(manifest, "one", make_stored("a~1.csv", original="a.csv", table=IDS), make_stored("b.csv", table=IDS))
    await publish(manifest, "two", make_stored("a.csv"))

    found = await manifest.history.row_counts(ACME, [JobId("one"), JobId("two")], {"a.csv"})

    assert found == {"a.csv": {"one": 1}}


async def test_headers_are_all_that_a_table_ever_had(manifest: SqlManifest) -> None:
    longer = TableFacts(header=("id", "name"), rows=1)
    cut = TableFacts(header=("id",), rows=1, is_cut=True)
    await publish(manifest, "one", make_stored("a.csv", table=IDS), make_stored("b.csv", table=IDS))
    await publish(manifest, "two", make_stored("a.csv", table=longer), make_stored("b.csv", table=IDS))
    await publish(manifest, "three", make_stored("a.csv"), make_stored("c.csv", table=cut), make_stored("d.html"))
    await publish(manifest, "other", make_stored("a.csv", table=IDS), request=OTHER)
    await publish(manifest, "gone", make_stored("z.csv", table=IDS))
    await manifest.move(ACME, JobId("gone"), JobState.PRUNED, at=NOON)

    found = {key: set(headers) for key, headers in (await manifest.history.headers(ACME)).items()}

    assert found == {
        (REQUEST_ID, "a.csv"): {("id",), ("id", "name"), None},
        (REQUEST_ID, "b.csv"): {("id",)},
        (REQUEST_ID, "c.csv"): {None},
        (OTHER, "a.csv"): {("id",)},
    }


async def test_header_runs_say_from_which_folder_on_a_table_has_a_header(manifest: SqlManifest) -> None:
    longer = TableFacts(header=("id", "name"), rows=1)
    cut = TableFacts(header=("id",), rows=1, is_cut=True)
    facts = [IDS, IDS, longer, None, cut, IDS]
    for number, found in enumerate(facts):
        files = make_stored("a.csv", table=found), make_stored("b.csv", table=IDS)
        await publish(manifest, f"job-{number}", *files, folder=f"acme/x/2026/{number}")
    await publish(manifest, "moved", make_stored("a.csv", table=longer), folder="acme/elsewhere/2026/9")
    await publish(manifest, "other", make_stored("a.csv", table=longer), folder="acme/x/2026/9", request=OTHER)
    await publish(manifest, "gone", make_stored("a.csv", table=longer), folder="acme/x/2026/9z")
    await manifest.move(ACME, JobId("gone"), JobState.PRUNED, at=NOON)

    runs = await manifest.history.header_runs(ACME, ["a.csv", "z.csv"], {REQUEST_ID: "acme/x"})

    names = [("2026/0", ("id",)), ("2026/2", ("id", "name")), ("2026/3", None), ("2026/4", None), ("2026/5", ("id",))]
    assert runs == {(REQUEST_ID, "a.csv"): names}
    assert await manifest.history.header_runs(ACME, ["z.csv"], {REQUEST_ID: "acme/x"}) == {}
