"""Measures dcsync alone and against other tools: `make bench`.

Tests assert calls and bytes but no times, because machines are shared and noisy.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

import dcsync
from bench import compare
from bench.stage import SMALL, OnDisk, Size
from dcsync.core import plan as planning
from dcsync.core.cost import Method
from dcsync.core.model import JobId, ListedFile, StoredFile
from dcsync.core.plan import Known
from dcsync.core.wire import parse_job
from dcsync.mirror.root import open_root
from dcsync.mirror.staging import Staging
from dcsync.ops.context import SyncContext
from dcsync.ops.mirroring.archive import Extractor, StagedArchive, open_directory
from dcsync.sandbox import Synthetic
from dcsync.sandbox.blobs import Blob
from tests.rigs.mirror import ARCHIVE, Mirror, add_extract, mirroring
from tests.rigs.served import TOKEN, served

FILES = 260
MIB = 1 << 20
_BEGIN, _END = "<!-- figures: make bench -->", "<!-- end of figures -->"
PEAK = """
import sys
from dcsync.cli.group import run
status = run(["--config", sys.argv[1], "sync"])
for line in open("/proc/self/status"):
    if line.startswith("VmHWM"):
        print("peak", line.split()[1])
sys.exit(status)
"""


def tables(seed: int, *, changed: float = 0.0, size: int = 20_000) -> dict[str, bytes]:
    """Return 260 tables that compress to about a fifth. A share of `changed` differs from the first day."""
    files = {}
    for index in range(FILES):
        version = seed if random.Random(f"{seed}/{index}").random() < changed else 0
        chance = random.Random(f"{index}/{version}")
        rows = [
            f"{chance.getrandbits(64):016x},open,2026-11-22,Level 3,{chance.random():.2f}" for _ in range(size // 45)
        ]
        files[f"admin_table_{index:03}.csv"] = "\n".join(rows).encode()
    return files


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dcsync-bench-") as name:
        yield Path(name)


@asynccontextmanager
async def mirror_in(**options: Any) -> AsyncIterator[Mirror]:
    with folder() as path:
        async with mirroring(path, **options) as mirror:
            yield mirror


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One result of dcsync alone."""

    what: str
    figure: str
    bar: str
    met: bool


#: The results so far.
shown_lines: list[Line] = []


def show(what: str, figure: str, bar: str, *, met: bool) -> None:
    """Record a result and print it."""
    shown_lines.append(Line(what=what, figure=figure, bar=bar, met=met))
    print(f"{'ok  ' if met else 'MISS'} {what:<58} {figure:>28}   target: {bar}", flush=True)


async def days() -> None:
    """Measure a first day, a day with a tenth of the tables changed, and an unchanged day."""
    async with mirror_in() as mirror:
        for name, changed, seed in (("first extract", 0.0, 0), ("10 % changed", 0.1, 1), ("unchanged", 0.1, 1)):
            mirror.clock.advance(86400)
            job = add_extract(mirror, tables(seed, changed=changed), with_archive=True)
            calls, size = mirror.sandbox.count("api"), mirror.fetched_bytes()
            await mirror.sync()
            calls, size = mirror.sandbox.count("api") - calls, mirror.fetched_bytes() - size
            whole = mirror.world.extract(job)[ARCHIVE].size
            mirror.assert_identical(job)
            show(f"{name} of {FILES} files: API calls", str(calls), "at most 4", met=calls <= 4)
            if name == "unchanged":
                show(f"{name}: bytes", f"{size}", "at most 100,000", met=size <= 100_000)
            else:
                share, limit = size / whole, 1.2 if name == "first extract" else 0.2
                show(f"{name}: bytes / bytes of the ZIP", f"{share:.3f}", f"under {limit}", met=share < limit)


async def backfill() -> None:
    """Compare twenty extracts by ZIP and file by file, under the sandbox's rate limit, in simulated time."""
    seconds = {}
    for strategy in ("auto", "files"):
        # URLs do not expire here: the simulated clock jumps over the pauses of the rate limit, a real one does not.
        async with mirror_in(quota_per_minute=60, url_lifetime_s=1e6) as mirror:
            mirror.config["mirror"] = {"strategy": strategy}
            for day in range(20):
                add_extract(mirror, tables(day, changed=1.0, size=2000), days_ago=20 - day, with_archive=True)
            began = mirror.clock.monotonic()
            real = time.monotonic()
            await mirror.sync()
            # The simulated waits of the calls plus the real time of the work.
            seconds[strategy] = mirror.clock.monotonic() - began + time.monotonic() - real
            refused = mirror.sandbox.count("api", status=429)
            calls = mirror.sandbox.count("api")
            show(f"backfill of 20 extracts, {strategy}: 429s ({calls} calls)", str(refused), "0", met=refused == 0)
    ratio = seconds["files"] / seconds["auto"]
    figure = f"{seconds['files']:.0f} s / {seconds['auto']:.0f} s = {ratio:.0f}"
    show("backfill of 20 extracts: time by files / by archive", figure, "at least 20", met=ratio >= 20)


