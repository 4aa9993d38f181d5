"""Progress of long operations on a terminal and in a log."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from dcsync.app.from_config import account_settings
from dcsync.app.rebuild import rebuild_manifest
from dcsync.cli.progress import INTERVAL_S, Lines, ReadingLines, reading, watching
from dcsync.core.model import AccountName, JobId
from dcsync.core.waits import WaitReason
from dcsync.errors import DiskFault
from dcsync.ops.integrity.verify import verify
from tests.fakes import FakeClock
from tests.rigs.mirror import add_extract, mirroring, tables

ACCOUNT, JOB = AccountName("acme"), JobId("9bd7c8a0")


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
                lines.jobs_left(ACCOUNT, 3),
                lines.jobs_left(ACCOUNT, 2),
                lines.job_started(ACCOUNT, JOB, "acme/nightly", files=2, size=3000),
                lines.job_advanced(JOB, 1000),
                lines.file_started(JOB, "a.csv", 1000),
                lines.file_advanced(JOB, "a.csv", 1000),
                lines.file_done(JOB, "a.csv"),
            ),
            {"account": ACCOUNT, "job": JOB, "files": "1/2", "bytes": "1000/3000", "snapshot": "2/3"},
        ),
        (
            watching,
            lambda lines: (lines.jobs_left(ACCOUNT, 3), lines.waiting(WaitReason.RATE_LIMIT, 42)),
            {"snapshot": "1/3", "rate_limit_wait_seconds": 42},
        ),
        (
            reading,
            lambda lines: (lines.snapshot("acme/nightly/2026", 3, 40), lines.read(7), lines.read(5)),
            {"snapshot": "3/40", "folder": "acme/nightly/2026", "read_bytes": 12},
        ),
    ],
    ids=["a run", "a wait", "reading"],
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
        super().__init__(FakeClock())
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
