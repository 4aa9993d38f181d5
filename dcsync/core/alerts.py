"""Alerts: problems that the operator should know about. One table describes each code. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from dcsync.core.alert_codes import AlertCode
from dcsync.core.events import EventKind
from dcsync.core.model import Json
from dcsync.errors import DcsyncError, ExitStatus, Scope, every_error

__all__ = [
    "ALERT_KINDS",
    "Alert",
    "AlertCode",
    "AlertKind",
    "AlertScope",
    "Severity",
]


class Severity(StrEnum):
    """How urgent an alert is."""

    #: dcsync continues. The problem may pass, or is not urgent.
    WARNING = "warning"
    #: Data is missing or damaged, or dcsync cannot continue without you.
    CRITICAL = "critical"


class Origin(StrEnum):
    """Where the cause of an alert is."""

    #: At Autodesk, or in the data requests there. This machine cannot fix it.
    AUTODESK = "autodesk"
    HERE = "here"


class AlertScope(StrEnum):
    """The subject of an alert."""

    MIRROR = "mirror"
    ACCOUNT = "account"
    REQUEST = "request"
    JOB = "job"
    HOOK = "hook"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertKind:
    """The properties that all alerts of a code share."""

    code: AlertCode
    severity: Severity
    #: The exit status of `dcsync status --check` while the alert lasts.
    exit_status: ExitStatus
    scope: AlertScope
    origin: Origin
    #: What to do about it. An alert may have a better hint of its own.
    hint: str
    #: Whether it may pass on its own.
    may_pass: bool = False
    #: The kind of the event that is sent when it begins.
    event: EventKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A problem that exists right now. Account, code and subject (a job, a data request) identify it."""

    account: str
    code: AlertCode
    message: str
    hint: str
    scope: AlertScope
    subject: str = ""
    may_pass: bool = False
    #: Whether no later run can resolve it. It is notified once, without reminders.
    is_final: bool = False
    #: More fields of its event. The manifest does not keep them.
    job: str | None = None
    data: Mapping[str, Json] = field(default_factory=dict, compare=False)

    @classmethod
    def of(
        cls, code: AlertCode, *, account: str, message: str, hint: str = "", subject: str = "", may_pass: bool = False
    ) -> Alert:
        """Return an alert with the properties of its code. `hint` and `may_pass` override those of the code."""
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
        """Return the alert for an error."""
        return cls.of(AlertCode.parse(error.code), account=account, message=error.message, hint=error.advice)

    @property
    def key(self) -> tuple[str, str, str]:
        """The identity of the alert across runs."""
        return (self.account, self.code, self.subject)

    @property
    def kind(self) -> AlertKind:
        """The properties of its code."""
        return ALERT_KINDS[self.code]


# --- the table --------------------------------------------------------------------------------------------------------

