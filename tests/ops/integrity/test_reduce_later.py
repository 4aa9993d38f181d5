"""What later runs, verification and comparison make of a snapshot that lost its full tables."""

from __future__ import annotations

import asyncio
import shutil
from threading import Thread

import pytest

from dcsync.app.from_config import account_settings
from dcsync.app.mirror import open_mirror_unlocked, read_mirror
from dcsync.app.status import read_status
from dcsync.core.diff import Fate
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName
from dcsync.core.retention import KeepPolicy
from dcsync.ops.diff import compare
from dcsync.ops.integrity.content_reader import Unwatched
from dcsync.ops.integrity.prune import PruneReport
from dcsync.ops.integrity.verify import verify
from tests.rigs.ended import join
from tests.rigs.mirror import Mirror, add_extract, sidecar, tables
from tests.rigs.reductions import FULL, LARGE, WINDOWS, damage, fill, full_tables, pruned, window


async def test_a_later_snapshot_links_to_the_newest_whole_one(mirror: Mirror) -> None:
    jobs = await fill(mirror, 3)
    await pruned(mirror, KeepPolicy(last=1))
    new = add_extract(mirror, {**tables(2, size=LARGE, seed=2), WINDOWS[0]: window(WINDOWS[0], 9)})

    outcome = await mirror.sync_one()

    assert [published.job for published in outcome.published] == [new]
    whole = mirror.snapshot_of(jobs[2])
    assert (whole / FULL[0]).samefile(mirror.snapshot_of(new) / FULL[0])
    assert sidecar(mirror.snapshot_of(new))["changes"]["against"] == jobs[2]
    (latest,) = mirror.root.glob("acme/*/latest")
    assert latest.resolve() == mirror.snapshot_of(new)


async def test_the_days_of_a_reduced_snapshot_are_still_covered(mirror: Mirror) -> None:
    await fill(mirror)

    report = await pruned(mirror, KeepPolicy(weekly=2))

    assert report.kept == 2
    assert "L-GAP" not in (await read_status(mirror.configuration(), mirror.stores(), clock=mirror.clock)).codes


async def test_a_lost_folder_of_a_reduced_snapshot_is_missed(mirror: Mirror) -> None:
    jobs = await fill(mirror, 3)
    await pruned(mirror, KeepPolicy(last=1))
    shutil.rmtree(mirror.snapshot_of(jobs[0]))

    assert (await mirror.states())[jobs[0]] is JobState.SEEN
    await mirror.sync()
    mirror.assert_identical(jobs[0])
    assert (await pruned(mirror, KeepPolicy(last=1))).reduced == 1


async def test_damage_of_a_reduced_snapshot_is_found_and_repaired(mirror: Mirror) -> None:
    jobs = await fill(mirror, 2)
    await pruned(mirror, KeepPolicy(last=1))
    damaged = mirror.snapshot_of(jobs[0]) / WINDOWS[0]
    damaged.chmod(0o644)
    damaged.write_bytes(b"x" * damaged.stat().st_size)

    assert len(await damage(mirror)) == 1
    async with mirror.opened() as context:
        report = await verify(context, account_settings(mirror.configuration()), repair=True)

    assert [item.outcome.value for item in report.damage] == ["repaired"]
    assert damaged.read_bytes() == window(WINDOWS[0], 0)
    assert await damage(mirror) == []


async def test_a_damaged_snapshot_stays_whole_and_the_others_are_reduced(mirror: Mirror) -> None:
    jobs = await fill(mirror, 4)
    (mirror.snapshot_of(jobs[1]) / WINDOWS[0]).unlink()
    (mirror.snapshot_of(jobs[2]) / "_dcsync.json").chmod(0o644)
    (mirror.snapshot_of(jobs[2]) / "_dcsync.json").write_text("{}")

    report = await pruned(mirror, KeepPolicy(last=1))

    assert report.reduced == 1
    assert report.exit_status == 3
    assert set(report.failed) == {jobs[1], jobs[2]}
    assert [job for job, state in (await mirror.states()).items() if state is JobState.REDUCED] == [jobs[0]]
    assert len(full_tables(mirror)) == 3 * len(FULL)


async def test_a_verify_that_runs_at_the_same_time_reports_no_damage(mirror: Mirror) -> None:
    await fill(mirror, 2)

    class PrunesMeanwhile(Unwatched):
        """Prunes in another thread as soon as the first bytes of the older snapshot are read."""

        older = False
        reduced = 0

        def snapshot(self, folder: str, number: int, of: int) -> None:
            self.older = number == of

        def read(self, size: int) -> None:
            if self.older and not self.reduced:
                other = Thread(target=self.prune, daemon=True)
                other.start()
                join(other)

        def prune(self) -> None:
            self.reduced = asyncio.run(prune_once()).reduced

    async def prune_once() -> PruneReport:
        return await pruned(mirror, KeepPolicy(last=1))

    meanwhile = PrunesMeanwhile()
    async with open_mirror_unlocked(mirror.configuration(), mirror.stores(), clock=mirror.clock) as context:
        report = await verify(context, account_settings(mirror.configuration()), observer=meanwhile)

    assert meanwhile.reduced == 1
    assert report.damage == []


@pytest.mark.parametrize("sidecar_is_lost", [False, True])
async def test_a_reduced_snapshot_is_compared_in_the_tables_that_it_still_has(
    mirror: Mirror, sidecar_is_lost: bool
) -> None:
    jobs = await fill(mirror, 3)
    await pruned(mirror, KeepPolicy(last=1))
    if sidecar_is_lost:
        (mirror.snapshot_of(jobs[0]) / "_dcsync.json").unlink()

    async with read_mirror(mirror.configuration(), mirror.stores()) as context:
        found = await compare(context, [AccountName("acme")], jobs[0], "latest")

    assert found.before.is_reduced
    assert found.not_compared == FULL
    assert [(entry.name, entry.fate) for entry in found.diff.tables] == [(name, Fate.CHANGED) for name in WINDOWS]
    assert (found.files_before, found.files_after) == (3, 3)
