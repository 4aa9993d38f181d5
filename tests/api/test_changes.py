"""Calls that create, change or delete a data request: sent once, and repeated only where that is safe."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import pytest
from aioresponses import aioresponses

from dcsync.api.client import DataConnector
from dcsync.api.limiter import Limiter
from dcsync.api.transport import ATTEMPTS, ApiTransport
from dcsync.auth.source import FixedToken
from dcsync.core.model import AccountId, AccountName, DataRequest, RequestId
from dcsync.core.new_request import NewRequest, RequestChanges
from dcsync.errors import (
    AccessRefused,
    ApiError,
    ApiUnreachable,
    BadRequest,
    LoginRequired,
    NotFound,
    RateLimited,
    Unconfirmed,
)
from dcsync.ops.context import AccountSettings
from dcsync.sandbox import Fault, Options, Sandbox, World
from tests.fakes import NOON, FakeClock, FakeTokens, MemoryWindow
from tests.rigs.ports import free_port
from tests.rigs.transport import ANY, Rig, calls

WANTED = NewRequest(
    service_groups=("admin",), starts_at=NOON, description="Once", callback_url="https://mirror.example.com/hook/hidden"
)
EVERY = frozenset({"data:read", "data:create", "data:write"})


@dataclass(slots=True)
class Side:
    """A sandbox and its client, on one clock."""

    api: DataConnector
    sandbox: Sandbox
    clock: FakeClock

    @property
    def account(self) -> AccountId:
        return AccountId(self.sandbox.world.account_id)

    @property
    def settings(self) -> AccountSettings:
        """The account as it is configured."""
        return AccountSettings(name=AccountName("acme"), id=self.account)

    def fail(self, kind: Any, **options: Any) -> None:
        """Let calls on data requests fail."""
        self.sandbox.faults.add(Fault(server="api", kind=kind, match="/requests", **options))


@asynccontextmanager
async def connected(scopes: frozenset[str] = EVERY, *, quota: int | None = None) -> AsyncIterator[Side]:
    clock = FakeClock()
    async with (
        Sandbox(World(now=lambda: clock.now().timestamp()), options=Options(quota_per_minute=quota)) as sandbox,
        aiohttp.ClientSession() as session,
    ):
        # As in `dcsync.app.api`: otherwise aiohttp repeats a DELETE on its own.
        session._retry_connection = False
        transport = ApiTransport(
            session,
            base_url=sandbox.base_url,
            tokens=FixedToken(sandbox.tokens.issue_access_token("ana", 9 * 86400, scopes=scopes)),
            limiter=Limiter(requests_per_minute=10_000, clock=clock, window=MemoryWindow()),
            clock=clock,
            draw=lambda: 0.0,
        )
        yield Side(DataConnector(transport), sandbox, clock)


# --- what the calls do ------------------------------------------------------------------------------------------------


async def test_a_data_request_is_created_changed_and_deleted() -> None:
    wanted = replace(WANTED, schedule="DAY", every=2, ends_at=NOON.replace(year=2027), project_ids=("p",))
    async with connected() as side:
        made = await side.api.create_request(side.account, wanted)
        changes = RequestChanges(is_active=False, description="Twice", ends_at=NOON.replace(year=2028), callback_url="")
        changed = await side.api.update_request(side.account, made, changes)
        listed = await side.api.requests(side.account)
        await side.api.delete_request(side.account, made.id)

        assert (made.description, made.schedule_interval, made.recurring_interval) == ("Once", "DAY", 2)
        assert (made.effective_from, made.project_ids, made.created_by) == (NOON, ("p",), "ana")
        assert made.callback_url == WANTED.callback_url
        assert (changed.id, changed.is_active, changed.description) == (made.id, False, "Twice")
        assert (changed.effective_to, changed.callback_url) == (NOON.replace(year=2028), None)
        assert listed == [changed]
        assert await side.api.requests(side.account) == []


@pytest.mark.parametrize("scope", ["data:create", "data:write"])
async def test_a_token_without_the_scope_is_reported_with_the_scope(scope: str) -> None:
    async with connected(EVERY - {scope}) as side:
        request = side.sandbox.world.add_request("r")
        creates = scope == "data:create"
        with pytest.raises(AccessRefused, match=f"The access token lacks the scope {scope}") as caught:
            await (
                side.api.create_request(side.account, WANTED)
                if creates
                else side.api.delete_request(side.account, RequestId(request))
            )

        assert "sign in with the scopes" in caught.value.advice
        assert caught.value.exit_status == 13


async def test_a_refused_field_is_reported_in_the_words_of_the_api() -> None:
    async with connected() as side:
        with pytest.raises(BadRequest, match=r"POST .*/requests returned 400: .*effectiveTo must not be supplied"):
            await side.api.create_request(side.account, replace(WANTED, ends_at=NOON.replace(year=2027)))

        assert side.sandbox.world.requests == {}


async def test_a_missing_data_request_is_reported() -> None:
    async with connected() as side:
        with pytest.raises(NotFound):
            await side.api.delete_request(side.account, RequestId("x"))
        gone = DataRequest(id=RequestId("x"), description="", schedule_interval="DAY", service_groups=("all",))
        with pytest.raises(NotFound):
            await side.api.update_request(side.account, gone, RequestChanges(is_active=False))


# --- lost answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lose-after-commit", "garble-after-commit", "fail-after-commit"])
async def test_a_creation_with_a_lost_answer_is_unconfirmed_and_sent_once(kind: Any) -> None:
    async with connected() as side:
        side.fail(kind, status=502)

        with pytest.raises(Unconfirmed) as caught:
            await side.api.create_request(side.account, WANTED)

        assert len(side.sandbox.world.requests) == 1
        assert side.sandbox.count("api") == 1
        assert caught.value.code == "A-UNCONFIRMED"
        assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("body", [b'{"id": 7}', b"[]", b"<html>Sign in</html>"])
async def test_a_creation_with_an_undocumented_answer_is_unconfirmed(body: bytes) -> None:
    async with connected() as side:
        side.fail("json", body=body)

        with pytest.raises(Unconfirmed, match=r"POST .*/requests returned"):
            await side.api.create_request(side.account, WANTED)

        assert side.sandbox.count("api") == 1


@pytest.mark.parametrize("kind", ["lose-after-commit", "garble-after-commit", "fail-after-commit"])
async def test_a_change_and_a_deletion_with_a_lost_answer_are_repeated(kind: Any) -> None:
    async with connected() as side:
        made = await side.api.create_request(side.account, WANTED)
        side.fail(kind, status=502)
        changed = await side.api.update_request(side.account, made, RequestChanges(description="Twice"))
        # A deletion has no body that could be garbled.
        side.fail("lose-after-commit" if kind == "garble-after-commit" else kind, status=502)
        await side.api.delete_request(side.account, made.id)

        assert changed.description == "Twice"
        assert side.sandbox.world.requests == {}
        assert [call.method for call in side.sandbox.calls] == ["POST", "PATCH", "PATCH", "DELETE", "DELETE"]


async def test_a_change_without_any_answer_is_given_up_after_three_calls() -> None:
    async with connected() as side:
        made = await side.api.create_request(side.account, WANTED)
        side.fail("lose-after-commit", times=None)

        with pytest.raises(Unconfirmed):
            await side.api.update_request(side.account, made, RequestChanges(is_active=False))

        assert side.sandbox.count("api") == 4


# --- what was certainly not done --------------------------------------------------------------------------------------


async def test_a_creation_without_a_connection_is_retried(rig: Rig) -> None:
    rig.base_url = f"http://127.0.0.1:{free_port()}"

    with pytest.raises(ApiUnreachable):
        await rig.another().send("POST", "/x", {})

    assert rig.limiter.calls == ATTEMPTS


async def test_a_creation_beyond_the_rate_limit_waits_and_is_sent_again() -> None:
    async with connected(quota=1) as side:
        await side.api.requests(side.account)

        made = await side.api.create_request(side.account, WANTED)

        assert list(side.sandbox.world.requests) == [made.id]
        assert [call.status for call in side.sandbox.calls] == [200, 429, 201]
        assert sum(side.clock.slept) >= 60


async def test_the_daily_limit_is_reported_at_once_and_pauses_nothing() -> None:
    async with connected() as side:
        request = side.sandbox.world.add_request("r")
        for _ in range(24):
            side.sandbox.world.add_job(request, created_at=NOON)

        with pytest.raises(RateLimited, match="24 jobs in 24 hours") as caught:
            await side.api.create_request(side.account, WANTED)
        await side.api.requests(side.account)

        assert "at most 24 jobs" in caught.value.advice
        assert side.clock.slept == []


@pytest.mark.parametrize("status", [301, 400, 403, 404, 409, 422])
async def test_a_definite_refusal_is_sent_once(rig: Rig, api: aioresponses, status: int) -> None:
    api.post(ANY, status=status, repeat=True)

    with pytest.raises(ApiError) as caught:
        await rig.transport.send("POST", "/x", {"callbackUrl": "https://hidden/"})

    assert not isinstance(caught.value, Unconfirmed)
    assert len(calls(api)) == 1


async def test_a_refusal_does_not_repeat_the_callback_url(rig: Rig, api: aioresponses) -> None:
    api.post(ANY, status=400, payload={"detail": "callbackUrl https://mirror/hidden is not allowed"})

    with pytest.raises(BadRequest) as caught:
        await rig.transport.send("POST", "/x", {"callbackUrl": "https://mirror/hidden"})

    assert "hidden" not in str(caught.value)


async def test_one_401_is_answered_with_a_fresh_token(rig: Rig, api: aioresponses) -> None:
    api.post(ANY, status=401)
    api.post(ANY, status=201, payload={"fine": True})

    assert await rig.transport.send("POST", "/x", {}) == {"fine": True}
    assert isinstance(rig.tokens, FakeTokens)
    assert rig.tokens.rejected == ["token-1"]


async def test_a_second_401_requires_a_sign_in(rig: Rig, api: aioresponses) -> None:
    api.post(ANY, status=401, repeat=True)

    with pytest.raises(LoginRequired):
        await rig.transport.send("POST", "/x", {})

    assert len(calls(api)) == 2


async def test_an_answer_larger_than_any_is_unconfirmed() -> None:
    async with connected() as side:
        side.fail("endless")

        with pytest.raises(Unconfirmed, match="more than 16 MiB"):
            await side.api.create_request(side.account, WANTED)
