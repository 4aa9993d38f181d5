"""The HTTP pages, requested by untrusted clients (docs/project/faults.md S11)."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta

import aiohttp
import pytest
import structlog

from dcsync.clock import Clock, SystemClock
from dcsync.core.model import Json
from dcsync.daemon.listening import MAX_CONNECTIONS, Limits, Listening, serving
from dcsync.daemon.pages import MAX_BODY, Pages
from dcsync.log import configure
from tests.rigs.mirror import TODAY
from tests.rigs.virtual import VirtualClock

SECRET = "s" * 43
GOOD = json.dumps({"accountId": "a", "requestId": "r", "jobId": "j", "state": "complete", "success": True})


@dataclass(slots=True)
class FakeDaemon:
    able: bool = True
    page: bytes | None = b"<!doctype html><title>report</title>"
    hints: list[tuple[str, str]] = field(default_factory=list)
    alive: bool = True
    metrics: bytes = b"dcsync_stale 0\n"
    has_bug: bool = False

    async def health(self) -> tuple[bool, dict[str, Json]]:
        return self.able, {"status": "ok" if self.able else "not ok"}

    def is_alive(self) -> bool:
        if self.has_bug:
            raise ZeroDivisionError
        return self.alive

    async def figures(self) -> bytes:
        return self.metrics

    async def report(self) -> bytes | None:
        return self.page

    async def hint(self, account_id: str, request_id: str) -> None:
        self.hints.append((account_id, request_id))


@dataclass(slots=True)
class Rig:
    daemon: FakeDaemon
    port: int
    session: aiohttp.ClientSession

    async def get(self, path: str, *, host: str | None = None) -> tuple[int, bytes]:
        headers = {} if host is None else {"Host": host}
        async with self.session.get(f"http://127.0.0.1:{self.port}{path}", headers=headers) as answer:
            return answer.status, await answer.read()

    async def post(self, path: str, body: bytes | str, *, host: str | None = None) -> tuple[int, bytes]:
        headers = {} if host is None else {"Host": host}
        async with self.session.post(f"http://127.0.0.1:{self.port}{path}", data=body, headers=headers) as answer:
            return answer.status, await answer.read()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with served(patience_s=120.0) as rig:
        yield rig


@pytest.fixture
async def hasty() -> AsyncIterator[Rig]:
    """Pages that are served only to clients that are faster than some tests."""
    async with served(patience_s=1.0) as rig:
        yield rig


@asynccontextmanager
async def served(*, patience_s: float) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        daemon = FakeDaemon()
        serving = serve(daemon, hosts=["mirror.example.com"], patience_s=patience_s)
        listening = await stack.enter_async_context(serving)
        assert listening.address is not None
        yield Rig(daemon, listening.address[1], await stack.enter_async_context(aiohttp.ClientSession()))


def serve(
    daemon: FakeDaemon,
    *,
    port: int = 0,
    host: str = "127.0.0.1",
    clock: Clock | None = None,
    hosts: Sequence[str] = (),
    patience_s: float = 120.0,
) -> AbstractAsyncContextManager[Listening]:
    pages = Pages(daemon, secret=SECRET, patience_s=patience_s)
    limits = Limits(patience_s=patience_s, answer_s=2 * patience_s)
    clock = clock or SystemClock()
    return serving(pages.routes(), host, port, clock=clock, hosts=hosts, limits=limits, max_body=MAX_BODY)


async def test_health_is_200_or_503(rig: Rig) -> None:
    assert await rig.get("/healthz") == (200, b'{"status": "ok"}')
    rig.daemon.able = False

    assert await rig.get("/healthz") == (503, b'{"status": "not ok"}')


async def test_a_daemon_that_works_is_alive_whatever_its_data(rig: Rig) -> None:
    rig.daemon.able = False
    assert await rig.get("/livez") == (200, b'{"status": "ok"}')
    rig.daemon.alive = False

    assert await rig.get("/livez") == (503, b'{"status": "stuck"}')


async def test_metrics_and_report_are_served(rig: Rig) -> None:
    assert await rig.get("/metrics") == (200, b"dcsync_stale 0\n")
    assert await rig.get("/") == await rig.get("/index.html") == (200, rig.daemon.page)
    rig.daemon.page = None

    assert (await rig.get("/"))[0] == 404


async def test_nothing_else_is_served(rig: Rig) -> None:
    for path in ("/callback", "/.dcsync/instance", "/../etc/passwd", "/callback/", "/admin"):
        assert (await rig.get(path))[0] in {404, 405}


async def test_a_callback_is_recorded(rig: Rig) -> None:
    assert await rig.post(f"/callback/{SECRET}", GOOD) == (204, b"")

    assert rig.daemon.hints == [("a", "r")]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/callback/" + "x" * 43, GOOD, 404),
        ("/callback/" + "s" * 42, GOOD, 404),
        ("/callback/%FF%FE", GOOD, 404),
        (f"/callback/{SECRET}", "not json", 400),
        (f"/callback/{SECRET}", "[" * 10000, 400),
        (f"/callback/{SECRET}", "[]", 400),
        (f"/callback/{SECRET}", '{"accountId": 1, "requestId": "r"}', 400),
        (f"/callback/{SECRET}", "", 400),
        (f"/callback/{SECRET}", "x" * (MAX_BODY + 1), 413),
    ],
)
async def test_other_callbacks_get_an_empty_error(rig: Rig, path: str, body: str, status: int) -> None:
    assert await rig.post(path, body) == (status, b"")
    assert rig.daemon.hints == []


async def test_a_wrong_http_method_is_rejected(rig: Rig) -> None:
    assert (await rig.get(f"/callback/{SECRET}"))[0] == 405
    assert (await rig.post("/healthz", ""))[0] == 405


async def connect(rig: Rig) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", rig.port)


async def test_an_endless_body_is_not_read_beyond_the_limit(rig: Rig) -> None:
    reader, writer = await connect(rig)
    head = f"POST /callback/{SECRET} HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(head.encode())
    sent = 0
    try:
        while sent < 64 << 20:
            writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
            await writer.drain()
            sent += 0x10000
    except (ConnectionError, OSError):
        pass
    writer.close()

    assert sent < 16 << 20  # the size of the buffers, not 64 MiB
    assert rig.daemon.hints == []
    del reader


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"GET /healthz HTTP/1.1\r\nX-Slow: ",
        f"POST /callback/{SECRET} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n".encode(),
    ],
    ids=["nothing", "half of the headers", "no body"],
)
async def test_a_slow_client_is_disconnected(hasty: Rig, beginning: bytes) -> None:
    reader, writer = await connect(hasty)
    writer.write(beginning)

    async with asyncio.timeout(120):
        answer = await reader.read()

    assert answer == b"" or answer.startswith(b"HTTP/1.1 408")
    writer.close()


async def test_connections_above_64_are_closed_and_the_others_still_work(rig: Rig) -> None:
    held = [await connect(rig) for _ in range(MAX_CONNECTIONS)]
    reader, writer = await connect(rig)

    async with asyncio.timeout(120):
        assert await reader.read() == b""  # above the limit

    for _, other in (*held, (reader, writer)):
        other.close()
    while True:
        try:
            assert (await rig.get("/healthz"))[0] == 200
            return
        except aiohttp.ClientError:
            continue  # the server has not noticed yet that they are gone


async def test_no_connection_is_kept(rig: Rig) -> None:
    reader, writer = await connect(rig)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")

    async with asyncio.timeout(120):
        answer = await reader.read()  # to its end

    assert answer.startswith(b"HTTP/1.1 200")
    writer.close()


# --- clients that do not read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/metrics", "/"])
async def test_clients_that_never_read_a_large_answer_are_disconnected(hasty: Rig, path: str) -> None:
    # More than the buffers of both ends hold.
    hasty.daemon.page = hasty.daemon.metrics = b"x" * (16 << 20)
    silent = [socket.create_connection(("127.0.0.1", hasty.port)) for _ in range(MAX_CONNECTIONS)]
    try:
        for each in silent:
            each.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())

        async with asyncio.timeout(120):
            while True:
                with suppress(aiohttp.ClientError):
                    if (await hasty.get("/healthz"))[0] == 200:
                        break
                await asyncio.sleep(0.05)  # noqa: TID251 - the server's deadline is real time
        assert await hasty.post(f"/callback/{SECRET}", GOOD) == (204, b"")
    finally:
        for each in silent:
            each.close()


# --- malformed requests -----------------------------------------------------------------------------------------------

MALFORMED = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nBad Header\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
    f"POST /callback/{SECRET} HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".encode(),
    f"POST /callback/{SECRET} HTTP/7\r\nHost: x\r\n\r\n".encode(),
]


@pytest.mark.parametrize("request_", MALFORMED)
async def test_malformed_requests_log_one_line_without_a_traceback_or_a_secret(
    rig: Rig, request_: bytes, logged: io.StringIO
) -> None:
    for _ in range(3):
        reader, writer = await connect(rig)
        writer.write(request_)
        async with asyncio.timeout(60):
            await reader.read()
        writer.close()

    lines = logged.getvalue().splitlines()
    # What is no HTTP at all is common on an open port, and not logged.
    expected = [] if request_.startswith(b"\x16") else [("malformed HTTP request", "127.0.0.1")]
    assert [(json.loads(line)["event"], json.loads(line)["client"]) for line in lines] == expected
    assert "Traceback" not in logged.getvalue()
    assert SECRET not in logged.getvalue()


async def test_a_bug_in_a_page_keeps_its_traceback_and_the_other_pages_work(rig: Rig, logged: io.StringIO) -> None:
    rig.daemon.has_bug = True

    assert (await rig.get("/livez"))[0] == 500
    assert (await rig.get("/healthz"))[0] == 200

    assert "ZeroDivisionError" in logged.getvalue()


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """The log as a file would have it."""
    stream = io.StringIO()
    configure("info", "json", stream=stream)
    yield stream
    structlog.reset_defaults()
    logging.getLogger().handlers.clear()


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "127.0.0.1",
        "127.0.0.1:9321",
        "10.1.2.3",
        "[::1]:9321",
        "localhost",
        "LOCALHOST.:80",
        "mirror.example.com:9321",
        socket.gethostname(),
    ],
)
@pytest.mark.parametrize("path", ["/", "/healthz", "/livez", "/metrics"])
async def test_addresses_and_known_names_are_served(rig: Rig, path: str, name: str) -> None:
    assert (await rig.get(path, host=name))[0] == 200


@pytest.mark.parametrize("name", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:9321", ""])
async def test_unknown_names_get_nothing(rig: Rig, name: str, logged: io.StringIO) -> None:
    """A website could otherwise read the pages through a browser, under its own name (DNS rebinding)."""
    for path in ("/", "/index.html", "/healthz", "/livez", "/metrics", "/admin"):
        status, body = await rig.get(path, host=name)
        assert (status, b"report" in body) == (421, False)
    (line,) = map(json.loads, logged.getvalue().splitlines())
    assert (line["event"], line["host"]) == ("a request names an unknown host", name)
    assert "[http] hosts" in line["hint"]


async def test_a_callback_is_recorded_under_any_name(rig: Rig) -> None:
    """A reverse proxy passes the public name on. The secret in the path is the proof, and the answer is empty."""
    for name in ("mirror.example.com", "callbacks.example.org"):
        assert await rig.post(f"/callback/{SECRET}", GOOD, host=name) == (204, b"")
        assert await rig.post("/callback/wrong", GOOD, host=name) == (404, b"")
    assert rig.daemon.hints == [("a", "r")] * 2


async def test_a_post_reads_no_page_under_an_unknown_name(rig: Rig) -> None:
    for path in ("/", "/index.html", "/healthz", "/livez", "/metrics"):
        status, body = await rig.post(path, b"", host="evil.example")
        assert (status, body) == (405, b"405: Method Not Allowed")


async def test_a_client_without_a_name_is_served(rig: Rig) -> None:
    reader, writer = await connect(rig)
    writer.write(b"GET /livez HTTP/1.0\r\n\r\n")

    async with asyncio.timeout(60):
        assert b" 200 " in await reader.readline()
    writer.close()


# --- the address ------------------------------------------------------------------------------------------------------


async def test_a_port_in_use_is_tried_again_each_minute(rig: Rig) -> None:
    clock = VirtualClock(TODAY)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        async with serve(rig.daemon, port=port, clock=clock) as listening:
            assert listening.problem is not None
            assert "address already in use" in listening.problem.message
            assert f"127.0.0.1:{port} (http.listen)" in listening.problem.message
            assert "ss -ltnp" in listening.problem.hint
            await clock.advance(timedelta(seconds=61), quiet=lambda: True)
            assert listening.problem is not None

            other.close()
            await clock.advance(timedelta(seconds=61), quiet=lambda: True)

            assert listening.address == ("127.0.0.1", port)
            assert await Rig(rig.daemon, port, rig.session).get("/healthz") == (200, b'{"status": "ok"}')


async def test_an_address_that_this_machine_lacks_is_a_problem_with_a_hint(rig: Rig) -> None:
    async with serve(rig.daemon, host="192.0.2.7", port=9321) as listening:
        assert listening.problem is not None
        assert "cannot assign requested address" in listening.problem.message
        assert "each minute" in listening.problem.hint


async def test_a_name_that_leads_nowhere_is_a_problem_with_a_hint(rig: Rig) -> None:
    async with serve(rig.daemon, host="no.such.name.invalid", port=9321) as listening:
        assert listening.problem is not None
        assert "no.such.name.invalid:9321" in listening.problem.message
