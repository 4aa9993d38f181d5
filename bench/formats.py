"""Compares ways to keep the history of rows, on the same data: `python bench/formats.py --ducklake FOLDER`.

CSV snapshots, a Parquet file a day, validity columns in one Parquet file, DuckLake and Delta Lake. Prints the tables of
docs/project/row-history.md. Each measurement is a process of its own; its start and its imports do not count.

Two packages are only for this comparison. `pip install deltalake` goes into the environment that runs the script.
DuckLake's extension exists for certain versions of DuckDB only, so both go into a folder of their own:
`pip install --target FOLDER duckdb==1.5.5 duckdb-extension-ducklake==1.5.5`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_SEED = 18
#: Day 0 is the first snapshot.
_START = datetime(2026, 10, 1, tzinfo=UTC)
_COLUMNS = (
    *("id", "bim360_account_id", "bim360_project_id", "title", "status", "assigned_to", "due_date", "description"),
    *("created_by", "created_at", "updated_at", "deleted_at"),
)
_LIST = ", ".join(_COLUMNS)
_HASH = f"hash({_LIST})"
#: A multiset of rows: its count, and two sums of independent hashes.
_DIGEST = f"count(*), sum({_HASH}::hugeint), sum(hash({', '.join(reversed(_COLUMNS))}, 1)::hugeint)"
_STATUSES = ("draft", "open", "pending", "in_review", "answered", "closed", "void")
_TEXT = (
    "coordinate clash between duct and beam level three slab opening missing fire stopping door hardware schedule "
    "revise drawing detail concrete pour inspection failed rebar spacing curtain wall anchor submittal review "
    "pending architect owner contractor approved rejected resubmit shop as-built model update north south tower "
    "core stair elevator pit "
)
_WORDS = _TEXT.split()
_WRITE = "format parquet, compression zstd, compression_level 1"


class Rows:
    """The rows of a table, day by day, the same for each run."""

    def __init__(self, count: int) -> None:
        self._random = random.Random(_SEED)
        self._account = self._uuid()
        self._projects = [self._uuid() for _ in range(40)]
        self._users = [self._uuid() for _ in range(500)]
        self._rows = [self._new(_START) for _ in range(count)]

    def advance(self, day: int) -> None:
        """Change 1 % of the rows, delete 0.1 % and insert 0.15 %."""
        now, count, chance = _START + timedelta(days=day), len(self._rows), self._random
        for index in chance.sample(range(count), count // 100):
            row = self._rows[index]
            row[4], row[10] = chance.choice(_STATUSES), self._time(now)
            if chance.random() < 0.3:
                row[5] = chance.choice(self._users)
        for index in sorted(chance.sample(range(count), count // 1000), reverse=True):
            del self._rows[index]
        self._rows += [self._new(now) for _ in range(count * 3 // 2000)]

    def write(self, path: Path) -> None:
        with path.open("w", encoding="utf-8") as file:
            file.write(",".join(_COLUMNS) + "\n")
            file.writelines(",".join(row) + "\n" for row in self._rows)

    def _new(self, now: datetime) -> list[str]:
        chance = self._random
        created = now - timedelta(seconds=chance.randrange(2 * 365 * 86_400))
        text = " ".join(chance.choices(_WORDS, k=chance.randint(6, 22)))
        if chance.random() < 0.05:
            text = f'"{text}, ""see detail""\nnext line"'
        title = " ".join(chance.choices(_WORDS, k=chance.randint(3, 8)))
        due = f"{created + timedelta(days=30):%Y-%m-%d}" if chance.random() < 0.8 else ""
        at = self._time(created)
        return [
            *(self._uuid(), self._account, chance.choice(self._projects), title, chance.choice(_STATUSES)),
            *(chance.choice(self._users), due, text, chance.choice(self._users), at, at, ""),
        ]

    def _uuid(self) -> str:
        text = f"{self._random.getrandbits(128):032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def _time(self, day: datetime) -> str:
        return f"{day + timedelta(microseconds=self._random.randrange(86_400 * 10**6)):%Y-%m-%d %H:%M:%S.%f}"


class Format(ABC):
    """One way to keep the history. `step` adds a day; `source` is the FROM clause of the rows of a day."""

    name = ""
    #: What to do when it is missing.
    hint = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.db: Any = _duckdb()

    @abstractmethod
    def step(self, day: int, csv: Path) -> None:
        """Add a day."""

    @abstractmethod
    def source(self, day: int | None) -> str:
        """Return the rows of a day, or the current ones."""

    def per_day(self, days: int) -> str:
        """Return a query of the days and their counts of open rows."""
        parts = (f"select {day} d, count(*) n from {self.source(day)} where status = 'open'" for day in range(days))
        return " union all ".join(parts)

    def changes(self, day: int) -> str:
        """Return a query of the rows of a day's change, with n = 1 for an added and n = -1 for a removed one."""
        return _signed(self.source(day), self.source(day - 1))

    def query(self, text: str) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = self.db.execute(text).fetchall()
        return rows

    def find(self, new: str, old: str) -> None:
        """Make the tables `added` and `removed` for the step from the rows `old` to the rows `new`, by their hashes."""
        self.query(
            "create temp table s as select h, sum(n)::int n, max(r) r from ("
            f"select {_HASH} h, 1 n, null::bigint r from {new} union all select {_HASH}, -1, r from {old}"
            ") group by h having sum(n) <> 0"
        )
        # The rows of this benchmark are distinct, so no two rows have the same hash.
        assert self.query("select count(*) from s where abs(n) <> 1") == [(0,)]
        self.query(
            f"create temp table added as select {_LIST} from {new} where {_HASH} in (select h from s where n = 1)"
        )


