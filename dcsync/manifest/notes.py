"""What a person was told of, and the hooks that ran: the second half of the manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from dcsync.core import summary
from dcsync.core.alerts import Alert, AlertCode, StandingAlert
from dcsync.core.anomaly import TableWarning
from dcsync.core.events import Event, EventKind
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId, Json, RequestId
from dcsync.manifest.schema import alert as alert_table
from dcsync.manifest.schema import hook_run as hook_table
from dcsync.manifest.schema import job as job_table
from dcsync.manifest.schema import meta as meta_table
from dcsync.manifest.schema import request as request_table
from dcsync.manifest.sql import SqlManifest


class HookState(StrEnum):
    """Where a hook's run stands."""

    DUE = "due"
    DONE = "done"
    #: Tried as often as it is tried; `dcsync hooks rerun` starts it anew.
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class HookRun:
    """One hook for one event."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRow:
    """A snapshot that somebody may want to hear of."""

    job: JobId
    request: RequestId
    description: str
    folder: str
    completed_at: datetime | None
    published_at: datetime
    fetched_bytes: int
    linked_bytes: int
    #: What looks wrong with its tables beside the snapshots before.
    warnings: tuple[TableWarning, ...] = ()


class Notes:
    """The tables `attention` and `hook_run`. Every write is one transaction, durable when the method returns."""

    def __init__(self, manifest: SqlManifest) -> None:
        self._manifest = manifest

    async def standing(self, accounts: Sequence[str]) -> tuple[StandingAlert, ...]:
        """Return what stands of these accounts ("" is the whole mirror), oldest first."""
        async with self._manifest.reading() as connection:
            rows = await connection.execute(
                sa.select(alert_table)
                .where(alert_table.c.account.in_(accounts))
                .order_by(alert_table.c.since, alert_table.c.code, alert_table.c.subject)
            )
            return tuple(
                StandingAlert(
                    alert=Alert.of(
                        AlertCode.parse(row.code),
                        account=row.account,
                        subject=row.subject,
                        message=row.message,
                        hint=row.hint,
                    ),
                    since=row.since,
                    notified_at=row.told_at,
                )
                for row in rows
            )

    async def recall(self, key: str) -> str | None:
        """Return what was remembered under a key."""
        async with self._manifest.reading() as connection:
            return await connection.scalar(sa.select(meta_table.c.value).where(meta_table.c.key == key))

    async def remember(self, key: str, value: str | None) -> None:
        """Remember a value under a key; None forgets it."""
        async with self._manifest.writing() as connection:
            await _remember(connection, key, value)

    async def published_after(
        self, account: AccountName, moment: datetime, *, also: Sequence[str] = ()
    ) -> tuple[PublishedRow, ...]:
        """Return the snapshots of an account that were published after that time, and those of `also`, in order."""
        return await self._published(account, sa.or_(job_table.c.published_at > moment, job_table.c.id.in_(also)))

    async def _published(self, account: AccountName, which: sa.ColumnElement[bool]) -> tuple[PublishedRow, ...]:
        query = (
            sa.select(job_table, request_table.c.description)
            .join(
                request_table,
                sa.and_(request_table.c.account == job_table.c.account, request_table.c.id == job_table.c.request),
                isouter=True,
            )
            .where(
                job_table.c.account == account,
                job_table.c.state == JobState.PUBLISHED.value,
                job_table.c.published_at.is_not(None),
                which,
            )
            .order_by(job_table.c.published_at, job_table.c.id)
        )
        async with self._manifest.reading() as connection:
            return tuple(
                PublishedRow(
                    job=JobId(row.id),
                    request=RequestId(row.request),
                    description=row.description or "",
                    folder=row.folder,
                    completed_at=row.completed_at,
                    published_at=row.published_at,
                    fetched_bytes=row.fetched_bytes or 0,
                    linked_bytes=row.linked_bytes or 0,
                    warnings=() if row.summary is None else summary.parse(row.summary).warnings,
                )
                for row in await connection.execute(query)
            )

    async def published(self, account: AccountName, jobs: Sequence[JobId]) -> tuple[PublishedRow, ...]:
        """Return these snapshots of an account, in the order in which they were published."""
        return await self._published(account, job_table.c.id.in_(jobs)) if jobs else ()

    async def settle(
        self,
        accounts: Sequence[str],
        *,
        standing: Sequence[StandingAlert],
        hooks: Sequence[tuple[Sequence[str], Event]],
        remembered: Mapping[str, str],
        unless: tuple[str, str | None] | None = None,
    ) -> bool:
        """Replace what stands of these accounts, and note the hooks that are due for it: all of it or nothing.

        An event is told once: what says that it was told, and its hooks, are written together. Returns False, having
        written nothing, when what is remembered under the key of `unless` is not its value any more: another host told.
        """
        async with self._manifest.writing() as connection:
            if unless is not None:
                here = meta_table.c.key == unless[0]
                if await connection.scalar(sa.select(meta_table.c.value).where(here)) != unless[1]:
                    return False
            for key, value in remembered.items():
                await _remember(connection, key, value)
            await connection.execute(sa.delete(alert_table).where(alert_table.c.account.in_(accounts)))
            for item in standing:
                alert = item.alert
                await connection.execute(
                    sa.insert(alert_table).values(
                        account=alert.account,
                        code=alert.code,
                        subject=alert.subject,
                        message=alert.message,
                        hint=alert.hint,
                        since=item.since,
                        told_at=item.notified_at,
                    )
                )
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
        return True

    async def due_hooks(self, now: datetime) -> tuple[HookRun, ...]:
        """Return the hooks that should run now, in the order of their events."""
        query = sa.select(hook_table).where(
            hook_table.c.state == HookState.DUE.value,
            sa.or_(
                hook_table.c.next_try_at.is_(None),
                hook_table.c.next_try_at <= now,
                # Times ahead of now are of a clock that was wrong: it would wait for years.
                hook_table.c.created_at > now,
                hook_table.c.ended_at > now,
            ),
        )
        return await self._hooks(query.order_by(hook_table.c.id))

    async def next_hook_at(self) -> datetime | None:
        """Return when the next hook is to be tried."""
        query = sa.select(sa.func.min(hook_table.c.next_try_at)).where(hook_table.c.state == HookState.DUE.value)
        async with self._manifest.reading() as connection:
            found: datetime | None = await connection.scalar(query)
            return found

    async def failed_hooks(self, account: str) -> tuple[HookRun, ...]:
        """Return the hooks of an account that were given up and not made good since, oldest first.

        The hook of a snapshot is made good by a run for that snapshot; of any other event, by the next run that works,
        since nobody can run it again.
        """
        later = hook_table.alias()
        made_good = sa.exists().where(
            later.c.account == hook_table.c.account,
            later.c.argv == hook_table.c.argv,
            later.c.id > hook_table.c.id,
            later.c.state == HookState.DONE.value,
            sa.or_(hook_table.c.kind != EventKind.SNAPSHOT.value, later.c.job == hook_table.c.job),
        )
        query = sa.select(hook_table).where(
            hook_table.c.account == account, hook_table.c.state == HookState.FAILED.value, ~made_good
        )
        return await self._hooks(query.order_by(hook_table.c.id))

    async def hooks_of(self, *, job: str | None = None, limit: int = 100) -> tuple[HookRun, ...]:
        """Return the newest hook runs, of one job or of all, newest first."""
        query = sa.select(hook_table)
        if job is not None:
            query = query.where(hook_table.c.job == job)
        return await self._hooks(query.order_by(hook_table.c.id.desc()).limit(limit))

    async def finish_hook(
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

    async def forget_hooks(self, *, before: datetime) -> None:
        """Remove finished hook runs that are older than that: the table must not grow for years."""
        async with self._manifest.writing() as connection:
            await connection.execute(
                sa.delete(hook_table).where(hook_table.c.state != HookState.DUE.value, hook_table.c.created_at < before)
            )

    async def _hooks(self, query: sa.Select[tuple[object, ...]]) -> tuple[HookRun, ...]:
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


async def _remember(connection: AsyncConnection, key: str, value: str | None) -> None:
    if value is None:
        await connection.execute(sa.delete(meta_table).where(meta_table.c.key == key))
        return
    changed = await connection.execute(sa.update(meta_table).where(meta_table.c.key == key).values(value=value))
    if changed.rowcount == 0:
        await connection.execute(sa.insert(meta_table).values(key=key, value=value))
