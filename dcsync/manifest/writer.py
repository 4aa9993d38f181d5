"""Write and seal the rows of jobs, requests and snapshots, in the transaction of the caller."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from dcsync.core import wire
from dcsync.core.lifecycle import ON_DISK, JobState, may_go
from dcsync.core.model import AccountName, DataRequest, JobId, StoredFile
from dcsync.core.ports import KnownJob, KnownRequest
from dcsync.core.snapshot import Record
from dcsync.errors import IllegalTransition
from dcsync.manifest import checksums
from dcsync.manifest.contents import in_batches, store_files
from dcsync.manifest.rows import is_job, snapshot_row
from dcsync.manifest.schema import account as account_table
from dcsync.manifest.schema import job as job_table
from dcsync.manifest.schema import request as request_table


async def add_account(connection: AsyncConnection, account: AccountName) -> None:
    """Add the row of an account unless it exists."""
    found = await connection.scalar(sa.select(account_table.c.name).where(account_table.c.name == account))
    if found is None:
        await connection.execute(sa.insert(account_table).values(name=account))


async def add_request(connection: AsyncConnection, account: AccountName, known: KnownRequest, at: datetime) -> None:
    """Add the row of a request unless it exists. An existing row does not change."""
    here = sa.and_(request_table.c.account == account, request_table.c.id == known.id)
    if await connection.scalar(sa.select(request_table.c.id).where(here)) is None:
        await _insert_request(connection, account, known, at, {})
        await checksums.seal_request(connection, account, known.id)


async def write_request(
    connection: AsyncConnection, account: AccountName, known: KnownRequest, document: DataRequest | None, at: datetime
) -> None:
    """Write a request as a poll read it.

    The time when it was first seen never changes. Its slug may change until Autodesk has described it.
    """
    slug = sa.case((request_table.c.document.is_(None), known.slug), else_=request_table.c.slug)
    described = {} if document is None else {"document": json.dumps(wire.request_json(document))}
    changed = await connection.execute(
        sa.update(request_table)
        .where(request_table.c.account == account, request_table.c.id == known.id)
        .values(description=known.description, slug=slug, is_delta=known.is_delta, **described)
    )
    if changed.rowcount == 0:
        await _insert_request(connection, account, known, at, described)
    await checksums.seal_request(connection, account, known.id)


async def write_jobs(connection: AsyncConnection, account: AccountName, jobs: Sequence[KnownJob], at: datetime) -> None:
    """Write jobs as a poll read them. The first poll reads hundreds. Raises `IllegalTransition`."""
    current = await _states(connection, account, [known.job.id for known in jobs])
    new: list[dict[str, object]] = []
    for known in jobs:
        values: dict[str, object] = {
            "request": known.job.request_id,
            "state": known.state.value,
            "completed_at": known.job.completed_at,
            "document": json.dumps(wire.job_json(known.job)),
            "changed_at": at,
        }
        state = current.get(known.job.id)
        if state is None:
            first = {"account": account, "id": known.job.id, "first_seen_at": at, "attempts": 0, "reason": known.reason}
            new.append({**first, **values})
            continue
        _refuse_illegal(known.job.id, JobState(state), known.state)
        if state != known.state.value:
            values |= {"reason_code": known.reason_code, "reason": known.reason}
        await connection.execute(sa.update(job_table).where(is_job(account, known.job.id)).values(**values))
    if new:
        await connection.execute(sa.insert(job_table), new)
    for batch in in_batches([known.job.id for known in jobs]):
        await checksums.seal_jobs(connection, account, batch)


async def write_snapshot(
    connection: AsyncConnection,
    account: AccountName,
    record: Record,
    files: Sequence[StoredFile],
    *,
    sidecar_sha256: str | None,
) -> None:
    """Write the rows of a snapshot: in the mirror with files, or pruned without. Earlier rows are replaced."""
    job = record.job.id
    values = {**snapshot_row(record, sidecar_sha256=sidecar_sha256), **await store_files(connection, files)}
    await add_account(connection, account)
    changed = await connection.execute(sa.update(job_table).where(is_job(account, job)).values(**values))
    if changed.rowcount == 0:
        await connection.execute(sa.insert(job_table).values(account=account, id=job, **values))
    await checksums.seal_job(connection, account, job)


async def refuse_illegal(
    connection: AsyncConnection, account: AccountName, jobs: Collection[JobId], new: JobState
) -> None:
    """Raise `IllegalTransition` unless each of these jobs is known and may change to `new`."""
    found = await _states(connection, account, jobs)
    for job in jobs:
        if job not in found:
            message = f"job {job} of {account} is not in the manifest"
            raise IllegalTransition(message)
        _refuse_illegal(job, JobState(found[job]), new)


def moved_to(state: JobState, at: datetime) -> dict[str, object]:
    """Return the columns of a job that change with its state. What is known about earlier attempts is cleared."""
    values: dict[str, object] = {
        "state": state.value,
        "changed_at": at,
        "next_try_at": None,
        "reason_code": None,
        "reason": None,
    }
    if state not in ON_DISK:
        # Its files are no longer on the disk. No later snapshot may link to them.
        values |= {"sidecar_sha256": None, "files": None, "holds_table": None}
    return values


async def _states(connection: AsyncConnection, account: AccountName, jobs: Collection[JobId]) -> dict[str, str]:
    """Return the states of those of these jobs that are known."""
    found: dict[str, str] = {}
    for batch in in_batches(jobs):
        here = sa.and_(job_table.c.account == account, job_table.c.id.in_(batch))
        found |= dict((await connection.execute(sa.select(job_table.c.id, job_table.c.state).where(here))).all())
    return found


async def _insert_request(
    connection: AsyncConnection,
    account: AccountName,
    known: KnownRequest,
    at: datetime,
    described: dict[str, str],
) -> None:
    await connection.execute(
        sa.insert(request_table).values(
            account=account,
            id=known.id,
            description=known.description,
            slug=known.slug,
            is_delta=known.is_delta,
            first_seen_at=at,
            **described,
        )
    )


def _refuse_illegal(job: JobId, current: JobState, new: JobState) -> None:
    if not may_go(current, new):
        message = f"job {job} cannot go from {current} to {new}"
        raise IllegalTransition(message)
