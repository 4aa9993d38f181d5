"""dcsync beside what a user would take instead, turn about in one run: `make bench ARGS=compare`.

Each side starts as a process in an empty folder and ends with every byte fsynced and hashed. The figures are medians of
whole processes, start-up included; what is compared is the medians' ratio. nginx serves the bytes, the sandbox the API.
"""

from __future__ import annotations

import concurrent.futures
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from bench import peers as other
from bench.origin import Origin, serving
from bench.table import Row, Table
from dcsync.sandbox.world import Blob
from tests.rigs.served import TOKEN, Served, served

MIB = 1 << 20
_HERE = Path(__file__).parents[1]
#: As `python -m dcsync`, and says at its end how much memory it had at most. The kernel's figure for a child that ended
#: (ru_maxrss) would be that of the process which started it, where that is larger.
_PROGRAM = """
import atexit, sys
def peak():
    with open("/proc/self/status") as status:
        print("peak", next(line.split()[1] for line in status if line.startswith("VmHWM")), flush=True)
atexit.register(peak)
from dcsync.cli import main
main()
"""
ARCHIVE = "autodesk_data_extract.zip"
#: Of one call to the API, there and back.
LATENCY_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is done: the full form, or the small one in which only calls and bytes count."""

    rounds: int = 5
    files: int = 260
    file_bytes: int = 20_000
    large_bytes: int = 2_000_000_000
    memory_bytes: tuple[int, int] = (200_000_000, 2_000_000_000)
    memory_files: int = 16
    known_jobs: tuple[int, int] = (10, 1000)
    days: int = 30


SMALL = Size(
    rounds=1,
    files=12,
    file_bytes=4000,
    large_bytes=3_000_000,
    memory_bytes=(100_000, 1_000_000),
    memory_files=4,
    known_jobs=(2, 12),
    days=3,
)


class OnDisk:
    """A file served from the disk by somebody else: of it the API knows the size."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        self.md5 = "0" * 32

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop`."""
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(stop - start)


@dataclass(slots=True, kw_only=True)
class Stage:
    """The remote side: an API with one data request, and nginx with the bytes of its jobs."""

    side: Served
    origin: Origin
    folder: Path
    request: str

    def add(
        self,
        files: Mapping[str, bytes | Blob],
        *,
        days_ago: float = 0.0,
        with_archive: bool = True,
        request: str | None = None,
    ) -> str:
        """Add a job, and put its bytes where nginx serves them."""
        world = self.side.sandbox.world
        completed = datetime.now(UTC) - timedelta(days=days_ago)
        job = world.add_job(request or self.request, completed_at=completed, files=files, with_archive=with_archive)
        place = self.folder / "files" / job
        place.mkdir(parents=True)
        for name, blob in world.extract(job).items():
            if isinstance(blob, OnDisk):
                (place / name).hardlink_to(blob.path)
            else:
                (place / name).write_bytes(blob.read(0, blob.size))
        return job

    def extract(self, job: str, *, at_once: int) -> other.Extract:
        """Return what the scripts are told of a job."""
        account = self.side.sandbox.world.account_id
        url = f"{self.side.sandbox.base_url}/data-connector/v1/accounts/{account}/jobs/{job}"
        return other.Extract(job_url=url, token=self.side.token, at_once=at_once)

    @contextmanager
    def mirror(self, more: Mapping[str, str] | None = None) -> Iterator[Served]:
        """Give a new configuration with an empty mirror and an empty state folder; `more` goes after a line of it."""
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            side = replace(self.side, folder=Path(place))
            side.root.mkdir()
            text = side.write_config().read_text()
            for after, line in (more or {}).items():
                text = text.replace(f"{after}\n", f"{after}\n{line}\n") if after in text else f"{after}\n{line}\n{text}"
            side.config.write_text(text)
            yield side

    def served_by_daemon(
        self, files: Mapping[str, bytes | Blob], more: Mapping[str, str] | None = None, *, with_archive: bool
    ) -> float:
        """Return the seconds that a running daemon takes from a poll to `latest`, for an extract that is new then."""
        request = self.side.sandbox.world.add_request("A request of its own")
        with self.mirror({**(more or {}), 'name = "acme"': f'requests = ["{request}"]'}) as side:
            process = subprocess.Popen(
                [*self._command(side), "run"], env=self._environ(), stdout=subprocess.DEVNULL, cwd=_HERE
            )
            try:
                # The report is the last thing that its first poll writes.
                _wait_until((side.root / "index.html").exists)
                job = self.add(files, request=request, with_archive=with_archive)
                time.sleep(0.5)  # what the first poll leaves to do, and the writes of the new files, are not measured
                began = time.perf_counter()
                process.send_signal(signal.SIGUSR1)
                _wait_until(lambda: any(side.root.glob("acme/*/latest")))
                took = time.perf_counter() - began
                shutil.rmtree(self.folder / "files" / job)
            finally:
                process.terminate()
                process.wait(60)
        return took

    def run(self, side: Served, *arguments: str) -> tuple[float, float]:
        """Run dcsync; return how long it took in seconds, and the most memory that it had in MiB."""
        command = [*self._command(side), *arguments]
        began = time.perf_counter()
        done = subprocess.run(command, env=self._environ(), stdout=subprocess.PIPE, text=True, check=True, cwd=_HERE)
        return time.perf_counter() - began, int(done.stdout.rsplit("peak ", 1)[1]) / 1024

    def _command(self, side: Served) -> list[str]:
        return [sys.executable, "-c", _PROGRAM, "--config", str(side.config), "--log-level", "error"]

    def _environ(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin", TOKEN: self.side.token, "SSL_CERT_FILE": str(self.origin.authority)}

    def api_calls(self) -> int:
        """Return how many calls the API has had."""
        return self.side.sandbox.count("api")

    def fetched(self) -> int:
        """Return how many bytes nginx has sent."""
        time.sleep(0.2)  # it writes a line when the answer is through
        return self.origin.sent()[1]


@contextmanager
def staged(*, scheme: str = "http", quota: int | None = None, latency_s: float = 0.0) -> Iterator[Stage]:
    """Serve an empty world."""
    with tempfile.TemporaryDirectory(prefix="dcsync-bench-") as place:
        folder = Path(place)
        (folder / "files").mkdir()
        with serving(folder / "files", folder / "nginx") as origin:

            def sign(job: str, name: str) -> str:
                return f"{origin.at(scheme)}/{job}/{quote(name)}?X-Amz-Signature=bench"

            with served(folder, sign=sign, quota_per_minute=quota, latency_s=latency_s) as side:
                request = side.sandbox.world.add_request("My Company Data Extract")
                yield Stage(side=side, origin=origin, folder=folder, request=request)


def tables(size: Size, day: int, *, changed: float = 0.1) -> dict[str, bytes]:
    """Return an extract's tables, which pack to about a fifth; each day a share of them differs from the first day."""
    files = {}
    for index in range(size.files):
        version = day if day and (index + day) % round(1 / changed) == 0 else 0
        rows = [
            f"{(index * 7919 + version * 104729 + row) * 2654435761 % 2**64:016x},open,2026-11-22,Level 3,{row}"
            for row in range(size.file_bytes // 45)
        ]
        files[f"admin_table_{index:03}.csv"] = ("id,status,day,level,number\n" + "\n".join(rows)).encode()
    return files


def large_file(path: Path, size: int) -> None:
    """Write a table of `size` bytes."""
    block = b"".join(b"%016x,open,2026-11-22,Level 3,%d\n" % (row * 2654435761 % 2**64, row) for row in range(30_000))
    with path.open("wb") as file:
        left = size
        while left:
            left -= file.write(block[:left])


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_empty_folder(peer: other.Peer, stage: Stage) -> float:
    """Return the seconds of a peer."""
    with tempfile.TemporaryDirectory(dir=stage.folder) as place:
        return timed(lambda: peer(Path(place)))


def _wait_until(what: Callable[[], bool]) -> None:
    """Wait until it is so, for two minutes at most."""
    for _ in range(30_000):
        if what():
            return
        time.sleep(0.004)
    message = "it took more than two minutes"
    raise SystemExit(message)


def turn_about(rounds: int, works: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Return the median seconds of each, all run once in each round, so that what else the machine does meets all."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            seconds[name].append(work())
    return {name: statistics.median(values) for name, values in seconds.items()}


def one_file(table: Table, size: Size) -> None:
    """One large file, over http and https."""
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
    """All files of an extract, without the quota: by their own URLs, and the way that dcsync would choose."""
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
    """A first day and the next one under 60 calls a minute.

    The scripts run side by side, each against an API of its own: they wait for most of the time.
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
    """A month of extracts, each a new one, under the quota."""
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
    """A poll with nothing new, by how many jobs are known already."""
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
    """The most memory with large files in flight, by how large they are."""
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
    """How fast the command line answers, against an interpreter that imports click."""
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
)


def compare(names: Sequence[str], *, size: Size) -> Table:
    """Run the parts that are named, and return their lines."""
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
