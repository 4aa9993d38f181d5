"""The sandbox's two servers, on two ports and thus two origins: the API with its token endpoint, and storage."""

from __future__ import annotations

from email.utils import formatdate
from types import TracebackType
from typing import Self

from aiohttp import web
from aiohttp.typedefs import Handler

from dcsync.sandbox.api import ApiHandlers
from dcsync.sandbox.state import Options, State
from dcsync.sandbox.storage import StorageHandlers
from dcsync.sandbox.world import World


class Sandbox(State):
    """The state and its two servers. Entering the context starts both servers, leaving it stops them."""

    def __init__(
        self,
        world: World,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        storage_port: int = 0,
        options: Options | None = None,
    ) -> None:
        super().__init__(world, options or Options())
        self._host = host
        self._ports = (port, storage_port)
        self._runners: list[web.AppRunner] = []

    async def __aenter__(self) -> Self:
        api = ApiHandlers(self)
        application = web.Application(middlewares=[self._count, api.middleware])
        application.add_routes(api.routes())
        storage = web.Application(middlewares=[self._count])
        storage.router.add_route("*", r"/{tail:[\s\S]*}", StorageHandlers(self).handle)
        try:
            self.base_url = await self._start(application, self._ports[0])
            self.storage_url = await self._start(storage, self._ports[1])
        except OSError:
            # The first server runs if the second port is taken.
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for runner in self._runners:
            await runner.cleanup()

    @web.middleware
    async def _count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.active += 1
        try:
            return await handler(request)
        finally:
            self.active -= 1

    async def _stamp(self, _: web.Request, response: web.StreamResponse) -> None:
        """Set the Date header from the world's clock, which may differ from the machine's."""
        response.headers["Date"] = formatdate(self.world.now(), usegmt=True)

    async def _start(self, application: web.Application, port: int) -> str:
        application.on_response_prepare.append(self._stamp)
        # No access log, because it would contain the queries of signed URLs. A stop does not wait for idle connections.
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, self._host, port)
        await site.start()
        bound = runner.addresses[0]
        return f"http://{self._host}:{bound[1]}"
