"""The queue of several hosts: each task for one at a time, in order, and only its holder's to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import sqlalchemy as sa
from procrastinate.jobs import Job, Status

from dcsync.cluster.database import Database, parse_database
from dcsync.cluster.manifest import open_shared_manifest
from dcsync.cluster.queue import CHORES, HeldTask, Pace, Queue
from dcsync.errors import DatabaseUnreachable
from dcsync.manifest import SqlManifest
from tests.rigs.postgres import Postgres
from tests.rigs.waiting import until

FAST = Pace(heartbeat_s=0.2, silence_s=2.0, stalled_cron="* * * * * *", due_cron="* * * * * *", fetch_s=0.2)


@dataclass(slots=True)
class Recorder:
    """Meets `Handlers`: notes what came, and does what a test wants besides."""

    came: list[tuple[str, ...]] = field(default_factory=list)
    tickets: list[HeldTask] = field(default_factory=list)
    looked: int = 0
    then: Callable[[tuple[str, ...]], Awaitable[None]] | None = None

    async def poll(self, account: str) -> None:
        await self._note("poll", account)

    async def mirror(self, account: str, job: str, held: HeldTask) -> None:
        self.tickets.append(held)
        await self._note("mirror", account, job)

    async def chore(self, kind: str) -> None:
        await self._note("chore", kind)

    async def due(self) -> None:
        self.looked += 1

    async def _note(self, *what: str) -> None:
        self.came.append(what)
        if self.then is not None:
            await self.then(what)


@pytest.fixture
def place(database: str) -> Database:
    return parse_database(database)


@pytest.fixture
async def manifest(place: Database) -> AsyncIterator[SqlManifest]:
    async with open_shared_manifest(place) as opened:
        yield opened


async def nobody(_: int) -> None:
    """Nobody needs to hear of a worker."""


def make_queue(place: Database, handlers: Recorder) -> Queue:
    return Queue(place, handlers, pace=FAST, arrived=nobody, label="test")


@asynccontextmanager
async def working(place: Database, handlers: Recorder) -> AsyncIterator[Queue]:
    """Let a host work during the block; what it has in hand at its end is cancelled."""
    queue = make_queue(place, handlers)
    async with queue.opened(), asyncio.TaskGroup() as group:
        group.create_task(queue.work())
        try:
            yield queue
        finally:
            queue.stop()
            queue.hurry()


async def rows(manifest: SqlManifest, query: str) -> list[tuple[object, ...]]:
    async with manifest.reading() as connection:
        return [tuple(row) for row in await connection.execute(sa.text(query))]


async def change(manifest: SqlManifest, statement: str) -> None:
    async with manifest.writing() as connection:
        await connection.execute(sa.text(statement))


async def test_tasks_are_done_once_by_two_hosts_and_leave_nothing_behind(
    place: Database, manifest: SqlManifest
) -> None:
    one, other = Recorder(), Recorder()
    async with working(place, one) as queue, working(place, other):
        for number in range(10):
            await queue.mirror("acme", f"request-{number}", f"job-{number}")
        await queue.poll("acme")
        for kind in CHORES:
            await queue.chore(kind)
        await until(lambda: len(one.came) + len(other.came) == 11 + len(CHORES))
        await until(lambda: one.looked + other.looked > 1)

    came = one.came + other.came
    assert len(set(came)) == len(came)
    left = await rows(manifest, "SELECT task_name FROM procrastinate_jobs WHERE queue_name <> 'control'")
    assert left == []


async def test_the_jobs_of_a_request_go_one_after_another_in_their_order(
    place: Database, manifest: SqlManifest
) -> None:
    at_once: list[int] = []

    async def take_a_while(_: tuple[str, ...]) -> None:
        at_once.append(sum(len(host.came) for host in (one, other)))
        await asyncio.sleep(0.05)  # noqa: TID251 - so that they could meet

    one, other = Recorder(then=take_a_while), Recorder(then=take_a_while)
    asking = make_queue(place, one)
    async with asking.opened():
        for number in range(8):
            await asking.mirror("acme", "request", f"job-{number}")
    order: list[str] = []
    async with working(place, one), working(place, other):
        while len(order) < 8:
            order = [what[2] for what in sorted(one.came + other.came, key=lambda what: what[2])]
            await asyncio.sleep(0.02)  # noqa: TID251 - the database's work

    assert at_once == list(range(1, 9))
    assert [what[2] for what in one.came] == sorted(what[2] for what in one.came)


async def test_what_is_asked_for_twice_before_it_begins_is_done_once(place: Database, manifest: SqlManifest) -> None:
    handlers = Recorder()
    queue = make_queue(place, handlers)
    async with queue.opened():
        for _ in range(3):
            await queue.poll("acme")
            await queue.mirror("acme", "request", "job")
            await queue.chore("prune")

    assert len(await rows(manifest, "SELECT 1 FROM procrastinate_jobs")) == 3


async def test_a_host_that_ends_gives_its_work_to_another_at_once(place: Database, manifest: SqlManifest) -> None:
    async def forever(_: tuple[str, ...]) -> None:
        await asyncio.Event().wait()

    one, other = Recorder(then=forever), Recorder()
    async with working(place, one) as queue:
        await queue.mirror("acme", "request", "job")
        await until(lambda: one.came)
    async with working(place, other):
        await until(lambda: other.came)

    assert other.came == [("mirror", "acme", "job")]
    # Once more for what the host gave back; where that came late, once more for a host that is not heard of.
    assert other.tickets[0].attempts > one.tickets[0].attempts


async def test_a_bug_in_one_task_ends_neither_the_host_nor_the_others(place: Database, manifest: SqlManifest) -> None:
    async def fail(what: tuple[str, ...]) -> None:
        if what[0] == "poll":
            raise ZeroDivisionError

    handlers = Recorder(then=fail)
    async with working(place, handlers) as queue:
        await queue.poll("acme")
        await until(lambda: handlers.came)
        await queue.mirror("acme", "request", "job")
        await until(lambda: len(handlers.came) == 2)


async def test_a_database_that_goes_away_is_said_as_one(
    place: Database, manifest: SqlManifest, postgres_server: Postgres
) -> None:
    queue = make_queue(place, Recorder())
    async with queue.opened():
        work = asyncio.get_running_loop().create_task(queue.work())
        await asyncio.sleep(0.5)  # noqa: TID251 - until it is at work
        with postgres_server.outage():
            with pytest.raises(ExceptionGroup) as caught:
                await work
            with pytest.raises(DatabaseUnreachable):
                await queue.poll("acme")

    assert all(isinstance(error, DatabaseUnreachable) for error in caught.value.exceptions)


# --- a host that was frozen -------------------------------------------------------------------------------------------


async def take(manifest: SqlManifest, *, job: str = "job") -> Job:
    """Let a worker that is not of this process take a task, and return it as that worker knows it."""
    async with manifest.writing() as connection:
        worker = await connection.scalar(sa.text("SELECT worker_id FROM procrastinate_register_worker_v1()"))
        row = (
            await connection.execute(
                sa.text("SELECT id, attempts FROM procrastinate_fetch_job_v2(NULL, :worker)"), {"worker": worker}
            )
        ).one()
    return Job(
        id=row.id,
        queue="mirror",
        lock="mirror:acme:request",
        queueing_lock=f"mirror:acme:{job}",
        task_name="dcsync:mirror",
        task_kwargs={"account": "acme", "job": job},
        attempts=row.attempts,
        worker_id=worker,
    )


async def test_a_zombie_ends_nothing_that_another_host_has_in_hand(place: Database, manifest: SqlManifest) -> None:
    """Procrastinate's own finish would free the lock that keeps the snapshots of a request in order."""
    queue = make_queue(place, Recorder())
    async with queue.opened():
        await queue.mirror("acme", "request", "job")
        zombie = await take(manifest)
        assert await queue._manager.take_up(zombie)
        successor = await take(manifest)

        await queue._manager.finish_job(zombie, Status.SUCCEEDED, delete_job=True)
        await queue._manager.retry_job(zombie)
        assert not await queue._manager.take_up(zombie)

        assert await rows(manifest, "SELECT status::text, worker_id FROM procrastinate_jobs") == [
            ("doing", successor.worker_id)
        ]
        await queue._manager.finish_job(successor, Status.SUCCEEDED, delete_job=True)
        assert await rows(manifest, "SELECT 1 FROM procrastinate_jobs") == []


