"""The history of alerts: when each began, and when it is notified. Pure.

An alert lasts until it is resolved. It is notified when it begins, once a day while it lasts, and when it is
resolved. An alert that may pass on its own is first notified after it has lasted for an hour.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from dcsync.core.alerts import Alert, AlertCode
from dcsync.core.events import Event, EventKind
from dcsync.core.model import Json
from dcsync.core.wire import time_json

#: A standing alert is notified again after this time, never at each poll.
REMIND_AFTER = timedelta(days=1)
#: An alert that may pass on its own is first notified after it has lasted for this time.
PATIENCE = timedelta(hours=1)
#: The alerts that replace an earlier alert about the same data request. Its problem was not resolved.
_REPLACED_BY = {
    AlertCode.L_SCHEDULE: (AlertCode.L_GONE, AlertCode.L_INACTIVE),
    AlertCode.L_ENDS: (AlertCode.L_ENDED, AlertCode.L_GONE, AlertCode.L_INACTIVE),
    **dict.fromkeys(
        (AlertCode.L_LATE, AlertCode.L_SLOW, AlertCode.L_FAILED),
        (AlertCode.L_ENDED, AlertCode.L_GONE, AlertCode.L_INACTIVE),
    ),
    AlertCode.M_EMPTY: (AlertCode.L_LOST,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingAlert:
    """An alert with its history. `notified_at` is None before the first notification."""

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
    """The standing alerts, and the events to send."""

    standing: tuple[StandingAlert, ...]
    events: tuple[Event, ...]


def reconcile(
    standing: Sequence[StandingAlert],
    alerts: Sequence[Alert],
    now: datetime,
    *,
    silent: Collection[tuple[str, str, str]] = (),
) -> Reconciled:
    """Return the standing alerts after `alerts` were collected, and the events to send.

    `standing` and `alerts` belong to the same accounts. An alert whose key is in `silent` begins as notified. A second
    call at the same time sends nothing.
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
    # A job that is lost has not recovered from the problem before.
    lost = {(alert.account, alert.job) for alert in alerts if alert.is_final}
    events += [
        _resolved(item, now)
        for key, item in before.items()
        if key not in found
        and item.notified_at is not None
        and (item.alert.account, item.alert.subject) not in lost
        and not _is_replaced(item.alert, found)
    ]
    return Reconciled(standing=tuple(after), events=tuple(events))


def _is_replaced(alert: Alert, found: Collection[tuple[str, str, str]]) -> bool:
    """Whether a graver alert about the same data request took this one's place, so that nothing was resolved."""
    graver = _REPLACED_BY.get(alert.code, ())
    return any((alert.account, code, alert.subject) in found for code in graver)


def with_history(alerts: Sequence[Alert], standing: Sequence[StandingAlert], now: datetime) -> list[StandingAlert]:
    """Return the alerts with their history from `standing`. An alert without one begins now."""
    before = {item.alert.key: item for item in standing}
    found = {}
    for alert in alerts:
        known = before.get(alert.key)
        found[alert.key] = StandingAlert(
            alert=alert,
            # A time in the future comes from a wrong clock. The first notification would wait until then.
            since=now if known is None else min(known.since, now),
            notified_at=None if known is None else known.notified_at,
        )
    return list(found.values())


def _is_due(item: StandingAlert, now: datetime) -> bool:
    if item.notified_at is None:
        return not item.alert.may_pass or now - item.since >= PATIENCE
    # A time in the future comes from a wrong clock.
    return not item.alert.is_final and (now - item.notified_at >= REMIND_AFTER or item.notified_at > now)


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
        message=f"resolved: {item.alert.message}",
        data={"since": time_json(item.since), "subject": item.alert.subject},
    )