class CsvSnapshots(Format):
    name = "CSV snapshots"

    def step(self, day: int, csv: Path) -> None:
        part = self.folder / "part"
        shutil.copyfile(csv, part)
        _replace(part, self.folder / f"{day:03}.csv")

    def source(self, day: int | None) -> str:
        return _csv(_newest(self.folder, "csv") if day is None else self.folder / f"{day:03}.csv")


class ParquetADay(Format):
    name = "a Parquet file a day"

    def step(self, day: int, csv: Path) -> None:
        part = self.folder / "part"
        self.query(f"copy (from {_csv(csv)}) to '{part}' ({_WRITE})")
        _replace(part, self.folder / f"{day:03}.parquet")

    def source(self, day: int | None) -> str:
        path = _newest(self.folder, "parquet") if day is None else self.folder / f"{day:03}.parquet"
        return f"read_parquet('{path}')"


class Validity(Format):
    """Closed rows come first, in the order in which they were closed; the current rows follow, the newest last."""

    name = "validity columns"

    @property
    def path(self) -> Path:
        return self.folder / "table.parquet"

    def step(self, day: int, csv: Path) -> None:
        part, rows = self.folder / "part", _csv(csv)
        if day == 0:
            self.query(f"copy (select *, 0 _valid_from, null::int _valid_to from {rows}) to '{part}' ({_WRITE})")
        else:
            old = f"read_parquet('{self.path}', file_row_number = true)"
            self.find(rows, f"(select {_LIST}, file_row_number r from {old} where _valid_to is null)")
            gone = "(select r from s where n = -1)"
            # One ordered stream: no sort, and little memory.
            self.query("set preserve_insertion_order = true")
            self.query(
                f"copy (select {_LIST}, _valid_from, _valid_to from {old} where _valid_to is not null union all "
                f"select {_LIST}, _valid_from, {day} from {old} where file_row_number in {gone} union all "
                f"select {_LIST}, _valid_from, null from {old} "
                f"where _valid_to is null and file_row_number not in {gone} "
                f"union all select {_LIST}, {day}, null from added) to '{part}' ({_WRITE})"
            )
        # What cannot be proved is not published.
        written = f"(from read_parquet('{part}') where _valid_to is null)"
        assert self.query(f"select {_DIGEST} from {written}") == self.query(f"select {_DIGEST} from {rows}")
        _replace(part, self.path)

    def source(self, day: int | None) -> str:
        valid = "_valid_to is null"
        if day is not None:
            valid = f"_valid_from <= {day} and (_valid_to is null or _valid_to > {day})"
        return f"(select {_LIST} from read_parquet('{self.path}') where {valid})"

    def per_day(self, days: int) -> str:
        rows = f"read_parquet('{self.path}') where status = 'open'"
        return (
            "select d, sum(sum(n)) over (order by d) n from ("
            f"select _valid_from d, 1 n from {rows} union all "
            f"select _valid_to, -1 from {rows} and _valid_to is not null union all "
            f" select unnest(range({days})), 0) group by d"
        )

    def changes(self, day: int) -> str:
        return (
            f"select {_LIST}, case when _valid_from = {day} then 1 else -1 end n from read_parquet('{self.path}') "
            f"where (_valid_from = {day}) <> coalesce(_valid_to = {day}, false)"
        )


