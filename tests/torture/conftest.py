"""What every torture gets: a seed that replays it, how much is asked for, and a table for its figures.

`make torture` runs all, `make torture SLICE=1` what CI has the time for, `SEED=N` what an earlier run did. The figures
are printed at the end, and written to the file that `FIGURES` names. With workers of pytest-xdist they travel to the
process that prints, in the reports of the tests.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final, TypeVar

import pytest
import structlog

from tests.rigs.canaries import leaks_in
from tests.rigs.hatchery import Hatchery, hatching

SLICE: Final = bool(os.environ.get("DCSYNC_TORTURE_SLICE"))
SEED: Final = int(os.environ.get("DCSYNC_TORTURE_SEED") or random.randrange(1 << 32))
# The workers of pytest-xdist use the same seed.
os.environ["DCSYNC_TORTURE_SEED"] = str(SEED)
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - with folders of our own
_IN_MEMORY: Final = "dcsync-torture-"
#: The figures of each test: what, the result, and the file.
_figures: Final[dict[str, list[list[str]]]] = {}
#: What a worker of pytest-xdist leaves when it has run all its tests.
_ENDED: Final = ".ended"
#: The name of the property with which a figure travels from a worker to the process that prints.
_FIGURE: Final = "torture figure"

T = TypeVar("T")
#: `figure("kill -9 at random", "100, nothing partial")` puts a line into the table.
Figure = Callable[[str, str], None]


def pytest_configure(config: pytest.Config) -> None:
    """Start the table."""
    config.addinivalue_line("markers", "last: runs when all the other torture is over, and looks at what it left")
    config.addinivalue_line("markers", "first: takes long, so it starts before the others when tests run side by side")
    _clear_memory()


def pytest_report_header() -> str:
    """Print what replays this run."""
    return f"torture: {'slice' if SLICE else 'full'}, seed {SEED} (again: make torture SEED={SEED})"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what takes long, and last what looks at everything that the others left."""
    items.sort(key=lambda item: (bool(item.get_closest_marker("last")), not item.get_closest_marker("first")))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the other workers that this one has run all its tests."""
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        (_left_by_all(session.config) / f"{worker}{_ENDED}").touch()


@pytest.fixture
def left_by_all(request: pytest.FixtureRequest) -> Path:
    """Return the folder with everything that the tests left, when all other workers have run all of theirs."""
    folder = _left_by_all(request.config)
    others = int(os.environ["PYTEST_XDIST_WORKER_COUNT"]) - 1 if "PYTEST_XDIST_WORKER" in os.environ else 0
    while len(list(folder.glob(f"*{_ENDED}"))) < others:
        time.sleep(0.1)  # noqa: TID251 - other processes' work
    return folder


def _left_by_all(config: pytest.Config) -> Path:
    """Return pytest's folder for files. With workers, it holds a folder for each of them."""
    own: Path = config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


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
    # Not by the node's ID, which names a group when tests run side by side.
    return random.Random(f"{SEED}/{_file_of(request.node)}::{request.node.name}")


def _file_of(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


@pytest.fixture(scope="session")
def hatcheries() -> Iterator[Callable[[], Hatchery]]:
    """Return what lends a hatchery: one for all tests, and another one after a test that was interrupted."""
    with ExitStack() as stack:
        made: list[Hatchery] = []

        def lend() -> Hatchery:
            # Its answer to the last question of that test would be taken for the answer to the next one.
            if not made or made[-1].is_asked:
                made.append(stack.enter_context(hatching()))
            return made[-1]

        yield lend


@pytest.fixture
def hatchery(hatcheries: Callable[[], Hatchery]) -> Hatchery:
    """Return what starts dcsync as a process that can be stopped anywhere."""
    return hatcheries()


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """Return a folder in memory, for what would otherwise spend its time on fsync. No secret may be left in it."""
    with tempfile.TemporaryDirectory(prefix=f"{_IN_MEMORY}{os.getpid()}-", dir=_MEMORY) as folder:
        yield Path(folder)
        assert leaks_in(Path(folder))[0] == []


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
        request.node.user_properties.append((_FIGURE, [what, result, _file_of(request.node)]))

    return note


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Take the figures of a test, from whichever process it ran in."""
    found = [[str(word) for word in value] for name, value in report.user_properties if name == _FIGURE]  # type: ignore[attr-defined]
    if report.when == "call" and found:
        _figures[report.nodeid] = found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, seed and all, and write it where FIGURES says."""
    # By file and test, in whichever order they ended.
    found = [row for _, rows in sorted(_figures.items()) for row in rows]
    rows = [f"| {what} | {result} | `{file}` |" for what, result, file in found]
    if not rows:
        return
    table = "\n".join(["| Test | Result | File |", "|---|---|---|", *rows])
    terminalreporter.section(f"torture, seed {SEED}, Python {sys.version.split()[0]}")
    terminalreporter.line(table)
    if path := os.environ.get("DCSYNC_TORTURE_FIGURES"):
        Path(path).write_text(table + "\n", encoding="utf-8")
