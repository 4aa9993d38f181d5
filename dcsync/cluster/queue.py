"""The work of several hosts as tasks on procrastinate: which there are, their order, what becomes of the stalled.

The manifest is the truth, a task only says that somebody should look: what it finds done is done. So a task that is
lost costs a wait until the next poll, and one that is there twice costs a look.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import psycopg
import structlog
from procrastinate import App, JobContext, PsycopgConnector
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException, ProcrastinateException
from procrastinate.jobs import Job
from procrastinate.retry import BaseRetryStrategy, RetryDecision
from procrastinate.worker import Worker

from dcsync.cluster.database import Database
from dcsync.cluster.job_manager import FencedJobManager, Forgotten
from dcsync.daemon.session import DRAIN_S
from dcsync.errors import DatabaseUnreachable, DcsyncError

log = structlog.get_logger(__name__)

#: Extracts that one host mirrors at the same time; within each, `transfer.concurrency` files.
JOBS_AT_ONCE = 4
#: Polls and chores of one host at the same time: they mostly wait.
_CHORES_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How soon a host that is gone is noticed: its silence, the look for it, and a task's fetching are 45 s at most."""

    heartbeat_s: float = 10.0
    silence_s: float = 30.0
    #: With seconds, which come last.
    stalled_cron: str = "* * * * * */10"
    due_cron: str = "* * * * *"
    fetch_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """What says that a task is ours: the queue's number, worker, and how often it was begun before."""

    id: int
    worker: int
    attempts: int


class Handlers(Protocol):
    """What is done when a task comes. Raising is a bug: what goes wrong is recorded in the manifest."""

    async def poll(self, account: str) -> None:
        """Look for new jobs, and defer what is due."""

    async def mirror(self, account: str, job: str, ours: Ours) -> None:
        """Mirror one job."""

    async def chore(self, kind: str) -> None:
        """Do what is done once for the whole mirror."""

    async def due(self) -> None:
        """Defer the polls and chores whose time has come."""


