"""What polls saw at Autodesk and the manifest has no table for: kept between runs, for alerts. One value for each kind.

The module imports neither the network nor the log, because `dcsync status` imports it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from dcsync.core.freshness import Cause, MissedSlot
from dcsync.core.model import AccountName, Job, JobId, RequestId
from dcsync.errors import SpaceNeeds
from dcsync.manifest import SqlManifest, StoredValues


@dataclass(frozen=True, slots=True, kw_only=True)
class VisibleRequests:
    """The data requests of the last list, with their descriptions. None of them if the list was refused."""

    by_id: Mapping[RequestId, str] = field(default_factory=dict)
    is_refused: bool = False
    #: The names of `[[account]] requests` that matched no known data request when the list was read.
    asked_for: tuple[str, ...] = ()


class Observations:
    """The observations of one account. Every save replaces the previous observation of its kind."""

    def __init__(self, manifest: SqlManifest, account: AccountName) -> None:
        self._values = StoredValues(manifest)
        self._account = account

    async def unusable_jobs(self) -> Sequence[str]:
        """Return a text for each entry of the job list that the last poll could not use."""
        return tuple(json.loads(await self._values.load(f"unusable-jobs:{self._account}") or "[]"))

    async def save_unusable_jobs(self, texts: Sequence[str]) -> None:
        """Keep the texts, and write nothing if they have not changed."""
        if tuple(texts) != await self.unusable_jobs():
            await self._values.save(f"unusable-jobs:{self._account}", json.dumps(list(texts)) if texts else None)

    async def unusable_requests(self) -> Sequence[str]:
        """Return a text for each entry of the list of data requests that could not be used."""
        return tuple(json.loads(await self._values.load(f"unusable-requests:{self._account}") or "[]"))

    async def save_unusable_requests(self, texts: Sequence[str]) -> None:
        """Keep the texts."""
        await self._values.save(f"unusable-requests:{self._account}", json.dumps(list(texts)) if texts else None)

    async def listings(self, jobs: Sequence[Job]) -> Mapping[JobId, bool]:
        """Return which jobs with an unknown status have a data listing. Jobs that were not asked for are missing.

        An answer counts only while the job has the status that it had then.
        """
        if not jobs:
            return {}
        kept = json.loads(await self._values.load(f"listings:{self._account}") or "{}")
        return {job.id: kept[job.id]["listed"] for job in jobs if kept.get(job.id, {}).get("status") == _status(job)}

    async def save_listings(self, listed: Mapping[JobId, bool], jobs: Sequence[Job]) -> None:
        """Keep the answers for these jobs and forget all others."""
        kept = {job.id: {"status": _status(job), "listed": listed[job.id]} for job in jobs if job.id in listed}
        await self._values.save(f"listings:{self._account}", json.dumps(kept) if kept else None)

    async def space_needs(self) -> Mapping[JobId, SpaceNeeds]:
        """Return what jobs need that wait for space on the disk."""
        kept = json.loads(await self._values.load(f"room:{self._account}") or "{}")
        return {JobId(job): SpaceNeeds(size=size, entries=entries) for job, (size, entries) in kept.items()}

    async def save_space_needs(self, needs: Mapping[JobId, SpaceNeeds]) -> None:
        """Keep what jobs need."""
        kept = {job: [item.size, item.entries] for job, item in needs.items()}
        await self._values.save(f"room:{self._account}", json.dumps(kept) if kept else None)

    async def owed_slots(self) -> Mapping[RequestId, MissedSlot]:
        """Return the slots that were missed when the schedule of their data request changed."""
        kept = json.loads(await self._values.load(f"owed:{self._account}") or "{}")
        return {RequestId(key): _owed(*times) for key, times in kept.items()}

    async def save_owed_slots(self, owed: Mapping[RequestId, MissedSlot]) -> None:
        """Keep these slots and forget all others."""
        kept = {key: [slot.queued_at.isoformat(), slot.due_at.isoformat()] for key, slot in owed.items()}
        await self._values.save(f"owed:{self._account}", json.dumps(kept) if kept else None)

    async def unread_since(self) -> Mapping[str, datetime | None]:
        """Return the projects whose job list the last poll could not read, and when it was last read."""
        kept = json.loads(await self._values.load(f"unread-projects:{self._account}") or "{}")
        return {project: since and datetime.fromisoformat(since) for project, since in kept.items()}

    async def save_unread_since(self, unread: Mapping[str, datetime | None]) -> None:
        """Keep these projects and forget all others."""
        kept = {project: since and since.isoformat() for project, since in unread.items()}
        await self._values.save(f"unread-projects:{self._account}", json.dumps(kept) if kept else None)

    async def visible_requests(self) -> VisibleRequests | None:
        """Return the data requests of the last list. None before the first list."""
        text = await self._values.load(f"visible:{self._account}")
        if text is None:
            return None
        kept = json.loads(text)
        return VisibleRequests(
            by_id={RequestId(key): value for key, value in kept["requests"].items()},
            is_refused=kept["refused"],
            asked_for=tuple(kept["asked_for"]),
        )

    async def save_visible_requests(self, visible: VisibleRequests) -> None:
        """Keep the data requests of a list."""
        kept = {
            "requests": dict(visible.by_id),
            "refused": visible.is_refused,
            "asked_for": list(visible.asked_for),
        }
        await self._values.save(f"visible:{self._account}", json.dumps(kept))


def _owed(queued_at: str, due_at: str) -> MissedSlot:
    # Only its times are kept. Its jobs belong to the schedule before.
    times = datetime.fromisoformat(queued_at), datetime.fromisoformat(due_at)
    return MissedSlot(queued_at=times[0], due_at=times[1], cause=Cause.NOT_STARTED, phase=None)


def _status(job: Job) -> list[str | None]:
    return [job.status, job.completion_status]