def memory() -> None:
    """Measure the peak memory of a process that mirrors a ZIP with one large entry, stored and deflated."""
    for form, pack in (("stored", _pack_stored), ("deflated", _pack_deflated)):
        small, large = _peak(20 * MIB, pack), _peak(2048 * MIB, pack)
        figure = f"{large:.0f} MiB / {small:.0f} MiB = {large / small:.2f}"
        what = f"memory with a 2 GiB member, {form} / with a 20 MiB one"
        show(what, figure, "at most 1.1", met=large <= 1.1 * small)


def _peak(size: int, pack: Callable[[Path, int], Blob]) -> float:
    """Return the peak memory in MiB of a process that mirrors a ZIP with an entry of this size."""
    # The ETag is stable but not an MD5. With an ETag that changes at each call, each call would see a new ZIP.
    with folder() as path, served(path, etag="multipart") as side:
        packed = path / "archive.zip"
        files: dict[str, bytes | Blob] = {"forms_forms.csv": pack(packed, size), ARCHIVE: OnDisk(packed)}
        world = side.sandbox.world
        world.add_job(world.add_request("Large"), completed_at=datetime.now(UTC), files=files, with_archive=False)
        side.config.write_text(side.config.read_text().replace("[mirror]", '[mirror]\nstrategy = "zip"'))
        command = [sys.executable, "-c", PEAK, str(side.config)]
        result = subprocess.run(
            command, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin", TOKEN: side.token}
        )
        (mirrored,) = side.root.glob("acme/*/[0-9]*/**/forms_forms.csv")
        assert mirrored.stat().st_size == size
        assert side.sandbox.count("api", path_contains="/data/forms") == 0
        return int(result.stdout.split()[-1]) / 1024


def _pack_stored(packed: Path, size: int) -> Blob:
    body = Synthetic(size)
    with (
        zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
        archive.open(zipfile.ZipInfo("forms_forms.csv"), "w", force_zip64=True) as file,
    ):
        for piece in body.pieces():
            file.write(piece)
    return body


