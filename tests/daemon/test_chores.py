"""The nightly maintenance: each task does its work and returns whether it sent an event."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dcsync.app.from_config import account_settings
from dcsync.app.status import read_status
from dcsync.app.sync import open_dispatcher
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.daemon.chores import NIGHT, Chores
from dcsync.daemon.progress import Progress
from dcsync.daemon.schedule import Kind
from dcsync.manifest import HookRuns
from dcsync.mirror import trash
from tests.rigs.mirror import Mirror, add_extract, tables

ACME = AccountName("acme")


@asynccontextmanager
async def chores(mirror: Mirror) -> AsyncIterator[Chores]:
    mirror.config["hook"] = [{"on": ["alert"], "run": ["true"]}]
    config = mirror.configuration()
    async with mirror.opened() as context:
        dispatcher = await open_dispatcher(
            config, mirror.stores(config), context, environ=mirror.environ, runs_hooks=False
        )
        progress, accounts = Progress(mirror.clock), account_settings(config)
        yield Chores(config=config, context=context, dispatcher=dispatcher, progress=progress, accounts=accounts)


async def fill(mirror: Mirror, days: int) -> list[str]:
    jobs = [add_extract(mirror, tables(2, seed=day), days_ago=days - day) for day in range(days)]
    await mirror.sync()
    return jobs


async def waiting(work: Chores) -> int:
    """Return how many hooks are due."""
    return len(await HookRuns(work.context.manifest).due(work.context.clock.now()))


@pytest.mark.parametrize("kind", NIGHT)
async def test_an_undamaged_mirror_raises_no_alert(mirror: Mirror, kind: Kind) -> None:
    mirror.config["keep"] = {"last": 2}
    await fill(mirror, 3)

    async with chores(mirror) as work:
        assert not await work.do(kind)
        assert await waiting(work) == 0
    assert len(mirror.snapshots()) == (2 if kind is Kind.PRUNE else 3)


async def test_a_mass_change_is_reported_and_nothing_is_removed(mirror: Mirror) -> None:
    mirror.config["keep"] = {"last": 1}
    await fill(mirror, 4)

    async with chores(mirror) as work:
        assert await work.do(Kind.PRUNE)
        assert await waiting(work) == 1
    assert len(mirror.snapshots()) == 4


async def test_a_refused_prune_is_an_alert_until_one_passes(mirror: Mirror) -> None:
    mirror.config["keep"] = {"last": 1}
    await fill(mirror, 4)
    async with chores(mirror) as work:
        await work.do(Kind.PRUNE)
        assert not await work.do(Kind.PRUNE)
        assert await work.do(Kind.VERIFY) is False
        assert await codes(mirror) == ["M-MASS"]

    mirror.config["keep"] = {"last": 3}
    async with chores(mirror) as work:
        assert await work.do(Kind.PRUNE)
        assert await codes(mirror) == []


async def test_without_a_policy_no_refusal_is_left(mirror: Mirror) -> None:
    mirror.config["keep"] = {"last": 1}
    await fill(mirror, 4)
    async with chores(mirror) as work:
        await work.do(Kind.PRUNE)

    mirror.config["keep"] = {"last": 0}
    async with chores(mirror) as work:
        assert await work.do(Kind.PRUNE)
        assert await codes(mirror) == []


async def test_a_half_pruned_snapshot_is_removed_completely(mirror: Mirror) -> None:
    """Also without a retention policy, because the prune was started with one."""
    jobs = await fill(mirror, 2)

    async with chores(mirror) as work:
        root, manifest = work.context.root, work.context.manifest
        folder = (await manifest.published_folders(ACME))[JobId(jobs[0])]
        trash.discard(root, folder, trash.trash_leaf(ACME, JobId(jobs[0])), depth=2)

        assert not await work.do(Kind.PRUNE)

        states = {job: known.state for job, known in (await manifest.jobs(ACME)).items()}
        assert states == {jobs[0]: JobState.PRUNED, jobs[1]: JobState.PUBLISHED}
        assert trash.leaves(root) == set()


async def test_damage_is_an_alert_until_a_later_verify_finds_the_file_whole_again(mirror: Mirror) -> None:
    mirror.config["verify"] = {"part_days": 1}
    (job,) = await fill(mirror, 1)
    damaged = mirror.snapshot_of(job) / "admin_table_001.csv"
    whole = damaged.read_bytes()
    damaged.chmod(0o644)
    damaged.write_bytes(b"x" * len(whole))

    async with chores(mirror) as work:
        assert await work.do(Kind.VERIFY)
        assert await waiting(work) == 1
        assert await codes(mirror) == ["V-DAMAGED"]
        assert not await work.do(Kind.VERIFY)
        damaged.write_bytes(whole)
        assert await work.do(Kind.VERIFY)
        assert await codes(mirror) == []


async def test_a_damage_alert_lasts_while_other_parts_are_verified(mirror: Mirror) -> None:
    mirror.config["verify"] = {"part_days": 3}
    (job,) = await fill(mirror, 1)
    damaged = mirror.snapshot_of(job) / "admin_table_001.csv"
    whole = damaged.read_bytes()
    damaged.chmod(0o644)
    damaged.write_bytes(b"x" * len(whole))

    async with chores(mirror) as work:
        nights = []
        for _ in range(3):
            await work.do(Kind.VERIFY)
            nights.append(await codes(mirror))
        damaged.write_bytes(whole)
        for _ in range(3):
            await work.do(Kind.VERIFY)
            nights.append(await codes(mirror))

    found = nights.index(["V-DAMAGED"])
    assert nights == [[]] * found + [["V-DAMAGED"]] * 3 + [[]] * (3 - found)


async def test_damage_of_a_snapshot_that_is_no_longer_published_is_no_alert(mirror: Mirror) -> None:
    mirror.config["verify"] = {"part_days": 1}
    (job,) = await fill(mirror, 1)
    damaged = mirror.snapshot_of(job) / "admin_table_001.csv"
    damaged.chmod(0o644)
    damaged.write_bytes(b"x" * damaged.stat().st_size)

    async with chores(mirror) as work:
        await work.do(Kind.VERIFY)
        await work.context.manifest.move(ACME, JobId(job), JobState.PRUNED, at=mirror.clock.now())
        assert await codes(mirror) == []


async def codes(mirror: Mirror) -> list[str]:
    """Return the codes that status shows."""
    return (await read_status(mirror.configuration(), mirror.stores(), clock=mirror.clock)).codes
