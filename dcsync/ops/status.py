"""How the mirror stands, from the manifest and the state folder alone: it needs no daemon and no network."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from dcsync.core.lifecycle import LOSSES, OPEN, JobState, nears_expiry
from dcsync.core.model import AccountName, Json
from dcsync.core.oauth import REFRESH_LIFE, days_old
from dcsync.core.ports import AccountFacts, KnownJob
from dcsync.core.wire import time_json
from dcsync.errors import SEVERITY, ExitStatus, every_error
from dcsync.manifest import Notes, SqlManifest, Sums
from dcsync.manifest.hosts import Host

#: Alerts that lie with Autodesk's side or with whoever manages the data requests there.
UPSTREAM = frozenset({"L-LATE", "L-SLOW", "L-INACTIVE", "L-GONE", "L-ROWS", "L-COLUMNS", "L-TABLE", "L-FAILED"})
#: Alerts that are found by looking at the API or by running hooks, and cannot be told from the jobs.
RUNS_ONLY = UPSTREAM | {"H-FAILED"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Something a person should look at."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStatus:
    """One account's part of `status`."""

    name: AccountName
    last_poll: datetime | None
    last_success: datetime | None
    newest_snapshot: str | None
    newest_completed_at: datetime | None
    jobs: Mapping[str, int]
    attention: tuple[Attention, ...]
    is_stale: bool = False
    sums: Sums = field(default_factory=Sums)


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
    #: When a daemon that runs will poll next.
    next_poll: datetime | None = None
    #: Those that share the manifest, where it is one to share.
    hosts: tuple[Host, ...] = ()

    @property
    def check(self) -> ExitStatus:
        """What a monitor should make of it: the status that asks for a person soonest."""
        return self._worst(())

    @property
    def health(self) -> ExitStatus:
        """The same of this side alone: an extract that is late upstream is no fault of a daemon."""
        return self._worst(UPSTREAM)

    def _worst(self, ignored: Collection[str]) -> ExitStatus:
        found = {ExitStatus.DONE}
        if self.free_bytes is None:
            found.add(ExitStatus.UNSAFE)
        for account in self.accounts:
            if account.is_stale:
                found.add(ExitStatus.INCOMPLETE)
            found |= {_status_of(item.code) for item in account.attention if item.code not in ignored}
        return next(status for status in SEVERITY if status in found)

    def json(self) -> dict[str, Json]:
        """Return the stable keys of DESIGN §6."""
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
                    "attention": [{"code": item.code, "message": item.message} for item in account.attention],
                }
                for account in self.accounts
            ],
            "quota": {"limit": self.quota_limit, "used_last_minute": self.quota_used},
            "token": {
                "method": self.token_method,
                "expires_at": time_json(self.token_expires_at),
                "refresh_by": time_json(self.token_refresh_by),
            },
            "disk": {"free_bytes": self.free_bytes},
            "daemon": {
                "running": daemon,
                "pid": self.holder.pid if daemon and self.holder is not None else None,
                "next_poll": time_json(self.next_poll) if daemon else None,
            },
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
    """What the store says of the chain of refresh tokens, where the method has one."""

    is_stored: bool
    is_refused: bool
    issued_at: datetime | None


def token_attention(state: TokenState, now: datetime) -> Attention | None:
    """Return what a person should know of the token: that a login is needed, or when one will be."""
    if not state.is_stored:
        return Attention(code="T-LOGIN", message="nobody is signed in: run dcsync login")
    if state.is_refused:
        return Attention(code="T-LOGIN", message="the refresh token is not accepted any more: run dcsync login")
    days = days_old(state.issued_at, now)
    if days is None or state.issued_at is None:
        return None
    if days >= REFRESH_LIFE.days:
        message = f"the refresh token is from {state.issued_at:%Y-%m-%d} and has ended by its age: run dcsync login"
        return Attention(code="T-LOGIN", message=message)
    end = state.issued_at + REFRESH_LIFE
    message = f"the refresh token was not renewed for {days} days; it ends on {end:%Y-%m-%d %H:%M}Z. Any sync renews it"
    return Attention(code="T-DEADLINE", message=message)


