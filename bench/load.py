"""Loads into PostgreSQL: `make bench ARGS="load"`.

The server is Debian's, without fsync, for psql and dcsync alike. The figures of dcsync are those of a running daemon:
without the start of the interpreter and the import of dlt.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.stage import MIB, Size
from bench.table import Row, Table
from dcsync.core.loads import LoadMode, Shown
from dcsync.load import HistoryFile, TableLoad, Target
from dcsync.load import opened as open_target
from dcsync.rows import open_table, opened
from tests.rigs import postgres
from tests.rigs.row_histories import Track

_HERE = Path(__file__).parents[1]
_MEMORY = 192 << 20
_BEGIN = datetime(2026, 11, 1, 4, tzinfo=UTC)
_TABLES = 260
_TYPES = {"created_at": "TIMESTAMP", "amount": "DOUBLE", "number": "BIGINT"}
_HEADER = "id,project_id,title,description,created_by,created_at,status,amount,number"
_PSQL = """
DROP TABLE IF EXISTS loaded;
CREATE UNLOGGED TABLE loaded_new (id varchar, project_id varchar, title varchar, description varchar,
    created_by varchar, created_at timestamptz, status varchar, amount double precision, number bigint);
\\copy loaded_new FROM '{path}' CSV HEADER
ALTER TABLE loaded_new RENAME TO loaded;
"""


def load(table: Table, size: Size) -> None:
    """Measure a table as in the newest snapshot, a day of its history, a day without a change, and the memory."""
    with tempfile.TemporaryDirectory(prefix="dcsync-bench-") as name, postgres.serving() as server:
        folder = Path(name)
        for number, body in enumerate(_days(size.load_rows)):
            (folder / f"{number}.csv").write_bytes(body)
        _latest(table, size, folder, server.fresh())
        _history(table, size, folder, server.fresh())
        _unchanged(table, folder, server.fresh())


def _latest(table: Table, size: Size, folder: Path, address: str) -> None:
    theirs, ours, peaks = [], [], []
    script = folder / "psql.sql"
    script.write_text(_PSQL.format(path=folder / "0.csv"), encoding="utf-8")
    for _ in range(max(2, size.rounds)):
        began = time.perf_counter()
        subprocess.run(
            ["psql", "-q", "-X", "-v", "ON_ERROR_STOP=1", address, "-f", script], check=True, stderr=subprocess.DEVNULL
        )
        theirs.append(time.perf_counter() - began)
        seconds, peak = _child("latest", address, folder)
        ours.append(seconds)
        peaks.append(peak)
    work = f"a table of {size.load_rows:,} rows into PostgreSQL"
    _add(table, work, r"psql \copy into an unlogged table", statistics.median(ours), statistics.median(theirs), 1.5)
    _add_memory(table, "memory of that load", max(peaks))


def _history(table: Table, size: Size, folder: Path, address: str) -> None:
    with opened(memory=1 << 30, spill=folder / "spill") as engine:
        track = Track(folder, engine)
        track.add((folder / "0.csv").read_bytes())
        track.add((folder / "1.csv").read_bytes())
        track.close()
    whole, changes = list[float](), list[float]()
    peaks = []
    for _ in range(max(2, size.rounds)):
        for kind, seconds in (("whole", whole), ("changes", changes)):
            taken, peak = _child(kind, address, folder)
            seconds.append(taken)
            peaks.append(peak)
    work = f"a day of the history of {size.load_rows:,} rows, 1 % changed"
    _add(table, work, "a load of all its rows", statistics.median(changes), statistics.median(whole), 0.1)
    _add_memory(table, "memory of these loads", max(peaks))


def _unchanged(table: Table, folder: Path, address: str) -> None:
    seconds, _ = _child("unchanged", address, folder)
    _add(table, f"a day without a change of {_TABLES} tables", "1 s", seconds, 1.0, 1.0)


def _add(table: Table, work: str, against: str, ours: float, theirs: float, bar: float) -> None:
    figures = {"dcsync": f"{ours:.2f} s", "other": f"{theirs:.2f} s"}
    table.add(Row(work=work, against=against, ratio=ours / theirs, bar=bar, **figures))


def _add_memory(table: Table, work: str, peak: float) -> None:
    figures = {"dcsync": f"{peak / MIB:.0f} MiB", "other": "400 MB"}
    table.add(Row(work=work, against="400 MB", ratio=peak / 400e6, bar=1.0, **figures))


def _days(rows: int) -> Iterator[bytes]:
    chance = random.Random(1)
    lines = [_line(chance) for _ in range(rows)]
    yield f"{_HEADER}\n{''.join(lines)}".encode()
    for index in chance.sample(range(rows), max(1, rows // 100)):
        lines[index] = _line(chance)
    yield f"{_HEADER}\n{''.join(lines)}".encode()


def _line(chance: random.Random) -> str:
    bits = chance.getrandbits
    words = " ".join(f"word{bits(12)}" for _ in range(4))
    when = f"2026-{1 + bits(3):02}-{1 + bits(4):02} 10:{bits(5):02}:00"
    status = ("open", "closed", "draft", "in_review")[bits(2)]
    return (
        f'{bits(128):032x},{bits(8):032x},Issue {bits(20)},"{words}, {bits(10)}",user{bits(10)}@example.com,'
        f"{when},{status},{bits(16)}.50,{bits(30)}\n"
    )


def _child(*arguments: object) -> tuple[float, int]:
    """Return the seconds of a load, and the peak of the memory of its process."""
    command = [sys.executable, "-m", "bench.load", *map(str, arguments)]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=_HERE).stdout.split()
    return float(said[0]), int(said[1]) * 1024


# --- in a process of its own ----------------------------------------------------------------------------------------


@contextmanager
def _target(address: str, folder: Path) -> Iterator[Target]:
    work = folder / "work"
    work.mkdir(exist_ok=True)
    with open_target(address, dataset="bench", work=work, memory=_MEMORY) as target:
        target.shown()
        yield target


def _shown(table: str, mode: LoadMode, day: int) -> Shown:
    moment = _BEGIN + timedelta(days=day)
    return Shown(table=table, mode=mode, account="a", request="r", job=f"{day}", completed=moment, sha256="same")


def _load_latest(address: str, folder: Path) -> float:
    below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    with _target(address, folder) as target, open_table("0.csv", below=below) as source:
        seen = target.shown().get("loaded")
        wanted = TableLoad(shown=_shown("loaded", LoadMode.LATEST, 0), source=source, types=_TYPES, seen=seen)
        return _timed(lambda: target.load(wanted))


def _load_history(address: str, folder: Path, day: int) -> float:
    descriptor = os.open(folder / f"{day}.parquet", os.O_RDONLY)
    # The steps of a track are at half past four.
    shown = _shown("history", LoadMode.HISTORY, day)
    shown = replace(shown, completed=shown.completed + timedelta(minutes=30))
    with _target(address, folder) as target:
        wanted = TableLoad(
            shown=shown,
            source=HistoryFile(path="history.parquet", descriptor=descriptor),
            types=_TYPES,
            whole=day == 0,
            seen=target.shown().get("history"),
        )
        return _timed(lambda: target.load(wanted))


def _mark(address: str, folder: Path) -> float:
    names = [f"table_{number:03}" for number in range(_TABLES)]
    below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    with _target(address, folder) as target:
        (folder / "small.csv").write_text("id,name\n1,a\n", encoding="utf-8")
        for name in names:
            with open_table("small.csv", below=below) as source:
                target.load(TableLoad(shown=_shown(name, LoadMode.LATEST, 0), source=source))
    with _target(address, folder) as target:
        return _timed(lambda: (target.shown(), target.mark([_shown(name, LoadMode.LATEST, 1) for name in names])))


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _main(kind: str, address: str, folder: Path) -> None:
    match kind:
        case "latest":
            seconds = _load_latest(address, folder)
        case "whole" | "changes":
            seconds = _load_history(address, folder, 0 if kind == "whole" else 1)
        case _:
            seconds = _mark(address, folder)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print(seconds, next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


PARTS: Sequence[Callable[[Table, Size], None]] = (load,)

if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
