"""The HTTP pages, requested by untrusted clients (docs/faults.md S11)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import aiohttp
import pytest

from dcsync.core.model import Json
from dcsync.daemon.pages import MAX_BODY, MAX_CONNECTIONS, Pages, serving
from dcsync.errors import ConfigError

SECRET = "s" * 43
GOOD = json.dumps({"accountId": "a", "requestId": "r", "jobId": "j", "state": "complete", "success": True})


@dataclass(slots=True)
class FakeDaemon:
    able: bool = True
    page: bytes | None = b"<!doctype html><title>report</title>"
    hints: list[tuple[str, str]] = field(default_factory=list)
    alive: bool = True

    async def health(self) -> tuple[bool, dict[str, Json]]:
        return self.able, {"status": "ok" if self.able else "not ok"}

    def is_alive(self) -> bool:
        return self.alive

    async def figures(self) -> bytes:
        return b"dcsync_stale 0\n"

    async def report(self) -> bytes | None:
        return self.page

    async def hint(self, account_id: str, request_id: str) -> None:
        self.hints.append((account_id, request_id))


@dataclass(slots=True)
class Rig:
    daemon: FakeDaemon
    port: int
    session: aiohttp.ClientSession

    async def get(self, path: str) -> tuple[int, bytes]:
        async with self.session.get(f"http://127.0.0.1:{self.port}{path}") as answer:
            return answer.status, await answer.read()

    async def post(self, path: str, body: bytes | str) -> tuple[int, bytes]:
        async with self.session.post(f"http://127.0.0.1:{self.port}{path}", data=body) as answer:
            return answer.status, await answer.read()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        daemon = FakeDaemon()
        pages = Pages(daemon, secret=SECRET, patience_s=0.3)
        _, port = await stack.enter_async_context(serving(pages, "127.0.0.1", 0, patience_s=0.3))
        yield Rig(daemon, port, await stack.enter_async_context(aiohttp.ClientSession()))


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
    head = f"POST /callback/{SECRET} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
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
        f"POST /callback/{SECRET} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n".encode(),
    ],
    ids=["nothing", "half of the headers", "no body"],
)
async def test_a_slow_client_is_disconnected(rig: Rig, beginning: bytes) -> None:
    reader, writer = await connect(rig)
    writer.write(beginning)

    async with asyncio.timeout(30):
        answer = await reader.read()

    assert answer == b"" or answer.startswith(b"HTTP/1.1 408")
    writer.close()


async def test_connections_above_64_are_closed_and_the_others_still_work(rig: Rig) -> None:
    held = [await connect(rig) for _ in range(MAX_CONNECTIONS)]
    reader, writer = await connect(rig)

    async with asyncio.timeout(30):
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
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")

    async with asyncio.timeout(30):
        answer = await reader.read()  # to its end

    assert answer.startswith(b"HTTP/1.1 200")
    writer.close()


async def test_a_port_in_use_is_reported(rig: Rig) -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on http.listen .*address already in use"):
        async with serving(Pages(rig.daemon, secret=SECRET), "127.0.0.1", rig.port):
            pass
