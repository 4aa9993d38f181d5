"""The sandbox's token endpoint: refresh tokens work once, and each mode treats a second use differently."""

from __future__ import annotations

import json
from typing import Any, Literal

import aiohttp
import pytest

from dcsync.sandbox import Fault, Tokens
from tests.fakes import FakeClock
from tests.sandbox.conftest import Answer, Remote, serving

DAY = 86400


def make_tokens(mode: Literal["strict", "grace", "revoke-family"] = "strict") -> tuple[Tokens, FakeClock]:
    clock = FakeClock()
    tokens = Tokens(clock.monotonic, access_lifetime_s=3600)
    tokens.mode = mode
    return tokens, clock


# --- memory -----------------------------------------------------------------------------------------------------------


def test_an_access_token_is_valid_for_its_lifetime() -> None:
    tokens, clock = make_tokens()
    token, short = tokens.issue_access_token("ana"), tokens.issue_access_token("ana", 10)

    clock.advance(10)
    assert (tokens.accepts(token), tokens.accepts(short)) == (True, False)
    clock.advance(3590)
    assert not tokens.accepts(token)
    assert not tokens.accepts("made up")


def test_a_refresh_token_works_once_and_returns_the_next() -> None:
    tokens, _ = make_tokens()
    first = tokens.issue_refresh_token("ana")

    pair = tokens.refresh(first)

    assert pair is not None
    assert tokens.accepts(pair.access_token)
    assert (pair.expires_in, tokens.refresh_count) == (3600, 1)
    assert tokens.live_refresh_tokens == {pair.refresh_token}
    assert tokens.refresh(first) is None
    assert tokens.refresh(pair.refresh_token) is not None
    assert tokens.refresh("made up") is None


def test_a_refresh_token_dies_after_fifteen_days() -> None:
    tokens, clock = make_tokens()
    used, left = tokens.issue_refresh_token("ana"), tokens.issue_refresh_token("ana")
    clock.advance(15 * DAY)
    assert tokens.refresh(used) is not None

    clock.advance(1)

    assert tokens.refresh(left) is None


def test_with_grace_a_used_token_returns_the_same_pair_for_thirty_seconds() -> None:
    tokens, clock = make_tokens("grace")
    first = tokens.issue_refresh_token("ana")
    pair = tokens.refresh(first)

    clock.advance(30)
    assert tokens.refresh(first) == pair
    clock.advance(0.5)
    assert tokens.refresh(first) is None
    assert tokens.refresh_count == 1


def test_a_second_use_can_revoke_its_own_chain_and_no_other() -> None:
    tokens, _ = make_tokens("revoke-family")
    first, other = tokens.issue_refresh_token("ana"), tokens.issue_refresh_token("ana")
    pair = tokens.refresh(first)

    assert pair is not None
    assert tokens.refresh(first) is None
    assert tokens.refresh(pair.refresh_token) is None
    assert tokens.live_refresh_tokens == {other}


# --- endpoint ---------------------------------------------------------------------------------------------------------

SECRET = aiohttp.encode_basic_auth("sandbox", "sandbox-secret")


async def post(remote: Remote, *, auth: str | None = SECRET, **form: str) -> Answer:
    """Use a new refresh token, unless the form contains one."""
    token = remote.sandbox.tokens.issue_refresh_token("ana") if "refresh_token" not in form else ""
    values = {"grant_type": "refresh_token", "refresh_token": token, **form}
    headers = {} if auth is None else {"Authorization": auth}
    url = f"{remote.sandbox.base_url}/authentication/v2/token"
    async with remote.session.post(url, data=values, headers=headers) as response:
        return Answer(status=response.status, headers=response.headers, body=await response.read())


def said(answer: Answer) -> tuple[int, Any]:
    return answer.status, answer.json().get("error")


async def test_a_refresh_gives_a_pair_that_the_api_takes(remote: Remote) -> None:
    first = remote.sandbox.tokens.issue_refresh_token("ana")

    answer, again = await post(remote, refresh_token=first), await post(remote, refresh_token=first)

    pair = answer.json()
    assert (answer.status, pair["token_type"], pair["expires_in"]) == (200, "Bearer", 3600)
    assert (await remote.api("jobs", token=pair["access_token"])).status == 200
    assert said(again) == (400, "invalid_grant")
    assert (await post(remote, refresh_token=pair["refresh_token"])).status == 200


async def test_a_private_client_signs_in_by_header_alone(remote: Remote) -> None:
    assert (await post(remote)).status == 200
    assert said(await post(remote, auth=aiohttp.encode_basic_auth("sandbox", "wrong"))) == (401, "invalid_client")
    assert said(await post(remote, auth=None)) == (401, "invalid_client")
    assert said(await post(remote, auth=None, client_id="sandbox")) == (401, "invalid_client")
    assert said(await post(remote, client_id="sandbox")) == (400, "invalid_request")


async def test_a_public_client_names_itself_in_the_body_alone() -> None:
    async with serving(client_secret=None) as remote:
        assert (await post(remote, auth=None, client_id="sandbox")).status == 200
        assert said(await post(remote, auth=None, client_id="other")) == (401, "invalid_client")
        assert said(await post(remote, auth=aiohttp.encode_basic_auth("sandbox", ""))) == (401, "invalid_client")


async def test_a_refused_client_uses_no_token(remote: Remote) -> None:
    first = remote.sandbox.tokens.issue_refresh_token("ana")

    await post(remote, auth=None, refresh_token=first)
    await post(remote, client_id="sandbox", refresh_token=first)
    await post(remote, grant_type="password", refresh_token=first)

    assert (await post(remote, refresh_token=first)).status == 200


async def test_calls_to_the_token_endpoint_are_not_rate_limited() -> None:
    async with serving(quota_per_minute=1) as remote:
        assert [(await post(remote)).status for _ in range(3)] == [200, 200, 200]
        assert (await remote.api("jobs")).status == 200


async def test_a_response_can_be_lost_garbled_or_failed_after_the_token_was_used(remote: Remote) -> None:
    first = remote.sandbox.tokens.issue_refresh_token("ana")
    remote.sandbox.faults.add(Fault(server="token", kind="lose-after-commit"))
    with pytest.raises(aiohttp.ClientConnectionError):
        await post(remote, refresh_token=first)
    remote.sandbox.faults.add(Fault(server="token", kind="garble-after-commit"))
    garbled = await post(remote)
    remote.sandbox.faults.add(Fault(server="token", kind="fail-after-commit", status=502))
    failed = await post(remote)

    with pytest.raises(json.JSONDecodeError):
        garbled.json()
    assert (garbled.status, failed.status) == (200, 502)
    assert remote.sandbox.tokens.refresh_count == 3
    assert said(await post(remote, refresh_token=first)) == (400, "invalid_grant")


async def test_a_status_before_the_commit_uses_no_token(remote: Remote) -> None:
    first = remote.sandbox.tokens.issue_refresh_token("ana")
    remote.sandbox.faults.add(Fault(server="token", kind="status", status=500))

    assert (await post(remote, refresh_token=first)).status == 500
    assert (await post(remote, refresh_token=first)).status == 200
