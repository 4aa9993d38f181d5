"""The status of the mirror, from the manifest and the state folder alone. It needs neither daemon nor network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from dcsync.core.alerts import Alert, AlertCode
from dcsync.core.backfill import Backfill
from dcsync.core.coverage import NO_COVERAGE, Coverage
from dcsync.core.freshness import RequestFreshness
from dcsync.core.lifecycle import JobState
from dcsync.core.load_state import LoadState
from dcsync.core.model import AccountName, Json, RequestId
from dcsync.core.oauth import REFRESH_LIFE, days_old
from dcsync.core.ports import KnownJob
from dcsync.core.standing import StandingAlert, with_history
from dcsync.core.wire import time_json
from dcsync.errors import SEVERITY, ExitStatus
from dcsync.manifest import SqlManifest, Sums
from dcsync.ops.accounts import LeftAccount
from dcsync.ops.alerts.collect import AlertSources, collect_alerts, standing_alerts
from dcsync.ops.peers import Host


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStatus:
    """One account's part of `status`."""

    name: AccountName
    last_poll: datetime | None
    last_success: datetime | None
    newest_snapshot: str | None
    newest_completed_at: datetime | None
    jobs: Mapping[str, int]
    alerts: tuple[StandingAlert, ...]
    #: The data requests that are mirrored, by description.
    requests: tuple[RequestFreshness, ...] = ()
    #: The days that the window tables of each data request cover, if it has such tables.
    coverage: Mapping[RequestId, Coverage] = field(default_factory=dict)
    is_stale: bool = False
    sums: Sums = field(default_factory=Sums)


