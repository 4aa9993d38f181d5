"""Poll for new jobs: read the job list newest first, until a page contains only known jobs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import structlog

from dcsync.api.client import DataConnector
from dcsync.clock import Clock
from dcsync.core.lifecycle import (
    EXTRACT_LIFE,
    OPEN,
    JobState,
    describe_status,
    has_expired,
    state_for,
    was_too_old,
)
from dcsync.core.model import DataRequest, Job, JobId, JobPhase, RequestId
from dcsync.core.ports import KnownJob, KnownRequest
from dcsync.core.wire import BadEntry
from dcsync.errors import ApiError
from dcsync.manifest import SqlManifest
from dcsync.ops.context import AccountSettings
from dcsync.ops.mirroring.descriptions import Descriptions, known_request
from dcsync.ops.mirroring.job_lists import read_job_lists

log = structlog.get_logger(__name__)

#: How long the extracts of a data request wait for its description. Its folder is named after it. They wait longer if
#: only the description says whether the configuration mirrors them.
_PATIENCE = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """The result of a poll: the changes to record, and all jobs and requests after them."""

    changed: tuple[KnownJob, ...]
    new_requests: tuple[tuple[KnownRequest, DataRequest | None], ...]
    jobs: Mapping[JobId, KnownJob]
    requests: Mapping[RequestId, KnownRequest]
    #: Entries of the job list that dcsync cannot use, and whose extracts Autodesk may still have.
    unusable: tuple[BadEntry, ...] = ()
    #: Data requests that cannot be read now. Their jobs wait.
    unread_requests: Mapping[RequestId, ApiError] = field(default_factory=dict)
    #: Projects whose job list cannot be read. Nothing new is known of their jobs.
    unread_projects: Mapping[str, ApiError] = field(default_factory=dict)
    #: The projects whose job list did not end. None is the list of the whole account.
    endless: tuple[str | None, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PollBefore:
    """What the poll before could not read."""

    #: The projects whose job list did not end. None is the list of the whole account.
    endless: Collection[str | None] = ()
    #: The data requests whose jobs wait.
    unread_requests: Collection[RequestId] = ()


async def poll(
    api: DataConnector, manifest: SqlManifest, clock: Clock, account: AccountSettings, *, before: PollBefore
) -> Poll:
    """Read the jobs of an account, newest first, and record nothing.

    Takes one call when nothing is new. The caller must record the result in one transaction: a page of known jobs ends
    the next poll, so a partly recorded poll would hide the older jobs for good.
    """
    known, now = dict(await manifest.jobs(account.name)), clock.now()
    requests = dict(await manifest.requests(account.name))
    lists = await read_job_lists(api, account, known, now, endless=before.endless)
    # Jobs that no page has shown grow older too.
    current = {**{job: known_job.job for job, known_job in known.items()}, **lists.jobs}
    changed = tuple(_updated(job, known.get(job.id), now) for job in current.values() if _has_changed(job, known, now))
    known.update({known_job.job.id: known_job for known_job in changed})
    held = {
        request.id
        for request in requests.values()
        if _is_held(request, now) or (request.id in before.unread_requests and not account.wants_request(request))
    }
    descriptions, new_requests = await _describe(api, account, known, {job.job.id for job in changed}, requests, held)
    requests.update({request.id: request for request, _ in new_requests})
    return Poll(
        changed=changed,
        new_requests=tuple(new_requests),
        jobs=known,
        requests=requests,
        unusable=tuple({entry: None for entry in lists.unusable if not has_expired(entry.dated_at, now)}),
        unread_requests={
            request: error
            for request, error in descriptions.unread.items()
            if _waits(account, requests[request], requests, now)
        },
        unread_projects=lists.unread,
        endless=tuple(lists.endless),
    )


async def _describe(
    api: DataConnector,
    account: AccountSettings,
    known: Mapping[JobId, KnownJob],
    changed: Collection[JobId],
    requests: Mapping[RequestId, KnownRequest],
    held: Collection[RequestId],
) -> tuple[Descriptions, list[tuple[KnownRequest, DataRequest | None]]]:
    """Read the data requests that are not described and have a new job, or one that waits for the description."""
    described = {request.id for request in requests.values() if request.is_described}
    unknown, needed = set[RequestId](), set[RequestId]()
    for job in known.values():
        request = job.job.request_id
        if request not in described and (job.job.id in changed or (request in held and job.state in OPEN)):
            unknown.add(request)
            needed.update({request} if job.state is not JobState.TOO_OLD else ())
    descriptions = Descriptions()
    await descriptions.read(api, account, sorted(unknown), needed)
    found, folders = descriptions.found, {job.job.request_id for job in known.values() if job.folder is not None}
    return descriptions, [
        (
            known_request(request, found.get(request), requests.get(request), has_folder=request in folders),
            found.get(request),
        )
        for request in sorted(unknown)
        if request in needed or request in found
    ]


def _is_held(request: KnownRequest, now: datetime) -> bool:
    """Whether the jobs of a data request without a description wait for it: for a day, and only after an error."""
    return request.first_seen_at is None or now - request.first_seen_at < _PATIENCE


def _waits(account: AccountSettings, request: KnownRequest, known: Collection[RequestId], now: datetime) -> bool:
    """Whether the jobs of a data request that cannot be read wait. Without its description, no pattern matches it."""
    if account.wants_request(request):
        return _is_held(request, now)
    return any(name not in known for name in account.requests)


def _updated(job: Job, known: KnownJob | None, now: datetime) -> KnownJob:
    state = _next_state(job, known, now)
    if known is None:
        if job.phase is JobPhase.UNKNOWN and state is JobState.WAITING:
            log.warning(
                "a job has an undocumented status; the next poll reads it again",
                job=job.id,
                status=job.status,
                completion=job.completion_status,
                in_result="sync demo",
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
