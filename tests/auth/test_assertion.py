"""The service account's assertion and its access tokens."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import timedelta

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from dcsync.auth.assertion import sign_assertion
from dcsync.auth.endpoint import Client, TokenEndpoint
from dcsync.auth.source import ServiceAccountToken
from dcsync.errors import (
    AuthError,
    ClientRejected,
    PrivateKeyUnusable,
    ServiceAccountRejected,
    TokenEndpointUnavailable,
)
from dcsync.sandbox import Fault, Sandbox, World
from tests.fakes import NOON, FakeClock

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ACCOUNT, KID = "SERVICEACCOUNT1", "key-1"


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = KEY, password: bytes | None = None) -> str:
    encryption = serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption).decode()


def public(key: rsa.RSAPrivateKey = KEY) -> str:
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def sign(private_key: str) -> str:
    return sign_assertion(
        client_id="sandbox",
        service_account_id=ACCOUNT,
        key_id=KID,
        private_key=private_key,
        audience="https://a/t",
        now=NOON,
    )


def make_source(sandbox: Sandbox, clock: FakeClock, *, private_key: str | None = None) -> ServiceAccountToken:
    return ServiceAccountToken(
        endpoint=TokenEndpoint(base_url=sandbox.base_url, client=Client(id="sandbox", secret="sandbox-secret")),
        service_account_id=ACCOUNT,
        key_id=KID,
        private_key=pem() if private_key is None else private_key,
        clock=clock,
    )


def make_sandbox(clock: FakeClock) -> Sandbox:
    sandbox = Sandbox(World(now=lambda: clock.now().timestamp()))
    sandbox.tokens.service_accounts[ACCOUNT] = {KID: public()}
    return sandbox


def test_the_claims_and_the_header_are_as_documented() -> None:
    assertion = sign(pem())

    claims = jwt.decode(
        assertion, public(), algorithms=["RS256"], audience="https://a/t", options={"verify_exp": False}
    )
    assert jwt.get_unverified_header(assertion) == {"alg": "RS256", "kid": KID, "typ": "JWT"}
    assert claims == {
        "iss": "sandbox",
        "sub": ACCOUNT,
        "aud": "https://a/t",
        "scope": ["data:read"],
        "exp": int((NOON + timedelta(seconds=240)).timestamp()),
    }


def test_a_key_with_escaped_line_breaks_is_accepted() -> None:
    assert sign(pem().replace("\n", "\\n")).count(".") == 2


@pytest.mark.parametrize(
    "key",
    ["", "no key", pem()[:200], pem(password=b"x"), public(), pem(ec.generate_private_key(ec.SECP256R1()))],
    ids=["empty", "words", "cut", "encrypted", "public", "elliptic"],
)
def test_an_unusable_key_is_reported_without_being_shown(key: str) -> None:
    with pytest.raises(PrivateKeyUnusable) as caught:
        sign(key)

    assert "BEGIN" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


async def test_a_token_is_obtained_on_demand_and_renewed_before_its_hour_is_over() -> None:
    clock = FakeClock()
    async with make_sandbox(clock) as sandbox:
        source = make_source(sandbox, clock)

        first = await source.access_token()
        clock.advance(54 * 60)
        assert await source.access_token() == first
        clock.advance(2 * 60)
        second = await source.access_token()

        assert second != first
        assert sandbox.count("token") == 2


async def test_many_tasks_obtain_one_token() -> None:
    clock = FakeClock()
    async with make_sandbox(clock) as sandbox:
        source = make_source(sandbox, clock)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(source.access_token()) for _ in range(20)]

        assert len({task.result() for task in tasks}) == 1
        assert sandbox.count("token") == 1


async def test_a_rejected_token_is_replaced_once_for_all_callers() -> None:
    clock = FakeClock()
    async with make_sandbox(clock) as sandbox:
        source = make_source(sandbox, clock)
        first = await source.access_token()

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(source.access_token(rejected=first)) for _ in range(5)]

        assert {task.result() for task in tasks}.isdisjoint({first})
        assert sandbox.count("token") == 2


@pytest.mark.parametrize("skew_s", [-200, 50])
async def test_a_slightly_wrong_clock_still_gets_a_token(skew_s: float) -> None:
    theirs, ours = FakeClock(), FakeClock()
    ours.set_wall(NOON + timedelta(seconds=skew_s))
    async with make_sandbox(theirs) as sandbox:
        assert await make_source(sandbox, ours).access_token()


@pytest.mark.parametrize("skew_s", [-250, 70])
async def test_a_very_wrong_clock_is_rejected_with_a_hint_about_the_clock(skew_s: float) -> None:
    theirs, ours = FakeClock(), FakeClock()
    ours.set_wall(NOON + timedelta(seconds=skew_s))
    async with make_sandbox(theirs) as sandbox:
        with pytest.raises(ServiceAccountRejected, match="exp is not within 300 seconds") as caught:
            await make_source(sandbox, ours).access_token()

        assert "clock" in caught.value.advice


async def test_a_rejected_assertion_is_not_signed_again_for_five_minutes() -> None:
    clock = FakeClock()
    async with make_sandbox(clock) as sandbox:
        sandbox.tokens.service_accounts.clear()
        source = make_source(sandbox, clock)

        for _ in range(3):
            with pytest.raises(ServiceAccountRejected):
                await source.access_token()
        assert sandbox.count("token") == 1

        sandbox.tokens.service_accounts[ACCOUNT] = {KID: public()}
        clock.advance(301)
        assert await source.access_token()


@pytest.mark.parametrize(
    ("fault", "raised"),
    [
        (Fault(server="token", kind="status", status=502), TokenEndpointUnavailable),
        (Fault(server="token", kind="status", status=401, body=b'{"error": "invalid_client"}'), ClientRejected),
    ],
)
async def test_other_responses_are_distinguished_from_a_rejected_account(fault: Fault, raised: type[AuthError]) -> None:
    clock = FakeClock()
    async with make_sandbox(clock) as sandbox:
        sandbox.faults.add(fault)
        source = make_source(sandbox, clock)

        with pytest.raises(raised):
            await source.access_token()

        assert await source.access_token()


async def test_an_assertion_signed_by_another_key_is_rejected() -> None:
    clock = FakeClock()
    async with make_sandbox(clock) as sandbox:
        other = rsa.generate_private_key(public_exponent=65537, key_size=2048)

        with pytest.raises(ServiceAccountRejected):
            await make_source(sandbox, clock, private_key=pem(other)).access_token()


def test_pyjwt_is_imported_only_when_something_is_signed() -> None:
    script = (
        "import sys, dcsync.app.sync, dcsync.auth.source; print('jwt' in sys.modules, 'cryptography' in sys.modules)"
    )

    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert result.stdout.split() == ["False", "False"]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b'{"error": "invalid_grant", "error_description": "the key is revoked"}'),
        (400, b'{"error": "invalid_request", "error_description": "the key is revoked"}'),
        (400, b'{"error": "invalid_scope", "error_description": "the key is revoked"}'),
        (400, b'{"developerMessage": "the key is revoked", "errorCode": "AUTH-999"}'),
        (400, b"<html>the key is revoked</html>"),
        (401, b'{"developerMessage": "the key is revoked", "errorCode": "AUTH-003"}'),
        (403, b'{"errors": [{"detail": "the key is revoked"}]}'),
        (404, b'{"detail": "the key is revoked"}'),
        (422, b'{"error": {"message": "the key is revoked"}}'),
    ],
)
async def test_every_definite_refusal_is_about_the_account_the_key_or_the_clock(status: int, body: bytes) -> None:
    clock = FakeClock()
    async with make_sandbox(clock) as sandbox:
        sandbox.faults.add(Fault(server="token", kind="status", status=status, body=body, times=None))

        with pytest.raises(ServiceAccountRejected, match="the key is revoked") as caught:
            await make_source(sandbox, clock).access_token()

    assert not caught.value.transient
    for word in ("service_account_id", "key_id", "private_key", "clock"):
        assert word in caught.value.advice
    assert "this host's clock" not in str(caught.value).lower()


@pytest.mark.parametrize(
    "fault",
    [
        Fault(server="token", kind="status", status=408),
        Fault(server="token", kind="status", status=429),
        Fault(server="token", kind="status", status=500),
        Fault(server="token", kind="reset"),
        Fault(server="token", kind="json", body=b"{}"),
    ],
)
async def test_what_may_pass_is_retried_without_a_word_about_refresh_tokens(fault: Fault) -> None:
    clock = FakeClock()
    async with make_sandbox(clock) as sandbox:
        sandbox.faults.add(fault)
        source = make_source(sandbox, clock)

        with pytest.raises(TokenEndpointUnavailable) as caught:
            await source.access_token()

        assert caught.value.transient
        assert "refresh token" not in caught.value.advice
        assert await source.access_token()


@pytest.mark.parametrize(("skew_s", "said"), [(-250, "250 s behind"), (70, "70 s ahead of")])
async def test_a_wrong_clock_is_named_in_the_refusal(skew_s: float, said: str) -> None:
    theirs, ours = FakeClock(), FakeClock()
    ours.set_wall(NOON + timedelta(seconds=skew_s))
    async with make_sandbox(theirs) as sandbox:
        with pytest.raises(ServiceAccountRejected, match=f"This host's clock is {said} Autodesk's"):
            await make_source(sandbox, ours).access_token()


async def test_an_unknown_client_is_about_the_client() -> None:
    clock = FakeClock()
    async with make_sandbox(clock) as sandbox:
        body = b'{"error": "invalid_client", "error_description": "no such app"}'
        sandbox.faults.add(Fault(server="token", kind="status", status=401, body=body))

        with pytest.raises(ClientRejected, match="no such app") as caught:
            await make_source(sandbox, clock).access_token()

    assert "client_secret" in caught.value.advice
    assert "refresh token" not in caught.value.advice


async def test_a_token_that_the_api_rejects_although_it_is_new_is_about_the_account() -> None:
    """A service account has no sign-in, so `dcsync login` would be refused."""
    clock = FakeClock()
    async with make_sandbox(clock) as sandbox:
        error = make_source(sandbox, clock).refused("the API rejected the access token. It said: no product")

    assert isinstance(error, ServiceAccountRejected)
    assert "no product" in error.message
    assert "login" not in error.advice
    assert "Custom Integrations" in error.advice
