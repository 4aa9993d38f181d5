"""The sandbox's API behaves as docs/project/api.md says, including its oddities."""

from __future__ import annotations

import json
from html import unescape
from typing import Any

import aiohttp
import pytest

from dcsync.sandbox import Fault, Faults
from dcsync.sandbox.refusals import KINDS, REQUEST_ID
from tests.sandbox.conftest import EVERY_SCOPE, Remote, serving

OTHER_ACCOUNT = "00000000-0000-4000-8000-000000000000"


# --- lists ------------------------------------------------------------------------------------------------------------


async def test_page_one_holds_the_twenty_oldest_jobs(remote: Remote) -> None:
    jobs = remote.add_jobs(25)

    page = await remote.api("jobs")

    assert page.ids == jobs[:20]
    assert page.json()["pagination"] == {"limit": 20, "offset": 0, "totalResults": 25}


async def test_sort_desc_puts_the_newest_first(remote: Remote) -> None:
    jobs = remote.add_jobs(3)

    assert (await remote.api("jobs?sort=desc")).ids == jobs[::-1]
    assert (await remote.api("jobs?sort=asc")).ids == jobs


async def test_pages_together_hold_every_job_once_and_the_one_after_is_empty(remote: Remote) -> None:
    jobs = remote.add_jobs(7)

    pages = [(await remote.api(f"jobs?limit=3&offset={offset}")).ids for offset in (0, 3, 6, 9)]

    assert pages == [jobs[:3], jobs[3:6], jobs[6:], []]


async def test_a_limit_beyond_the_greatest_is_cut() -> None:
    async with serving(max_limit=5) as remote:
        jobs = remote.add_jobs(7)

        page = await remote.api("jobs?limit=100")

        assert page.ids == jobs[:5]
        assert page.json()["pagination"]["limit"] == 5


async def test_filters_leave_what_matches(remote: Remote) -> None:
    world = remote.world
    whole, narrow = world.add_request("a"), world.add_request("b", schedule="WEEK", project_id="p1")
    jobs = remote.add_jobs(2, whole) + remote.add_jobs(1, narrow)
    failed = world.add_job(whole, completion="failed")

    assert (await remote.api("jobs?filter[completionStatus]=failed")).ids == [failed]
    assert (await remote.api("requests?filter[scheduleInterval]=WEEK")).ids == [narrow]
    assert set((await remote.api("requests?filter[isActive]=true")).ids) == {whole, narrow}
    assert (await remote.api(f"requests/{narrow}/jobs")).ids == [jobs[2]]


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "offset=-1", "offset=", "sort=down"])
async def test_a_malformed_list_call_is_400(remote: Remote, query: str) -> None:
    answer = await remote.api(f"jobs?{query}")

    assert answer.status == 400
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    "path", ["jobs/x", "jobs/x/data-listing", "jobs/x/data/a.csv", "requests/x", "requests/x/jobs"]
)
async def test_a_missing_entry_is_404(remote: Remote, path: str) -> None:
    assert (await remote.api(path)).status == 404


async def test_the_hub_has_the_account_s_id_with_a_prefix(remote: Remote) -> None:
    (hub,) = (await remote.api("/project/v1/hubs")).json()["data"]

    assert hub["id"] == f"b.{remote.world.account_id}"


# --- who may ----------------------------------------------------------------------------------------------------------


async def test_an_invalid_token_is_401(remote: Remote) -> None:
    short = remote.sandbox.tokens.issue_access_token("tester", 60)
    refused = [await remote.api("jobs", token=""), await remote.api("jobs", token="x")]
    refused += [await remote.get(f"{remote.sandbox.base_url}{remote.dc}/jobs")]
    refused += [await remote.get(f"{remote.sandbox.base_url}{remote.dc}/jobs", Authorization=f"Basic {remote.token}")]

    assert {answer.status for answer in refused} == {401}
    assert (await remote.api("jobs", token=short)).status == 200
    remote.clock.advance(60)
    assert (await remote.api("jobs", token=short)).status == 401
    assert (await remote.api("jobs")).status == 200


