"""dcsync on a line that gives each connection only so much: `make bench ARGS="line line_unlimited line_memory"`.

Object storage sends 50 to 90 MB/s through one connection nearby, and far less over an ocean. Each figure is a whole
command, from the start of the process to the last fsync. aria2c fetches the same bytes through eight connections, and
`sha256sum` and `sync` follow. It does not unpack the ZIP. dcsync also unpacks, compares, counts rows and publishes.
"""

from __future__ import annotations

import base64
import random
import resource
import signal
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import peers as other
from bench.stage import ARCHIVE, MIB, OnDisk, Size, Stage, staged
from bench.table import Row, Table

#: A limit of each request, not of each connection (bench/origin.py).
LIMIT_RATE = "10m"
ARIA2C, CURL, BEFORE = "aria2c -x8, sha256sum, sync", "curl, sha256sum, sync", "dcsync before"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One extract: its files, and the one that the other tools fetch."""

    name: str
    files: Mapping[str, OnDisk]
    fetched: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a command took."""

    seconds: float
    cpu_s: float


def line(table: Table, size: Size) -> None:
    """Compare three extracts at each pace of a connection, and with nginx's limit of each request."""
    with cases(size) as made:
        for pace in size.paces:
            with staged(pace=pace * 1_000_000) as stage:
                _check_pace(stage, made[0], pace)
                for case in made:
                    _line(table, size, stage, case, f"{pace} MB/s a connection")
        with staged(limit_rate=LIMIT_RATE) as stage:
            for case in made:
                _line(table, size, stage, case, f"nginx limit_rate {LIMIT_RATE}")


def line_unlimited(table: Table, size: Size) -> None:
    """Compare three extracts without a limit, and with another version of dcsync if there is one."""
    with cases(size) as made:
        for scheme in ("http", "https"):
            with staged(scheme=scheme) as stage:
                for case in made:
                    _line(table, size, stage, case, f"unlimited, {scheme}", scheme=scheme, bar=None)


def line_memory(table: Table, size: Size) -> None:
    """Measure the peak memory while large files are in flight, with and without a limit of each connection."""
    for pace in (None, 10_000_000):
        with staged(pace=pace) as stage:
            source = stage.folder / "large.csv"
            with source.open("wb") as file:
                file.truncate(size.memory_bytes[1])
            names = [f"large_{index:02}.csv" for index in range(size.memory_files)]
            stage.add({name: OnDisk(source) for name in names}, with_archive=False)
            peak = _peak_in_flight(stage, size.flight_bytes)
        table.add(
            Row(
                work=f"memory, {size.memory_files} files of {size.memory_bytes[1] / 1e6:g} MB in flight, "
                + ("unlimited" if pace is None else f"{pace / 1e6:g} MB/s a connection"),
                against="180 MB",
                dcsync=f"{peak:.0f} MiB",
                other=f"{180e6 / MIB:.0f} MiB",
                ratio=peak * MIB / 180e6,
                bar=1.0,
            )
        )


PARTS: Sequence[Callable[[Table, Size], None]] = (line, line_unlimited, line_memory)


