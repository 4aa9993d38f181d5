"""A job manager for procrastinate that lets only the worker that holds a task end it or return it to the queue.

With procrastinate's own job manager, any worker can end a task by its number. A worker that was paused would end a task
that another worker has taken over, and free the lock that keeps the snapshots of a data request in order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import NoReturn

import structlog
from procrastinate.connector import BaseConnector
from procrastinate.exceptions import ConnectorException, UniqueViolation
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager
from psycopg.errors import ForeignKeyViolation

log = structlog.get_logger(__name__)

#: The condition for a task that is still held by the same worker in the same attempt.
_SAME = "id = %(id)s AND status = 'doing' AND attempts = %(attempts)s AND worker_id IS NOT DISTINCT FROM %(worker)s"
_FINISH = f"WITH ours AS (DELETE FROM procrastinate_jobs WHERE {_SAME} RETURNING id) SELECT id FROM ours"  # noqa: S608
_GIVE_BACK = (
    "WITH ours AS (UPDATE procrastinate_jobs SET status = 'todo', attempts = attempts + 1, scheduled_at = NULL, "  # noqa: S608
    f"worker_id = NULL WHERE {_SAME} RETURNING id) SELECT id FROM ours"
)
#: While a task runs, a poll may queue the same task again. The older task returns to the queue and keeps its place.
_DROP_TWIN = (
    "DELETE FROM procrastinate_jobs AS twin USING procrastinate_jobs AS ours "  # noqa: S608
    "WHERE twin.status = 'todo' AND twin.queueing_lock = ours.queueing_lock AND "
    f"ours.{_SAME.replace(' AND ', ' AND ours.')} RETURNING twin.id"
)
_HELD = "SELECT id, attempts FROM procrastinate_jobs WHERE status = 'doing' AND worker_id = %(worker)s"
_IS_KNOWN = "SELECT id FROM procrastinate_workers WHERE id = %(worker)s"


class Forgotten(ConnectorException):
    """The worker sent no heartbeat for so long that other hosts removed it."""


class FencedJobManager(JobManager):
    """Calls `arrived` with a new worker's number, and `lost` with the number of a task that a worker no longer holds.

    `held` returns the numbers and attempts of the tasks that a worker of this host is running.
    """

    def __init__(
        self,
        connector: BaseConnector,
        *,
        arrived: Callable[[int], Awaitable[None]],
        held: Callable[[int], list[tuple[int, int]]],
        lost: Callable[[int], None],
    ) -> None:
        super().__init__(connector)
        #: Workers of this host that other hosts removed. They register again as new workers.
        self.forgotten: set[int] = set()
        self._arrived = arrived
        self._held_here = held
        self._lost = lost

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:  # noqa: ARG002, FBT001 - its signature
        """Remove a finished task, if this worker still holds it. Its result is in the manifest."""
        try:
            done = await self._one(_FINISH, job)
        except ConnectorException:
            # Another host finds the task stalled, runs it again, and finds that it is done.
            log.debug("finished task could not be removed from the queue", task=job.task_name)
            return
        if not done:
            log.warning(
                "another host took over a task before this host finished it", task=job.task_name, **job.task_kwargs
            )

    async def retry_job(self, job: Job, *_: object, **__: object) -> None:
        """Return a cancelled task to the queue, if this worker still holds it. Another host takes it at once."""
        try:
            await self.take_up(job)
        except ConnectorException:
            log.debug("cancelled task could not be returned to the queue", task=job.task_name)

    async def take_up(self, job: Job) -> bool:
        """Return a task to the queue if its worker is gone. False if another host did so, or if the task has ended."""
        await self._one(_DROP_TWIN, job)
        try:
            return await self._one(_GIVE_BACK, job)
        except UniqueViolation:
            # The same task was queued once more in between. The next check finds it.
            return False

    async def register_worker(self) -> int:
        """Register a worker, and report its number to this host."""
        worker = await super().register_worker()
        await self._arrived(worker)
        return worker

    async def update_heartbeat(self, worker_id: int) -> None:
        """Record that the worker is alive, and check that it still holds its tasks."""
        await super().update_heartbeat(worker_id)
        if not await self.connector.execute_query_all_async(_IS_KNOWN, worker=worker_id):
            self._forget(worker_id)
        rows = await self.connector.execute_query_all_async(_HELD, worker=worker_id)
        there = {(row["id"], row["attempts"]) for row in rows}
        for identifier, attempts in self._held_here(worker_id):
            if (identifier, attempts) not in there:
                self._lost(identifier)

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        """Take a task. Raises `Forgotten` if other hosts removed this worker."""
        try:
            return await super().fetch_job(queues, worker_id)
        except ConnectorException as error:
            if isinstance(error.__cause__, ForeignKeyViolation):
                self._forget(worker_id)
            raise

    def _forget(self, worker: int) -> NoReturn:
        self.forgotten.add(worker)
        message = "other hosts removed this worker"
        raise Forgotten(message)

    async def _one(self, query: str, job: Job) -> bool:
        rows = await self.connector.execute_query_all_async(
            query, id=job.id, attempts=job.attempts, worker=job.worker_id
        )
        return bool(rows)
