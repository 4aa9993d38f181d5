"""The storage session: it sends the exact URL and no header of its own, only to allowed addresses."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler

from dcsync.api.client import DataConnector
from dcsync.api.limiter import Limiter
from dcsync.api.storage import Answer, PublicResolver, Storage, _pieces, open_storage
from dcsync.api.transport import ApiTransport
from dcsync.core.model import AccountId, JobId, SignedFile
from dcsync.core.urls import StoragePolicy
from dcsync.errors import StorageUnreachable, UnsafeUrl
from dcsync.sandbox import Options, Sandbox, World
from tests.fakes import FakeClock, FakeTokens, MemoryWindow

LOOPBACK = StoragePolicy(allow_loopback=True)
STRICT = StoragePolicy()
IDENTITY = {"Accept-Encoding": "identity"}
QUERY = "AWSAccessKeyId=A&Signature=hidden%2B%2f%3d&x-amz-security-token=a+b/c'd~e%7Ef"


def make_signed(url: str) -> SignedFile:
    return SignedFile(name="a.csv", size=None, url=url)


@asynccontextmanager
async def served(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """Serve every path on loopback."""
    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", handler)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def read_into(received: bytearray, answer: Answer) -> None:
    async for piece in answer.pieces:
        received += piece


async def fetched(
    url: str, *, policy: StoragePolicy = LOOPBACK, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of one download."""
    async with (
        open_storage(policy, connections=2) as storage,
        storage.get(make_signed(url), IDENTITY if headers is None else headers) as answer,
    ):
        return answer.status, dict(answer.headers), b"".join([piece async for piece in answer.pieces])


@pytest.mark.parametrize(
    "path",
    [
        "/bucket/a%2Fb%2fc",
        "/%7Euser/~user/%2E%2E/x",
        "/plus+and%2Bplus%20space",
        "/it's/(1)!*;:@&=$,",
        "//double//slash/",
        "/%C3%A9%e2%82%ac%25",
        "/[brackets]|^`{}",
        "/",
    ],
)
async def test_a_signed_url_goes_out_byte_for_byte(path: str) -> None:
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.raw_path)
        return web.Response(body=b"bytes")

    async with served(handler) as base:
        status, _, body = await fetched(f"{base}{path}?{QUERY}")

    assert seen == [f"{path}?{QUERY}"]
    assert (status, body) == (200, b"bytes")


async def test_no_header_is_sent_but_those_given() -> None:
    seen: list[dict[str, str]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append({name.lower(): value for name, value in request.headers.items()})
        return web.Response(headers={"Set-Cookie": "a=b; Path=/"})

    async with served(handler) as base:
        async with open_storage(LOOPBACK, connections=1) as storage:
            for headers in (IDENTITY, {**IDENTITY, "Range": "bytes=5-", "If-Match": '"etag"'}):
                async with storage.get(make_signed(f"{base}/x?{QUERY}"), headers) as answer:
                    assert [piece async for piece in answer.pieces] == []
        host = base.removeprefix("http://")

    assert seen == [
        {"host": host, "accept-encoding": "identity"},
        {"host": host, "accept-encoding": "identity", "range": "bytes=5-", "if-match": '"etag"'},
    ]


async def test_a_signed_url_of_the_sandbox_returns_the_bytes_of_the_file() -> None:
    world = World()
    name = "it's a/b+~é%.csv"
    job = world.add_job(world.add_request("Everything"), files={name: b"0123456789"}, with_archive=False)
    options = Options(require_auth=False)
    async with Sandbox(world, options=options) as sandbox, aiohttp.ClientSession() as session:
        clock = FakeClock()
        limiter = Limiter(requests_per_minute=60, clock=clock, window=MemoryWindow())
        transport = ApiTransport(session, base_url=sandbox.base_url, tokens=FakeTokens(), limiter=limiter, clock=clock)
        signed = await DataConnector(transport).sign(AccountId(world.account_id), JobId(job), name)

        whole = await fetched(signed.url)
        part = await fetched(signed.url, headers={**IDENTITY, "Range": "bytes=4-"})

    assert (whole[0], whole[2]) == (200, b"0123456789")
    assert (part[0], part[1]["content-range"], part[2]) == (206, "bytes 4-9/10", b"456789")


async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.raw_path)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    async with served(handler) as base:
        status, headers, _ = await fetched(f"{base}/x?{QUERY}")

    assert (status, headers["location"]) == (307, "/elsewhere")
    assert seen == [f"/x?{QUERY}"]


