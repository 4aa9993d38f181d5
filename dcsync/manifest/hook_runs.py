"""The runs of hooks: one row for each hook and event."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from dcsync.core.events import Event, EventKind
from dcsync.core.model import Json
from dcsync.manifest.schema import hook_run as hook_table
from dcsync.manifest.sql import SqlManifest


class HookState(StrEnum):
    """The state of a hook run."""

    DUE = "due"
    DONE = "done"
    #: Every attempt failed. `dcsync hooks rerun` makes it due again.
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class HookRun:
    """One hook for one event, with the outcome of its last attempt."""

    id: int
    account: str
    job: str | None
    kind: EventKind
    argv: tuple[str, ...]
    event: Mapping[str, Json]
    state: HookState
    attempts: int
    created_at: datetime
    next_try_at: datetime | None
    ended_at: datetime | None
    exit_status: int | None
    error: str | None


#: A run that failed for the last time has no time for another attempt, unless its hook has worked since.
_IS_DUE = sa.or_(
    hook_table.c.state == HookState.DUE.value,
    sa.and_(hook_table.c.state == HookState.FAILED.value, hook_table.c.next_try_at.is_not(None)),
)


class HookRuns:
    """The table `hook_run`. Every write is one transaction, durable when the method returns."""

    def __init__(self, manifest: SqlManifest) -> None:
        self._manifest = manifest

    async def add(self, hooks: Sequence[tuple[Sequence[str], Event]]) -> None:
        """Make these hooks due."""
        async with self._manifest.writing() as connection:
            await insert_hook_runs(connection, hooks)

    async def due(self, now: datetime) -> tuple[HookRun, ...]:
        """Return the hooks that should run now, in the order of their events."""
        query = sa.select(hook_table).where(
            _IS_DUE,
            sa.or_(
                hook_table.c.next_try_at.is_(None),
                hook_table.c.next_try_at <= now,
                # A time in the future comes from a wrong clock. The run would wait for years.
                hook_table.c.created_at > now,
                hook_table.c.ended_at > now,
            ),
        )
        return await self._load(query.order_by(hook_table.c.id))

    async def next_at(self) -> datetime | None:
        """Return the time of the next attempt of any hook."""
        query = sa.select(sa.func.min(hook_table.c.next_try_at)).where(_IS_DUE)
        async with self._manifest.reading() as connection:
            found: datetime | None = await connection.scalar(query)
            return found

    async def try_failed_again(self, account: str, argv: Sequence[str], *, at: datetime) -> bool:
        """Let the failed runs of a hook for snapshots be tried once more. They still count as failed until they work.

        Returns whether there are any.
        """
        async with self._manifest.writing() as connection:
            changed = await connection.execute(
                sa.update(hook_table)
                .where(
                    hook_table.c.account == account,
                    hook_table.c.argv == json.dumps(list(argv)),
                    hook_table.c.kind == EventKind.SNAPSHOT.value,
                    hook_table.c.state == HookState.FAILED.value,
                )
                .values(next_try_at=at)
            )
            return changed.rowcount > 0

    async def failed(self, account: str) -> tuple[HookRun, ...]:
        """Return the failed runs of an account that no later run has made up for, oldest first.

        A later run for the same snapshot makes up for the hook of a snapshot. The hook of any other event cannot be
        run again, so the next run that succeeds makes up for it.
        """
        later = hook_table.alias()
        made_up = sa.exists().where(
            later.c.account == hook_table.c.account,
            later.c.argv == hook_table.c.argv,
            later.c.id > hook_table.c.id,
            later.c.state == HookState.DONE.value,
            sa.or_(hook_table.c.kind != EventKind.SNAPSHOT.value, later.c.job == hook_table.c.job),
        )
        query = sa.select(hook_table).where(
            hook_table.c.account == account, hook_table.c.state == HookState.FAILED.value, ~made_up
        )
        return await self._load(query.order_by(hook_table.c.id))

    async def latest(self, *, job: str | None = None, limit: int = 100) -> tuple[HookRun, ...]:
        """Return the latest runs, of one job or of all jobs, newest first."""
        query = sa.select(hook_table)
        if job is not None:
            query = query.where(hook_table.c.job == job)
        return await self._load(query.order_by(hook_table.c.id.desc()).limit(limit))

    async def finish(
        self,
        run: HookRun,
        *,
        state: HookState,
        at: datetime,
        exit_status: int | None,
        error: str | None,
        next_try_at: datetime | None,
    ) -> None:
        """Record how an attempt ended."""
        async with self._manifest.writing() as connection:
            await connection.execute(
                sa.update(hook_table)
                .where(hook_table.c.id == run.id)
                .values(
                    state=state.value,
                    attempts=run.attempts + 1,
                    ended_at=at,
                    exit_status=exit_status,
                    error=error,
                    next_try_at=next_try_at,
                )
            )

    async def delete_finished(self, *, before: datetime) -> None:
        """Delete finished runs that were created before that time. Otherwise the table would grow for years."""
        async with self._manifest.writing() as connection:
            await connection.execute(
                sa.delete(hook_table).where(hook_table.c.state != HookState.DUE.value, hook_table.c.created_at < before)
            )

    async def _load(self, query: sa.Select[tuple[object, ...]]) -> tuple[HookRun, ...]:
        async with self._manifest.reading() as connection:
            rows = await connection.execute(query)
            return tuple(
                HookRun(
                    id=row.id,
                    account=row.account,
                    job=row.job,
                    kind=EventKind(row.kind),
                    argv=tuple(json.loads(row.argv)),
                    event=json.loads(row.event),
                    state=HookState(row.state),
                    attempts=row.attempts,
                    created_at=row.created_at,
                    next_try_at=row.next_try_at,
                    ended_at=row.ended_at,
                    exit_status=row.exit_status,
                    error=row.error,
                )
                for row in rows
            )


async def insert_hook_runs(connection: AsyncConnection, hooks: Sequence[tuple[Sequence[str], Event]]) -> None:
    """Make these hooks due, within a transaction of the caller."""
    for argv, event in hooks:
        await connection.execute(
            sa.insert(hook_table).values(
                account=event.account,
                job=event.job,
                kind=event.kind.value,
                argv=json.dumps(list(argv)),
                event=json.dumps(event.json()),
                state=HookState.DUE.value,
                attempts=0,
                created_at=event.at,
                next_try_at=event.at,
            )
        )