@pytest.mark.parametrize("account", [OTHER_ACCOUNT, "b.{own}"])
async def test_another_account_is_403_and_so_is_a_hub_id(remote: Remote, account: str) -> None:
    account = account.format(own=remote.world.account_id)

    assert (await remote.api(f"/data-connector/v1/accounts/{account}/jobs")).status == 403


@pytest.mark.parametrize(("scopes", "status"), [({"data:read"}, 403), ({"data:read", "data:write"}, 200)])
async def test_one_job_is_read_with_the_scope_data_write(remote: Remote, scopes: set[str], status: int) -> None:
    (job,) = remote.add_jobs(1)
    token = remote.sandbox.tokens.issue_access_token("ana", scopes=frozenset(scopes))

    answer = await remote.api(f"jobs/{job}", token=token)

    assert answer.status == status
    assert (answer.json().get("errorCode") == "AUTH-010") is (status == 403)
    assert (await remote.api(f"jobs/{job}/data-listing", token=token)).status == 200


async def test_a_token_of_the_application_alone_is_refused(remote: Remote) -> None:
    token = remote.sandbox.tokens.issue_access_token(None)

    assert (await remote.api("jobs", token=token)).status == 403


async def test_a_user_sees_only_what_they_created(remote: Remote) -> None:
    world = remote.world
    own, other = world.add_request("own", owner="ana"), world.add_request("other", owner="bob")
    own_job, other_job = (*remote.add_jobs(1, own), *remote.add_jobs(1, other))
    token = remote.sandbox.tokens.issue_access_token("ana", scopes=EVERY_SCOPE)
    paths = ["requests/{}", "requests/{}/jobs"], ["jobs/{}", "jobs/{}/data-listing", "jobs/{}/data/a.csv"]

    assert (await remote.api("requests", token=token)).ids == [own]
    assert (await remote.api("jobs", token=token)).ids == [own_job]
    for request, job, status in ((own, own_job, 200), (other, other_job, 404)):
        asked = [path.format(request) for path in paths[0]] + [path.format(job) for path in paths[1]]
        assert {(await remote.api(path, token=token)).status for path in asked} == {status}
    assert (await remote.api("requests")).ids == []


async def test_a_service_account_sees_the_accounts_to_which_it_was_invited(remote: Remote) -> None:
    world = remote.world
    world.add_request("of a person")
    own = world.add_request("own", owner="robot")
    world.service_accounts["robot"] = set()
    token = remote.sandbox.tokens.issue_access_token("robot")

    before = await remote.api("requests", token=token)
    hubs_before = (await remote.api("/project/v1/hubs", token=token)).json()["data"]
    world.service_accounts["robot"].add(world.account_id)

    assert (before.status, hubs_before) == (403, [])
    assert (await remote.api("requests", token=token)).ids == [own]
    assert len((await remote.api("/project/v1/hubs", token=token)).json()["data"]) == 1


async def test_hubs_of_other_kinds_are_listed_and_have_no_data_connector(remote: Remote) -> None:
    remote.world.other_hubs["a.cGVyc29uYWw6cGUyNjQz"] = "Ana's hub"

    hubs = (await remote.api("/project/v1/hubs")).json()["data"]

    assert [hub["id"][:2] for hub in hubs] == ["b.", "a."]
    assert hubs[1]["attributes"]["extension"]["type"] == "hubs:autodesk.a360:PersonalHub"
    assert (await remote.api("/data-connector/v1/accounts/a.cGVyc29uYWw6cGUyNjQz/jobs")).status == 403


async def test_a_hub_that_is_missing_is_a_json_api_error(remote: Remote) -> None:
    found = await remote.api(f"/project/v1/hubs/{remote.world.hub_id}")
    missing = await remote.api("/project/v1/hubs/b.x")

    assert found.json()["data"]["id"] == remote.world.hub_id
    assert missing.status == 404
    assert missing.json()["errors"][0]["detail"] == "The hub b.x was not found"


# --- quota ------------------------------------------------------------------------------------------------------------


