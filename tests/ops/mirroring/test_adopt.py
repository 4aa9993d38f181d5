"""The adoption of a snapshot that is in the mirror and not in the manifest."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from dcsync.core.lifecycle import JobState
from dcsync.core.model import Job, JobId, RequestId, Snapshot
from dcsync.errors import MirrorTampered
from dcsync.manifest import SnapshotRows
from dcsync.mirror.staging import Staging, staged_jobs
from dcsync.ops.mirroring.adopt import adopt_if_there
from tests.fakes import make_job, make_record, make_stored
from tests.rigs.publishing import Workbench, make_known_request, stage

TABLE = {"a.csv": "id\n1\n"}


async def adopt(bench: Workbench, job: Job) -> Snapshot | None:
    known = await bench.know(job)
    return await adopt_if_there(bench.context, bench.account, known, bench.request, bench.folder(job))


async def test_a_job_without_a_folder_has_nothing_to_adopt(bench: Workbench) -> None:
    assert await adopt(bench, bench.job()) is None


async def test_a_snapshot_is_adopted_with_its_own_record_and_shown(bench: Workbench) -> None:
    job = bench.job()
    record = await bench.publish(job, TABLE)
    await bench.context.manifest.move(bench.account.name, job.id, JobState.SEEN, at=bench.context.clock.now())
    bench.latest.unlink()
    bench.mirror.clock.advance(60)

    with capture_logs() as lines:
        snapshot = await adopt(bench, job)

    assert snapshot is not None
    assert [stored.name for stored in snapshot.files] == ["a.csv"]
    assert await SnapshotRows(bench.context.manifest).record(bench.account.name, job.id) == record
    assert bench.latest.resolve() == bench.path(job)
    (line,) = [line for line in lines if line["event"] == "snapshot adopted"]
    assert (line["account"], line["job"], line["folder"], line["files"]) == ("acme", job.id, bench.folder(job), 1)


async def test_the_files_are_recorded_as_they_are_on_the_disk(bench: Workbench) -> None:
    job = bench.job()
    bench.publish_by_another(job, TABLE)

    snapshot = await adopt(bench, job)

    found = await SnapshotRows(bench.context.manifest).snapshot(bench.account.name, job.id)
    assert snapshot is not None
    assert found is not None
    facts = (bench.path(job) / "a.csv").stat()
    assert [(stored.mtime_ns, stored.inode) for stored in found[0].files] == [(facts.st_mtime_ns, facts.st_ino)]
    # SHA256SUMS does not confirm the metadata file.
    assert found[1] is None


async def test_a_name_that_was_claimed_and_never_filled_is_free(bench: Workbench) -> None:
    job = bench.job()
    bench.path(job).mkdir(parents=True)

    assert await adopt(bench, job) is None

    assert not bench.path(job).exists()


async def test_a_claimed_name_is_free_also_when_a_nas_has_indexed_it(bench: Workbench) -> None:
    job = bench.job()
    (bench.path(job) / "@eaDir").mkdir(parents=True)
    (bench.path(job) / "@eaDir/index").write_text("of the NAS")
    (bench.path(job) / ".DS_Store").write_text("of a Mac")

    assert await adopt(bench, job) is None

    assert not bench.path(job).exists()


async def test_a_folder_with_something_else_in_it_is_refused(bench: Workbench) -> None:
    job = bench.job()
    bench.path(job).mkdir(parents=True)
    (bench.path(job) / "mine.txt").write_text("keep me")

    with pytest.raises(MirrorTampered, match=job.id) as raised:
        await adopt(bench, job)

    assert bench.folder(job) in raised.value.message
    assert "move that folder" in raised.value.advice
    assert (bench.path(job) / "mine.txt").exists()


async def test_the_snapshot_of_another_job_is_refused(bench: Workbench) -> None:
    job = bench.job(1)
    bench.publish_by_another(job, TABLE, by=bench.job(2))

    with pytest.raises(MirrorTampered, match=job.id):
        await adopt(bench, job)

    assert await bench.state(job) is JobState.SEEN


async def test_a_snapshot_that_differs_from_its_metadata_is_refused(bench: Workbench) -> None:
    job = bench.job()
    bench.publish_by_another(job, TABLE)
    (bench.path(job) / "a.csv").write_text("id\n2\n")

    with pytest.raises(MirrorTampered):
        await adopt(bench, job)

    assert await bench.state(job) is JobState.SEEN


async def test_the_staging_of_every_attempt_at_an_adopted_job_is_removed(bench: Workbench) -> None:
    job, other = bench.job(1), bench.job(2)
    bench.publish_by_another(job, TABLE)
    for owner, number in ((job, 0), (job, 3), (other, 0)):
        with Staging(bench.context.root, owner.id, number) as staging:
            stage(staging, "a.csv", "id\n")

    await adopt(bench, job)

    assert staged_jobs(bench.context.root) == {other.id}


# --- snapshots that a rebuild found without their metadata ------------------------------------------------------------


async def rebuild_by_name(bench: Workbench, job: Job, *, short: str | None = None) -> None:
    """Record a snapshot as a rebuild does that knows only its folder: by the first characters of its IDs."""
    bench.path(job).mkdir(parents=True)
    identifier = job.id[:8] if short is None else short
    record = make_record(
        job=make_job(id=JobId(identifier), request_id=RequestId("ce9bc188")),
        request=make_known_request(id=RequestId("ce9bc188")),
        folder=bench.folder(job),
    )
    await SnapshotRows(bench.context.manifest).restore(
        bench.account.name, record, files=[make_stored("a.csv")], sidecar_sha256="5" * 64
    )


async def test_a_rebuilt_snapshot_gets_the_ids_of_its_job(bench: Workbench) -> None:
    job = bench.job()
    await rebuild_by_name(bench, job)

    snapshot = await adopt(bench, job)

    assert snapshot is not None
    assert (snapshot.job, snapshot.request, snapshot.completed_at) == (job.id, job.request_id, job.completed_at)
    manifest = bench.context.manifest
    assert list(await manifest.jobs(bench.account.name)) == [job.id]
    assert list(await manifest.requests(bench.account.name)) == [job.request_id]
    found = await SnapshotRows(manifest).snapshot(bench.account.name, job.id)
    assert found is not None
    assert ([stored.name for stored in found[0].files], found[1]) == (["a.csv"], "5" * 64)
    record = await SnapshotRows(manifest).record(bench.account.name, job.id)
    assert record is not None
    assert (record.transfer.strategy, record.summary.files) == ("adopted", 1)
    assert bench.latest.is_symlink()


async def test_a_rebuilt_snapshot_of_another_id_is_not_this_job_s(bench: Workbench) -> None:
    job = bench.job()
    await rebuild_by_name(bench, job, short="ffffffff")

    # Its folder is empty, so the name is free.
    assert await adopt(bench, job) is None
    assert await bench.state(job) is JobState.SEEN
