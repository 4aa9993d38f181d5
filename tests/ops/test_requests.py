"""A data request is created exactly once, whatever happens to the answers."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dcsync.core.new_request import JOBS_A_DAY, NewRequest
from dcsync.errors import AccessRefused, ConfigError, RateLimited, Unconfirmed
from dcsync.ops.requests import create, jobs_left
from dcsync.sandbox import Fault
from tests.api.test_changes import EVERY, Side, connected
from tests.fakes import NOON

WANTED = NewRequest(service_groups=("activities",), starts_at=NOON, description="Activities of November")
LATER = replace(WANTED, starts_at=NOON + timedelta(days=1))


async def posts(side: Side) -> int:
    return sum(call.method == "POST" for call in side.sandbox.calls)


async def test_a_data_request_is_created_with_one_call() -> None:
    async with connected() as side:
        made = await create(side.api, side.account, WANTED, clock=side.clock)

        assert (made.was_there, made.request.description) == (False, WANTED.description)
        assert await posts(side) == 1
        assert side.clock.slept == []


@pytest.mark.parametrize("kind", ["lose-after-commit", "garble-after-commit", "fail-after-commit"])
async def test_after_a_lost_answer_the_created_data_request_is_found(kind: Any) -> None:
    async with connected() as side:
        side.sandbox.faults.add(Fault(server="api", kind=kind, match="/requests$", status=504))

        made = await create(side.api, side.account, WANTED, clock=side.clock)

        assert list(side.sandbox.world.requests) == [made.request.id]
        assert not made.was_there
        assert await posts(side) == 1


async def test_a_lost_call_that_created_nothing_is_sent_again_after_looking() -> None:
    async with connected() as side:
        side.sandbox.faults.add(Fault(server="api", kind="status", match="/requests$", status=502))

        made = await create(side.api, side.account, WANTED, clock=side.clock)

        assert list(side.sandbox.world.requests) == [made.request.id]
        methods = [call.method for call in side.sandbox.calls if call.path.endswith("/requests")]
        assert methods == ["GET", "POST", *["GET"] * 7, "POST"]
        assert sum(side.clock.slept) == 300


async def test_a_data_request_that_appears_late_is_found() -> None:
    async with connected() as side:
        side.sandbox.faults.add(Fault(server="api", kind="lose-after-commit", match="/requests$"))
        side.sandbox.faults.add(
            Fault(server="api", kind="json", body=b'{"results": []}', match=r"/requests\?", skip=1, times=2)
        )

        made = await create(side.api, side.account, WANTED, clock=side.clock)

        assert list(side.sandbox.world.requests) == [made.request.id]
        assert len(side.clock.slept) == 3


async def test_a_data_request_that_was_there_before_is_not_taken_for_the_new_one() -> None:
    """The same command, run a minute ago, created its own."""
    async with connected() as side:
        first = await create(side.api, side.account, WANTED, clock=side.clock)
        side.clock.advance(60)
        side.sandbox.faults.add(Fault(server="api", kind="lose-after-commit", match="/requests$"))

        second = await create(side.api, side.account, WANTED, clock=side.clock)

        assert first.request.id != second.request.id
        assert list(side.sandbox.world.requests) == [first.request.id, second.request.id]


@pytest.mark.parametrize("ahead_s", [-7200.0, 7200.0])
async def test_the_created_data_request_is_found_although_this_clock_is_wrong(ahead_s: float) -> None:
    async with connected() as side:
        clock = side.clock
        side.sandbox.world.now = lambda: clock.now().timestamp() - ahead_s
        side.sandbox.faults.add(Fault(server="api", kind="lose-after-commit", match="/requests$"))

        await create(side.api, side.account, WANTED, clock=clock)

        assert len(side.sandbox.world.requests) == 1


async def test_an_attempt_whose_process_was_killed_is_taken_up() -> None:
    async with connected() as side:
        since = side.clock.now()
        killed = await side.api.create_request(side.account, WANTED)
        side.clock.advance(3600)

        again = await create(side.api, side.account, WANTED, clock=side.clock, since=since)

        assert (again.request.id, again.was_there) == (killed.id, True)
        assert await posts(side) == 1


async def test_an_attempt_that_was_killed_before_its_call_is_made_now() -> None:
    async with connected() as side:
        older = await side.api.create_request(side.account, WANTED)
        side.clock.advance(3600)

        made = await create(side.api, side.account, WANTED, clock=side.clock, since=side.clock.now())

        assert not made.was_there
        assert made.request.id != older.id


async def test_a_call_that_is_carried_out_minutes_after_its_answer_was_lost_creates_nothing_twice() -> None:
    async with connected() as side:
        side.sandbox.faults.add(Fault(server="api", kind="status", match="/requests$", status=504))
        side.clock.at(
            side.clock.now() + timedelta(seconds=200),
            lambda: side.sandbox.world.add_request(
                WANTED.description,
                service_groups=WANTED.service_groups,
                schedule="ONE_TIME",
                owner="ana",
                created_at=side.clock.now(),
            ),
        )

        made = await create(side.api, side.account, WANTED, clock=side.clock)

        assert list(side.sandbox.world.requests) == [made.request.id]


async def test_a_killed_attempt_is_looked_for_as_long_as_a_lost_answer() -> None:
    """The command is run again at once, and Autodesk is still busy with the call."""
    async with connected() as side:
        since = side.clock.now()
        side.clock.advance(5)
        side.clock.at(
            since + timedelta(seconds=200),
            lambda: side.sandbox.world.add_request(
                WANTED.description,
                service_groups=WANTED.service_groups,
                schedule="ONE_TIME",
                owner="ana",
                created_at=side.clock.now(),
            ),
        )

        again = await create(side.api, side.account, WANTED, clock=side.clock, since=since)

        assert again.was_there
        assert await posts(side) == 0


async def test_without_any_answer_it_ends_unconfirmed_and_created_nothing_twice() -> None:
    async with connected() as side:
        side.sandbox.faults.add(Fault(server="api", kind="lose-after-commit", match="/requests$"))
        side.sandbox.faults.add(
            Fault(server="api", kind="status", match=r"/requests\?", skip=1, times=None, status=503)
        )

        with pytest.raises(Unconfirmed, match=r"cannot be read: GET .* returned 503"):
            await create(side.api, side.account, WANTED, clock=side.clock)

        assert len(side.sandbox.world.requests) == 1
        assert await posts(side) == 1


async def test_it_gives_up_after_three_calls_that_created_nothing() -> None:
    async with connected() as side:
        side.sandbox.faults.add(Fault(server="api", kind="status", match="/requests$", status=502, times=None))

        with pytest.raises(Unconfirmed):
            await create(side.api, side.account, WANTED, clock=side.clock)

        assert await posts(side) == 3
        assert side.sandbox.world.requests == {}


async def test_fields_that_autodesk_would_refuse_cost_no_call() -> None:
    async with connected() as side:
        wanted = replace(WANTED, service_groups=(), callback_url="http://x/")
        with pytest.raises(ConfigError, match="at least one service group; the callback URL must begin with https://"):
            await create(side.api, side.account, wanted, clock=side.clock)

        assert side.sandbox.calls == []


async def test_a_refusal_ends_at_once() -> None:
    async with connected(EVERY - {"data:create"}) as side:
        with pytest.raises(AccessRefused, match="lacks the scope data:create"):
            await create(side.api, side.account, WANTED, clock=side.clock)

        assert await posts(side) == 1


async def test_the_daily_limit_is_known_before_the_call() -> None:
    async with connected() as side:
        request = side.sandbox.world.add_request("r")
        for number in range(JOBS_A_DAY):
            side.sandbox.world.add_job(request, created_at=NOON - timedelta(minutes=number))
        left = await jobs_left(side.api, side.account, clock=side.clock)

        with pytest.raises(RateLimited, match="all of them are used") as caught:
            await create(side.api, side.account, WANTED, clock=side.clock)
        later = await create(side.api, side.account, LATER, clock=side.clock)

        assert (left.count, left.next_at) == (0, NOON + timedelta(days=1, minutes=-23))
        assert "after 2026-11-23 11:37 UTC" in caught.value.advice
        assert caught.value.retry_after_s == pytest.approx(86400 - 23 * 60, abs=2)
        assert later.request.effective_from == LATER.starts_at
        assert await posts(side) == 1
