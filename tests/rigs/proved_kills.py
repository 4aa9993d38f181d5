"""Kills while a row history is built, and while its proved window tables leave the snapshots."""

from __future__ import annotations

import csv
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
TABLE = "activities_log"
#: The work, and the stage of the mirror that it begins with.
WORK = {"history": ("snapshots", ("history",)), "prune": ("built", ("prune", "--force"))}
_SECTIONS = ("[history]", 'tables = ["*"]', "", "[keep]", "last = 1", "proved_windows = true")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvedKills:
    """A mirror with window tables, in two stages: with its snapshots, and with a row history of them."""

    folder: Path
    start: Forking

    async def points(self, work: str) -> int:
        """Return how many calls of a command change a file."""
        stage, argv = WORK[work]
        self.restore(stage)
        watch = Watch(folder=self.folder)
        assert await self._run(*argv, watch=watch) == 0, said(self.folder)
        return len(watch.calls)

    async def kill_at(self, work: str, number: int) -> bool:
        """Kill a command before its `number`-th call, and finish it. Return whether it was killed."""
        stage, argv = WORK[work]
        self.restore(stage)
        status = await self._run(*argv, watch=Watch(folder=self.folder, kill_at=number))
        assert status in {0, -signal.SIGKILL}, said(self.folder)
        # The old folder of a snapshot may be in `.dcsync`, from where the next start puts it back.
        assert self._rows("**") == self._all_rows(), said(self.folder)
        for again in (("history",), ("prune", "--force"), ("history", "--verify"), ("verify",)):
            assert await self._run(*again) == 0, said(self.folder)
            assert self._rows("acme/*/[0-9]*/**") == self._all_rows()
        assert len(list(self.folder.glob(f"mirror/acme/*/[0-9]*/**/{TABLE}.csv"))) == 1
        assert "Traceback" not in said(self.folder)
        return status != 0

    def restore(self, stage: str) -> None:
        """Go back to a stage."""
        for name in ("mirror", "state"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            shutil.copytree(self.folder / stage / name, self.folder / name, symlinks=True)

    async def keep(self, stage: str, *argv: str) -> None:
        """Keep the mirror after a command as a stage."""
        if argv:
            assert await self._run(*argv) == 0, said(self.folder)
        for name in ("mirror", "state"):
            shutil.copytree(self.folder / name, self.folder / stage / name, symlinks=True)

    async def _run(self, *argv: str, watch: Watch | None = None) -> int:
        argv = ("--config", str(self.folder / "config.toml"), *argv)
        if watch is not None:
            return await self.start.watched(watch, *argv)
        return await (await self.start(*argv)).wait()

    def _all_rows(self) -> set[tuple[str, ...]]:
        return {(str(number), str(day)) for day in range(_DAYS) for number in range(3)}

    def _rows(self, snapshots: str) -> set[tuple[str, ...]]:
        """Return the rows of the table in these snapshots and in the row history."""
        found: set[tuple[str, ...]] = set()
        for path in self.folder.glob(f"mirror/{snapshots}/{TABLE}.csv"):
            found |= {tuple(row) for row in list(csv.reader(path.read_text().splitlines()))[1:]}
        for path in self.folder.glob(f"mirror/acme/*/history/{TABLE}.parquet"):
            found |= {*duckdb.read_parquet(str(path)).project("id, day").fetchall()}
        return found


@asynccontextmanager
async def proved_kills(folder: Path) -> AsyncIterator[ProvedKills]:
    """Mirror some days of a window table and a full one, and build their histories."""
    world, now = World(seed=6), datetime.now(UTC)
    request = world.add_request("Nightly")
    for day in range(_DAYS):
        rows = "".join(f"{number},{day}\n" for number in range(3))
        files = {f"{TABLE}.csv": f"id,day\n{rows}".encode(), "admin_users.csv": f"id\n{day}\n".encode()}
        world.add_job(request, completed_at=now - timedelta(days=_DAYS - day), files=files, with_archive=False)
    async with Sandbox(world, options=Options(quota_per_minute=None)) as sandbox, forking(folder) as start:
        config = write_config(folder, sandbox)
        (folder / "mirror").mkdir()
        environ = {TOKEN: sandbox.tokens.issue_access_token("tester", 86400)}
        assert await (await start("--config", str(config), "sync", environ=environ)).wait() == 0, said(folder)
        write_config(folder, sandbox, *_SECTIONS)
        kills = ProvedKills(folder=folder, start=start)
        await kills.keep("snapshots")
        await kills.keep("built", "history")
        yield kills
