"""The endpoints: the calls, the typed results, and lists that stay complete while they change."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aioresponses import CallbackResult, aioresponses
from yarl import URL

from dcsync.api.client import DataConnector, ListOptions
from dcsync.api.limiter import Limiter
from dcsync.api.transport import ApiTransport
from dcsync.core.model import AccountId, Job, JobId, RequestId
from dcsync.errors import BadAnswer, BadListing
from dcsync.sandbox import Options, Sandbox, World
from tests.fakes import ACCOUNT_ID, REQUEST_ID, FakeClock, FakeTokens, MemoryWindow

ACCOUNT = AccountId(ACCOUNT_ID)
BASE = "https://api.example.com"


def job_entry(number: int, **changes: object) -> dict[str, object]:
    return {"id": f"job-{number:03}", "requestId": REQUEST_ID, "status": "complete", **changes}


@dataclass(slots=True)
class ListServer:
    """A list of jobs, newest first, that may change between two calls. Its pagination can be falsified."""

    numbers: list[int]
    top: int | None = None
    says_limit: bool = True
    says_total: Callable[[int, int], int | None] = lambda whole, page: whole
    honours_offset: bool = True
    #: Runs just before a call. The first call is number 1.
    before: dict[int, Callable[[list[int]], object]] = field(default_factory=dict)
    queries: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def answer(self, url: URL, **_: Any) -> CallbackResult:
        self.queries.append(dict(url.query))
        self.paths.append(url.path)
        change = self.before.get(len(self.queries))
        if change is not None:
            change(self.numbers)
        asked, offset = int(url.query["limit"]), int(url.query["offset"])
        limit = min(asked, self.top or asked)
        start = offset if self.honours_offset else 0
        results = [job_entry(number) for number in self.numbers[start : start + limit]]
        pagination = {
            "offset": offset,
            "limit": limit if self.says_limit else None,
            "totalResults": self.says_total(len(self.numbers), len(results)),
        }
        return CallbackResult(payload={"pagination": pagination, "results": results})


@asynccontextmanager
async def connected(base_url: str = BASE) -> AsyncIterator[DataConnector]:
    clock = FakeClock()
    limiter = Limiter(requests_per_minute=10_000, clock=clock, window=MemoryWindow())
    async with aiohttp.ClientSession() as session:
        yield DataConnector(
            ApiTransport(
                session, base_url=base_url, tokens=FakeTokens(), limiter=limiter, clock=clock, draw=lambda: 0.0
            )
        )


@asynccontextmanager
async def against_sandbox(world: World) -> AsyncIterator[tuple[DataConnector, Sandbox]]:
    async with (
        Sandbox(world, options=Options(require_auth=False, quota_per_minute=None)) as sandbox,
        connected(sandbox.base_url) as client,
    ):
        yield client, sandbox


async def jobs_of(server: ListServer, options: ListOptions | None = None) -> list[int]:
    """Return the numbers of the jobs that the client finds."""
    with aioresponses() as api:
        api.get(re.compile(rf"{BASE}/.*"), callback=server.answer, repeat=True)
        async with connected() as client:
            return [number_of(job) for job in await client.jobs(ACCOUNT, options)]


def body_of(payload: object) -> CallbackResult:
    return CallbackResult(body=json.dumps(payload))


def number_of(job: Job) -> int:
    return int(job.id.removeprefix("job-"))


def down_from(top: int, count: int) -> list[int]:
    return list(range(top, top - count, -1))


# --- paging -----------------------------------------------------------------------------------------------------------


async def test_the_newest_jobs_come_first_in_pages_that_overlap_by_one() -> None:
    server = ListServer(down_from(250, 250))

    found = await jobs_of(server)

    assert found == down_from(250, 250)
    assert server.queries == [{"sort": "desc", "limit": "100", "offset": offset} for offset in ("0", "99", "198")]
    assert set(server.paths) == {f"/data-connector/v1/accounts/{ACCOUNT_ID}/jobs"}


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 199, 200])
async def test_a_list_of_any_length_is_read_completely_without_duplicates(count: int) -> None:
    assert await jobs_of(ListServer(down_from(count, count))) == down_from(count, count)


async def test_smaller_pages_than_requested_are_read_completely() -> None:
    server = ListServer(down_from(50, 50), top=7)

    assert await jobs_of(server) == down_from(50, 50)
    assert [query["offset"] for query in server.queries] == [str(offset) for offset in range(0, 50, 6)]


@pytest.mark.parametrize("says_limit", [True, False])
@pytest.mark.parametrize(
    "says_total",
    [lambda whole, page: whole, lambda whole, page: page, lambda whole, page: None],
    ids=["the whole", "the page", "nothing"],
)
async def test_a_clamped_limit_and_an_ambiguous_total_lose_nothing(
    says_limit: bool, says_total: Callable[[int, int], int | None]
) -> None:
    server = ListServer(down_from(30, 30), top=8, says_limit=says_limit, says_total=says_total)

    assert await jobs_of(server) == down_from(30, 30)


async def test_a_job_that_appears_while_paging_hides_none_and_causes_no_duplicate() -> None:
    server = ListServer(down_from(20, 20), top=6, before={2: lambda n: n.insert(0, 21), 4: lambda n: n.insert(0, 22)})

    found = await jobs_of(server)

    # The next poll finds the jobs that appeared after the first page.
    assert found == down_from(20, 20)


@pytest.mark.parametrize("gone", [20, 16, 15])
async def test_after_a_job_disappears_while_paging_the_list_is_read_again_and_none_is_missed(gone: int) -> None:
    server = ListServer(down_from(20, 20), top=6, before={2: lambda n: n.remove(gone)})

    found = await jobs_of(server)

    assert sorted(found, reverse=True) == down_from(20, 20)
    assert len(found) == len(set(found))
    assert [query["offset"] for query in server.queries[:3]] == ["0", "5", "0"]


@pytest.mark.parametrize("call", [3, 4, 5, 6])
async def test_a_job_that_disappears_from_a_later_page_does_not_end_the_list(call: int) -> None:
    """After a restart the first pages contain only known jobs, but later pages were not read yet."""
    server = ListServer(down_from(40, 40), top=6, before={call: lambda n: n.remove(n[5 * (call - 1) - 2])})

    found = await jobs_of(server)

    assert sorted(found, reverse=True) == down_from(40, 40)
    assert len(found) == len(set(found))


async def test_a_page_full_of_new_jobs_does_not_end_the_list() -> None:
    """New jobs move all known jobs to the next page, which then contains nothing new."""
    server = ListServer(down_from(40, 40), top=6, before={3: lambda n: n.__setitem__(slice(0, 0), down_from(45, 5))})

    found = await jobs_of(server)

    assert set(down_from(40, 40)) <= set(found)
    assert len(found) == len(set(found))


@pytest.mark.parametrize(("count", "top", "gone"), [(4, 3, 2), (20, 6, 15)])
async def test_a_list_that_shrinks_by_more_than_a_page_is_read_again(count: int, top: int, gone: int) -> None:
    def shrink(numbers: list[int]) -> None:
        del numbers[:gone]

    server = ListServer(down_from(count, count), top=top, before={2: shrink})

    found = await jobs_of(server)

    assert set(down_from(count - gone, count - gone)) <= set(found)
    assert len(found) == len(set(found))


async def test_a_list_that_keeps_changing_is_accepted_after_three_restarts() -> None:
    server = ListServer(down_from(40, 40), top=6, before={call: lambda n: n.pop(0) for call in range(2, 40)})

    found = await jobs_of(server)

    assert [query["offset"] for query in server.queries].count("0") == 4
    assert len(found) == len(set(found)) > 15
    assert len(server.queries) < 20


async def test_an_api_that_ignores_the_offset_does_not_cause_an_endless_list() -> None:
    server = ListServer(down_from(50, 50), top=10, honours_offset=False)

    assert await jobs_of(server) == down_from(50, 10)
    assert len(server.queries) <= 3


async def test_a_job_that_is_twice_on_one_page_is_returned_once() -> None:
    assert await jobs_of(ListServer([5, 4, 4, 3, 5])) == [5, 4, 3]


async def test_a_malformed_entry_is_skipped() -> None:
    results = [job_entry(3), {"id": "../../etc"}, "nonsense", job_entry(1)]
    with aioresponses() as api:
        api.get(re.compile(".*"), payload={"results": results}, repeat=True)
        async with connected() as client:
            found = await client.jobs(ACCOUNT)

    assert [number_of(job) for job in found] == [3, 1]


async def test_a_limit_is_the_total_and_requests_no_more_than_needed() -> None:
    server = ListServer(down_from(500, 500))

    found = await jobs_of(server, ListOptions(limit=5, offset=10))

    assert found == down_from(490, 5)
    assert len(server.queries) == 1
    assert server.queries[0]["offset"] == "10"
    assert int(server.queries[0]["limit"]) <= 6


async def test_a_limit_beyond_a_page_is_met_over_several() -> None:
    server = ListServer(down_from(500, 500), top=50)

    assert await jobs_of(server, ListOptions(limit=120)) == down_from(500, 120)
    assert len(server.queries) == 3


async def test_the_lists_own_options_go_into_every_query() -> None:
    server = ListServer(down_from(12, 12), top=10)
    options = ListOptions(
        sort="asc",
        sort_fields=("createdAt", "status"),
        filters={"status": "complete", "a b": "x&y"},
        project_id="p/1",
    )

    await jobs_of(server, options)

    assert len(server.queries) == 2
    for query in server.queries:
        assert {key: value for key, value in query.items() if key not in {"limit", "offset"}} == {
            "sort": "asc",
            "sortFields": "createdAt,status",
            "filter[status]": "complete",
            "filter[a b]": "x&y",
            "projectId": "p/1",
        }


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (ListOptions(), {"sort": "desc"}),
        (ListOptions(sort_fields=("-createdAt",)), {"sortFields": "-createdAt"}),
        (ListOptions(sort="asc", sort_fields=("status",)), {"sort": "asc", "sortFields": "status"}),
    ],
)
async def test_fields_to_sort_by_go_without_an_order_unless_it_is_named(
    options: ListOptions, sent: dict[str, str]
) -> None:
    server = ListServer(down_from(3, 3))

    await jobs_of(server, options)

    assert server.queries == [{**sent, "limit": "100", "offset": "0"}]


async def test_pages_are_requested_one_by_one_and_not_ahead() -> None:
    server = ListServer(down_from(30, 30), top=10)
    with aioresponses() as api:
        api.get(re.compile(".*"), callback=server.answer, repeat=True)
        async with connected() as client:
            pages = client.job_pages(ACCOUNT, ListOptions(), request=RequestId("r~1"))

            first = await anext(pages)
            asked = len(server.queries)
            second = await anext(pages)

    assert [number_of(job) for job in first] == down_from(30, 10)
    assert asked == 1
    assert [number_of(job) for job in second] == down_from(20, 9)
    assert server.paths[0] == f"/data-connector/v1/accounts/{ACCOUNT_ID}/requests/r~1/jobs"


@pytest.mark.parametrize("payload", [[], {}, {"results": None}, {"results": {"a": 1}}, "text", 7, None])
async def test_a_malformed_list_is_a_bad_answer(payload: Any) -> None:
    with aioresponses() as api:
        api.get(re.compile(".*"), callback=lambda url, **_: body_of(payload), repeat=True)
        async with connected() as client:
            with pytest.raises(BadAnswer, match="jobs returned an undocumented response"):
                await client.jobs(ACCOUNT)


# --- single things ----------------------------------------------------------------------------------------------------


async def test_hubs_requests_jobs_and_listing_come_typed() -> None:
    world = World()
    request = world.add_request("Everything", service_groups=("all",))
    files = {"README.html": b"<p>", "admin_users.csv": b"id\n1\n", "empty.csv": b""}
    job = world.add_job(request, files=files, with_archive=False)
    account = AccountId(world.account_id)
    async with against_sandbox(world) as (client, _):
        hubs = await client.hubs()
        found_request = await client.request(account, RequestId(request))
        requests = await client.requests(account)
        jobs = await client.jobs(account, request=RequestId(request))
        listing = await client.listing(account, JobId(job))

    assert [(hub.id, hub.name) for hub in hubs] == [(f"b.{world.account_id}", "Sandbox Construction")]
    assert (found_request.description, found_request.service_groups) == ("Everything", ("all",))
    assert requests == [found_request]
    assert [(found.id, found.completion_status) for found in jobs] == [(job, "success")]
    assert {listed.name: listed.size for listed in listing} == {name: len(body) for name, body in files.items()}


@pytest.mark.parametrize("name", ["a/b%2F+'~é &?#.csv", "..", "admin_users.csv", "100%.csv", "a\nb.csv"])
async def test_the_name_is_percent_encoded_when_its_url_is_signed(name: str) -> None:
    world = World()
    job = world.add_job(world.add_request("Everything"), files={name: b"12345"}, with_archive=False)
    async with against_sandbox(world) as (client, sandbox):
        signed = await client.sign(AccountId(world.account_id), JobId(job), name)

    assert (signed.name, signed.size) == (name, 5)
    assert signed.url.startswith(f"{sandbox.storage_url}/dc-extracts/")
    assert signed.url not in repr(signed)
    segment = sandbox.calls[-1].path.rpartition("/data/")[2]
    assert segment == "".join(
        chr(byte) if chr(byte).isascii() and (chr(byte).isalnum() or chr(byte) in "-._~") else f"%{byte:02X}"
        for byte in name.encode()
    )


@pytest.mark.parametrize(
    "payload",
    [
        {"results": []},
        [{"name": "a.csv"}],
        [{"name": "", "size": 1}],
        [{"name": "a.csv", "size": -1}],
        [{"name": "a.csv", "size": 1}, {"name": "a.csv", "size": 2}],
    ],
)
async def test_a_malformed_listing_is_an_error_at_once(payload: Any) -> None:
    with aioresponses() as api:
        api.get(re.compile(".*"), callback=lambda url, **_: body_of(payload))
        async with connected() as client:
            with pytest.raises(BadListing, match="data listing"):
                await client.listing(ACCOUNT, JobId("j"))
