"""API calls: every response becomes JSON or a `DcsyncError`, and no error contains a secret."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import aiohttp
import pytest
from aioresponses import CallbackResult, aioresponses
from yarl import URL

from dcsync.api.transport import MAX_BODY
from dcsync.auth.source import FixedToken
from dcsync.errors import (
    AccessRefused,
    ApiError,
    ApiUnreachable,
    BadAnswer,
    BadRequest,
    DcsyncError,
    LoginRequired,
    NotFound,
    ServiceAccountRejected,
)
from dcsync.sandbox import Fault, Options, Sandbox, World
from dcsync.sandbox.refusals import KINDS, REQUEST_ID
from tests.fakes import NOON
from tests.rigs.transport import ANY, BASE, Rig, calls


@asynccontextmanager
async def against_sandbox() -> AsyncIterator[tuple[Rig, Sandbox]]:
    """A transport against a real server."""
    options = Options(require_auth=False, quota_per_minute=None)
    async with Sandbox(World(), options=options) as sandbox, aiohttp.ClientSession() as session:
        yield Rig(session, base_url=sandbox.base_url), sandbox


async def test_a_response_is_json_and_the_call_carries_token_and_agent(rig: Rig, api: aioresponses) -> None:
    seen: list[tuple[str, dict[str, str], bool]] = []

    def answer(url: URL, **given: Any) -> CallbackResult:
        seen.append((str(url), given["headers"], given["allow_redirects"]))
        return CallbackResult(body=b"\xef\xbb\xbf" + '{"ä": [1, null]}'.encode())

    api.get(ANY, callback=answer)

    value = await rig.transport.get("/a%2Fb", {"filter[x]": "a&b =ä"})

    ((url, headers, redirects),) = seen
    assert value == {"ä": [1, None]}
    assert url.startswith(f"{BASE}/a%2Fb?")
    assert URL(url).query == {"filter[x]": "a&b =ä"}
    assert headers == {"User-Agent": "dcsync/test", "Authorization": "Bearer token-1", "Accept": "application/json"}
    assert redirects is False
    assert rig.limiter.calls == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<!DOCTYPE html><title>Sign in</title>" + b"x" * 999, "begins with '<!DOCTYPE html><title>Sign in"),
        (b"", "an empty body"),
        (b'{"results": [', "begins with '{\"results\": ['"),
        ('{"a": 1}'.encode("utf-16"), "not valid JSON"),
        (b'{"a": NaN}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"1" * 5000, "not valid JSON"),
    ],
    ids=["html", "empty", "cut", "utf-16", "nan", "deep", "long number"],
)
async def test_a_200_without_json_shows_how_it_begins(rig: Rig, api: aioresponses, body: bytes, words: str) -> None:
    api.get(ANY, body=body, content_type="text/html", repeat=True)

    with pytest.raises(BadAnswer, match=re.escape(words)) as caught:
        await rig.transport.get("/x")

    assert len(str(caught.value)) < 160
    assert "\n" not in str(caught.value)
    assert len(calls(api)) == 5  # what a proxy says now it need not say in a minute


async def test_a_body_of_16_mib_is_the_largest_accepted(rig: Rig, api: aioresponses) -> None:
    largest = b'"' + b"x" * (MAX_BODY - 2) + b'"'
    api.get(ANY, body=largest)
    api.get(ANY, body=largest + b" ", repeat=True)

    value = await rig.transport.get("/x")

    assert isinstance(value, str)
    assert len(value) == (16 << 20) - 2
    with pytest.raises(BadAnswer, match="more than 16 MiB"):
        await rig.transport.get("/x")


async def test_a_body_without_end_is_cut_at_16_mib() -> None:
    async with against_sandbox() as (rig, sandbox):
        sandbox.faults.add(Fault(server="api", kind="endless"))

        # The first attempt meets the flood, the second the answer, because the connection was closed and not drained.
        with pytest.raises(BadAnswer, match="more than 16 MiB of JSON"):
            await rig.transport.get("/project/v1/hubs", attempts=1)
        value = await rig.transport.get("/project/v1/hubs")

        assert isinstance(value, dict)
        assert value["jsonapi"] == {"version": "1.0"}


async def test_a_redirect_is_not_followed() -> None:
    async with against_sandbox() as (rig, sandbox):
        location = f"{sandbox.base_url}/project/v1/hubs?elsewhere"
        sandbox.faults.add(
            Fault(server="api", kind="status", status=302, headers={"Location": location}, match="/x$", times=None)
        )

        with pytest.raises(BadAnswer, match="returned 302"):
            await rig.transport.get("/x")

        assert sandbox.count(path_contains="hubs") == 0


async def test_a_closed_connection_is_retried() -> None:
    async with against_sandbox() as (rig, sandbox):
        sandbox.faults.add(Fault(server="api", kind="reset", times=2))

        assert await rig.transport.get("/project/v1/hubs")
        assert [call.status for call in sandbox.calls][2:] == [200]


async def test_a_failed_connection_names_host_and_port(unused_tcp_port: int) -> None:
    async with aiohttp.ClientSession() as session:
        rig = Rig(session, base_url=f"http://127.0.0.1:{unused_tcp_port}/")

        with pytest.raises(
            ApiUnreachable, match=f"GET /x failed: no connection to 127.0.0.1:{unused_tcp_port}"
        ) as caught:
            await rig.transport.get("/x")

    assert caught.value.transient
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError(), "timed out"),
        (aiohttp.ServerDisconnectedError(), "closed before the response was complete"),
        (aiohttp.ClientPayloadError(f"{BASE}/x?sig=hidden"), "the response broke off"),
        (aiohttp.InvalidURL(f"{BASE}/x?sig=hidden"), "InvalidURL"),
        (ValueError(f"{BASE}/x?sig=hidden"), "ValueError"),
    ],
)
async def test_a_failed_exchange_is_reported_without_the_url(
    rig: Rig, api: aioresponses, error: Exception, words: str
) -> None:
    api.get(ANY, exception=error, repeat=True)

    with pytest.raises(ApiUnreachable, match=words) as caught:
        await rig.transport.get("/x", {"q": "hidden"})

    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 404, 418, 429, 500])
async def test_no_error_shows_the_query_or_the_token(rig: Rig, api: aioresponses, status: int) -> None:
    api.get(ANY, status=status, headers={"Retry-After": "1"}, repeat=True)

    with pytest.raises(DcsyncError) as caught:
        await rig.transport.get("/x", {"filter[project]": "hidden"})

    shown = f"{caught.value} {caught.value!r} {caught.value.args} {caught.value.advice}"
    assert "hidden" not in shown
    assert "token-" not in shown


async def test_a_wrong_clock_is_detected_from_the_date_of_responses(rig: Rig, api: aioresponses) -> None:
    api.get(ANY, headers={"Date": format_datetime(NOON - timedelta(minutes=10), usegmt=True)}, payload=1)
    api.get(ANY, headers={"Date": "yesterday"}, payload=2)

    assert rig.transport.skew_s is None
    assert [await rig.transport.get("/x"), rig.transport.skew_s] == [1, 600.0]
    assert [await rig.transport.get("/x"), rig.transport.skew_s] == [2, 600.0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("status", "raised"), [(403, AccessRefused), (404, NotFound), (400, BadRequest), (418, BadAnswer)]
)
async def test_every_refusal_shows_why_and_the_request_id(kind: Any, status: int, raised: type[ApiError]) -> None:
    async with against_sandbox() as (rig, sandbox):
        sandbox.faults.add(Fault(server="api", kind=kind, status=status, body=b"you lack the role", times=None))

        with pytest.raises(raised) as caught:
            await rig.transport.get("/project/v1/hubs")

    assert f"GET /project/v1/hubs returned {status}: " in str(caught.value)
    assert "you lack the role" in str(caught.value)
    assert f"(request ID {REQUEST_ID})" in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_refused_token_shows_why(kind: Any) -> None:
    async with against_sandbox() as (rig, sandbox):
        sandbox.faults.add(Fault(server="api", kind=kind, status=401, body=b"the access has expired", times=None))

        with pytest.raises(LoginRequired, match="expired") as caught:
            await rig.transport.get("/project/v1/hubs")

    assert f"request ID {REQUEST_ID}" in str(caught.value)


async def test_the_server_cannot_repeat_the_token(rig: Rig, api: aioresponses) -> None:
    def answer(_: URL, **given: Any) -> CallbackResult:
        token = given["headers"]["Authorization"].removeprefix("Bearer ")
        return CallbackResult(status=403, payload={"detail": f"the user of {token} is unknown"})

    rig.tokens = FixedToken("opaque-and-secret")
    rig.transport = rig.another()
    api.get(ANY, callback=answer)

    with pytest.raises(AccessRefused, match="the user of … is unknown"):
        await rig.transport.get("/x")


async def test_a_configured_token_that_is_rejected_shows_why(rig: Rig, api: aioresponses) -> None:
    rig.tokens = FixedToken("opaque-and-secret")
    rig.transport = rig.another()
    api.get(ANY, status=401, payload={"developerMessage": "expired at noon"}, headers={"x-request-id": "5f0d"})

    with pytest.raises(LoginRequired, match=r"expired at noon \(request ID 5f0d\)") as caught:
        await rig.transport.get("/x")

    assert "60 minutes" in caught.value.advice


async def test_the_source_of_the_tokens_says_what_a_rejected_new_token_means(rig: Rig, api: aioresponses) -> None:
    rig.tokens.refused = lambda message: ServiceAccountRejected(f"the account: {message}")  # type: ignore[method-assign]
    api.get(ANY, status=401, payload={"detail": "no product"}, repeat=True)

    with pytest.raises(ServiceAccountRejected, match=r"the account: .*no product"):
        await rig.transport.get("/x")


async def test_an_answer_that_is_no_json_has_its_request_id(rig: Rig, api: aioresponses) -> None:
    api.get(ANY, body=b"<html>", headers={"x-request-id": "5f0d"}, repeat=True)

    with pytest.raises(BadAnswer, match=r"begins with '<html>' \(request ID 5f0d\)"):
        await rig.transport.get("/x")
