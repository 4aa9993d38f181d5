"""The sentence that the report page opens with is true, and a manager understands it."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from dcsync.core.freshness import FreshnessState, RequestFreshness
from dcsync.core.verdict import Tone, Verdict, span_text, verdict
from tests.fakes import NOON
from tests.rigs.pages import make_freshness

OK, DUE, LATE, ENDED, RETIRED, DONE, INACTIVE, GONE, UNKNOWN = FreshnessState


def time_text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


def judged(*requests: RequestFreshness) -> Verdict:
    return verdict([("acme", requests)], now=NOON, time_text=time_text)


def words(*requests: RequestFreshness) -> str:
    return judged(*requests).words


def test_today_is_complete_when_nothing_is_due_that_is_not_there() -> None:
    assert judged(make_freshness(OK), make_freshness(OK)) == Verdict(
        tone=Tone.GOOD, words="Today is complete: 2 of 2 data requests"
    )
    assert words(make_freshness(OK)) == "Today is complete: 1 of 1 data request"


def test_what_is_over_on_purpose_does_not_count() -> None:
    found = words(make_freshness(OK), make_freshness(RETIRED), make_freshness(DONE))
    assert found == "Today is complete: 1 of 1 data request"
    assert judged(make_freshness(DONE)) == Verdict(tone=Tone.GOOD, words="Nothing is due: 1 data request is over")
    assert words(make_freshness(DONE), make_freshness(RETIRED)) == "Nothing is due: 2 data requests are over"


def test_what_is_expected_is_not_late() -> None:
    soon = make_freshness(DUE, description="Soon", next_expected_at=NOON + timedelta(hours=1))
    later = make_freshness(DUE, description="Later", next_expected_at=NOON + timedelta(hours=2))

    assert judged(later, make_freshness(OK), soon) == Verdict(
        tone=Tone.WAITING,
        words="Today is not complete yet: 1 of 3 data requests. The extract of 'Soon' is expected at 2026-11-22 13:00",
    )
    assert words(make_freshness(DUE)).endswith("is expected at 2026-11-22 12:00")


def test_what_is_late_is_named_with_how_late_and_how_many_are_missing() -> None:
    late = make_freshness(LATE, 27, 3, description="Company data")

    assert judged(make_freshness(OK), late) == Verdict(
        tone=Tone.BAD, words="Today is incomplete: the extract of 'Company data' is 27 hours overdue (2 missing)"
    )


def test_one_healthy_request_does_not_hide_others_and_the_latest_is_named() -> None:
    found = words(
        make_freshness(GONE, description="A"),
        make_freshness(OK),
        make_freshness(LATE, 3, description="B"),
        make_freshness(LATE, 72, 48, 24, description="C"),
    )

    assert found == (
        "Today is incomplete: the extract of 'C' is 3 days overdue (3 missing), and 2 more data requests have a problem"
    )


def test_of_several_late_requests_the_one_whose_oldest_extract_is_missing_longest_is_named() -> None:
    assert "'Long'" in words(
        make_freshness(LATE, 20, description="Short"), make_freshness(LATE, 30, 3, description="Long")
    )
    assert "'A'" in words(make_freshness(LATE, 3, description="B"), make_freshness(LATE, 3, description="A"))
    assert "'A'" in words(make_freshness(LATE, 3, description="A"), make_freshness(LATE, 3, description="B"))


def test_a_long_name_is_cut() -> None:
    assert f"'{'n' * 80}'" in words(make_freshness(GONE, description="n" * 80))
    assert f"'{'n' * 80}…'" in words(make_freshness(GONE, description="n" * 81))


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (make_freshness(ENDED, ends_at=NOON - timedelta(days=2)), "the schedule of 'Nightly' ended on 2026-11-20"),
        (make_freshness(ENDED, 50, 26), "the schedule of 'Nightly' ended (2 missing)"),
        (make_freshness(INACTIVE), "'Nightly' was set inactive and produces no extracts"),
        (make_freshness(GONE), "'Nightly' is no longer visible at Autodesk"),
        (make_freshness(LATE), "the extract of 'Nightly' is overdue"),
        (make_freshness(LATE, 1.2), "the extract of 'Nightly' is 1 hour overdue"),
        (
            make_freshness(GONE, description=""),
            "'ce9bc188-1e18-11eb-adc1-0242ac120002' is no longer visible at Autodesk",
        ),
    ],
)
def test_each_problem_has_its_words(request_: RequestFreshness, said: str) -> None:
    assert judged(request_) == Verdict(tone=Tone.BAD, words=f"Today is incomplete: {said}")


def test_what_dcsync_cannot_tell_is_not_called_complete() -> None:
    blind = make_freshness(UNKNOWN, next_expected_at=NOON)

    assert judged(make_freshness(OK), blind, make_freshness(UNKNOWN)) == Verdict(
        tone=Tone.UNKNOWN,
        words="Whether today is complete is not known: the jobs of 'Nightly' could not be read since its extract was "
        "due, and 1 more data request has a problem",
    )
    assert words(make_freshness(UNKNOWN)) == (
        "Whether today is complete is not known: the schedule of 'Nightly' is not known"
    )


def test_an_account_that_mirrors_nothing_is_not_complete() -> None:
    accounts = [("acme", [make_freshness(OK)]), ("be\u202eta", [])]

    found = verdict(accounts, now=NOON, time_text=time_text)

    assert found == Verdict(tone=Tone.BAD, words="Today is incomplete: no data request of 'be\\u202eta' is mirrored")
    assert verdict([], now=NOON, time_text=time_text).tone is Tone.UNKNOWN
    several = verdict([("acme", []), ("beta", []), ("gamma", [])], now=NOON, time_text=time_text)
    assert several.words == (
        "Today is incomplete: no data request of 'acme' is mirrored, and 2 more data requests have a problem"
    )
    late = verdict([("acme", [make_freshness(GONE)]), ("beta", [])], now=NOON, time_text=time_text)
    assert late.words.endswith("'Nightly' is no longer visible at Autodesk, and 1 more data request has a problem")


@pytest.mark.parametrize(
    ("hours", "said"),
    [
        (-5, "less than an hour"),
        (0.3, "less than an hour"),
        (1, "1 hour"),
        (47.4, "47 hours"),
        (48, "2 days"),
        (71, "2 days"),
        (72, "3 days"),
    ],
)
def test_a_span_is_told_in_words(hours: float, said: str) -> None:
    assert span_text(timedelta(hours=hours)) == said
