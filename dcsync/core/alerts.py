"""What a person or a program is told: events, and concerns that stand until they are gone. Pure.

An event happens once. A concern stands: it is told when it begins (those that may pass by themselves only once they
have stood for a while), again once a day, and when it is over, if it was told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from dcsync.core.model import Json
from dcsync.core.wire import time_json

#: What stands is told again after this long, never at each poll (DESIGN §7).
REMIND_AFTER = timedelta(days=1)
#: What may pass by itself is told only when it has stood for this long.
PATIENCE = timedelta(hours=1)


class EventKind(StrEnum):
    """What hooks and notifications are for (`on` of the configuration)."""

    SNAPSHOT = "snapshot"
    FAILURE = "failure"
    ATTENTION = "attention"
    RECOVERED = "recovered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened. `account` is empty for the whole mirror."""

    kind: EventKind
    account: str
    at: datetime
    message: str
    code: str = ""
    hint: str = ""
    job: str | None = None
    data: Mapping[str, Json] = field(default_factory=dict)

    def json(self) -> dict[str, Json]:
        """Return what a hook reads on its standard input; the keys are stable."""
        return {
            "event": self.kind.value,
            "account": self.account,
            "at": time_json(self.at),
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "job": self.job,
            **self.data,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """Something amiss right now. Of one account, code and subject (a job, a request) there is one."""

    account: str
    code: str
    message: str
    hint: str = ""
    subject: str = ""
    kind: EventKind = EventKind.ATTENTION
    #: Whether it may pass by itself.
    passing: bool = False

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it the same as before."""
        return (self.account, self.code, self.subject)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A concern with its history; `told_at` is None while it was not told."""

    concern: Concern
    since: datetime
    told_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """What stands now, and what to tell."""

    standing: tuple[Standing, ...]
    events: tuple[Event, ...]


def reconcile(standing: Sequence[Standing], concerns: Sequence[Concern], now: datetime) -> Reconciled:
    """Return what stands after `concerns` were found, and the events that follow; both sides are of the same accounts.

    Applying it twice at one moment tells nothing the second time.
    """
    before = {item.concern.key: item for item in standing}
    found = {concern.key: concern for concern in concerns}
    after, events = [], []
    for key, concern in found.items():
        known = before.get(key)
        item = Standing(
            concern=concern,
            # A beginning ahead of now is of a clock that was wrong; it would keep patience waiting until then.
            since=now if known is None else min(known.since, now),
            told_at=None if known is None else known.told_at,
        )
        if _is_due(item, now):
            events.append(_told(concern, now, since=item.since))
            item = replace(item, told_at=now)
        after.append(item)
    for key, item in before.items():
        if key not in found and item.told_at is not None:
            events.append(_over(item, now))
    return Reconciled(standing=tuple(after), events=tuple(events))


def _is_due(item: Standing, now: datetime) -> bool:
    if item.told_at is None:
        return not item.concern.passing or now - item.since >= PATIENCE
    # A time ahead of now is of a clock that was wrong.
    return now - item.told_at >= REMIND_AFTER or item.told_at > now


def _told(concern: Concern, now: datetime, *, since: datetime) -> Event:
    return Event(
        kind=concern.kind,
        account=concern.account,
        at=now,
        code=concern.code,
        message=concern.message,
        hint=concern.hint,
        data={"since": time_json(since), "subject": concern.subject},
    )


def _over(item: Standing, now: datetime) -> Event:
    return Event(
        kind=EventKind.RECOVERED,
        account=item.concern.account,
        at=now,
        code=item.concern.code,
        message=f"over: {item.concern.message}",
        data={"since": time_json(item.since), "subject": item.concern.subject},
    )
