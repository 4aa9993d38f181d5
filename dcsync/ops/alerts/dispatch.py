"""What follows a run: alerts are recorded, events go to hooks and notifications, and the heartbeat is sent.

It never fails a run: what cannot be told is logged, and told after the next one.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from dcsync.api.client import DataConnector, ListOptions
from dcsync.clock import Clock
from dcsync.core.alerts import Alert, reconcile
from dcsync.core.events import Event, EventKind
from dcsync.core.freshness import Expectation, expect
from dcsync.core.model import AccountName, DataRequest, Job, RequestId
from dcsync.core.ports import KnownRequest
from dcsync.core.wire import parse_time, time_json
from dcsync.errors import DcsyncError
from dcsync.manifest import HookRun, Notes, PublishedRow, SqlManifest
from dcsync.ops.alerts import hooks as running
from dcsync.ops.alerts import notify
from dcsync.ops.alerts.collect import AlertSources, RunFacts, collect_alerts
from dcsync.ops.alerts.hooks import Hook
from dcsync.ops.context import AccountSettings
from dcsync.ops.mirroring.run import AccountOutcome

log = structlog.get_logger(__name__)

#: How often an account's requests are looked at: one call, to notice one that was set inactive.
_LOOK_AGAIN = timedelta(days=1)
#: The clocks of hosts that share a manifest are taken to differ by less.
_CLOCKS = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSettings:
    """`[[hook]]`, `[notify]` and `[heartbeat]` of the configuration, secrets resolved."""

    root: Path
    hooks: tuple[Hook, ...] = ()
    urls: tuple[str, ...] = field(default=(), repr=False)
    on: frozenset[EventKind] = frozenset()
    heartbeat: str | None = field(default=None, repr=False)
    #: What hooks get for their environment: no secrets of ours.
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)


class AlertDispatcher:
    """Sends the events that follow a run. Without `runs_hooks` it only records which hooks are due."""

    def __init__(
        self, *, manifest: SqlManifest, clock: Clock, settings: AlertSettings, runs_hooks: bool = True
    ) -> None:
        self._runs_hooks = runs_hooks
        self._manifest = manifest
        self._notes = Notes(manifest)
        self._clock = clock
        self._settings = settings

    async def begin(self, accounts: Sequence[AccountSettings]) -> None:
        """Note from when on snapshots are told of: a mirror that exists already is no news.

        Also forgets what is too old, for where no daemon does it each night.
        """
        await self.tidy()
        for account in accounts:
            if await self._notes.recall(_told_key(account.name)) is None:
                await self._notes.remember(_told_key(account.name), _exact(self._clock.now()))

    async def after_run(self, outcome: AccountOutcome, *, token: Alert | None = None) -> None:
        """Tell what a run of an account brought and what stands now, and run the hooks that are due.

        `token` is what a person should know of the refresh token: it is told before the chain ends, not after.
        """
        await self._update(outcome.account, token, outcome)

    async def update(self, account: AccountSettings, *, token: Alert | None = None) -> bool:
        """Send what changed of an account's alerts outside a run: after a verify, say. Return whether any did.

        Never fails.
        """
        return await self._update(account, token, None)

    async def _update(self, account: AccountSettings, token: Alert | None, outcome: AccountOutcome | None) -> bool:
        try:
            events = await self._record_once(account, token, outcome)
            while events is None:
                # Another host recorded the account's alerts meanwhile: what is left to send is worked out again.
                events = await self._record_once(account, token, outcome)
        except DcsyncError as error:
            log.warning("the alerts could not be recorded", code=error.code, error=error.message)
            return False
        await self._send(events)
        if self._runs_hooks:
            await self.run_hooks()
        return bool(events)

    async def _record_once(
        self, account: AccountSettings, token: Alert | None, outcome: AccountOutcome | None
    ) -> list[Event] | None:
        """Record the alerts and the events to send, and return the events; None when another host came between."""
        name, failed = account.name, [] if outcome is None else outcome.failed
        version = f"settled:{name}"
        before = await self._notes.recall(version) if self._manifest.is_shared else None
        run = RunFacts(error=None if outcome is None else outcome.error, hints={item.job: item.hint for item in failed})
        alerts = await self._collect(account, token, run)
        # A loss of an earlier run is no news.
        new = {item.job for item in failed}
        silent = {alert.key for alert in alerts if alert.is_final and alert.job not in new}
        events, remembered = ([], {}) if outcome is None else await self._new_snapshots(outcome)
        if not self._manifest.is_shared:
            return await self._settle(name, alerts, events, remembered, None, silent=silent)
        remembered = {**remembered, version: str(int(before or 0) + 1)}
        return await self._settle(name, alerts, events, remembered, (version, before), silent=silent)

    async def _collect(self, account: AccountSettings, token: Alert | None, run: RunFacts) -> list[Alert]:
        sources = AlertSources(
            account=account,
            root=self._settings.root,
            hooks={hook.argv for hook in self._settings.hooks},
            token=token,
            run=run,
        )
        return await collect_alerts(self._manifest, sources, self._clock.now())

    async def send_event(self, event: Event) -> None:
        """Send one event. Never fails."""
        try:
            hooks = running.hooks_for(self._settings.hooks, [event])
            await self._notes.settle([], standing=[], hooks=hooks, remembered={})
        except DcsyncError as error:
            log.warning("an event could not be recorded", code=error.code, error=error.message)
        await self._send([event])

    async def run_hooks(self) -> datetime | None:
        """Run the hooks that are due; return when the next one is, if one is to be tried again."""
        try:
            await running.run_due(self._notes, self._clock, self._settings.hooks, self._settings.environ)
            return await self._notes.next_hook_at()
        except DcsyncError as error:
            log.warning("hooks could not be run", code=error.code, error=error.message)
            return None

    async def hook_runs(self, *, job: str | None, limit: int) -> Sequence[HookRun]:
        """Return the newest runs of hooks, newest first."""
        return await self._notes.hooks_of(job=job, limit=limit)

    async def tidy(self) -> None:
        """Forget what is too old to be of use."""
        await self._notes.forget_hooks(before=self._clock.now() - running.KEEP_FOR)

    async def rerun(self, job: str) -> int:
        """Make the hooks of a job's snapshot due again, as they are configured now; return how many there are."""
        for account in await self._manifest.accounts():
            rows = await self._notes.published_after(account, datetime.fromtimestamp(0, tz=self._clock.now().tzinfo))
            row = next((row for row in rows if row.job == job), None)
            if row is not None:
                due = running.hooks_for(self._settings.hooks, [self._snapshot_event(account, row)])
                await self._notes.settle([], standing=[], hooks=due, remembered={})
                return len(due)
        return 0

    async def beat(self) -> None:
        """Tell the watchdog service that the mirror is fresh. The caller knows that it is."""
        if self._settings.heartbeat is not None:
            await notify.beat(self._settings.heartbeat)

    async def expectations(
        self, account: AccountName, jobs: Mapping[RequestId, Sequence[Job]] | None = None
    ) -> list[tuple[DataRequest, Expectation]]:
        """Return what is expected of each request of an account that has a schedule; its jobs are read if not given."""
        documents = await self._manifest.request_documents(account)
        if jobs is None:
            jobs = await self._jobs_by_request(account)
        found = []
        for request in documents.values():
            expected = expect(request, jobs.get(request.id, []), self._clock.now())
            if expected is not None:
                found.append((request, expected))
        return found

    async def check_requests(self, api: DataConnector, account: AccountSettings) -> None:
        """Once a day, see what became of the requests: set inactive, changed, or not visible any more.

        One call, or one for each project that is listed. Never fails: the next day looks again.
        """
        try:
            await self._check_requests(api, account)
        except DcsyncError as error:
            log.info("the requests could not be looked at", account=account.name, code=error.code)

    async def _check_requests(self, api: DataConnector, account: AccountSettings) -> None:
        now, key = self._clock.now(), f"requests:{account.name}"
        known = await self._manifest.requests(account.name)
        last = parse_time(await self._notes.recall(key))
        if not known or (last is not None and timedelta(0) <= now - last < _LOOK_AGAIN):
            return
        # Before the call: one that is refused each time must not be made at each poll.
        await self._notes.remember(key, _exact(now))
        if last is None:
            # The first poll described what it found.
            return
        found: dict[RequestId, DataRequest] = {}
        for project in account.projects or (None,):
            listed = await api.requests(account.id, ListOptions(project_id=project))
            found.update({request.id: request for request in listed})
        changed: list[tuple[KnownRequest, DataRequest | None]] = [
            (request, found[request.id]) for request in known.values() if request.id in found
        ]
        await self._manifest.record_poll(account.name, jobs=(), requests=changed, at=now)
        await self._notes.remember(f"gone:{account.name}", json.dumps(sorted(known.keys() - found.keys())))

    async def _settle(
        self,
        account: AccountName,
        alerts: Sequence[Alert],
        events: Sequence[Event],
        remembered: Mapping[str, str],
        unless: tuple[str, str | None] | None,
        *,
        silent: Collection[tuple[str, str, str]] = (),
    ) -> list[Event] | None:
        result = reconcile(await self._notes.standing([account]), alerts, self._clock.now(), silent=silent)
        told = [*events, *result.events]
        done = await self._notes.settle(
            [account],
            standing=result.standing,
            hooks=running.hooks_for(self._settings.hooks, told),
            remembered=remembered,
            unless=unless,
        )
        if not done:
            return None
        for event in result.events:
            level = log.info if event.kind is EventKind.RECOVERED else log.warning
            level(event.kind.value, account=event.account, code=event.code, message=event.message, hint=event.hint)
        return told

    async def _send(self, events: Sequence[Event]) -> None:
        wanted = [event for event in events if event.kind in self._settings.on]
        if wanted and self._settings.urls:
            await notify.send(self._settings.urls, wanted)

    async def _new_snapshots(self, outcome: AccountOutcome) -> tuple[list[Event], dict[str, str]]:
        """Return events for the snapshots that no event was sent for, also those of a run that was killed before it."""
        name = outcome.account.name
        last = parse_time(await self._notes.recall(_told_key(name)))
        # This run's own in any case: when the clock was set back, they are older than the last one that was told.
        own = [published.job for published in outcome.published]
        if self._manifest.is_shared:
            return await self._of_all_hosts(outcome, last or self._clock.now())
        rows = await self._notes.published_after(name, last or self._clock.now(), also=own)
        events = [self._snapshot_event(name, row) for row in rows]
        newest = [row.published_at for row in rows] + ([] if last is None else [last])
        return events, {_told_key(name): _exact(max(newest))} if rows else {}

    async def _of_all_hosts(self, outcome: AccountOutcome, last: datetime) -> tuple[list[Event], dict[str, str]]:
        """The same where several hosts publish, whose clocks differ: the last hour's are told of by their ids."""
        name, key = outcome.account.name, f"told-jobs:{outcome.account.name}"
        rows = await self._notes.published_after(name, last - _CLOCKS)
        kept = await self._notes.recall(key)
        # The first time, what was told of by its time.
        told = json.loads(kept) if kept is not None else [row.job for row in rows if row.published_at <= last]
        news = [row for row in rows if row.job not in told]
        events = [self._snapshot_event(name, row) for row in news]
        until = max([last, *(row.published_at for row in news)])
        recent = [row.job for row in rows if row.published_at > until - _CLOCKS]
        return events, {key: json.dumps(recent), _told_key(name): _exact(until)}

    def _snapshot_event(self, account: str, row: PublishedRow) -> Event:
        return Event(
            kind=EventKind.SNAPSHOT,
            account=account,
            at=self._clock.now(),
            message=f"new snapshot {row.folder}",
            job=row.job,
            data={
                "request": row.request,
                "description": row.description,
                "folder": str(self._settings.root / row.folder),
                "completed_at": time_json(row.completed_at),
                "published_at": time_json(row.published_at),
                "fetched_bytes": row.fetched_bytes,
                "linked_bytes": row.linked_bytes,
            },
        )

    async def _jobs_by_request(self, name: AccountName) -> Mapping[RequestId, Sequence[Job]]:
        jobs: dict[RequestId, list[Job]] = {}
        for known in (await self._manifest.jobs(name)).values():
            jobs.setdefault(known.job.request_id, []).append(known.job)
        return jobs


def _told_key(account: str) -> str:
    return f"told:{account}"


def _exact(moment: datetime) -> str:
    """Return a time with its microseconds: the same snapshot must not be told of twice."""
    return moment.isoformat()
