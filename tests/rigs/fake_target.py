"""A target in memory, which meets the port of loads, and loads into it."""

from __future__ import annotations

import csv
import io
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import duckdb

from dcsync.app.from_config import account_settings
from dcsync.core.load_settings import LoadSettings
from dcsync.core.loads import Shown
from dcsync.errors import LoadInterrupted, TargetUnusable
from dcsync.load import HistoryFile, Loaded, TableLoad, Way
from dcsync.manifest.broken import BrokenPart, BrokenParts
from dcsync.ops.loads.loading import Load
from dcsync.ops.loads.run import Chosen, LoadReport, WantedLoad, run_loads
from tests.rigs.mirror import Mirror

WHERE = "fake://host/database"


@dataclass(slots=True, kw_only=True)
class FakeTarget:
    """Tables in memory. `fails` has the error of a table. `entered` and `before` are called when it opens and loads."""

    rows: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    state: dict[str, Shown] = field(default_factory=dict)
    fails: dict[str, Exception] = field(default_factory=dict)
    is_away: bool = False
    opened: int = 0
    loaded: list[str] = field(default_factory=list)
    wholes: list[bool] = field(default_factory=list)
    marked: list[str] = field(default_factory=list)
    types: dict[str, Mapping[str, str]] = field(default_factory=dict)
    before: Callable[[], object] = lambda: None
    entered: Callable[[int], object] = lambda _: None
    interrupted: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self.opened += 1
        self.entered(self.opened)
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def shown(self) -> dict[str, Shown]:
        if self.is_away:
            raise TargetUnusable(WHERE, "", "connection refused")
        return dict(self.state)

    def load(self, load: TableLoad) -> Loaded:
        table = load.shown.table
        self.before()
        if table in self.fails:
            raise self.fails[table]
        self.rows[table] = _rows(load)
        self.loaded.append(table)
        self.wholes.append(load.whole)
        self.types[table] = load.types
        self.state[table] = replace(load.shown, rows=len(self.rows[table]), loaded_at=datetime.now(UTC))
        return Loaded(shown=self.state[table], way=Way.WHOLE, sent=len(self.rows[table]))

    def mark(self, shown: Sequence[Shown]) -> None:
        for each in shown:
            assert each.sha256 == self.state[each.table].sha256
            self.state[each.table] = each
            self.marked.append(each.table)

    def check_writable(self) -> None:
        self.shown()

    def interrupt(self) -> None:
        self.interrupted.set()

    def wait_for_interrupt(self) -> None:
        """Answer as a database does that is slow."""
        assert self.interrupted.wait(60)
        raise LoadInterrupted(WHERE, "", "it was interrupted")


def _rows(load: TableLoad) -> list[tuple[Any, ...]]:
    if isinstance(load.source, HistoryFile):
        path = f"/proc/self/fd/{load.source.descriptor}"
        with duckdb.connect() as connection:
            rows = connection.read_parquet(path).select("COLUMNS('^[^_]')").fetchall()
        return sorted(rows, key=repr)
    size = os.fstat(load.source.descriptor).st_size
    text = os.pread(load.source.descriptor, size, 0).decode()
    return [tuple(row) for row in csv.reader(io.StringIO(text))][1:]


def wanted(target: FakeTarget, name: str = "x", **settings: Any) -> WantedLoad:
    """Return a load into this target."""
    chosen = LoadSettings(name=name, dataset="d", **settings)

    def open_target(work: Path) -> AbstractContextManager[FakeTarget]:
        assert list(work.iterdir()) == []
        (work / "unfinished").write_text("data")
        return target

    load = Load(settings=chosen, where=WHERE, open_target=open_target)
    return WantedLoad(settings=chosen, prepare=lambda: load)


async def run(
    mirror: Mirror, loads: Sequence[WantedLoad] | WantedLoad, *, insists: bool = True, **chosen: Any
) -> list[LoadReport]:
    """Run loads on a mirror, as the command does."""
    several = [loads] if isinstance(loads, WantedLoad) else loads
    async with mirror.opened() as context:
        accounts = account_settings(mirror.configuration())
        return await run_loads(context, accounts, several, chosen=Chosen(insists=insists, **chosen))


async def load_alerts(mirror: Mirror) -> list[BrokenPart]:
    """Return the alerts about loads."""
    async with mirror.opened() as context:
        return [part for part in await BrokenParts(context.manifest, None).load() if part.code == "R-LOAD"]
