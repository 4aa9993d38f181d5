"""Loads that are killed: a process that loads day after day, and what its target shows when it is dead."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import duckdb

from dcsync.core.loads import LoadMode, Shown
from dcsync.core.model import JobId
from dcsync.core.row_history import Step
from dcsync.load import Target
from dcsync.rows import opened
from tests.rigs.ended import end
from tests.rigs.loads import BEGIN, DATASET, Goal, goal, history, latest
from tests.rigs.postgres import Postgres
from tests.rigs.row_histories import Track

_DAYS = 12
_ROWS = 20_000
_HERE = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class LoadKills:
    """A target, and a folder with the row history of each day."""

    place: Goal
    days: Path

    def kill(self, chance: random.Random) -> None:
        """Run the loader, kill it during a load, and check what the target shows."""
        with self._loader() as loader:
            assert loader.stdout is not None
            for _ in range(chance.randrange(1, 5)):
                assert loader.stdout.readline() == b"loading\n", loader.poll()
            time.sleep(chance.uniform(0, 0.12))  # noqa: TID251 - some moment of a load
            loader.send_signal(signal.SIGKILL)
        self.check()

    def check(self) -> None:
        """Assert that each table shows exactly the snapshot that `_dcsync_loads` names."""
        listed = self._listed()
        for table, mode, job, rows in listed:
            day = int(job.removeprefix("job-"))
            if mode == LoadMode.LATEST:
                found = self.place.ask(f"SELECT min(day), max(day), count(*) FROM {{t}}.{table}")
                assert found == [(str(day), str(day), _ROWS)]
                assert rows == _ROWS
            else:
                times = "count(*), count(_valid_to), count(DISTINCT _valid_from), max(CAST(id AS bigint))"
                found = self.place.ask(f"SELECT {times} FROM {{t}}.{table}")
                assert found == duckdb.execute(f"SELECT {times} FROM '{self.days}/{day}.parquet'").fetchall()
                assert rows == found[0][0]
        if self.place.kind == "postgresql":
            left = self.place.ask("SELECT relname FROM pg_class WHERE relname LIKE '_dcsync_new%'")
            assert left == []

    def _listed(self) -> list[tuple[str, str, str, int]]:
        if self.place.kind != "file":
            if not self._has_loads():
                return []
            return [
                (str(table), str(mode), str(job), int(rows))
                for table, mode, job, rows in self.place.ask(
                    "SELECT table_name, mode, job, row_count FROM {t}._dcsync_loads"
                )
            ]
        found = []
        for path in Path(self.place.path).glob(f"{DATASET}/[a-z]*.parquet"):
            sql = f"SELECT value FROM parquet_kv_metadata('{path}') WHERE key = 'dcsync_load'"
            ((value,),) = duckdb.execute(sql).fetchall()
            table, mode, _, _, job, _, _, rows, _ = json.loads(value)
            found.append((table, mode, job, rows))
        return found

    def _has_loads(self) -> bool:
        with self.place.opened() as target:
            return bool(target.shown())

    @contextmanager
    def _loader(self) -> Iterator[subprocess.Popen[bytes]]:
        command = [
            sys.executable,
            "-m",
            "tests.rigs.load_kills",
            self.place.address,
            str(self.place.folder),
            str(self.days),
        ]
        loader = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=_HERE)
        try:
            yield loader
        finally:
            end(loader)


def make_days(folder: Path) -> None:
    """Write the row history of each day: 1 % of the rows change from day to day."""
    folder.mkdir()
    with opened(memory=128 << 20, spill=folder) as engine:
        track = Track(folder, engine)
        for day in range(_DAYS):
            rows = (f"{number},{day if number % 100 == day else 0}\n" for number in range(_ROWS + day))
            track.add(f"id,day\n{''.join(rows)}".encode())
        track.close()


def _load_for_ever(place: Goal, days: Path) -> None:
    """Load one day after another, from the day that the target shows, and begin again after the last."""
    with place.opened() as target:
        while True:
            shown = target.shown()
            for table in ("users", "past"):
                seen = shown.get(table)
                day = (int(seen.job.removeprefix("job-")) + 1) % _DAYS if seen is not None else 0
                sys.stdout.write("loading\n")
                sys.stdout.flush()
                if table == "users":
                    rows = (f"{number},{day}\n" for number in range(_ROWS))
                    latest(target, place.folder, f"id,day\n{''.join(rows)}".encode(), day=day, seen=seen)
                else:
                    _load_history(target, days, day, seen)


def _load_history(target: Target, days: Path, day: int, seen: Shown | None) -> None:
    moment = BEGIN + timedelta(days=day)
    step = Step(job=JobId(f"job-{day}"), time=moment, sha256=f"{day}", rows=_ROWS, digest="", columns=())
    descriptor = os.open(days / f"{day}.parquet", os.O_RDONLY)
    try:
        history(target, descriptor, step, table="past", seen=seen)
    finally:
        os.close(descriptor)


def goal_of_days(kind: str, folder: Path, server: Postgres | None) -> LoadKills:
    """Return an empty target, and some days to load into it."""
    days = folder / "days"
    make_days(days)
    return LoadKills(goal(kind, folder, server), days)


if __name__ == "__main__":
    _load_for_ever(Goal(sys.argv[1], Path(sys.argv[2])), Path(sys.argv[3]))