async def test_a_compressed_body_comes_as_it_was_sent() -> None:
    packed = gzip.compress(b"text " * 1000)

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    async with served(handler) as base:
        _, headers, body = await fetched(f"{base}/x?{QUERY}")

    assert body == packed
    assert headers["content-encoding"] == "gzip"


async def test_an_error_of_the_caller_is_not_a_storage_error() -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=b"x")

    async with served(handler) as base, open_storage(LOOPBACK, connections=1) as storage:
        with pytest.raises(ConnectionResetError, match="the caller's own"):
            async with storage.get(make_signed(f"{base}/x"), IDENTITY):
                raise ConnectionResetError("the caller's own")


# --- what breaks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
async def test_a_body_that_breaks_off_is_unreachable_after_the_received_pieces(chunked: bool) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if chunked:
            response.enable_chunked_encoding()
        else:
            response.content_length = 1000
        await response.prepare(request)
        await response.write(b"x" * 400)
        assert request.transport is not None
        request.transport.close()
        return response

    received = bytearray()
    async with (
        served(handler) as base,
        open_storage(LOOPBACK, connections=1) as storage,
        storage.get(make_signed(f"{base}/path-hidden?{QUERY}"), IDENTITY) as answer,
    ):
        with pytest.raises(StorageUnreachable, match=r"the response broke off|closed before") as caught:
            await read_into(received, answer)

    assert received == b"x" * 400
    assert "hidden" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_a_refused_connection_is_unreachable_and_names_the_host_only(unused_tcp_port: int) -> None:
    with pytest.raises(StorageUnreachable, match=f"no connection to 127.0.0.1:{unused_tcp_port}") as caught:
        await fetched(f"http://127.0.0.1:{unused_tcp_port}/path-hidden?{QUERY}")

    assert "hidden" not in f"{caught.value!r}"


# --- where it may go --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/x?hidden",
        "https://10.1.2.3/x?hidden",
        "https://192.168.0.1/x?hidden",
        "https://169.254.169.254/latest?hidden",
        "https://[::1]/x?hidden",
        "https://[::ffff:10.0.0.1]/x?hidden",
        "https://[fd00::1]/x?hidden",
        "https://224.0.0.1/x?hidden",
        "http://storage.example.com/x?hidden",
        "https://storage.example.com:8443/x?hidden",
        "https://user:hidden@storage.example.com/x",
        "ftp://storage.example.com/x?hidden",
        "file:///etc/passwd?hidden",
        "https:///x?hidden",
        "https://storage.example.com/x?hidden\r\nX: y",
    ],
)
async def test_an_unsafe_url_is_refused_without_a_connection_and_without_its_query(url: str) -> None:
    with pytest.raises(UnsafeUrl) as caught:
        await fetched(url, policy=STRICT)

    assert "hidden" not in str(caught.value)
    assert not caught.value.transient


