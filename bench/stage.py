"""The stand-in for Autodesk of the comparison, the mirrors of its jobs, and the amount of work."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from bench import peers as other
from bench.origin import Origin, serving
from dcsync.sandbox.blobs import Blob
from tests.rigs.served import TOKEN, Served, served

MIB = 1 << 20
_HERE = Path(__file__).parents[1]
#: Like `python -m dcsync`, but prints its peak memory at its end. The kernel's figure for a finished child (ru_maxrss)
#: would be the parent's if that is larger.
PROGRAM = """
import atexit, sys
def peak():
    with open("/proc/self/status") as status:
        print("peak", next(line.split()[1] for line in status if line.startswith("VmHWM")), flush=True)
atexit.register(peak)
from dcsync.cli import main
main()
"""
ARCHIVE = "autodesk_data_extract.zip"
#: The round-trip time of one API call.
LATENCY_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The amount of work: the full size, or the small one, in which only calls and bytes are meaningful."""

    rounds: int = 5
    files: int = 260
    file_bytes: int = 20_000
    large_bytes: int = 2_000_000_000
    memory_bytes: tuple[int, int] = (200_000_000, 2_000_000_000)
    memory_files: int = 16
    known_jobs: tuple[int, int] = (10, 1000)
    days: int = 30
    line_bytes: int = 197_000_000
    line_tables: int = 40
    #: Megabytes per second of each connection.
    paces: tuple[int, ...] = (2, 10, 50)
    #: After how many bytes on the disk the memory of unfinished downloads is read.
    flight_bytes: int = 3_000_000_000
    #: The Python interpreter of another installation, to measure alternately with this one.
    against: Path | None = None
    #: Snapshots of the mirrors with a short and a long history, how many of them a prune removes, the smallest of their
    #: tables, and how much larger each next table is.
    past_days: tuple[int, int] = (10, 1000)
    pruned: int = 100
    past_bytes: int = 4000
    past_growth: float = 1.03
    #: Where these mirrors stay for the next measurement.
    past: Path | None = None
    #: The size of the large table of row histories.
    rows_bytes: int = 1_000_000_000
    #: The rows of the table that is loaded into a database.
    load_rows: int = 1_000_000
    #: Accounts of a daemon, and the data requests of each.
    accounts: tuple[int, int] = (10, 100)


SMALL = Size(
    rounds=1,
    files=12,
    file_bytes=4000,
    large_bytes=3_000_000,
    memory_bytes=(100_000, 1_000_000),
    memory_files=4,
    known_jobs=(2, 12),
    days=3,
    line_bytes=9_000_000,
    line_tables=4,
    paces=(50,),
    flight_bytes=1_000_000,
    past_days=(2, 5),
    pruned=2,
    past_growth=1.0,
    rows_bytes=2_000_000,
    load_rows=5000,
    accounts=(2, 2),
)


class OnDisk:
    """A file that nginx serves from the disk. The sandbox's API only knows its size."""

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
    """The stand-in for Autodesk: an API with one data request, and nginx with the bytes of its jobs."""

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
        """Add a job and write its files into the folder that nginx serves."""
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
        """Return the description of a job for the scripts."""
        account = self.side.sandbox.world.account_id
        url = f"{self.side.sandbox.base_url}/data-connector/v1/accounts/{account}/jobs/{job}"
        return other.Extract(job_url=url, token=self.side.token, at_once=at_once)

    @contextmanager
    def mirror(self, more: Mapping[str, str] | None = None) -> Iterator[Served]:
        """Yield a configuration with an empty mirror and state folder. `more` maps lines to lines that follow them."""
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
        """Return the seconds that a running daemon takes from the poll to `latest` for a new extract."""
        request = self.side.sandbox.world.add_request("A request of its own")
        with self.mirror({**(more or {}), 'name = "acme"': f'requests = ["{request}"]'}) as side:
            process = subprocess.Popen(
                [*self._command(side), "run"], env=self._environ(), stdout=subprocess.DEVNULL, cwd=_HERE
            )
            try:
                # The report is the last thing that its first poll writes.
                _wait_until((side.root / "index.html").exists)
                job = self.add(files, request=request, with_archive=with_archive)
                time.sleep(0.5)  # exclude the rest of the first poll and the writes of the new files from the figure
                began = time.perf_counter()
                process.send_signal(signal.SIGUSR1)
                _wait_until(lambda: any(side.root.glob("acme/*/latest")))
                took = time.perf_counter() - began
                shutil.rmtree(self.folder / "files" / job)
            finally:
                process.terminate()
                process.wait(60)
        return took

    def run(self, side: Served, *arguments: str, python: Path | None = None) -> tuple[float, float]:
        """Run dcsync, this one or the one that `python` imports. Returns its seconds and its peak memory in MiB."""
        began = time.perf_counter()
        process = self.start(side, *arguments, python=python)
        answer, _ = process.communicate()
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args)
        return time.perf_counter() - began, int(answer.rsplit("peak ", 1)[1]) / 1024

    def start(self, side: Served, *arguments: str, python: Path | None = None) -> subprocess.Popen[str]:
        """Start dcsync."""
        # The interpreter imports from its working folder first.
        place = _HERE if python is None else self.folder
        command = [*self._command(side, python), *arguments]
        return subprocess.Popen(command, env=self._environ(), stdout=subprocess.PIPE, text=True, cwd=place)

    def _command(self, side: Served, python: Path | None = None) -> list[str]:
        return [str(python or sys.executable), "-c", PROGRAM, "--config", str(side.config), "--log-level", "error"]

    def _environ(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin", TOKEN: self.side.token, "SSL_CERT_FILE": str(self.origin.authority)}

    def api_calls(self) -> int:
        """Return the number of API calls so far."""
        return self.side.sandbox.count("api")

    def fetched(self) -> int:
        """Return the number of bytes that nginx has sent."""
        time.sleep(0.2)  # nginx logs a request only after the response is complete
        return self.origin.sent()[1]


@contextmanager
def staged(
    *,
    scheme: str = "http",
    quota: int | None = None,
    latency_s: float = 0.0,
    pace: int | None = None,
    limit_rate: str = "0",
) -> Iterator[Stage]:
    """Serve an empty world. For `pace` and `limit_rate` see `serving`."""
    with tempfile.TemporaryDirectory(prefix="dcsync-bench-") as place:
        folder = Path(place)
        (folder / "files").mkdir()
        with serving(folder / "files", folder / "nginx", pace=pace, limit_rate=limit_rate) as origin:

            def sign(job: str, name: str) -> str:
                return f"{origin.at(scheme)}/{job}/{quote(name)}?X-Amz-Signature=bench"

            with served(folder, sign=sign, quota_per_minute=quota, latency_s=latency_s) as side:
                request = side.sandbox.world.add_request("My Company Data Extract")
                yield Stage(side=side, origin=origin, folder=folder, request=request)


def tables(size: Size, day: int, *, changed: float = 0.1) -> dict[str, bytes]:
    """Return an extract's tables, which compress to about a fifth. Each day a share of `changed` differs from day 0."""
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


def _wait_until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds, for at most two minutes."""
    for _ in range(30_000):
        if condition():
            return
        time.sleep(0.004)
    message = "the daemon took more than two minutes"
    raise SystemExit(message)
