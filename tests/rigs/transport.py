"""The transport of the API on a clock that does not wait."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aioresponses import aioresponses

from dcsync.api.limiter import Limiter
from dcsync.api.transport import ApiTransport
from dcsync.core.ports import TokenSource
from tests.fakes import FakeClock, FakeTokens, MemoryWindow

BASE = "https://api.example.com"
ANY = re.compile(r"https://api\.example\.com/.*")


@dataclass(slots=True)
class Rig:
    """A transport on a clock that does not wait. All its random numbers are `drawn`."""

    session: aiohttp.ClientSession
    base_url: str = BASE
    tokens: TokenSource = field(default_factory=FakeTokens)
    drawn: float = 0.0
    clock: FakeClock = field(default_factory=FakeClock)
    limiter: Limiter = field(init=False)
    transport: ApiTransport = field(init=False)

    def __post_init__(self) -> None:
        self.limiter = Limiter(requests_per_minute=1000, clock=self.clock, window=MemoryWindow())
        self.transport = self.another()

    def another(self) -> ApiTransport:
        return ApiTransport(
            self.session,
            base_url=self.base_url,
            tokens=self.tokens,
            limiter=self.limiter,
            clock=self.clock,
            headers={"User-Agent": "dcsync/test"},
            draw=lambda: self.drawn,
        )


def calls(api: aioresponses) -> list[Any]:
    return [call for found in api.requests.values() for call in found]
