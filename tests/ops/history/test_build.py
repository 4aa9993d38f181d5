"""Builds on disks that are full, by processes that end in the middle, and beside others."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dcsync.core.row_history import TableHistory
from dcsync.core.table import TableKind
from dcsync.errors import DcsyncError
from dcsync.ops.history.build import Outcome
from tests.rigs.folders import small_disk
from tests.rigs.histories import build_plain
from tests.rigs.row_histories import incompressible

SMALL = b"id\n1\n"
LARGE = incompressible()


def table(outcome: Outcome, name: str) -> TableHistory:
    return outcome.state.tables[name]


@pytest.mark.parametrize("reserve", [0, 1 << 30])
def test_a_full_disk_leaves_the_old_file_and_other_tables_advance(tmp_path: Path, reserve: int) -> None:
    with small_disk(tmp_path / "mirror", "size=4m") as root:
        build_plain(root, {"a": [SMALL], "z": [SMALL]})
        old = (root / "acme/r/history/a.parquet").read_bytes()
        outcome = build_plain(root, {"a": [SMALL, LARGE], "z": [SMALL, b"id\n2\n"]}, reserve=reserve)

        assert [failed.table for failed in outcome.failed] == (["a"] if reserve == 0 else ["a", "z"])
        assert ("No space left" if reserve == 0 else "mirror.min_free") in outcome.failed[0].reason
        assert (root / "acme/r/history/a.parquet").read_bytes() == old
        assert len(table(outcome, "z").steps) == (2 if reserve == 0 else 1)
        assert not list((root / ".dcsync/history").rglob("*.parquet"))
        # It is looked at again, because nothing waits for another extract.
        assert (table(outcome, "a").waits, outcome.state.jobs) == (None, ("job-0",))


_CRASHING = """
import resource, signal, sys
from pathlib import Path
from tests.rigs.histories import build_plain
from tests.rigs.row_histories import incompressible
limit = 500_000
build_plain(Path(sys.argv[1]), {"a": [incompressible()], "z": [b"id\\n1\\n"]}, progressed=lambda *_: (
    # The kernel ends a process that writes a longer file.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL),
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
))
"""


def test_a_table_that_ends_the_process_twice_waits_and_ends_no_other_start(tmp_path: Path) -> None:
    root = tmp_path / "mirror"
    root.mkdir()
    for _ in range(2):
        ended = crash(root)
        assert ended.returncode == -signal.SIGXFSZ, ended.stderr
        assert (root / ".dcsync/history/r/crashes.json").exists()

    outcome = build_plain(root, {"a": [LARGE], "z": [SMALL]})
    wait = table(outcome, "a").waits
    assert wait is not None
    assert wait.reason == "dcsync ended 2 times while it read this table"
    assert len(table(outcome, "z").steps) == 1

    # `dcsync history` tries it again, and so does the next extract.
    assert len(table(build_plain(root, {"a": [LARGE]}, retries=True), "a").steps) == 1
    assert not list(root.rglob("crashes.json"))


def crash(root: Path) -> subprocess.CompletedProcess[str]:
    """Build in a process that the kernel ends while it writes."""
    return subprocess.run(
        [sys.executable, "-c", _CRASHING, str(root)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_table_of_which_an_extract_suddenly_has_other_rows_waits(tmp_path: Path) -> None:
    kinds = [TableKind.FULL, TableKind.WINDOW, None]
    outcome = build_plain(tmp_path, {"a": [SMALL, b"id\n2\n", b"id\n3\n"]}, kinds=kinds)
    found = table(outcome, "a")

    assert len(found.steps) == 1
    assert [each.reason for each in found.omitted] == ["it was a full table before, and is now window"]
    assert found.waits is not None
    assert found.waits.reason == "it was a full table before, and is now unknown"


def test_a_table_of_unknown_kind_has_no_history(tmp_path: Path) -> None:
    outcome = build_plain(tmp_path, {"a": [SMALL], "b": [SMALL]}, kinds=[None])

    assert [failed.table for failed in outcome.failed] == ["a", "b"]
    assert "not known which rows" in outcome.failed[0].reason


def test_something_else_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "acme/r").mkdir(parents=True)
    (tmp_path / "acme/r/history").write_bytes(b"")
    with pytest.raises(DcsyncError, match="history"):
        build_plain(tmp_path, {"a": [SMALL]})