@contextmanager
def cases(size: Size) -> Iterator[tuple[Case, ...]]:
    """Yield the extracts: a file by URL, a ZIP with this one table, and a ZIP with the rows in even tables."""
    with tempfile.TemporaryDirectory(prefix="dcsync-bench-") as place:
        folder = Path(place)
        whole = _write(folder / "forms_forms.csv", size.line_bytes, seed=0)
        even = [
            _write(folder / f"table_{index:02}.csv", size.line_bytes // size.line_tables, seed=index)
            for index in range(size.line_tables)
        ]
        one_table, tables = _pack(folder / "one.zip", [whole]), _pack(folder / "even.zip", even)
        in_zip = f"in a ZIP of {one_table.size / 1e6:.0f} MB"
        yield (
            Case(name=f"a file of {whole.size / 1e6:.0f} MB", files={"large.csv": whole}, fetched="large.csv"),
            Case(name=f"a table {in_zip}", files={whole.path.name: whole, ARCHIVE: one_table}, fetched=ARCHIVE),
            Case(
                name=f"{size.line_tables} tables {in_zip}",
                files={**{blob.path.name: blob for blob in even}, ARCHIVE: tables},
                fetched=ARCHIVE,
            ),
        )


def _write(path: Path, size: int, *, seed: int) -> OnDisk:
    """Write a table that deflate shortens to 0.58 of its size."""
    chance = random.Random(seed)
    block = b"".join(
        b"%s,%s,open,2026-11-22\n" % (chance.randbytes(16).hex().encode(), base64.b64encode(chance.randbytes(18)))
        for _ in range(min(60_000, size // 74 + 1))
    )
    with path.open("wb") as file:
        left = size
        while left:
            left -= file.write(block[:left])
    return OnDisk(path)


def _pack(path: Path, tables: Sequence[OnDisk]) -> OnDisk:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for table in tables:
            archive.write(table.path, table.path.name)
    return OnDisk(path)


def _check_pace(stage: Stage, case: Case, pace: int) -> None:
    """Make sure that one connection gets what it should: three seconds of it."""
    job = stage.add(case.files, with_archive=False)
    size = min(3 * pace * 1_000_000, case.files[case.fetched].size)
    took = _spent(stage, other.curl(f"{stage.origin.http}/{job}/{case.fetched}", stop=size)).seconds
    print(f"     curl: {size / took / 1e6:.1f} MB/s of {pace}")
    if size / took > 1.1 * pace * 1_000_000:
        message = f"one connection gets {size / took / 1e6:.1f} MB/s instead of {pace}"
        raise SystemExit(message)


def _line(
    table: Table,
    size: Size,
    stage: Stage,
    case: Case,
    setting: str,
    *,
    scheme: str = "http",
    bar: float | None = 1.2,
) -> None:
    """Add the rows of one extract. The ratio is the median of the rounds' ratios."""
    request = stage.side.sandbox.world.add_request(case.name)
    job = stage.add(case.files, request=request, with_archive=False)
    url = f"{stage.origin.at(scheme)}/{job}/{case.fetched}"

    def ours(python: Path | None = None) -> Spent:
        with stage.mirror({'name = "acme"': f'requests = ["{request}"]'}) as side:
            return _spent(stage, lambda _: stage.run(side, "sync", python=python))

    works: dict[str, Callable[[], Spent]] = {"dcsync": ours}
    if size.against is not None and bar is None:
        works[BEFORE] = partial(ours, size.against)
    for name, peer in other.through_many(url, stage.origin.authority).items():
        works[name] = partial(_spent, stage, peer)
    rounds = [{name: work() for name, work in works.items()} for _ in range(size.rounds)]
    bars = {ARIA2C: bar, BEFORE: 1.05 if bar is None else None}
    for name in works:
        if name != "dcsync":
            _row(table, f"{case.name}, {setting}", name, rounds, bars.get(name))
    if bar is not None and case.fetched != ARCHIVE:
        # Once is enough for a tool that waits for its one connection.
        took = _spent(stage, other.one_file(url, stage.origin.authority)[CURL]).seconds
        pairs = [(spent["dcsync"].seconds, took) for spent in rounds]
        table.add(_paired(f"{case.name}, {setting}", CURL, pairs, None))


def _row(table: Table, work: str, against: str, rounds: Sequence[Mapping[str, Spent]], bar: float | None) -> None:
    pairs = [(spent["dcsync"], spent[against]) for spent in rounds]
    table.add(_paired(work, against, [(a.seconds, b.seconds) for a, b in pairs], bar))
    if against == BEFORE:
        table.add(_paired(f"{work}, CPU", against, [(a.cpu_s, b.cpu_s) for a, b in pairs], None))


def _paired(work: str, against: str, pairs: Sequence[tuple[float, float]], bar: float | None) -> Row:
    return Row(
        work=work,
        against=against,
        dcsync=f"{statistics.median(ours for ours, _ in pairs):.2f} s",
        other=f"{statistics.median(theirs for _, theirs in pairs):.2f} s",
        ratio=statistics.median(ours / theirs for ours, theirs in pairs),
        bar=bar,
    )


def _spent(stage: Stage, work: Callable[[Path], object]) -> Spent:
    """Run a command in an empty folder, with all its children."""
    with tempfile.TemporaryDirectory(dir=stage.folder) as place:
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        work(Path(place))
        seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Spent(seconds=seconds, cpu_s=cpu)


def _peak_in_flight(stage: Stage, size: int) -> float:
    """Return the peak memory of `dcsync sync` in MiB up to the moment at which it has written `size` bytes."""
    with stage.mirror() as side:
        process = stage.start(side, "sync")
        try:
            while process.poll() is None and _written(process.pid) < size:
                time.sleep(0.2)
        finally:
            process.send_signal(signal.SIGTERM)
            answer, _ = process.communicate()
    return int(answer.rsplit("peak ", 1)[1]) / 1024


def _written(pid: int) -> int:
    """Return the bytes that a process has written to files, or 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))