async def test_a_task_that_was_asked_for_again_meanwhile_keeps_its_place(
    place: Database, manifest: SqlManifest
) -> None:
    """Else it could not go back to the queue, and the one asked for later could not begin: nobody would do it."""
    queue = make_queue(place, Recorder())
    async with queue.opened():
        await queue.mirror("acme", "request", "job")
        stalled = await take(manifest)
        await queue.mirror("acme", "request", "later")
        await queue.mirror("acme", "request", "job")

        assert await queue._manager.take_up(stalled)

        left = await rows(manifest, "SELECT args ->> 'job', status::text FROM procrastinate_jobs ORDER BY id")
        assert left == [("job", "todo"), ("later", "todo")]


async def test_the_work_of_a_silent_host_is_taken_up_and_what_it_still_does_is_cancelled(
    place: Database, manifest: SqlManifest
) -> None:
    cancelled = asyncio.Event()

    async def hang(_: tuple[str, ...]) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    frozen, other = Recorder(then=hang), Recorder()
    async with working(place, frozen) as queue:
        await queue.mirror("acme", "request", "job")
        await until(lambda: frozen.came)
        # As if it had not been heard of: its next word shows it that its work is another's.
        await change(
            manifest,
            "UPDATE procrastinate_jobs SET status = 'todo', attempts = attempts + 1, worker_id = NULL, "
            "scheduled_at = now() + interval '1 hour' WHERE queue_name = 'mirror'",
        )
        await until(cancelled.is_set)
        await change(manifest, "UPDATE procrastinate_jobs SET scheduled_at = NULL WHERE queue_name = 'mirror'")
        frozen.then = None
        async with working(place, other):
            await until(lambda: len(frozen.came) + len(other.came) == 2)


async def test_a_host_that_was_forgotten_goes_on_as_a_new_one(place: Database, manifest: SqlManifest) -> None:
    handlers = Recorder()
    async with working(place, handlers) as queue:
        await queue.poll("first")
        await until(lambda: handlers.came)
        await change(manifest, "DELETE FROM procrastinate_workers")
        await asyncio.sleep(0.5)  # noqa: TID251 - until it notices
        await queue.poll("second")
        await until(lambda: len(handlers.came) == 2)