def _pack_deflated(packed: Path, size: int) -> Blob:
    """Write a ZIP with an entry that unpacks to 77 times its size. Writing takes only the time of its checksum.

    One mebibyte is deflated up to a full flush, which makes it independent, and then repeated.
    """
    block = random.Random(0).randbytes(MIB // 80) + bytes(MIB - MIB // 80)
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    piece = deflate.compress(block) + deflate.flush(zlib.Z_FULL_FLUSH)
    end, crc32 = zlib.compressobj(6, zlib.DEFLATED, -15).flush(), 0
    for _ in range(size // MIB):
        crc32 = zlib.crc32(block, crc32)
    length = len(piece) * (size // MIB) + len(end)
    name = b"forms_forms.csv"
    facts = struct.pack("<5H3L2H", 20, 0, 8, 0, 33, crc32, length, size, len(name), 0)
    local = b"PK\x03\x04" + facts + name
    central = b"PK\x01\x02" + struct.pack("<H", 20) + facts + struct.pack("<3H2L", 0, 0, 0, 0, 0) + name
    with packed.open("wb") as file:
        file.write(local)
        for _ in range(size // MIB):
            file.write(piece)
        file.write(end + central)
        file.write(b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, 1, 1, len(central), len(local) + length, 0))
    # Its own URL is never used. Only its size in the data listing matters.
    return Synthetic(size)


async def explode() -> None:
    """Compare the extraction of a whole ZIP, including checks, SHA-256 and fsync, with unzip."""
    if shutil.which("unzip") is None:
        print("skipped: extraction against unzip (the program unzip is not installed)")
        return
    async with mirror_in() as mirror:
        packed = mirror.folder / ARCHIVE
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            for name, body in tables(0, size=1_000_000).items():
                archive.writestr(name, body)
        async with mirror.opened() as context:
            ours, theirs = [], []
            for turn in range(5):
                began = time.perf_counter()
                await _explode(context, mirror, packed, turn)
                between = time.perf_counter()
                await asyncio.to_thread(_unzip, mirror.folder / f"unzipped-{turn}", packed)
                ours.append(between - began)
                theirs.append(time.perf_counter() - between)
        ratio = sorted(a / b for a, b in zip(ours, theirs, strict=True))[2]
        figure = f"{sorted(ours)[2]:.2f} s / {sorted(theirs)[2]:.2f} s = {ratio:.2f}"
        what = f"exploding {packed.stat().st_size >> 20} MiB of ZIP / unzip of the same"
        show(what, figure, "at most 1.3", met=ratio <= 1.3)


async def _explode(context: SyncContext, mirror: Mirror, packed: Path, turn: int) -> None:
    job = parse_job({"id": f"job-{turn}", "requestId": "r", "status": "complete"})
    with open_root(mirror.root) as root, Staging(root, JobId(job.id)) as staging:
        place = mirror.root / ".dcsync/staging" / job.id / ARCHIVE
        place.hardlink_to(packed)
        stored = StoredFile(name=ARCHIVE, original=ARCHIVE, size=packed.stat().st_size, sha256="", crc32=0)
        archive = StagedArchive(context, staging, stored)
        directory = await open_directory(context, archive)
        # All entries are in the data listing, as they are at Autodesk. Unlisted entries have a common size limit.
        listing = tuple(ListedFile(name=member.name, size=member.size) for member in directory.members)
        extracts = planning.plan(listing, Known(directory=directory)).extracts
        extractor = Extractor(context, archive, job=job, staging=staging)
        spans = planning.spans_of([extract.member for extract in extracts], Method.WHOLE, directory)
        await extractor.extract(spans, extracts)
        assert len(extractor.extraction.stored) == FILES, extractor.extraction.damaged
        await context.disk.run(staging.discard)


def _unzip(target: Path, packed: Path) -> None:
    subprocess.run(["unzip", "-q", str(packed), "-d", str(target)], check=True)
    shutil.rmtree(target)


async def flood() -> None:
    """Compare a sync during a flood of callbacks with a sync without one."""
    from bench import flood as flooding

    ratio = await flooding.measure()
    show("a sync under a flood of callbacks / without", f"{ratio:.2f}", "at most 1.1", met=ratio <= 1.1)


PARTS = ("days", "backfill", "explode", "memory", "flood", *(part.__name__ for part in compare.PARTS))


async def main(arguments: Sequence[str]) -> int:
    """Measure the named parts, or all of them. Returns 1 if a target was missed.

    The table and the plot go to build/bench. With `--into FILE` the table also goes into that document, between its
    marks, and the plot goes next to it.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    options = argparse.ArgumentParser(prog="bench")
    options.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    options.add_argument("--small", action="store_true", help="do little work in one round, to try the benchmark")
    options.add_argument(
        "--against",
        type=Path,
        metavar="FILE",
        help="the dcsync command of another version, for the part line_unlimited",
    )
    options.add_argument("--rounds", type=int, metavar="N", help="how often each tool runs")
    options.add_argument("--paces", metavar="N,N", help="megabytes per second of each connection, for the part line")
    options.add_argument("--past", type=Path, metavar="FOLDER", help="keep the mirrors of the part history here")
    options.add_argument("--into", type=Path, metavar="FILE", help="write the table into this document")
    given = options.parse_args(arguments)
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        options.error(f"unknown part: {', '.join(sorted(unknown))} (choose from {', '.join(PARTS)})")
    wanted = set(given.parts) or set(PARTS)
    for part in (days, backfill, explode, flood):
        if part.__name__ in wanted:
            await part()
    # These parts run in threads, because they wait for processes that use a sandbox in this process.
    if "memory" in wanted:
        await asyncio.to_thread(memory)
    size = SMALL if given.small else Size()
    if given.against is not None:
        # The interpreter of the same virtual environment. Its link must not be resolved.
        size = replace(size, against=given.against.absolute().parent / "python")
        _refuse_itself(size.against)
    if given.rounds is not None:
        size = replace(size, rounds=given.rounds)
    if given.past is not None:
        size = replace(size, past=given.past.absolute())
    if given.paces is not None:
        size = replace(size, paces=tuple(map(int, given.paces.split(","))))
    table = await asyncio.to_thread(compare.compare, sorted(wanted), size=size)
    document = "\n".join([table.markdown(), *_lines()]) if table.rows else "\n".join(_lines())
    out = Path("build/bench")
    out.mkdir(parents=True, exist_ok=True)
    (out / "performance.md").write_text(document, encoding="utf-8")
    (out / "performance.svg").write_text(table.plot(), encoding="utf-8")
    if given.into is not None:
        into: Path = given.into
        before, _, rest = into.read_text(encoding="utf-8").partition(_BEGIN)
        _, _, after = rest.partition(_END)
        into.write_text(f"{before}{_BEGIN}\n{document}\n{_END}{after}", encoding="utf-8")
        into.with_suffix(".svg").write_text(table.plot(), encoding="utf-8")
    return 0 if all(shown.met for shown in shown_lines) and all(row.met for row in table.rows) else 1


def _refuse_itself(python: Path | None) -> None:
    """Exit unless the interpreter imports another dcsync. A copy of a virtual environment may import the original's."""
    command = [str(python), "-c", "import dcsync; print(dcsync.__file__)"]
    place = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/").stdout.strip()
    print(f"against {place}")
    if Path(place) == Path(dcsync.__file__):
        message = "--against names this version itself"
        raise SystemExit(message)


def _lines() -> list[str]:
    if not shown_lines:
        return []
    rows = [
        f"| {line.what} | {line.figure} | {line.bar} {'met' if line.met else '**missed**'} |" for line in shown_lines
    ]
    return ["| dcsync alone | Result | Target |", "|---|---|---|", *rows, ""]


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
