"""Dispatch after a run: record the alerts, send the events to hooks and notifications, and send the heartbeat.

Dispatch never fails a run. An event that cannot be recorded is logged, and the next run sends it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from dcsync.api.client import DataConnector
from dcsync.clock import Clock
from dcsync.core.alerts import ALERT_KINDS, Alert, AlertCode, Severity
from dcsync.core.events import Event, EventKind
from dcsync.core.model import AccountName, DataRequest, Job, RequestId
from dcsync.core.next_poll import Expectation, expect
from dcsync.core.standing import reconcile
from dcsync.core.wire import parse_time, time_json
from dcsync.errors import DcsyncError
from dcsync.manifest import HookRun, HookRuns, PublishedRow, SqlManifest, StandingAlerts, StoredValues
from dcsync.manifest.alerts import has_same_rows
from dcsync.manifest.broken import BrokenParts
from dcsync.network import DIRECT, Network
from dcsync.ops.alerts import hooks as running
from dcsync.ops.alerts import notify
from dcsync.ops.alerts.boundary import Part, contain
from dcsync.ops.alerts.collect import AlertSources, RunFacts, collect_alerts
from dcsync.ops.alerts.hooks import Hook
from dcsync.ops.alerts.visible import check_requests
from dcsync.ops.context import AccountSettings
from dcsync.ops.freshness import known_account
from dcsync.ops.mirroring.outcome import AccountOutcome

log = structlog.get_logger(__name__)

#: The clocks of hosts that share a manifest are assumed to differ by less than this.
_CLOCK_DIFFERENCE = timedelta(hours=1)
#: Earlier than every snapshot.
_EPOCH = datetime.fromtimestamp(0, tz=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSettings:
    """`[[hook]]`, `[notify]` and `[heartbeat]` of the configuration, with secrets resolved."""

    root: Path
    hooks: tuple[Hook, ...] = ()
    urls: tuple[str, ...] = field(default=(), repr=False)
    on: frozenset[EventKind] = frozenset()
    heartbeat: str | None = field(default=None, repr=False)
    network: Network = DIRECT
    #: The environment of hooks, without the secrets of dcsync.
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)


class AlertDispatcher:
    """Sends the events that follow a run. Without `runs_hooks` it only records which hooks are due."""

    def __init__(
        self, *, manifest: SqlManifest, clock: Clock, settings: AlertSettings, runs_hooks: bool = True
    ) -> None:
        self._runs_hooks = runs_hooks
        self._manifest = manifest
        self._values = StoredValues(manifest)
        self._hook_runs = HookRuns(manifest)
        self._standing_alerts = StandingAlerts(manifest)
        self._clock = clock
        self._settings = settings

    async def begin(self, accounts: Sequence[AccountSettings]) -> None:
        """Record the time from which snapshots are new: the snapshots of an existing mirror are not.

        Also deletes old hook runs, for mirrors without a daemon.
        """
        await self.tidy()
        for account in accounts:
            if await self._values.load(_notified_key(account.name)) is None:
                await self._values.save(_notified_key(account.name), _exact(self._clock.now()))

    async def after_run(self, outcome: AccountOutcome, *, token: Alert | None = None) -> None:
        """Send the new snapshots and the changed alerts of an account after its run, and run the hooks that are due.

        `token` is the alert about the refresh token, which is sent before the token expires. Never fails.
        """
        await self._update(outcome.account, token, outcome)

    async def update(self, account: AccountSettings, *, token: Alert | None = None) -> bool:
        """Send the changed alerts of an account outside a run, for example after a verify.

        Returns whether there were any. Never fails.
        """
        return await self._update(account, token, None)

    async def _update(self, account: AccountSettings, token: Alert | None, outcome: AccountOutcome | None) -> bool:
        events: list[Event] = []

        async def record() -> None:
            recorded = None
            while recorded is None:
                # Until no other host recorded the account's alerts in the meantime.
                recorded = await self._record_once(account, token, outcome)
            events.extend(recorded)
            await self._send(events)

        part = Part(
            code=AlertCode.D_ALERTS,
            subject="",
            name=f"sending the alerts of {account.name}",
            next_try="the next poll sends them",
        )
        await contain(BrokenParts(self._manifest, account.name), part, record)
        if self._runs_hooks:
            await self.run_hooks()
        return bool(events)

    async def _record_once(
        self, account: AccountSettings, token: Alert | None, outcome: AccountOutcome | None
    ) -> list[Event] | None:
        """Record the alerts and the events to send, and return the events. None if another host was faster."""
        name, failed = account.name, [] if outcome is None else outcome.failed
        version = f"settled:{name}"
        run = RunFacts(error=None if outcome is None else outcome.error, hints={item.job: item.hint for item in failed})
        async with self._manifest.at_one_moment() as moment:
            before = await StoredValues(moment).load(version)
            alerts = await self._collect(moment, account, token, run)
            snapshots, values = ([], {}) if outcome is None else await self._new_snapshots(moment, outcome)
            known = await StandingAlerts(moment).load([name])
        if outcome is not None:
            outcome.hints = {alert.code: alert.hint for alert in alerts if alert.hint}
        # The lost jobs of earlier runs are not new.
        new = {item.job for item in failed}
        silent = {alert.key for alert in alerts if alert.is_final and alert.job is not None and alert.job not in new}
        result = reconcile(known, alerts, self._clock.now(), silent=silent)
        events = [*snapshots, *result.events]
        if not events and not values and has_same_rows(known, result.standing):
            # Most polls change nothing, and then nothing is written.
            return events
        is_recorded = await self._standing_alerts.settle(
            [name],
            standing=result.standing,
            hooks=running.hooks_for(self._settings.hooks, events),
            values={**values, version: str(int(before or 0) + 1)},
            unless=(version, before),
        )
        if not is_recorded:
            return None
        for event in result.events:
            is_critical = ALERT_KINDS[AlertCode(event.code)].severity is Severity.CRITICAL
            level = log.info if event.kind is EventKind.RECOVERED else log.error if is_critical else log.warning
            told = "sync demo" if outcome is not None and outcome.tells(event.code, event.job) else ""
            level(
                event.kind.value,
                account=event.account,
                code=event.code,
                message=event.message,
                hint=event.hint,
                in_result=told,
            )
        return events

    async def _collect(
        self, manifest: SqlManifest, account: AccountSettings, token: Alert | None, run: RunFacts
    ) -> Sequence[Alert]:
        sources = AlertSources(
            account=account,
            root=self._settings.root,
            hooks={hook.argv for hook in self._settings.hooks},
            token=token,
            run=run,
        )
        return (await collect_alerts(manifest, sources, self._clock.now())).alerts

    async def send_event(self, event: Event) -> None:
        """Send one event. Never fails."""
        try:
            hooks = running.hooks_for(self._settings.hooks, [event])
            await self._hook_runs.add(hooks)
        except DcsyncError as error:
            log.warning("event not recorded", code=error.code, error=error.message)
        await self._send([event])

    async def run_hooks(self) -> datetime | None:
        """Run the hooks that are due. Returns the time of the next attempt, if a hook is to be retried."""
        try:
            await running.run_due(self._hook_runs, self._clock, self._settings.hooks, self._settings.environ)
            return await self._hook_runs.next_at()
        except DcsyncError as error:
            log.warning("hooks not run", code=error.code, error=error.message)
            return None

    async def hook_runs(self, *, job: str | None, limit: int) -> Sequence[HookRun]:
        """Return the latest runs of hooks, newest first."""
        return await self._hook_runs.latest(job=job, limit=limit)

    async def tidy(self) -> None:
        """Delete hook runs that are too old to be useful."""
        await self._hook_runs.delete_finished(before=self._clock.now() - running.KEEP_FOR)

    async def rerun(self, job: str) -> int:
        """Make the hooks of a job's snapshot due again, as they are configured now. Returns how many there are."""
        for account in await self._manifest.accounts():
            rows = await self._manifest.history.published_after(
                account, datetime.fromtimestamp(0, tz=self._clock.now().tzinfo)
            )
            row = next((row for row in rows if row.job == job), None)
            if row is not None:
                due = running.hooks_for(self._settings.hooks, [self._snapshot_event(account, row)])
                await self._hook_runs.add(due)
                return len(due)
        return 0

    async def send_heartbeat(self) -> None:
        """Send the heartbeat, if one is configured. The caller knows that the mirror is up to date."""
        if self._settings.heartbeat is not None:
            await notify.send_heartbeat(self._settings.heartbeat, self._settings.network)

    async def expectations(self, account: AccountName) -> list[tuple[DataRequest, Expectation]]:
        """Return the expected extract of each data request of an account that has a schedule."""
        known = await known_account(self._manifest, account)
        jobs: dict[RequestId, list[Job]] = {}
        for job in known.jobs.values():
            jobs.setdefault(job.job.request_id, []).append(job.job)
        found = []
        for request in (known_request.document for known_request in known.requests.values()):
            expected = None if request is None else expect(request, jobs.get(request.id, []), self._clock.now())
            if request is not None and expected is not None:
                found.append((request, expected))
        return found

    async def check_requests(self, api: DataConnector, account: AccountSettings) -> Sequence[str]:
        """List the data requests of an account if that is due. Return the configured names that match none.

        Never fails. A failed list is repeated on the next day.
        """
        try:
            return await check_requests(api, self._manifest, self._clock, account)
        except DcsyncError as error:
            log.warning("data requests not checked", account=account.name, code=error.code, error=error.message)
            return ()

    async def _send(self, events: Sequence[Event]) -> None:
        wanted = [event for event in events if event.kind in self._settings.on]
        if wanted and self._settings.urls:
            await notify.send(self._settings.urls, wanted)

    async def _new_snapshots(
        self, manifest: SqlManifest, outcome: AccountOutcome
    ) -> tuple[list[Event], dict[str, str]]:
        """Return events for the snapshots that had none yet, and the changed values that record them as sent.

        Snapshots of a run that was killed before it sent events are among them. The times of several hosts differ, so
        the snapshots of the last hour are recorded by their ids.
        """
        name, stored = outcome.account.name, StoredValues(manifest)
        notified = await stored.load(_notified_key(name))
        last = parse_time(notified) or self._clock.now()
        # The snapshots of this run in any case. After the clock was set back, they are older than `last`.
        own = [published.job for published in outcome.published]
        rows = await manifest.history.published_after(name, last - _CLOCK_DIFFERENCE, also=own)
        key = f"told-jobs:{name}"
        kept = await stored.load(key)
        # Without a list of ids, the time decides which snapshots are known.
        sent = json.loads(kept) if kept is not None else [row.job for row in rows if row.published_at <= last]
        new = [row for row in rows if row.job not in sent or (kept is None and row.job in own)]
        events = [self._snapshot_event(name, row) for row in new]
        until = max([last, *(row.published_at for row in new)])
        recent = [row.job for row in rows if row.published_at > until - _CLOCK_DIFFERENCE]
        values = {key: (kept, json.dumps(recent)), _notified_key(name): (notified, _exact(until))}
        return events, {key: new for key, (old, new) in values.items() if new != old}

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


def _notified_key(account: str) -> str:
    # The key keeps its first name, so that older manifests open unchanged.
    return f"told:{account}"


def _exact(moment: datetime) -> str:
    """Return a time with its microseconds, so that no snapshot is sent twice."""
    return moment.isoformat()
