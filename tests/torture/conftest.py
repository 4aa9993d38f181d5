"""What every torture gets: a seed that replays it, how much is asked for, and a table for its figures.

`make torture` runs all, `make torture SLICE=1` what CI has the time for, `SEED=N` what an earlier run did. The figures
are printed at the end, and written to the file that `FIGURES` names.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

import pytest
import structlog

SLICE: Final = bool(os.environ.get("DCSYNC_TORTURE_SLICE"))
SEED: Final = int(os.environ.get("DCSYNC_TORTURE_SEED") or random.randrange(1 << 32))
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - with folders of our own
_IN_MEMORY: Final = "dcsync-torture-"
_FIGURES: Final = pytest.StashKey[list[tuple[str, str, str]]]()

T = TypeVar("T")
#: `figure("kill -9 at random", "100, nothing partial")` puts a line into the table.
Figure = Callable[[str, str], None]


def pytest_configure(config: pytest.Config) -> None:
    """Start the table."""
    config.addinivalue_line("markers", "last: runs when all the other torture is over, and looks at what it left")
    config.stash[_FIGURES] = []
    _clear_memory()


def pytest_report_header() -> str:
    """Print what replays this run."""
    return f"torture: {'slice' if SLICE else 'full'}, seed {SEED} (again: make torture SEED={SEED})"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put last what looks at everything that the others left."""
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)


def pick(full: T, part: T) -> T:
    """Return how many rounds to make, or which: `full`, or `part` in the slice that CI runs."""
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
def memory_path() -> Iterator[Path]:
    """Return a folder in memory, for what would otherwise spend its time on fsync."""
    with tempfile.TemporaryDirectory(prefix=f"{_IN_MEMORY}{os.getpid()}-", dir=_MEMORY) as folder:
        yield Path(folder)


def _clear_memory() -> None:
    """Remove what runs that were killed left in memory: their processes are gone."""
    for folder in _MEMORY.glob(f"{_IN_MEMORY}*"):
        process = folder.name.removeprefix(_IN_MEMORY).partition("-")[0]
        if process.isdigit() and not Path(f"/proc/{process}").exists():
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def quiet() -> Iterator[None]:
    """Log errors only: for what goes wrong a hundred thousand times."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("error"))
    yield
    structlog.reset_defaults()


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
    table = "\n".join(["| Test | Result | File |", "|---|---|---|", *rows])
    terminalreporter.section(f"torture, seed {SEED}, Python {sys.version.split()[0]}")
    terminalreporter.line(table)
    if path := os.environ.get("DCSYNC_TORTURE_FIGURES"):
        Path(path).write_text(table + "\n", encoding="utf-8")
