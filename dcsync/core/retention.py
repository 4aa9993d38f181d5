"""Which snapshots of a data request a keep policy leaves, and why: restic's rules, pure.

Each rule walks from the newest snapshot to the oldest and keeps the newest of each bucket (a day, a week, …) until it
has as many as it promises. A snapshot stays if any rule keeps it, and carries the reasons of all that do. Buckets
without a snapshot do not count: `daily = 7` keeps seven days that have one, however long ago they are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

from dcsync.core.model import JobId

#: A run that would remove more than this share of a request's snapshots is refused, unless it is one alone: with
#: `last = 1` that is what every night brings.
MOST_REMOVED_SHARE = 0.4
ALWAYS_ALLOWED = 1

_NO_POLICY = "no keep policy"
_NO_DATE = "no date"
_DELTA = "a delta: no other snapshot repeats its rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepPolicy:
    """How many to keep by each rule. All 0 keeps everything."""

    last: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0

    @property
    def keeps_everything(self) -> bool:
        """Whether there is no rule at all."""
        return not (self.last or self.daily or self.weekly or self.monthly or self.yearly)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dated:
    """A published snapshot, as far as the policy looks at it. `held` says what else it must stay for."""

    job: JobId
    folder: str
    completed_at: datetime | None
    held: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of a snapshot. `reasons` is empty exactly when it is removed."""

    snapshot: Dated
    reasons: tuple[str, ...]

    @property
    def keep(self) -> bool:
        """Whether it stays."""
        return bool(self.reasons)


def apply_policy(
    snapshots: Sequence[Dated], policy: KeepPolicy, zone: tzinfo, *, is_delta: bool = False
) -> list[Verdict]:
    """Return a verdict for each snapshot of one request, newest first; days and weeks are those of `zone`.

    Any rule keeps the newest. Snapshots without a date are kept, and so is every one of a delta request: it holds only
    the rows that changed, so that a rule such as one a day would lose rows that are nowhere else.
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


def removes_too_much(verdicts: Sequence[Verdict]) -> bool:
    """Say whether so many of a request's snapshots would go that a mistake is likelier than an intention."""
    removed = sum(not verdict.keep for verdict in verdicts)
    return removed > ALWAYS_ALLOWED and removed > MOST_REMOVED_SHARE * len(verdicts)


class _Rule:
    """One rule on its way from the newest to the oldest."""

    def __init__(self, name: str, count: int, bucket: Callable[[datetime], Hashable]) -> None:
        self.name = name
        self._left = count
        self._bucket = bucket
        self._seen: set[Hashable] = set()

    def takes(self, moment: datetime) -> bool:
        """Say whether this is the newest of a bucket that is still promised."""
        bucket = self._bucket(moment)
        # A set, not the last bucket: where the clock goes back over midnight, a day comes twice.
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
            # The first and the last day there is have no other zone.
            return moment

    ordinals = iter(range(1 << 62))
    return [
        _Rule("last", policy.last, lambda _: next(ordinals)),
        _Rule("daily", policy.daily, lambda moment: local(moment).date()),
        # ISO's weeks: 31 December may be in week 1 of the next year (FAULTS C5).
        _Rule("weekly", policy.weekly, lambda moment: local(moment).isocalendar()[:2]),
        _Rule("monthly", policy.monthly, lambda moment: (local(moment).year, local(moment).month)),
        _Rule("yearly", policy.yearly, lambda moment: local(moment).year),
    ]


def _newest_first(snapshot: Dated) -> tuple[bool, datetime | None, str]:
    """Order those without a date first, as they come before the rules count."""
    return (snapshot.completed_at is None, snapshot.completed_at, snapshot.job)
