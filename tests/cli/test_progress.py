"""Progress of long operations on a terminal and in a log."""

from __future__ import annotations

import asyncio
import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from structlog.testing import capture_logs

from dcsync.app.from_config import account_settings
from dcsync.app.rebuild import rebuild_manifest
from dcsync.cli.progress import INTERVAL_S, Bars, Lines, ReadingBar, ReadingLines, reading, watching
from dcsync.core.model import AccountName, JobId
from dcsync.errors import DiskFault
from dcsync.ops.integrity.verify import verify
from tests.fakes import FakeClock
from tests.rigs.mirror import add_extract, mirroring, tables

ACCOUNT, JOB = AccountName("acme"), JobId("9bd7c8a0")


def terminal(width: int = 120) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_run_on_a_terminal_has_a_bar_for_each_job_and_each_current_file() -> None:
    console = terminal()
    with Bars(console) as bars:
        bars.job_started(ACCOUNT, JOB, "acme/[nightly]", files=2, size=3_000_000)
        bars.file_started(JOB, "admin_users.csv", 1_000_000)
        bars.file_started(JOB, "admin_users.csv", 1_000_000)  # tried again
        bars.file_advanced(JOB, "admin_users.csv", 524_288)
        bars._progress.refresh()
        halfway = shown(console)
        bars.file_done(JOB, "admin_users.csv")
        bars.file_started(JOB, "left_over.csv", 1_000_000)
        bars.job_done(JOB)
        bars.file_advanced(JOB, "late.csv", 1)
        left = [task.description for task in bars._progress.tasks]

    assert "acme/[nightly] (2 files)" in halfway
    assert "0.5/2.9 MiB" in halfway
    assert "admin_users.csv" in halfway
    assert left == []


@pytest.mark.parametrize("width", [80, 100, 160])
def test_every_line_has_a_cut_name_a_bar_bytes_rate_and_time(width: int) -> None:
    console = terminal(width)
    with Bars(console) as bars:
        bars.job_started(
            ACCOUNT,
            JOB,
            "acme/my-company-data-extract-911686f6/2026/11/30/023405Z" * 3,
            files=260,
            size=3 << 30,
        )
        bars.file_started(JOB, f"{'activities_' * 20}.csv", 2 << 30)
        bars.file_advanced(JOB, f"{'activities_' * 20}.csv", 1 << 30)
        bars._progress.refresh()
        drawn = shown(console).rpartition("\x1b[2K")[2]

    job, file = drawn.splitlines()
    for line, name, size in ((job, "acme/my-company-d", "1.0/3.0 GiB"), (file, "  activities_", "1.0/2.0 GiB")):
        assert line.startswith(name)
        assert len(line.rstrip()) <= width
        assert "…" in line
        assert "━━━" in line
        assert size in line
        assert re.search(r"(/s|\?) +[\d:-]+$", line)


def test_reading_on_a_terminal_shows_how_many_snapshots_and_bytes() -> None:
    console = terminal()
    with ReadingBar(console) as bar:
        bar.snapshot("acme/nightly/2026/11/[24]\x1b[2J/120000Z-9bd7c8a0", 3, 40)
        bar.read(5 << 20)
        bar.read(5 << 20)
        bar._progress.refresh()

    line = shown(console)
    assert "2/40 snapshots, 10.0 MiB read: acme/nightly/2026/11/[24]" in line
    assert "\x1b[2J" not in line


async def turns() -> None:
    """Let the reporter run several times, each after half a minute of the clock."""
    for _ in range(5):
        await asyncio.sleep(0)  # noqa: TID251


@pytest.mark.parametrize(
    ("watch", "tell", "told"),
    [
        (
            watching,
            lambda lines: (
                lines.job_started(ACCOUNT, JOB, "acme/nightly", files=2, size=3000),
                lines.file_started(JOB, "a.csv", 1000),
                lines.file_advanced(JOB, "a.csv", 1000),
                lines.file_done(JOB, "a.csv"),
            ),
            {"account": ACCOUNT, "job": JOB, "files": "1/2", "bytes": "1000/3000"},
        ),
        (
            reading,
            lambda lines: (lines.snapshot("acme/nightly/2026", 3, 40), lines.read(7), lines.read(5)),
            {"snapshot": "3/40", "folder": "acme/nightly/2026", "read_bytes": 12},
        ),
    ],
    ids=["a run", "reading"],
)
async def test_without_a_terminal_there_is_a_line_every_30_seconds(watch: Any, tell: Any, told: dict[str, Any]) -> None:
    clock = FakeClock()
    with capture_logs() as lines:
        async with watch(clock) as observer:
            assert isinstance(observer, Lines | ReadingLines)
            await turns()
            before = list(lines)
            tell(observer)
            await turns()

    assert before == []
    assert set(clock.slept) == {INTERVAL_S}
    assert lines[0] == {"event": "progress", "log_level": "info", **told}


@pytest.mark.parametrize("watch", [watching, reading])
@pytest.mark.parametrize("error", [DiskFault("the disk"), ZeroDivisionError()], ids=["ours", "a bug"])
async def test_errors_pass_through_unchanged(watch: Any, error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        async with watch(FakeClock()):
            raise error

    assert caught.value is error


class Seen(ReadingLines):
    """Records its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.snapshots: list[tuple[str, int, int]] = []
        self.size = 0

    def snapshot(self, folder: str, number: int, of: int) -> None:
        self.snapshots.append((folder, number, of))

    def read(self, size: int) -> None:
        self.size += size


async def test_verify_and_rebuild_report_every_snapshot_and_every_byte(tmp_path: Path) -> None:
    async with mirroring(tmp_path) as mirror:
        jobs = [add_extract(mirror, tables(2, seed=day), days_ago=3 - day) for day in range(3)]
        await mirror.sync()
        folders = [str(mirror.snapshot_of(job).relative_to(mirror.root)) for job in jobs]
        tables_size = sum(path.stat().st_size for job in jobs for path in mirror.snapshot_of(job).glob("*.csv"))
        verified, rebuilt = Seen(), Seen()

        async with mirror.opened() as context:
            await verify(context, account_settings(mirror.configuration()), observer=verified)
        report = await rebuild_manifest(mirror.configuration(), mirror.stores(), clock=mirror.clock, observer=rebuilt)

    assert verified.snapshots == [(folder, number, 3) for number, folder in enumerate(reversed(folders), 1)]
    assert rebuilt.snapshots == [(folder, number, 3) for number, folder in enumerate(folders, 1)]
    assert rebuilt.size == report.read_bytes == tables_size
    assert verified.size > tables_size