async def test_a_call_beyond_the_rate_limit_is_429_with_a_wait() -> None:
    async with serving(quota_per_minute=3) as remote:
        refused = await remote.api("jobs", token="x")
        hubs = [(await remote.api("/project/v1/hubs")).status for _ in range(5)]
        statuses = [(await remote.api(path)).status for path in ("jobs", "requests", "jobs/x")]
        answer = await remote.api("jobs")

        assert refused.status == 401
        assert set(hubs) == {200}
        assert statuses == [200, 200, 404]
        assert answer.status == 429
        assert answer.json() == {"developerMessage": "Quota limit exceeded."}
        assert 1 <= int(answer.headers["Retry-After"]) <= 61


async def test_the_rate_limit_can_be_turned_off(remote: Remote) -> None:
    statuses = {(await remote.api("jobs")).status for _ in range(70)}

    assert statuses == {200}


# --- values as they really come ---------------------------------------------------------------------------------------


async def test_sizes_come_as_numbers_and_as_strings(remote: Remote) -> None:
    files = {f"t_{index}.csv": b"x" * (index + 1) for index in range(4)}
    job = remote.world.add_job(remote.world.add_request("r"), files=files, with_archive=False)

    rows = (await remote.api(f"jobs/{job}/data-listing")).json()

    assert {type(row["size"]) for row in rows} == {int, str}
    assert {row["name"]: int(row["size"]) for row in rows} == {name: len(body) for name, body in files.items()}


async def test_a_list_of_projects_is_json_in_a_string_and_progress_may_be_empty(remote: Remote) -> None:
    request = remote.world.add_request("r", project_id="p1")
    running = remote.world.add_job(request, takes_s=60)
    await remote.api("jobs")

    job = (await remote.api(f"jobs/{running}")).json()

    assert job["projectIdList"] == json.dumps(["p1"])
    assert job["progress"] == ""
    assert job["projectId"] == "p1"
    assert job["completionStatus"] is None
    assert job["completedAt"] is None
    assert (await remote.api(f"requests/{request}")).json()["reoccuringInterval"] == 1


async def test_a_response_is_dated_by_the_world_s_clock(remote: Remote) -> None:
    answer = await remote.api("jobs")

    assert answer.headers["Date"] == "Sun, 22 Nov 2026 12:00:00 GMT"


# --- the life of a job ------------------------------------------------------------------------------------------------


async def test_a_job_is_queued_then_running_then_complete(remote: Remote) -> None:
    job = remote.world.add_job(remote.world.add_request("r"), takes_s=100, files={"a.csv": b"id\n"})
    seen, row = [], {}

    for seconds in (0, 49, 2, 48, 1):
        remote.clock.advance(seconds)
        row = (await remote.api(f"jobs/{job}")).json()
        seen.append((row["status"], row["completionStatus"], (await remote.api(f"jobs/{job}/data-listing")).status))

    waiting = [("queued", None, 404), ("queued", None, 404), ("running", None, 404), ("running", None, 404)]
    assert seen == [*waiting, ("complete", "success", 200)]
    assert row["completedAt"] == "2026-11-22T12:01:40.000Z"


@pytest.mark.parametrize("completion", ["failed", "cancelled"])
async def test_a_job_without_an_extract_has_no_listing_and_no_files(remote: Remote, completion: str) -> None:
    job = remote.world.add_job(remote.world.add_request("r"), completion=completion, files={"a.csv": b"id\n"})

    assert (await remote.api(f"jobs/{job}")).json()["completionStatus"] == completion
    assert (await remote.api(f"jobs/{job}/data-listing")).status == 404
    assert (await remote.api(f"jobs/{job}/data/a.csv")).status == 404


async def test_an_extract_is_gone_after_thirty_days(remote: Remote) -> None:
    (job,) = remote.add_jobs(1)
    remote.clock.advance(30 * 86400 - 3600 - 1)
    before = [(await remote.api(f"jobs/{job}/{what}")).status for what in ("data-listing", "data/a.csv")]
    remote.clock.advance(1)
    after = [(await remote.api(f"jobs/{job}/{what}")).status for what in ("data-listing", "data/a.csv")]

    assert (before, after) == ([200, 200], [404, 404])
    assert (await remote.api("jobs")).ids == [job]


async def test_a_signed_url_comes_with_name_and_size(remote: Remote) -> None:
    (job,) = remote.add_jobs(1)

    answer = (await remote.api(f"jobs/{job}/data/a.csv")).json()

    assert (answer["name"], answer["size"]) == ("a.csv", 3)
    assert answer["signedUrl"].startswith(f"{remote.sandbox.storage_url}/dc-extracts/")
    assert (await remote.api(f"jobs/{job}/data/b.csv")).status == 404


