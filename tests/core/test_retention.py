"""The keep policy: what each rule promises, over every kind of calendar."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from random import Random
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dcsync.core.model import JobId, StoredFile
from dcsync.core.reduction import Division, divide
from dcsync.core.retention import (
    Action,
    Dated,
    KeepPolicy,
    Verdict,
    apply_policy,
    removes_too_much,
    spare_tables,
    unproved,
)
from dcsync.core.table import TableKind
from tests.fakes import make_stored

#: Zones whose clocks do odd things: half-hour steps, a day that never was, midnights that come twice or not at all.
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/St_Johns",  # until 2011 the clock went back at 00:01: a new day, then the old one again
    "Australia/Lord_Howe",  # 30 minutes
    "Pacific/Apia",  # no 30 December 2011
    "Asia/Beirut",  # changes at midnight
    "America/Havana",
    "America/Sao_Paulo",  # until 2018 the day began at 01:00
    "Pacific/Kiritimati",
    "Africa/Casablanca",
]

BUCKETS: dict[str, Callable[[datetime], Hashable]] = {
    "daily": lambda local: local.date(),
    "weekly": lambda local: local.strftime("%G-%V"),
    "monthly": lambda local: local.strftime("%Y-%m"),
    "yearly": lambda local: local.strftime("%Y"),
}


def make_dated(moment: datetime | None, number: int = 0, **changes: tuple[str, ...]) -> Dated:
    return Dated(job=JobId(f"job-{number:05}"), folder=f"acme/r/{number:05}", completed_at=moment, **changes)


def days(*spans: str) -> list[Dated]:
    """Return snapshots of these times in UTC."""
    return [make_dated(datetime.fromisoformat(span).replace(tzinfo=UTC), index) for index, span in enumerate(spans)]


def reasons(verdicts: Sequence[Verdict]) -> dict[str, tuple[str, ...]]:
    return {
        "-" if (at := verdict.snapshot.completed_at) is None else f"{at:%m-%dT%H:%M}": verdict.reasons
        for verdict in verdicts
    }


# --- by example -------------------------------------------------------------------------------------------------------


def test_a_snapshot_that_several_rules_keep_carries_all_their_reasons() -> None:
    snapshots = days("2026-11-20T02:00", "2026-11-21T02:00", "2026-11-22T02:00", "2026-11-22T14:00")

    verdicts = apply_policy(snapshots, KeepPolicy(last=1, daily=2, yearly=3), UTC)

    assert reasons(verdicts) == {
        "11-22T14:00": ("last", "daily", "yearly"),
        "11-22T02:00": (),
        "11-21T02:00": ("daily",),
        "11-20T02:00": (),
    }
    assert [verdict.keep for verdict in verdicts] == [True, False, True, False]


def test_without_a_policy_everything_is_kept() -> None:
    verdicts = apply_policy(days("2020-01-01T00:00", "2026-11-22T02:00"), KeepPolicy(), UTC)

    assert {verdict.reasons for verdict in verdicts} == {("no retention policy",)}


@pytest.mark.parametrize("rule", ["last", "daily", "weekly", "monthly", "yearly"])
def test_one_rule_is_a_policy(rule: str) -> None:
    policy = KeepPolicy(**{rule: 1})

    assert not policy.keeps_everything
    assert reasons(apply_policy(days("2020-01-01T00:00", "2026-11-22T02:00"), policy, UTC)) == {
        "01-01T00:00": (),
        "11-22T02:00": (rule,),
    }


def test_of_a_delta_request_everything_is_kept_whatever_the_policy() -> None:
    verdicts = apply_policy(days("2026-11-21T02:00", "2026-11-22T02:00"), KeepPolicy(last=1), UTC, is_delta=True)

    assert all(verdict.keep for verdict in verdicts)
    assert "delta" in verdicts[1].reasons[0]


def test_a_snapshot_that_no_rule_keeps_loses_only_tables_that_a_newer_extract_replaces() -> None:
    (verdict,) = apply_policy([make_dated(datetime(2020, 1, 1, tzinfo=UTC), 9)], KeepPolicy(), UTC)
    verdict = replace(verdict, reasons=())
    full = make_stored("admin_users.csv", kind=TableKind.FULL)
    window = make_stored("activities_docs.csv", kind=TableKind.WINDOW)
    page = make_stored("README.html")

    def spared(*files: StoredFile, newer: str = full.original) -> Verdict:
        return spare_tables(verdict, divide(files, None, archive_repeats=False, newer={newer}))

    assert spared(full, page).action is Action.REMOVE
    assert spared(full, window, page).action is Action.REDUCE
    assert spared(full, window, page).division == Division(kept=(window, page), removed=(full,))
    assert spared(window, page).action is Action.KEEP
    assert spared(window, page).reasons == ("no full table: no other snapshot has its rows",)
    assert spared(full, window, newer="other.csv").reasons == ("no newer snapshot has its full tables",)
    assert removes_too_much([spared(full, window)] * 2)


def test_a_snapshot_with_only_window_tables_is_reduced_if_the_history_records_one() -> None:
    (verdict,) = apply_policy([make_dated(datetime(2020, 1, 1, tzinfo=UTC), 9)], KeepPolicy(), UTC)
    window = make_stored("activities_docs.csv", kind=TableKind.WINDOW)
    division = divide([window], None, archive_repeats=False, newer=set())
    spared = spare_tables(replace(verdict, reasons=()), division, {window.name})

    assert (spared.action, spared.division) == (Action.REDUCE, division)
    assert unproved(spared).action is Action.KEEP
    assert "not proved" in unproved(spared).reasons[0]


def test_one_without_a_date_is_kept_and_uses_up_no_rule() -> None:
    verdicts = apply_policy([make_dated(None, 9), *days("2026-11-21T02:00")], KeepPolicy(last=1), UTC)

    assert list(reasons(verdicts).items()) == [("-", ("no date",)), ("11-21T02:00", ("last",))]


def test_one_that_is_held_stays_and_says_what_for() -> None:
    old = make_dated(datetime(2020, 1, 1, tzinfo=UTC), 9, held=("latest",))

    verdicts = apply_policy([old, *days("2026-11-21T02:00")], KeepPolicy(last=1), UTC)

    assert verdicts[1].reasons == ("latest",)


def test_days_are_those_of_the_zone() -> None:
    snapshots = days("2026-11-21T22:30", "2026-11-21T23:30", "2026-11-22T22:30")
    policy = KeepPolicy(daily=2)

    assert reasons(apply_policy(snapshots, policy, UTC))["11-21T23:30"] == ("daily",)
    # In Berlin 23:30 is half past midnight of the day after, which has a newer one.
    assert reasons(apply_policy(snapshots, policy, ZoneInfo("Europe/Berlin")))["11-21T23:30"] == ()


def test_weeks_are_iso_weeks_also_over_new_year() -> None:
    # Monday 29 December 2025 to Sunday 4 January 2026 are week 1 of 2026.
    snapshots = days("2025-12-28T12:00", "2025-12-29T12:00", "2025-12-31T12:00", "2026-01-04T12:00")

    verdicts = apply_policy(snapshots, KeepPolicy(weekly=5), UTC)

    assert [f"{v.snapshot.completed_at:%m-%d}" for v in verdicts if v.keep] == ["01-04", "12-28"]


def test_a_day_that_comes_twice_is_one_day() -> None:
    """In St John's the clock went from 00:01 on 7 November 2010 back to 23:01 on the 6th."""
    zone = ZoneInfo("America/St_Johns")
    before, after, morning = (
        datetime(2010, 11, 7, 2, 30, 30, tzinfo=UTC),
        datetime(2010, 11, 7, 2, 45, tzinfo=UTC),
        datetime(2010, 11, 7, 12, tzinfo=UTC),
    )
    assert [moment.astimezone(zone).day for moment in (before, after, morning)] == [7, 6, 7]

    verdicts = apply_policy(
        [make_dated(moment, index) for index, moment in enumerate((before, after, morning))],
        KeepPolicy(daily=9),
        zone,
    )

    assert [verdict.keep for verdict in verdicts] == [True, True, False]


