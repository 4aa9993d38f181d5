"""The snapshots of a data request that a retention policy keeps, and why. The rules are restic's. Pure.

Each rule walks from the newest snapshot to the oldest and keeps the newest of each bucket (a day, a week, …) until it
has kept its number. A snapshot is kept if any rule keeps it, and has the reasons of all rules that keep it. Buckets
without a snapshot do not count: `daily = 7` keeps seven days that have a snapshot, however long ago they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from enum import StrEnum

from dcsync.core.model import JobId
from dcsync.core.reduction import Division, without_windows

#: A prune that would remove or reduce more than this share of a data request's snapshots is refused. One snapshot may
#: always be removed: with `last = 1` every night removes one of two.
MOST_REMOVED_SHARE = 0.4
ALWAYS_ALLOWED = 1

_NO_POLICY = "no retention policy"
_NO_DATE = "no date"
_DELTA = "delta extract: no other snapshot has its rows"
_ONLY_THERE = "no full table: no other snapshot has its rows"
_UNPROVED = "no other snapshot has its rows, and the row history is not proved to have them"
_NOT_NEWER = "no newer snapshot has its full tables"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepPolicy:
    """The number of snapshots that each rule keeps. If all are 0, everything is kept."""

    last: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0

    @property
    def keeps_everything(self) -> bool:
        """Whether the policy has no rule."""
        return not (self.last or self.daily or self.weekly or self.monthly or self.yearly)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dated:
    """The facts of a published snapshot that the policy uses. `held` has other reasons to keep it."""

    job: JobId
    folder: str
    completed_at: datetime | None
    held: tuple[str, ...] = ()


class Action(StrEnum):
    """The fate of a snapshot."""

    KEEP = "keep"
    #: Only its full tables are removed.
    REDUCE = "reduce"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The decision for a snapshot. `reasons` is empty exactly when the snapshot does not stay whole.

    `division` is set if it is reduced.
    """

    snapshot: Dated
    reasons: tuple[str, ...]
    division: Division | None = None

    @property
    def keep(self) -> bool:
        """Whether the snapshot stays whole."""
        return bool(self.reasons)

    @property
    def action(self) -> Action:
        """The fate of the snapshot."""
        if self.keep:
            return Action.KEEP
        return Action.REMOVE if self.division is None else Action.REDUCE


def apply_policy(
    snapshots: Sequence[Dated], policy: KeepPolicy, zone: tzinfo, *, is_delta: bool = False
) -> list[Verdict]:
    """Return a verdict for each snapshot of one data request, newest first. Days and weeks are those of `zone`.

    Every rule keeps the newest snapshot. Snapshots without a date are kept. All snapshots of a delta request are kept,
    because each has only changed rows: a rule such as one per day would lose rows that no other snapshot has.
    """
    everything = _DELTA if is_delta else _NO_POLICY if policy.keeps_everything else None
    ordered = sorted(snapshots, key=_newest_first, reverse=True)
    rules = [] if everything else _rules(policy, zone)
    verdicts = []
    for snapshot in ordered:
        reasons = list(snapshot.held)
        if everything is not None:
            reasons.append(everything)
        elif snapshot.completed_at is None:
            reasons.append(_NO_DATE)
        else:
            moment = snapshot.completed_at
            reasons += [rule.name for rule in rules if rule.takes(moment)]
        verdicts.append(Verdict(snapshot=snapshot, reasons=tuple(reasons)))
    return verdicts


def spare_tables(verdict: Verdict, division: Division, recorded: Collection[str] = ()) -> Verdict:
    """Return the verdict on a snapshot that no rule keeps, now that its files are divided.

    It is removed only if a newer snapshot that stays whole replaces each of its tables. `recorded` has the names of its
    window tables that the row history records, which may go once they are proved.
    """
    if not division.tables:
        return verdict
    if not without_windows(division, recorded).frees_tables:
        return replace(verdict, reasons=(_NOT_NEWER if division.keeps_full else _ONLY_THERE,))
    return replace(verdict, division=division)


def unproved(verdict: Verdict) -> Verdict:
    """Return the verdict on a snapshot of which only window tables could go, and none is proved."""
    return replace(verdict, reasons=(_UNPROVED,), division=None)


def removes_too_much(verdicts: Sequence[Verdict]) -> bool:
    """Whether the policy would remove or reduce an unusual share, which is more likely a mistake than intent."""
    removed = sum(not verdict.keep for verdict in verdicts)
    return removed > ALWAYS_ALLOWED and removed > MOST_REMOVED_SHARE * len(verdicts)


class _Rule:
    """One rule, which walks from the newest snapshot to the oldest."""

    def __init__(self, name: str, count: int, bucket: Callable[[datetime], Hashable]) -> None:
        self.name = name
        self._left = count
        self._bucket = bucket
        self._seen: set[Hashable] = set()

    def takes(self, moment: datetime) -> bool:
        """Whether the rule keeps this snapshot: the newest of a bucket, while the rule has buckets left."""
        bucket = self._bucket(moment)
        # A set and not only the last bucket: where the clock goes back over midnight, a day appears twice.
        if self._left == 0 or bucket in self._seen:
            return False
        self._seen.add(bucket)
        self._left -= 1
        return True


def _rules(policy: KeepPolicy, zone: tzinfo) -> list[_Rule]:
    def local(moment: datetime) -> datetime:
        try:
            return moment.astimezone(zone)
        except OverflowError:
            # The first and the last day that Python has cannot be moved to another zone.
            return moment

    ordinals = itertools.count()
    return [
        _Rule("last", policy.last, lambda _: next(ordinals)),
        _Rule("daily", policy.daily, lambda moment: local(moment).date()),
        # ISO weeks: 31 December may be in week 1 of the next year (docs/project/faults.md C5).
        _Rule("weekly", policy.weekly, lambda moment: local(moment).isocalendar()[:2]),
        _Rule("monthly", policy.monthly, lambda moment: (local(moment).year, local(moment).month)),
        _Rule("yearly", policy.yearly, lambda moment: local(moment).year),
    ]


def _newest_first(snapshot: Dated) -> tuple[bool, datetime | None, str]:
    """Order snapshots without a date first, because the rules do not count them."""
    return (snapshot.completed_at is None, snapshot.completed_at, snapshot.job)
