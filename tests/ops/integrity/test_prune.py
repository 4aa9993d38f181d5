"""What no rule of the retention policy keeps is removed, and nothing that somebody still reads."""

from __future__ import annotations

import asyncio
import os
import shutil

import pytest

from dcsync.app.from_config import account_settings
from dcsync.core.lifecycle import JobState
from dcsync.core.retention import KeepPolicy
from dcsync.errors import MassChange
from dcsync.ops.integrity.prune import prune
from tests.rigs.mirror import (
    Mirror,
    add_extract,
    assert_proved_by_sums,
    tables,
    walk_folders,
)
from tests.rigs.prunings import fill, in_trash, jobs_of, pruned, states
from tests.rigs.sqlite import raw


async def test_what_no_rule_keeps_is_removed_and_the_rest_is_whole(mirror: Mirror) -> None:
    jobs = await fill(mirror)

    report = await pruned(mirror, KeepPolicy(last=3))

    assert jobs_of(mirror) == set(jobs[2:])
    assert (report.removed, report.kept) == (2, 3)
    # Of each pruned one only its own file is freed; the rest is shared with those that stay.
    sizes = [
        (path / "SHA256SUMS").stat().st_size + (path / "_dcsync.json").stat().st_size for path in mirror.snapshots()
    ]
    assert 2 * min(sizes) - 1000 < report.freed_bytes < 2 * max(sizes) + 1000
    for snapshot in mirror.snapshots():
        assert_proved_by_sums(snapshot)
    assert in_trash(mirror) == []
    assert await states(mirror) == {
        job: JobState.PRUNED if number < 2 else JobState.PUBLISHED for number, job in enumerate(jobs)
    }


async def test_pruning_again_removes_nothing(mirror: Mirror) -> None:
    await fill(mirror)
    await pruned(mirror, KeepPolicy(last=3))

    assert (await pruned(mirror, KeepPolicy(last=3))).removed == 0


async def test_files_that_only_pruned_snapshots_had_leave_the_manifest(mirror: Mirror) -> None:
    for day in range(3):
        add_extract(mirror, {**tables(1), "b.csv": b"id\n%d\n" % day}, days_ago=3 - day)
    await mirror.sync()

    await pruned(mirror, KeepPolicy(last=1), force=True)

    with raw(mirror.state / "manifest.sqlite") as manifest:
        names = manifest.execute("SELECT name FROM content ORDER BY name").fetchall()
    assert names == [("admin_table_000.csv",), ("b.csv",)]


async def test_folders_of_days_that_are_empty_go_and_those_of_requests_stay(mirror: Mirror) -> None:
    await fill(mirror, days=3)

    await pruned(mirror, KeepPolicy(last=2))

    folders = {str(path.relative_to(mirror.root)) for path in walk_folders(mirror.root)}
    assert not any(folder.endswith("/2026/11/19") for folder in folders)
    assert sum(folder.count("/") == 4 for folder in folders) == 2


async def test_a_dry_run_removes_nothing_and_gives_the_same_verdicts(mirror: Mirror) -> None:
    jobs = await fill(mirror)

    planned = await pruned(mirror, KeepPolicy(last=1), dry_run=True)

    assert jobs_of(mirror) == set(jobs)
    assert planned.removed == 4
    assert planned.requests[0].is_too_much
    done = await pruned(mirror, KeepPolicy(last=1), force=True)
    assert done.requests == planned.requests


async def test_more_than_two_fifths_at_once_is_refused_and_nothing_is_removed(mirror: Mirror) -> None:
    jobs = await fill(mirror)
    other = mirror.world.add_request("Other")
    jobs += [add_extract(mirror, tables(1, seed=day), request=other, days_ago=9 - day) for day in range(4)]
    await mirror.sync()

    with pytest.raises(MassChange, match="3 of 5 snapshots of 'My Company Data Extract'"):
        await pruned(mirror, KeepPolicy(last=2))

    assert jobs_of(mirror) == set(jobs)
    assert set((await states(mirror)).values()) == {JobState.PUBLISHED}


async def test_one_alone_may_always_go_so_that_last_1_works_every_night(mirror: Mirror) -> None:
    for day in range(3):
        job = add_extract(mirror, tables(1, seed=day), days_ago=3 - day)
        await mirror.sync()
        await pruned(mirror, KeepPolicy(last=1))

        assert jobs_of(mirror) == {job}


