"""The lines of a run at any width."""

from __future__ import annotations

import re

import pytest

from dcsync.cli.bars import ASCII, Size, reading_lines, run_lines
from dcsync.core.model import AccountName, JobId
from dcsync.core.waits import WaitReason
from dcsync.ops.progress import ReadingProgress, RunProgress
from tests.fakes import FakeClock

ACCOUNT, JOB = AccountName("acme"), JobId("9bd7c8a0")
FOLDER = "acme/my-company-data-extract-911686f6/2026/11/30/023405Z-9bd7c8a0"


def make_progress(files: int = 1) -> RunProgress:
    """Return the third of six snapshots, halfway, at 10 MiB/s, and a wait."""
    clock = FakeClock()
    progress = RunProgress(clock)
    for left in (6, 5, 4):
        progress.jobs_left(ACCOUNT, left)
    progress.job_started(ACCOUNT, JOB, FOLDER, files=files, size=200 << 20)
    for number in range(files):
        progress.file_started(JOB, f"activities_{number}_{'x' * 80}.csv", 100 << 20)
    for _ in range(10):
        progress.job_advanced(JOB, 10 << 20)
        progress.file_advanced(JOB, f"activities_0_{'x' * 80}.csv", 5 << 20)
        clock.advance(1)
    progress.waiting(WaitReason.RATE_LIMIT, 42)
    return progress


def plain(progress: RunProgress, width: int, height: int = 24) -> list[str]:
    return [line.plain for line in run_lines(progress, size=Size(width=width, height=height))]


def test_at_80_columns_each_line_has_a_cut_name_a_bar_bytes_rate_and_time() -> None:
    assert plain(make_progress(), 80) == [
        "snapshot 3 of 6, 0/1 files         ━━━━━───────       100.0 MiB  10.0 MiB/s     ",
        "waiting 42 s for the rate limit",
        "acme/my-company-d…023405Z-9bd7c8a0 ━━━━━━────── 100.0/200.0 MiB  10.0 MiB/s 0:10",
        "  activities_0_xx…xxxxxxxxxxxx.csv ━━━━━━──────  50.0/100.0 MiB   5.0 MiB/s 0:10",
    ]


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 160])
def test_no_line_is_wider_than_the_terminal_and_the_bytes_are_always_there(width: int) -> None:
    run, wait, job, file = plain(make_progress(), width)

    assert all(len(line) <= width for line in (run, wait, job, file))
    assert run.startswith("snapshot 3")
    assert "100.0/200.0 MiB" in job
    assert "50.0/100.0 MiB" in file
    assert ("━" in job) == (width >= 60)
    assert bool(re.search(r"MiB/s", job)) == (width >= 80)
    assert job.endswith("0:10") == (width >= 40)


def test_names_that_could_steer_the_terminal_do_not() -> None:
    progress = make_progress()
    progress.file_started(JOB, "a\x1b[2J\n.csv", 1)

    assert all(line.isprintable() for line in plain(progress, 200))


def test_what_does_not_fit_is_counted() -> None:
    lines = plain(make_progress(files=30), 80, height=10)

    assert len(lines) == 10
    assert lines[0].startswith("snapshot 3 of 6")
    assert lines[-1] == "  and 24 more"


def test_without_utf_8_the_lines_are_ascii() -> None:
    lines = [line.plain for line in run_lines(make_progress(), size=Size(width=80, height=24), signs=ASCII)]

    assert all(line.isascii() for line in lines)
    assert "#####-------" in lines[0]
    assert "~" in lines[2]


def test_a_snapshot_of_links_has_a_full_bar() -> None:
    progress = RunProgress(FakeClock())
    progress.jobs_left(ACCOUNT, 1)
    progress.job_started(ACCOUNT, JOB, FOLDER, files=0, size=0)

    _, job = plain(progress, 100)

    assert re.search("━━━━━━━━━━━━ +0/0 B ", job)
    assert job.endswith("0:00")


def test_before_anything_is_known_there_is_no_line() -> None:
    assert plain(RunProgress(FakeClock()), 80) == []


def make_reading() -> ReadingProgress:
    """Return the third of 41 snapshots, after 20 s and 200 MiB."""
    clock = FakeClock()
    progress = ReadingProgress(clock)
    for number in (1, 2):
        progress.snapshot("acme/x", number, 41)
        for _ in range(10):
            progress.read(10 << 20)
            clock.advance(1)
    progress.snapshot(FOLDER, 3, 41)
    return progress


READING = {
    40: [
        "snapshot 3 of 41          200.0 MiB 6:30",
        "acme/my-company-data…30/023405Z-9bd7c8a0",
    ],
    80: [
        "snapshot 3 of 41                       ╸───────────   200.0 MiB  10.0 MiB/s 6:30",
        "acme/my-company-data-extract-911686f6/2026/11/30/023405Z-9bd7c8a0",
    ],
    100: [
        "snapshot 3 of 41                                           ╸───────────   200.0 MiB  10.0 MiB/s 6:30",
        "acme/my-company-data-extract-911686f6/2026/11/30/023405Z-9bd7c8a0",
    ],
}


@pytest.mark.parametrize("width", READING)
def test_reading_shows_which_snapshot_the_bytes_and_the_time_that_is_left(width: int) -> None:
    lines = [line.plain for line in reading_lines(make_reading(), size=Size(width=width, height=24))]

    assert lines == READING[width]
    assert all(len(line) <= width for line in lines)


def test_before_the_first_snapshot_there_is_no_line_and_at_the_first_one_no_end() -> None:
    progress = ReadingProgress(FakeClock())
    assert reading_lines(progress, size=Size(width=80, height=24)) == []

    progress.snapshot("acme/[24]\x1b[2J", 1, 40)

    total, folder = (line.plain for line in reading_lines(progress, size=Size(width=80, height=24)))
    assert total.endswith("-:--")
    assert folder == "acme/[24]\\x1b[2J"
