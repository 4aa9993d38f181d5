"""Jobs that a run could not publish: their state, the time of the next attempt, and what the outcome says of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import structlog

from dcsync.core.alerts import AlertCode
from dcsync.core.lifecycle import (
    LISTING_PATIENCE,
    LOSS_HINTS,
    LOSSES,
    POISON_ATTEMPTS,
    QUARANTINE_RETRY,
    JobState,
    has_expired,
    next_try_after,
)
from dcsync.core.model import Job, JobPhase
from dcsync.core.ports import KnownJob
from dcsync.errors import (
    ApiError,
    DcsyncError,
    DiskError,
    ExtractEmpty,
    ExtractMissing,
    NothingSelected,
    StorageError,
)
from dcsync.ops.context import AccountSettings, SyncContext
from dcsync.ops.mirroring.outcome import AccountOutcome, Failed
from dcsync.ops.mirroring.room import Room
from dcsync.ops.mirroring.selection import note_filtered

log = structlog.get_logger(__name__)

#: Hints for states in which the hint of the error is wrong.
_HINTS = {
    **LOSS_HINTS,
    JobState.WAITING: "the job has no data listing, so its extract may not be complete. Each poll checks its status",
}


class Failures:
    """Records the failed jobs of one account's run, in the outcome and, except in a dry run, in the manifest."""

    def __init__(self, account: AccountSettings, outcome: AccountOutcome, *, dry_run: bool) -> None:
        self._account = account
        self._outcome = outcome
        self._dry_run = dry_run

    async def fail(self, context: SyncContext, known: KnownJob, error: DcsyncError) -> None:
        """Record that a job failed, and when it is tried again."""
        if not self._dry_run:
            await self._record(context, known, error)
            return
        self._outcome.failed.append(
            Failed(
                job=known.job.id,
                state=known.state,
                code=error.code,
                message=error.message,
                hint=error.advice,
                next_try_at=None,
            )
        )

    async def wait_for_room(self, context: SyncContext, room: Room, known: KnownJob, error: DiskError) -> None:
        """Let a job wait for space, without counting an attempt. Only the first one of a run is reported."""
        await room.remember(known.job.id, error)
        if error.needs is None or not self._outcome.blocked:
            await self._record(context, known, error)
        else:
            self._outcome.due_later += 1
            await context.manifest.move(
                self._account.name,
                known.job.id,
                JobState.FAILED,
                at=context.clock.now(),
                attempts=0,
                reason_code=error.code,
                reason=error.message,
            )
        self._outcome.blocked += 1

    def report_losses(self, changed: Sequence[KnownJob], selected: Sequence[KnownJob]) -> None:
        """Add the jobs to the outcome that are still unknown or quarantined now that Autodesk has deleted them."""
        for known in changed:
            if known.state is JobState.EXPIRED and known in selected:
                self._report(
                    Failed(
                        job=known.job.id,
                        state=known.state,
                        code=known.reason_code or AlertCode.L_STATUS,
                        message=f"job {known.job.id} {known.reason}",
                        hint=LOSS_HINTS[JobState.EXPIRED],
                        next_try_at=None,
                    )
                )

    async def _record(self, context: SyncContext, known: KnownJob, error: DcsyncError) -> None:
        """Decide the state of a failed job, and record it with the time of the next attempt."""
        now = context.clock.now()
        # Only failures with the same code in a row count: network errors do not bring a job nearer to quarantine.
        attempts = known.attempts + 1 if known.reason_code == error.code else 1
        wait = next_try_after(attempts, asked_s=error.retry_after_s, draw=context.draw())
        state = _state_after(error, known.job, attempts, now)
        next_try: datetime | None = now + wait
        if isinstance(error, DiskError) and error.needs is not None:
            # The job is due again as soon as there is enough space.
            attempts, next_try = 0, None
        due = next_try if state is JobState.FAILED else None
        if state is JobState.QUARANTINED:
            due = now + QUARANTINE_RETRY
        await context.manifest.move(
            self._account.name,
            known.job.id,
            state,
            at=now,
            attempts=attempts,
            next_try_at=due,
            reason_code=error.code,
            reason=error.message,
        )
        if isinstance(error, NothingSelected):
            await note_filtered(context.manifest, self._account, known.job.id)
        hint = _HINTS.get(state, error.advice)
        self._report(
            Failed(job=known.job.id, state=state, code=error.code, message=error.message, hint=hint, next_try_at=due)
        )

    def _report(self, failed: Failed) -> None:
        self._outcome.failed.append(failed)
        level = log.error if failed.state in LOSSES else log.warning
        level(
            "extract lost" if failed.state is JobState.EXPIRED else "job failed",
            account=self._account.name,
            job=failed.job,
            state=failed.state.value,
            code=failed.code,
            error=failed.message,
            hint=failed.hint,
            next_try_at=failed.next_try_at,
            in_result="sync demo",
        )


def _state_after(error: DcsyncError, job: Job, attempts: int, now: datetime) -> JobState:
    if isinstance(error, ExtractMissing | ExtractEmpty):
        return _state_without_listing(job, now)
    if isinstance(error, ApiError | StorageError) and has_expired(job.dated_at, now):
        # Autodesk need not say that it has deleted the extract.
        return JobState.EXPIRED
    if error.poison and attempts >= POISON_ATTEMPTS:
        return JobState.QUARANTINED
    return JobState.FAILED


def _state_without_listing(job: Job, now: datetime) -> JobState:
    if has_expired(job.dated_at, now):
        return JobState.EXPIRED
    if job.phase is JobPhase.UNKNOWN:
        # The operator named it. Without a data listing it is not ready.
        return JobState.WAITING
    if job.dated_at is not None and now - job.dated_at > LISTING_PATIENCE:
        return JobState.QUARANTINED
    return JobState.FAILED
