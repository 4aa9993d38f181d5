"""The publish protocol: seal, rename, record, and what happens when the name is taken or the job is lost."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

from dcsync import __version__
from dcsync.core.anomaly import TableWarning
from dcsync.core.lifecycle import JobState
from dcsync.errors import Fenced, MirrorTampered
from dcsync.manifest import SnapshotRows
from dcsync.mirror.adopt import read_snapshot
from tests.rigs.mirror import assert_proved_by_sums, sidecar
from tests.rigs.publishing import TRANSFER, LosesJob, Workbench, make_decisions

FILES = {"admin_users.csv": "id,name\n1,a\n2,b\n", "README.html": "<p>"}


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


async def test_a_staged_job_is_in_the_mirror_recorded_and_shown_by_latest(bench: Workbench) -> None:
    job = bench.job()

    record = await bench.publish(job, FILES)

    assert_proved_by_sums(bench.path(job))
    sums = (bench.path(job) / "SHA256SUMS").read_text()
    assert [line[66:] for line in sums.splitlines()] == sorted([*FILES, "_dcsync.json"])
    assert await bench.state(job) is JobState.PUBLISHED
    rows = SnapshotRows(bench.context.manifest)
    assert await rows.record(bench.account.name, job.id) == record
    found = await rows.snapshot(bench.account.name, job.id)
    assert found is not None
    assert {stored.name for stored in found[0].files} == set(FILES)
    assert found[1] == hashlib.sha256((bench.path(job) / "_dcsync.json").read_bytes()).hexdigest()
    assert bench.latest.resolve() == bench.path(job)


async def test_the_record_has_the_time_of_publishing_and_of_the_first_sight(bench: Workbench) -> None:
    job = bench.job()
    seen = bench.context.clock.now()
    await bench.know(job)
    bench.mirror.clock.advance(60)

    record = await bench.publish(job, FILES)

    assert (record.first_seen_at, record.published_at) == (seen, seen + timedelta(minutes=1))
    assert (record.job, record.request, record.folder, record.transfer) == (
        job,
        bench.request,
        bench.folder(job),
        TRANSFER,
    )


async def test_everything_in_the_metadata_file_is_read_back(bench: Workbench) -> None:
    first, second = bench.job(1, days_ago=1), bench.job(2)
    await bench.publish(first, {**FILES, "gone.csv": "id\n"})
    previous = await bench.context.manifest.history.snapshot(bench.account.name, first.id)

    record = await bench.publish(
        second,
        {**FILES, "admin_users.csv": "id\n1\n2\n", "new.csv": "id\n"},
        previous=previous,
        decisions=make_decisions(files={"new.csv": "not in the previous snapshot"}, skipped=(("x.csv", "excluded"),)),
    )

    adopted = read_snapshot(bench.context.root, bench.folder(second))
    assert adopted is not None
    assert adopted.record == record
    assert (record.summary.added, record.summary.removed, record.summary.changed) == (1, 1, 1)
    assert [(warning.code, warning.table) for warning in record.summary.warnings] == [("L-COLUMNS", "admin_users.csv")]
    document = sidecar(bench.path(second))
    assert document["dcsync"] == __version__
    assert document["account"] == {"name": "acme", "id": bench.account.id}
    assert document["staged_at"] == "2026-11-22T12:00:00.000Z"
    assert document["strategy"] == {
        "name": "zip",
        "method": "ranges",
        "reason": "ranges: the cheapest",
        "calls": 3,
        "prices": [{"way": "ranges", "calls": 2, "bytes": 900, "seconds": 1.5, "rejected": None}],
    }
    assert (document["fetched_bytes"], document["linked_bytes"]) == (80, 20)
    assert document["changes"] == {
        "against": first.id,
        "added": ["new.csv"],
        "removed": ["gone.csv"],
        "changed": ["admin_users.csv"],
        "unchanged": 1,
        "columns": [{"table": "admin_users.csv", "added": [], "removed": ["name"], "reordered": False}],
    }
    assert {entry["name"]: entry["why"] for entry in document["files"]}["new.csv"] == "not in the previous snapshot"
    assert document["skipped"] == [{"original": "x.csv", "reason": "excluded"}]


async def test_staged_files_that_no_plan_wants_are_not_published(bench: Workbench) -> None:
    job = bench.job()

    await bench.publish(job, FILES, strays={"stray.csv": "x"})

    assert names_in(bench.path(job)) == {*FILES, "_dcsync.json", "SHA256SUMS"}


async def test_files_in_folders_are_published_there(bench: Workbench) -> None:
    job = bench.job()

    await bench.publish(job, {"schemas/admin.csv": "id\n"})

    assert names_in(bench.path(job)) == {"schemas/admin.csv", "_dcsync.json", "SHA256SUMS"}


async def test_the_log_says_what_was_published_and_what_looks_wrong(bench: Workbench) -> None:
    await bench.publish(bench.job(1, days_ago=1), {"a.csv": "id,x\n1,2\n", "b.csv": "id\n"})
    before = await bench.context.manifest.history.snapshot(bench.account.name, bench.job(1).id)
    job = bench.job(2)

    with capture_logs() as lines:
        record = await bench.publish(
            job, {"a.csv": "id\n1\n"}, previous=before, transfer=replace(TRANSFER, seconds=1.23456)
        )

    (published,) = [line for line in lines if line["event"] == "snapshot published"]
    assert published == {
        "event": "snapshot published",
        "log_level": "debug",
        "account": "acme",
        "job": job.id,
        "folder": bench.folder(job),
        "strategy": "zip",
        "method": "ranges",
        "reason": "ranges: the cheapest",
        "files": 1,
        "fetched": 1,
        "fetched_bytes": 80,
        "linked": 0,
        "linked_bytes": 20,
        "changed": 1,
        "calls": 3,
        "seconds": 1.235,
        "expected_calls": 2,
        "expected_bytes": 900,
        "expected_seconds": 1.5,
    }
    (warned,) = [line for line in lines if line.get("code") == "L-COLUMNS"]
    assert (warned["log_level"], warned["account"], warned["job"], warned["table"], warned["what"]) == (
        "warning",
        "acme",
        job.id,
        "a.csv",
        record.summary.warnings[0].message,
    )


async def test_what_the_zip_could_not_give_is_a_warning_of_the_snapshot(bench: Workbench) -> None:
    warning = TableWarning(code="L-ZIP", table="schemas/admin.json", message="could not be extracted")

    record = await bench.publish(bench.job(), FILES, zip_warnings=(warning,))

    assert record.summary.warnings == (warning,)


async def test_a_snapshot_without_tables_is_replaced_and_its_trash_is_emptied(bench: Workbench) -> None:
    job = bench.job()
    await bench.publish(job, {"README.html": "<p>"})
    await bench.context.manifest.move(bench.account.name, job.id, JobState.SEEN, at=bench.context.clock.now())

    with capture_logs() as lines:
        await bench.publish(job, FILES)

    assert names_in(bench.path(job)) == {*FILES, "_dcsync.json", "SHA256SUMS"}
    assert list((bench.mirror.root / ".dcsync/trash").iterdir()) == []
    (line,) = [line for line in lines if line["event"] == "snapshot without tables replaced"]
    assert (line["log_level"], line["job"], line["folder"]) == ("warning", job.id, bench.folder(job))


# --- the name is taken ------------------------------------------------------------------------------------------------


async def test_a_foreign_folder_with_the_name_is_left_alone(bench: Workbench) -> None:
    job = bench.job()
    bench.path(job).mkdir(parents=True)
    (bench.path(job) / "mine.txt").write_text("keep me")

    with pytest.raises(MirrorTampered, match=job.id) as raised:
        await bench.publish(job, FILES)

    assert bench.folder(job) in raised.value.message
    assert "move that folder" in raised.value.advice
    assert names_in(bench.path(job)) == {"mine.txt"}
    assert await bench.state(job) is JobState.LISTED


async def test_the_snapshot_of_another_job_with_the_name_is_left_alone(bench: Workbench) -> None:
    job, other = bench.job(1), bench.job(2)
    bench.publish_by_another(job, {"a.csv": "id\n"}, by=other)

    with pytest.raises(MirrorTampered):
        await bench.publish(job, FILES)

    assert names_in(bench.path(job)) == {"a.csv", "_dcsync.json"}
    assert await bench.state(job) is JobState.LISTED


async def test_a_snapshot_of_the_same_job_with_the_name_is_adopted_as_it_is(bench: Workbench) -> None:
    job = bench.job()
    first = await bench.publish(job, {"a.csv": "id\n"})
    await bench.context.manifest.move(bench.account.name, job.id, JobState.SEEN, at=bench.context.clock.now())
    bench.mirror.clock.advance(3600)

    with capture_logs() as lines:
        record = await bench.publish(job, FILES)

    assert (record.job, record.folder) == (job, bench.folder(job))
    assert names_in(bench.path(job)) == {"a.csv", "_dcsync.json", "SHA256SUMS"}
    assert await SnapshotRows(bench.context.manifest).record(bench.account.name, job.id) == first
    assert await bench.state(job) is JobState.PUBLISHED
    events = {line["event"] for line in lines}
    assert "snapshot adopted" in events
    assert "snapshot published" not in events


async def test_a_snapshot_of_the_same_job_without_a_record_is_adopted_as_of_now(bench: Workbench) -> None:
    job = bench.job()
    bench.publish_by_another(job, {"a.csv": "id\n1\n"})

    await bench.publish(job, FILES)

    record = await SnapshotRows(bench.context.manifest).record(bench.account.name, job.id)
    assert record is not None
    assert record.transfer.strategy == "adopted"
    assert record.transfer.fetched_bytes == 0
    assert record.published_at == bench.context.clock.now()
    assert record.summary.files == 1


async def test_a_snapshot_of_the_same_job_that_is_damaged_is_not_adopted(bench: Workbench) -> None:
    job = bench.job()
    bench.publish_by_another(job, {"a.csv": "id\n1\n"})
    (bench.path(job) / "a.csv").write_text("id\n2\n")

    with pytest.raises(MirrorTampered):
        await bench.publish(job, FILES)

    assert await bench.state(job) is JobState.LISTED


# --- the job is another host's by now ---------------------------------------------------------------------------------


async def test_a_job_that_was_lost_before_the_rename_shows_nothing(bench: Workbench) -> None:
    job = bench.job()

    with pytest.raises(Fenced):
        await bench.publish(job, FILES, guard=LosesJob(0))

    assert not bench.path(job).exists()
    assert await bench.state(job) is JobState.LISTED


async def test_a_job_that_was_lost_after_the_rename_leaves_its_folder_to_the_new_host(bench: Workbench) -> None:
    job = bench.job()

    with pytest.raises(Fenced):
        await bench.publish(job, FILES, guard=LosesJob(1))

    assert_proved_by_sums(bench.path(job))
    assert await bench.state(job) is JobState.LISTED
    assert not bench.latest.is_symlink()


async def test_a_job_that_another_host_published_and_pruned_meanwhile_is_withdrawn(bench: Workbench) -> None:
    job = bench.job()
    await make_pruned(bench)

    with pytest.raises(Fenced):
        await bench.publish(job, FILES, guard=LosesJob(1))

    assert not bench.path(job).exists()
    assert bench.path(job).parents[3] == bench.latest.parent
    assert [path.name for path in bench.latest.parent.iterdir()] == []
    assert list(bench.mirror.root.glob(".dcsync/trash/*")) == []
    assert await bench.state(job) is JobState.PRUNED


async def test_a_job_whose_folder_was_pruned_with_it_is_withdrawn_already(bench: Workbench) -> None:
    job = bench.job()
    await make_pruned(bench)

    with pytest.raises(Fenced):
        await bench.publish(job, FILES, guard=LosesJob(1, meanwhile=lambda: shutil.rmtree(bench.path(job))))

    assert not bench.path(job).exists()


async def make_pruned(bench: Workbench) -> None:
    """Publish and prune the first job as another host does."""
    job = bench.job()
    await bench.publish(job, {"a.csv": "id\n"})
    await bench.context.manifest.move(bench.account.name, job.id, JobState.PRUNED, at=bench.context.clock.now())
    shutil.rmtree(bench.latest.parent)


async def test_a_cancellation_is_delivered_after_the_snapshot_is_recorded(bench: Workbench) -> None:
    job = bench.job()
    publishing: list[asyncio.Task[object]] = []

    class Cancels(LosesJob):
        async def check(self, connection: AsyncConnection) -> None:
            publishing[0].cancel()
            await super().check(connection)

    async def publish_it() -> None:
        task = asyncio.current_task()
        assert task is not None
        publishing.append(task)
        await bench.publish(job, FILES, guard=Cancels(2))

    async with asyncio.TaskGroup() as group:
        group.create_task(publish_it())

    assert publishing[0].cancelled()
    assert await bench.state(job) is JobState.PUBLISHED
    assert bench.latest.resolve() == bench.path(job)
