"""Where calls are counted and tokens are kept: files of the state folder, or the database that several hosts share."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

from dcsync.api.window import CallWindow, FileWindow
from dcsync.app.state_dir import QUOTA_NAME, host_name
from dcsync.auth.token_store import ChainStore, TokenStore
from dcsync.config import Config
from dcsync.database import Database
from dcsync.manifest import open_manifest
from dcsync.tasks import DiskThreads


async def open_window(
    stack: AsyncExitStack, config: Config, place: Path | Database, disk: DiskThreads, *, makes: bool = True
) -> CallWindow:
    """Open where the calls of the last minute are counted: for this machine, or for all hosts.

    With `makes` the tables that it needs are made: signing in may come before the first run of all.
    """
    if isinstance(place, Path):
        return FileWindow(place.with_name(QUOTA_NAME), disk)
    from dcsync.api.shared import DatabaseWindow

    if makes:
        await _make_tables(place)
    engine = place.engine(label=f"quota {host_name()}")  # noqa: ASYNC240 - a database, no path
    stack.push_async_callback(engine.dispose)
    return DatabaseWindow(engine, place, config.auth.client_id or "")


async def _make_tables(place: Database) -> None:
    async with open_manifest(place, label=host_name()):
        pass


async def open_store(
    stack: AsyncExitStack, config: Config, place: Path | Database, disk: DiskThreads, *, makes: bool = True
) -> tuple[ChainStore, DiskThreads]:
    """Open where the chain of tokens is kept, and the threads to use it from: a database's lock may be waited for."""
    if isinstance(place, Path):
        return TokenStore(place.parent), disk
    from dcsync.auth.shared import DatabaseTokenStore

    if makes:
        await _make_tables(place)
    store = DatabaseTokenStore(place, config.auth.client_id or "")
    stack.callback(store.close)
    return store, stack.enter_context(DiskThreads(2))