class DuckLake(Format):
    name = "DuckLake"
    hint = "pip install --target FOLDER duckdb==1.5.5 duckdb-extension-ducklake==1.5.5, then add --ducklake FOLDER"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        home = Path(import_module("duckdb_extension_ducklake").__path__[0])
        self.query(f"load '{next(home.glob('extensions/*/ducklake.duckdb_extension'))}'")
        self.query(
            f"attach 'ducklake:{folder}/catalog.ducklake' as lake (data_path '{folder}/data/', override_data_path true)"
        )
        self.query("call lake.set_option('parquet_compression', 'zstd')")

    def step(self, day: int, csv: Path) -> None:
        rows = _csv(csv)
        if day == 0:
            self.query(f"create table lake.t as from {rows}")
            self.query("create table lake.days (day int, version bigint)")
        else:
            self.find(rows, f"(select {_LIST}, null::bigint r from lake.t)")
            self.query("begin")
            gone = f"(select id from lake.t where {_HASH} in (select h from s where n = -1))"
            self.query(f"delete from lake.t where id in {gone}")
            self.query("insert into lake.t from added")
            self.query("commit")
        # A snapshot has no name of its own: this is how a day finds its version.
        self.query(f"insert into lake.days select {day}, max(snapshot_id) from ducklake_snapshots('lake')")
        # Otherwise the write-ahead log is left to the next process that opens the catalog.
        self.query("detach lake")

    def _version(self, day: int) -> int:
        return int(self.query(f"select version from lake.days where day = {day}")[0][0])

    def source(self, day: int | None) -> str:
        return "lake.t" if day is None else f"(from lake.t at (version => {self._version(day)}))"

    def changes(self, day: int) -> str:
        first, last = self._version(day - 1) + 1, self._version(day)
        return (
            f"select {_LIST}, case when change_type in ('insert', 'update_postimage') then 1 else -1 end n "
            f"from ducklake_table_changes('lake', 'main', 't', {first}, {last})"
        )


