"""One run: poll, and mirror every due job, oldest first. Accounts run side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import structlog

from dcsync.core.alerts import AlertCode
from dcsync.core.lifecycle import (
    LISTING_PATIENCE,
    LOSS_HINTS,
    LOSSES,
    OPEN,
    POISON_ATTEMPTS,
    ROOM_CODES,
    JobState,
    has_expired,
    is_due,
    nears_expiry,
    next_try_after,
)
from dcsync.core.model import Job, JobId, JobPhase, RequestId
from dcsync.core.ports import AccountFacts, KnownJob, KnownRequest
from dcsync.errors import (
    DcsyncError,
    DiskError,
    DiskFull,
    ExtractEmpty,
    ExtractMissing,
    Fenced,
    InodesExhausted,
    JobBug,
    ManifestError,
    NothingSelected,
    SpaceNeeds,
)
from dcsync.manifest.hollow import hollow_snapshots
from dcsync.ops.context import AccountSettings, SyncContext
from dcsync.ops.mirroring import poll as polling
from dcsync.ops.mirroring.job import JobMirror
from dcsync.ops.mirroring.knowledge import AccountKnowledge
from dcsync.ops.mirroring.latest import move_latest
from dcsync.ops.mirroring.outcome import HOLLOW, NOTHING_TO_DO, AccountOutcome, Failed, Skipped, Wanted
from dcsync.ops.mirroring.room import Room
from dcsync.ops.mirroring.selection import note_filtered, reselected
from dcsync.ops.mirroring.unclear import describe_unusable, probe_listing
from dcsync.ops.observed import Observations
from dcsync.tasks import primary_error

log = structlog.get_logger(__name__)


async def sync(
    context: SyncContext, accounts: Sequence[AccountSettings], *, wanted: Wanted | None = None, dry_run: bool = False
) -> list[AccountOutcome]:
    """Do one run over `accounts`. An error of one account is in its outcome and does not stop the other accounts.

    With `dry_run` nothing is recorded or written, and the outcome holds the plans. Cancelling keeps staged files.
    """
    outcomes = [AccountOutcome(account=account) for account in accounts]

    async def run_account(outcome: AccountOutcome) -> None:
        await _AccountRun(context, outcome, wanted or Wanted(), dry_run=dry_run).run()

    try:
        async with asyncio.TaskGroup() as group:
            for outcome in outcomes:
                group.create_task(run_account(outcome))
    except BaseExceptionGroup as errors:
        raise primary_error(errors) from None
    return outcomes


async def poll_account(context: SyncContext, account: AccountSettings) -> tuple[AccountOutcome, list[KnownJob]]:
    """Poll and mirror nothing. Return the due jobs, oldest first, for any host to mirror."""
    outcome = AccountOutcome(account=account)
    run = _AccountRun(context, outcome, Wanted(), dry_run=False)
    due: list[KnownJob] = []

    async def poll() -> bool:
        due.extend(known for known, _ in await run.poll())
        return not due

    await run.run(poll)
    return outcome, due


async def mirror_job(context: SyncContext, account: AccountSettings, job: JobId) -> AccountOutcome:
    """Mirror one known job if it is still open. A host that held the job before can no longer write to it.

    The outcome is empty when another host holds the job now.
    """
    outcome = AccountOutcome(account=account)
    run = _AccountRun(context, outcome, Wanted(), dry_run=False)
    await run.run(lambda: run.mirror_known(job))
    return outcome


class _AccountRun:
    """One account's part of a run."""

    def __init__(
        self,
        context: SyncContext,
        outcome: AccountOutcome,
        wanted: Wanted,
        *,
        dry_run: bool,
    ) -> None:
        self._context = replace(context, api=context.api.with_own_count())
        self._outcome = outcome
        self._account = outcome.account
        self._wanted = wanted
        self._dry_run = dry_run
        self._knowledge = AccountKnowledge()
        self._room = Room(self._context, outcome.account.name)

    async def run(self, work: Callable[[], Awaitable[bool]] | None = None) -> None:
        """Do `work`, which returns whether nothing is left to do. The default is a whole run."""
        manifest, clock, account = self._context.manifest, self._context.clock, self._account
        started_at = clock.now()
        facts, is_done = AccountFacts(), True
        try:
            facts = await manifest.facts(account.name)
            self._knowledge = AccountKnowledge(facts=facts)
            is_done = await (work or self._poll_and_mirror)()
        except DcsyncError as error:
            self._outcome.error = error
            log.warning(
                "account stopped", account=account.name, code=error.code, error=error.message, hint=error.advice
            )
        self._outcome.calls = self._context.api.calls
        if not self._dry_run:
            await self._record_result(started_at, facts, is_done=is_done)

    async def _poll_and_mirror(self) -> bool:
        for known, request in await self.poll():
            await self._mirror_if_room(known, request)
        return True

    async def mirror_known(self, job: JobId) -> bool:
        """Mirror one job, and return whether no other job of the account is open."""
        manifest, name = self._context.manifest, self._account.name
        known, requests = await manifest.job(name, job), await manifest.requests(name)
        if known is not None and known.state in OPEN and self._wants(known, requests):
            await self._mirror_if_room(known, requests[known.job.request_id])
        elif known is not None and known.state is JobState.PUBLISHED:
            # The host that published it may have ended before it moved `latest`.
            await move_latest(self._context, self._account, job)
        # The open jobs of all hosts.
        still_open = await manifest.jobs(name, states=OPEN)
        return not any(self._wants(other, requests) for other in still_open.values())

    async def poll(self) -> list[tuple[KnownJob, KnownRequest]]:
        """Poll, record the changes, and return the due jobs, oldest first."""
        context, account, outcome = self._context, self._account, self._outcome
        poll = await polling.poll(context.api, context.manifest, context.clock, account)
        outcome.new_jobs = sum(job.first_seen_at is None and job.state is not JobState.TOO_OLD for job in poll.changed)
        now = context.clock.now()
        if not self._dry_run and (poll.changed or poll.new_requests):
            await context.manifest.record_poll(account.name, jobs=poll.changed, requests=poll.new_requests, at=now)
        self._knowledge.facts = replace(self._knowledge.facts, last_poll_at=now)
        outcome.requests.extend(request for request in poll.requests.values() if account.wants_request(request))
        outcome.unusable.extend(describe_unusable(poll.unusable, poll.requests, account))
        selected = [known for known in poll.jobs.values() if self._wants(known, poll.requests)]
        self._report_losses(poll.changed, selected)
        if not self._dry_run:
            await Observations(context.manifest, account.name).save_unusable_jobs(outcome.unusable)
            await probe_listing(context.api, context.manifest, account, selected)
        waiting = [known.job for known in selected if known.state is JobState.WAITING]
        named = [known for known in poll.jobs.values() if self._is_named(known, poll.requests)]
        outcome.found_jobs.extend(known.job.id for known in named)
        if named:
            hollow = await hollow_snapshots(context.manifest, account.name)
            selected = [await self._reopened(known, is_hollow=known.job.id in hollow) for known in named]
            outcome.skipped.extend(
                Skipped(
                    job=known.job.id,
                    state=known.state,
                    reason=HOLLOW if known.job.id in hollow else NOTHING_TO_DO[known.state],
                )
                for known in selected
                if known.state in NOTHING_TO_DO
            )
            reopened = {known.job.id for known in selected if known.state in OPEN}
            waiting = [job for job in waiting if job.id not in reopened]
        outcome.waiting, outcome.unclear = len(waiting), sum(job.phase is JobPhase.UNKNOWN for job in waiting)
        outcome.given_up = sum(
            known.state is JobState.QUARANTINED and not has_expired(known.job.dated_at, now) for known in selected
        )
        due = []
        still_open = sorted((known for known in selected if known.state in OPEN), key=_age)
        blocked = {} if self._wanted.jobs else await self._room.blocked(still_open)
        if not (self._dry_run or self._wanted.jobs or self._wanted.requests):
            await self._room.forget_others(still_open)
        changed = await reselected(context.manifest, account, poll.jobs)
        for known in still_open:
            if nears_expiry(known.job.dated_at, now):
                outcome.expiring.append(known.job.id)
                log.warning(
                    "Autodesk will delete an extract soon",
                    account=account.name,
                    job=known.job.id,
                    completed_at=known.job.completed_at,
                )
            is_now = is_due(known.next_try_at, now) or known.job.id in changed
            if known.job.id in blocked:
                # A job without a time of its own waits for the space alone.
                is_later = known.next_try_at is None or not is_now
                outcome.blocked += is_later
            else:
                is_later = known.reason_code not in ROOM_CODES and not is_now
            if is_later and not self._wanted.jobs:
                outcome.due_later += 1
                continue
            due.append((known, poll.requests[known.job.request_id]))
        return due

    def _wants(self, known: KnownJob, requests: Mapping[RequestId, KnownRequest]) -> bool:
        request = requests.get(known.job.request_id)
        if request is None or not self._account.wants_request(request):
            return False
        if self._wanted.requests and not replace(self._account, requests=self._wanted.requests).wants_request(request):
            return False
        if self._wanted.jobs and known.job.id not in self._wanted.jobs:
            return False
        start, completed = self._account.start, known.job.completed_at
        return start is None or completed is None or completed >= start

    def _is_named(self, known: KnownJob, requests: Mapping[RequestId, KnownRequest]) -> bool:
        """Whether a job was named by its ID. Nothing may be known of the data request of a job that is too old."""
        is_old = known.state is JobState.TOO_OLD and known.job.request_id not in requests
        return known.job.id in self._wanted.jobs and (is_old or self._wants(known, requests))

    def _report_losses(self, changed: Sequence[KnownJob], selected: Sequence[KnownJob]) -> None:
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

    async def _reopened(self, known: KnownJob, *, is_hollow: bool) -> KnownJob:
        """Reopen a named job that is lost, has no tables or an unknown status, if its extract may still exist.

        A wrong clock can have recorded a job as expired too early. Therefore its age decides, not its state.
        """
        now = self._context.clock.now()
        is_unknown = known.state is JobState.WAITING and known.job.phase is JobPhase.UNKNOWN
        has_gone = (known.state is JobState.EXPIRED or is_hollow) and has_expired(known.job.dated_at, now)
        if has_gone or not (known.state in LOSSES or is_hollow or is_unknown):
            return known
        if not self._dry_run:
            await self._context.manifest.move(self._account.name, known.job.id, JobState.SEEN, at=now, attempts=0)
        return replace(known, state=JobState.SEEN, attempts=0, next_try_at=None)

    async def _mirror_if_room(self, known: KnownJob, request: KnownRequest) -> None:
        """Mirror a job, unless the disk has no space left for any."""
        error = None if self._dry_run else await self._room.check(SpaceNeeds(size=0, entries=0))
        if error is None:
            await self._mirror(known, request)
        else:
            await self._wait_for_room(self._context, known, error)

    async def _mirror(self, known: KnownJob, request: KnownRequest) -> None:
        if self._dry_run:
            await self._mirror_in(self._context, known, request)
            return
        manifest, account, job = self._context.manifest, self._account.name, known.job.id
        try:
            held = await self._context.peers.hold(manifest, account, job)
            # Read again now that this host holds the job: its earlier holder may have finished it.
            current = await manifest.job(account, job)
            if current is not None and current.state in OPEN:
                context = replace(self._context, manifest=held.manifest, number=held.number)
                await self._mirror_in(context, current, request)
        except Fenced:
            log.warning("another host took over the job; this host records nothing for it", account=account, job=job)

    async def _mirror_in(self, context: SyncContext, known: KnownJob, request: KnownRequest) -> None:
        mirror = JobMirror(context, self._account, self._knowledge)
        try:
            if self._dry_run:
                self._outcome.planned.append(await mirror.plan(known, request))
            else:
                self._outcome.published.append(await mirror.mirror(known, request))
        except Fenced:
            raise
        except DcsyncError as error:
            if error.scope.stops_account:
                raise
            if isinstance(error, DiskFull | InodesExhausted) and not self._dry_run:
                await self._wait_for_room(context, known, error)
            else:
                await self._fail(context, known, error)
        except Exception as error:  # a bug in one job must not stop the others
            log.exception(
                "a bug in dcsync stopped a job; the run continues", account=self._account.name, job=known.job.id
            )
            # Only the class: the text of a foreign exception may contain a secret.
            await self._fail(context, known, JobBug(f"unexpected {type(error).__name__}; the log has the traceback"))
        finally:
            self._context.observer.job_done(known.job.id)

    async def _wait_for_room(self, context: SyncContext, known: KnownJob, error: DiskError) -> None:
        """Let a job wait for space, without counting an attempt. Only the first one of a run is reported."""
        await self._room.remember(known.job.id, error)
        if error.needs is None or not self._outcome.blocked:
            await self._record_failure(context, known, error)
        else:
            self._outcome.due_later += 1
            await context.manifest.move(
                self._account.name,
                known.job.id,
                JobState.FAILED,
                at=self._context.clock.now(),
                attempts=0,
                reason_code=error.code,
                reason=error.message,
            )
        self._outcome.blocked += 1

    async def _fail(self, context: SyncContext, known: KnownJob, error: DcsyncError) -> None:
        """Add a failed job to the outcome and, except in a dry run, to the manifest."""
        if not self._dry_run:
            await self._record_failure(context, known, error)
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

    async def _record_failure(self, context: SyncContext, known: KnownJob, error: DcsyncError) -> None:
        """Decide the state of a failed job, and record it with the time of the next attempt."""
        now = self._context.clock.now()
        # Only failures with the same code in a row count: network errors do not bring a job nearer to quarantine.
        attempts = known.attempts + 1 if known.reason_code == error.code else 1
        wait = next_try_after(attempts, asked_s=error.retry_after_s, draw=self._context.draw())
        state = JobState.FAILED
        next_try: datetime | None = now + wait
        if isinstance(error, ExtractMissing | ExtractEmpty):
            state = _state_without_listing(known.job, now)
        elif error.poison and attempts >= POISON_ATTEMPTS:
            state = JobState.QUARANTINED
        if isinstance(error, DiskError) and error.needs is not None:
            # The job is due again as soon as there is enough space.
            attempts, next_try = 0, None
        due = next_try if state is JobState.FAILED else None
        hint = _HINTS.get(state, error.advice)
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
        )

    async def _record_result(self, started_at: datetime, before: AccountFacts, *, is_done: bool) -> None:
        outcome, now = self._outcome, self._context.clock.now()
        error = outcome.error
        succeeded = is_done and outcome.is_complete
        facts = replace(
            self._knowledge.facts,
            last_success_at=now if succeeded else self._knowledge.facts.last_success_at,
            error_code=None if error is None else error.code,
            error=None if error is None else error.message,
        )
        if isinstance(error, ManifestError):
            return
        await self._context.manifest.learn(self._account.name, facts, before=before)
        if outcome.published or outcome.failed or error is not None:
            await self._context.manifest.record_run(
                self._account.name,
                started_at=started_at,
                ended_at=now,
                published=len(outcome.published),
                failed=len(outcome.failed),
                calls=outcome.calls,
                fetched_bytes=sum(published.transfer.fetched_bytes for published in outcome.published),
                linked_bytes=sum(published.transfer.linked_bytes for published in outcome.published),
                error_code=None if error is None else error.code,
            )


#: Hints for states in which the hint of the error is wrong: dcsync does not retry the job.
_HINTS = {
    **LOSS_HINTS,
    JobState.WAITING: "the job has no data listing, so its extract may not be complete. Each poll checks its status",
}


def _state_without_listing(job: Job, now: datetime) -> JobState:
    if has_expired(job.dated_at, now):
        return JobState.EXPIRED
    if job.phase is JobPhase.UNKNOWN:
        # The operator named it. Without a data listing it is not ready.
        return JobState.WAITING
    if job.dated_at is not None and now - job.dated_at > LISTING_PATIENCE:
        return JobState.QUARANTINED
    return JobState.FAILED


def _age(known: KnownJob) -> tuple[bool, datetime | None, str]:
    """Order jobs oldest first, those without a time last."""
    completed = known.job.completed_at
    return (completed is None, completed, known.job.id)
