"""`dcsync requests` and `dcsync jobs`: the lists of the API."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from dcsync.sandbox import Fault
from dcsync.sandbox.refusals import REQUEST_ID
from tests.cli.conftest import Dcsync
from tests.rigs.served import Served

REQUEST_FIELDS = set(
    str.split(
        "account id description isActive accountId projectId projectIdList createdBy createdByEmail createdAt "
        "updatedBy updatedByEmail updatedAt scheduleInterval reoccuringInterval effectiveFrom effectiveTo "
        "lastQueuedAt serviceGroups callbackUrl sendEmail startDate endDate dateRange projectStatus"
    )
)
JOB_FIELDS = set(
    str.split(
        "account id requestId accountId projectId projectIdList createdBy createdByEmail createdAt startedAt "
        "completedAt status completionStatus progress sendEmail lastDownloadedBy lastDownloadedAt startDate endDate"
    )
)


@pytest.fixture
def many(side: Served) -> Served:
    world = side.sandbox.world
    now = datetime.now(UTC)
    for index in range(3):
        request = world.add_request(
            f"Request {index}", project_id=None if index else "0f000000-0000-4000-8000-00000000"
        )
        world.requests[request].is_active = index != 1
        # Two that begin in one millisecond would be in any order.
        world.requests[request].created_at = now + timedelta(seconds=index)
        for day in range(50):
            world.add_job(request, completed_at=now - timedelta(days=day, minutes=index), files={})
    return side


def test_requests_come_with_every_documented_field(many: Served, dcsync: Dcsync) -> None:
    result = dcsync("requests", "--json")

    assert result.status == 0
    rows = result.json["requests"]
    assert len(rows) == 3
    assert all(row.keys() >= REQUEST_FIELDS for row in rows)


def test_jobs_come_with_every_documented_field_newest_first_and_a_hundred_of_them(many: Served, dcsync: Dcsync) -> None:
    rows = dcsync("jobs", "--json").json["jobs"]

    assert len(rows) == 100
    assert all(row.keys() >= JOB_FIELDS for row in rows)
    created = [row["createdAt"] for row in rows]
    assert created == sorted(created, reverse=True)


def test_the_limit_counts_what_is_returned_over_all_pages(many: Served, dcsync: Dcsync) -> None:
    rows = dcsync("jobs", "--json", "--limit", "130").json["jobs"]

    assert len({row["id"] for row in rows}) == 130


def test_filters_and_sorting_go_to_the_api_as_it_documents_them(many: Served, dcsync: Dcsync) -> None:
    options = ("--filter", "isActive=true", "--filter", "createdAt=2026-01-01..", "--sort-fields", "-createdAt")

    rows = dcsync("requests", "--json", *options).json["requests"]

    assert [row["description"] for row in rows] == ["Request 2", "Request 0"]
    assert many.sandbox.calls[-1].query == {
        "filter[isActive]": "true",
        "filter[createdAt]": "2026-01-01T00:00:00.000Z..",
        "sortFields": "-createdAt",
        "limit": "100",
        "offset": "0",
    }


def test_a_project_of_data_requests_goes_as_a_filter_and_one_of_jobs_as_a_parameter(
    many: Served, dcsync: Dcsync
) -> None:
    assert dcsync("requests", "--project", "p").status == 0
    assert dcsync("jobs", "--project", "p").status == 0

    requests, jobs = (call.query for call in many.sandbox.calls[-2:])
    assert (requests.get("filter[projectId]"), requests.get("projectId")) == ("p", None)
    assert (jobs.get("filter[projectId]"), jobs.get("projectId")) == (None, "p")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["requests", "--filter", "isActive=true", "--filter", "isActive=false"], "isActive has two values"),
        (["jobs", "--filter", "status=queued,running"], "status has two values"),
        (["requests", "--filter", "status=complete"], "Choose from: createdAt, effectiveFrom, effectiveTo, endDate"),
        (["jobs", "--filter", "createdAt=yesterday"], "write a date such as 2026-11-30"),
        (["requests", "--project", "p", "--filter", "projectId=q"], "give one of them"),
    ],
)
def test_a_filter_that_the_api_would_refuse_is_a_usage_error_without_a_call(
    many: Served, dcsync: Dcsync, arguments: list[str], words: str
) -> None:
    result = dcsync(*arguments)

    assert result.status == 2
    assert words in " ".join(result.err.split())
    assert many.sandbox.calls == []


def test_ascending_and_an_offset(many: Served, dcsync: Dcsync) -> None:
    everything = dcsync("jobs", "--json", "--sort", "asc", "--limit", "200").json["jobs"]

    part = dcsync("jobs", "--json", "--sort", "asc", "--offset", "7", "--limit", "5").json["jobs"]

    assert part == everything[7:12]


def test_jobs_of_one_request(many: Served, dcsync: Dcsync) -> None:
    request = next(iter(many.sandbox.world.requests))

    rows = dcsync("jobs", "--json", "--request", request).json["jobs"]

    assert {row["requestId"] for row in rows} == {request}
    assert len(rows) == 50


@pytest.mark.parametrize("word", ["Request 1", "da3b2b23"])
def test_the_data_request_of_jobs_is_named_as_in_other_commands(many: Served, dcsync: Dcsync, word: str) -> None:
    request = list(many.sandbox.world.requests)[1]

    assert {row["requestId"] for row in dcsync("jobs", "--json", "--request", word).json["jobs"]} == {request}
    missing = dcsync("jobs", "--request", "nothing")
    assert (missing.status, "no data request" in missing.err) == (2, True)


def test_options_that_the_jobs_of_a_request_do_not_support_are_refused(many: Served, dcsync: Dcsync) -> None:
    result = dcsync("jobs", "--request", "x", "--filter", "status=complete")

    assert result.status == 2
    assert "supports only --sort, --limit and --offset" in result.err


def test_a_filter_without_a_value_is_refused(many: Served, dcsync: Dcsync) -> None:
    result = dcsync("jobs", "--filter", "status")

    assert result.status == 2
    assert "FIELD=VALUE" in result.err


def test_in_a_pipe_a_table_is_tab_separated(many: Served, dcsync: Dcsync) -> None:
    result = dcsync("requests")

    lines = [line.split("\t") for line in result.out.splitlines()]
    assert lines[0] == ["account", "id", "active", "schedule", "last queued", "services", "description"]
    assert {line[-1] for line in lines[1:]} == {"Request 0", "Request 1", "Request 2"}
    assert {len(line) for line in lines} == {7}


def test_a_refused_account_is_reported_and_the_other_is_listed(many: Served, dcsync: Dcsync) -> None:
    with many.config.open("a") as file:
        file.write('[[account]]\nname = "foreign"\nid = "b.00000000-0000-4000-8000-000000000000"\n')

    result = dcsync("requests", "--json")

    assert result.status == 13
    assert len(result.json["requests"]) == 3
    assert "A-DENIED" in result.err


def test_an_html_response_is_reported(many: Served, dcsync: Dcsync) -> None:
    many.sandbox.faults.add(Fault(server="api", kind="json", body=b"<html>Sign in</html>", times=None))

    result = dcsync("jobs")

    assert result.status == 3
    assert "A-ANSWER" in result.err
    assert "<html>Sign in</html>" in result.err
    assert "api.base_url" in result.err


@pytest.mark.parametrize("command", ["requests", "jobs"])
def test_a_refused_list_shows_the_reason_and_the_request_id(side: Served, dcsync: Dcsync, command: str) -> None:
    refusal = Fault(server="api", kind="refuse-error-object", status=403, body=b"you lack Insight", times=None)
    side.sandbox.faults.add(refusal)

    result = dcsync(command)

    assert result.status == 13
    assert f"you lack Insight: SANDBOX-42 (request ID {REQUEST_ID})" in result.err


@pytest.mark.parametrize("width", [80, 100, 160])
def test_on_a_terminal_ids_and_times_are_whole(
    side: Served, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    world = side.sandbox.world
    request = world.add_request("A data request whose description is longer than any column of a table can be")
    job = world.add_job(request, completed_at=datetime.now(UTC), files={"a.csv": b"id\n1\n"})
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)

    jobs, requests = (re.sub(r"\x1b\[\d*m", "", dcsync(command).out) for command in ("jobs", "requests"))

    for shown in (jobs, requests):
        assert max(map(len, shown.splitlines())) <= width
    assert job in jobs
    assert request in requests
    assert "account" not in jobs + requests
    assert request[:8] in jobs
    assert "success" in jobs
    assert re.search(rf"{datetime.now(UTC):%Y-%m}-\d\d \d\d:\d\dZ", jobs)
