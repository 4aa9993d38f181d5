"""SQL that is compiled once for all manifests of a process.

SQLAlchemy keeps compiled statements by engine and dialect, and each manifest that is opened has its own of both. The
program opens one. A test opens many, and compiling the same statements again took a quarter of its time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import LRUCache

from dcsync.manifest import sqlite

_STATEMENTS: Final[LRUCache[Any, Any]] = LRUCache(2000)


def share_statements() -> None:
    """Let the engines that are made from now on use what was compiled for earlier ones."""
    make_engine = sqlite._engine

    def make_sharing_engine(path: Path, *, read_only: bool) -> AsyncEngine:
        made = make_engine(path, read_only=read_only)
        made.sync_engine._compiled_cache = _STATEMENTS
        return made

    # Each key of the cache has a dialect in it. They differ in nothing but the engine that they belong to.
    SQLiteDialect_aiosqlite.__eq__ = lambda self, other: type(self) is type(other)  # type: ignore[method-assign]
    SQLiteDialect_aiosqlite.__hash__ = lambda self: hash(type(self))  # type: ignore[method-assign]
    sqlite._engine = make_sharing_engine
