"""Data requests are created, changed and deleted as Autodesk's reference says, and their jobs follow."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from typing import Any

import aiohttp
import pytest

from dcsync.sandbox import Fault
from dcsync.sandbox.request_handlers import MAX_ACTIVE
from dcsync.sandbox.request_rules import CHANGEABLE, DATE_RANGES, PROJECT_STATUSES, SCHEDULES
from dcsync.sandbox.schedules import due_at
from tests.sandbox.conftest import Remote

PROJECT = "0f000000-0000-4000-8000-000000000000"
#: The clock of the tests begins on 22 November 2026, at noon.
ONCE: dict[str, Any] = {
    "scheduleInterval": "ONE_TIME",
    "effectiveFrom": "2026-11-22T00:00:00.000Z",
    "serviceGroups": ["admin", "issues"],
}
DAILY: dict[str, Any] = {
    **ONCE,
    "scheduleInterval": "DAY",
    "reoccuringInterval": 1,
    "effectiveTo": "2026-11-30T00:00:00.000Z",
}


async def created(remote: Remote, **changes: Any) -> Any:
    """Create a data request, by default a one-time one, and return it as the API answers."""
    answer = await remote.send("POST", "requests", {**ONCE, **changes})
    assert answer.status == 201, answer.body
    return answer.json()


def days_of(remote: Remote, job: str, name: str) -> list[str]:
    """Return the days of the rows of a table."""
    blob = remote.world.extract(job)[name]
    rows = csv.DictReader(io.StringIO(blob.read(0, blob.size).decode()))
    return sorted({row["created_at"][:10] for row in rows})


# --- POST -------------------------------------------------------------------------------------------------------------


async def test_a_created_data_request_has_the_given_fields_and_the_documented_defaults(remote: Remote) -> None:
    given = {
        **DAILY,
        "description": "My Company Data Extract",
        "projectIdList": [PROJECT],
        "callbackUrl": "https://api.example.com/jobs",
        "sendEmail": False,
        "dateRange": "LAST_MONTH",
        "projectStatus": "active",
    }

    full = (await remote.send("POST", "requests", given)).json()
    plain = await created(remote)

    assert {name: full[name] for name in given} == given
    assert full["createdBy"] == "tester"
    assert full["createdAt"] == full["updatedAt"] == full["lastQueuedAt"] == "2026-11-22T12:00:00.000Z"
    defaults = ("description", "isActive", "sendEmail", "projectStatus", "reoccuringInterval", "effectiveTo")
    assert [plain[name] for name in defaults] == ["", True, True, "all", None, None]
    assert (await remote.api(f"requests/{full['id']}")).json() == full


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scheduleInterval": None}, "scheduleInterval is required"),
        ({"serviceGroups": None}, "serviceGroups is required"),
        ({"effectiveFrom": None}, "effectiveFrom is required"),
        ({"scheduleInterval": "HOUR"}, "scheduleInterval must be one of ONE_TIME, DAY"),
        ({"serviceGroups": []}, "serviceGroups must be"),
        ({"serviceGroups": "admin"}, "serviceGroups must be"),
        ({"serviceGroups": ["admin", "nonsense"]}, "serviceGroups must be"),
        ({"effectiveFrom": "2026-11-22"}, "effectiveFrom must be a time"),
        ({"effectiveTo": "2026-11-30T00:00:00.000Z"}, "effectiveTo must not be supplied for ONE_TIME"),
        ({**DAILY, "effectiveTo": None}, "effectiveTo is required"),
        ({**DAILY, "effectiveTo": "2026-11-21T00:00:00.000Z"}, "effectiveTo must not be before effectiveFrom"),
        ({**DAILY, "reoccuringInterval": None}, "reoccuringInterval is required"),
        ({**DAILY, "reoccuringInterval": 0}, "reoccuringInterval must be a non-zero integer"),
        ({**DAILY, "reoccuringInterval": True}, "reoccuringInterval must be a non-zero integer"),
        ({"dateRange": "TOMORROW"}, "dateRange must be one of TODAY"),
        ({"dateRange": "CUSTOM"}, "startDate is required"),
        ({"dateRange": "CUSTOM", "startDate": "2026-11-01T00:00:00.000Z"}, "endDate is required"),
        (
            {"startDate": "2026-11-02T00:00:00.000Z", "endDate": "2026-11-01T00:00:00.000Z"},
            "endDate must not be before startDate",
        ),
        ({"startDate": "November"}, "startDate must be a time"),
        ({"serviceGroups": ["cdcissues"]}, "the delta extraction service groups need startDate and endDate"),
        ({"projectIdList": [PROJECT] * 51}, "projectIdList must be an array of up to 50"),
        ({"projectIdList": PROJECT}, "projectIdList must be an array of up to 50"),
        ({"projectStatus": "closed"}, "projectStatus must be one of all, archived, active"),
        ({"callbackUrl": "http://api.example.com/jobs"}, "callbackUrl must be an https URL"),
        ({"callbackUrl": 7}, "callbackUrl must be an https URL"),
        ({"isActive": "yes"}, "isActive must be true or false"),
        ({"sendEmail": 1}, "sendEmail must be true or false"),
        ({"description": 7}, "description must be a string"),
        ({"name": "x"}, "name is not a field of this endpoint"),
    ],
)
async def test_a_field_that_breaks_a_rule_is_400_and_creates_nothing(
    remote: Remote, changes: dict[str, Any], words: str
) -> None:
    answer = await remote.send("POST", "requests", {**ONCE, **changes})

    assert answer.status == 400
    assert words in answer.json()["detail"]
    assert remote.world.requests == {}


@pytest.mark.parametrize("body", [[], "text", None])
async def test_a_body_that_is_no_object_is_400(remote: Remote, body: Any) -> None:
    assert (await remote.send("POST", "requests", body)).status == 400


async def test_every_documented_choice_is_taken(remote: Remote) -> None:
    for schedule in SCHEDULES[1:]:
        await created(remote, **{**DAILY, "scheduleInterval": schedule, "isActive": False})
    dates = {"startDate": "2026-11-01T00:00:00.000Z", "endDate": "2026-11-02T00:00:00.000Z"}
    for name in DATE_RANGES:
        await created(remote, dateRange=name, isActive=False, **(dates if name == "CUSTOM" else {}))
    for status in PROJECT_STATUSES:
        await created(remote, projectStatus=status, isActive=False)

    assert len(remote.world.requests) == 4 + 6 + 3
    assert remote.world.jobs == {}


@pytest.mark.parametrize(
    ("method", "needed"), [("POST", "data:create"), ("PATCH", "data:write"), ("DELETE", "data:write")]
)
async def test_a_token_without_the_scope_is_403_and_changes_nothing(remote: Remote, method: str, needed: str) -> None:
    request = await created(remote)
    others = frozenset({"data:read", "data:create", "data:write"} - {needed})
    token = remote.sandbox.tokens.issue_access_token("tester", scopes=others)
    path = "requests" if method == "POST" else f"requests/{request['id']}"

    answer = await remote.send(method, path, ONCE, token=token)

    assert (answer.status, answer.json()["errorCode"]) == (403, "AUTH-010")
    assert (await remote.api("requests")).json()["results"] == [request]


# --- jobs -------------------------------------------------------------------------------------------------------------


async def test_a_one_time_data_request_has_one_job_that_completes_with_the_tables_of_its_groups(remote: Remote) -> None:
    request = await created(remote)
    (queued,) = (await remote.api(f"requests/{request['id']}/jobs")).json()["results"]

    done = remote.world.complete_jobs()
    remote.clock.advance(86400)

    (job,) = (await remote.api("jobs")).json()["results"]
    assert (queued["status"], job["status"], job["completionStatus"]) == ("queued", "complete", "success")
    assert done == [job["id"]]
    names = [row["name"] for row in (await remote.api(f"jobs/{job['id']}/data-listing")).json()]
    assert {name.split("_")[0] for name in names if name.endswith(".csv")} == {"admin", "issues"}
    assert remote.world.complete_jobs() == []


async def test_jobs_complete_on_their_own_after_a_while(remote: Remote) -> None:
    remote.world.jobs_take_s = 600
    request = await created(remote)

    remote.clock.advance(600)

    (job,) = (await remote.api(f"requests/{request['id']}/jobs")).json()["results"]
    assert (job["status"], job["completedAt"]) == ("complete", "2026-11-22T12:10:00.000Z")


async def test_a_job_waits_for_the_time_from_which_its_data_request_is_effective(remote: Remote) -> None:
    await created(remote, effectiveFrom="2026-11-22T18:00:00.000Z")
    before = (await remote.api("jobs")).ids

    remote.clock.advance(6 * 3600)

    (job,) = (await remote.api("jobs")).json()["results"]
    assert (before, job["createdAt"]) == ([], "2026-11-22T18:00:00.000Z")


async def test_a_recurring_data_request_has_jobs_until_it_ends(remote: Remote) -> None:
    request = await created(remote, **{**DAILY, "reoccuringInterval": 2, "effectiveTo": "2026-11-26T12:00:00.000Z"})

    remote.clock.advance(30 * 86400)
    jobs = (await remote.api(f"requests/{request['id']}/jobs")).json()["results"]

    assert [job["createdAt"][:13] for job in jobs] == ["2026-11-22T12", "2026-11-24T12", "2026-11-26T12"]
    shown = (await remote.api(f"requests/{request['id']}")).json()
    assert (shown["effectiveTo"], shown["isActive"]) == ("2026-11-26T12:00:00.000Z", True)
    assert shown["lastQueuedAt"] == "2026-11-26T12:00:00.000Z"


async def test_schedules_can_run_ahead_without_the_clock(remote: Remote) -> None:
    await created(remote, **DAILY)

    added = remote.world.run_schedules(remote.clock.now() + timedelta(days=3))

    assert len(added) == 3
    assert remote.world.run_schedules(remote.clock.now() + timedelta(days=3)) == []


async def test_an_inactive_data_request_has_no_jobs_and_makes_up_for_none(remote: Remote) -> None:
    request = await created(remote, **{**DAILY, "isActive": False})
    remote.clock.advance(3 * 86400)
    change = {**DAILY, "isActive": True}

    answer = await remote.send("PATCH", f"requests/{request['id']}", change)
    remote.clock.advance(86400)

    assert answer.status == 200
    assert [job["createdAt"][:10] for job in (await remote.api("jobs")).json()["results"]] == ["2026-11-26"]


async def test_the_25th_job_in_24_hours_is_429_and_creates_nothing(remote: Remote) -> None:
    for _ in range(24):
        await created(remote)

    refused = await remote.send("POST", "requests", ONCE)
    later = await remote.send("POST", "requests", {**ONCE, "effectiveFrom": "2026-11-25T00:00:00.000Z"})
    remote.clock.advance(86400)

    assert refused.status == 429
    assert "24 jobs in 24 hours" in refused.json()["developerMessage"]
    assert later.status == 201
    assert len(remote.world.jobs) == 24
    assert (await remote.send("POST", "requests", ONCE)).status == 201


async def test_the_daily_limit_counts_the_jobs_of_the_account_and_those_of_the_user(remote: Remote) -> None:
    world, now = remote.world, remote.clock.now()
    other = world.add_account("Other")
    world.add_job(world.add_request("r", owner="bob"), created_at=now)
    world.add_job(world.add_request("r", owner="ana", hub_id=other), created_at=now)
    world.add_job(world.add_request("r", owner="ana", hub_id=other), created_at=now - timedelta(days=1))

    assert world.jobs_left(world.account_id, "ana", now) == 23
    assert world.jobs_left(world.account_id, "bob", now) == 23
    assert world.jobs_left(other.removeprefix("b."), "carl", now) == 23


async def test_more_than_two_hundred_active_data_requests_are_400(remote: Remote) -> None:
    for _ in range(MAX_ACTIVE):
        await created(remote, effectiveFrom="2026-12-01T00:00:00.000Z")

    refused = await remote.send("POST", "requests", ONCE)

    assert refused.status == 400
    assert (await created(remote, isActive=False))["isActive"] is False


async def test_the_dates_of_a_data_request_decide_the_rows_of_activities_and_deltas(remote: Remote) -> None:
    request = await created(
        remote,
        serviceGroups=["activities", "cdcissues"],
        startDate="2026-11-03T00:00:00.000Z",
        endDate="2026-11-05T23:59:59.999Z",
    )
    (job,) = remote.world.complete_jobs()

    names = [name for name in remote.world.extract(job) if name.endswith(".csv")]

    days = ["2026-11-03", "2026-11-04", "2026-11-05"]
    assert {name.split("_")[0] for name in names} == {"activities", "cdcissues"}
    assert all(days_of(remote, job, name) == days for name in names)
    assert request["startDate"] == "2026-11-03T00:00:00.000Z"


# --- PATCH and DELETE -------------------------------------------------------------------------------------------------


async def test_a_change_keeps_the_other_fields(remote: Remote) -> None:
    request = await created(remote, **{**DAILY, "description": "Every night", "dateRange": "LAST_MONTH"})
    remote.clock.advance(60)
    changes = {"scheduleInterval": "DAY", "serviceGroups": ["all"], "effectiveTo": "2027-11-30T00:00:00.000Z"}

    answer = await remote.send("PATCH", f"requests/{request['id']}", changes)

    assert answer.status == 200
    assert answer.json() == {**request, **changes, "updatedAt": "2026-11-22T12:01:00.000Z"}
    assert len(remote.world.jobs) == 1


async def test_an_extended_schedule_goes_on_in_its_rhythm(remote: Remote) -> None:
    request = await created(remote, **{**DAILY, "effectiveTo": "2026-11-23T12:00:00.000Z"})
    remote.clock.advance(4 * 86400 + 3600)
    ended = len((await remote.api("jobs")).ids)

    await remote.send("PATCH", f"requests/{request['id']}", DAILY)
    remote.clock.advance(86400)

    days = [job["createdAt"][:13] for job in (await remote.api("jobs")).json()["results"]]
    assert (ended, days[2:]) == (2, ["2026-11-27T12"])


async def test_another_schedule_begins_anew(remote: Remote) -> None:
    request = await created(remote, **DAILY)
    changes = {**DAILY, "scheduleInterval": "WEEK", "effectiveFrom": "2026-11-24T00:00:00.000Z"}
    changes["effectiveTo"] = "2026-12-31T00:00:00.000Z"

    await remote.send("PATCH", f"requests/{request['id']}", changes)
    remote.clock.advance(14 * 86400)

    days = [job["createdAt"][:10] for job in (await remote.api("jobs")).json()["results"]]
    assert days == ["2026-11-22", "2026-11-24", "2026-12-01"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scheduleInterval": None}, "scheduleInterval is required"),
        ({"serviceGroups": None}, "serviceGroups is required"),
        ({"dateRange": "TODAY"}, "dateRange is not a field of this endpoint"),
        ({"projectStatus": "all"}, "projectStatus is not a field of this endpoint"),
        ({"effectiveTo": "2026-11-01T00:00:00.000Z"}, "effectiveTo must not be before effectiveFrom"),
        ({"serviceGroups": ["cdcrfis"]}, "need startDate and endDate"),
    ],
)
async def test_a_change_that_breaks_a_rule_is_400_and_changes_nothing(
    remote: Remote, changes: dict[str, Any], words: str
) -> None:
    request = await created(remote, **DAILY)
    base = {name: DAILY[name] for name in ("scheduleInterval", "serviceGroups")}

    answer = await remote.send("PATCH", f"requests/{request['id']}", {**base, **changes})

    assert answer.status == 400
    assert words in answer.json()["detail"]
    assert (await remote.api(f"requests/{request['id']}")).json() == request


async def test_the_list_of_projects_can_be_changed_as_json_in_a_string(remote: Remote) -> None:
    request = await created(remote, projectId=PROJECT)
    changes = {"scheduleInterval": "ONE_TIME", "serviceGroups": ["all"], "projectIdList": '["p1", "p2"]'}

    changed = (await remote.send("PATCH", f"requests/{request['id']}", changes)).json()

    assert (request["projectId"], request["projectIdList"]) == (PROJECT, [PROJECT])
    assert (changed["projectId"], changed["projectIdList"]) == (None, ["p1", "p2"])


def test_the_changeable_fields_are_those_of_the_reference() -> None:
    assert len(CHANGEABLE) == len(set(CHANGEABLE)) == 13


async def test_a_deleted_data_request_is_gone_and_its_jobs_stay(remote: Remote) -> None:
    request = await created(remote)
    path = f"requests/{request['id']}"

    deleted = await remote.send("DELETE", path)

    assert (deleted.status, deleted.body) == (204, b"")
    assert {(await remote.send(method, path, DAILY)).status for method in ("GET", "PATCH", "DELETE")} == {404}
    assert (await remote.api(f"{path}/jobs")).status == 404
    assert len((await remote.api("jobs")).ids) == 1


async def test_another_user_can_neither_change_nor_delete_it(remote: Remote) -> None:
    request = remote.world.add_request("r", owner="bob")

    statuses = {(await remote.send(method, f"requests/{request}", DAILY)).status for method in ("PATCH", "DELETE")}

    assert statuses == {404}
    assert request in remote.world.requests


async def test_a_project_administrator_has_to_name_projects_of_their_own(remote: Remote) -> None:
    remote.world.add_request("mine", project_id="p-1")
    remote.world.project_administrators["tester"] = frozenset({"p-1", "p-2"})

    async def statuses(*queries: str) -> list[int]:
        return [(await remote.api(query)).status for query in queries]

    async def post(**fields: object) -> int:
        return (await remote.send("POST", "requests", {**ONCE, **fields})).status

    assert await statuses("jobs", "requests", "jobs?projectId=p-3", "requests?filter[projectId]=p-3") == [403] * 4
    assert await statuses("jobs?projectId=p-1", "requests?filter[projectId]=p-2") == [200, 200]
    assert [await post(), await post(projectIdList=["p-1", "p-3"]), await post(projectId="p-3")] == [403] * 3
    assert [await post(projectIdList=["p-1", "p-2"]), await post(projectId="p-1")] == [201, 201]


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lose-after-commit", "garble-after-commit", "fail-after-commit"])
async def test_the_answer_can_be_lost_after_the_data_request_was_created(remote: Remote, kind: Any) -> None:
    remote.sandbox.faults.add(Fault(server="api", kind=kind, match=r"/requests$", status=502))

    if kind == "lose-after-commit":
        with pytest.raises(aiohttp.ClientConnectionError):
            await remote.send("POST", "requests", ONCE)
    else:
        answer = await remote.send("POST", "requests", ONCE)
        assert answer.status == (201 if kind == "garble-after-commit" else 502)
        with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
            answer.json()

    assert len((await remote.api("requests")).ids) == 1


async def test_a_fault_before_the_work_creates_nothing(remote: Remote) -> None:
    remote.sandbox.faults.add(Fault(server="api", kind="status", status=503))

    assert (await remote.send("POST", "requests", ONCE)).status == 503
    assert remote.world.requests == {}


def test_months_and_years_keep_their_day_where_they_have_one(remote: Remote) -> None:
    first = remote.clock.now().replace(month=1, day=31)

    months = [due_at(first, "MONTH", 1, number) for number in range(4)]
    years = [due_at(first, "YEAR", 2, number) for number in range(2)]

    assert [f"{day:%m-%d}" for day in months if day is not None] == ["01-31", "02-28", "03-31", "04-30"]
    assert [day.year for day in years if day is not None] == [2026, 2028]
    assert due_at(first, "ONE_TIME", 1, 1) is None
