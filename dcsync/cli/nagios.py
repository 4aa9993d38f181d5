"""`status --nagios`: one line and four statuses, as the Monitoring Plugins guidelines define them."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import IntEnum
from typing import TYPE_CHECKING

import click

from dcsync.core.alerts import Severity
from dcsync.core.formatting import age_text
from dcsync.core.names import printable
from dcsync.errors import ExitStatus

if TYPE_CHECKING:
    from dcsync.core.alerts import Alert
    from dcsync.ops.status import Status

_MOST = 300


class NagiosState(IntEnum):
    """The status of a check."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


def print_nagios(status: Status) -> int:
    """Print the line of a status and return its Nagios status.

    It is OK exactly when `status --check` ends with 0, and CRITICAL for a stale account and for a critical alert.
    """
    counting = [alert for alert in _alerts(status) if alert.kind.exit_status != ExitStatus.DONE]
    stale = [account.name for account in status.accounts if account.is_stale]
    if status.check == ExitStatus.DONE:
        return _print(NagiosState.OK, _summary(status), status)
    reasons = [f"{name} is stale" for name in stale]
    reasons += [f"{alert.account or 'mirror'}: {alert.message} [{alert.code}]" for alert in counting]
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    is_critical = bool(stale) or any(alert.kind.severity is Severity.CRITICAL for alert in counting)
    state = NagiosState.CRITICAL if is_critical or not counting else NagiosState.WARNING
    return _print(state, (reasons[0] if reasons else "the mirror's disk cannot be used") + more, status)


def print_unknown(message: str) -> int:
    """Print the line of a status that could not be read."""
    return _print(NagiosState.UNKNOWN, message, None)


def _alerts(status: Status) -> list[Alert]:
    """Return all alerts, critical ones first, so that the line names the most important one."""
    found = [] if status.disk_alert is None else [status.disk_alert]
    found += [item.alert for account in status.accounts for item in account.alerts]
    return sorted(found, key=lambda alert: alert.kind.severity is not Severity.CRITICAL)


def _summary(status: Status) -> str:
    now = datetime.now(UTC)
    newest = [f"{account.name} newest {age_text(account.newest_completed_at, now)}" for account in status.accounts]
    return ", ".join(newest)


def _print(state: NagiosState, message: str, status: Status | None) -> int:
    # A vertical bar begins the performance data.
    line = f"DCSYNC {state.name} - {printable(' '.join(message.split()), _MOST).replace('|', '/')}"
    click.echo(line if status is None else f"{line} | {' '.join(_performance(status))}")
    return int(state)


def _performance(status: Status) -> list[str]:
    now = datetime.now(UTC)
    found = [f"alerts={len(_alerts(status))}"]
    for account in status.accounts:
        newest, success = account.newest_completed_at, account.last_success
        if newest is not None:
            found.append(f"'{account.name}_newest_age'={(now - newest).total_seconds():.0f}s")
        if success is not None:
            found.append(f"'{account.name}_success_age'={(now - success).total_seconds():.0f}s")
    if status.free_bytes is not None:
        found.append(f"free={status.free_bytes}B")
    return found
