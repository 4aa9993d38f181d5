"""Poll for new jobs: read the job list newest first, until a page contains only known jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from dcsync.api.client import DataConnector, ListOptions
from dcsync.clock import Clock
from dcsync.core.layout import request_slug
from dcsync.core.lifecycle import EXTRACT_LIFE, JobState, is_known_for_good, state_for
from dcsync.core.model import DataRequest, Job, JobId, JobPhase, RequestId
from dcsync.core.ports import KnownJob, KnownRequest
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


async def poll(api: DataConnector, manifest: SqlManifest, clock: Clock, account: AccountSettings) -> Poll:
    """Read the jobs of an account, newest first, and record nothing.

    Takes one call when nothing is new. The caller must record the result in one transaction: a page of known jobs ends
    the next poll, so a partly recorded poll would hide the older jobs for good.
    """
    known = dict(await manifest.jobs(account.name))
    requests = dict(await manifest.requests(account.name))
    found: dict[JobId, Job] = {}
    for project in account.projects or (None,):
        await _read_pages(api, account, project, known, found, clock.now())
    changed = tuple(_updated(job, known.get(job.id)) for job in found.values() if _has_changed(job, known.get(job.id)))
    # A request is read when one of its jobs is new. A request that could not be read is read again for each new job.
    described = {request.id for request in requests.values() if request.is_described}
    unknown = sorted({known_job.job.request_id for known_job in changed} - described)
    new_requests = await _describe(api, account, unknown, requests)
    requests.update({request.id: request for request, _ in new_requests})
    known.update({known_job.job.id: known_job for known_job in changed})
    return Poll(changed=changed, new_requests=tuple(new_requests), jobs=known, requests=requests)


async def _read_pages(
    api: DataConnector,
    account: AccountSettings,
    project: str | None,
    known: Mapping[JobId, KnownJob],
    found: dict[JobId, Job],
    now: datetime,
) -> None:
    waiting = {
        job.job.id
        for job in known.values()
        if job.state is JobState.WAITING
        and (project is None or job.job.project_id == project)
        and (job.job.created_at is None or now - job.job.created_at < _WAITING_LIFE)
    }
    async for page in api.job_pages(account.id, ListOptions(project_id=project)):
        for job in page:
            found[job.id] = job
            waiting.discard(job.id)
        if not waiting and all(is_known_for_good(job.phase, _state(known.get(job.id))) for job in page):
            return


async def _describe(
    api: DataConnector,
    account: AccountSettings,
    unknown: Sequence[RequestId],
    seen: Mapping[RequestId, KnownRequest],
) -> list[tuple[KnownRequest, DataRequest | None]]:
    """Return the requests with these IDs. One request takes one call, and so do several, as a list."""
    described: dict[RequestId, DataRequest] = {}
    if len(unknown) > 1:
        # A user who may not list all requests may still read some of them.
        with suppress(NotFound, AccessRefused):
            described = {request.id: request for request in await api.requests(account.id)}
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
        (_known_request(identifier, described.get(identifier), seen.get(identifier)), described.get(identifier))
        for identifier in unknown
    ]


def _known_request(identifier: RequestId, request: DataRequest | None, seen: KnownRequest | None) -> KnownRequest:
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


def _updated(job: Job, known: KnownJob | None) -> KnownJob:
    state = state_for(job.phase, _state(known))
    if known is None:
        if job.phase is JobPhase.UNKNOWN:
            log.warning(
                "a job has an undocumented status; the next poll reads it again",
                job=job.id,
                status=job.status,
                completion=job.completion_status,
            )
        reason = f"{job.phase} at Autodesk" if state is JobState.EMPTY else None
        return KnownJob(job=job, state=state, reason=reason)
    return KnownJob(
        job=job,
        state=state,
        attempts=known.attempts,
        next_try_at=known.next_try_at,
        reason_code=known.reason_code,
        reason=known.reason,
        folder=known.folder,
        first_seen_at=known.first_seen_at,
        published_at=known.published_at,
    )


def _has_changed(job: Job, known: KnownJob | None) -> bool:
    return known is None or state_for(job.phase, known.state) is not known.state


def _state(known: KnownJob | None) -> JobState | None:
    return None if known is None else known.state