#: Hints for error classes without one. Most of their errors have a hint of their own.
_HINTS = {
    AlertCode.DCSYNC: "the log of dcsync names the cause. Please report the problem if it persists",
    AlertCode.C_CONFIG: "correct the configuration. `dcsync config schema` describes every key",
    AlertCode.T_AUTH: "sign in again: dcsync login",
    AlertCode.F_DISK: "check the disk and the kernel log. dcsync retries automatically",
    AlertCode.M_MIRROR: "check mirror.root: dcsync doctor names the problem",
    AlertCode.M_FOREIGN: "correct mirror.root, or mount the disk that belongs to this mirror",
    AlertCode.M_MASS: "check whether the mirror's disk is the right one and complete, then run dcsync verify",
    AlertCode.M_TAMPERED: "something other than dcsync changed the mirror. Undo that change",
    AlertCode.D_STATE: "please report this bug with the lines of the log",
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
_WAIT = f"each poll checks for the extract. Check the data request {_DATA_CONNECTOR}"
_EXTEND = f"run dcsync requests extend with its ID, or move its end date {_DATA_CONNECTOR}. "
_EXTEND += "dcsync notices the change within a day. If it is over on purpose, name it in [[account]] retired"
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
        f"run dcsync requests activate with its ID, or activate it {_DATA_CONNECTOR}. "
        "If it is over on purpose, name it in [[account]] retired",
        origin=Origin.AUTODESK,
    ),
    # A warning: the data is still complete.
    _kind(AlertCode.L_ENDS, AlertScope.REQUEST, _EXTEND, exit_status=ExitStatus.DONE, origin=Origin.AUTODESK),
    _kind(AlertCode.L_ENDED, AlertScope.REQUEST, _EXTEND, severity=Severity.CRITICAL, origin=Origin.AUTODESK),
    _kind(
        AlertCode.L_GONE,
        AlertScope.REQUEST,
        f"its snapshots stay in the mirror. Check the user's role and the data request {_DATA_CONNECTOR}. If it was "
        "deleted on purpose, name it in [[account]] retired",
        severity=Severity.CRITICAL,
        origin=Origin.AUTODESK,
    ),
    # A warning: what Autodesk completes is mirrored as ever.
    _kind(
        AlertCode.L_SCHEDULE,
        AlertScope.REQUEST,
        f"check the user's access to the data request {_DATA_CONNECTOR}. If it is over on purpose, name it in "
        "[[account]] retired",
        exit_status=ExitStatus.DONE,
        origin=Origin.AUTODESK,
    ),
    _kind(
        AlertCode.L_EXPIRING,
        AlertScope.JOB,
        "dcsync status lists the alerts that prevent the download",
        severity=Severity.CRITICAL,
    ),
    _kind(
        AlertCode.L_LOST,
        AlertScope.JOB,
        "this extract can no longer be downloaded. The next extract has the account's data as of its own day",
        exit_status=ExitStatus.DONE,
    ),
    _kind(
        AlertCode.L_GAP,
        AlertScope.REQUEST,
        "run dcsync requests backfill activities over the missing months",
        origin=Origin.AUTODESK,
    ),
    _kind(
        AlertCode.L_STATUS,
        AlertScope.JOB,
        f"check the job {_DATA_CONNECTOR}. Each poll reads its status again. Autodesk deletes extracts after 30 days",
        severity=Severity.CRITICAL,
        origin=Origin.AUTODESK,
    ),
    _kind(
        AlertCode.L_ENTRY,
        AlertScope.ACCOUNT,
        "dcsync cannot mirror these jobs. Update dcsync, or report this problem with the lines of the log",
        severity=Severity.CRITICAL,
        origin=Origin.AUTODESK,
    ),
    _kind(
        AlertCode.L_PROJECT,
        AlertScope.ACCOUNT,
        "check the ID in [[account]] projects and the user's access to the project. Each poll tries again",
        severity=Severity.CRITICAL,
        origin=Origin.AUTODESK,
    ),
    _kind(
        AlertCode.L_REQUEST,
        AlertScope.REQUEST,
        "its extracts wait for its description for up to a day. Each poll tries again",
        origin=Origin.AUTODESK,
    ),
    _kind(
        AlertCode.L_LIST,
        AlertScope.ACCOUNT,
        "dcsync mirrors what the first pages show. Each poll checks whether the list ends. If the alert persists, "
        "report it to Autodesk",
        origin=Origin.AUTODESK,
    ),
    _kind(
        AlertCode.L_NONE,
        AlertScope.ACCOUNT,
        "Autodesk shows only the data requests that the signed-in user or service account created. Create one as that "
        "user (dcsync requests create), or sign in as the user who created them",
        origin=Origin.AUTODESK,
    ),
    _kind(
        AlertCode.C_NOMATCH,
        AlertScope.ACCOUNT,
        "correct [[account]] requests: each name is an ID or a pattern of a description. dcsync requests lists both",
        severity=Severity.CRITICAL,
        exit_status=ExitStatus.USAGE,
    ),
    # A warning: the snapshots are as they were.
    _kind(
        AlertCode.C_ACCOUNT,
        AlertScope.MIRROR,
        "dcsync status names the account. Its snapshots stay",
        exit_status=ExitStatus.DONE,
    ),
    _table_kind(AlertCode.L_ROWS),
    _table_kind(AlertCode.L_COLUMNS),
    _table_kind(AlertCode.L_TABLE),
    _kind(
        AlertCode.L_ZIP,
        AlertScope.REQUEST,
        "extract the files with another program from autodesk_data_extract.zip in the snapshot",
        exit_status=ExitStatus.DONE,
        origin=Origin.AUTODESK,
    ),
    _kind(
        AlertCode.L_PARTIAL,
        AlertScope.REQUEST,
        f"run the data request again {_DATA_CONNECTOR}. If exclude in [[account]] names autodesk_data_extract.zip, "
        "remove it, so that the next snapshot keeps such a ZIP",
        severity=Severity.CRITICAL,
        origin=Origin.AUTODESK,
    ),
    _kind(
        AlertCode.T_DEADLINE,
        AlertScope.ACCOUNT,
        "sign in again: dcsync login. If no daemon is running, dcsync sync renews it too",
        exit_status=ExitStatus.DONE,
    ),
    _kind(
        AlertCode.M_EMPTY,
        AlertScope.REQUEST,
        "run dcsync sync --job ID for each of them",
        severity=Severity.CRITICAL,
    ),
    # A warning: what stays there takes space and is otherwise harmless.
    _kind(
        AlertCode.M_TRASH,
        AlertScope.MIRROR,
        "remove it by hand: dcsync needs nothing in it. dcsync tries again every night",
        exit_status=ExitStatus.DONE,
    ),
    # A warning: nothing is lost.
    _kind(
        AlertCode.M_PRUNE,
        AlertScope.JOB,
        "the snapshot stays whole, and dcsync tries again every night. Check the folder",
        exit_status=ExitStatus.DONE,
    ),
    # A warning: each snapshot is in its own folder.
    _kind(
        AlertCode.M_LATEST,
        AlertScope.REQUEST,
        "dcsync doctor names the problem. dcsync tries again at each run",
        exit_status=ExitStatus.DONE,
    ),
    # Warnings: every snapshot is published.
    _kind(
        AlertCode.M_NESTED,
        AlertScope.MIRROR,
        "stop the daemon, move the mirror out of the other one, correct mirror.root, and start the daemon. Nothing is "
        "downloaded again",
        exit_status=ExitStatus.DONE,
    ),
    _kind(
        AlertCode.F_APART,
        AlertScope.MIRROR,
        "move the content of that folder to the file system of mirror.root and unmount it, or give the account a "
        "mirror of its own. The next start looks again",
        exit_status=ExitStatus.DONE,
    ),
    _kind(
        AlertCode.F_MODE,
        AlertScope.MIRROR,
        "share the mirror read-only. On ZFS, set aclmode=passthrough or discard. The next start looks again",
        exit_status=ExitStatus.DONE,
    ),
    _kind(
        AlertCode.F_LAYER,
        AlertScope.MIRROR,
        "put mirror.root on a volume: the files of an overlay are often removed with their container",
        exit_status=ExitStatus.DONE,
    ),
    _kind(
        AlertCode.V_DAMAGED,
        AlertScope.ACCOUNT,
        "run dcsync verify to list the damaged files. To repair them, run dcsync verify --repair",
        severity=Severity.CRITICAL,
    ),
    _kind(
        AlertCode.V_EXTRA,
        AlertScope.ACCOUNT,
        "the published files are intact. dcsync verify lists the extra files: move them away, or name them in [verify] "
        "ignore",
        # The data is complete and unchanged, so monitors stay green.
        exit_status=ExitStatus.DONE,
    ),
    _kind(AlertCode.H_FAILED, AlertScope.HOOK, "fix the hook. The next event runs it again"),
    _kind(AlertCode.P_LISTEN, AlertScope.MIRROR, "correct http.listen. dcsync tries the address again each minute"),
    # Every snapshot is published: only commands have to wait.
    _kind(
        AlertCode.P_ORDERS,
        AlertScope.MIRROR,
        "correct state.dir. dcsync tries again each minute",
        exit_status=ExitStatus.DONE,
    ),
    _kind(AlertCode.P_REPORT, AlertScope.MIRROR, "check the file and its folder. The next poll writes it again"),
    _kind(AlertCode.P_METRICS, AlertScope.MIRROR, "correct metrics.textfile, or make its folder writable for dcsync"),
    # A warning: the snapshots have every row, and other tables advance.
    _kind(
        AlertCode.R_HISTORY,
        AlertScope.ACCOUNT,
        "the snapshots are not affected. dcsync tries again with the next snapshot, and dcsync history tries at once",
        exit_status=ExitStatus.DONE,
    ),
    _kind(AlertCode.D_CHORE, AlertScope.MIRROR, "the log names the cause. dcsync tries again the next night"),
    _kind(AlertCode.D_ALERTS, AlertScope.ACCOUNT, "the log names the cause. The next poll sends the alerts"),
)


def _kind_of_error(kind: type[DcsyncError]) -> AlertKind:
    """Return the properties of a code from the fields of its error class."""
    code = AlertCode(kind.code)
    return AlertKind(
        code=code,
        severity=Severity.WARNING if kind.transient else Severity.CRITICAL,
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
    Scope.RUN: AlertScope.MIRROR,
}


def _table() -> Mapping[AlertCode, AlertKind]:
    kinds = {kind.code: kind for kind in _OWN}
    for error in every_error():
        # A class without a code of its own uses its parent's code and properties.
        if "code" in error.__dict__:
            kinds[AlertCode(error.code)] = _kind_of_error(error)
    return MappingProxyType({code: kinds[code] for code in AlertCode})


#: The properties of each code. No other place defines them.
ALERT_KINDS: Mapping[AlertCode, AlertKind] = _table()
