"""Waiting for what has no event: another process's work, a database's, a server's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(is_so: Callable[[], object], what: str = "", *, within_s: float = 150.0) -> None:
    """Wait until something is so; fail, saying what it was, when it does not come to that."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while not is_so():
        assert loop.time() < deadline, f"it did not come to this within {within_s:.0f} s: {what or 'see the traceback'}"
        await asyncio.sleep(0.02)  # noqa: TID251 - somebody else's work
