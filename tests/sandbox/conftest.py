"""A sandbox, a client that uses no code of dcsync, and one clock for both."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from yarl import URL

from dcsync.sandbox import Options, Sandbox, World
from tests.fakes import FakeClock

EVERY_SCOPE = frozenset({"data:read", "data:create", "data:write"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response, read to its end and not decoded."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def ids(self) -> list[str]:
        """The IDs on a page."""
        return [row["id"] for row in self.json()["results"]]


@dataclass(slots=True, kw_only=True)
class Remote:
    """The sandbox from a client's point of view."""

    sandbox: Sandbox
    session: aiohttp.ClientSession
    clock: FakeClock
    token: str

    @property
    def world(self) -> World:
        return self.sandbox.world

    @property
    def dc(self) -> str:
        """The path of the one account's Data Connector."""
        return f"/data-connector/v1/accounts/{self.world.account_id}"

    async def api(self, path: str, *, token: str | None = None) -> Answer:
        """GET a path of the API, below the account unless it begins with `/`, with a valid token or the given one."""
        url = f"{self.sandbox.base_url}{path if path.startswith('/') else f'{self.dc}/{path}'}"
        return await self.get(url, Authorization=f"Bearer {self.token if token is None else token}")

    async def send(self, method: str, path: str, body: object = None, *, token: str | None = None) -> Answer:
        """Send JSON to a path of the API, below the account unless it begins with `/`."""
        url = f"{self.sandbox.base_url}{path if path.startswith('/') else f'{self.dc}/{path}'}"
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"}
        async with self.session.request(method, URL(url, encoded=True), headers=headers, json=body) as response:
            return Answer(status=response.status, headers=response.headers, body=await response.read())

    async def get(self, url: str, *, method: str = "GET", **headers: str) -> Answer:
        """GET exactly this address. `_` in a header's name stands for a hyphen."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(method, URL(url, encoded=True), headers=sent) as response:
            return Answer(status=response.status, headers=response.headers, body=await response.read())

    async def sign(self, job: str, name: str) -> str:
        """Return a signed URL of a file."""
        path = f"jobs/{job}/data/{URL.build(path=name).raw_path}"
        url: str = (await self.api(path)).json()["signedUrl"]
        return url

    def add_jobs(self, count: int, request: str | None = None) -> list[str]:
        """Add small complete jobs, an hour apart, and return their IDs, oldest first."""
        request = request or self.world.add_request("My Company Data Extract")
        now = self.clock.now()
        return [
            self.world.add_job(request, completed_at=now - timedelta(hours=count - index), files={"a.csv": b"id\n"})
            for index in range(count)
        ]


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Remote]:
    """Start a sandbox with these options and an empty world; the rate limit is off unless the options set it."""
    clock = FakeClock()
    world = World(now=lambda: clock.now().timestamp())
    async with (
        Sandbox(world, options=Options(**{"quota_per_minute": None, **options})) as sandbox,
        aiohttp.ClientSession(auto_decompress=False) as session,
    ):
        yield Remote(
            sandbox=sandbox,
            session=session,
            clock=clock,
            token=sandbox.tokens.issue_access_token("tester", 90 * 86400, scopes=EVERY_SCOPE),
        )


@pytest.fixture
async def remote() -> AsyncIterator[Remote]:
    """A sandbox with default options, but without the rate limit."""
    async with serving() as ready:
        yield ready
