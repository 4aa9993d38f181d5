"""A mirror in which a prune has snapshots to remove and to reduce, and its copy for each of many runs."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dcsync.sandbox import Options, Sandbox, World
from tests.rigs.kills import TOKEN, write_config
from tests.rigs.mirror import assert_proved_by_sums, tables
from tests.rigs.processes import Forking, run_of, said
from tests.rigs.sqlite import FILE_VIEW
from tests.rigs.syscalls import Watch

_DAYS = 3
_ROWS = 50


@dataclass(slots=True)
class Pruned:
    """The mirror; `restore` makes it as it was before the prune."""

    folder: Path
    start: Forking
    environ: dict[str, str]

    @property
    def root(self) -> Path:
        return self.folder / "mirror"

    def said(self) -> str:
        """Return what all runs so far have said on stderr."""
        return said(self.start.folder)

    def restore(self) -> None:
        """Begin again."""
        for name in ("mirror", "state"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            # With its hard links and times.
            subprocess.run(["cp", "-a", self.folder / "template" / name, self.folder], check=True)

    async def run(self, *command: str, watch: Watch | None = None) -> int:
        """Run a command, and return its exit status."""
        argv = ("--config", str(self.folder / "config.toml"), *command)
        if watch is not None:
            return await self.start.watched(watch, *argv, environ=self.environ)
        async with run_of(self.start, *argv, environ=self.environ) as run:
            return await run.wait()

    def look(self) -> None:
        """Look at the mirror as a reader does: each snapshot is proved, and no row of activities is missing."""
        rows = set()
        for path in self.root.glob("acme/*/[0-9]*/**/_dcsync.json"):
            assert_proved_by_sums(path.parent)
            for entry in json.loads(path.read_text())["files"]:
                if entry["name"].startswith("activities_"):
                    rows.update((path.parent / entry["name"]).read_text().splitlines()[1:])
        assert len(rows) == _DAYS * _ROWS

    def states(self) -> list[tuple[object, ...]]:
        """Return what the manifest says of jobs and files."""
        with closing(sqlite3.connect(self.folder / "state/manifest.sqlite")) as connection:
            connection.execute(FILE_VIEW)
            query = """SELECT job.id, job.state, job.folder, file.name, file.size, file.sha256
                       FROM job LEFT JOIN file ON file.job = job.id ORDER BY job.id, file.name"""
            return connection.execute(query).fetchall()

    def left_over(self) -> list[Path]:
        """Return what is in the folders that are empty after a prune."""
        return [*self.root.glob(".dcsync/trash/*"), *self.root.glob(".dcsync/reducing/*")]


@asynccontextmanager
async def to_prune(start: Forking) -> AsyncIterator[Pruned]:
    """Make the mirror below the starter's folder: two data requests, one of which has windows."""
    world, now = World(seed=9), datetime.now(UTC)
    everything, narrow = world.add_request("All", service_groups=("all",)), world.add_request("Narrow")
    for day in range(_DAYS):
        rows = b"id,day\n" + b"".join(b"%d,%d\n" % (row, day) for row in range(_ROWS))
        files = {**tables(2, seed=day), "activities_docs.csv": rows}
        completed = now - timedelta(days=_DAYS - day)
        world.add_job(everything, completed_at=completed, files=files, with_archive=False)
        world.add_job(narrow, completed_at=completed, files=tables(2, seed=day), with_archive=False)
    folder = start.folder / "pruned"
    async with Sandbox(world, options=Options(quota_per_minute=None)) as sandbox:
        (folder / "mirror").mkdir(parents=True)
        (folder / "state").mkdir(mode=0o700)
        write_config(folder, sandbox, "[keep]", "last = 1")
        mirror = Pruned(folder, start, {TOKEN: sandbox.tokens.issue_access_token("tester", 86400)})
        assert await mirror.run("sync") == 0, mirror.said()
        (folder / "template").mkdir()
        for name in ("mirror", "state"):
            (folder / name).rename(folder / "template" / name)
        yield mirror