class DeltaLake(Format):
    name = "Delta Lake"
    hint = "pip install deltalake"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.delta: Any = import_module("deltalake")

    def step(self, day: int, csv: Path) -> None:
        rows, place = _csv(csv), str(self.folder)
        zstd = self.delta.WriterProperties(compression="ZSTD")
        if day == 0:
            options = {"delta.enableChangeDataFeed": "true"}
            self.delta.write_deltalake(
                place, self.db.sql(f"from {rows}"), configuration=options, writer_properties=zstd
            )
            return
        self.find(rows, f"(select {_LIST}, null::bigint r from {self.source(None)})")
        self.query(
            "create temp table work as select *, 'u' _op from added union all "
            f"select {_LIST}, 'd' from {self.source(None)} where {_HASH} in (select h from s where n = -1) "
            "and id not in (select id from added)"
        )
        new = {name: f"s.{name}" for name in _COLUMNS}
        merge = self.delta.DeltaTable(place).merge(
            self.db.sql("from work"), "t.id = s.id", source_alias="s", target_alias="t", writer_properties=zstd
        )
        merge.when_matched_delete("s._op = 'd'").when_matched_update(new).when_not_matched_insert(new).execute()

    def source(self, day: int | None) -> str:
        return f"read_parquet({self.delta.DeltaTable(str(self.folder), version=day).file_uris()})"

    def changes(self, day: int) -> str:
        feed = self.delta.DeltaTable(str(self.folder)).load_cdf(starting_version=day, ending_version=day)
        self.db.register("feed", feed)
        return (
            f"select {_LIST}, case when _change_type in ('insert', 'update_postimage') then 1 else -1 end n from feed"
        )


FORMATS: Mapping[str, type[Format]] = {
    "csv": CsvSnapshots,
    "parquet": ParquetADay,
    "validity": Validity,
    "ducklake": DuckLake,
    "delta": DeltaLake,
}


# --- what runs in a process of its own --------------------------------------------------------------------------------


def _step(form: Format, day: int, csv: Path) -> object:
    form.step(day, csv)
    return None


def _as_of(form: Format, day: int, _: Path) -> object:
    return _texts(form.query(f"select {_DIGEST} from {form.source(day)}"))


def _current(form: Format, _: int, __: Path) -> object:
    return _texts(form.query(f"select {_DIGEST} from {form.source(None)}"))


def _every(form: Format, days: int, _: Path) -> object:
    return [_texts(form.query(f"select {_DIGEST} from {form.source(day)}")) for day in range(days)]


def _per_day(form: Format, days: int, _: Path) -> object:
    return _texts(form.query(f"select d, n from ({form.per_day(days)}) order by d"))


def _changes(form: Format, day: int, _: Path) -> object:
    return _texts(form.query(f"select n, {_DIGEST} from ({form.changes(day)}) group by n order by n"))


def _except(form: Format, day: int, csv: Path) -> object:
    """Compare a day with its CSV row for row, with the number of times that each row occurs."""
    ours, theirs = f"select {_LIST} from {form.source(day)}", f"select {_LIST} from {_csv(csv)}"
    counts = form.query(
        f"select (select count(*) from ({ours} except all {theirs})), "
        f"(select count(*) from ({theirs} except all {ours}))"
    )
    assert counts == [(0, 0)], counts
    return None


WORKS: Mapping[str, Callable[[Format, int, Path], object]] = {
    "step": _step,
    "as_of": _as_of,
    "current": _current,
    "every": _every,
    "per_day": _per_day,
    "changes": _changes,
    "except": _except,
}


def _child(name: str, work: str, folder: Path, day: int, csv: Path) -> None:
    form = FORMATS[name](folder)
    print("ready", flush=True)
    wall, cpu = time.perf_counter(), time.process_time()
    value = WORKS[work](form, day, csv)
    figures = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "value": value}
    print(json.dumps({**figures, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}), flush=True)


# --- the comparison ---------------------------------------------------------------------------------------------------