class FakeResolver(AbstractResolver):
    """Resolves every name to the same addresses, as a rebinding attacker might."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.asked: list[str] = []
        self.closed = False

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self.addresses
        ]

    async def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("addresses", [("127.0.0.1",), ("10.0.0.1", "fe80::1"), ("169.254.169.254",), ("0.0.0.0",)])
async def test_a_name_with_a_private_address_is_unsafe(addresses: tuple[str, ...]) -> None:
    inner = FakeResolver(*addresses)
    connector = aiohttp.TCPConnector(resolver=PublicResolver(STRICT, inner))
    async with aiohttp.ClientSession(connector=connector) as session:
        storage = Storage(session, STRICT)

        with pytest.raises(UnsafeUrl, match=r"points to evil\.example\.com, whose address is not public") as caught:
            async with storage.get(make_signed("https://evil.example.com/x?hidden"), IDENTITY):
                pass

    assert inner.asked == ["evil.example.com"]
    assert "hidden" not in str(caught.value)


async def test_a_name_of_this_machine_is_unsafe_with_the_real_resolver() -> None:
    with pytest.raises(UnsafeUrl, match="localhost, whose address is not public"):
        await fetched("https://localhost/x?hidden", policy=STRICT)


async def test_a_name_that_does_not_resolve_is_unreachable_and_not_unsafe() -> None:
    class Nowhere(FakeResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            raise socket.gaierror(-2, "Name or service not known")

    connector = aiohttp.TCPConnector(resolver=PublicResolver(STRICT, Nowhere()))
    async with aiohttp.ClientSession(connector=connector) as session:
        with pytest.raises(StorageUnreachable, match=r"the name storage\.example\.com could not be resolved"):
            async with Storage(session, STRICT).get(make_signed("https://storage.example.com/x?hidden"), IDENTITY):
                pass


async def test_only_the_public_ones_of_a_names_addresses_are_kept() -> None:
    inner = FakeResolver("10.0.0.1", "52.216.1.1", "::1", "2600:1f18::1", "::ffff:192.168.1.1", "not an address")
    resolver = PublicResolver(STRICT, inner)

    found = await resolver.resolve("storage.example.com", 443)
    await resolver.close()

    assert [result["host"] for result in found] == ["52.216.1.1", "2600:1f18::1"]
    assert inner.closed


async def test_a_host_that_the_operator_named_may_be_private() -> None:
    resolver = PublicResolver(StoragePolicy(hosts=("*.lan",)), FakeResolver("10.0.0.1"))

    assert [result["host"] for result in await resolver.resolve("minio.lan")] == ["10.0.0.1"]
    with pytest.raises(OSError, match=r"minio\.wan"):
        await resolver.resolve("minio.wan")


async def test_a_session_with_a_bearer_token_is_refused() -> None:
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer x"}) as session:
        with pytest.raises(AssertionError):
            Storage(session, STRICT)


async def test_a_connection_that_is_lost_between_two_pieces_is_unreachable_and_not_a_bug() -> None:
    """In this case aiohttp raises a RuntimeError, which is not one of its own errors."""
    loop = asyncio.get_running_loop()
    lost = aiohttp.StreamReader(ResponseHandler(loop=loop), limit=1024, loop=loop)
    lost.feed_data(b"the first piece")
    response = SimpleNamespace(content=lost)

    pieces = _pieces(response)  # type: ignore[arg-type]

    assert await anext(pieces) == b"the first piece"
    with pytest.raises(StorageUnreachable, match="closed before the response was complete"):
        await anext(pieces)


# --- refusals ---------------------------------------------------------------------------------------------------------


async def test_a_refusal_has_its_reason_and_its_body() -> None:
    body = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message><Key>x</Key></Error>" + b" " * 9000

    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=403, body=body, headers={"x-amz-request-id": "5F0D"})

    async with (
        served(handler) as base,
        open_storage(LOOPBACK, connections=1) as storage,
        storage.get(make_signed(f"{base}/x?{QUERY}"), IDENTITY) as answer,
    ):
        assert answer.words == "AccessDenied: Request has expired (request ID 5F0D)"
        assert b"".join([piece async for piece in answer.pieces]) == body


@pytest.mark.parametrize(
    "page",
    [
        "Blocked {signature}",
        "Blocked {query}",
        "Blocked {url} by a proxy",
        "<title>Blocked</title>{signature}",
        "<Error><Code>Blocked</Code><Message>{signature} {query}</Message></Error>",
    ],
)
async def test_a_refusal_cannot_repeat_the_signed_url(page: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        told = {"url": request.url, "query": request.query_string, "signature": request.query["Signature"]}
        return web.Response(status=403, text=page.format(**told))

    async with (
        served(handler) as base,
        open_storage(LOOPBACK, connections=1) as storage,
        storage.get(make_signed(f"{base}/x?{QUERY}"), IDENTITY) as answer,
    ):
        assert answer.words.startswith("Blocked")
        assert "…" in answer.words
        assert not any(secret in answer.words for secret in ("hidden", "AWSAccessKeyId=A", "a+b"))


async def test_a_refusal_that_never_ends_is_cut_off_and_one_that_breaks_off_is_no_error() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=503)
        await response.prepare(request)
        while request.path == "/endless":
            await response.write(b"slow down " * 1000)
        await response.write(b"slow down")
        assert request.transport is not None
        request.transport.abort()
        return response

    async with served(handler) as base, open_storage(LOOPBACK, connections=1) as storage:
        for path in ("/endless", "/broken"):
            async with storage.get(make_signed(f"{base}{path}?{QUERY}"), IDENTITY) as answer:
                assert answer.words.startswith("slow down")
