"""The queries of the sandbox's lists agree with a table taken from Autodesk's reference."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.sandbox.conftest import Remote
from tests.sandbox.reference import LISTS, VALUES, value_of

#: Every field that an entry, a filter or an order of some list has.
FIELDS = sorted(
    {name for one in LISTS.values() for name in (*one["filters"], *one["sortFields"])} | {"description", "id"}
)
RANGES = [(name, field) for name, one in LISTS.items() for field, kind in one["filters"].items() if kind == "range"]
OTHERS = [(name, field, kind) for name, one in LISTS.items() for field, kind in one["filters"].items()]


async def ask(remote: Remote, name: str, query: str) -> Any:
    """Ask for one of the lists of the table, with a data request that has one job."""
    if not remote.world.jobs:
        remote.add_jobs(1)
    return await remote.api(f"{name.replace(':requestId', next(iter(remote.world.requests)))}?{query}")


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LISTS)
async def test_a_list_takes_the_documented_filters_and_no_other(remote: Remote, name: str) -> None:
    documented = LISTS[name]["filters"]
    kinds = {field: kind for one in LISTS.values() for field, kind in one["filters"].items()}

    taken = {
        field
        for field in FIELDS
        if (await ask(remote, name, f"filter[{field}]={value_of(kinds.get(field, 'id'))}")).status == 200
    }

    assert taken == set(documented)


@pytest.mark.parametrize("name", LISTS)
async def test_a_list_takes_the_documented_parameters_and_no_other(remote: Remote, name: str) -> None:
    values = {"sort": "desc", "limit": "5", "offset": "0", "sortFields": "createdAt", "projectId": "p"}
    candidates = {**values, "projectid": "p", "filter": "x", "page": "1"}

    taken = {
        field for field, value in candidates.items() if (await ask(remote, name, f"{field}={value}")).status == 200
    }

    assert taken == set(LISTS[name]["parameters"])


@pytest.mark.parametrize("name", ["requests", "jobs"])
async def test_a_list_sorts_by_the_documented_fields_and_ignores_the_others(remote: Remote, name: str) -> None:
    world = remote.world
    for index, schedule in enumerate(("DAY", "WEEK")):
        day = remote.clock.now() + timedelta(days=index)
        request = world.add_request(
            f"{index}", schedule=schedule, project_id=f"p{index}", created_at=day, start_date=day, end_date=day
        )
        world.requests[request].ends_at = day
        world.requests[request].is_active = bool(index)
        world.add_job(request, created_at=day, completed_at=day, status=("complete", "running")[index])
    newest_first = (await remote.api(f"{name}?sort=desc")).ids

    async def has_effect(field: str) -> bool:
        orders = [await remote.api(f"{name}?sort=desc&sortFields={hyphen}{field}") for hyphen in ("", "-")]
        assert {order.status for order in orders} == {200}
        return any(order.ids != newest_first for order in orders)

    sorted_by = {field for field in FIELDS if await has_effect(field)}

    # Both entries have the same values in these fields.
    equal = {"accountId", "createdBy", "createdByEmail", "updatedBy", "reoccuringInterval"}
    assert sorted_by == set(LISTS[name]["sortFields"]) - equal


@pytest.mark.parametrize(("name", "field", "kind"), OTHERS)
async def test_a_filter_takes_only_values_of_its_kind(remote: Remote, name: str, field: str, kind: Any) -> None:
    valid = kind if isinstance(kind, list) else [VALUES[kind]]
    wrong = ["", *([] if kind == "id" else ["nonsense"])]

    assert {(await ask(remote, name, f"filter[{field}]={value}")).status for value in valid} == {200}
    assert {(await ask(remote, name, f"filter[{field}]={value}")).status for value in wrong} == {400}


@pytest.mark.parametrize(("name", "field", "kind"), OTHERS)
async def test_a_filter_has_one_value(remote: Remote, name: str, field: str, kind: Any) -> None:
    value = value_of(kind)

    twice = await ask(remote, name, f"filter[{field}]={value}&filter[{field}]={value}")
    listed = await ask(remote, name, f"filter[{field}]={value},{value}")

    assert (twice.status, listed.status) == (400, 400)
    assert "twice" in twice.json()["detail"]
    assert field in listed.json()["detail"]


async def test_a_filter_is_checked_in_an_empty_list_too(remote: Remote) -> None:
    assert (await remote.api("jobs?filter[createdAt]=2026-11-01")).status == 400
    assert (await remote.api("requests?filter[isActive]=maybe")).status == 400


# --- ranges, projects, order -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "field"), RANGES)
@pytest.mark.parametrize(
    "value", ["2026-11-01", "2026-11-01..2026-11-30", "..2026-11-30", "2026-11-01..", "..", "2026-11-01T00:00:00Z..x"]
)
async def test_a_range_needs_times(remote: Remote, name: str, field: str, value: str) -> None:
    assert (await ask(remote, name, f"filter[{field}]={value}")).status == 400


async def test_a_range_can_be_open_at_either_side_and_includes_its_ends(remote: Remote) -> None:
    jobs = remote.add_jobs(3)
    days = [remote.world.jobs[job].completed_at for job in jobs]
    first, second, third = (f"{day:%Y-%m-%dT%H:%M:%S}.000Z" for day in days if day is not None)

    async def ids(value: str) -> list[str]:
        return (await remote.api(f"jobs?filter[completedAt]={value}")).ids

    assert await ids(f"{second}..") == jobs[1:]
    assert await ids(f"..{second}") == jobs[:2]
    assert await ids(f"{second}..{second}") == [jobs[1]]
    assert await ids(f"{first}..{third}") == jobs
    assert await ids(second) == [jobs[1]]
    assert await ids(f"{third[:-1]}%2B01:00..") == jobs[1:]


async def test_a_range_leaves_out_what_has_no_such_time(remote: Remote) -> None:
    remote.world.add_job(remote.world.add_request("r"), takes_s=60)

    assert (await remote.api("jobs?filter[completedAt]=2020-01-01T00:00:00.000Z..")).ids == []


async def test_a_project_selects_the_entries_that_name_it_and_null_selects_all(remote: Remote) -> None:
    world = remote.world
    whole, narrow = world.add_request("a"), world.add_request("b", project_id="p1")
    jobs = remote.add_jobs(1, whole) + remote.add_jobs(1, narrow)

    assert (await remote.api("requests?filter[projectId]=p1")).ids == [narrow]
    assert set((await remote.api("requests?filter[projectId]=null")).ids) == {whole, narrow}
    assert (await remote.api("jobs?filter[projectId]=p1")).ids == [jobs[1]]
    assert (await remote.api("jobs?projectId=p1")).ids == [jobs[1]]
    assert set((await remote.api("jobs?filter[projectId]=null")).ids) == set(jobs)


async def test_filters_of_several_fields_apply_together(remote: Remote) -> None:
    world = remote.world
    weekly = world.add_request("a", schedule="WEEK")
    world.requests[weekly].is_active = False
    world.add_request("b", schedule="WEEK")
    world.add_request("c")

    assert (await remote.api("requests?filter[scheduleInterval]=WEEK&filter[isActive]=false")).ids == [weekly]
    assert len((await remote.api("requests?filter[reocurringInterval]=1")).ids) == 3
    assert (await remote.api("requests?filter[reocurringInterval]=2")).ids == []


async def test_a_hyphen_sorts_a_field_in_descending_order(remote: Remote) -> None:
    world = remote.world
    ids = {name: world.add_request(name, schedule=name[:3].upper()) for name in ("day a", "wee", "day b")}
    for index, request in enumerate(ids.values()):
        world.requests[request].created_at += timedelta(hours=index)
    query = "requests?sortFields=-scheduleInterval,%20createdAt"

    assert (await remote.api(query)).ids == [ids["wee"], ids["day a"], ids["day b"]]
    assert (await remote.api("requests?sortFields=scheduleInterval,-createdAt")).ids == [
        ids["day b"],
        ids["day a"],
        ids["wee"],
    ]
    assert (await remote.api("requests?sortFields=-createdAt,nonsense,")).ids == [*ids.values()][::-1]
