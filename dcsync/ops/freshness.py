"""The freshness of each data request of an account, from the manifest alone. Every reader uses this module."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from dcsync.core.freshness import History, RequestFreshness, Sighting, request_freshness
from dcsync.core.model import AccountName, DataRequest, JobId, RequestId
from dcsync.core.ports import AccountFacts, KnownJob, KnownRequest
from dcsync.manifest import SqlManifest, StoredValues
from dcsync.ops.context import AccountSettings
from dcsync.ops.observed import Observations


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowedRequest:
    """A data request that is mirrored, with all that decides about its freshness."""

    sighting: Sighting
    history: History
    freshness: RequestFreshness


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownAccount:
    """An account as the manifest knows it, with all of its jobs and data requests."""

    facts: AccountFacts
    jobs: Mapping[JobId, KnownJob]
    requests: Mapping[RequestId, KnownRequest]


async def known_account(manifest: SqlManifest, account: AccountName) -> KnownAccount:
    """Read what the manifest knows of an account."""
    facts, jobs = await manifest.facts(account), await manifest.jobs(account)
    return KnownAccount(facts=facts, jobs=jobs, requests=await manifest.requests(account))


async def follow_requests(
    manifest: SqlManifest, account: AccountSettings, known: KnownAccount, now: datetime
) -> Sequence[FollowedRequest]:
    """Return the data requests of an account that the configuration mirrors, by description.

    A manifest of an older version, which is open for reading, has none.
    """
    if not await manifest.is_current():
        return []
    by_request: dict[RequestId, list[KnownJob]] = {}
    for job in known.jobs.values():
        by_request.setdefault(job.job.request_id, []).append(job)
    unseen = set(json.loads(await StoredValues(manifest).load(f"gone:{account.name}") or "[]"))
    observed = Observations(manifest, account.name)
    owed, unread = await observed.owed_slots(), await observed.unread_since()
    found = []
    for request in known.requests.values():
        if not account.wants_request(request):
            continue
        its_jobs = by_request.get(request.id, [])
        seen = [request.first_seen_at, *(job.first_seen_at for job in its_jobs)]
        sighting = Sighting(
            request=request,
            document=request.document,
            polled_at=_last_read(account, request.document, unread, known.facts.last_poll_at),
            is_retired=account.is_retired(request),
            is_gone=request.id in unseen,
        )
        history = History(
            # After a rebuild, the snapshots show that the mirror is older than the manifest.
            jobs=its_jobs,
            since=min((at for at in seen if at is not None), default=None),
            start=account.start,
            owed=owed.get(request.id),
        )
        freshness = request_freshness(sighting, history, now)
        found.append(FollowedRequest(sighting=sighting, history=history, freshness=freshness))
    return sorted(found, key=lambda item: (item.freshness.name, item.freshness.request))


def _last_read(
    account: AccountSettings,
    document: DataRequest | None,
    unread: Mapping[str, datetime | None],
    polled_at: datetime | None,
) -> datetime | None:
    """Return when the jobs of a data request were last read. The lists of its projects may not be readable now.

    The list of one of its projects is enough. A data request without projects is in the list of each one.
    """
    projects = set() if document is None else document.projects & set(account.projects)
    if any(project not in unread for project in projects):
        return polled_at
    since = [unread[project] for project in projects or unread]
    return min([polled_at, *since], key=lambda at: (at is not None, at)) if since else polled_at
