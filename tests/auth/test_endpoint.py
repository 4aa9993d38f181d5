"""The token endpoint: what is sent, when, and what each response means for the token."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import pytest

from dcsync.auth.endpoint import Client, Granted, TokenEndpoint
from dcsync.errors import (
    AuthError,
    ClientRejected,
    DcsyncError,
    LoginRefused,
    LoginRequired,
    TokenEndpointUnavailable,
    TokenUndecided,
)
from dcsync.sandbox import Fault, Options, Sandbox, World
from dcsync.sandbox.refusals import KINDS, REQUEST_ID

PRIVATE = Client(id="sandbox", secret="sandbox-secret")
PUBLIC = Client(id="sandbox")


@dataclass(slots=True)
class Recorder:
    """A server that records every byte and answers each connection once with `answer`."""

    answer: bytes = b""
    connections: int = 0
    received: list[bytes] = field(default_factory=list)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
            )
            self.received.append(head + await reader.readexactly(length))
            writer.write(self.answer)
        finally:
            writer.close()

    @property
    def headers(self) -> dict[str, str]:
        lines = self.received[-1].partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    @property
    def form(self) -> dict[str, list[str]]:
        return parse_qs(self.received[-1].partition(b"\r\n\r\n")[2].decode())


@asynccontextmanager
async def recording(body: object = None) -> AsyncIterator[Recorder]:
    payload = json.dumps({"access_token": "a", "refresh_token": "r"} if body is None else body).encode()
    recorder = Recorder(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(payload), payload))
    server = await asyncio.start_server(recorder.serve, "127.0.0.1", 0)
    async with server:
        recorder.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield recorder


@asynccontextmanager
async def sandboxed(client: Client = PRIVATE) -> AsyncIterator[tuple[Sandbox, TokenEndpoint]]:
    async with Sandbox(World(), options=Options(client_secret=client.secret)) as sandbox:
        yield sandbox, TokenEndpoint(base_url=sandbox.base_url, client=client)


async def nothing() -> None:
    """Do nothing before the token is used."""


async def answered(body: bytes, **fault: int | dict[str, str]) -> Granted:
    """Return the client's result for one response of the token endpoint."""
    async with sandboxed() as (sandbox, endpoint):
        sandbox.faults.add(Fault(server="token", kind="status", body=body, **fault))  # type: ignore[arg-type]
        return await endpoint.refresh("secret-refresh", before_use=nothing)


@pytest.mark.parametrize("client", [PRIVATE, PUBLIC], ids=["confidential", "public"])
async def test_a_refresh_returns_the_next_pair(client: Client) -> None:
    async with sandboxed(client) as (sandbox, endpoint):
        first = sandbox.tokens.issue_refresh_token("tester")

        granted = await endpoint.refresh(first, before_use=nothing)

        assert sandbox.tokens.live_refresh_tokens == {granted.refresh_token}
        assert sandbox.tokens.accepts(granted.access_token)
        assert granted.refresh_token != first
        assert granted.lifetime_s == 3600


async def test_a_confidential_client_sends_its_credentials_only_in_the_header() -> None:
    async with recording() as server:
        endpoint = TokenEndpoint(base_url=server.url, client=Client(id="an id", secret="s:é/+"))

        await endpoint.refresh("re/fr+esh=", before_use=nothing)

        assert server.received[0].startswith(b"POST /authentication/v2/token HTTP/1.1\r\n")
        assert server.form == {"grant_type": ["refresh_token"], "refresh_token": ["re/fr+esh="]}
        assert server.headers["authorization"] == "Basic " + base64.b64encode("an id:s:é/+".encode()).decode()
        assert server.headers["content-type"].startswith("application/x-www-form-urlencoded")


async def test_a_public_client_sends_its_id_only_in_the_body() -> None:
    async with recording() as server:
        endpoint = TokenEndpoint(base_url=server.url + "/", client=PUBLIC)

        await endpoint.refresh("refresh", before_use=nothing)

        assert server.form == {
            "grant_type": ["refresh_token"],
            "refresh_token": ["refresh"],
            "client_id": ["sandbox"],
        }
        assert "authorization" not in server.headers
        assert server.received[0].startswith(b"POST /authentication/v2/token HTTP/1.1\r\n")


async def test_the_connection_is_up_and_nothing_is_sent_when_the_token_is_about_to_be_used() -> None:
    async with recording() as server:
        endpoint = TokenEndpoint(base_url=server.url, client=PRIVATE)
        seen: list[tuple[int, list[bytes]]] = []

        async def look() -> None:
            for _ in range(50):
                await asyncio.sleep(0)  # noqa: TID251 - the server's turn
            seen.append((server.connections, list(server.received)))

        await endpoint.refresh("one", before_use=look)
        await endpoint.refresh("two", before_use=look)

    # The second refresh opens a new connection, because an idle one may be dead.
    assert [connections for connections, _ in seen] == [1, 2]
    assert seen[0][1] == []
    assert len(seen[1][1]) == 1


