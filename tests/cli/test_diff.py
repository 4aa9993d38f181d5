"""`dcsync diff`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.cli.conftest import Dcsync
from tests.rigs.served import Served

BEFORE = {"a.csv": b"id,name\n1,x\n", "same.csv": b"id\n1\n"}
AFTER = {"a.csv": b"name,mail\n1,x\n2,y\n", "same.csv": b"id\n1\n", "new.csv": b"id\n"}


@pytest.fixture
def jobs(side: Served, dcsync: Dcsync) -> list[str]:
    """Two published snapshots of one request."""
    world = side.sandbox.world
    request = world.add_request("Nightly")
    made = [
        world.add_job(request, completed_at=datetime.now(UTC) - timedelta(days=days), files=files, with_archive=False)
        for days, files in ((1, BEFORE), (0, AFTER))
    ]
    assert dcsync("sync").status == 0
    return made


def test_it_compares_the_last_two_snapshots(jobs: list[str], dcsync: Dcsync) -> None:
    result = dcsync("diff")

    lines = result.out.splitlines()
    assert result.status == 0
    assert lines[0].startswith("A: acme/nightly-")
    assert lines[0].endswith("  2 files, 2 rows, 17 B")
    assert lines[1].endswith("  3 files, 3 rows, 26 B")
    assert lines[2] == "2 tables and 0 other files differ, 1 are unchanged"
    assert [line.split("\t") for line in lines[4:]] == [
        ["file", "change", "rows A", "rows B", "row change", "bytes A", "bytes B", "columns"],
        ["a.csv", "changed", "1", "2", "+1", "12", "18", "+mail -id"],
        ["new.csv", "added", "-", "0", "-", "-", "3", ""],
    ]


def test_a_snapshot_against_itself_differs_in_nothing(jobs: list[str], dcsync: Dcsync) -> None:
    assert dcsync("diff", jobs[0], jobs[0][:8]).out.splitlines()[-1] == "no differences"


def test_json_has_the_documented_keys(jobs: list[str], dcsync: Dcsync) -> None:
    document = dcsync("diff", "--json", "previous", "latest").json

    assert document.keys() == {"a", "b", "not_compared", "unchanged", "tables", "other_files"}
    assert document["a"]["job"] == jobs[0]
    assert document["not_compared"] == []
    assert document["b"].keys() == {
        "account",
        "request",
        "job",
        "folder",
        "completed_at",
        "reduced",
        "files",
        "rows",
        "bytes",
    }
    assert document["tables"][0] == {
        "name": "a.csv",
        "change": "changed",
        "rows": {"a": 1, "b": 2},
        "bytes": {"a": 12, "b": 18},
        "columns": {"added": ["mail"], "removed": ["id"], "reordered": False},
    }
    assert document["tables"][1]["columns"] is None


def test_an_ambiguous_snapshot_is_exit_2_with_the_choices(jobs: list[str], side: Served, dcsync: Dcsync) -> None:
    request = side.sandbox.world.add_request("Other")
    side.sandbox.world.add_job(request, completed_at=datetime.now(UTC), files=AFTER, with_archive=False)
    dcsync("sync")

    result = dcsync("diff")

    assert result.status == 2
    assert "--account acme --request nightly-" in result.err
    assert "--account acme --request other-" in result.err
    assert "code: C-SNAPSHOT" in result.err
    assert dcsync("diff", "--request", "Nightly", "--account", "acme").status == 0


def test_an_account_that_is_not_configured_is_exit_2(jobs: list[str], dcsync: Dcsync) -> None:
    assert dcsync("diff", "--account", "nobody").status == 2


def test_after_a_run_the_report_and_the_views_are_there(jobs: list[str], side: Served) -> None:
    assert "Nightly" in (side.root / "index.html").read_text()
    assert 'history."a"' in (side.root / "views.sql").read_text()


def test_a_dry_run_writes_no_report(side: Served, dcsync: Dcsync) -> None:
    assert dcsync("sync", "--dry-run").status == 0
    assert not (side.root / "index.html").exists()


def test_lost_columns_are_a_warning(jobs: list[str], dcsync: Dcsync, side: Served) -> None:
    assert "L-COLUMNS" in (side.root / "index.html").read_text()
