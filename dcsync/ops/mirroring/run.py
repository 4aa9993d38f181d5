"""One run: poll, and mirror every due job, oldest first. Accounts run side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import structlog

from dcsync.core.lifecycle import (
    LOSSES,
    OPEN,
    QUARANTINE_RETRY,
    ROOM_CODES,
    JobState,
    has_expired,
    is_due,
    nears_expiry,
)
from dcsync.core.model import JobId, JobPhase, RequestId
from dcsync.core.ports import AccountFacts, KnownJob, KnownRequest
from dcsync.errors import (
    ApiFault,
    ApiUnreachable,
    BadAnswer,
    Bug,
    DcsyncError,
    DiskFull,
    Fenced,
    InodesExhausted,
    ManifestError,
    Scope,
    SpaceNeeds,
)
from dcsync.manifest.hollow import hollow_snapshots
from dcsync.ops.context import AccountSettings, SyncContext
from dcsync.ops.mirroring import poll as polling
from dcsync.ops.mirroring.failure import Failures
from dcsync.ops.mirroring.job import JobMirror
from dcsync.ops.mirroring.knowledge import AccountKnowledge
from dcsync.ops.mirroring.latest import move_latest
from dcsync.ops.mirroring.outage import OutageWatch
from dcsync.ops.mirroring.outcome import HOLLOW, NOTHING_TO_DO, AccountOutcome, Skipped, Wanted
from dcsync.ops.mirroring.room import Room
from dcsync.ops.mirroring.selection import reselected
from dcsync.ops.mirroring.unclear import describe_unusable, probe_listing
from dcsync.ops.mirroring.unread import broken_parts, read_before, record_unread
from dcsync.ops.observed import Observations
from dcsync.ops.unopened import look_again
from dcsync.tasks import primary_error

log = structlog.get_logger(__name__)

#: Failures after which the job's own back-off replaces the retries of its calls.
_API_CODES = frozenset({ApiFault.code, ApiUnreachable.code, BadAnswer.code})


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
        self._context = replace(context, api=context.api.with_own_count(context.observer.waiting))
        self._outcome = outcome
        self._account = outcome.account
        self._wanted = wanted
        self._dry_run = dry_run
        self._knowledge = AccountKnowledge()
        self._room = Room(self._context, outcome.account.name)
        self._failures = Failures(self._account, outcome, dry_run=dry_run)
        self._outage = OutageWatch(self._context, self._account, dry_run=dry_run)

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
            # The outcome says why, in the result of a command or in the daemon's line for the run.
            log.debug("account stopped", account=account.name, code=error.code, error=error.message)
        except Exception as error:  # a bug in one account must not stop the others
            log.exception("a bug in dcsync stopped an account; the others continue", account=account.name)
            # Only the class: the text of a foreign exception may contain a secret.
            self._outcome.error = Bug(f"unexpected {type(error).__name__}; the log has the traceback")
        self._outcome.calls = self._context.api.calls
        if not self._dry_run:
            await self._record_result(started_at, facts, is_done=is_done)

    async def _poll_and_mirror(self) -> bool:
        due = await self.poll()
        try:
            for position, (known, request) in enumerate(due):
                self._context.observer.jobs_left(self._account.name, len(due) - position)
                await self._mirror_if_room(known, request)
        finally:
            self._context.observer.jobs_left(self._account.name, 0)
        return True

    async def mirror_known(self, job: JobId) -> bool:
        """Mirror one job, and return whether no other job of the account is open."""
        manifest, name = self._context.manifest, self._account.name
        known, requests = await manifest.job(name, job), await manifest.requests(name)
        if known is not None and known.state in OPEN and self._wants(known, requests):
            await self._mirror_if_room(known, requests[known.job.request_id])
        else:
            # The host that published it may have ended before it moved `latest`. Does nothing for any other job.
            await move_latest(self._context, self._account, job)
        # The open jobs of all hosts.
        still_open = await manifest.jobs(name, states=OPEN)
        return not any(self._wants(other, requests) for other in still_open.values())

    async def poll(self) -> list[tuple[KnownJob, KnownRequest]]:
        """Poll, record the changes, and return the due jobs, oldest first."""
        context, account, outcome = self._context, self._account, self._outcome
        before = await read_before(context.manifest, account)
        poll = await polling.poll(context.api, context.manifest, context.clock, account, before=before)
        self._outage.note_success()
        outcome.new_jobs = sum(job.first_seen_at is None and job.state is not JobState.TOO_OLD for job in poll.changed)
        now = context.clock.now()
        if not self._dry_run:
            # Before the time of this poll is recorded.
            await record_unread(context.manifest, account, poll)
        if not self._dry_run and (poll.changed or poll.new_requests):
            await context.manifest.record_poll(account.name, jobs=poll.changed, requests=poll.new_requests, at=now)
        self._knowledge.facts = replace(self._knowledge.facts, last_poll_at=now)
        outcome.requests.extend(request for request in poll.requests.values() if account.wants_request(request))
        outcome.unusable.extend(describe_unusable(poll.unusable, poll.requests, account))
        outcome.broken.extend(broken_parts(poll))
        if not self._dry_run:
            outcome.broken.extend(await look_again(context, account))
        selected = [known for known in poll.jobs.values() if self._wants(known, poll.requests)]
        self._failures.report_losses(poll.changed, selected)
        if not self._dry_run:
            await Observations(context.manifest, account.name).save_unusable_jobs(outcome.unusable)
            await probe_listing(context.api, context.manifest, account, selected)
        waiting = {known.job.id: known.job for known in selected if known.state is JobState.WAITING}
        if self._wanted.jobs:
            selected = await self._named(poll)
            # A job that was named may no longer wait.
            waiting = {job: found for job, found in waiting.items() if job not in _open_jobs(selected)}
        outcome.waiting = len(waiting)
        outcome.unclear = sum(job.phase is JobPhase.UNKNOWN for job in waiting.values())
        outcome.given_up = sum(
            known.state is JobState.QUARANTINED and not has_expired(known.job.dated_at, now) for known in selected
        )
        if not self._wanted.jobs:
            selected = [await self._tried_again(known) for known in selected]
        still_open = sorted((known for known in selected if known.state in OPEN), key=_age)
        return [(known, poll.requests[known.job.request_id]) for known in await self._due(still_open, poll)]

    async def _tried_again(self, known: KnownJob) -> KnownJob:
        """Reopen a quarantined job once a day. One more failure of the same kind quarantines it again."""
        now = self._context.clock.now()
        is_due_now = is_due(known.next_try_at, now, longest=QUARANTINE_RETRY)
        if known.state is not JobState.QUARANTINED or not is_due_now:
            return known
        if not self._dry_run:
            await self._context.manifest.move(
                self._account.name,
                known.job.id,
                JobState.SEEN,
                at=now,
                reason_code=known.reason_code,
                reason=known.reason,
            )
        return replace(known, state=JobState.SEEN, next_try_at=None)

    async def _named(self, poll: polling.Poll) -> list[KnownJob]:
        """Return the jobs that were named by their IDs. Those that can be mirrored again are reopened."""
        outcome, named = self._outcome, [known for known in poll.jobs.values() if self._is_named(known, poll.requests)]
        outcome.found_jobs.extend(known.job.id for known in named)
        hollow = await hollow_snapshots(self._context.manifest, self._account.name) if named else {}
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
        return selected

    async def _due(self, still_open: Sequence[KnownJob], poll: polling.Poll) -> list[KnownJob]:
        """Return those of the open jobs that this run mirrors. Named jobs are due at any time."""
        self._warn_of_expiry(still_open)
        if self._wanted.jobs:
            return list(still_open)
        outcome, now = self._outcome, self._context.clock.now()
        blocked = await self._room.blocked(still_open)
        if not (self._dry_run or self._wanted.requests):
            await self._room.forget_others(still_open)
        changed = await reselected(self._context.manifest, self._account, poll.jobs)
        due = []
        for known in still_open:
            is_now = is_due(known.next_try_at, now) or known.job.id in changed
            if known.job.request_id in poll.unread_requests:
                is_later = True
            elif known.job.id in blocked:
                # A job without a time of its own waits for the space alone.
                is_later = known.next_try_at is None or not is_now
                outcome.blocked += is_later
            else:
                is_later = known.reason_code not in ROOM_CODES and not is_now
            outcome.due_later += is_later
            due.extend([] if is_later else [known])
        return due

    def _warn_of_expiry(self, still_open: Sequence[KnownJob]) -> None:
        for known in still_open:
            if nears_expiry(known.job.dated_at, self._context.clock.now()):
                self._outcome.expiring.append(known.job.id)
                log.warning(
                    "Autodesk will delete an extract soon",
                    account=self._account.name,
                    job=known.job.id,
                    completed_at=known.job.completed_at,
                    in_result="sync demo",
                )

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
            await self._failures.wait_for_room(self._context, self._room, known, error)

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
        if known.reason_code in _API_CODES:
            context = replace(context, api=context.api.with_one_attempt())
        mirror = JobMirror(context, self._account, self._knowledge)
        try:
            if self._dry_run:
                self._outcome.planned.append(await mirror.plan(known, request))
            else:
                self._outcome.published.append(await mirror.mirror(known, request))
            self._outage.note_success()
        except Fenced:
            raise
        except DcsyncError as error:
            if error.scope is Scope.RUN:
                raise
            if isinstance(error, DiskFull | InodesExhausted) and not self._dry_run:
                await self._failures.wait_for_room(context, self._room, known, error)
                return
            await self._outage.check(error)
            await self._failures.fail(context, known, error)
        except Exception as error:  # a bug in one job must not stop the others
            log.exception(
                "a bug in dcsync stopped a job; the run continues", account=self._account.name, job=known.job.id
            )
            # Only the class: the text of a foreign exception may contain a secret.
            bug = Bug(f"unexpected {type(error).__name__}; the log has the traceback")
            await self._failures.fail(context, known, bug)
        finally:
            self._context.observer.job_done(known.job.id)

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


def _open_jobs(jobs: Sequence[KnownJob]) -> set[JobId]:
    return {known.job.id for known in jobs if known.state in OPEN}


def _age(known: KnownJob) -> tuple[bool, datetime | None, str]:
    """Order jobs oldest first, those without a time last."""
    completed = known.job.completed_at
    return (completed is None, completed, known.job.id)
