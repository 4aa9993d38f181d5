"""Fencing numbers: which host may write about a job.

A host that takes up a job raises the job's number in the manifest. Each later write of that host compares its number
with the one in the manifest, in the write's own transaction. If the host was paused and another host has taken up the
job, the write changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from dcsync.core.model import AccountName, JobId
from dcsync.errors import Fenced
from dcsync.manifest.schema import claim as claim_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A job, and the number under which its holder may write about it, from 1 on. Meets the port `Guard`."""

    account: AccountName
    job: JobId
    number: int

    async def check(self, connection: AsyncConnection) -> None:
        """Raise `Fenced` when another host has raised the number."""
        here = sa.and_(claim_table.c.account == self.account, claim_table.c.job == self.job)
        if await connection.scalar(sa.select(claim_table.c.number).where(here)) != self.number:
            raise _fenced(self.job)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """The values of a row in the queue that prove that a task is ours. They change when another worker takes it up."""

    id: int
    worker: int
    attempts: int


async def take(connection: AsyncConnection, account: AccountName, job: JobId, ticket: Ticket | None) -> Claim:
    """Raise the job's number. Raises `Fenced` when the ticket is no longer valid: another host has the task."""
    if ticket is not None:
        # FOR SHARE: no other worker can take the task up before this transaction is committed.
        query = sa.text(
            "SELECT 1 FROM procrastinate_jobs WHERE id = :id AND worker_id = :worker AND attempts = :attempts "
            "AND status = 'doing' FOR SHARE"
        )
        values = {"id": ticket.id, "worker": ticket.worker, "attempts": ticket.attempts}
        if await connection.scalar(query, values) is None:
            raise _fenced(job)
    here = sa.and_(claim_table.c.account == account, claim_table.c.job == job)
    changed = await connection.execute(sa.update(claim_table).where(here).values(number=claim_table.c.number + 1))
    if changed.rowcount == 0:
        await connection.execute(sa.insert(claim_table).values(account=account, job=job, number=1))
    number = await connection.scalar(sa.select(claim_table.c.number).where(here))
    assert number is not None  # noqa: S101 - written above
    return Claim(account=account, job=job, number=number)


def _fenced(job: JobId) -> Fenced:
    return Fenced(f"another host has taken up job {job}")
