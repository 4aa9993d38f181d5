"""The chain of refresh tokens: used rarely, saved before use, recovered when unconfirmed, shared by all processes."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from dcsync.auth.source import FixedToken
from dcsync.auth.token_store import fingerprint
from dcsync.core.oauth import user_of
from dcsync.errors import (
    LoginRequired,
    SecretUnavailable,
)
from tests.fakes import NOON
from tests.rigs.token_chain import Rig

# --- the usual way ----------------------------------------------------------------------------------------------------


async def test_the_configured_token_begins_the_chain_and_its_successor_is_stored(rig: Rig) -> None:
    token = await rig.source().access_token()

    pair = rig.stored()
    assert rig.sandbox.tokens.accepts(token)
    assert pair.access_token == token
    assert {pair.refresh_token} == rig.sandbox.tokens.live_refresh_tokens
    assert pair.seed == fingerprint(rig.seed)
    assert (pair.issued_at, pair.expires_at) == (NOON, NOON + timedelta(hours=1))
    assert pair.renew_at == NOON + timedelta(minutes=55)
    assert rig.store.intent() is None


async def test_the_chain_continues_from_the_store_and_not_from_the_configuration(rig: Rig) -> None:
    await rig.source().access_token()
    rig.clock.advance(3600)

    token = await rig.source().access_token()

    assert rig.sandbox.tokens.accepts(token)
    assert rig.sandbox.tokens.refresh_count == 2
    assert {rig.stored().refresh_token} == rig.sandbox.tokens.live_refresh_tokens


async def test_a_fresh_stored_token_is_used_by_the_next_process_without_a_call(rig: Rig) -> None:
    first = await rig.source().access_token()

    second = await rig.source(seed=None).access_token()

    assert second == first
    assert rig.asked == 1


async def test_a_token_is_renewed_when_five_minutes_are_left_and_not_before(rig: Rig) -> None:
    source = rig.source()
    first = await source.access_token()

    rig.clock.advance(3600 - 300 - 0.5)
    just_before = await source.access_token()
    calls_before = rig.asked
    rig.clock.advance(0.5)
    after = await source.access_token()

    assert (just_before, calls_before) == (first, 1)
    assert (after != first, rig.asked) == (True, 2)


async def test_a_token_of_a_minute_is_used_for_half_of_it(rig: Rig) -> None:
    source = rig.source()
    rig.answer_next('{"access_token": "short", "refresh_token": "next", "expires_in": 1}')
    await source.access_token()

    rig.clock.advance(29)

    assert await source.access_token() == "short"
    assert rig.asked == 1


async def test_a_rejected_token_is_renewed_once(rig: Rig) -> None:
    source = rig.source()
    first = await source.access_token()

    second = await source.access_token(rejected=first)
    third = await source.access_token(rejected=first)  # a late caller, whose token has already been replaced

    assert second == third != first
    assert rig.asked == 2


@pytest.mark.parametrize("hours", [-5, 5])
async def test_a_wall_clock_that_jumps_does_not_renew_a_cached_token(rig: Rig, hours: int) -> None:
    source = rig.source()
    first = await source.access_token()

    rig.clock.set_wall(NOON + timedelta(hours=hours))

    assert await source.access_token() == first
    assert rig.asked == 1


async def test_a_stored_token_from_the_future_is_renewed(rig: Rig) -> None:
    first = await rig.source().access_token()
    rig.clock.set_wall(NOON - timedelta(hours=3))

    second = await rig.source().access_token()

    assert second != first
    assert rig.asked == 2


@pytest.mark.parametrize("same", [False, True], ids=["none", "the same"])
async def test_an_answer_without_a_new_refresh_token_keeps_the_old_one(rig: Rig, same: bool) -> None:
    body = '{"access_token": "one", "expires_in": 3600'
    rig.answer_next(body + (f', "refresh_token": "{rig.seed}"}}' if same else "}"))

    token = await rig.source().access_token()

    assert token == "one"
    assert rig.stored().refresh_token == rig.seed
    assert rig.stored().issued_at is None  # its age stays unknown: it was not issued now
    rig.clock.advance(3600)
    assert rig.sandbox.tokens.accepts(await rig.source().access_token())


async def test_a_new_token_in_the_configuration_begins_a_new_chain(rig: Rig) -> None:
    await rig.source().access_token()
    other = rig.sandbox.tokens.issue_refresh_token("somebody")

    token = await rig.source(seed=other).access_token()

    assert user_of(token) == "somebody"
    assert rig.stored().seed == fingerprint(other)
    assert rig.stored().refresh_token != other


async def test_without_a_stored_and_a_configured_token_a_sign_in_is_required(rig: Rig) -> None:
    with pytest.raises(LoginRequired, match="no token is stored"):
        await rig.source(seed=None).access_token()

    assert rig.asked == 0


async def test_an_unreadable_configured_token_is_reported_while_none_is_stored(rig: Rig) -> None:
    problem = SecretUnavailable("the environment variable SEED is not set")

    with pytest.raises(SecretUnavailable, match="SEED is not set"):
        await rig.source(seed=None, seed_problem=problem).access_token()

    assert rig.asked == 0


async def test_an_unreadable_configured_token_does_not_matter_once_one_is_stored(rig: Rig) -> None:
    await rig.source().access_token()
    rig.clock.advance(3600)

    token = await rig.source(seed=None, seed_problem=SecretUnavailable("it is gone")).access_token()

    assert rig.sandbox.tokens.accepts(token)


# --- many at once -----------------------------------------------------------------------------------------------------


async def test_twenty_tasks_that_got_a_401_make_one_refresh(rig: Rig) -> None:
    source = rig.source()
    first = await source.access_token()
    rig.break_next("delay", seconds=0.02)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(source.access_token(rejected=first)) for _ in range(20)]

    assert {task.result() for task in tasks} == {rig.stored().access_token}
    assert rig.sandbox.tokens.refresh_count == rig.asked == 2


async def test_two_processes_make_one_refresh_and_the_other_reads_it(rig: Rig) -> None:
    one, two = rig.source(), rig.source()
    token: str | None = None

    for round_number in range(1, 11):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(source.access_token(rejected=token)) for source in (one, two)]
        (token,) = {task.result() for task in tasks}
        assert rig.sandbox.tokens.refresh_count == round_number

    assert token is not None
    assert rig.sandbox.tokens.accepts(token)
    assert rig.asked == 10


async def test_cancelling_the_caller_still_saves_the_new_token(rig: Rig) -> None:
    source = rig.source()
    fault = rig.break_next("delay", seconds=0.05)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(source.access_token())
        while fault.times:  # noqa: ASYNC110 - until the request has arrived
            await asyncio.sleep(0)  # noqa: TID251
        task.cancel()

    assert task.cancelled()
    assert rig.sandbox.tokens.refresh_count == 1
    assert {rig.stored().refresh_token} == rig.sandbox.tokens.live_refresh_tokens
    assert await source.access_token() == rig.stored().access_token
    assert rig.asked == 1


# --- one token from the configuration ---------------------------------------------------------------------------------


async def test_a_fixed_token_is_returned_until_it_is_rejected() -> None:
    source = FixedToken("fixed")

    assert [await source.access_token(), await source.access_token()] == ["fixed", "fixed"]
    with pytest.raises(LoginRequired) as caught:
        await source.access_token(rejected="fixed")
    assert "fixed" not in str(caught.value)
