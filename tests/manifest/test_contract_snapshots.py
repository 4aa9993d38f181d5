"""What every manifest promises about published snapshots and their order: one suite for each database."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from dcsync.core.completeness import holds_rows
from dcsync.core.lifecycle import JobState
from dcsync.core.model import How, JobId, RequestId, Snapshot, StoredFile
from dcsync.core.ports import KnownJob
from dcsync.errors import DcsyncError, IllegalTransition
from dcsync.manifest import SqlManifest
from dcsync.manifest.hollow import hollow_snapshots
from tests.fakes import (
    JOB_ID,
    NOON,
    REQUEST_ID,
    make_job,
    make_stored,
)
from tests.rigs.manifests import ACME, BETA, LATER, S, files_of, know, make_publication, state_of

# --- publishing -------------------------------------------------------------------------------------------------------


async def test_a_published_snapshot_is_known_row_for_row(manifest: SqlManifest) -> None:
    await know(manifest)
    await manifest.move(ACME, JOB_ID, S.FAILED, at=NOON, attempts=2, next_try_at=LATER, reason_code="X", reason="x")
    files = (
        make_stored("admin_users.csv", b"id,name\n", mtime_ns=2**62 + 1, inode=2**64 - 1, packed=2**40),
        make_stored("bare.csv", b"", md5=None, etag=None, packed=None, mtime_ns=None, inode=None),
        make_stored("escaped%ED%A0%80.csv", b"x", original="escaped\ud800.csv", how=How.LINKED),
        make_stored("größe/Ω.csv", b"x" * 300, original="größe/Ω.csv", etag='W/"weak"', crc32=2**32 - 1, size=2**53),
        make_stored("quote'\".csv", b"'; DROP TABLE file; --"),
    )

    await manifest.publish(ACME, *make_publication(files=files))

    snapshot = await manifest.snapshot_before(ACME, REQUEST_ID, None)
    assert snapshot is not None
    assert (snapshot.job, snapshot.request, snapshot.folder) == (JOB_ID, REQUEST_ID, "acme/x/2026")
    assert snapshot.completed_at == make_job().completed_at
    assert {stored.name: stored for stored in snapshot.files} == {stored.name: stored for stored in files}
    assert len(snapshot.files) == len(files)
    assert (await manifest.jobs(ACME))[JOB_ID] == KnownJob(
        job=make_job(), state=S.PUBLISHED, folder="acme/x/2026", first_seen_at=NOON, published_at=LATER
    )
    assert await manifest.published_folders(ACME) == {JOB_ID: "acme/x/2026"}
    assert await manifest.newest_snapshot(ACME, REQUEST_ID) == "acme/x/2026"
    assert await manifest.folder_taken_by("acme/x/2026") == JOB_ID


async def test_the_newest_folder_is_that_of_the_newest_snapshot_with_a_time(manifest: SqlManifest) -> None:
    for days, job in ((1, "old"), (3, "new"), (2, "other"), (None, "undated")):
        at = None if days is None else NOON + timedelta(days=days)
        request = RequestId("another") if job == "other" else REQUEST_ID
        made = make_job(id=JobId(job), completed_at=at, request_id=request)
        await manifest.record_poll(ACME, jobs=[KnownJob(job=made, state=S.SEEN)], requests=[], at=NOON)
        record, files = make_publication(JobId(job), f"acme/{job}")
        record = replace(record, job=made, request=replace(record.request, id=request))
        await manifest.publish(ACME, record, files)

    assert await manifest.newest_folder(ACME) == "acme/new"
    assert set(await manifest.one_of_each_request(ACME)) == {"undated", "other"}

    await manifest.move(ACME, JobId("new"), S.PRUNED, at=NOON)

    assert await manifest.newest_folder(ACME) == "acme/other"


async def test_a_snapshot_may_have_more_files_than_a_statement_has_room_for(manifest: SqlManifest) -> None:
    await know(manifest)
    files = tuple(make_stored(f"table_{number:05}.csv", b"%d" % number) for number in range(4001))

    await manifest.publish(ACME, *make_publication(files=files))

    assert await files_of(manifest) == files


async def test_publishing_again_replaces_the_files(manifest: SqlManifest) -> None:
    await know(manifest)
    await manifest.publish(ACME, *make_publication(files=(make_stored("a.csv"), make_stored("b.csv"))))

    await manifest.publish(ACME, *make_publication(files=(make_stored("b.csv", b"new"),)))

    assert await files_of(manifest) == (make_stored("b.csv", b"new"),)


@pytest.mark.parametrize(
    ("first", "second"),
    [("Forms.csv", "forms.csv"), ("é.csv", "e\u0301.csv"), ("straße.csv", "STRASSE.csv"), ("ﬁle.csv", "file.csv")],
)
async def test_two_names_that_a_file_system_takes_for_one_are_refused(
    manifest: SqlManifest, first: str, second: str
) -> None:
    await know(manifest)

    with pytest.raises(DcsyncError):
        await manifest.publish(ACME, *make_publication(files=(make_stored(first), make_stored(second))))

    assert await state_of(manifest) is S.SEEN
    assert await files_of(manifest) is None
    assert await manifest.folder_taken_by("acme/x/2026") is None


async def test_two_snapshots_may_have_the_same_names(manifest: SqlManifest) -> None:
    await know(manifest, "a", "b")

    await manifest.publish(ACME, *make_publication(JobId("a"), "acme/a"))
    await manifest.publish(ACME, *make_publication(JobId("b"), "acme/b"))

    assert await manifest.published_folders(ACME) == {"a": "acme/a", "b": "acme/b"}


async def test_a_job_that_cannot_be_published_is_not(manifest: SqlManifest) -> None:
    await know(manifest, state=S.WAITING)

    with pytest.raises(IllegalTransition):
        await manifest.publish(ACME, *make_publication())

    assert await manifest.published_folders(ACME) == {}
    assert await files_of(manifest) is None


async def test_a_folder_that_another_job_has_is_not_published_twice(manifest: SqlManifest) -> None:
    await know(manifest, "a", "b")
    await manifest.publish(ACME, *make_publication(JobId("a"), "acme/x"))

    with pytest.raises(DcsyncError):
        await manifest.publish(ACME, *make_publication(JobId("b"), "acme/x"))

    assert await manifest.published_folders(ACME) == {"a": "acme/x"}
    assert await state_of(manifest, "b") is S.SEEN


@pytest.mark.parametrize("state", [S.PRUNED, S.SEEN, S.EXPIRED])
async def test_a_snapshot_that_is_gone_is_not_linked_to_any_more(manifest: SqlManifest, state: JobState) -> None:
    await know(manifest)
    await manifest.publish(ACME, *make_publication())

    await manifest.move(ACME, JOB_ID, state, at=LATER)

    assert await manifest.snapshot_before(ACME, REQUEST_ID, None) is None
    assert await manifest.newest_snapshot(ACME, REQUEST_ID) is None
    assert await manifest.published_folders(ACME) == {}
    # Its folder's name stays its own: `folder` once set stays.
    assert await manifest.folder_taken_by("acme/x/2026") == JOB_ID


async def test_the_files_of_a_snapshot_that_came_back_are_those_of_the_second_time(manifest: SqlManifest) -> None:
    await know(manifest)
    await manifest.publish(ACME, *make_publication(files=(make_stored("old.csv"),)))
    await manifest.move(ACME, JOB_ID, S.SEEN, at=LATER)

    new = make_stored("new.csv")
    await manifest.publish(ACME, *make_publication(files=(new,)))

    assert await files_of(manifest) == (new,)


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("README.html",),
        ("README.html", "schemas/a.csv"),
        ("Schemas/A.CSV",),
        ("csv", "a.csv.html"),
        ("admin_users.csv",),
        ("README.html", "Gr\u00f6\u00dfe.CSV"),
        ("autodesk_data_extract.zip",),
    ],
)
async def test_a_snapshot_without_tables_is_hollow_and_never_the_newest(
    manifest: SqlManifest, names: tuple[str, ...]
) -> None:
    """The same decision as that of the plan, made by the database."""
    await know(manifest)
    files = tuple(make_stored(f"{number}.x", original=name) for number, name in enumerate(names))
    await manifest.publish(ACME, *make_publication(files=files))

    holds = holds_rows(names)
    assert await hollow_snapshots(manifest, ACME) == (frozenset() if holds else {JOB_ID})
    assert await hollow_snapshots(manifest, BETA) == frozenset()
    assert (await manifest.newest_snapshot(ACME, REQUEST_ID) is not None) is holds
    assert (await manifest.snapshot_before(ACME, REQUEST_ID, None) is not None) is holds


async def publish_days(manifest: SqlManifest, *days: int, request: RequestId = REQUEST_ID) -> None:
    for day in days:
        job = JobId(f"{request[:2]}-{day}")
        completed_at = NOON + timedelta(days=day)
        known = KnownJob(job=make_job(id=job, request_id=request, completed_at=completed_at), state=S.SEEN)
        await manifest.record_poll(ACME, jobs=[known], requests=[], at=NOON)
        publication = make_publication(job, f"acme/{job}", request_id=request, completed_at=completed_at)
        await manifest.publish(ACME, *publication)


# --- the snapshot before ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("day", "found"), [(0, None), (1, None), (2, "ce-1"), (3, "ce-2"), (4, "ce-3"), (9, "ce-3"), (None, "ce-3")]
)
async def test_the_snapshot_before_is_the_newest_that_is_older(
    manifest: SqlManifest, day: int | None, found: str | None
) -> None:
    await publish_days(manifest, 2, 3, 1)

    before = await manifest.snapshot_before(ACME, REQUEST_ID, None if day is None else NOON + timedelta(days=day))

    assert (None if before is None else before.job) == found


async def test_the_snapshot_before_is_of_the_same_request_and_account_and_published(manifest: SqlManifest) -> None:
    await publish_days(manifest, 1)
    await publish_days(manifest, 5, request=RequestId("another"))
    await know(manifest, "not-published")

    before = await manifest.snapshot_before(ACME, REQUEST_ID, NOON + timedelta(days=9))

    assert before is not None
    assert (before.job, before.folder) == ("ce-1", "acme/ce-1")
    assert await manifest.snapshot_before(BETA, REQUEST_ID, None) is None
    assert await manifest.newest_snapshot(ACME, RequestId("another")) == "acme/an-5"


async def test_a_microsecond_makes_a_snapshot_older(manifest: SqlManifest) -> None:
    await publish_days(manifest, 1)
    at = NOON + timedelta(days=1)

    assert await manifest.snapshot_before(ACME, REQUEST_ID, at) is None
    assert await manifest.snapshot_before(ACME, REQUEST_ID, at + timedelta(microseconds=1)) is not None


async def publish_file(manifest: SqlManifest, day: int, stored: StoredFile, request: RequestId = REQUEST_ID) -> None:
    await publish_days(manifest, day, request=request)
    job = JobId(f"{request[:2]}-{day}")
    publication = make_publication(
        job,
        f"acme/{job}",
        files=(make_stored("other.csv", b"1"), stored),
        request_id=request,
        completed_at=NOON + timedelta(days=day),
    )
    await manifest.publish(ACME, *publication)


async def test_copies_of_a_file_are_found_newest_first(manifest: SqlManifest) -> None:
    wanted = make_stored("schemas/a.csv", b"same", original="schemas/\ud800a.csv", inode=2**64 - 1, mtime_ns=5)
    for day in (3, 1, 4, 2):
        await publish_file(manifest, day, wanted)

    found = await manifest.copies(ACME, REQUEST_ID, wanted, limit=3)

    assert [copy.job for copy in found] == ["ce-4", "ce-3", "ce-2"]
    assert found[0] == Snapshot(
        job=JobId("ce-4"),
        request=REQUEST_ID,
        folder="acme/ce-4",
        completed_at=NOON + timedelta(days=4),
        files=(wanted,),
    )


async def test_what_differs_or_is_of_another_request_or_is_gone_is_no_copy(manifest: SqlManifest) -> None:
    wanted = make_stored("a.csv", b"same")
    await publish_file(manifest, 1, make_stored("a.csv", b"else"))
    await publish_file(manifest, 2, make_stored("a.csv", b"longer"))
    await publish_file(manifest, 3, make_stored("a.csv", b"same", original="A.csv"))
    await publish_file(manifest, 4, make_stored("b.csv", b"same"))
    await publish_file(manifest, 5, wanted, request=RequestId("another"))
    await publish_file(manifest, 6, wanted)
    await manifest.move(ACME, JobId("ce-6"), S.PRUNED, at=NOON)

    assert await manifest.copies(ACME, REQUEST_ID, wanted, limit=9) == []
    assert await manifest.copies(BETA, REQUEST_ID, wanted, limit=9) == []
