"""The daemon of one of several hosts: what it asks the queue for, and what it tells of what it did."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from dcsync.app.sync import open_dispatcher
from dcsync.cluster.hosts import Hosts
from dcsync.cluster.queue import HeldTask, Pace
from dcsync.cluster.session import SharedSession
from dcsync.daemon.open_order import OpenOrder
from dcsync.daemon.progress import Progress
from dcsync.daemon.sd_notify import Notifier
from dcsync.daemon.session_parts import SessionParts, Signals
from dcsync.errors import MirrorError, MirrorLocked
from dcsync.manifest import HookRuns, StoredValues
from dcsync.ops.mirroring.outcome import Wanted
from dcsync.ops.mirroring.run import mirror_job
from tests.cluster.test_peers import config_of
from tests.rigs.mirror import TODAY, Mirror, add_extract, mirroring, tables

FAST = Pace(heartbeat_s=0.2, silence_s=2.0, stalled_cron="* * * * * *", due_cron="* * * * * *", fetch_s=0.2)


@dataclass(slots=True, kw_only=True)
class Rig:
    mirror: Mirror
    sessions: list[SharedSession]

    async def queued(self) -> list[tuple[str, str]]:
        """Return the tasks that wait: their names, and the job of those that have one."""
        async with self.sessions[0].context.manifest.reading() as connection:
            rows = await connection.execute(
                sa.text("SELECT task_name, coalesce(args ->> 'job', '') FROM procrastinate_jobs ORDER BY id")
            )
            return [(row[0].removeprefix("dcsync:"), row[1]) for row in rows]

    async def forget_queue(self) -> None:
        async with self.sessions[0].context.manifest.writing() as connection:
            await connection.execute(sa.text("DELETE FROM procrastinate_jobs"))


@pytest.fixture
async def rig(tmp_path: Path, database: str) -> AsyncIterator[Rig]:
    async with mirroring(tmp_path) as mirror, AsyncExitStack() as stack:
        mirror.config["hook"] = [{"on": ["snapshot"], "run": ["true"]}]
        made = Rig(mirror=mirror, sessions=[])
        for number in (1, 2):
            config = config_of(mirror, database, number)
            context = await stack.enter_async_context(mirror.opened(role="run", config=config))
            dispatcher = await open_dispatcher(
                config, mirror.stores(config), context, environ=mirror.environ, runs_hooks=False
            )
            parts = SessionParts(
                config=config,
                context=context,
                dispatcher=dispatcher,
                progress=Progress(mirror.clock),
                notifier=Notifier({}),
                signals=Signals(),
            )
            session = SharedSession(parts, pace=FAST)
            await stack.enter_async_context(session._queue.opened())
            made.sessions.append(session)
        yield made


async def test_an_account_is_polled_when_its_time_has_come_and_asked_for_once(rig: Rig) -> None:
    one, other = rig.sessions
    for session in (one, other, one):
        await session.due()
    assert await rig.queued() == [("poll", "")]

    await rig.forget_queue()
    await one.poll("acme")
    await rig.forget_queue()
    await other.due()
    assert await rig.queued() == []

    rig.mirror.clock.advance(16 * 60)
    await other.due()
    assert await rig.queued() == [("poll", "")]


async def test_a_poll_asks_for_the_jobs_that_are_due_oldest_first(rig: Rig) -> None:
    newest, oldest, middle = [
        add_extract(rig.mirror, tables(2, seed=int(days)), days_ago=days) for days in (1.0, 3.0, 2.0)
    ]

    await rig.sessions[0].poll("acme")

    jobs = [job for name, job in await rig.queued() if name == "mirror"]
    assert jobs == [oldest, middle, newest]


@pytest.mark.parametrize(
    ("hour", "kinds"), [(0, set()), (1, {"keep-alive"}), (3, {"keep-alive", "prune", "verify"}), (12, set())]
)
async def test_each_chore_is_asked_for_in_its_hours_and_once_a_night(rig: Rig, hour: int, kinds: set[str]) -> None:
    one, other = rig.sessions
    night = datetime(2026, 11, 23, hour, 10, tzinfo=TODAY.tzinfo)
    rig.mirror.clock.advance((night - TODAY).total_seconds())
    for session in (one, other):
        await session.due()
    assert {name for name, _ in await rig.queued()} - {"poll"} == kinds

    await rig.forget_queue()
    for kind in kinds:
        await one.chore(kind)
    await other.due()
    assert {name for name, _ in await rig.queued()} - {"poll"} == set()

    rig.mirror.clock.advance(86400)
    await other.due()
    assert {name for name, _ in await rig.queued()} - {"poll"} == kinds


async def test_snapshots_of_two_hosts_at_the_same_time_are_told_of_once_each(rig: Rig) -> None:
    requests = [rig.mirror.world.add_request(f"Request {number}") for number in range(6)]
    jobs = [add_extract(rig.mirror, tables(2, seed=n), request=request) for n, request in enumerate(requests)]
    one, other = rig.sessions
    await one.poll("acme")
    tickets = await take_all(rig)

    async with asyncio.TaskGroup() as group:
        for number, job in enumerate(jobs):
            session = (one, other)[number % 2]
            group.create_task(session.mirror("acme", job, tickets[job]))
    # Those who come late tell nothing again.
    await one.poll("acme")

    hooks = await HookRuns(one.context.manifest).latest()
    assert sorted(str(hook.job) for hook in hooks) == sorted(jobs)


async def take_all(rig: Rig) -> dict[str, HeldTask]:
    """Take every job from the queue, as workers would."""
    async with rig.sessions[0].context.manifest.writing() as connection:
        worker = await connection.scalar(sa.text("SELECT worker_id FROM procrastinate_register_worker_v1()"))
        rows = await connection.execute(
            sa.text(
                "UPDATE procrastinate_jobs SET status = 'doing', worker_id = :worker WHERE queue_name = 'mirror' "
                "RETURNING id, args ->> 'job'"
            ),
            {"worker": worker},
        )
        return {row[1]: HeldTask(id=row[0], worker=worker, attempts=0) for row in rows}


async def test_a_snapshot_that_was_published_and_not_told_of_is_told_of_by_the_next_one(rig: Rig) -> None:
    """Its host was killed in between."""
    first = add_extract(rig.mirror, tables(2), days_ago=2)
    one, other = rig.sessions
    await one.poll("acme")
    tickets = await take_all(rig)
    await mirror_job(one.context, one._accounts[next(iter(one._accounts))], first)  # type: ignore[arg-type]
    assert await HookRuns(one.context.manifest).latest() == ()
    assert tickets

    await other.poll("acme")

    assert [hook.job for hook in await HookRuns(one.context.manifest).latest()] == [first]


async def test_an_account_that_another_host_s_configuration_has_is_left_to_that_one(rig: Rig) -> None:
    await rig.sessions[0].poll("unknown")
    await rig.sessions[0].mirror("unknown", "job", HeldTask(id=1, worker=1, attempts=0))

    assert rig.mirror.sandbox.count("api") == 0


async def test_a_failed_job_brings_the_next_poll_forward(rig: Rig) -> None:
    job = add_extract(rig.mirror, tables(2))
    one = rig.sessions[0]
    await one.poll("acme")
    tickets = await take_all(rig)
    rig.mirror.world.jobs.clear()  # its listing is gone

    await one.mirror("acme", job, tickets[job])

    kept = await StoredValues(one.context.manifest).load("poll:acme")
    assert kept is not None
    assert datetime.fromisoformat(kept) < rig.mirror.clock.now() + timedelta(minutes=10)


async def test_a_command_that_needs_the_mirror_to_one_host_names_the_others(rig: Rig) -> None:
    one, other = rig.sessions
    async with one.visited() as visit:
        order = OpenOrder(visit, rig.mirror.stores(one.config), lambda _: None)
        with pytest.raises(MirrorLocked, match="only while no other host is running, and these are: ") as pruned:
            await order.prune([], force=True)
        with pytest.raises(MirrorLocked) as synced:
            await order.sync([], Wanted())
        with pytest.raises(MirrorLocked):
            await order.repair([], part=None, rate=None)
        with pytest.raises(MirrorLocked):
            await order.rebuild()
        assert order.poll() == ["acme"]
        assert await order.rerun_hooks("unknown") == (0, ())
        assert "stop the daemon on" in pruned.value.advice
        assert "run dcsync poll" in synced.value.advice

        await Hosts(one.context.manifest).leave(other._host)

        assert (await order.prune([], force=True)).removed == 0


async def test_a_job_that_a_command_names_is_mirrored_on_any_host(rig: Rig) -> None:
    job = add_extract(rig.mirror, tables(2))
    one = rig.sessions[0]
    async with one.visited() as visit:
        order = OpenOrder(visit, rig.mirror.stores(one.config), lambda _: None)

        (outcome,) = await order.sync(["acme"], Wanted(jobs=(job,)))

    assert [published.job for published in outcome.published] == [job]
    rig.mirror.assert_identical(job)
    assert ("hooks", "") in [(name, what or "") for name, what in await rig.queued()]


async def test_a_mirror_that_goes_away_ends_the_session(rig: Rig) -> None:
    one = rig.sessions[0]
    rig.mirror.root.rename(rig.mirror.folder / "elsewhere")

    await one.poll("acme")

    assert one._signals.end.is_set()
    assert isinstance(one._lost, MirrorError)
    (rig.mirror.folder / "elsewhere").rename(rig.mirror.root)
