"""Continue a backfill: what the mirror has, what Autodesk has, and data requests for the parts that lack one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from dcsync.clock import Clock
from dcsync.core.backfill import (
    GROUPS,
    Backfill,
    Mirrored,
    Part,
    PartState,
    divide,
    newest_jobs,
    note_mirrored,
    note_requests,
    request_for,
    spare_jobs,
)
from dcsync.core.coverage import Days, includes, promised_from, window_of
from dcsync.core.lifecycle import ON_DISK, OPEN, WAS_PUBLISHED, JobState
from dcsync.core.model import DataRequest, Job, JobId, RequestId
from dcsync.core.names import printable
from dcsync.core.new_request import JOBS_A_DAY
from dcsync.core.ports import KnownJob
from dcsync.errors import ConfigError, DcsyncError, PartsFailed, RateLimited, Unconfirmed
from dcsync.manifest import SqlManifest
from dcsync.ops.context import AccountSettings
from dcsync.ops.project_lists import data_requests
from dcsync.ops.project_lists import newest_jobs as newest_jobs_of
from dcsync.ops.requests import create

if TYPE_CHECKING:
    from dcsync.api.client import DataConnector

#: The jobs that have an extract at Autodesk, or will have one.
_COMING: Final = OPEN | {JobState.WAITING}
#: How many of the newest jobs are read. The manifest knows the others.
_JOBS: Final = 2 * JOBS_A_DAY
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """A backfill after a look at Autodesk, and how many jobs it may start now."""

    backfill: Backfill
    spare: int


async def mirrored_activities(manifest: SqlManifest, account: AccountSettings, now: datetime) -> Mirrored:
    """Return what the mirror has of the activities of an account's projects, from the manifest alone."""
    by_request: dict[str, list[KnownJob]] = {}
    for known in (await manifest.jobs(account.name)).values():
        by_request.setdefault(known.job.request_id, []).append(known)
    requests = (await manifest.requests(account.name)).values()
    documents = [request.document for request in requests if request.document is not None]
    having = [each for each in documents if GROUPS & set(each.service_groups) and includes(each, account.projects)]
    newest = [job.id for each in having if (job := _newest_on_disk(by_request.get(each.id, ()))) is not None]
    lacking = set(newest) - await manifest.history.with_windows(account.name, newest)
    recorded = await manifest.history.recorded_windows(account.name)
    covered: list[Days] = []
    coming: list[Days] = []
    promises = []
    for request in having:
        jobs = by_request.get(request.id, [])
        if any(known.job.id in lacking for known in jobs):
            continue
        there = _windows(request, [known.job for known in jobs if known.state in WAS_PUBLISHED], recorded)
        open_jobs = [known.job for known in jobs if known.state in _COMING]
        covered, coming = [*covered, *there], [*coming, *_windows(request, open_jobs, recorded)]
        counted = [known.job for known in jobs if known.state in WAS_PUBLISHED | _COMING]
        promises.append(promised_from(request, counted, recorded, now))
    return Mirrored(
        covered=tuple(covered),
        coming=tuple(coming),
        promised_from=min((day for day in promises if day is not None), default=None),
        jobs=newest_jobs(known.job for jobs in by_request.values() for known in jobs),
    )


def refuse_unselected(account: AccountSettings, backfill: Backfill) -> None:
    """Raise `ConfigError` if the account would not mirror the data requests of a backfill."""
    # An account without `requests` selects all.
    if all(account.selects(part.request or RequestId(""), part.description) for part in backfill.parts):
        return
    message = f"requests of the account {account.name} does not select the data requests of a backfill"
    raise ConfigError(message, hint="add 'Activities *' to [[account]] requests")


async def follow(
    api: DataConnector, account: AccountSettings, backfill: Backfill, mirrored: Mirrored, now: datetime
) -> Followed:
    """Look at Autodesk, and return how the backfill is. Nothing is created."""
    requests = (await data_requests(api, account)).entries
    jobs = (await newest_jobs_of(api, account, _JOBS)).entries
    newest = {**mirrored.jobs, **newest_jobs(jobs)}
    note = partial(note_requests, requests=requests, jobs=newest, now=now, projects=account.projects)
    # A new part may have a data request of an earlier backfill.
    found = note(divide(note(note_mirrored(backfill, mirrored)), mirrored))
    return Followed(backfill=found, spare=spare_jobs(requests, jobs, now))


async def create_parts(
    api: DataConnector,
    account: AccountSettings,
    backfill: Backfill,
    *,
    clock: Clock,
    save: Callable[[Backfill], Awaitable[None]],
    most: int,
) -> Backfill:
    """Create the data requests of at most this many parts. Killed at any call, it ends right when it is called again.

    `save` stores the backfill durably before and after each call. Ends early when Autodesk's daily limit is reached.
    Raises `Unconfirmed`, `AccessRefused` and other `ApiError`s.
    """
    for _ in range(most):
        part = backfill.next_part(clock.now())
        if part is None:
            break
        try:
            backfill = await _create_part(api, account, backfill, part, clock, save)
        except RateLimited:
            break
    return backfill


async def _create_part(
    api: DataConnector,
    account: AccountSettings,
    backfill: Backfill,
    part: Part,
    clock: Clock,
    save: Callable[[Backfill], Awaitable[None]],
) -> Backfill:
    since, wanted = part.began_at, request_for(part, clock.now(), account.projects)
    if since is None:
        await save(backfill.replaced(replace(part, began_at=clock.now())))
    try:
        made = await create(api, account, wanted, clock=clock, since=since)
    except Unconfirmed:
        raise
    except DcsyncError:
        if since is None:
            # Nothing was created, and nothing has to be looked up.
            await save(backfill)
        raise
    backfill = backfill.replaced(replace(part, request=made.request.id, began_at=None, retry_at=None))
    await save(backfill)
    return backfill


def refuse_failed(backfill: Backfill) -> None:
    """Raise `PartsFailed` if parts of a backfill were given up."""
    failed = [part for part in backfill.parts if part.state is PartState.FAILED]
    if not failed:
        return
    named = ", ".join(part.name for part in failed[:_SHOWN]) + (", …" if len(failed) > _SHOWN else "")
    message = f"the activities of {named} were requested {failed[0].failures} times: {printable(failed[0].problem)}"
    raise PartsFailed(message)


def _newest_on_disk(jobs: Iterable[KnownJob]) -> Job | None:
    there = [known.job for known in jobs if known.state in ON_DISK]
    return max(there, key=lambda job: (job.completed_at is not None, job.completed_at, job.id), default=None)


def _windows(request: DataRequest, jobs: Iterable[Job], recorded: Mapping[JobId, Days]) -> list[Days]:
    found = (recorded.get(job.id) or window_of(request, job) for job in jobs)
    return [days for days in found if days is not None]
