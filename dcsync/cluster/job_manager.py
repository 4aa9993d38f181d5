"""procrastinate's job manager, which ends and gives back a task only for the worker that has it.

Its own lets any worker end a task by its number: one that was paused, and whose task another one does by now, would
free the lock that keeps the snapshots of a request in order.
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

#: The condition under which a task is the one that was taken: by whom, and for which time.
_SAME = "id = %(id)s AND status = 'doing' AND attempts = %(attempts)s AND worker_id IS NOT DISTINCT FROM %(worker)s"
_FINISH = f"WITH ours AS (DELETE FROM procrastinate_jobs WHERE {_SAME} RETURNING id) SELECT id FROM ours"  # noqa: S608
_GIVE_BACK = (
    "WITH ours AS (UPDATE procrastinate_jobs SET status = 'todo', attempts = attempts + 1, scheduled_at = NULL, "  # noqa: S608
    f"worker_id = NULL WHERE {_SAME} RETURNING id) SELECT id FROM ours"
)
#: Asked for again while it was done, by a poll say: the older one, which is given back, keeps its place in the order.
_DROP_TWIN = (
    "DELETE FROM procrastinate_jobs AS twin USING procrastinate_jobs AS ours "  # noqa: S608
    "WHERE twin.status = 'todo' AND twin.queueing_lock = ours.queueing_lock AND "
    f"ours.{_SAME.replace(' AND ', ' AND ours.')} RETURNING twin.id"
)
_HELD = "SELECT id, attempts FROM procrastinate_jobs WHERE status = 'doing' AND worker_id = %(worker)s"
_IS_KNOWN = "SELECT id FROM procrastinate_workers WHERE id = %(worker)s"


class Forgotten(ConnectorException):
    """The worker was not heard of for so long that the others forgot it."""


class FencedJobManager(JobManager):
    """`arrived` hears of a worker's number, `held` tells what it has in hand, `lost` hears what it has no more."""

    def __init__(
        self,
        connector: BaseConnector,
        *,
        arrived: Callable[[int], Awaitable[None]],
        held: Callable[[int], list[tuple[int, int]]],
        lost: Callable[[int], None],
    ) -> None:
        super().__init__(connector)
        #: Workers of this host that the others forgot, and that are to come again as new ones.
        self.forgotten: set[int] = set()
        self._arrived = arrived
        self._held_here = held
        self._lost = lost

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:  # noqa: ARG002, FBT001 - its signature
        """Remove a task that is done, if it is still this worker's; the manifest says how it ended."""
        try:
            done = await self._one(_FINISH, job)
        except ConnectorException:
            # It is found stalled, taken up again, and seen to be done.
            log.debug("the end of a task could not be noted", task=job.task_name)
            return
        if not done:
            log.warning("a task that this host ended is another one's by now", task=job.task_name, **job.task_kwargs)

    async def retry_job(self, job: Job, *_: object, **__: object) -> None:
        """Give back a task that was cancelled, if it is still this worker's: another host takes it at once."""
        try:
            await self.take_up(job)
        except ConnectorException:
            log.debug("a task could not be given back", task=job.task_name)

    async def take_up(self, job: Job) -> bool:
        """Give back a task whose worker is gone; False when somebody else did, or when it ended after all."""
        await self._one(_DROP_TWIN, job)
        try:
            return await self._one(_GIVE_BACK, job)
        except UniqueViolation:
            # Another twin came in between: the next look finds it.
            return False

    async def register_worker(self) -> int:
        """Register a worker, and tell whose it is."""
        worker = await super().register_worker()
        await self._arrived(worker)
        return worker

    async def update_heartbeat(self, worker_id: int) -> None:
        """Say that the worker is alive, and look whether what it has in hand is still its own."""
        await super().update_heartbeat(worker_id)
        if not await self.connector.execute_query_all_async(_IS_KNOWN, worker=worker_id):
            self._forget(worker_id)
        rows = await self.connector.execute_query_all_async(_HELD, worker=worker_id)
        there = {(row["id"], row["attempts"]) for row in rows}
        for identifier, attempts in self._held_here(worker_id):
            if (identifier, attempts) not in there:
                self._lost(identifier)

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        """Take a task, as a worker that the others know."""
        try:
            return await super().fetch_job(queues, worker_id)
        except ConnectorException as error:
            if isinstance(error.__cause__, ForeignKeyViolation):
                self._forget(worker_id)
            raise

    def _forget(self, worker: int) -> NoReturn:
        self.forgotten.add(worker)
        message = "the worker was forgotten"
        raise Forgotten(message)

    async def _one(self, query: str, job: Job) -> bool:
        rows = await self.connector.execute_query_all_async(
            query, id=job.id, attempts=job.attempts, worker=job.worker_id
        )
        return bool(rows)