async def test_an_error_before_the_use_keeps_the_token_from_being_sent() -> None:
    class CannotNote(DcsyncError):
        pass

    async def fail() -> None:
        raise CannotNote("the disk is full")

    async with sandboxed() as (sandbox, endpoint):
        first = sandbox.tokens.issue_refresh_token("tester")

        with pytest.raises(CannotNote):
            await endpoint.refresh(first, before_use=fail)

        assert sandbox.calls == []
        assert sandbox.tokens.live_refresh_tokens == {first}


async def test_a_refused_connection_does_not_use_the_token(unused_tcp_port: int) -> None:
    asked: list[bool] = []

    async def note() -> None:
        asked.append(True)

    endpoint = TokenEndpoint(base_url=f"http://127.0.0.1:{unused_tcp_port}", client=PRIVATE)

    with pytest.raises(TokenEndpointUnavailable, match="no token was used") as caught:
        await endpoint.refresh("secret-refresh", before_use=note)

    assert caught.value.transient
    assert asked == []
    assert "secret-refresh" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "committed"),
    [("lose-after-commit", 1), ("garble-after-commit", 1), ("fail-after-commit", 1), ("reset", 0), ("endless", 0)],
)
async def test_without_a_complete_response_the_refresh_is_unconfirmed(kind: str, committed: int) -> None:
    async with sandboxed() as (sandbox, endpoint):
        first = sandbox.tokens.issue_refresh_token("tester")
        sandbox.faults.add(Fault(server="token", kind=kind, status=502))  # type: ignore[arg-type]

        with pytest.raises(TokenUndecided) as caught:
            await endpoint.refresh(first, before_use=nothing)

        assert caught.value.transient
        assert first not in str(caught.value)
        assert sandbox.tokens.refresh_count == committed
        assert len(sandbox.calls) <= 1  # never repeated by the HTTP client on its own


OAUTH_GRANT = b'{"error": "invalid_grant", "error_description": "The refresh token is invalid or expired"}'
APS_GRANT = b'{"developerMessage": "The refresh token is dead", "errorCode": "invalid_grant"}'


@pytest.mark.parametrize(
    ("status", "body", "raised"),
    [
        (400, OAUTH_GRANT, LoginRequired),
        (401, OAUTH_GRANT, LoginRequired),
        (403, APS_GRANT, LoginRequired),
        (400, b'{"developerMessage": "invalid_grant"}', LoginRequired),
        (401, b'{"error": "invalid_client"}', ClientRejected),
        (400, b'{"error": "unauthorized_client"}', ClientRejected),
        (400, b'{"error": "invalid_request"}', ClientRejected),
        (403, b"<html>Forbidden</html>", ClientRejected),
        (429, b"", TokenEndpointUnavailable),
        (429, OAUTH_GRANT, TokenEndpointUnavailable),
        # Not definite: the endpoint behind a gateway may have rotated the token.
        (500, OAUTH_GRANT, TokenUndecided),
        (502, b"<html>Bad gateway</html>", TokenUndecided),
        (503, b"", TokenUndecided),
        (400, b"<html>invalid_grant</html>", TokenUndecided),
        (400, b'["invalid_grant"]', TokenUndecided),
        (404, b"", TokenUndecided),
        (307, b"", TokenUndecided),
    ],
)
async def test_each_response_has_its_meaning_for_the_token(status: int, body: bytes, raised: type[AuthError]) -> None:
    with pytest.raises(AuthError, match=f"returned {status}") as caught:
        await answered(body, status=status)

    assert type(caught.value) is raised
    assert "secret-refresh" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("header", "asked"), [("17", 17.0), ("1000000000", 3600.0), ("soon", None), (None, None)])
async def test_the_pause_that_a_429_asks_for_is_passed_on(header: str | None, asked: float | None) -> None:
    with pytest.raises(TokenEndpointUnavailable) as caught:
        await answered(b"", status=429, headers={} if header is None else {"Retry-After": header})

    assert caught.value.retry_after_s == asked


async def test_a_redirect_does_not_send_the_token_elsewhere() -> None:
    async with recording() as elsewhere, sandboxed() as (sandbox, endpoint):
        headers = {"Location": f"{elsewhere.url}/authentication/v2/token"}
        sandbox.faults.add(Fault(server="token", kind="status", status=307, headers=headers))

        with pytest.raises(TokenUndecided, match="307"):
            await endpoint.refresh("refresh", before_use=nothing)

        assert elsewhere.connections == 0


@pytest.mark.parametrize(
    ("expires_in", "lifetime_s"),
    [
        ("1800", 1800.0),
        ('"1800"', 1800.0),
        ("3599.5", 3599.5),
        ("null", 3600.0),
        ('"soon"', 3600.0),
        ("[]", 3600.0),
        ("NaN", 3600.0),
        ("1e12", 3600.0),
        ("1000000000000", 3600.0),
        ("1" + "0" * 400, 3600.0),
        ("Infinity", 3600.0),
        ("0", 60.0),
        ("-5", 60.0),
        ("59", 60.0),
        ("-Infinity", 60.0),
    ],
)
async def test_any_lifetime_is_clamped_to_between_a_minute_and_an_hour(expires_in: str, lifetime_s: float) -> None:
    body = f'{{"access_token": "a", "refresh_token": "r", "expires_in": {expires_in}}}'.encode()

    assert (await answered(body, status=200)).lifetime_s == lifetime_s


