"""The shared state of the sandbox's handlers: world, options, tokens, faults, and received calls."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from aiohttp import web

from dcsync.sandbox.faults import Faults
from dcsync.sandbox.oauth import Tokens
from dcsync.sandbox.service_accounts import ServiceAccounts
from dcsync.sandbox.signing import Signer
from dcsync.sandbox.world import World

Origin: TypeAlias = Literal["api", "token", "storage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The sandbox's settings. `quota_per_minute=None` turns the rate limit off."""

    quota_per_minute: int | None = 60
    url_lifetime_s: float = 60.0
    latency_s: float = 0.0
    require_auth: bool = True
    etag: Literal["md5", "multipart", "opaque", "unequal"] = "md5"
    #: All nine S3 servers that were measured ignore If-Range.
    if_range: Literal["ignore", "honour"] = "ignore"
    max_limit: int | None = 200
    client_id: str = "sandbox"
    client_secret: str | None = field(default="sandbox-secret", repr=False)
    access_token_lifetime_s: float = 3600.0
    #: The registered redirect addresses. None allows any address.
    redirect_uris: tuple[str, ...] | None = ("http://localhost:8080/callback",)
    #: Returns the signed URL of a job's file, to use a real S3 server instead of the sandbox's own storage.
    sign: Callable[[str, str], str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A received call."""

    at: float
    #: The world's time of the call, in seconds since 1970.
    dated: float
    server: Origin
    method: str
    path: str
    query: dict[str, str] = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    status: int
    body_bytes_sent: int


class State:
    """One sandbox's state. The handlers read it and log every call in it."""

    def __init__(self, world: World, options: Options) -> None:
        self.world = world
        self.options = options
        self.faults = Faults()
        self.tokens = Tokens(world.now, access_lifetime_s=options.access_token_lifetime_s)
        self.service_accounts = ServiceAccounts(world, self.tokens, client_id=options.client_id)
        self.signer = Signer(secrets.token_bytes(32), lifetime_s=options.url_lifetime_s)
        self.calls: list[Call] = []
        #: The number of requests in progress. Tests advance the clock only while it is 0.
        self.active = 0
        self.etag_serial = 0
        #: The two origins, known once the servers listen.
        self.base_url = ""
        self.storage_url = ""

    def count(self, server: str | None = None, *, path_contains: str = "", status: int | None = None) -> int:
        """Return the number of received calls. The arguments select by server, by text in the path, and by status."""
        return sum(
            (server is None or call.server == server)
            and path_contains in call.path
            and (status is None or call.status == status)
            for call in self.calls
        )

    def log_call(self, server: Origin, request: web.Request, status: int, sent: int) -> None:
        """Log a call."""
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
