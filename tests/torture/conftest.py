"""What every torture gets: a seed that replays it, how much is asked for, and a table for its figures.

`make torture` runs all, `make torture SLICE=1` what CI has the time for, `SEED=N` what an earlier run did. The figures
are printed at the end, and written to the file that `FIGURES` names.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

SLICE: Final = bool(os.environ.get("DCSYNC_TORTURE_SLICE"))
SEED: Final = int(os.environ.get("DCSYNC_TORTURE_SEED") or random.randrange(1 << 32))
_FIGURES: Final = pytest.StashKey[list[tuple[str, str, str]]]()

#: `figure("kill -9 at random", "100, nothing torn")` puts a line into the table.
Figure = Callable[[str, str], None]


def pytest_configure(config: pytest.Config) -> None:
    """Start the table."""
    config.stash[_FIGURES] = []


def pytest_report_header() -> str:
    """Print what replays this run."""
    return f"torture: {'slice' if SLICE else 'full'}, seed {SEED} (again: make torture SEED={SEED})"


def pick(full: int, part: int) -> int:
    """Return how many rounds to make: `full`, or `part` in the slice that CI runs."""
    return part if SLICE else full


def need(*programs: str) -> None:
    """Fail, and do not skip, when a program or the rights for it are missing: what is left out proves nothing."""
    missing = [program for program in programs if shutil.which(program) is None]
    assert not missing, f"missing: {', '.join(missing)} (tests/torture/debian-packages.txt says where they come from)"
    assert os.geteuid() == 0, "this torture mounts file systems and injects faults: it needs root"


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Return a source of random numbers of the test's own, the same again for the same seed."""
    return random.Random(f"{SEED}/{request.node.nodeid}")


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """Return what notes a figure for the table."""

    def note(what: str, result: str) -> None:
        request.config.stash[_FIGURES].append((what, result, request.node.nodeid.partition("::")[0]))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, seed and all, and write it where FIGURES says."""
    rows = [f"| {what} | {result} | `{file}` |" for what, result, file in config.stash[_FIGURES]]
    if not rows:
        return
    table = "\n".join(["| torture | result | where |", "|---|---|---|", *rows])
    terminalreporter.section(f"torture, seed {SEED}, Python {sys.version.split()[0]}")
    terminalreporter.line(table)
    if path := os.environ.get("DCSYNC_TORTURE_FIGURES"):
        Path(path).write_text(table + "\n", encoding="utf-8")
