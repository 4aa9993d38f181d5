"""A data request is created exactly once, whatever happens to the answers."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dcsync.core.new_request import JOBS_A_DAY, NewRequest
from dcsync.errors import AccessRefused, ConfigError, RateLimited, Unconfirmed
from dcsync.ops.context import AccountSettings
from dcsync.ops.requests import create, find_request, jobs_left
from dcsync.sandbox import Fault
from tests.api.test_changes import EVERY, Side, connected
from tests.fakes import NOON

WANTED = NewRequest(service_groups=("activities",), starts_at=NOON, description="Activities of November")
LATER = replace(WANTED, starts_at=NOON + timedelta(days=1))


async def posts(side: Side) -> int:
    return sum(call.method == "POST" for call in side.sandbox.calls)


async def test_a_data_request_is_created_with_one_call() -> None:
    async with connected() as side:
        made = await create(side.api, side.settings, WANTED, clock=side.clock)

        assert (made.was_there, made.request.description) == (False, WANTED.description)
        assert await posts(side) == 1
        assert side.clock.slept == []


@pytest.mark.parametrize("kind", ["lose-after-commit", "garble-after-commit", "fail-after-commit"])
async def test_after_a_lost_answer_the_created_data_request_is_found(kind: Any) -> None:
    async with connected() as side:
        side.sandbox.faults.add(Fault(server="api", kind=kind, match="/requests$", status=504))

        made = await create(side.api, side.settings, WANTED, clock=side.clock)

        assert list(side.sandbox.world.requests) == [made.request.id]
        assert not made.was_there
        assert await posts(side) == 1


async def test_a_lost_call_that_created_nothing_is_sent_again_after_looking() -> None:
    async with connected() as side:
        side.sandbox.faults.add(Fault(server="api", kind="status", match="/requests$", status=502))

        made = await create(side.api, side.settings, WANTED, clock=side.clock)

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

        made = await create(side.api, side.settings, WANTED, clock=side.clock)

        assert list(side.sandbox.world.requests) == [made.request.id]
        assert len(side.clock.slept) == 3


async def test_a_data_request_that_was_there_before_is_not_taken_for_the_new_one() -> None:
    """The same command, run a minute ago, created its own."""
    async with connected() as side:
        first = await create(side.api, side.settings, WANTED, clock=side.clock)
        side.clock.advance(60)
        side.sandbox.faults.add(Fault(server="api", kind="lose-after-commit", match="/requests$"))

        second = await create(side.api, side.settings, WANTED, clock=side.clock)

        assert first.request.id != second.request.id
        assert list(side.sandbox.world.requests) == [first.request.id, second.request.id]


@pytest.mark.parametrize("ahead_s", [-7200.0, 7200.0])
async def test_the_created_data_request_is_found_although_this_clock_is_wrong(ahead_s: float) -> None:
    async with connected() as side:
        clock = side.clock
        side.sandbox.world.now = lambda: clock.now().timestamp() - ahead_s
        side.sandbox.faults.add(Fault(server="api", kind="lose-after-commit", match="/requests$"))

        await create(side.api, side.settings, WANTED, clock=clock)

        assert len(side.sandbox.world.requests) == 1


async def test_an_attempt_whose_process_was_killed_is_taken_up() -> None:
    async with connected() as side:
        since = side.clock.now()
        killed = await side.api.create_request(side.account, WANTED)
        side.clock.advance(3600)

        again = await create(side.api, side.settings, WANTED, clock=side.clock, since=since)

        assert (again.request.id, again.was_there) == (killed.id, True)
        assert await posts(side) == 1


async def test_an_attempt_that_was_killed_before_its_call_is_made_now() -> None:
    async with connected() as side:
        older = await side.api.create_request(side.account, WANTED)
        side.clock.advance(3600)

        made = await create(side.api, side.settings, WANTED, clock=side.clock, since=side.clock.now())

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

        made = await create(side.api, side.settings, WANTED, clock=side.clock)

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

        again = await create(side.api, side.settings, WANTED, clock=side.clock, since=since)

        assert again.was_there
        assert await posts(side) == 0


async def test_without_any_answer_it_ends_unconfirmed_and_created_nothing_twice() -> None:
    async with connected() as side:
        side.sandbox.faults.add(Fault(server="api", kind="lose-after-commit", match="/requests$"))
        side.sandbox.faults.add(
            Fault(server="api", kind="status", match=r"/requests\?", skip=1, times=None, status=503)
        )

        with pytest.raises(Unconfirmed, match=r"cannot be read: GET .* returned 503"):
            await create(side.api, side.settings, WANTED, clock=side.clock)

        assert len(side.sandbox.world.requests) == 1
        assert await posts(side) == 1


async def test_it_gives_up_after_three_calls_that_created_nothing() -> None:
    async with connected() as side:
        side.sandbox.faults.add(Fault(server="api", kind="status", match="/requests$", status=502, times=None))

        with pytest.raises(Unconfirmed):
            await create(side.api, side.settings, WANTED, clock=side.clock)

        assert await posts(side) == 3
        assert side.sandbox.world.requests == {}


async def test_fields_that_autodesk_would_refuse_cost_no_call() -> None:
    async with connected() as side:
        wanted = replace(WANTED, service_groups=(), callback_url="http://x/")
        with pytest.raises(ConfigError, match="at least one service group; the callback URL must begin with https://"):
            await create(side.api, side.settings, wanted, clock=side.clock)

        assert side.sandbox.calls == []


async def test_a_refusal_ends_at_once() -> None:
    async with connected(EVERY - {"data:create"}) as side:
        with pytest.raises(AccessRefused, match="lacks the scope data:create"):
            await create(side.api, side.settings, WANTED, clock=side.clock)

        assert await posts(side) == 1


async def test_the_daily_limit_is_known_before_the_call() -> None:
    async with connected() as side:
        request = side.sandbox.world.add_request("r")
        for number in range(JOBS_A_DAY):
            side.sandbox.world.add_job(request, created_at=NOON - timedelta(minutes=number))
        left = await jobs_left(side.api, side.settings, clock=side.clock)

        with pytest.raises(RateLimited, match="all of them are used") as caught:
            await create(side.api, side.settings, WANTED, clock=side.clock)
        later = await create(side.api, side.settings, LATER, clock=side.clock)

        assert (left.count, left.next_at) == (0, NOON + timedelta(days=1, minutes=-23))
        assert "after 2026-11-23 11:37 UTC" in caught.value.advice
        assert caught.value.retry_after_s == pytest.approx(86400 - 23 * 60, abs=2)
        assert later.request.effective_from == LATER.starts_at
        assert await posts(side) == 1


# --- projects ---------------------------------------------------------------------------------------------------------

ONE, TWO, THREE = "p-1", "p-2", "p-3"


def administrator(side: Side, *projects: str, of: tuple[str, ...] = ()) -> AccountSettings:
    """Let the user be the administrator of these projects only, and return the account with `of` configured."""
    side.sandbox.world.project_administrators["ana"] = frozenset(projects)
    return replace(side.settings, projects=of or projects)


async def test_a_lost_data_request_of_other_projects_is_not_taken_for_the_wanted_one() -> None:
    async with connected() as side:
        account = administrator(side, ONE, TWO)
        side.sandbox.faults.add(Fault(server="api", kind="status", match="/requests$", status=502, skip=1))
        other = await create(side.api, account, replace(WANTED, project_ids=(ONE,)), clock=side.clock)

        made = await create(side.api, account, replace(WANTED, project_ids=(ONE, TWO)), clock=side.clock)

        assert made.request.id != other.request.id
        assert made.request.project_ids == (ONE, TWO)


@pytest.mark.parametrize("projects", [(ONE,), (ONE, TWO)])
async def test_a_project_administrator_s_lost_data_request_is_found(projects: tuple[str, ...]) -> None:
    async with connected() as side:
        account = administrator(side, ONE, TWO)
        side.sandbox.faults.add(Fault(server="api", kind="lose-after-commit", match="/requests$"))

        made = await create(side.api, account, replace(WANTED, project_ids=projects), clock=side.clock)

        assert list(side.sandbox.world.requests) == [made.request.id]
        assert await posts(side) == 1


async def test_the_list_of_the_account_shows_a_lost_data_request_of_several_projects() -> None:
    """Autodesk does not say whether the lists of its projects do."""
    async with connected() as side:
        account = replace(side.settings, projects=(ONE, TWO))
        side.sandbox.faults.add(Fault(server="api", kind="lose-after-commit", match="/requests$"))
        empty = Fault(server="api", kind="json", body=b'{"results": []}', match="filter", times=None)
        side.sandbox.faults.add(empty)

        await create(side.api, account, replace(WANTED, project_ids=(ONE, TWO)), clock=side.clock)

        assert len(side.sandbox.world.requests) == 1


async def test_the_projects_that_autodesk_refuses_are_named() -> None:
    async with connected() as side:
        account = administrator(side, TWO, of=(ONE, TWO, THREE))

        with pytest.raises(AccessRefused, match=f"also refuses to list the jobs of {ONE}, {THREE}$"):
            await create(side.api, account, replace(WANTED, project_ids=(ONE, TWO, THREE)), clock=side.clock)
        with pytest.raises(AccessRefused, match=f"^projects {ONE}, {THREE}: GET "):
            await create(side.api, account, replace(WANTED, project_ids=(ONE, THREE)), clock=side.clock)

        assert side.sandbox.world.requests == {}


async def test_the_jobs_of_every_project_count() -> None:
    async with connected() as side:
        account = administrator(side, ONE, TWO, of=(THREE, ONE, TWO))
        for project in (ONE, TWO):
            request = side.sandbox.world.add_request("r", project_id=project)
            side.sandbox.world.add_job(request, completed_at=side.clock.now())

        assert (await jobs_left(side.api, account, clock=side.clock)).count == JOBS_A_DAY - 2


async def test_a_data_request_is_found_beside_a_refused_project() -> None:
    async with connected() as side:
        account = administrator(side, TWO, of=(ONE, TWO))
        request = side.sandbox.world.add_request("Mine", project_id=TWO)

        assert (await find_request(side.api, account, "Mine")).id == request
        with pytest.raises(AccessRefused, match=f"^project {ONE}: GET "):
            await find_request(side.api, account, "Another")