class _AtOnce(BaseRetryStrategy):
    """What is cancelled because its host ends goes to another host at once."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:  # noqa: ARG002 - its
        return RetryDecision(retry_at=datetime.now(UTC)) if isinstance(exception, asyncio.CancelledError) else None


class Queue:
    """The queue in a database, as one host works on it. Made by `opened`."""

    def __init__(
        self,
        database: Database,
        handlers: Handlers,
        *,
        pace: Pace,
        arrived: Callable[[int], Awaitable[None]],
        label: str,
    ) -> None:
        self._database = database
        self._handlers = handlers
        self._pace = pace
        self._stopping = False
        self._running: dict[asyncio.Task[object], Ours] = {}
        self._workers: list[Worker] = []
        self._app = App(
            connector=PsycopgConnector(
                conninfo=database.conninfo_of(f"queue {label}"), min_size=1, max_size=8, timeout=10.0
            )
        )
        self._manager = FencedJobManager(self._app.connector, arrived=arrived, held=self._held, lost=self._lose)
        self._app.job_manager = self._manager
        self._add_tasks()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Queue]:
        """Connect; leaving closes all connections. Raises `DatabaseUnreachable`."""
        with self._errors():
            await self._app.open_async()
        try:
            yield self
        finally:
            await self._app.close_async()

    async def poll(self, account: str) -> None:
        """Ask for a poll of an account: one is waiting at most, and one at a time is done."""
        await self._defer("dcsync:poll", queueing_lock=f"poll:{account}", lock=f"poll:{account}", account=account)

    async def mirror(self, account: str, request: str, job: str) -> None:
        """Ask for a job to be mirrored: those of one request one after another, in the order they were asked for."""
        lock, once = f"mirror:{account}:{request}", f"mirror:{account}:{job}"
        await self._defer("dcsync:mirror", queueing_lock=once, lock=lock, account=account, job=job)

    async def chore(self, kind: str) -> None:
        """Ask for a chore: one of a kind at a time, over all hosts."""
        await self._defer(f"dcsync:{kind}", queueing_lock=kind, lock=kind)

    async def work(self) -> None:
        """Take tasks and do them, until `stop`. Raises `DatabaseUnreachable` when the database goes away."""
        async with asyncio.TaskGroup() as group:
            for queues, at_once in (
                (["control"], 2),
                (["polls", "chores"], _CHORES_AT_ONCE),
                (["mirror"], JOBS_AT_ONCE),
            ):
                group.create_task(self._work_on(queues, at_once))

    def stop(self) -> None:
        """Take no more tasks; what is under way has some seconds, and then goes to another host."""
        self._stopping = True
        for worker in self._workers:
            worker.stop()  # type: ignore[no-untyped-call] # procrastinate's

    def hurry(self) -> None:
        """Cancel what is under way now."""
        for task in self._running:
            task.cancel()

    async def take_up_stalled(self) -> None:
        """Give the tasks of hosts that are gone back to the queue."""
        for job in await self._manager.get_stalled_jobs(seconds_since_heartbeat=self._pace.silence_s):
            if await self._manager.take_up(job):
                log.warning("a task of a host that is gone is taken up again", task=job.task_name, **job.task_kwargs)

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _work_on(self, queues: list[str], at_once: int) -> None:
        while not self._stopping:
            worker = Worker(
                app=self._app,
                queues=queues,
                name=queues[0],
                concurrency=at_once,
                fetch_job_polling_interval=self._pace.fetch_s,
                shutdown_graceful_timeout=DRAIN_S,
                delete_jobs="always",
                install_signal_handlers=False,
                update_heartbeat_interval=self._pace.heartbeat_s,
                stalled_worker_timeout=self._pace.silence_s,
            )
            self._workers.append(worker)
            try:
                with self._errors(), suppress(Forgotten):
                    await worker.run()  # type: ignore[no-untyped-call] # the same
            finally:
                self._workers.remove(worker)
            if self._manager.forgotten:
                self._manager.forgotten.pop()
                log.warning("this host was not heard of for too long; what it had in hand is done by others")
            elif not self._is_stopping():
                message = f"{self._database.shown} let go of the queue"
                raise DatabaseUnreachable(message)

    def _is_stopping(self) -> bool:
        return self._stopping

    def _add_tasks(self) -> None:
        app, at_once = self._app, _AtOnce()

        async def poll(context: JobContext, *, account: str) -> None:
            await self._do(context, lambda _: self._handlers.poll(account))

        async def mirror(context: JobContext, *, account: str, job: str) -> None:
            await self._do(context, lambda ours: self._handlers.mirror(account, job, ours))

        def chore_of(kind: str) -> Callable[[JobContext], Awaitable[None]]:
            async def chore(context: JobContext) -> None:
                await self._do(context, lambda _: self._handlers.chore(kind))

            return chore

        async def stalled(context: JobContext, *, timestamp: int) -> None:  # noqa: ARG001 - the queue gives it
            await self._do(context, lambda _: self.take_up_stalled())

        async def due(context: JobContext, *, timestamp: int) -> None:  # noqa: ARG001 - the same
            await self._do(context, lambda _: self._handlers.due())

        # Each by its name: a host of another version, or started another way, must find it.
        app.task(name="dcsync:poll", queue="polls", pass_context=True, retry=at_once)(poll)
        app.task(name="dcsync:mirror", queue="mirror", pass_context=True, retry=at_once)(mirror)
        for kind in CHORES:
            app.task(name=f"dcsync:{kind}", queue="chores", pass_context=True, retry=at_once)(chore_of(kind))
        for function, name, cron in (
            (stalled, "dcsync:stalled", self._pace.stalled_cron),
            (due, "dcsync:due", self._pace.due_cron),
        ):
            declare = app.task(name=name, queue="control", queueing_lock=name, pass_context=True, priority=10)
            app.periodic(cron=cron, periodic_id="dcsync")(declare(function))

    async def _do(self, context: JobContext, work: Callable[[Ours], Awaitable[None]]) -> None:
        job, task = context.job, asyncio.current_task()
        assert task is not None  # noqa: S101 - we are in one
        assert job.id is not None  # noqa: S101 - it came from the queue
        ours = Ours(id=job.id, worker=job.worker_id or 0, attempts=job.attempts)
        self._running[task] = ours
        try:
            await work(ours)
        except (DcsyncError, ProcrastinateException, psycopg.Error) as error:
            message = error.message if isinstance(error, DcsyncError) else str(error)
            log.warning("a task could not be done; it comes again", task=job.task_name, error=message)
        except Exception:
            # A bug in one task's work must not end the others'.
            log.exception("a bug in dcsync; the next poll tries again", task=job.task_name)
        finally:
            del self._running[task]

    def _held(self, worker: int) -> list[tuple[int, int]]:
        return [(ours.id, ours.attempts) for ours in self._running.values() if ours.worker == worker]

    def _lose(self, identifier: int) -> None:
        """Cancel a task that is another host's by now."""
        for task, ours in self._running.items():
            if ours.id == identifier:
                log.warning("another host does what this one had in hand; it ends here", task_id=identifier)
                task.cancel()

    async def _defer(self, name: str, *, queueing_lock: str, lock: str, **arguments: str) -> None:
        deferrer = self._app.configure_task(name, queueing_lock=queueing_lock, lock=lock)
        with self._errors():
            try:
                await deferrer.defer_async(**arguments)
            except AlreadyEnqueued:
                return

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with self._database.errors():
                yield
        except ConnectorException as error:
            cause = error.__cause__
            words = str(cause).strip().splitlines() if isinstance(cause, psycopg.Error) else []
            message = f"{self._database.shown} does not answer: {words[0] if words else type(error).__name__}"
            raise DatabaseUnreachable(message) from None


#: What is done once for the whole mirror.
CHORES = ("hooks", "prune", "verify", "tidy", "keep-alive")
