"""Service accounts are created, given keys, disabled and deleted, and nothing is left behind by a lost answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from dcsync.auth.endpoint import WRITE_SCOPES, Client, TokenEndpoint
from dcsync.auth.service_accounts import DISABLED, ENABLED, ServiceAccount, ServiceAccountAdmin
from dcsync.auth.source import ServiceAccountToken
from dcsync.errors import (
    AccessRefused,
    ApiError,
    ApiFault,
    ApiUnreachable,
    BadAnswer,
    BadRequest,
    ClientRejected,
    NotFound,
    RateLimited,
    TokenEndpointUnavailable,
    Unconfirmed,
)
from dcsync.sandbox import Fault, Sandbox, World
from dcsync.sandbox.service_accounts import MAX_ACCOUNTS, MAX_KEYS
from tests.fakes import FakeClock
from tests.rigs.ports import free_port

LOST = ["lose-after-commit", "garble-after-commit", "fail-after-commit"]


@dataclass(slots=True)
class Side:
    """A sandbox and the administration of its service accounts."""

    admin: ServiceAccountAdmin
    endpoint: TokenEndpoint
    sandbox: Sandbox
    clock: FakeClock

    async def create(self, name: str = "mirror") -> ServiceAccount:
        return await self.admin.create(name, first_name="dcsync", last_name="mirror")

    def fail(self, kind: Any, match: str, **options: Any) -> None:
        self.sandbox.faults.add(Fault(server="token", kind=kind, match=match, **{"status": 502, **options}))

    def calls(self, method: str) -> int:
        return sum(call.method == method and "service-accounts" in call.path for call in self.sandbox.calls)


@asynccontextmanager
async def connected(secret: str = "sandbox-secret") -> AsyncIterator[Side]:
    clock = FakeClock()
    async with Sandbox(World(now=lambda: clock.now().timestamp())) as sandbox:
        endpoint = TokenEndpoint(base_url=sandbox.base_url, client=Client(id="sandbox", secret=secret))
        yield Side(ServiceAccountAdmin(endpoint=endpoint, base_url=sandbox.base_url), endpoint, sandbox, clock)


async def can_sign_in(side: Side, account: str, key_id: str, private_key: str) -> bool:
    source = ServiceAccountToken(
        endpoint=side.endpoint,
        service_account_id=account,
        key_id=key_id,
        private_key=private_key,
        clock=side.clock,
        scopes=WRITE_SCOPES,
    )
    grant = side.sandbox.tokens.grant_of(await source.access_token())
    return grant is not None and grant.user == account and grant.scopes == set(WRITE_SCOPES)


async def test_a_new_service_account_signs_in_with_its_new_key() -> None:
    async with connected() as side:
        account = await side.create()
        key = await side.admin.create_key(account.id)

        assert account.email == "mirror@sandbox.adskserviceaccount.autodesk.com"
        assert await can_sign_in(side, account.id, key.id, key.private_key)
        assert [found.id for found in await side.admin.keys(account.id)] == [key.id]
        assert key.private_key not in repr(key)


async def test_accounts_and_keys_are_listed_with_their_status() -> None:
    async with connected() as side:
        account = await side.create()
        await side.create("another")
        await side.admin.create_key(account.id)

        first, second = await side.admin.list()
        (key,) = await side.admin.keys(account.id)

        assert (first.id, first.status, second.email.partition("@")[0]) == (account.id, ENABLED, "another")
        assert (key.status, key.created_at) == (ENABLED, "2026-11-22 12:00:00.000000000 +0000 UTC")


async def test_each_call_has_a_token_with_its_one_scope() -> None:
    async with connected() as side:
        account = await side.create()
        await side.admin.keys(account.id)
        await side.admin.keys(account.id)

        grants = [
            side.sandbox.tokens.grant_of(call.headers["authorization"].removeprefix("Bearer "))
            for call in side.sandbox.calls
            if "service-accounts" in call.path
        ]
        scopes = [sorted(grant.scopes) for grant in grants if grant is not None]
        write, read = ["application:service_account:write"], ["application:service_account_key:read"]
        assert scopes == [write, read, read]
        assert side.sandbox.count("token", path_contains="/token") == 2


async def test_a_status_is_set_once() -> None:
    async with connected() as side:
        account = await side.create()

        await side.admin.set_status(account.id, DISABLED)
        await side.admin.set_status(account.id, DISABLED)

        assert [found.status for found in await side.admin.list()] == [DISABLED]
        assert side.calls("PATCH") == 1
        with pytest.raises(BadRequest, match="not currently in an enabled state"):
            await side.admin.keys(account.id)


async def test_what_is_deleted_twice_is_gone() -> None:
    async with connected() as side:
        account = await side.create()
        key = await side.admin.create_key(account.id)

        for _ in range(2):
            await side.admin.delete_key(account.id, key.id)
        assert await side.admin.keys(account.id) == ()
        for _ in range(2):
            await side.admin.delete(account.id)

        assert await side.admin.list() == ()
        with pytest.raises(NotFound):
            await side.admin.keys(account.id)


# --- lost answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOST)
async def test_an_account_whose_answer_was_lost_is_found_by_its_name(kind: str) -> None:
    async with connected() as side:
        side.fail(kind, "service-accounts$")

        account = await side.create()

        assert [found.id for found in await side.admin.list()] == [account.id]
        assert side.calls("POST") == 1


async def test_an_account_that_was_not_created_is_created_by_the_second_call() -> None:
    async with connected() as side:
        side.fail("status", "service-accounts$")

        account = await side.create()

        assert list(side.sandbox.service_accounts.accounts) == [account.id]


@pytest.mark.parametrize("kind", LOST)
async def test_a_key_whose_private_half_was_lost_is_replaced(kind: str) -> None:
    async with connected() as side:
        account = await side.create()
        older = await side.admin.create_key(account.id)
        side.fail(kind, "keys$", skip=1)

        key = await side.admin.create_key(account.id)

        assert [found.id for found in await side.admin.keys(account.id)] == [older.id, key.id]
        assert await can_sign_in(side, account.id, key.id, key.private_key)


@pytest.mark.parametrize("kind", LOST)
async def test_a_status_whose_answer_was_lost_is_looked_up(kind: str) -> None:
    async with connected() as side:
        account = await side.create()
        side.fail(kind, f"{account.id}$", skip=1)

        await side.admin.set_status(account.id, DISABLED)

        assert side.calls("PATCH") == 1


async def test_a_deletion_whose_answer_was_lost_is_repeated() -> None:
    async with connected() as side:
        account = await side.create()
        side.fail("lose-after-commit", f"{account.id}$")

        await side.admin.delete(account.id)

        assert side.sandbox.service_accounts.accounts == {}
        assert side.calls("DELETE") == 2


async def test_a_garbled_key_is_not_quoted(caplog: pytest.LogCaptureFixture) -> None:
    async with connected() as side:
        account = await side.create()
        side.fail("garble-after-commit", "keys$", skip=1)
        side.fail("status", "keys$", skip=1, times=None)

        with pytest.raises(ApiError) as caught:
            await side.admin.create_key(account.id)

        assert "BEGIN" not in f"{caught.value!r}{caplog.text}"


# --- refusals ---------------------------------------------------------------------------------------------------------


async def test_a_wrong_secret_is_reported_as_such() -> None:
    async with connected("wrong") as side:
        with pytest.raises(ClientRejected, match="The client is not known") as caught:
            await side.admin.list()

        assert "server-to-server app" in caught.value.advice


async def test_the_limits_and_a_used_name_are_reported_with_what_to_do() -> None:
    async with connected() as side:
        account = await side.create()
        for _ in range(MAX_KEYS):
            await side.admin.create_key(account.id)
        for number in range(MAX_ACCOUNTS - 1):
            await side.create(f"robot-{number}")

        with pytest.raises(BadRequest, match="already exists") as used:
            await side.create()
        with pytest.raises(AccessRefused, match="has exceeded the limit") as accounts:
            await side.create("one-more")
        with pytest.raises(AccessRefused, match="has exceeded the limit") as keys:
            await side.admin.create_key(account.id)

        assert "5 to 64 letters" in used.value.advice
        assert "at most 10 service accounts" in accounts.value.advice
        assert "at most 3 keys" in keys.value.advice


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, BadRequest),
        (401, ClientRejected),
        (403, AccessRefused),
        (404, NotFound),
        (418, BadAnswer),
        (429, RateLimited),
        (503, ApiFault),
    ],
)
async def test_a_refused_list_is_reported_in_the_words_of_the_api(status: int, error: type[Exception]) -> None:
    async with connected() as side:
        side.fail("refuse-error-object", "service-accounts", status=status, body=b"no robots here")

        with pytest.raises(error, match="no robots here"):
            await side.admin.list()


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'{"serviceAccounts": "x"}', b'{"serviceAccounts": [{"email": "a"}]}']
)
async def test_an_undocumented_list_is_a_bad_answer(body: bytes) -> None:
    async with connected() as side:
        side.fail("json", "service-accounts", body=body)

        with pytest.raises(BadAnswer):
            await side.admin.list()


async def test_a_key_without_a_private_half_is_unconfirmed() -> None:
    async with connected() as side:
        account = await side.create()
        side.fail("json", "keys$", body=b'{"kid": "x", "keys": []}', times=None)

        with pytest.raises(Unconfirmed, match="without its `privateKey`"):
            await side.admin.create_key(account.id)


async def test_an_expired_token_is_replaced_once() -> None:
    async with connected() as side:
        await side.admin.list()
        side.sandbox.tokens.revoke_access()

        assert await side.admin.list() == ()
        assert side.sandbox.count("token", path_contains="/token") == 2


async def test_without_a_connection_nothing_is_unconfirmed() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    endpoint = TokenEndpoint(base_url=address, client=Client(id="sandbox", secret="x"))
    async with connected() as side:
        admin = ServiceAccountAdmin(endpoint=side.endpoint, base_url=address)

        with pytest.raises(ApiUnreachable):
            await admin.create("mirror", first_name="dcsync", last_name="mirror")
        with pytest.raises(TokenEndpointUnavailable):
            await ServiceAccountAdmin(endpoint=endpoint, base_url=address).list()


async def test_a_token_endpoint_that_fails_is_unavailable() -> None:
    async with connected() as side:
        side.fail("status", "/token$")

        with pytest.raises(TokenEndpointUnavailable):
            await side.admin.list()