async def account_statuses(
    manifest: SqlManifest | None,
    names: Sequence[AccountName],
    now: datetime,
    *,
    common: Sequence[Attention] = (),
    stale_after: timedelta,
) -> tuple[AccountStatus, ...]:
    """Return the status of each configured account; without a manifest there was no run yet.

    What is `common` (the token's trouble) holds up all of them. An account is stale when nothing was brought to its
    end for `stale_after`.
    """
    return tuple([await _account(manifest, name, now, common, stale_after) for name in names])


async def _account(
    manifest: SqlManifest | None,
    name: AccountName,
    now: datetime,
    common: Sequence[Attention],
    stale_after: timedelta,
) -> AccountStatus:
    facts = AccountFacts() if manifest is None else await manifest.facts(name)
    jobs = {} if manifest is None else await manifest.jobs(name)
    published = [job for job in jobs.values() if job.state is JobState.PUBLISHED]
    newest = max(published, key=lambda job: (job.job.completed_at is not None, job.job.completed_at), default=None)
    standing = [] if manifest is None else await _standing(manifest, name)
    counts = dict.fromkeys((state.value for state in JobState), 0)
    for job in jobs.values():
        counts[job.state.value] += 1
    return AccountStatus(
        name=name,
        last_poll=facts.last_poll_at,
        last_success=facts.last_success_at,
        newest_snapshot=None if newest is None else newest.folder,
        newest_completed_at=None if newest is None else newest.job.completed_at,
        jobs=counts,
        attention=_once((*common, *_attention(facts, list(jobs.values()), now), *standing)),
        is_stale=facts.last_success_at is None or now - facts.last_success_at > stale_after,
        sums=Sums() if manifest is None else await manifest.sums(name),
    )


async def _standing(manifest: SqlManifest, name: AccountName) -> list[Attention]:
    """Return the alerts that only the runs know of: a late extract, a request that is gone, a hook that failed."""
    if not await manifest.is_current():
        # Read only, and from an older version that knew of none.
        return []
    standing = await Notes(manifest).standing([name])
    return [
        Attention(code=item.alert.code, message=item.alert.message) for item in standing if item.alert.code in RUNS_ONLY
    ]


def _once(items: Sequence[Attention]) -> tuple[Attention, ...]:
    """Leave out what says the same of the login a second time: the store knows it, and the last run met it."""
    login = [item for item in items if item.code == "T-LOGIN"]
    return tuple(item for item in items if item not in login[1:])


def _status_of(code: str) -> ExitStatus:
    """Return the exit status that goes with the code of an item of attention."""
    if code in {"T-DEADLINE", ""}:
        return ExitStatus.DONE
    kinds = {kind.code: kind.exit_status for kind in every_error()}
    return kinds.get(code, ExitStatus.INCOMPLETE)


def _attention(facts: AccountFacts, jobs: Sequence[KnownJob], now: datetime) -> list[Attention]:
    items = []
    if facts.error_code is not None:
        items.append(Attention(code=facts.error_code, message=facts.error or ""))
    for known in sorted(jobs, key=lambda job: job.job.id):
        identifier, reason = known.job.id, known.reason or ""
        if known.state in LOSSES or (known.state is JobState.FAILED and known.reason_code):
            items.append(Attention(code=known.reason_code or "", message=f"job {identifier} {known.state}: {reason}"))
        if known.state in OPEN and nears_expiry(known.job.completed_at, now):
            day = known.job.completed_at
            items.append(
                Attention(
                    code="L-EXPIRING",
                    message=f"job {identifier} of {day:%Y-%m-%d} is not mirrored; the server deletes it after 30 days",
                )
            )
    return items