class Comparison:
    """Runs the works, and keeps what they are compared with."""

    def __init__(self, options: argparse.Namespace, place: Path) -> None:
        self.days, self.kills, self.rows = options.days, options.kills, options.rows
        self.ducklake: Path | None = options.ducklake
        self.place, self.csvs = place, place / "source"
        self._expected: dict[tuple[bool, str, int], object] = {}
        missing = {"ducklake": not self.ducklake, "delta": not find_spec("deltalake")}
        self.names = [name for name in FORMATS if not missing.get(name)]
        for name in FORMATS.keys() - set(self.names):
            print(f"without {FORMATS[name].name}: {FORMATS[name].hint}", file=sys.stderr)

    def make_data(self) -> None:
        self.csvs.mkdir()
        rows = Rows(self.rows)
        for day in range(self.days):
            if day:
                rows.advance(day)
            rows.write(self.csv(day))

    def csv(self, day: int) -> Path:
        return self.csvs / f"{day:03}.csv"

    def command(self, name: str, work: str, folder: Path, day: int) -> tuple[list[str], dict[str, str]]:
        environ = {"PATH": "/usr/bin:/bin"}
        if name == "ducklake":
            environ["PYTHONPATH"] = str(self.ducklake)
        csv = self.csv(min(day, self.days - 1))
        return [sys.executable, __file__, "--child", name, work, str(folder), str(day), str(csv)], environ

    def run(self, name: str, work: str, folder: Path, day: int = 0) -> dict[str, Any]:
        command, environ = self.command(name, work, folder, day)
        done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True)
        figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return figures

    def measure(self, name: str) -> dict[str, str]:
        """Build the history of all days, ask the questions, and compare each answer with that of the CSV files."""
        folder, plain = self.place / name, self.place / "csv"
        steps = [self.run(name, "step", folder, day) for day in range(self.days)][1:]
        middle = self.days // 2
        cells = {
            "size": f"{_size(folder) / 1e6:.0f} MB",
            "files": str(len(_files(folder))),
            "step, CPU": _seconds([step["cpu"] for step in steps]),
            "step, wall": _seconds([step["wall"] for step in steps]),
            "step, peak memory": f"{max(step['peak'] for step in steps) / 2**20:.0f} MiB",
        }
        exact = True
        for title, work, day in (
            (f"as of day {middle}", "as_of", middle),
            ("open rows on each day", "per_day", self.days),
            (f"changes of day {middle}", "changes", middle),
            ("current rows", "current", 0),
        ):
            answers = [self.run(name, work, folder, day) for _ in range(3)]
            cells[title] = _seconds([answer["wall"] for answer in answers])
            # The benchmark's CSV answers come from the DuckDB that the format uses.
            expected = self.expected(name, work, plain, day)
            exact = exact and all(answer["value"] == expected for answer in answers)
        every = self.run(name, "every", folder, self.days)["value"]
        exact = exact and every == self.expected(name, "every", plain, self.days)
        for day in (middle, self.days - 1):
            self.run(name, "except", folder, day)
        cells["exact"] = "yes" if exact else "**no**"
        return cells

    def expected(self, name: str, work: str, plain: Path, day: int) -> object:
        """Return the answer of the CSV files, by the version of DuckDB that the format runs with."""
        key = (name == "ducklake", work, day)
        if key in self._expected:
            return self._expected[key]
        command, environ = self.command("csv", work, plain, day)
        if name == "ducklake":
            environ["PYTHONPATH"] = str(self.ducklake)
        done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True)
        self._expected[key] = json.loads(done.stdout.splitlines()[-1])["value"]
        return self._expected[key]

    def kill(self, name: str) -> dict[str, str]:
        """Kill a step at random moments. The state must be that before it or that after it."""
        base, plain, chance = self.place / f"{name}-base", self.place / "csv", random.Random(_SEED)
        for day in range(3):
            self.run(name, "step", base, day)
        clean = self.place / f"{name}-clean"
        shutil.copytree(base, clean)
        took = self.run(name, "step", clean, 3)["wall"]
        before, after = (self.expected(name, "as_of", plain, day) for day in (2, 3))
        found = {"before": 0, "after": 0, "broken": 0}
        left, most, stays, redone = 0, 0, 0, 0
        for number in range(self.kills):
            folder = self.place / f"{name}-kill"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(base, folder)
            self._killed(name, folder, took * (number + chance.random()) / self.kills)
            names, size = _files(folder), _size(folder)
            state = self._state(name, folder, before, after)
            found[state] += 1
            expected = base if state == "before" else clean
            extra = len(names) - len(_files(expected))
            left += extra > 0
            most = max(most, size - _size(expected)) if extra > 0 else most
            if state == "before":
                self.run(name, "step", folder, 3)
            redone += self._state(name, folder, before, after) == "after"
            stays += len(_files(folder)) > len(_files(clean))
        return {
            "before / after / broken": " / ".join(str(count) for count in found.values()),
            "left extra files": f"{left} (up to {most / 1e6:.1f} MB)",
            "next step succeeds": f"{redone} of {self.kills}",
            "extra files remain after it": str(stays),
        }

    def _killed(self, name: str, folder: Path, after: float) -> None:
        command, environ = self.command(name, "step", folder, 3)
        with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(after)
            process.kill()

    def _state(self, name: str, folder: Path, before: object, after: object) -> str:
        try:
            value = self.run(name, "current", folder)["value"]
        except subprocess.CalledProcessError:
            return "broken"
        return "before" if value == before else "after" if value == after else "broken"