async def test_without_a_policy_everything_stays(mirror: Mirror) -> None:
    jobs = await fill(mirror)

    assert (await pruned(mirror, KeepPolicy())).removed == 0
    assert jobs_of(mirror) == set(jobs)


async def test_deltas_are_never_pruned(mirror: Mirror) -> None:
    delta = mirror.world.add_request("Changes", service_groups=("cdcadmin",), date_range="YESTERDAY")
    jobs = await fill(mirror, request=delta)

    report = await pruned(mirror, KeepPolicy(last=1), force=True)

    assert jobs_of(mirror) == set(jobs)
    assert report.requests[0].is_delta


@pytest.mark.parametrize("kind", ["symlink", "hardlinks"])
async def test_what_latest_shows_stays_even_when_it_was_left_behind(mirror: Mirror, kind: str) -> None:
    mirror.config["mirror"] = {"latest": kind}
    jobs = await fill(mirror, days=2)
    (latest,) = mirror.root.glob("acme/*/latest")
    older = mirror.snapshot_of(jobs[0])
    async with mirror.opened() as context:
        # After the start has put it right: as a kill in this run would leave it.
        if kind == "symlink":
            latest.unlink()
            latest.symlink_to(older.relative_to(latest.parent))
        else:
            shutil.rmtree(latest)
            shutil.copytree(older, latest, copy_function=os.link)

        report = await prune(context, account_settings(mirror.configuration()), KeepPolicy(last=1), force=True)

    assert report.removed == 0
    assert report.requests[0].verdicts[1].reasons == ("latest",)
    assert jobs_of(mirror) >= set(jobs)


async def test_days_are_those_of_the_configured_zone(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"timezone": "Pacific/Kiritimati"}
    # 22:00 and 02:00 UTC are noon and 16:00 of one day there, at UTC+14; in UTC they are two days.
    for hours in (38, 34, 14, 10):
        add_extract(mirror, {"a.csv": b"%d" % hours}, days_ago=hours / 24)
    await mirror.sync()

    report = await pruned(mirror, KeepPolicy(daily=9), dry_run=True)

    assert report.removed == 2


async def test_a_pruned_job_is_not_fetched_again(mirror: Mirror) -> None:
    await fill(mirror)
    await pruned(mirror, KeepPolicy(last=3))

    assert (await mirror.sync_one()).published == []


async def test_no_snapshot_is_ever_half_there_for_a_reader(mirror: Mirror) -> None:
    """A reader looks between any two steps of the event loop, and in other threads all the time."""
    jobs = await fill(mirror, days=8)
    paths = {job: mirror.snapshot_of(job) for job in jobs}
    whole = {job: sorted(path.name for path in folder.iterdir()) for job, folder in paths.items()}
    odd: list[str] = []
    done = asyncio.Event()

    def look() -> None:
        for job, folder in paths.items():
            try:
                # One look at a path: what a reader who opens the folder anew finds.
                names = sorted(path.name for path in folder.iterdir())
            except FileNotFoundError:
                continue
            if names != whole[job] and folder.exists():
                odd.append(f"{job}: {names}")

    async def watch() -> None:
        while not done.is_set():
            await asyncio.to_thread(look)

    async with mirror.opened() as context, asyncio.TaskGroup() as group:
        group.create_task(watch())
        await prune(context, account_settings(mirror.configuration()), KeepPolicy(last=2), force=True)
        done.set()

    assert odd == []
    assert len(mirror.snapshots()) == 2


async def test_a_cancelled_run_leaves_each_snapshot_whole_or_gone(mirror: Mirror) -> None:
    await fill(mirror, days=6)
    before = mirror.snapshots()
    async with mirror.opened() as context, asyncio.TaskGroup() as group:
        task = group.create_task(
            prune(context, account_settings(mirror.configuration()), KeepPolicy(last=1), force=True)
        )
        while all(path.exists() for path in before):  # noqa: ASYNC110 - nothing tells of it but the disk
            await asyncio.sleep(0)  # noqa: TID251
        task.cancel()

    left = mirror.snapshots()
    assert 1 <= len(left) < 6
    known = await states(mirror)
    assert {job for job, state in known.items() if state is JobState.PUBLISHED} == jobs_of(mirror)
    assert in_trash(mirror) == []