def _alert_json(alert: Alert | None) -> Json:
    return None if alert is None else {"code": alert.code.value, "message": alert.message, "hint": alert.hint}


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The process that holds the state folder."""

    pid: int | None
    is_daemon: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """All of `status`."""

    accounts: tuple[AccountStatus, ...]
    quota_limit: int
    quota_used: int
    token_method: str
    token_expires_at: datetime | None
    token_refresh_by: datetime | None
    free_bytes: int | None
    holder: Holder | None
    #: Why the mirror's disk cannot be used now: not mounted, of another mirror, or not answering.
    disk_alert: Alert | None = None
    #: The next poll of a running daemon.
    next_poll: datetime | None = None
    #: The hosts that share the manifest, if it is in PostgreSQL.
    hosts: tuple[Host, ...] = ()
    #: The accounts with snapshots that are not in the configuration.
    not_configured: tuple[LeftAccount, ...] = ()
    #: The last attempt of each load, by its name.
    loads: Mapping[str, LoadState] = field(default_factory=dict)
    #: The backfills that this host continues.
    backfills: tuple[Backfill, ...] = ()

    @property
    def check(self) -> ExitStatus:
        """The exit status of `status --check`: the most urgent one. /healthz and the heartbeat follow it."""
        found = {ExitStatus.DONE}
        if self.free_bytes is None:
            found.add(ExitStatus.UNSAFE)
        if self.disk_alert is not None:
            found.add(self.disk_alert.kind.exit_status)
        for account in self.accounts:
            if account.is_stale:
                found.add(ExitStatus.INCOMPLETE)
            found |= {item.alert.kind.exit_status for item in account.alerts}
        return next(status for status in SEVERITY if status in found)

    @property
    def codes(self) -> list[str]:
        """The codes of all alerts, each once."""
        alerts = [item.alert for account in self.accounts for item in account.alerts]
        if self.disk_alert is not None:
            alerts.append(self.disk_alert)
        return sorted({alert.code.value for alert in alerts})

    def json(self) -> dict[str, Json]:
        """Return the stable keys of `status --json` (docs/reference/json.md)."""
        daemon = self.holder is not None and self.holder.is_daemon
        return {
            "accounts": [
                {
                    "name": account.name,
                    "last_poll": time_json(account.last_poll),
                    "last_success": time_json(account.last_success),
                    "newest_snapshot": account.newest_snapshot,
                    "newest_completed_at": time_json(account.newest_completed_at),
                    "jobs": dict(account.jobs),
                    "stale": account.is_stale,
                    "requests": [
                        {**item.json(), "coverage": account.coverage.get(item.request, NO_COVERAGE).json()}
                        for item in account.requests
                    ],
                    "alerts": [item.json() for item in account.alerts],
                    # The name in version 0.1, kept for one more version.
                    "attention": [
                        {"code": item.alert.code.value, "message": item.alert.message} for item in account.alerts
                    ],
                }
                for account in self.accounts
            ],
            "not_configured": [
                {
                    "name": left.name,
                    "snapshots": left.snapshots,
                    "newest_snapshot": left.newest_snapshot,
                    "newest_completed_at": time_json(left.newest_completed_at),
                    "hint": left.hint,
                }
                for left in self.not_configured
            ],
            "backfills": [backfill.json() for backfill in self.backfills],
            "quota": {"limit": self.quota_limit, "used_last_minute": self.quota_used},
            "token": {
                "method": self.token_method,
                "expires_at": time_json(self.token_expires_at),
                "refresh_by": time_json(self.token_refresh_by),
            },
            "disk": {"free_bytes": self.free_bytes, "alert": _alert_json(self.disk_alert)},
            "daemon": {
                "running": daemon,
                "pid": self.holder.pid if daemon and self.holder is not None else None,
                "next_poll": time_json(self.next_poll) if daemon else None,
            },
            "loads": [
                {
                    "name": name,
                    "target": state.target or None,
                    "tried_at": time_json(state.tried_at),
                    "done_at": time_json(state.done_at),
                    "failed_attempts": state.attempts,
                    "next_try_at": time_json(state.next_try_at),
                }
                for name, state in self.loads.items()
            ],
            "hosts": [
                {
                    "name": host.name,
                    "pid": host.pid,
                    "role": host.role,
                    "version": host.version,
                    "alive": host.is_alive,
                    "started_at": time_json(host.started_at),
                    "seen_at": time_json(host.seen_at),
                    "doing": host.doing,
                }
                for host in self.hosts
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenState:
    """The state of the stored refresh token, for the methods that have one."""

    is_stored: bool
    is_refused: bool
    issued_at: datetime | None


def token_alert(account: AccountName, state: TokenState, now: datetime) -> Alert | None:
    """Return the alert about the stored token: a sign-in is needed, or will be needed soon."""
    if not state.is_stored:
        message = "not signed in: run dcsync login"
        return Alert.of(AlertCode.T_LOGIN, account=account, message=message)
    if state.is_refused:
        message = "Autodesk no longer accepts the stored refresh token. Run dcsync login"
        return Alert.of(AlertCode.T_LOGIN, account=account, message=message)
    days = days_old(state.issued_at, now)
    if days is None or state.issued_at is None:
        return None
    if days >= REFRESH_LIFE.days:
        message = f"the refresh token of {state.issued_at:%Y-%m-%d} has expired: run dcsync login"
        return Alert.of(AlertCode.T_LOGIN, account=account, message=message)
    end = state.issued_at + REFRESH_LIFE
    message = f"the refresh token was not renewed for {days} days and expires on {end:%Y-%m-%d %H:%M} UTC"
    return Alert.of(AlertCode.T_DEADLINE, account=account, message=message)


async def account_statuses(
    manifest: SqlManifest | None, sources: Sequence[AlertSources], now: datetime, *, stale_after: timedelta
) -> tuple[AccountStatus, ...]:
    """Return the status of each configured account. Without a manifest there was no run yet.

    An account is stale if its last successful run is longer ago than `stale_after`.
    """
    if manifest is None:
        return tuple(_before_first_run(source, now) for source in sources)
    async with manifest.at_one_moment() as moment:
        return tuple([await _account(moment, source, now, stale_after) for source in sources])


def _before_first_run(sources: AlertSources, now: datetime) -> AccountStatus:
    alerts = tuple(with_history([] if sources.token is None else [sources.token], (), now))
    return AccountStatus(
        name=sources.account.name,
        last_poll=None,
        last_success=None,
        newest_snapshot=None,
        newest_completed_at=None,
        jobs=_counts(()),
        alerts=alerts,
        is_stale=True,
    )


def _counts(jobs: Iterable[KnownJob]) -> dict[str, int]:
    counts = dict.fromkeys((state.value for state in JobState), 0)
    for job in jobs:
        counts[job.state.value] += 1
    return counts


async def _account(
    manifest: SqlManifest, sources: AlertSources, now: datetime, stale_after: timedelta
) -> AccountStatus:
    name, found = sources.account.name, await collect_alerts(manifest, sources, now)
    facts, jobs = found.known.facts, found.known.jobs
    published = [job for job in jobs.values() if job.state is JobState.PUBLISHED]
    newest = max(published, key=lambda job: (job.job.completed_at is not None, job.job.completed_at), default=None)
    return AccountStatus(
        name=name,
        last_poll=facts.last_poll_at,
        last_success=facts.last_success_at,
        newest_snapshot=None if newest is None else newest.folder,
        newest_completed_at=None if newest is None else newest.job.completed_at,
        jobs=_counts(jobs.values()),
        alerts=await standing_alerts(manifest, found, now),
        requests=tuple(item.freshness for item in found.followed),
        coverage=found.coverage,
        is_stale=facts.last_success_at is None or now - facts.last_success_at > stale_after,
        sums=await manifest.sums(name),
    )