# --- faults and the record --------------------------------------------------------------------------------------------


async def test_a_scripted_status_is_returned_and_not_counted() -> None:
    async with serving(quota_per_minute=1) as remote:
        fault = Fault(server="api", kind="status", status=503, body=b"<h1>busy</h1>", headers={"Retry-After": "7"})
        remote.sandbox.faults.add(fault)

        broken, right = await remote.api("jobs"), await remote.api("jobs")

        assert (broken.status, broken.body, broken.headers["Retry-After"]) == (503, b"<h1>busy</h1>", "7")
        assert right.status == 200


async def test_any_body_can_be_sent_as_json(remote: Remote) -> None:
    remote.sandbox.faults.add(Fault(server="api", kind="json", body=b'{"results": [NaN'))

    answer = await remote.api("jobs")

    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.body == b'{"results": [NaN'


@pytest.mark.parametrize("kind", ["reset", "hang"])
async def test_a_response_can_be_missing(remote: Remote, kind: str) -> None:
    remote.sandbox.faults.add(Fault(server="api", kind="reset" if kind == "reset" else "hang", times=None))

    with pytest.raises(aiohttp.ClientConnectionError):
        await remote.api("jobs")


async def test_an_endless_response_continues_until_the_client_closes(remote: Remote) -> None:
    remote.sandbox.faults.add(Fault(server="api", kind="endless"))
    headers = {"Authorization": f"Bearer {remote.token}"}

    async with remote.session.get(f"{remote.sandbox.base_url}{remote.dc}/jobs", headers=headers) as response:
        first = await response.content.readexactly(1 << 20)
        response.close()

    assert first.startswith(b'[{"name": "x"},[{"name"')


def test_a_fault_affects_its_calls_n_times() -> None:
    faults = Faults()
    once = faults.add(Fault(server="api", kind="reset", match=r"/jobs$", skip=1, times=2))
    ever = faults.add(Fault(server="api", kind="status", match="requests", times=None))
    paths = ["/jobs", "/jobs", "/jobs/x", "/requests", "/jobs", "/jobs", "/requests"]

    taken = [faults.take("api", path) for path in paths]

    assert taken == [None, once, None, ever, once, None, ever]
    assert faults.take("storage", "/requests") is None
    faults.clear()
    assert faults.take("api", "/requests") is None


async def test_every_call_is_recorded_and_none_shows_its_secrets(remote: Remote) -> None:
    (job,) = remote.add_jobs(1)
    await remote.get(await remote.sign(job, "a.csv"))
    await remote.api("jobs?limit=1")

    servers = [(call.server, call.status, call.body_bytes_sent) for call in remote.sandbox.calls]
    assert servers == [("api", 200, 0), ("storage", 200, 3), ("api", 200, 0)]
    assert remote.sandbox.calls[2].query == {"limit": "1"}
    assert (remote.sandbox.count("api"), remote.sandbox.count(path_contains="a.csv", status=200)) == (2, 2)
    assert "Signature" in remote.sandbox.calls[1].query
    assert [call for call in remote.sandbox.calls if "Signature" in repr(call) or remote.token in repr(call)] == []


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_a_refusal_has_the_words_in_its_shape_and_a_request_id(remote: Remote, kind: Any) -> None:
    remote.sandbox.faults.add(Fault(server="api", kind=kind, status=403, body=b"no <role>"))

    answer = await remote.api("jobs")

    assert answer.status == 403
    assert answer.headers["x-request-id"] == REQUEST_ID
    assert "no <role>" in unescape(answer.body.decode()) + answer.headers.get("x-ads-troubleshooting", "")


async def test_hubs_can_carry_a_warning(remote: Remote) -> None:
    remote.sandbox.faults.add(Fault(server="api", kind="warn", match="hubs", body=b"EMEA is down"))

    hubs = (await remote.api("/project/v1/hubs")).json()

    assert hubs["data"]
    assert hubs["meta"]["warnings"][0]["Detail"] == "EMEA is down"
