"""API calls that are refused or not answered: when they are repeated, and when not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from email.utils import format_datetime

import pytest
import stamina.instrumentation
from aioresponses import aioresponses

from dcsync.api.transport import ATTEMPTS, PROBE_S, CallWatch
from dcsync.core.waits import WaitReason
from dcsync.errors import (
    AccessRefused,
    ApiError,
    ApiFault,
    BadRequest,
    ExitStatus,
    LoginRequired,
    NotFound,
    RateLimited,
)
from dcsync.log import redact
from tests.fakes import NOON, FakeTokens
from tests.rigs.transport import ANY, BASE, Rig, calls

QUOTA_BODY = '{"developerMessage": "Quota limit exceeded."}'


async def test_one_401_is_answered_with_a_fresh_token(rig: Rig, api: aioresponses) -> None:
    api.get(ANY, status=401, body='{"developerMessage": "The access token is invalid"}')
    api.get(ANY, payload={"fine": True})

    value = await rig.transport.get("/x")

    assert value == {"fine": True}
    assert isinstance(rig.tokens, FakeTokens)
    assert rig.tokens.rejected == ["token-1"]
    assert [call.kwargs["headers"]["Authorization"] for call in calls(api)] == ["Bearer token-1", "Bearer token-2"]
    assert rig.limiter.calls == 2


async def test_a_second_401_requires_a_sign_in_and_does_not_loop(rig: Rig, api: aioresponses) -> None:
    body, headers = '{"developerMessage": "The access token is invalid"}', {"x-request-id": "5f0d"}
    api.get(ANY, status=401, body=body, headers=headers, repeat=True)

    with pytest.raises(LoginRequired) as caught:
        await rig.transport.get("/x")

    said = "It said: The access token is invalid (request ID 5f0d)"
    assert caught.value.message == f"the API rejected the access token. {said}"
    assert redact(caught.value.message) == caught.value.message
    assert caught.value.exit_status == ExitStatus.LOGIN_REQUIRED
    assert len(calls(api)) == 2


@pytest.mark.parametrize(
    ("status", "raised"),
    [(400, BadRequest), (403, AccessRefused), (404, NotFound), (405, BadRequest), (410, BadRequest), (422, BadRequest)],
)
async def test_a_definite_refusal_is_not_retried(
    rig: Rig, api: aioresponses, status: int, raised: type[ApiError]
) -> None:
    api.get(ANY, status=status, payload={"title": "No", "detail": "not you", "status": status}, repeat=True)

    with pytest.raises(ApiError) as caught:
        await rig.transport.get("/x")

    assert type(caught.value) is raised
    assert caught.value.status == status
    assert str(caught.value) == f"GET /x returned {status}: No: not you"
    assert len(calls(api)) == 1


@pytest.mark.parametrize(
    ("body", "content_type", "words"),
    [
        ('{"developerMessage": "Bad id", "errorCode": "DC-4", "moreInfo": ""}', "application/json", "Bad id: DC-4"),
        ('{"title": "Bad", "detail": "The\\nid", "status": 400}', "application/json", "Bad: The\\nid"),
        ('{"detail": "The job was not found"}', "application/json", "The job was not found"),
        ("<html>\n<h1>Gate</h1>\x1b[31m\n<p>closed</p></html>", "text/html", "Gate \\x1b[31m closed"),
        ("just\n words", "text/plain", "just words"),
    ],
)
async def test_an_error_body_of_any_shape_becomes_one_line(
    rig: Rig, api: aioresponses, body: str, content_type: str, words: str
) -> None:
    api.get(ANY, status=400, body=body, content_type=content_type)

    with pytest.raises(BadRequest) as caught:
        await rig.transport.get("/x")

    assert str(caught.value) == f"GET /x returned 400: {words}"


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({"Retry-After": "7"}, 7.25),
        ({"Retry-After": format_datetime(NOON + timedelta(seconds=90), usegmt=True)}, 90.25),
        ({"Retry-After": format_datetime(NOON - timedelta(days=1), usegmt=True)}, 1.25),
        ({"Retry-After": "0"}, 1.25),
        ({"Retry-After": "soon"}, 1.25 + 0.25),  # a quarter of 5 s, and of the jitter's second
        ({}, 1.25 + 0.25),
    ],
)
async def test_after_a_429_all_calls_pause_and_the_call_is_retried(
    rig: Rig, api: aioresponses, headers: dict[str, str], pause: float
) -> None:
    rig.drawn = 0.25
    api.get(ANY, status=429, headers=headers, body=QUOTA_BODY)
    api.get(ANY, payload={"fine": True}, repeat=True)

    value = await rig.transport.get("/x")
    slept = list(rig.clock.slept)
    await rig.another().get("/y")

    assert value == {"fine": True}
    assert slept == rig.clock.slept == [pytest.approx(pause)]


async def test_429_without_a_time_backs_off_further_each_time_and_gives_up_after_five(
    rig: Rig, api: aioresponses
) -> None:
    rig.drawn = 1.0
    api.get(ANY, status=429, body=QUOTA_BODY, repeat=True)

    with pytest.raises(RateLimited, match="429: Quota limit exceeded"):
        await rig.transport.get("/x")

    assert rig.clock.slept == [pytest.approx(pause + 1.0) for pause in (5, 10, 20, 40)]
    assert len(calls(api)) == ATTEMPTS == 5


@pytest.fixture
def waits() -> Iterator[list[float]]:
    """The waits that stamina scheduled."""
    scheduled: list[float] = []
    stamina.instrumentation.set_on_retry_hooks([lambda details: scheduled.append(details.wait_for)])
    yield scheduled
    stamina.instrumentation.set_on_retry_hooks(None)


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_5xx_is_retried_with_growing_waits_and_is_an_error_after_five(
    rig: Rig, api: aioresponses, waits: list[float], status: int
) -> None:
    rig.drawn = 1e-6  # of the bound: 1, 2, 4, 8 seconds
    api.get(ANY, status=status, body="<html>Bad gateway</html>", content_type="text/html", repeat=True)

    with pytest.raises(ApiFault, match=f"returned {status}: Bad gateway") as caught:
        await rig.transport.get("/x")

    assert waits == [pytest.approx(seconds * 1e-6) for seconds in (1, 2, 4, 8)]
    assert (len(calls(api)), rig.limiter.calls) == (5, 5)
    assert caught.value.transient


async def test_an_api_that_is_down_is_probed_once_a_minute_until_it_answers(rig: Rig, api: aioresponses) -> None:
    """docs/project/faults.md A4."""
    for _ in range(7):
        api.get(ANY, status=503)
    api.get(ANY, payload={}, repeat=True)
    made = []
    for _ in range(3):
        with pytest.raises(ApiFault):
            await rig.transport.get("/x")
        made.append(len(calls(api)))

    for path in ("/x", "/y", "/x"):
        await rig.transport.get(path)

    assert made == [5, 6, 7]
    assert len(calls(api)) == 10
    assert [seconds for seconds in rig.clock.slept if seconds] == [60.0, 60.0, 60.0]


async def test_a_failing_path_does_not_block_others_while_the_api_answers(rig: Rig, api: aioresponses) -> None:
    api.get(f"{BASE}/broken", status=500, repeat=True)
    api.get(f"{BASE}/sound", payload={}, repeat=True)

    async def fail() -> None:
        with pytest.raises(ApiFault):
            await rig.transport.get("/broken")

    async with asyncio.TaskGroup() as group:
        group.create_task(fail())
        group.create_task(rig.transport.get("/sound"))
    await rig.transport.get("/sound")

    assert [seconds for seconds in rig.clock.slept if seconds] == []


async def test_each_wait_of_a_call_is_told_with_its_reason(rig: Rig, api: aioresponses) -> None:
    told: list[tuple[WaitReason, float]] = []
    watch = CallWatch(on_wait=lambda reason, seconds: told.append((reason, seconds)))
    api.get(ANY, status=503)
    api.get(ANY, status=429, headers={"Retry-After": "7"})
    api.get(ANY, payload={})
    await rig.transport.get("/x", watch=watch)
    api.get(ANY, status=503, repeat=True)
    with pytest.raises(ApiFault):
        await rig.transport.get("/x", attempts=1)
    with pytest.raises(ApiFault):
        await rig.transport.get("/x", watch=watch)

    assert told == [(WaitReason.API, 0), (WaitReason.RATE_LIMIT, 7), (WaitReason.API, PROBE_S)]
    assert watch.calls == 4
