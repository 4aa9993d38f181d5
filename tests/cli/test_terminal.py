"""What a person sees of a run on a real terminal."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dcsync.sandbox import Fault, Synthetic
from tests.rigs.beside import daemon_beside
from tests.rigs.mirror import tables
from tests.rigs.served import TOKEN, Served
from tests.rigs.terminal import Terminal, on_terminal

pytestmark = pytest.mark.timeout(300)

LARGE = "activities_activities_of_the_whole_company.csv"
SLOW = Fault(server="storage", kind="slow", amount=1 << 20, times=None)


def add_jobs(side: Served, count: int = 3) -> None:
    """Add extracts whose large file takes five seconds over the only connection, when it is slow."""
    request, now = side.sandbox.world.add_request("My Company Data Extract"), datetime.now(UTC)
    for number in range(count):
        files: dict[str, Any] = {**tables(2, seed=number), LARGE: Synthetic(5 << 20, number)}
        completed_at = now - timedelta(days=count - number)
        side.sandbox.world.add_job(request, completed_at=completed_at, files=files, with_archive=False)


@contextmanager
def syncing(side: Served, width: int = 80) -> Iterator[Terminal]:
    command = [sys.executable, "-m", "dcsync", "--config", str(side.config), "sync"]
    with on_terminal(command, width=width, environ={TOKEN: side.token}) as terminal:
        yield terminal


@pytest.fixture(autouse=True)
def one_connection(side: Served) -> None:
    side.config.write_text(f"{side.config.read_text()}\n[transfer]\nconcurrency = 1\n")


def row_of(frame: Sequence[str], name: str) -> str:
    return next((line for line in frame if line.startswith(name)), "")


def has_begun(frame: Sequence[str]) -> bool:
    """Say whether the rate of the large file is known."""
    return bool(re.search(r" \d:\d\d$", row_of(frame, "  activ")))


LINES = {
    40: (
        r"snapshot 1 of 3, [\w…/ ]+ [\d.]+ [KM]iB",
        r"acme/my-com\S*…\S*-\w{8} +[\d.]+/5\.0 MiB +\d:\d\d",
        r"  activitie…\w+\.csv +[\d.]+/5\.0 MiB +\d:\d\d",
    ),
    80: (
        r"snapshot 1 of 3, \d/3 files +[━╸─]{12} +[\d.]+ [KM]iB +[\d.]+ [KM]iB/s",
        r"acme/my-comp\S+…\S+Z-\w{8} [━╸─]{12} +[\d.]+/5\.0 MiB +[\d.]+ [KM]iB/s \d:\d\d",
        r"  activities_\S*…\S+company\.csv [━╸─]{12} +[\d.]+/5\.0 MiB +[\d.]+ [KM]iB/s \d:\d\d",
    ),
    100: (
        r"snapshot 1 of 3, \d/3 files +[━╸─]{12} +[\d.]+ [KM]iB +[\d.]+ [KM]iB/s",
        r"acme/my-company-data-ext\S+…\S+Z-\w{8} [━╸─]{12} +[\d.]+/5\.0 MiB +[\d.]+ [KM]iB/s \d:\d\d",
        r"  activities_activities_of_the_whole_company\.csv +[━╸─]{12} +[\d.]+/5\.0 MiB +[\d.]+ [KM]iB/s \d:\d\d",
    ),
}


@pytest.mark.parametrize("width", LINES)
def test_a_run_shows_its_snapshots_each_job_and_each_file(side: Served, width: int) -> None:
    add_jobs(side)
    side.sandbox.faults.add(replace(SLOW))
    with syncing(side, width) as terminal:
        frame = terminal.until(has_begun, "the download")
        terminal.process.send_signal(signal.SIGINT)
        status = terminal.end()

    assert len(frame) == 3
    for line, expected in zip(frame, LINES[width], strict=True):
        assert re.fullmatch(expected, line), line
        assert len(line) <= width
    assert status == 130
    # Nothing of the bars is left behind. The empty line is click's, below the ^C that a person types.
    said = "dcsync: interrupted; downloaded data is kept and the next run resumes"
    assert terminal.screen.text().splitlines() == ["", *folded(said, width)]


def folded(line: str, width: int) -> list[str]:
    return [line[start : start + width].rstrip() for start in range(0, len(line), width)]


def test_a_resumed_file_begins_at_what_is_there(side: Served) -> None:
    add_jobs(side, 1)
    side.sandbox.faults.add(replace(SLOW))
    with syncing(side) as terminal:
        terminal.until(lambda frame: bool(re.search(r" [2-9]\.\d/5", row_of(frame, "  activ"))), "two MiB")
        terminal.process.send_signal(signal.SIGINT)
        terminal.end()

    with syncing(side) as terminal:
        frame = terminal.until(lambda frame: bool(row_of(frame, "  activ")), "the file")
        terminal.process.send_signal(signal.SIGINT)
        terminal.end()

    for name in ("acme/", "  activ"):
        assert re.search(r" [1-9]\.\d/5\.0 MiB", row_of(frame, name)), frame


WAITS = {
    "a 429": (
        Fault(server="api", kind="status", status=429, match="data-listing", headers={"Retry-After": "20"}),
        "for the rate limit",
    ),
    "a 503": (Fault(server="api", kind="status", status=503, match="data-listing", times=4), "to call the API again"),
    "a 503 of the storage": (Fault(server="storage", kind="status", status=503, times=12), "to download again"),
}


@pytest.mark.parametrize("fault", WAITS)
def test_what_is_waited_for_is_told_with_the_seconds_left(side: Served, fault: str) -> None:
    add_jobs(side, 1)
    side.sandbox.faults.add(replace(WAITS[fault][0]))
    with syncing(side) as terminal:
        frame = terminal.until(lambda frame: bool(row_of(frame, "waiting")), "a wait")
        if fault == "a 429":
            (first,) = re.findall(r"waiting (\d+) s", row_of(frame, "waiting"))
            terminal.until(lambda frame: f"waiting {int(first) - 2} s" in row_of(frame, "waiting"), "two seconds later")
        terminal.process.send_signal(signal.SIGINT)
        terminal.end()

    assert frame[0].startswith("snapshot 1 of 1")
    assert re.fullmatch(rf"waiting \d+ s {WAITS[fault][1]}", frame[1])


def test_a_command_beside_the_daemon_shows_the_same_as_alone(side: Served) -> None:
    with daemon_beside(side):
        add_jobs(side)
        side.sandbox.faults.add(replace(SLOW))
        with syncing(side) as terminal:
            frame = terminal.until(has_begun, "the download")
            side.sandbox.faults.clear()
            side.sandbox.faults.add(replace(WAITS["a 429"][0]))
            second = terminal.until(lambda frame: bool(row_of(frame, "waiting")), "the wait")
            terminal.process.send_signal(signal.SIGINT)
            assert terminal.end() == 130

    for line, expected in zip(frame, LINES[80], strict=True):
        assert re.fullmatch(expected, line), line
    assert second[0].startswith("snapshot 2 of 3")
    assert re.fullmatch(r"waiting \d+ s for the rate limit", second[1])
