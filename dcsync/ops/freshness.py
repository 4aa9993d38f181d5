"""The freshness of each data request of an account, from the manifest alone. Every reader uses this module."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from dcsync.core.freshness import History, RequestFreshness, Sighting, request_freshness
from dcsync.core.model import DataRequest, RequestId
from dcsync.core.ports import AccountFacts, KnownJob
from dcsync.manifest import SqlManifest, StoredValues
from dcsync.ops.context import AccountSettings
from dcsync.ops.observed import Observations


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowedRequest:
    """A data request that is mirrored, with all that decides about its freshness."""

    sighting: Sighting
    history: History
    freshness: RequestFreshness


async def follow_requests(
    manifest: SqlManifest, account: AccountSettings, jobs: Iterable[KnownJob], facts: AccountFacts, now: datetime
) -> Sequence[FollowedRequest]:
    """Return the data requests of an account that the configuration mirrors, by description.

    `jobs` are all jobs of the account. A manifest of an older version, which is open for reading, has none.
    """
    if not await manifest.is_current():
        return []
    by_request: dict[RequestId, list[KnownJob]] = {}
    for known in jobs:
        by_request.setdefault(known.job.request_id, []).append(known)
    unseen = set(json.loads(await StoredValues(manifest).load(f"gone:{account.name}") or "[]"))
    observed = Observations(manifest, account.name)
    owed, unread = await observed.owed_slots(), await observed.unread_since()
    documents = await manifest.request_documents(account.name)
    found = []
    for request in (await manifest.requests(account.name)).values():
        if not account.wants_request(request):
            continue
        its_jobs = by_request.get(request.id, [])
        seen = [request.first_seen_at, *(known.first_seen_at for known in its_jobs)]
        sighting = Sighting(
            request=request,
            document=documents.get(request.id),
            polled_at=_last_read(account, documents.get(request.id), unread, facts.last_poll_at),
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
