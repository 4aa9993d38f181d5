"""A server that receives notifications and heartbeats."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

#: Part of every address. It may appear nowhere else.
CANARY = "hunter2canary"


@dataclass(slots=True)
class NotificationServer:
    """Records notifications and heartbeats, and answers with `status`."""

    status: int = 200
    messages: list[dict[str, Any]] = field(default_factory=list)
    heartbeats: list[str] = field(default_factory=list)
    port: int = 0

    async def receive(self, request: web.Request) -> web.Response:
        if request.method == "POST":
            self.messages.append(await request.json())
        else:
            self.heartbeats.append(request.path)
        headers = {"Location": f"http://127.0.0.1:{self.port}/elsewhere"} if 300 <= self.status < 400 else {}
        return web.Response(status=self.status, headers=headers)

    def address(self, scheme: str = "json") -> str:
        return f"{scheme}://127.0.0.1:{self.port}/{CANARY}"


@asynccontextmanager
async def notification_server() -> AsyncIterator[NotificationServer]:
    """Run the server on a free port of loopback."""
    receiver = NotificationServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.receive)
    async with TestServer(app) as server:
        assert server.port is not None
        receiver.port = server.port
        yield receiver
