"""A mirror with a long history compared with a short one: `make bench ARGS="history daemon"`.

All figures are seconds of the processor for the whole command, with the start of the interpreter. Before each reading
of the mirror its files are dropped from memory, as `verify` does itself, so that all read them from the disk.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from bench.past import add_day, past
from bench.stage import MIB, PROGRAM, Size
from bench.table import Row, Table
from dcsync.sandbox import World
from tests.rigs.served import TOKEN, Served, served

_HERE = Path(__file__).parents[1]
#: The most memory that a command may use.
_MEMORY = 130_000_000


class Bench:
    """Runs commands, and keeps the peak memory of each."""

    def __init__(self) -> None:
        self.peaks: defaultdict[str, float] = defaultdict(float)

    def cpu(self, side: Served, *arguments: str, label: str = "") -> float:
        """Run dcsync and return the seconds of the processor. `label` names the command in the results for memory."""
        label = label or arguments[0]
        command = [sys.executable, "-c", PROGRAM, "--config", str(side.config), "--log-level", "error", *arguments]
        environ = {"PATH": "/usr/bin:/bin", TOKEN: side.token}
        before = processor_seconds()
        done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True, cwd=_HERE)
        took = processor_seconds() - before
        self.peaks[label] = max(self.peaks[label], int(done.stdout.rsplit("peak ", 1)[1]) / 1024)
        return took


def history(table: Table, size: Size) -> None:
    """Compare the daily work with a long and with a short history, and the work on all of it with plain tools."""
    sizes = [round(size.past_bytes * size.past_growth**index) for index in range(size.files)]
    first, last = size.past_days
    bench = Bench()
    with (
        _folder(size) as folder,
        past(folder / f"{first}", first, sizes) as few,
        past(folder / f"{last}", last, sizes) as many,
    ):
        _daily(table, size, bench, few, many)
        with _copied(few) as a, _copied(many) as b:
            _new_snapshots(table, size, bench, a, b, sizes)
        plain = _sha256sum(many)
        work = f"{last} snapshots of {size.files} tables"
        _cpu(table, f"verify of {work}", "sha256sum of each distinct file", bench.cpu(many, "verify"), plain, 1.3)
        with _copied(many) as side:
            rebuilding = bench.cpu(side, "rebuild")
        _cpu(table, f"rebuild of {work}", "sha256sum of each distinct file", rebuilding, plain, 3)
        _prune(table, size, bench, many)
        _sizes(table, many, work)
        for command, peak in bench.peaks.items():
            figures = {"dcsync": f"{peak:.0f} MiB", "other": f"{_MEMORY / MIB:.0f} MiB"}
            ratio = peak * MIB / _MEMORY
            table.add(Row(work=f"memory of {command}, {work}", against="130 MB", ratio=ratio, bar=1, **figures))


def _daily(table: Table, size: Size, bench: Bench, few: Served, many: Served) -> None:
    first, last = size.past_days
    for command, bar in (("sync", 1.25), ("status", 1.15)):
        # The first one after a while checks every row of the manifest, once a day.
        bench.cpu(few, command)
        bench.cpu(many, command)
        works = {"few": partial(bench.cpu, few, command), "many": partial(bench.cpu, many, command)}
        seconds = _alternately(2 * size.rounds + 1, works)
        what = "a sync with nothing new" if command == "sync" else command
        work = f"{what}, {last} snapshots of {size.files} tables"
        _cpu(table, work, f"{first} snapshots", seconds["many"], seconds["few"], bar)


def _new_snapshots(table: Table, size: Size, bench: Bench, few: Served, many: Served, sizes: Sequence[int]) -> None:
    """Compare the days after the last one."""
    seconds: dict[str, list[float]] = {"few": [], "many": []}
    for number in range(size.rounds):
        for name, side, days in (("few", few, size.past_days[0]), ("many", many, size.past_days[1])):
            add_day(side, days + number, sizes)
            before = len(_snapshots(side))
            label = f"sync of a new snapshot, history of {days} days"
            seconds[name].append(bench.cpu(side, "sync", label=label))
            assert len(_snapshots(side)) == before + 1
    first, last = size.past_days
    ours, theirs = statistics.median(seconds["many"]), statistics.median(seconds["few"])
    _cpu(table, f"a new snapshot, {last} snapshots of {size.files} tables", f"{first} snapshots", ours, theirs, 1.5)


def _sha256sum(side: Served) -> float:
    """Return the seconds that `sha256sum` takes for each distinct file of a mirror, read from the disk."""
    distinct = {path.stat().st_ino: path for path in side.root.glob("acme/*/[0-9]*/**/*.csv")}
    for path in distinct.values():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = processor_seconds()
    names = "\0".join(map(str, distinct.values()))
    subprocess.run(["xargs", "-0", "sha256sum"], input=names, text=True, stdout=subprocess.DEVNULL, check=True)
    return processor_seconds() - before


def _prune(table: Table, size: Size, bench: Bench, many: Served) -> None:
    """Compare a prune with `rm -rf` of the same folders."""
    oldest = _snapshots(many)[: size.pruned]
    with tempfile.TemporaryDirectory(dir=many.folder) as place:
        for folder in oldest:
            subprocess.run(["cp", "-al", str(folder), place], check=True)
        before = processor_seconds()
        subprocess.run(["rm", "-rf", place], check=True)
        plain = processor_seconds() - before
        Path(place).mkdir()
    with _copied(many) as side:
        side.write_config("[keep]", f"last = {size.past_days[1] - size.pruned}")
        ours = bench.cpu(side, "prune")
        assert len(_snapshots(side)) == size.past_days[1] - size.pruned
        start = bench.cpu(side, "prune")
    work, against = f"prune of {size.pruned} snapshots of {size.files} tables", "rm -rf of their folders"
    _cpu(table, work, against, ours, plain, 3)
    _cpu(table, f"{work}, without that of a prune with nothing to remove", against, ours - start, plain)


def _sizes(table: Table, many: Served, work: str) -> None:
    for what, path, limit in (
        ("the manifest", many.state / "manifest.sqlite", 25_000_000),
        ("index.html", many.root / "index.html", 400_000),
    ):
        length = path.stat().st_size
        figures = {"dcsync": f"{length / 1e3:.0f} kB", "other": f"{limit / 1e3:.0f} kB"}
        against = f"{limit / 1e6:g} MB" if limit >= MIB else f"{limit / 1e3:g} kB"
        table.add(Row(work=f"{what} of {work}", against=against, ratio=length / limit, bar=1, **figures))


def daemon(table: Table, size: Size) -> None:
    """Measure a poll of a daemon with many accounts and nothing new."""
    accounts, requests = size.accounts
    with tempfile.TemporaryDirectory(prefix="dcsync-bench-") as place:
        world = World()
        hubs = [world.hub_id, *(world.add_account(f"Account {number}") for number in range(1, accounts))]
        for number, hub in enumerate(hubs):
            for index in range(requests):
                request = world.add_request(f"Request {number}-{index}", hub_id=hub)
                at = datetime.now(UTC) - timedelta(hours=1, seconds=index)
                world.add_job(request, completed_at=at, files={"admin_users.csv": b"id\n1\n"}, with_archive=False)
        with served(Path(place), world) as side:
            config = side.write_config(accounts=False)
            named = "".join(f'[[account]]\nname = "acme{n}"\nid = "{hub}"\n' for n, hub in enumerate(hubs))
            text = config.read_text().replace("[api]\n", "[api]\nrequests_per_minute = 1000\n")
            config.write_text(text + named)
            calls, seconds = _polls(side, size, accounts * requests)
    work = f"a poll of {accounts} accounts of {requests} data requests in the daemon"
    figures = {"dcsync": f"{calls:g}", "other": f"{accounts}"}
    table.add(Row(work=f"{work}: calls", against="one an account", ratio=calls / accounts, bar=1, **figures))
    figures = {"dcsync": f"{seconds / accounts:.3f} s", "other": "0.1 s"}
    row = Row(work=f"{work}: CPU an account", against="0.1 s", ratio=seconds / accounts / 0.1, bar=1, **figures)
    table.add(row)


def _polls(side: Served, size: Size, snapshots: int) -> tuple[float, float]:
    """Return the calls and the seconds of the processor that one poll takes."""
    command = [sys.executable, "-m", "dcsync", "--config", str(side.config), "--log-level", "error", "run"]
    process = subprocess.Popen(command, env={"PATH": "/usr/bin:/bin", TOKEN: side.token}, cwd=_HERE)
    calls: list[float] = []
    seconds: list[float] = []
    try:
        _settle(process, lambda: len(list(side.root.glob("acme*/*/[0-9]*/**/_dcsync.json"))) == snapshots)
        for _ in range(size.rounds):
            asked, before = side.sandbox.count("api"), _process_cpu(process.pid)
            process.send_signal(signal.SIGUSR1)
            _settle(process, partial(_has_polled, side, asked))
            calls.append(side.sandbox.count("api") - asked)
            seconds.append(_process_cpu(process.pid) - before)
    finally:
        process.terminate()
        process.wait(60)
    return statistics.median(calls), statistics.median(seconds)


def _has_polled(side: Served, asked: int) -> bool:
    return side.sandbox.count("api") > asked


def _settle(process: subprocess.Popen[bytes], begun: Callable[[], bool]) -> None:
    """Wait until `begun` holds, and then until the process has not worked for two seconds. At most twenty minutes."""
    deadline, quiet, before = time.monotonic() + 1200, 0, -1.0
    while quiet < 4:
        if process.poll() is not None or time.monotonic() > deadline:
            message = "the daemon did not come to rest"
            raise SystemExit(message)
        time.sleep(0.5)
        now = _process_cpu(process.pid)
        quiet = quiet + 1 if begun() and now - before < 0.02 else 0
        before = now


def _process_cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def processor_seconds(*, own: bool = False) -> float:
    """Return the processor time of the processes that have ended, or with `own` of this one, in seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF if own else resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def _folder(size: Size) -> Iterator[Path]:
    if size.past is not None:
        yield size.past
        return
    with tempfile.TemporaryDirectory(prefix="dcsync-bench-") as place:
        yield Path(place)


