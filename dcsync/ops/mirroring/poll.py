"""Poll for new jobs: read the job list newest first, until a page contains only known jobs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from dcsync.api.client import DataConnector, ListOptions
from dcsync.clock import Clock
from dcsync.core.layout import request_slug
from dcsync.core.lifecycle import (
    EXTRACT_LIFE,
    JobState,
    describe_status,
    has_expired,
    is_known_for_good,
    state_for,
    was_too_old,
)
from dcsync.core.model import DataRequest, Job, JobId, JobPhase, RequestId
from dcsync.core.ports import KnownJob, KnownRequest
from dcsync.core.wire import BadEntry
from dcsync.errors import AccessRefused, NotFound
from dcsync.manifest import SqlManifest
from dcsync.ops.context import AccountSettings

log = structlog.get_logger(__name__)

#: A waiting job is searched for on later pages this long. After that, Autodesk would have deleted its extract anyway.
_WAITING_LIFE = EXTRACT_LIFE + timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """The result of a poll: the changes to record, and all jobs and requests after them."""

    changed: tuple[KnownJob, ...]
    new_requests: tuple[tuple[KnownRequest, DataRequest | None], ...]
    jobs: Mapping[JobId, KnownJob]
    requests: Mapping[RequestId, KnownRequest]
    #: Entries of the job list that dcsync cannot use, and whose extracts Autodesk may still have.
    unusable: tuple[BadEntry, ...] = ()


async def poll(api: DataConnector, manifest: SqlManifest, clock: Clock, account: AccountSettings) -> Poll:
    """Read the jobs of an account, newest first, and record nothing.

    Takes one call when nothing is new. The caller must record the result in one transaction: a page of known jobs ends
    the next poll, so a partly recorded poll would hide the older jobs for good.
    """
    known, now = dict(await manifest.jobs(account.name)), clock.now()
    requests = dict(await manifest.requests(account.name))
    found: dict[JobId, Job] = {}
    unusable: list[BadEntry] = []
    for project in account.projects or (None,):
        await _read_pages(api, account, project, _Reading(known=known, found=found, unusable=unusable, now=now))
    # Jobs that no page has shown grow older too.
    current = {**{job: known_job.job for job, known_job in known.items()}, **found}
    changed = tuple(_updated(job, known.get(job.id), now) for job in current.values() if _has_changed(job, known, now))
    # A request is read when one of its jobs is new. A request that could not be read is read again for each new job.
    described = {request.id for request in requests.values() if request.is_described}
    unknown = {known_job.job.request_id for known_job in changed} - described
    needed = {known_job.job.request_id for known_job in changed if known_job.state is not JobState.TOO_OLD} - described
    new_requests = await _describe(api, account, sorted(unknown), requests, needed=needed)
    requests.update({request.id: request for request, _ in new_requests})
    known.update({known_job.job.id: known_job for known_job in changed})
    return Poll(
        changed=changed,
        new_requests=tuple(new_requests),
        jobs=known,
        requests=requests,
        unusable=tuple({entry: None for entry in unusable if not has_expired(entry.dated_at, now)}),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """What the pages of the job list are compared with, and what they add to."""

    known: Mapping[JobId, KnownJob]
    found: dict[JobId, Job]
    unusable: list[BadEntry]
    now: datetime

    def has_no_news(self, page: Sequence[Job]) -> bool:
        """Whether a page has only jobs that are known, or older than anything that Autodesk still has.

        Old jobs count only on a page that is in order, newest first. The newest jobs may follow them otherwise.
        """
        dates = [job.created_at for job in page if job.created_at is not None]
        in_order = len(dates) == len(page) and (len(page) == 1 or dates[0] > dates[-1])
        return all(self._is_settled(job, in_order=in_order) for job in page)

    def _is_settled(self, job: Job, *, in_order: bool) -> bool:
        state = _state(self.known.get(job.id))
        if state is None:
            return in_order and state_for(job, None, self.now) is JobState.TOO_OLD
        return is_known_for_good(job, state, self.now)


async def _read_pages(api: DataConnector, account: AccountSettings, project: str | None, reading: _Reading) -> None:
    waiting = {
        job.job.id
        for job in reading.known.values()
        if job.state is JobState.WAITING
        and (project is None or job.job.project_id == project)
        and (job.job.created_at is None or reading.now - job.job.created_at < _WAITING_LIFE)
    }
    options = ListOptions(project_id=project)
    async for page in api.job_pages(account.id, options, on_bad=reading.unusable.append):
        for job in page:
            reading.found[job.id] = job
            waiting.discard(job.id)
        if not waiting and reading.has_no_news(page):
            return


async def _describe(
    api: DataConnector,
    account: AccountSettings,
    unknown: Sequence[RequestId],
    seen: Mapping[RequestId, KnownRequest],
    *,
    needed: Collection[RequestId],
) -> list[tuple[KnownRequest, DataRequest | None]]:
    """Return the requests with these IDs. One request takes one call, and so do several, as a list.

    A request that is not `needed` has only jobs that are too old. It takes no call of its own.
    """
    described: dict[RequestId, DataRequest] = {}
    if len(unknown) > 1 or set(unknown) - set(needed):
        # A user who may not list all requests may still read some of them.
        with suppress(NotFound, AccessRefused):
            described = {request.id: request for request in await api.requests(account.id)}
    unknown = [identifier for identifier in unknown if identifier in needed or identifier in described]
    for identifier in unknown:
        if identifier not in described:
            try:
                described[identifier] = await api.request(account.id, identifier)
            except (NotFound, AccessRefused) as error:
                log.warning(
                    "a data request cannot be read; it gets no latest, because it may be a delta",
                    account=account.name,
                    request=identifier,
                    code=error.code,
                )
    return [
        (known_request(identifier, described.get(identifier), seen.get(identifier)), described.get(identifier))
        for identifier in unknown
    ]


def known_request(identifier: RequestId, request: DataRequest | None, seen: KnownRequest | None) -> KnownRequest:
    """Return the data request to record. `seen` is what the manifest has."""
    description = "" if request is None else request.description
    return KnownRequest(
        id=identifier,
        description=description,
        # Fixed at first sight, even if only the ID was known then.
        slug=request_slug(description, identifier) if seen is None else seen.slug,
        is_delta=request is not None and request.is_delta,
        is_described=request is not None,
        document=request,
    )


def _updated(job: Job, known: KnownJob | None, now: datetime) -> KnownJob:
    state = _next_state(job, known, now)
    if known is None:
        if job.phase is JobPhase.UNKNOWN and state is JobState.WAITING:
            log.warning(
                "a job has an undocumented status; the next poll reads it again",
                job=job.id,
                status=job.status,
                completion=job.completion_status,
            )
        return KnownJob(job=job, state=state, reason=_reason(job, state))
    if state is known.state:
        return replace(known, job=job)
    if known.state is JobState.QUARANTINED:
        # Why it was not mirrored in time.
        return replace(known, job=job, state=state)
    return replace(known, job=job, state=state, reason_code=None, reason=_reason(job, state))


def _reason(job: Job, state: JobState) -> str | None:
    match state:
        case JobState.EMPTY if job.phase is JobPhase.PENDING:
            return f"still {job.status} at Autodesk after {EXTRACT_LIFE.days} days"
        case JobState.EMPTY:
            return f"{job.phase} at Autodesk"
        case JobState.EXPIRED:
            return f"{describe_status(job)}, and Autodesk deletes extracts after {EXTRACT_LIFE.days} days"
        case JobState.TOO_OLD:
            return f"older than {EXTRACT_LIFE.days} days when dcsync first saw it"
        case _:
            return None


def _next_state(job: Job, known: KnownJob | None, now: datetime) -> JobState:
    if known is not None and known.state is JobState.EXPIRED and known.folder is None:
        # Version 0.2 called it a loss.
        return JobState.TOO_OLD if was_too_old(job, known.first_seen_at) else known.state
    return state_for(job, _state(known), now)


def _has_changed(job: Job, jobs: Mapping[JobId, KnownJob], now: datetime) -> bool:
    known = jobs.get(job.id)
    if known is None or _next_state(job, known, now) is not known.state:
        return True
    # The alert for an unknown status quotes it.
    return known.state is JobState.WAITING and job != known.job and JobPhase.UNKNOWN in {job.phase, known.job.phase}


def _state(known: KnownJob | None) -> JobState | None:
    return None if known is None else known.state
