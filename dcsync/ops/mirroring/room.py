"""Jobs that wait for space on the mirror's disk. Until the space is there, a job takes no call and no attempt."""

from __future__ import annotations

from collections.abc import Sequence

from dcsync.core.lifecycle import ROOM_CODES, JobState
from dcsync.core.model import AccountName, JobId
from dcsync.core.ports import KnownJob
from dcsync.errors import DiskError, DiskFull, InodesExhausted, SpaceNeeds
from dcsync.ops.context import SyncContext
from dcsync.ops.observed import Observations

#: After a disk was full although the space had been there, a job is tried again when this much more is free.
_MORE = 64 << 20


class Room:
    """The space that jobs of one account wait for. What a job needs is remembered between runs."""

    def __init__(self, context: SyncContext, account: AccountName) -> None:
        self._context = context
        self._observed = Observations(context.manifest, account)

    async def blocked(self, jobs: Sequence[KnownJob]) -> dict[JobId, DiskError]:
        """Return the jobs for which the disk still has too little space, each with the error."""
        waiting = [known.job.id for known in jobs if known.state is JobState.FAILED and known.reason_code in ROOM_CODES]
        needs = await self._observed.space_needs() if waiting else {}
        found = {}
        for job in waiting:
            error = await self.check(needs[job]) if job in needs else None
            if error is not None:
                found[job] = error
        return found

    async def check(self, needs: SpaceNeeds) -> DiskError | None:
        """Return the error for a disk that has too little space, or None. Raises other `DiskError`s."""
        reserve = self._context.settings.min_free
        try:
            await self._context.disk.run(
                self._context.root.check_room, size=needs.size, entries=needs.entries, reserve=reserve
            )
        except (DiskFull, InodesExhausted) as error:
            return error
        return None

    async def remember(self, job: JobId, error: DiskError) -> None:
        """Remember what a job needs. Without a known size, it is more than what is free now."""
        needs = error.needs
        if needs is None:
            free = await self._context.disk.run(self._context.root.free_bytes)
            needs = SpaceNeeds(size=max(0, free + _MORE - self._context.settings.min_free), entries=0)
        await self._observed.save_space_needs({**await self._observed.space_needs(), job: needs})

    async def forget_others(self, jobs: Sequence[KnownJob]) -> None:
        """Forget what jobs need that are no longer open."""
        needs = await self._observed.space_needs()
        kept = {known.job.id: needs[known.job.id] for known in jobs if known.job.id in needs}
        if kept.keys() != needs.keys():
            await self._observed.save_space_needs(kept)
