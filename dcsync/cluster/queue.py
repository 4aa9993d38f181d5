"""The work of several hosts as tasks on procrastinate: kinds of tasks, their order, and recovery of stalled tasks.

The manifest is the truth. A task only asks a host to check, and the host does nothing if the work is done already. A
lost task therefore costs a wait until the next poll, and a duplicate task costs one check.
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

#: The extracts that one host mirrors at the same time. Each downloads `transfer.concurrency` files at a time.
JOBS_AT_ONCE = 4
#: The polls and maintenance tasks of one host at the same time. They mostly wait.
_CHORES_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How soon the other hosts take over from a lost host: silence, check, and fetch take at most 45 s together."""

    heartbeat_s: float = 10.0
    silence_s: float = 30.0
    #: The sixth field is the seconds.
    stalled_cron: str = "* * * * * */10"
    due_cron: str = "* * * * *"
    fetch_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldTask:
    """The identity of a task that this host holds: its number in the queue, its worker, and its previous attempts."""

    id: int
    worker: int
    attempts: int


class Handlers(Protocol):
    """The work of each kind of task. A handler records its failures in the manifest. An exception is a bug."""

    async def poll(self, account: str) -> None:
        """Poll an account for new jobs, and queue the jobs that are due."""

    async def mirror(self, account: str, job: str, held: HeldTask) -> None:
        """Mirror one job."""

    async def chore(self, kind: str) -> None:
        """Do a maintenance task of the whole mirror."""

    async def due(self) -> None:
        """Queue the polls and maintenance tasks that are due."""


class _AtOnce(BaseRetryStrategy):
    """Returns a task to the queue at once if it was cancelled because its host stops."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:  # noqa: ARG002 - its
        return RetryDecision(retry_at=datetime.now(UTC)) if isinstance(exception, asyncio.CancelledError) else None


class Queue:
    """The queue in a database, as one host uses it. Open it with `opened` first."""

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
        self._running: dict[asyncio.Task[object], HeldTask] = {}
        self._workers: list[Worker] = []
        self._app = App(
            connector=PsycopgConnector(
                conninfo=database.conninfo_of(f"queue {label}"), min_size=1, max_size=8, timeout=10.0
            )
        )
        self._manager = FencedJobManager(self._app.connector, arrived=arrived, held=self._held, lost=self._note_lost)
        self._app.job_manager = self._manager
        self._add_tasks()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Queue]:
        """Connect. The end of the block closes all connections. Raises `DatabaseUnreachable`."""
        with self._errors():
            await self._app.open_async()
        try:
            yield self
        finally:
            await self._app.close_async()

    async def poll(self, account: str) -> None:
        """Queue a poll of an account. At most one is waiting, and at most one is running."""
        await self._defer("dcsync:poll", queueing_lock=f"poll:{account}", lock=f"poll:{account}", account=account)

    async def mirror(self, account: str, request: str, job: str) -> None:
        """Queue a job. The jobs of one data request run one after another, in the order in which they were queued."""
        lock, once = f"mirror:{account}:{request}", f"mirror:{account}:{job}"
        await self._defer("dcsync:mirror", queueing_lock=once, lock=lock, account=account, job=job)

    async def chore(self, kind: str) -> None:
        """Queue a maintenance task. Over all hosts, one of each kind runs at a time."""
        await self._defer(f"dcsync:{kind}", queueing_lock=kind, lock=kind)

    async def work(self) -> None:
        """Run tasks until `stop`. Raises `DatabaseUnreachable` when the database is no longer available."""
        async with asyncio.TaskGroup() as group:
            for queues, at_once in (
                (["control"], 2),
                (["polls", "chores"], _CHORES_AT_ONCE),
                (["mirror"], JOBS_AT_ONCE),
            ):
                group.create_task(self._work_on(queues, at_once))

    def stop(self) -> None:
        """Take no more tasks. Running tasks have `DRAIN_S` seconds to end. After that, another host takes them over."""
        self._stopping = True
        for worker in self._workers:
            worker.stop()  # type: ignore[no-untyped-call] # procrastinate's

    def hurry(self) -> None:
        """Cancel the running tasks now."""
        for task in self._running:
            task.cancel()

    async def take_up_stalled(self) -> None:
        """Return the tasks of lost hosts to the queue."""
        for job in await self._manager.get_stalled_jobs(seconds_since_heartbeat=self._pace.silence_s):
            if await self._manager.take_up(job):
                log.warning("task of a lost host returned to the queue", task=job.task_name, **job.task_kwargs)

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
                log.warning("this host sent no heartbeat for too long; other hosts took over its tasks")
            elif not self._is_stopping():
                message = f"{self._database.shown} ended the connection of the queue"
                raise DatabaseUnreachable(message)

    def _is_stopping(self) -> bool:
        return self._stopping

    def _add_tasks(self) -> None:
        app, at_once = self._app, _AtOnce()

        async def poll(context: JobContext, *, account: str) -> None:
            await self._do(context, lambda _: self._handlers.poll(account))

        async def mirror(context: JobContext, *, account: str, job: str) -> None:
            await self._do(context, lambda held: self._handlers.mirror(account, job, held))

        def chore_of(kind: str) -> Callable[[JobContext], Awaitable[None]]:
            async def chore(context: JobContext) -> None:
                await self._do(context, lambda _: self._handlers.chore(kind))

            return chore

        async def stalled(context: JobContext, *, timestamp: int) -> None:  # noqa: ARG001 - the queue gives it
            await self._do(context, lambda _: self.take_up_stalled())

        async def due(context: JobContext, *, timestamp: int) -> None:  # noqa: ARG001 - the same
            await self._do(context, lambda _: self._handlers.due())

        # Explicit names, so that hosts of other versions find the tasks.
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

    async def _do(self, context: JobContext, work: Callable[[HeldTask], Awaitable[None]]) -> None:
        job, task = context.job, asyncio.current_task()
        assert task is not None  # noqa: S101 - we are in one
        assert job.id is not None  # noqa: S101 - it came from the queue
        held = HeldTask(id=job.id, worker=job.worker_id or 0, attempts=job.attempts)
        self._running[task] = held
        try:
            await work(held)
        except (DcsyncError, ProcrastinateException, psycopg.Error) as error:
            message = error.message if isinstance(error, DcsyncError) else str(error)
            log.warning("a task failed; it is queued again", task=job.task_name, error=message)
        except Exception:
            # A bug in one task must not end the other tasks.
            log.exception("a bug in dcsync; the next poll retries", task=job.task_name)
        finally:
            del self._running[task]

    def _held(self, worker: int) -> list[tuple[int, int]]:
        return [(held.id, held.attempts) for held in self._running.values() if held.worker == worker]

    def _note_lost(self, identifier: int) -> None:
        """Cancel a task that another host has taken over."""
        for task, held in self._running.items():
            if held.id == identifier:
                log.warning("another host took over a task; it is stopped on this host", task_id=identifier)
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


#: The maintenance tasks, which one host does for the whole mirror.
CHORES = ("hooks", "prune", "verify", "tidy", "keep-alive")
