"""A backfill: how a period is divided, what becomes of its parts, and how many jobs it may take."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core.backfill import (
    MOST_TRIES,
    Backfill,
    Mirrored,
    Part,
    PartState,
    allow_more,
    divide,
    missing_days,
    newest_jobs,
    note_mirrored,
    note_requests,
    period,
    request_for,
    spare_jobs,
)
from dcsync.core.backfill_record import backfill_json, parse_backfill
from dcsync.core.coverage import Days, window_of
from dcsync.core.model import DataRequest, Job, JobId, Json, RequestId
from dcsync.core.new_request import problems_of
from tests.fakes import make_job, make_request

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
YEAR = Days(first=date(2025, 12, 1), last=date(2026, 11, 21))
OCTOBER = Days(first=date(2026, 10, 1), last=date(2026, 10, 31))


def days(first: str, last: str) -> Days:
    return Days(first=date.fromisoformat(first), last=date.fromisoformat(last))


def backfill(of: Days = YEAR, **known: Any) -> Backfill:
    return divide(Backfill(account="acme", days=of), Mirrored(**known))


def october(**changes: Any) -> Backfill:
    return Backfill(account="acme", days=OCTOBER, parts=(Part(days=OCTOBER, **changes),))


def asked(description: str = "Activities 2026-10", **changes: Any) -> DataRequest:
    """Return the data request of October at Autodesk."""
    values = {
        "id": RequestId("r-1"),
        "description": description,
        "schedule_interval": "ONE_TIME",
        "service_groups": ("activities",),
        "start_date": datetime(2026, 10, 1, tzinfo=UTC),
        "end_date": datetime(2026, 10, 31, 23, 59, tzinfo=UTC),
        **changes,
    }
    return make_request(**values)


def job(completion: str | None, request: str = "r-1", **changes: Any) -> dict[RequestId, Job]:
    status = "running" if completion is None else "complete"
    at = None if completion is None else NOW - timedelta(hours=1)
    values = {"completed_at": at, **changes}
    made = make_job(request_id=RequestId(request), status=status, completion_status=completion, **values)
    return {RequestId(request): made}


def names(found: Backfill) -> list[str]:
    return [part.name for part in found.parts]


@pytest.mark.parametrize(
    ("first", "last", "found"),
    [
        (date(2026, 9, 1), date(2026, 10, 1), days("2026-09-01", "2026-10-31")),
        (date(2026, 10, 1), None, days("2026-10-01", "2026-11-21")),
        (date(2026, 11, 1), date(2026, 12, 1), days("2026-11-01", "2026-11-21")),
        (date(2024, 2, 1), date(2024, 2, 1), days("2024-02-01", "2024-02-29")),
        (date(2026, 12, 1), None, None),
        (date(2026, 10, 1), date(2026, 9, 1), None),
    ],
)
def test_a_period_ends_with_its_month_or_yesterday(first: date, last: date | None, found: Days | None) -> None:
    assert period(first, last, NOW) == found


def test_days_are_those_of_utc() -> None:
    there = NOW.astimezone(UTC).replace(hour=0, minute=30)

    assert period(date(2026, 11, 1), None, there) == days("2026-11-01", "2026-11-21")
    assert period(date(2026, 11, 22), None, NOW.replace(day=1)) is None


def test_each_month_is_a_part() -> None:
    found = backfill()

    assert names(found)[:2] == ["2025-12", "2026-01"]
    assert names(found)[-1] == "2026-11-01 to 2026-11-21"
    assert len(found.parts) == 12
    assert found.next_part(NOW) == found.parts[0]


def test_days_that_the_mirror_has_or_will_have_are_left_out() -> None:
    found = backfill(
        days("2026-09-10", "2026-11-21"),
        covered=(days("2026-09-20", "2026-10-02"), days("2026-10-15", "2026-10-15"), days("2026-12-01", "2026-12-02")),
        coming=(days("2026-11-03", "2026-11-03"), days("2026-10-08", "2026-10-07")),
        promised_from=date(2026, 11, 5),
    )

    assert names(found) == [
        "2026-09-10 to 2026-09-19",
        "2026-10-03 to 2026-10-14",
        "2026-10-16 to 2026-10-31",
        "2026-11-01 to 2026-11-02",
        "2026-11-04",
    ]


def test_a_schedule_that_promises_everything_leaves_nothing() -> None:
    assert backfill(promised_from=date(2025, 1, 1)).is_complete


@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 40)), max_size=12), st.integers(0, 400), st.integers(0, 400)
)
def test_the_parts_and_the_mirror_have_each_day_once(ranges: list[tuple[int, int]], begin: int, length: int) -> None:
    """No day is asked for that is there, none is left out, and no part is longer than Autodesk extracts."""
    start = date(2025, 11, 1)
    whole = Days(first=start + timedelta(days=begin), last=start + timedelta(days=begin + length))
    covered = tuple(Days(first=start + timedelta(days=at), last=start + timedelta(days=at + of)) for at, of in ranges)
    found = backfill(whole, covered=covered)

    wanted = {whole.first + timedelta(days=number) for number in range(whole.count)}
    there = {item.first + timedelta(days=number) for item in covered for number in range(item.count)}
    requested = [part.days.first + timedelta(days=number) for part in found.parts for number in range(part.days.count)]
    assert len(requested) == len(set(requested))
    assert set(requested) == wanted - there
    for part in found.parts:
        assert not problems_of(request_for(part, NOW))
        assert part.days.first.month == part.days.last.month


def test_a_data_request_asks_for_the_whole_days_of_its_part() -> None:
    wanted = request_for(october().parts[0], NOW, ["p-1"])

    assert wanted.description == "Activities 2026-10"
    assert (wanted.service_groups, wanted.project_ids, wanted.schedule) == (("activities",), ("p-1",), "ONE_TIME")
    assert wanted.start_date == datetime(2026, 10, 1, tzinfo=UTC)
    assert wanted.end_date == datetime(2026, 10, 31, 23, 59, 59, 999000, tzinfo=UTC)
    shown = make_request(start_date=wanted.start_date, end_date=wanted.end_date, date_range=wanted.date_range)
    assert window_of(shown, make_job()) == OCTOBER


def test_a_smaller_period_keeps_the_parts_that_exist_at_autodesk() -> None:
    found = backfill()
    first, second, third, *_ = found.parts
    found = found.replaced(replace(first, request=RequestId("r-1"))).replaced(replace(second, began_at=NOW))

    found = divide(replace(found, days=OCTOBER), Mirrored())

    assert names(found) == [first.name, second.name, "2026-10"]
    assert third not in found.parts


def test_a_part_is_mirrored_when_all_of_its_days_are() -> None:
    half = Mirrored(covered=(days("2026-10-01", "2026-10-15"),))
    assert not note_mirrored(october(), half).is_complete

    done = note_mirrored(october(), Mirrored(covered=(*half.covered, days("2026-10-16", "2026-11-01"))))

    assert done.is_complete
    assert note_mirrored(done, Mirrored()) == done
    assert note_requests(done, [asked()], {}, NOW) == done


@pytest.mark.parametrize(
    "jobs",
    [
        {},
        job(None),
        job("success"),
    ],
)
def test_a_data_request_that_may_still_bring_its_extract_is_waited_for(jobs: dict[RequestId, Job]) -> None:
    found = note_requests(october(began_at=NOW), [asked()], jobs, NOW)

    assert found.parts[0] == Part(days=OCTOBER, request=RequestId("r-1"))
    assert found.parts[0].state is PartState.REQUESTED
    assert found.next_part(NOW) is None


@pytest.mark.parametrize(
    "other",
    [
        asked(description="Activities of October"),
        asked(schedule_interval="DAY"),
        asked(service_groups=("activities", "admin")),
        asked(start_date=datetime(2026, 10, 2, tzinfo=UTC)),
        asked(end_date=None),
        asked(project_ids=("p-2",)),
    ],
)
def test_another_data_request_is_not_taken_for_it(other: DataRequest) -> None:
    found = note_requests(october(), [other], {}, NOW, projects=["p-1"])

    assert found.parts[0].state is PartState.WAITING


def test_a_data_request_that_was_renamed_is_known_by_its_id() -> None:
    found = note_requests(october(request=RequestId("r-1")), [asked("Mine")], {}, NOW)

    assert found.parts[0].request == "r-1"


@pytest.mark.parametrize(
    ("jobs", "problem"),
    [
        (job("failed"), "its job failed at Autodesk"),
        (job("cancelled"), "its job was cancelled at Autodesk"),
        (job("success", completed_at=NOW - timedelta(days=31)), "Autodesk deleted its extract before it was mirrored"),
    ],
)
def test_a_part_whose_job_brought_nothing_gets_another_data_request_after_a_pause(
    jobs: dict[RequestId, Job], problem: str
) -> None:
    found = note_requests(october(request=RequestId("r-1")), [asked()], jobs, NOW)

    (part,) = found.parts
    assert (part.state, part.failures, part.problem) == (PartState.WAITING, 1, problem)
    assert part.description == "Activities 2026-10 (attempt 2)"
    assert found.next_part(NOW) is None
    assert found.next_part(NOW + timedelta(hours=1)) == part


def test_a_data_request_that_was_deleted_is_one_that_failed() -> None:
    (part,) = note_requests(october(request=RequestId("r-1")), [], {}, NOW).parts

    assert (part.failures, part.problem, part.request) == (1, "its data request was deleted", None)


def test_after_three_failures_a_part_waits_for_the_user() -> None:
    there = [asked(), *(asked(f"Activities 2026-10 (attempt {n})", id=RequestId(f"r-{n}")) for n in (2, 3))]
    jobs = {**job("failed"), **job("failed", "r-2"), **job("cancelled", "r-3")}

    # Also without a record of what was requested before.
    found = note_requests(october(), there, jobs, NOW)

    (part,) = found.parts
    assert (part.state, part.failures) == (PartState.FAILED, MOST_TRIES)
    assert found.next_part(NOW + timedelta(days=9)) is None
    again = allow_more(found)
    assert again.next_part(NOW) is not None
    assert again.parts[0].most_failures == 2 * MOST_TRIES
    assert again.parts[0].description == "Activities 2026-10 (attempt 4)"


def test_only_parts_that_wait_for_another_try_may_try_at_once() -> None:
    found = backfill(days("2026-09-01", "2026-10-31"))
    first, second = found.parts
    found = found.replaced(replace(first, failures=1, retry_at=NOW + timedelta(hours=1)))

    assert allow_more(found).parts == (replace(first, failures=1, most_failures=4), second)


def test_the_counts_of_states() -> None:
    found = backfill(days("2026-09-01", "2026-10-31"))
    found = found.replaced(replace(found.parts[0], is_mirrored=True))

    assert [found.count(state) for state in PartState] == [1, 0, 1, 0]
    assert not found.is_complete


def at(*hours: float, request: str = "once") -> list[Job]:
    return [
        make_job(id=JobId(f"{request}-{hour}"), request_id=RequestId(request), created_at=NOW - timedelta(hours=hour))
        for hour in hours
    ]


def scheduled(count: int, **changes: Any) -> list[DataRequest]:
    return [
        make_request(id=RequestId(f"day-{number}"), schedule_interval="DAY", effective_to=None, **changes)
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("requests", "jobs", "spare"),
    [
        ([], [], 24),
        ([], at(1, 2, 23.9), 21),
        ([], at(24, 25), 24),
        ([], [make_job(created_at=None)], 24),
        (scheduled(1), [], 22),
        # The job of the schedule does not count twice.
        (scheduled(1), at(10, request="day-0"), 22),
        (scheduled(1), [*at(10, request="day-0"), *at(1, 2)], 20),
        (scheduled(3), at(*range(24)), 0),
        (scheduled(12), [], 1),
        (scheduled(30), at(1), 0),
        (scheduled(2, is_active=False), [], 24),
        (scheduled(1, effective_from=NOW), [], 22),
        ([asked()], [], 24),
    ],
)
def test_a_backfill_leaves_jobs_for_the_schedules(requests: list[DataRequest], jobs: list[Job], spare: int) -> None:
    assert spare_jobs(requests, jobs, NOW) == spare


def test_a_schedule_that_has_ended_needs_no_job() -> None:
    ended = [replace(each, effective_to=NOW) for each in scheduled(2)]
    running = [replace(each, effective_to=NOW + timedelta(days=1)) for each in scheduled(2)]

    assert spare_jobs(ended, [], NOW) == 24
    assert spare_jobs(running, [], NOW) == 20


def test_the_newest_job_of_each_data_request_counts() -> None:
    older, newer, odd = at(5, request="a")[0], at(1, request="a")[0], make_job(id=JobId("odd"), created_at=None)

    assert newest_jobs([newer, older, odd]) == {newer.request_id: newer, odd.request_id: odd}
    assert newest_jobs([older, newer]) == {newer.request_id: newer}


def test_missing_days_of_nothing_are_all() -> None:
    assert missing_days(OCTOBER, []) == [OCTOBER]
    assert missing_days(OCTOBER, [OCTOBER]) == []


def test_the_record_is_read_as_it_was_written() -> None:
    found = backfill(days("2026-09-01", "2026-10-31"))
    part = replace(
        found.parts[0], failures=2, most_failures=6, began_at=NOW, request=RequestId("r"), retry_at=NOW, problem="x"
    )
    found = found.replaced(part)
    found = found.replaced(replace(found.parts[1], is_mirrored=True))

    assert parse_backfill(backfill_json(found)) == found


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"account": "acme", "days": "2026-10-01/2026-10-31", "parts": None},
        {"account": "acme", "days": "October", "parts": []},
        {"account": 7, "days": "2026-10-01/2026-10-31", "parts": []},
        {"account": "acme", "days": "2026-10-01/2026-10-31", "parts": [None]},
        {"account": "acme", "days": "2026-10-01/2026-10-31", "parts": [{"days": "x"}]},
        {
            "account": "acme",
            "days": "2026-10-01/2026-10-31",
            "parts": [{"days": "2026-10-01/2026-10-31", "failures": "1", "most_failures": 3}],
        },
    ],
)
def test_a_record_that_cannot_be_used_is_none(value: Any) -> None:
    assert parse_backfill(value) is None


def test_a_part_of_the_record_may_lack_what_is_not_set() -> None:
    part: dict[str, Json] = {"days": "2026-10-01/2026-10-31", "failures": 0, "most_failures": 3, "problem": None}

    assert parse_backfill({"account": "acme", "days": OCTOBER.text, "parts": [part]}) == october()


def test_the_json_has_the_state_of_each_part() -> None:
    found: Any = october(failures=1, problem="its job failed at Autodesk", retry_at=NOW).json()

    assert found["parts"] == [
        {
            "first": "2026-10-01",
            "last": "2026-10-31",
            "state": "waiting",
            "request": None,
            "failures": 1,
            "problem": "its job failed at Autodesk",
            "retry_at": "2026-11-22T12:00:00.000Z",
        }
    ]
    assert (found["account"], found["first"], found["last"]) == ("acme", "2026-10-01", "2026-10-31")
