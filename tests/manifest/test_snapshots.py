"""Whole rows: read, written back, and the files of snapshots by their content."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId, RequestId
from dcsync.core.ports import KnownJob
from dcsync.manifest import SnapshotRows, SqlManifest, StoredValues, open_manifest
from tests.fakes import JOB_ID, NOON, make_job, make_record, make_stored

ACME = AccountName("acme")
FOLDER = make_record().folder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "manifest.sqlite"


async def test_a_restored_snapshot_is_published_with_its_files(path: Path) -> None:
    files = (make_stored("a.csv", mtime_ns=3, inode=1 << 63), make_stored("b.csv"))
    async with open_manifest(path) as manifest:
        records = SnapshotRows(manifest)
        await records.restore(ACME, make_record(), files=files, sidecar_sha256="5" * 64)

        assert await records.record(ACME, JOB_ID) == make_record()
        found = await records.snapshot(ACME, JOB_ID)
        assert found is not None
        assert (found[0].files, found[0].folder, found[1]) == (files, FOLDER, "5" * 64)
        known = (await manifest.jobs(ACME))[JOB_ID]
        assert (known.state, known.published_at) == (JobState.PUBLISHED, make_record().published_at)


async def test_a_restored_pruned_one_has_no_files_and_is_no_snapshot(path: Path) -> None:
    async with open_manifest(path) as manifest:
        records = SnapshotRows(manifest)
        await records.restore(ACME, replace(make_record(), pruned_at=NOON))

        assert await records.snapshot(ACME, JOB_ID) is None
        assert (await manifest.jobs(ACME))[JOB_ID].state is JobState.PRUNED


async def test_restoring_replaces_what_was_there_of_the_job_and_leaves_the_request(path: Path) -> None:
    async with open_manifest(path) as manifest:
        records = SnapshotRows(manifest)
        await records.restore(ACME, make_record(), files=[make_stored("old.csv")])
        other = replace(make_record().request, slug="another")
        await records.restore(ACME, make_record(request=other), files=[make_stored("new.csv")])

        found = await records.snapshot(ACME, JOB_ID)
        assert found is not None
        assert [stored.name for stored in found[0].files] == ["new.csv"]
        assert [known.slug for known in (await manifest.requests(ACME)).values()] == [make_record().request.slug]


async def test_a_snapshot_that_gets_its_ids_leaves_its_short_ones(path: Path) -> None:
    short = make_record(
        job=make_job(id=JobId("9bd7c8a0"), request_id=RequestId("ce9bc188")),
        request=replace(make_record().request, id=RequestId("ce9bc188")),
    )
    async with open_manifest(path) as manifest:
        records = SnapshotRows(manifest)
        await records.restore(ACME, short)
        await records.restore(ACME, make_record(), instead_of=JobId("9bd7c8a0"))

        assert list(await manifest.jobs(ACME)) == [JOB_ID]
        assert list(await manifest.requests(ACME)) == [make_record().request.id]


async def make_two(manifest: SqlManifest) -> None:
    records = SnapshotRows(manifest)
    for number, name in enumerate(("a.csv", "other.csv")):
        record = make_record(job=make_job(id=JobId(f"j{number}")), folder=f"{FOLDER}{number}")
        await records.restore(ACME, record, files=[make_stored(name, b"same")])


async def test_copies_are_found_by_content(path: Path) -> None:
    sha256 = make_stored("a.csv", b"same").sha256
    async with open_manifest(path) as manifest:
        await make_two(manifest)

        found = await SnapshotRows(manifest).copies(ACME, {sha256, "0" * 64})

    assert sorted((job, stored.name) for job, stored in found[sha256]) == [("j0", "a.csv"), ("j1", "other.csv")]
    assert found["0" * 64] == []


async def test_a_replaced_file_has_its_new_inode(path: Path) -> None:
    async with open_manifest(path) as manifest:
        await make_two(manifest)
        await SnapshotRows(manifest).note_replaced(ACME, JobId("j0"), "a.csv", mtime_ns=5, inode=(1 << 64) - 1)

        found = await SnapshotRows(manifest).snapshot(ACME, JobId("j0"))
        assert found is not None
        assert (found[0].files[0].mtime_ns, found[0].files[0].inode) == (5, (1 << 64) - 1)


async def test_of_a_job_that_was_never_published_there_is_no_record(path: Path) -> None:
    async with open_manifest(path) as manifest:
        request = make_record().request
        await manifest.record_poll(
            ACME, jobs=[KnownJob(job=make_job(), state=JobState.SEEN)], requests=[(request, None)], at=NOON
        )
        records = SnapshotRows(manifest)

        assert await records.record(ACME, JOB_ID) is None
        assert await records.origin(ACME, JOB_ID) == (NOON, request)
        assert await records.origin(ACME, JobId("nobody")) is None


async def test_a_note_outlives_the_process(path: Path) -> None:
    async with open_manifest(path) as manifest:
        await StoredValues(manifest).save("key", "first")
        await StoredValues(manifest).save("key", "second")
    async with open_manifest(path) as manifest:
        assert await StoredValues(manifest).load("key") == "second"
        await StoredValues(manifest).save("key", None)
        assert await StoredValues(manifest).load("key") is None
