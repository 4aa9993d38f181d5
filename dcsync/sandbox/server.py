"""Both servers: the API with its token endpoint, and the file store, on two ports, as two origins."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from types import TracebackType
from typing import Literal, Self, TypeAlias

from aiohttp import web
from aiohttp.typedefs import Handler

from dcsync.sandbox.api import ApiHandlers
from dcsync.sandbox.faults import Faults
from dcsync.sandbox.oauth import Tokens
from dcsync.sandbox.signing import Signer
from dcsync.sandbox.storage import StoreHandlers
from dcsync.sandbox.world import World

Origin: TypeAlias = Literal["api", "token", "storage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How strict it is. `quota_per_minute=None` switches the quota off."""

    quota_per_minute: int | None = 60
    url_lifetime_s: float = 60.0
    latency_s: float = 0.0
    require_auth: bool = True
    etag: Literal["md5", "multipart", "opaque", "unequal"] = "md5"
    #: Nine S3 servers measured ignore If-Range.
    if_range: Literal["ignore", "honour"] = "ignore"
    max_limit: int | None = 200
    client_id: str = "sandbox"
    client_secret: str | None = field(default="sandbox-secret", repr=False)
    access_token_lifetime_s: float = 3600.0
    #: Where the browser may be sent after signing in; None: anywhere.
    redirect_uris: tuple[str, ...] | None = ("http://localhost:8080/callback",)
    #: Makes the signed URL of a job's file: for a real S3 server in the place of the sandbox's own store.
    sign: Callable[[str, str], str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request as it came."""

    at: float
    #: When it was by the world's clock, in seconds since 1970.
    dated: float
    server: Origin
    method: str
    path: str
    query: dict[str, str] = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    status: int
    body_bytes_sent: int


class Sandbox:
    """An async context manager: entering starts both servers, leaving stops them."""

    def __init__(
        self,
        world: World,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        storage_port: int = 0,
        options: Options | None = None,
    ) -> None:
        self.world = world
        self.options = options or Options()
        self.faults = Faults()
        self.tokens = Tokens(world.now, access_lifetime_s=self.options.access_token_lifetime_s)
        self.signer = Signer(secrets.token_bytes(32), lifetime_s=self.options.url_lifetime_s)
        self.calls: list[Call] = []
        #: Requests under way: with none, a test's time may go on.
        self.active = 0
        self.etag_serial = 0
        self.base_url = ""
        self.storage_url = ""
        self._host = host
        self._ports = (port, storage_port)
        self._runners: list[web.AppRunner] = []

    async def __aenter__(self) -> Self:
        api = ApiHandlers(self)
        application = web.Application(middlewares=[self._count, api.middleware])
        application.add_routes(api.routes())
        store = web.Application(middlewares=[self._count])
        store.router.add_route("*", r"/{tail:[\s\S]*}", StoreHandlers(self).handle)
        self.base_url = await self._start(application, self._ports[0])
        self.storage_url = await self._start(store, self._ports[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for runner in self._runners:
            await runner.cleanup()

    def count(self, server: str | None = None, *, path_contains: str = "", status: int | None = None) -> int:
        """Return how many requests came."""
        return sum(
            (server is None or call.server == server)
            and path_contains in call.path
            and (status is None or call.status == status)
            for call in self.calls
        )

    def note(self, server: Origin, request: web.Request, status: int, sent: int) -> None:
        """Log a request."""
        self.calls.append(
            Call(
                at=time.monotonic(),
                dated=self.world.now(),
                server=server,
                method=request.method,
                path=request.raw_path.partition("?")[0],
                query=dict(request.query),
                headers={key.lower(): value for key, value in request.headers.items()},
                status=status,
                body_bytes_sent=sent,
            )
        )

    @web.middleware
    async def _count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.active += 1
        try:
            return await handler(request)
        finally:
            self.active -= 1

    async def _stamp(self, _: web.Request, response: web.StreamResponse) -> None:
        """Date every answer by the world's clock, which need not be the machine's."""
        response.headers["Date"] = formatdate(self.world.now(), usegmt=True)

    async def _start(self, application: web.Application, port: int) -> str:
        application.on_response_prepare.append(self._stamp)
        # No access log: it would hold the queries of signed URLs. No waiting for idle connections when it stops.
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, self._host, port)
        await site.start()
        bound = runner.addresses[0]
        return f"http://{self._host}:{bound[1]}"