def _year(place: Path, count: int) -> None:
    """Print how a step of the validity columns grows within a year, and what the layout of the file changes."""
    csv, folder, rows, lines = place / "day.csv", place / "year", Rows(count), []
    seconds: list[float] = []
    for day in range(366):
        if day:
            rows.advance(day)
        rows.write(csv)
        form = Validity(folder)
        cpu = time.process_time()
        form.step(day, csv)
        seconds.append(time.process_time() - cpu)
        form.db.close()
        if day in {1, 30, 90, 180, 365}:
            near = statistics.median(seconds[max(1, day - 4) :])
            lines.append([str(day), f"{near / statistics.median(seconds[1:6]):.2f}", f"{_size(folder) / 1e6:.1f} MB"])
    _print(f"One year, {count} rows", ["Day", "CPU of a step, day 1 = 1", "File"], lines)
    _layouts(place / "layout", Validity(folder).path)


def _layouts(place: Path, source: Path) -> None:
    """Print how the order, the row groups and the compression of a file change its size and its answers."""
    lines = []
    orders = {
        "closed first": "_valid_to nulls last, _valid_from",
        "first day": "_valid_from",
        "id": "id, _valid_from",
        "random": "hash(id, _valid_from)",
    }
    layouts = [(order, 122_880, 1) for order in orders]
    layouts += [("closed first", size, 1) for size in (8192, 20_480, 491_520)]
    layouts += [("closed first", 122_880, level) for level in (3, 9, 19)]
    for order, size, level in layouts:
        form = Validity(place)
        cpu = time.process_time()
        form.query("set preserve_insertion_order = true")
        form.query(
            f"copy (from '{source}' order by {orders[order]}) to '{form.path}' "
            f"(format parquet, compression zstd, compression_level {level}, row_group_size {size})"
        )
        write = time.process_time() - cpu
        times = [
            _repeat(form, question)
            for question in (lambda f: f.source(15), lambda f: f.source(350), lambda f: f.source(None))
        ]
        times.append(_repeat(form, lambda f: f"({f.changes(350)})"))
        cells = [f"{1e3 * value:.0f} ms" for value in times]
        lines.append([order, str(size), str(level), f"{_size(form.folder) / 1e6:.1f} MB", f"{write:.1f} s", *cells])
        form.db.close()
    heads = [
        "Order",
        "Row group",
        "Level",
        "Size",
        "Write, CPU",
        "As of day 15",
        "As of day 350",
        "Current",
        "Changes of day 350",
    ]
    _print("Layout of the file after a year, CPU of a question", heads, lines)


def _repeat(form: Validity, question: Callable[[Validity], str]) -> float:
    seconds = []
    for _ in range(7):
        cpu = time.process_time()
        form.query(f"select {_DIGEST} from {question(form)}")
        seconds.append(time.process_time() - cpu)
    return statistics.median(seconds)


