"""dcsync compared with common tools, measured alternately in one run: `make bench ARGS="one_file many_files"`.

Each tool starts as a process in an empty folder and ends when every byte is fsynced and hashed. The figures are medians
of whole processes, including start-up, and the ratio of the medians is compared. nginx serves the bytes, the sandbox
serves the API.
"""

from __future__ import annotations

import concurrent.futures
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench import history, line, load, rows
from bench import peers as other
from bench.stage import ARCHIVE, LATENCY_S, MIB, OnDisk, Size, Stage, large_file, staged, tables
from bench.table import Row, Table
from tests.rigs.served import Served


def timed(work: Callable[[], object]) -> float:
    """Return the duration of `work` in seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_empty_folder(peer: other.Peer, stage: Stage) -> float:
    """Return the duration of a peer in an empty folder, in seconds."""
    with tempfile.TemporaryDirectory(dir=stage.folder) as place:
        return timed(lambda: peer(Path(place)))


def turn_about(rounds: int, works: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Return the median duration of each work. Each round runs all once, so that other load affects all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            seconds[name].append(work())
    return {name: statistics.median(values) for name, values in seconds.items()}


def one_file(table: Table, size: Size) -> None:
    """Compare the download of one large file, over http and https."""
    for scheme in ("http", "https"):
        with staged(scheme=scheme) as stage:
            source = stage.folder / "large.csv"
            large_file(source, size.large_bytes)
            job = stage.add({"large.csv": OnDisk(source)}, with_archive=False)
            url = f"{stage.origin.at(scheme)}/{job}/large.csv"

            def command(stage: Stage = stage) -> float:
                with stage.mirror({'name = "acme"': f'requests = ["{stage.request}"]'}) as side:
                    return stage.run(side, "sync")[0]

            def daemon(stage: Stage = stage, source: Path = source) -> float:
                return stage.served_by_daemon({"large.csv": OnDisk(source)}, with_archive=False)

            peers = {
                name: (lambda peer=peer, stage=stage: in_empty_folder(peer, stage))
                for name, peer in other.one_file(url, stage.origin.authority).items()
            }
            seconds = turn_about(size.rounds, {"dcsync": daemon, "dcsync sync": command, **peers})
        bars = {"curl, sha256sum, sync": 0.5, "curl, sync (no hash)": 1.1}
        work, as_command = f"a file of {size.large_bytes / 1e9:g} GB, {scheme}", seconds.pop("dcsync sync")
        _against(table, work, seconds, bars)
        for name in bars:
            _row(table, f"{work}, by `dcsync sync`", name, as_command, seconds[name], None)


def many_files(table: Table, size: Size) -> None:
    """Compare all files of an extract without a rate limit: each by its URL, and by the method that dcsync chooses."""
    files = tables(size, 0)
    for at_once in (16, 64):
        with staged(latency_s=LATENCY_S) as stage:
            job = stage.add(files)

            def ours(strategy: str, *, by_daemon: bool, stage: Stage = stage, at_once: int = at_once) -> float:
                more = {
                    "[mirror]": f'strategy = "{strategy}"',
                    "[transfer]": f"concurrency = {at_once}",
                    "[api]": "requests_per_minute = 1000",
                }
                if by_daemon:
                    return stage.served_by_daemon(files, more, with_archive=True)
                with stage.mirror({**more, 'name = "acme"': f'requests = ["{stage.request}"]'}) as side:
                    return stage.run(side, "sync")[0]

            peers = {
                name: (lambda peer=peer, stage=stage: in_empty_folder(peer, stage))
                for name, peer in other.many_files(stage.extract(job, at_once=at_once)).items()
            }
            ways = {
                "dcsync": lambda: ours("files", by_daemon=True),
                "as set": lambda: ours("auto", by_daemon=True),
                "command": lambda: ours("files", by_daemon=False),
            }
            seconds = turn_about(size.rounds, {**ways, **peers})
        bars = {"script (curl, jq, xargs)": 0.4, "curl -Z in two batches": 0.95}
        set_up, command = seconds.pop("as set"), seconds.pop("command")
        work = f"{size.files} files, 50 ms, {at_once} in flight"
        _against(table, f"{work}, each by its URL", seconds, bars)
        for name in bars:
            _row(table, f"{work}, as dcsync is set", name, set_up, seconds[name], None)
            _row(table, f"{work}, by `dcsync sync`", name, command, seconds[name], None)


def quota(table: Table, size: Size) -> None:
    """Compare a first day and the next day under 60 calls per minute.

    The scripts run concurrently, each against its own API, because they wait most of the time.
    """
    script = "script (curl, jq, xargs)"

    def theirs() -> float:
        with staged(quota=60, latency_s=LATENCY_S) as stage:
            extract = stage.extract(stage.add(tables(size, 0)), at_once=16)
            return in_empty_folder(other.many_files(extract)[script], stage)

    with concurrent.futures.ThreadPoolExecutor(size.rounds) as pool:
        waiting = statistics.median(pool.map(lambda _: theirs(), range(size.rounds)))
    first, following, wholes, shares, calls = [], [], [], [], []
    for _ in range(size.rounds):
        with staged(quota=60, latency_s=LATENCY_S) as stage, stage.mirror() as side:
            stage.add(tables(size, 0), days_ago=1)
            first.append(stage.run(side, "sync")[0])
            job = stage.add(tables(size, 1))
            extract = stage.side.sandbox.world.extract(job)
            wholes.append(sum(blob.size for name, blob in extract.items() if name != ARCHIVE))
            before, asked = stage.fetched(), stage.api_calls()
            following.append(stage.run(side, "sync")[0])
            shares.append((stage.fetched() - before) / wholes[-1])
            calls.append(stage.api_calls() - asked)
            assert stage.side.sandbox.count("api", status=429) == 0
    day = statistics.median(following)
    _row(table, f"{size.files} files, 60 calls a minute", script, statistics.median(first), waiting, 0.05)
    _row(table, "the next day, a tenth changed: time", script, day, waiting, 0.1)
    share = statistics.median(shares)
    table.add(
        Row(
            work="the next day, a tenth changed: bytes",
            against="all files",
            dcsync=f"{share * wholes[0] / 1e3:.0f} kB",
            other=f"{wholes[0] / 1e3:.0f} kB",
            ratio=share,
            bar=0.1,
        )
    )
    table.add(
        Row(
            work="the next day: calls",
            against="one a file and two",
            dcsync=f"{max(calls)}",
            other=f"{size.files + 2}",
            ratio=max(calls) / (size.files + 2),
            bar=0.05,
        )
    )


def month(table: Table, size: Size) -> None:
    """Measure a backfill of a month of extracts, all different, under the rate limit."""
    with staged(quota=60, latency_s=LATENCY_S) as stage, stage.mirror() as side:
        for day in range(size.days):
            stage.add(tables(size, day + 1, changed=1.0), days_ago=size.days - 0.5 - day)
        stage.run(side, "sync")
        sandbox = stage.side.sandbox
        refused, calls = sandbox.count("api", status=429), sandbox.count("api")
        published = len(list(side.root.glob("acme/*/[0-9]*/**/_dcsync.json")))
    assert published == size.days, published
    assert refused == 0, refused
    table.add(
        Row(
            work=f"backfill of {size.days} days: calls an extract, no 429",
            against="one a file and two",
            dcsync=f"{calls / size.days:.2f}",
            other=f"{size.files + 2}",
            ratio=calls / size.days / (size.files + 2),
            bar=4 / (size.files + 2),
        )
    )


def polls(table: Table, size: Size) -> None:
    """Compare polls without new jobs for few and for many known jobs."""
    seconds, memory = {}, {}
    with (
        staged() as few,
        staged() as many,
        few.mirror({"[api]": "requests_per_minute = 1000"}) as a,
        many.mirror({"[api]": "requests_per_minute = 1000"}) as b,
    ):
        for stage, side, jobs in ((few, a, size.known_jobs[0]), (many, b, size.known_jobs[1])):
            for number in range(jobs):
                stage.add({"admin_users.csv": b"id\n%d\n" % number}, days_ago=28 * (1 - number / jobs))
            while len(list(side.root.glob("acme/*/[0-9]*/**/_dcsync.json"))) < jobs:
                stage.run(side, "sync")

        def poll(stage: Stage, side: Served, name: str) -> float:
            before = stage.api_calls()
            took, memory[name] = stage.run(side, "sync")
            assert stage.api_calls() - before == 1, stage.api_calls() - before
            return took

        seconds = turn_about(
            2 * size.rounds + 1, {"few": lambda: poll(few, a, "few"), "many": lambda: poll(many, b, "many")}
        )
    first, last = size.known_jobs
    _row(table, f"a poll with nothing new, one call, {last} jobs known", f"{first} known", *_pair(seconds), 1.2)
    table.add(
        Row(
            work=f"its memory, {last} jobs known",
            against=f"{first} known",
            dcsync=f"{memory['many']:.0f} MiB",
            other=f"{memory['few']:.0f} MiB",
            ratio=memory["many"] / memory["few"],
            bar=1.1,
        )
    )


def _pair(seconds: Mapping[str, float]) -> tuple[float, float]:
    return seconds["many"], seconds["few"]


def flight(table: Table, size: Size) -> None:
    """Compare the peak memory with large files in flight for two file sizes."""
    peaks = []
    for length in size.memory_bytes:
        with staged(scheme="https") as stage:
            source = stage.folder / "large.csv"
            large_file(source, length)
            names = [f"large_{index:02}.csv" for index in range(size.memory_files)]
            stage.add({name: OnDisk(source) for name in names}, with_archive=False)
            with stage.mirror({"[api]": "requests_per_minute = 1000"}) as side:
                peaks.append(stage.run(side, "sync")[1])
    small, large = peaks
    work = f"memory, {size.memory_files} files of {size.memory_bytes[1] / 1e6:g} MB in flight"
    for against, limit, bar in (
        (f"of {size.memory_bytes[0] / 1e6:g} MB", small, 1.1),
        ("180 MB", 180e6 / MIB, 1.0),
    ):
        figures = {"dcsync": f"{large:.0f} MiB", "other": f"{limit:.0f} MiB"}
        table.add(Row(work=work, against=against, ratio=large / limit, bar=bar, **figures))


def start(table: Table, size: Size) -> None:
    """Compare the start of the command line with an interpreter that imports click."""
    with staged() as stage, stage.mirror() as side:
        stage.add({"admin_users.csv": b"id\n1\n"})
        stage.run(side, "sync")

        def click() -> float:
            return timed(lambda: subprocess.run([sys.executable, "-c", "import click"], check=True))

        seconds = turn_about(
            4 * size.rounds + 1,
            {
                "click": click,
                "help": lambda: stage.run(side, "--help")[0],
                "status": lambda: stage.run(side, "status")[0],
            },
        )
    _row(table, "dcsync --help", 'python -c "import click"', seconds["help"], seconds["click"], 2.0)
    _row(table, "dcsync status", 'python -c "import click"', seconds["status"], seconds["click"], 8.0)


PARTS: Sequence[Callable[[Table, Size], None]] = (
    one_file,
    many_files,
    quota,
    month,
    polls,
    flight,
    start,
    *line.PARTS,
    *history.PARTS,
    *rows.PARTS,
    *load.PARTS,
)


def compare(names: Sequence[str], *, size: Size) -> Table:
    """Run the named parts and return their rows."""
    missing = other.missing_programs()
    if missing:
        message = f"the comparison needs {', '.join(missing)} (tests/debian-packages.txt)"
        raise SystemExit(message)
    table = Table()
    for part in PARTS:
        if part.__name__ in names:
            part(table, size)
    return table


def _against(table: Table, work: str, seconds: Mapping[str, float], bars: Mapping[str, float]) -> None:
    for name, theirs in seconds.items():
        if name != "dcsync":
            _row(table, work, name, seconds["dcsync"], theirs, bars.get(name, 1.0))


def _row(table: Table, work: str, against: str, ours: float, theirs: float, bar: float | None) -> None:
    figures = {"dcsync": f"{ours:.2f} s", "other": f"{theirs:.2f} s"}
    table.add(Row(work=work, against=against, ratio=ours / theirs, bar=bar, **figures))
