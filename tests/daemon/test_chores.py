"""The nightly maintenance: each task does its work and returns whether it sent an event."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import pytest

from dcsync.app.alerts import alert_settings
from dcsync.app.from_config import account_settings
from dcsync.app.status import read_status
from dcsync.app.sync import open_dispatcher
from dcsync.cluster import stores_for
from dcsync.core.alerts import Alert
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.daemon.chores import NIGHT, Chores
from dcsync.daemon.progress import Progress
from dcsync.daemon.schedule import Kind
from dcsync.errors import DiskFault
from dcsync.manifest import HookRuns, SqlManifest
from dcsync.mirror import trash
from dcsync.ops.alerts.dispatch import AlertDispatcher
from tests.rigs.mirror import Mirror, add_extract, tables
from tests.rigs.sqlite import raw

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


async def test_damage_of_the_manifest_is_an_alert_until_it_is_rebuilt(mirror: Mirror) -> None:
    jobs = await fill(mirror, 2)
    manifest = mirror.state / "manifest.sqlite"
    async with chores(mirror) as work:
        await work.do(Kind.CHECK)
        assert await codes(mirror) == []
        with raw(manifest) as connection:
            connection.execute("UPDATE content SET sha256 = 'changed' WHERE id = 1")

        await work.do(Kind.CHECK)

        (standing,) = await alerts(mirror)
        assert (standing.code, standing.subject) == ("D-CHORE", "check")
        assert str(manifest) in standing.message
        assert "dcsync rebuild" in standing.hint
    # The next start checks every row again, and rebuilds the manifest.
    assert (await mirror.sync_one()).failed == []
    assert set(await mirror.states()) == set(jobs)
    assert await codes(mirror) == []
    assert len(list(mirror.state.glob("manifest.sqlite.damaged-*"))) == 1


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


async def test_a_snapshot_that_cannot_be_pruned_is_an_alert_until_a_night_prunes_or_keeps_it(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.config["keep"] = {"last": 2}
    jobs = await fill(mirror, 3)
    name, rename = mirror.snapshot_of(jobs[0]).name, os.rename

    def refuse(source: Any, *others: Any, **options: Any) -> None:
        if source == name:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        rename(source, *others, **options)

    monkeypatch.setattr(os, "rename", refuse)
    async with chores(mirror) as work:
        assert await work.do(Kind.PRUNE)
        assert await codes(mirror) == ["M-PRUNE"]
        assert not await work.do(Kind.PRUNE)

    mirror.config["keep"] = {"last": 0}
    async with chores(mirror) as work:
        assert await work.do(Kind.PRUNE)
        assert await codes(mirror) == []


async def test_the_trash_is_tried_again_every_night(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    """An open file on NFS: its name becomes `.nfs…`, and its folder is not empty until it is closed."""
    mirror.config["keep"] = {"last": 2}
    await fill(mirror, 3)
    rmdir = os.rmdir

    def refuse(path: Any, *, dir_fd: int | None = None) -> None:
        if len(str(path)) == 32:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        rmdir(path, dir_fd=dir_fd)

    async with chores(mirror) as work:
        with monkeypatch.context() as patch:
            patch.setattr(os, "rmdir", refuse)
            assert await work.do(Kind.PRUNE)
            assert await codes(mirror) == ["M-TRASH"]
            assert len(trash.leaves(work.context.root)) == 1

        assert await work.do(Kind.PRUNE)
        assert await codes(mirror) == []
        assert trash.leaves(work.context.root) == set()


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


# --- boundaries -------------------------------------------------------------------------------------------------------


class _Failing:
    """Stands for a part that raises whatever is asked of it."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getattr__(self, name: str) -> object:
        raise self.error


def broken(work: Chores, kind: Kind, error: Exception) -> Chores:
    """Return the chores with the part of one task broken."""
    match kind:
        case Kind.KEEP_ALIVE:
            return replace(work, context=replace(work.context, api=cast("Any", _Failing(error))))
        case Kind.PRUNE:
            return replace(work, context=replace(work.context, root=cast("Any", _Failing(error))))
        case Kind.VERIFY:
            return replace(work, progress=cast("Any", _Failing(error)))
        case Kind.CHECK:

            class Damaged(SqlManifest):
                async def check_rows(self) -> None:
                    raise error

            return replace(work, context=replace(work.context, manifest=Damaged(work.context.manifest.backend)))
        case _:

            class Dispatcher(AlertDispatcher):
                async def tidy(self) -> None:
                    raise error

            config = work.config
            settings = alert_settings(config, stores_for(config, {}), environ={})
            clock, manifest = work.context.clock, work.context.manifest
            return replace(work, dispatcher=Dispatcher(manifest=manifest, clock=clock, settings=settings))


@pytest.mark.parametrize("error", [DiskFault("reading a file: it went wrong"), KeyError("s3cret")], ids=["disk", "bug"])
@pytest.mark.parametrize("kind", NIGHT)
async def test_a_task_that_fails_is_an_alert_until_it_succeeds(mirror: Mirror, kind: Kind, error: Exception) -> None:
    mirror.config["keep"] = {"last": 2}
    mirror.config["verify"] = {"part_days": 1}
    await fill(mirror, 3)

    async with chores(mirror) as work:
        await broken(work, kind, error).do(kind)
        (standing,) = await alerts(mirror)
        assert (standing.code, standing.subject) == ("D-CHORE", kind.value)
        assert "the next night" in standing.hint
        assert "s3cret" not in standing.message + standing.hint
        for other in NIGHT:
            if other is not kind:
                await work.do(other)
        assert await codes(mirror) == ["D-CHORE"]

        await work.do(kind)
        assert await alerts(mirror) == []
        assert len(mirror.snapshots()) == 2


async def alerts(mirror: Mirror) -> list[Alert]:
    """Return the alerts that status shows."""
    status = await read_status(mirror.configuration(), mirror.stores(), clock=mirror.clock)
    return [item.alert for account in status.accounts for item in account.alerts]


async def codes(mirror: Mirror) -> list[str]:
    """Return the codes that status shows."""
    return (await read_status(mirror.configuration(), mirror.stores(), clock=mirror.clock)).codes