async def test_a_response_without_a_lifetime_is_valid_for_an_hour() -> None:
    assert (await answered(b'{"access_token": "a", "refresh_token": "r"}', status=200)).lifetime_s == 3600.0


@pytest.mark.parametrize("more", ["", ', "refresh_token": null', ', "refresh_token": ""', ', "refresh_token": 7'])
async def test_an_answer_without_a_refresh_token_says_so(more: str) -> None:
    granted = await answered(f'{{"access_token": "a"{more}}}'.encode(), status=200)

    assert granted == Granted(access_token="a", refresh_token=None, lifetime_s=3600.0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Sign in</html>",
        b"[]",
        b"null",
        b"{}",
        b'{"access_token": ""}',
        b'{"access_token": 7}',
        b"[" * 99999,
    ],
)
async def test_a_200_without_an_access_token_is_unconfirmed(body: bytes) -> None:
    with pytest.raises(TokenUndecided, match="200 without usable tokens"):
        await answered(body, status=200)


def test_no_repr_shows_a_secret() -> None:
    shown = repr(Granted(access_token="hidden-a", refresh_token="hidden-r", lifetime_s=60.0)) + repr(
        Client(id="shown", secret="hidden-s")
    )

    assert "hidden" not in shown
    assert "shown" in shown


# --- the words of the server ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_a_refusal_shows_why_and_the_request_id(kind: Any) -> None:
    async with sandboxed() as (sandbox, endpoint):
        sandbox.faults.add(Fault(server="token", kind=kind, status=403, body=b"the app lacks the API"))

        with pytest.raises(ClientRejected, match="the app lacks the API") as caught:
            await endpoint.refresh("secret-refresh", before_use=nothing)

    assert f"request ID {REQUEST_ID}" in str(caught.value)


@pytest.mark.parametrize(
    ("body", "raised"),
    [
        (b'{"developerMessage": "invalid_grant: the refresh token is gone", "errorCode": "AUTH-004"}', LoginRequired),
        (b'{"developerMessage": "The request failed: invalid_client", "errorCode": "AUTH-001"}', ClientRejected),
        (b'{"error": {"code": "invalid_grant", "message": "gone"}}', LoginRequired),
        (b'{"developerMessage": "not_invalid_grant_x", "errorCode": "AUTH-9"}', TokenUndecided),
    ],
)
async def test_autodesks_own_format_is_understood(body: bytes, raised: type[AuthError]) -> None:
    with pytest.raises(AuthError) as caught:
        await answered(body, status=400)

    assert type(caught.value) is raised


async def test_a_definite_refusal_without_a_known_code_says_what_to_do_if_it_stays() -> None:
    with pytest.raises(TokenUndecided, match="AUTH-999") as caught:
        await answered(b'{"developerMessage": "no", "errorCode": "AUTH-999"}', status=400)

    assert "dcsync login" in caught.value.advice


async def test_the_secrets_of_a_request_are_not_repeated() -> None:
    basic = base64.b64encode(f"{PRIVATE.id}:{PRIVATE.secret}".encode()).decode()
    words = f"secret-refresh and {PRIVATE.secret} and Basic {basic} are wrong"

    with pytest.raises(TokenUndecided, match="… and … and … are wrong"):
        await answered(json.dumps({"detail": words}).encode(), status=400)


@pytest.mark.parametrize(
    ("fault", "raised"),
    [
        (Fault(server="token", kind="status", status=400, body=b'{"error": "invalid_grant"}'), LoginRefused),
        (Fault(server="token", kind="status", status=404), LoginRefused),
        (Fault(server="token", kind="status", status=502), LoginRefused),
        (Fault(server="token", kind="reset"), LoginRefused),
        (Fault(server="token", kind="json", body=b"{}"), LoginRefused),
        (Fault(server="token", kind="status", status=429), TokenEndpointUnavailable),
        (Fault(server="token", kind="status", status=401, body=b'{"error": "invalid_client"}'), ClientRejected),
    ],
)
async def test_a_sign_in_that_fails_says_to_sign_in_again(fault: Fault, raised: type[AuthError]) -> None:
    """Nothing retries with a code, so "dcsync keeps the refresh token and retries" would be wrong."""
    async with sandboxed() as (sandbox, endpoint):
        sandbox.faults.add(fault)

        with pytest.raises(AuthError) as caught:
            await endpoint.exchange("a-secret-code", verifier="v" * 43, redirect_uri="http://localhost:8080/callback")

    assert type(caught.value) is raised
    assert "refresh token and retries" not in caught.value.advice
