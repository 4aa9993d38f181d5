"""Alerts: what a person should know. One table says what each code means; an alert stands until it is resolved. Pure.

An alert is notified when it begins (one that may pass on its own, only once it has stood for a while), again once a
day, and when it is resolved, if it was notified.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType

from dcsync.core.events import Event, EventKind
from dcsync.core.model import Json
from dcsync.core.wire import time_json
from dcsync.errors import DcsyncError, ExitStatus, Scope, every_error

#: An alert that stands is notified again after this long, never at each poll.
REMIND_AFTER = timedelta(days=1)
#: An alert that may pass on its own is notified once it has stood for this long.
PATIENCE = timedelta(hours=1)


class Severity(StrEnum):
    """How much it matters."""

    #: dcsync goes on; it may pass, or it is not urgent.
    WARNING = "warning"
    #: Data is missing or damaged, or dcsync is stopped until somebody acts.
    CRITICAL = "critical"


class Origin(StrEnum):
    """Where the cause is."""

    #: At Autodesk, or with those who manage the data requests there: no fault of this machine.
    AUTODESK = "autodesk"
    HERE = "here"


class AlertScope(StrEnum):
    """What an alert is about."""

    MIRROR = "mirror"
    ACCOUNT = "account"
    REQUEST = "request"
    JOB = "job"
    HOOK = "hook"


class AlertCode(StrEnum):
    """Every code that an alert can have. Stable: monitors match on them."""

    L_LATE = "L-LATE"
    L_SLOW = "L-SLOW"
    L_FAILED = "L-FAILED"
    L_INACTIVE = "L-INACTIVE"
    L_GONE = "L-GONE"
    L_EXPIRING = "L-EXPIRING"
    L_LOST = "L-LOST"
    L_ROWS = "L-ROWS"
    L_COLUMNS = "L-COLUMNS"
    L_TABLE = "L-TABLE"
    T_DEADLINE = "T-DEADLINE"
    V_DAMAGED = "V-DAMAGED"
    H_FAILED = "H-FAILED"

    # Of the errors: each class of `dcsync.errors` has its own.
    DCSYNC = "DCSYNC"
    C_CONFIG = "C-CONFIG"
    C_MISSING = "C-MISSING"
    C_SECRET = "C-SECRET"  # noqa: S105 - a code
    C_EXPOSED = "C-EXPOSED"
    C_SNAPSHOT = "C-SNAPSHOT"
    A_API = "A-API"
    A_NETWORK = "A-NETWORK"
    A_SERVER = "A-SERVER"
    A_QUOTA = "A-QUOTA"
    A_ANSWER = "A-ANSWER"
    A_REQUEST = "A-REQUEST"
    A_DENIED = "A-DENIED"
    A_MISSING = "A-MISSING"
    T_AUTH = "T-AUTH"
    T_LOGIN = "T-LOGIN"
    T_REFUSED = "T-REFUSED"
    T_NOBODY = "T-NOBODY"
    T_USER = "T-USER"
    T_ACCOUNT = "T-ACCOUNT"
    T_KEY = "T-KEY"
    T_CLIENT = "T-CLIENT"
    T_UNDECIDED = "T-UNDECIDED"
    T_ENDPOINT = "T-ENDPOINT"
    T_STORE = "T-STORE"
    T_DAMAGED = "T-DAMAGED"
    T_EXPOSED = "T-EXPOSED"
    S_STORAGE = "S-STORAGE"
    S_NETWORK = "S-NETWORK"
    S_REFUSED = "S-REFUSED"
    S_SERVER = "S-SERVER"
    S_SLOW = "S-SLOW"
    S_CHANGED = "S-CHANGED"
    S_RANGE = "S-RANGE"
    F_SIZE = "F-SIZE"
    F_CHECKSUM = "F-CHECKSUM"
    S_UNSAFE = "S-UNSAFE"
    L_LISTING = "L-LISTING"
    L_MISSING = "L-MISSING"
    D_BUG = "D-BUG"
    F_DISK = "F-DISK"
    F_SPACE = "F-SPACE"
    F_INODES = "F-INODES"
    F_READONLY = "F-READONLY"
    F_PERM = "F-PERM"
    F_IO = "F-IO"
    M_MIRROR = "M-MIRROR"
    M_LOCKED = "M-LOCKED"
    M_UNMOUNTED = "M-UNMOUNTED"
    M_MISSING = "M-MISSING"
    M_FOREIGN = "M-FOREIGN"
    M_MASS = "M-MASS"
    M_TAMPERED = "M-TAMPERED"
    D_MANIFEST = "D-MANIFEST"
    D_NEWER = "D-NEWER"
    D_CORRUPT = "D-CORRUPT"
    D_MISSING = "D-MISSING"
    D_DATABASE = "D-DATABASE"
    D_BUSY = "D-BUSY"
    D_REFUSED = "D-REFUSED"
    D_FENCED = "D-FENCED"
    D_STATE = "D-STATE"

    @classmethod
    def parse(cls, text: str) -> AlertCode:
        """Return the code; one that another version wrote and this one does not know is `DCSYNC`."""
        try:
            return cls(text)
        except ValueError:
            return cls.DCSYNC


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertKind:
    """What the alerts of one code have in common."""

    code: AlertCode
    severity: Severity
    #: What `dcsync status --check` makes of it.
    exit_status: ExitStatus
    scope: AlertScope
    origin: Origin
    #: What to do about it, unless the alert itself knows better.
    hint: str
    #: Whether it may pass on its own.
    may_pass: bool = False
    #: Which event says that it began.
    event: EventKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Something a person should know right now. Of one account, code and subject (a job, a request) there is one."""

    account: str
    code: AlertCode
    message: str
    hint: str
    scope: AlertScope
    subject: str = ""
    may_pass: bool = False
    #: Whether no later run can resolve it: it is notified once, without reminders.
    is_final: bool = False
    #: What its event carries besides. The manifest does not keep it.
    job: str | None = None
    data: Mapping[str, Json] = field(default_factory=dict, compare=False)

    @classmethod
    def of(
        cls, code: AlertCode, *, account: str, message: str, hint: str = "", subject: str = "", may_pass: bool = False
    ) -> Alert:
        """Return an alert as the table has it; `hint` and `may_pass` only where this one differs."""
        kind = ALERT_KINDS[code]
        return cls(
            account=account,
            code=code,
            message=message,
            hint=hint or kind.hint,
            scope=kind.scope,
            subject=subject,
            may_pass=may_pass or kind.may_pass,
        )

    @classmethod
    def of_error(cls, error: DcsyncError, *, account: str) -> Alert:
        """Return the alert that an error is while it lasts."""
        return cls.of(AlertCode.parse(error.code), account=account, message=error.message, hint=error.advice)

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it the same as before."""
        return (self.account, self.code, self.subject)

    @property
    def kind(self) -> AlertKind:
        """What the table says of its code."""
        return ALERT_KINDS[self.code]


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingAlert:
    """An alert with its history; `notified_at` is None while nobody was notified."""

    alert: Alert
    since: datetime
    notified_at: datetime | None

    def json(self) -> dict[str, Json]:
        """Return the stable keys of `status --json`."""
        alert = self.alert
        return {
            "code": alert.code.value,
            "severity": alert.kind.severity.value,
            "origin": alert.kind.origin.value,
            "scope": alert.scope.value,
            "subject": alert.subject,
            "message": alert.message,
            "hint": alert.hint,
            "since": time_json(self.since),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """What stands now, and the events to send."""

    standing: tuple[StandingAlert, ...]
    events: tuple[Event, ...]


def reconcile(
    standing: Sequence[StandingAlert],
    alerts: Sequence[Alert],
    now: datetime,
    *,
    silent: Collection[tuple[str, str, str]] = (),
) -> Reconciled:
    """Return what stands after `alerts` were collected, and the events that follow; both are of the same accounts.

    An alert whose key is in `silent` begins as notified. Applying it twice at one moment sends nothing the second time.
    """
    before = {item.alert.key: item for item in standing}
    after, events = [], []
    for item in with_history(alerts, standing, now):
        if item.notified_at is None and item.alert.key in silent:
            after.append(replace(item, notified_at=now))
        elif _is_due(item, now):
            events.append(_began(item, now))
            after.append(replace(item, notified_at=now))
        else:
            after.append(item)
    found = {item.alert.key for item in after}
    events += [
        _resolved(item, now) for key, item in before.items() if key not in found and item.notified_at is not None
    ]
    return Reconciled(standing=tuple(after), events=tuple(events))


def with_history(alerts: Sequence[Alert], standing: Sequence[StandingAlert], now: datetime) -> list[StandingAlert]:
    """Return the alerts with since when they stand: now, for one that is not in `standing`."""
    before = {item.alert.key: item for item in standing}
    found = {}
    for alert in alerts:
        known = before.get(alert.key)
        found[alert.key] = StandingAlert(
            alert=alert,
            # A beginning ahead of now is of a clock that was wrong; it would keep patience waiting until then.
            since=now if known is None else min(known.since, now),
            notified_at=None if known is None else known.notified_at,
        )
    return list(found.values())


def _is_due(item: StandingAlert, now: datetime) -> bool:
    if item.notified_at is None:
        return not item.alert.may_pass or now - item.since >= PATIENCE
    if item.alert.is_final:
        return False
    # A time ahead of now is of a clock that was wrong.
    return now - item.notified_at >= REMIND_AFTER or item.notified_at > now


def _began(item: StandingAlert, now: datetime) -> Event:
    alert = item.alert
    return Event(
        kind=EventKind.FAILURE if alert.may_pass or alert.is_final else alert.kind.event,
        account=alert.account,
        at=now,
        code=alert.code,
        message=alert.message,
        hint=alert.hint,
        job=alert.job,
        data={"since": time_json(item.since), "subject": alert.subject, **alert.data},
    )


def _resolved(item: StandingAlert, now: datetime) -> Event:
    return Event(
        kind=EventKind.RECOVERED,
        account=item.alert.account,
        at=now,
        code=item.alert.code,
        message=f"over: {item.alert.message}",
        data={"since": time_json(item.since), "subject": item.alert.subject},
    )


# --- the table --------------------------------------------------------------------------------------------------------

#: Of an error class that has no hint of its own: mostly the error brings one.
_HINTS = {
    AlertCode.DCSYNC: "see the log of dcsync for what happened; please report it if it stays",
    AlertCode.C_CONFIG: "correct the configuration; config.example.toml documents every key",
    AlertCode.T_AUTH: "sign in again: dcsync login",
    AlertCode.F_DISK: "check the disk and the kernel log; dcsync retries automatically",
    AlertCode.M_MIRROR: "check mirror.root: dcsync doctor names what is wrong with it",
    AlertCode.M_FOREIGN: "correct mirror.root, or mount the disk that belongs to this mirror",
    AlertCode.M_MASS: "check whether the mirror's disk is the right one and complete, then run dcsync verify",
    AlertCode.M_TAMPERED: "something other than dcsync changed the mirror; put back what was there",
    AlertCode.D_STATE: "please report it with the lines of the log",
}


def _kind(
    code: AlertCode,
    scope: AlertScope,
    hint: str,
    *,
    severity: Severity = Severity.WARNING,
    exit_status: ExitStatus = ExitStatus.INCOMPLETE,
    origin: Origin = Origin.HERE,
    event: EventKind = EventKind.ALERT,
) -> AlertKind:
    return AlertKind(
        code=code, severity=severity, exit_status=exit_status, scope=scope, origin=origin, hint=hint, event=event
    )


_DATA_CONNECTOR = "in Autodesk's Data Connector"
_WAIT = f"dcsync looks for it at every poll; check the data request {_DATA_CONNECTOR}"
_COMPARE = "compare the snapshot with the previous one: dcsync diff previous latest"


def _table_kind(code: AlertCode) -> AlertKind:
    """Return the kind of a table that looks wrong. A quiet weekend looks the same, so monitors stay green."""
    return _kind(code, AlertScope.REQUEST, _COMPARE, exit_status=ExitStatus.DONE, origin=Origin.AUTODESK)


_OWN = (
    _kind(AlertCode.L_LATE, AlertScope.REQUEST, _WAIT, origin=Origin.AUTODESK),
    _kind(AlertCode.L_SLOW, AlertScope.REQUEST, _WAIT, origin=Origin.AUTODESK),
    _kind(
        AlertCode.L_FAILED,
        AlertScope.REQUEST,
        f"run the data request again {_DATA_CONNECTOR}, or wait for its next scheduled time",
        origin=Origin.AUTODESK,
        event=EventKind.FAILURE,
    ),
    _kind(
        AlertCode.L_INACTIVE,
        AlertScope.REQUEST,
        f"activate it again {_DATA_CONNECTOR}, or leave it out with [[account]] requests",
        origin=Origin.AUTODESK,
    ),
    _kind(
        AlertCode.L_GONE,
        AlertScope.REQUEST,
        f"its snapshots stay in the mirror; check the user's role and the data request {_DATA_CONNECTOR}",
        severity=Severity.CRITICAL,
        origin=Origin.AUTODESK,
    ),
    _kind(
        AlertCode.L_EXPIRING,
        AlertScope.JOB,
        "the other alerts of dcsync status say what holds it up",
        severity=Severity.CRITICAL,
    ),
    _kind(
        AlertCode.L_LOST,
        AlertScope.JOB,
        "this extract can no longer be downloaded; the next extract has the account's data as of its own day",
        exit_status=ExitStatus.DONE,
    ),
    _table_kind(AlertCode.L_ROWS),
    _table_kind(AlertCode.L_COLUMNS),
    _table_kind(AlertCode.L_TABLE),
    _kind(
        AlertCode.T_DEADLINE,
        AlertScope.ACCOUNT,
        "run dcsync sync, which renews it, or sign in again: dcsync login",
        exit_status=ExitStatus.DONE,
    ),
    _kind(
        AlertCode.V_DAMAGED,
        AlertScope.ACCOUNT,
        "run dcsync verify to list the damaged files. To repair them, stop the daemon and run dcsync verify --repair",
        severity=Severity.CRITICAL,
    ),
    _kind(AlertCode.H_FAILED, AlertScope.HOOK, "fix the hook; the next event runs it again"),
)


def _kind_of_error(kind: type[DcsyncError]) -> AlertKind:
    """Return what an error class says of its code."""
    code = AlertCode(kind.code)
    harmless = kind.transient and kind.exit_status is ExitStatus.INCOMPLETE
    return AlertKind(
        code=code,
        severity=Severity.WARNING if harmless else Severity.CRITICAL,
        exit_status=kind.exit_status,
        scope=_SCOPES[kind.scope],
        origin=Origin.HERE,
        hint=kind.hint or _HINTS[code],
        may_pass=kind.transient,
        event=EventKind.FAILURE if kind.transient else EventKind.ALERT,
    )


_SCOPES = {
    Scope.FILE: AlertScope.JOB,
    Scope.JOB: AlertScope.JOB,
    Scope.ACCOUNT: AlertScope.ACCOUNT,
    Scope.RUN: AlertScope.MIRROR,
}


def _table() -> Mapping[AlertCode, AlertKind]:
    kinds = {kind.code: kind for kind in _OWN}
    for error in every_error():
        # A class without a code of its own has its parent's, which says what the code means.
        if "code" in error.__dict__:
            kinds[AlertCode(error.code)] = _kind_of_error(error)
    return MappingProxyType({code: kinds[code] for code in AlertCode})


#: What each code means: the only place that says so.
ALERT_KINDS: Mapping[AlertCode, AlertKind] = _table()
