"""Builds of row histories that are killed before a call that changes a file."""

from __future__ import annotations

import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

from dcsync.sandbox import Options, Sandbox, World
from tests.rigs.kills import TOKEN, write_config
from tests.rigs.processes import Forking, forking, said
from tests.rigs.syscalls import Watch

_DAYS = 3
_TABLES = ("admin_users", "issues_issues")


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryKills:
    """A mirror with some snapshots, and a program that builds their histories."""

    folder: Path
    start: Forking

    async def build(self, watch: Watch | None = None, *more: str) -> int:
        """Run `dcsync history`, and return its exit status."""
        argv = ("--config", str(self.folder / "config.toml"), "history", *more)
        if watch is not None:
            return await self.start.watched(watch, *argv)
        return await (await self.start(*argv)).wait()

    async def points(self) -> int:
        """Return how many calls of a build change a file."""
        watch = Watch(folder=self.folder)
        self.restore()
        assert await self.build(watch) == 0, said(self.folder)
        return len(watch.calls)

    def restore(self) -> None:
        """Go back to the snapshots without a history."""
        for name in ("mirror", "state"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            shutil.copytree(self.folder / "before" / name, self.folder / name, symlinks=True)

    async def kill_at(self, number: int) -> bool:
        """Kill a build before its `number`-th call, and finish it. Return whether it was killed."""
        self.restore()
        status = await self.build(Watch(folder=self.folder, kill_at=number))
        assert status in {0, -signal.SIGKILL}, said(self.folder)
        for path in self.folder.glob("mirror/acme/*/history/*.parquet"):
            # The old file or the new one: as many steps as its rows have times.
            assert self._values(path) in [["0"], ["0", "1"], ["0", "1", "2"]]
        assert await self.build() == 0, said(self.folder)
        for name in _TABLES:
            (path,) = self.folder.glob(f"mirror/acme/*/history/{name}.parquet")
            assert self._values(path) == ["0", "1", "2"]
        assert await self.build(None, "--verify") == 0, said(self.folder)
        assert "Traceback" not in said(self.folder)
        return status != 0

    def _values(self, path: Path) -> list[str]:
        rows = duckdb.execute(f"SELECT day FROM '{path}' WHERE day <> 'x' ORDER BY _valid_from").fetchall()
        return [str(value) for (value,) in rows]


@asynccontextmanager
async def history_kills(folder: Path) -> AsyncIterator[HistoryKills]:
    """Mirror some days without a history, and switch it on."""
    world, now = World(seed=5), datetime.now(UTC)
    request = world.add_request("Nightly")
    for day in range(_DAYS):
        files = {f"{name}.csv": f"id,day\n1,{day}\n2,x\n".encode() for name in _TABLES}
        world.add_job(request, completed_at=now - timedelta(days=_DAYS - day), files=files, with_archive=False)
    async with Sandbox(world, options=Options(quota_per_minute=None)) as sandbox, forking(folder) as start:
        config = write_config(folder, sandbox)
        (folder / "mirror").mkdir()
        environ = {TOKEN: sandbox.tokens.issue_access_token("tester", 86400)}
        assert await (await start("--config", str(config), "sync", environ=environ)).wait() == 0, said(folder)
        write_config(folder, sandbox, "[history]", 'tables = ["*"]')
        for name in ("mirror", "state"):
            (folder / "before").mkdir(exist_ok=True)
            (folder / name).rename(folder / "before" / name)
        yield HistoryKills(folder=folder, start=start)