@contextmanager
def _copied(side: Served) -> Iterator[Served]:
    """Yield a copy of a mirror that shares its files by hard links, with a manifest of its own."""
    copy = replace(side, folder=side.folder.with_name(f"{side.folder.name}-copy"))
    shutil.rmtree(copy.folder, ignore_errors=True)
    copy.folder.mkdir()
    try:
        subprocess.run(["cp", "-al", str(side.root), str(copy.root)], check=True)
        # Its lock and the lines of pruned snapshots are its own.
        shutil.rmtree(copy.root / ".dcsync")
        subprocess.run(["cp", "-a", str(side.root / ".dcsync"), str(copy.root)], check=True)
        subprocess.run(["cp", "-a", str(side.state), str(copy.state)], check=True)
        copy.write_config()
        yield copy
    finally:
        shutil.rmtree(copy.folder, ignore_errors=True)


def _snapshots(side: Served) -> list[Path]:
    """Return the folders of all snapshots, oldest first."""
    names = re.compile(r"\d{6}Z-[0-9a-f]{8}")
    return sorted(path for path in side.root.glob("acme/*/[0-9]*/*/*/*") if names.fullmatch(path.name))


def _alternately(rounds: int, works: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            seconds[name].append(work())
    return {name: statistics.median(values) for name, values in seconds.items()}


def _cpu(table: Table, work: str, against: str, ours: float, theirs: float, bar: float | None = None) -> None:
    figures = {"dcsync": f"{ours:.2f} s", "other": f"{theirs:.2f} s"}
    table.add(Row(work=work, against=against, ratio=ours / theirs, bar=bar, **figures))


PARTS: Sequence[Callable[[Table, Size], None]] = (history, daemon)