def test_the_first_and_the_last_moment_there_are_have_a_verdict() -> None:
    edges = [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]

    for zone in ZONES:
        verdicts = apply_policy([make_dated(at, i) for i, at in enumerate(edges)], KeepPolicy(daily=2), ZoneInfo(zone))
        assert [verdict.keep for verdict in verdicts] == [True, True]


@pytest.mark.parametrize(
    ("total", "keep", "too_much"),
    [(2, 1, False), (3, 1, True), (3, 2, False), (5, 3, False), (5, 2, True), (10, 6, False), (10, 5, True)],
)
def test_more_than_two_fifths_of_them_is_too_much_but_one_alone_is_not(total: int, keep: int, too_much: bool) -> None:
    snapshots = [make_dated(datetime(2026, 1, 1 + day, tzinfo=UTC), day) for day in range(total)]

    assert removes_too_much(apply_policy(snapshots, KeepPolicy(last=keep), UTC)) is too_much


# --- properties -------------------------------------------------------------------------------------------------------

MOMENTS = st.one_of(
    # Dense around changes of the clock, and anything else.
    st.builds(
        lambda base, minutes: base + timedelta(minutes=minutes),
        st.sampled_from(
            [
                datetime(2010, 11, 7, 2, 31, tzinfo=UTC),  # St John's
                datetime(2011, 12, 30, 10, tzinfo=UTC),  # Apia
                datetime(2018, 11, 4, 3, tzinfo=UTC),  # São Paulo
                datetime(2026, 3, 29, 1, tzinfo=UTC),  # Berlin
                datetime(2026, 10, 25, 1, tzinfo=UTC),  # Berlin
                datetime(2026, 4, 4, 15, tzinfo=UTC),  # Lord Howe
                datetime(2024, 2, 29, 23, tzinfo=UTC),
                datetime(2026, 12, 31, 23, tzinfo=UTC),
            ]
        ),
        st.integers(-3 * 1440, 3 * 1440),
    ),
    st.datetimes(datetime(1990, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis' way
)
COUNTS = st.integers(0, 6)
POLICIES = st.builds(KeepPolicy, last=COUNTS, daily=COUNTS, weekly=COUNTS, monthly=COUNTS, yearly=COUNTS)
SNAPSHOTS = st.lists(st.none() | MOMENTS, max_size=30).map(
    lambda moments: [make_dated(moment, number) for number, moment in enumerate(moments)]
)
ZONE = st.sampled_from(ZONES).map(ZoneInfo)


def dated(snapshots: Sequence[Dated]) -> list[tuple[datetime, str]]:
    """Return time and id of those that have a time, newest first."""
    return sorted(
        ((entry.completed_at, str(entry.job)) for entry in snapshots if entry.completed_at is not None), reverse=True
    )


@given(SNAPSHOTS, POLICIES, ZONE)
@example(days("2010-11-07T02:30:30", "2010-11-07T02:45", "2010-11-07T12:00"), KeepPolicy(daily=2), ZoneInfo(ZONES[2]))
def test_pruning_again_removes_nothing_more(snapshots: list[Dated], policy: KeepPolicy, zone: tzinfo) -> None:
    first = apply_policy(snapshots, policy, zone)
    kept = [verdict.snapshot for verdict in first if verdict.keep]

    again = apply_policy(kept, policy, zone)

    assert [verdict.snapshot for verdict in again if verdict.keep] == kept
    assert [verdict.reasons for verdict in again] == [verdict.reasons for verdict in first if verdict.keep]


@given(SNAPSHOTS, POLICIES, ZONE)
def test_the_newest_is_never_removed_and_every_snapshot_has_one_verdict(
    snapshots: list[Dated], policy: KeepPolicy, zone: tzinfo
) -> None:
    verdicts = apply_policy(snapshots, policy, zone)

    assert sorted(str(verdict.snapshot.job) for verdict in verdicts) == sorted(str(entry.job) for entry in snapshots)
    kept = {str(verdict.snapshot.job) for verdict in verdicts if verdict.keep}
    if newest := dated(snapshots):
        assert newest[0][1] in kept
    assert all(str(entry.job) in kept for entry in snapshots if entry.completed_at is None)


@given(SNAPSHOTS, POLICIES, ZONE)
def test_each_rule_keeps_the_newest_of_each_bucket_that_it_promises_and_no_other(
    snapshots: list[Dated], policy: KeepPolicy, zone: tzinfo
) -> None:
    """Against a second way to say the same: group, take the newest of each, take the first N."""
    verdicts = apply_policy(snapshots, policy, zone)
    by_job = {str(verdict.snapshot.job): verdict.reasons for verdict in verdicts}
    ordered = dated(snapshots)

    expected = {job: {"last"} for _, job in ordered[: policy.last]}
    for rule, bucket in BUCKETS.items():
        newest: dict[Hashable, str] = {}
        for moment, job in ordered:
            newest.setdefault(bucket(moment.astimezone(zone)), job)
        for job in list(newest.values())[: getattr(policy, rule)]:
            expected.setdefault(job, set()).add(rule)

    if not policy.keeps_everything:
        assert {job: set(by_job[job]) for _, job in ordered if by_job[job]} == expected


@given(SNAPSHOTS, POLICIES, ZONE, st.randoms())
def test_the_order_they_come_in_does_not_matter(
    snapshots: list[Dated], policy: KeepPolicy, zone: tzinfo, random: Random
) -> None:
    shuffled = list(snapshots)
    random.shuffle(shuffled)

    assert apply_policy(shuffled, policy, zone) == apply_policy(snapshots, policy, zone)
