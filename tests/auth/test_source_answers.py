"""What the endpoint answers to a refresh, and what follows when no answer comes."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

import pytest

from dcsync.auth.source import RefreshingToken
from dcsync.auth.token_store import Intent, fingerprint
from dcsync.errors import (
    ClientRejected,
    LoginRequired,
    TokenEndpointUnavailable,
    TokenUndecided,
)
from tests.fakes import NOON
from tests.rigs.token_chain import Rig

# --- no definite answer -----------------------------------------------------------------------------------------------

LOST = ["lose-after-commit", "garble-after-commit", "fail-after-commit"]


async def lose_an_answer(rig: Rig, kind: str) -> RefreshingToken:
    """Return a source whose last refresh succeeded at the endpoint, but whose response was lost."""
    source = rig.source()
    rig.break_next(kind, status=502)
    with pytest.raises(TokenUndecided):
        await source.access_token()
    assert (rig.asked, rig.sandbox.tokens.refresh_count) == (1, 1)
    return source


@pytest.mark.parametrize("kind", LOST)
async def test_every_process_waits_a_minute_after_an_unconfirmed_refresh(rig: Rig, kind: str) -> None:
    source = await lose_an_answer(rig, kind)
    rig.clock.advance(20)

    for other in (source, rig.source()):
        with pytest.raises(TokenUndecided, match="12:00:00 UTC is unconfirmed") as caught:
            await other.access_token()
        assert caught.value.retry_after_s == pytest.approx(40)

    assert rig.asked == 1
    assert rig.stored().refresh_token == rig.seed
    assert rig.store.intent() == Intent(spending=fingerprint(rig.seed), attempt=1, at=NOON)


@pytest.mark.parametrize("kind", LOST)
async def test_after_a_lost_response_an_endpoint_with_grace_recovers(rig: Rig, kind: str) -> None:
    rig.sandbox.tokens.mode = "grace"
    source = await lose_an_answer(rig, kind)
    rig.clock.advance(60)

    token = await source.access_token()

    assert rig.sandbox.tokens.accepts(token)
    assert (rig.asked, rig.sandbox.tokens.refresh_count) == (2, 1)
    assert {rig.stored().refresh_token} == rig.sandbox.tokens.live_refresh_tokens
    assert rig.store.intent() is None


@pytest.mark.parametrize("kind", LOST)
@pytest.mark.parametrize("mode", ["strict", "revoke-family"])
async def test_after_a_lost_response_a_strict_endpoint_requires_a_sign_in(
    rig: Rig, kind: str, mode: Literal["strict", "revoke-family"]
) -> None:
    rig.sandbox.tokens.mode = mode
    source = await lose_an_answer(rig, kind)
    rig.clock.advance(60)

    with pytest.raises(LoginRequired, match="invalid_grant"):
        await source.access_token()

    assert rig.asked == 2
    assert rig.stored().refresh_token == rig.seed


async def test_a_refresh_that_never_arrived_recovers_on_a_strict_endpoint(rig: Rig) -> None:
    source = rig.source()
    rig.break_next("reset")
    with pytest.raises(TokenUndecided):
        await source.access_token()
    rig.clock.advance(60)

    assert rig.sandbox.tokens.accepts(await source.access_token())


async def test_an_unconfirmed_refresh_is_retried_after_one_to_fifteen_minutes(rig: Rig) -> None:
    source = rig.source()
    rig.break_next("reset", times=None)
    pauses = []

    for attempt in range(1, 8):
        with pytest.raises(TokenUndecided):
            await source.access_token()
        assert rig.asked == attempt
        with pytest.raises(TokenUndecided) as held:
            await source.access_token()
        assert rig.asked == attempt
        pauses.append(held.value.retry_after_s)
        rig.clock.advance(held.value.retry_after_s or 0)

    assert pauses == [60, 120, 240, 480, 900, 900, 900]


async def test_an_intent_left_by_a_crash_also_waits(rig: Rig) -> None:
    rig.store.note_intent(Intent(spending=fingerprint(rig.seed), attempt=1, at=NOON - timedelta(seconds=50)))
    source = rig.source()

    with pytest.raises(TokenUndecided) as caught:
        await source.access_token()
    asked_early = rig.asked
    rig.clock.advance(10)

    assert (caught.value.retry_after_s, asked_early) == (10, 0)
    assert rig.sandbox.tokens.accepts(await source.access_token())


async def test_an_intent_from_the_future_blocks_nothing(rig: Rig) -> None:
    rig.store.note_intent(Intent(spending=fingerprint(rig.seed), attempt=1, at=NOON + timedelta(hours=1)))

    assert rig.sandbox.tokens.accepts(await rig.source().access_token())


async def test_a_429_after_a_lost_response_keeps_the_earlier_intent(rig: Rig) -> None:
    source = await lose_an_answer(rig, "lose-after-commit")
    rig.clock.advance(60)
    rig.break_next("status", status=429)

    with pytest.raises(TokenEndpointUnavailable):
        await source.access_token()

    intent = rig.store.intent()
    assert intent is not None
    assert intent.attempt == 2


# --- definite answers -------------------------------------------------------------------------------------------------


async def test_a_dead_token_is_never_used_again_and_never_wiped(rig: Rig) -> None:
    source = rig.source(seed="dead")

    with pytest.raises(LoginRequired, match="expired"):
        await source.access_token()
    for _ in range(3):
        rig.clock.advance(86400)
        for other in (source, rig.source(seed="dead"), rig.source(seed=None)):
            with pytest.raises(LoginRequired, match="refused the stored refresh token at 2026-11-22 12:00 UTC"):
                await other.access_token()

    assert rig.asked == 1
    assert rig.stored().refresh_token == "dead"


async def test_a_new_configured_token_replaces_a_dead_one(rig: Rig) -> None:
    with pytest.raises(LoginRequired):
        await rig.source(seed="dead").access_token()

    token = await rig.source().access_token()

    assert rig.sandbox.tokens.accepts(token)
    assert rig.store.intent() is None


async def test_a_rejected_client_leaves_the_token_unused_and_no_intent(rig: Rig) -> None:
    with pytest.raises(ClientRejected, match="invalid_client"):
        await rig.source(secret="wrong").access_token()
    intent = rig.store.intent()

    assert intent is None
    assert rig.sandbox.tokens.live_refresh_tokens == {rig.seed}
    assert rig.sandbox.tokens.accepts(await rig.source().access_token())  # at once, with the right secret


async def test_a_429_leaves_the_token_unused_and_no_intent(rig: Rig) -> None:
    rig.break_next("status", status=429, headers={"Retry-After": "30"})

    with pytest.raises(TokenEndpointUnavailable) as caught:
        await rig.source().access_token()
    intent = rig.store.intent()

    assert (intent, caught.value.retry_after_s) == (None, 30.0)
    assert rig.sandbox.tokens.accepts(await rig.source().access_token())


async def test_a_refused_connection_leaves_the_token_unused_and_no_intent(rig: Rig, unused_tcp_port: int) -> None:
    with pytest.raises(TokenEndpointUnavailable, match="no token was used"):
        await rig.source(base_url=f"http://127.0.0.1:{unused_tcp_port}").access_token()
    intent = rig.store.intent()

    assert intent is None
    assert rig.stored().refresh_token == rig.seed
    assert rig.sandbox.tokens.accepts(await rig.source().access_token())