def _duckdb() -> Any:
    db = import_module("duckdb").connect(config={"autoinstall_known_extensions": "false"})
    for setting in ("threads = 2", "memory_limit = '1GiB'", "preserve_insertion_order = false"):
        db.execute(f"set {setting}")
    # DuckDB expects a handful of rows from a CSV file with given columns, and would build hash tables of all of them.
    db.execute("set disabled_optimizers = 'build_side_probe_side'")
    return db


def _csv(path: Path) -> str:
    columns = ", ".join(f"'{name}': 'VARCHAR'" for name in _COLUMNS)
    form = "auto_detect = false, header = true, delim = ',', quote = '\"', escape = '\"', nullstr = ''"
    return f"read_csv('{path}', columns = {{{columns}}}, {form})"


def _signed(new: str, old: str) -> str:
    both = f"select {_LIST}, 1 n from {new} union all select {_LIST}, -1 from {old}"
    changed = f"select h from (select {_HASH} h, n from ({both})) group by h having sum(n) <> 0"
    return f"select {_LIST}, n from ({both}) where {_HASH} in ({changed})"


def _replace(part: Path, path: Path) -> None:
    for place in (part, None, part.parent):
        if place is None:
            part.replace(path)
            continue
        handle = os.open(place, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def _newest(folder: Path, suffix: str) -> Path:
    return max(folder.glob(f"*.{suffix}"))


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))


def _seconds(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} s"


def _texts(rows: Sequence[Sequence[object]]) -> list[list[str]]:
    return [[str(value) for value in row] for row in rows]


def _print(title: str, heads: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for line in lines:
        print(f"| {' | '.join(line)} |")
    print(flush=True)


def _compare(comparison: Comparison) -> None:
    comparison.make_data()
    columns = {FORMATS[name].name: comparison.measure(name) for name in comparison.names}
    title = f"{comparison.rows} rows, {comparison.days} days"
    _table(title, columns)
    _table(f"{title}, validity columns = 1", _ratios(columns))
    if comparison.kills:
        columns = {FORMATS[name].name: comparison.kill(name) for name in comparison.names}
        _table(f"{comparison.kills} times killed in a step", columns)


def _ratios(columns: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Return the figures of each format divided by those of the validity columns, which stay as they are."""
    own = columns[Validity.name]
    found = {Validity.name: dict(own)}
    for name in columns.keys() - {Validity.name}:
        found[name] = {row: _ratio(cell, own[row]) for row, cell in columns[name].items()}
    return {name: found[name] for name in (Validity.name, *(name for name in columns if name != Validity.name))}


def _ratio(cell: str, own: str) -> str:
    if not cell[0].isdigit():
        return cell
    ratio = float(cell.split(maxsplit=1)[0]) / float(own.split(maxsplit=1)[0])
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"


def _table(title: str, columns: Mapping[str, Mapping[str, str]]) -> None:
    first = next(iter(columns.values()))
    _print(title, ["", *columns], [[row, *(column[row] for column in columns.values())] for row in first])


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--days", type=int, default=30, help="0: only the year")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--year-rows", type=int, default=50_000, help="rows of the table that is kept for a year; 0: none"
    )
    parser.add_argument(
        "--ducklake", type=Path, help="folder with DuckDB and DuckLake's extension; without it: left out"
    )
    return parser.parse_args()


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        name, work, folder, day, csv = sys.argv[2:]
        _child(name, work, Path(folder), int(day), Path(csv))
        return
    options = _parse()
    if not find_spec("duckdb"):
        raise SystemExit("this comparison needs DuckDB: pip install duckdb")
    with tempfile.TemporaryDirectory(prefix="dcsync-formats-") as place:
        if options.days:
            _compare(Comparison(options, Path(place)))
        if options.year_rows:
            _year(Path(place), options.year_rows)


if __name__ == "__main__":
    main()
