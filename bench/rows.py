"""Row histories: `make bench ARGS="rows"`.

The figures are seconds of the processor for a whole process, with the start of the interpreter, which is the same for
dcsync and for DuckDB alone.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.history import processor_seconds
from bench.stage import MIB, Size
from bench.table import Row, Table
from dcsync.core.model import JobId
from dcsync.core.row_history import Extract
from dcsync.core.table import TableKind
from dcsync.mirror.root import open_root
from dcsync.ops.history.build import Building, Options, RequestTables
from dcsync.ops.history.thread import Stopping

_HERE = Path(__file__).parents[1]
_MEMORY = 1 << 30
_BEGIN = datetime(2026, 11, 1, 4, tzinfo=UTC)
_COLUMNS = "id,project_id,title,description,created_by,created_at,status,amount"
_CSV = "read_csv('{path}', all_varchar = true, header = true)"
_READ = {
    # DuckDB reads every field: into a table in memory, or to a hash of each row.
    "DuckDB reads it into a table": f"CREATE TABLE t AS SELECT * FROM {_CSV}",
    "DuckDB hashes its rows": f"SELECT sum(hash({_COLUMNS})::HUGEINT) FROM {_CSV}",
}
_DUCKDB = """
import duckdb, sys
connection = duckdb.connect(config={"threads": 2})
connection.execute(sys.argv[1]).fetchall()
"""


def rows(table: Table, size: Size) -> None:
    """Measure the step of a large table, the size of a month, a day without a change, and the memory."""
    with tempfile.TemporaryDirectory(prefix="dcsync-bench-") as name:
        _large_step(table, size, Path(name))
    with tempfile.TemporaryDirectory(prefix="dcsync-bench-") as name:
        _month(table, size, Path(name))
    with tempfile.TemporaryDirectory(prefix="dcsync-bench-") as name:
        _unchanged(table, size, Path(name))


def _large_step(table: Table, size: Size, root: Path) -> None:
    """One day of a large table, in which 1 % of the rows changed."""
    content = _Content(size.rows_bytes)
    content.write(root, 0)
    _build(root, {"large": ["0"]}, [0])
    content.change()
    path = content.write(root, 1)
    before = (root / "acme/r/history/large.parquet").read_bytes()
    seconds: dict[str, list[float]] = {}
    peaks = []
    for _ in range(size.rounds):
        (root / "acme/r/history/large.parquet").write_bytes(before)
        (root / "acme/r/history/history.json").unlink()
        began = processor_seconds()
        said = _child("step", str(root))
        seconds.setdefault("dcsync", []).append(processor_seconds() - began)
        peaks.append(int(said.rsplit("peak ", 1)[1]) / 1024)
        for label, sql in _READ.items():
            began = processor_seconds()
            subprocess.run([sys.executable, "-c", _DUCKDB, sql.format(path=path)], check=True)
            seconds.setdefault(label, []).append(processor_seconds() - began)
    ours = statistics.median(seconds["dcsync"])
    work = f"a day of the row history of a table of {path.stat().st_size / 1e6:.0f} MB, CPU"
    for label, bar in zip(_READ, (4.0, None), strict=True):
        theirs = statistics.median(seconds[label])
        table.add(
            Row(work=work, against=label, dcsync=f"{ours:.2f} s", other=f"{theirs:.2f} s", ratio=ours / theirs, bar=bar)
        )
    peak = max(peaks)
    figures = {"dcsync": f"{peak:.0f} MiB", "other": f"{_MEMORY // MIB} MiB"}
    table.add(
        Row(work="memory of that day", against="[history] memory", ratio=peak * MIB / _MEMORY, bar=1.0, **figures)
    )


def _month(table: Table, size: Size, root: Path) -> None:
    """30 days of a table, in which 1 % of the rows change each day."""
    content = _Content(size.rows_bytes // 20)
    days = []
    for day in range(size.days):
        content.write(root, day)
        days.append(str(day))
        content.change()
    _build(root, {"large": days}, range(size.days))
    history = (root / "acme/r/history/large.parquet").stat().st_size
    plain = root / "day.parquet"
    source = _CSV.format(path=root / "acme/r/0/large.csv")
    copy = f"COPY (SELECT * FROM {source}) TO '{plain}' (FORMAT parquet, COMPRESSION zstd)"
    subprocess.run([sys.executable, "-c", _DUCKDB, copy], check=True)
    one = plain.stat().st_size
    figures = {"dcsync": f"{history / 1000:.0f} kB", "other": f"{one / 1000:.0f} kB"}
    work = f"the row history of {size.days} days, 1 % changed a day"
    table.add(Row(work=work, against="Parquet of one day", ratio=history / one, bar=2.0, **figures))


def _unchanged(table: Table, size: Size, root: Path) -> None:
    """A day on which no table changed."""
    names = [f"table_{number:03}" for number in range(size.files)]
    for day in (0, 1):
        folder = root / f"acme/r/{day}"
        folder.mkdir(parents=True)
        for name in names:
            (folder / f"{name}.csv").write_text(f"id,name\n1,{name}\n")
    _build(root, {name: ["same"] for name in names}, [0])
    began = processor_seconds(own=True)
    _build(root, {name: ["same", "same"] for name in names}, [0, 1])
    each = (processor_seconds(own=True) - began) / len(names) * 1000
    work = f"a day without a change in the row history of {size.files} tables, CPU a table"
    table.add(Row(work=work, against="10 ms", dcsync=f"{each:.2f} ms", other="10 ms", ratio=each / 10, bar=1.0))


class _Content:
    """A table of about `size` bytes, of which 1 % of the rows can change."""

    def __init__(self, size: int) -> None:
        self._chance = random.Random(1)
        self._rows = [self._row() for _ in range(max(100, size // 240))]

    def change(self) -> None:
        """Change 1 % of the rows."""
        for index in self._chance.sample(range(len(self._rows)), len(self._rows) // 100):
            self._rows[index] = self._row()

    def write(self, root: Path, day: int) -> Path:
        """Write the table of a day."""
        path = root / f"acme/r/{day}/large.csv"
        path.parent.mkdir(parents=True)
        with path.open("w", encoding="utf-8") as file:
            file.write(f"{_COLUMNS}\n")
            file.writelines(self._rows)
        return path

    def _row(self) -> str:
        bits = self._chance.getrandbits
        when = f"2026-{1 + bits(3):02}-{1 + bits(4):02} 10:{bits(5):02}:00"
        words = " ".join(f"word{bits(12)}" for _ in range(12))
        status = ("open", "closed", "draft", "in_review")[bits(2)]
        text = f'Issue {bits(20)},"{words}, {bits(10)}",user{bits(10)}@example.com'
        return f"{bits(128):032x},{bits(8):032x},{text},{when},{status},{bits(16)}.50\n"


def _build(root: Path, tables: Mapping[str, Sequence[str]], days: Sequence[int]) -> None:
    """Build the histories of these tables from their days. The values name the content of each day."""
    with ExitStack() as stack:
        opened = stack.enter_context(open_root(root))
        extracts = {
            name: [_extract(root, name, day, content) for day, content in zip(days, contents, strict=True)]
            for name, contents in tables.items()
        }
        jobs = tuple(JobId(f"job-{day}") for day in days)
        request = RequestTables(
            request="r", slug="r", folder="acme/r/history", wanted=("*",), jobs=jobs, tables=extracts
        )
        outcome = Building(opened, request, Options(memory=_MEMORY), Stopping()).run()
    assert not outcome.failed, outcome.failed


def _extract(root: Path, name: str, day: int, content: str) -> Extract:
    path = root / f"acme/r/{day}/{name}.csv"
    return Extract(
        job=JobId(f"job-{day}"),
        time=_BEGIN + timedelta(days=day),
        folder=f"acme/r/{day}",
        name=path.name,
        size=path.stat().st_size,
        sha256=content,
        rows=None,
        kind=TableKind.FULL,
    )


def _child(*arguments: str) -> str:
    command = [sys.executable, "-m", "bench.rows", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=_HERE).stdout


def _step(root: Path) -> None:
    """Take the second day of the large table, and print the peak of the memory."""
    _build(root, {"large": ["0", "1"]}, [0, 1])
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print("peak", next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


PARTS: Sequence[Callable[[Table, Size], None]] = (rows,)

if __name__ == "__main__":
    _step(Path(sys.argv[2]))
