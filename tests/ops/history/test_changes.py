"""The rows that changed on the newest day, for the report."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dcsync.core.row_changes import RowChanges, RowCounts, parse_changes
from dcsync.ops.context import HistorySettings
from tests.rigs.histories import ALL, add_day, alerts, build, folder_of
from tests.rigs.mirror import Mirror, mirroring

BEFORE = {
    "admin_projects.csv": b"id,name\n1,Tower A\n2,Tower B\n",
    "admin_users.csv": b"id,name,email\n1,Ana,a@x\n",
    "bad.csv": b"id\n1\n",
    "same.csv": b"id\n1\n",
    "activities_log.csv": b"id\n1\n",
    "gone.csv": b"id\n1\n",
}
AFTER = {
    "admin_projects.csv": b"id,name\n2,Tower B2\n3,Tower C\n4,Depot\n",
    "admin_users.csv": b"id,name,email\n1,Ana,b@x\n",
    "bad.csv": b"id\n\xff\n",
    "same.csv": b"id\n1\n",
    "activities_log.csv": b"id\n2\n",
    "new.csv": b"id\n1\n",
}


@pytest.fixture
async def mirror(tmp_path: Path) -> AsyncIterator[Mirror]:
    async with mirroring(tmp_path) as mirror:
        yield mirror


def changes_of(mirror: Mirror) -> RowChanges:
    return parse_changes(json.loads((folder_of(mirror) / "changes.json").read_bytes()))


async def test_the_rows_of_full_tables_are_counted_and_projects_named(mirror: Mirror) -> None:
    before = await add_day(mirror, BEFORE, days_ago=1)
    after = await add_day(mirror, AFTER)
    await build(mirror)

    found = changes_of(mirror)

    assert (found.job, found.against, found.wanted) == (after, before, ("*",))
    assert found.tables == {
        "admin_projects.csv": RowCounts(
            added=2, removed=1, changed=1, added_names=("Tower C", "Depot"), removed_names=("Tower A",)
        ),
        "admin_users.csv": RowCounts(added=0, removed=0, changed=1),
    }


async def test_they_are_counted_once_for_a_day(mirror: Mirror) -> None:
    await add_day(mirror, BEFORE, days_ago=2)
    await add_day(mirror, AFTER, days_ago=1)
    await build(mirror)
    path = folder_of(mirror) / "changes.json"
    first = path.stat().st_ino
    await build(mirror)
    again = path.stat().st_ino
    job = await add_day(mirror, BEFORE)
    await build(mirror)

    assert again == first
    assert changes_of(mirror).job == job
    assert changes_of(mirror).tables["admin_projects.csv"].removed_names == ("Tower C", "Depot")


async def test_only_configured_tables_are_counted(mirror: Mirror) -> None:
    await add_day(mirror, BEFORE, days_ago=1)
    await add_day(mirror, AFTER)
    await build(mirror, HistorySettings(tables=("admin_users",), memory=ALL.memory))

    assert list(changes_of(mirror).tables) == ["admin_users.csv"]
    await build(mirror)
    assert "admin_projects.csv" in changes_of(mirror).tables


async def test_one_snapshot_has_no_changes(mirror: Mirror) -> None:
    await add_day(mirror, BEFORE)
    await build(mirror)

    assert not (folder_of(mirror) / "changes.json").exists()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"format": 2}', b"\xff"])
async def test_a_damaged_file_is_written_again(mirror: Mirror, body: bytes) -> None:
    await add_day(mirror, BEFORE, days_ago=1)
    await add_day(mirror, AFTER)
    await build(mirror)
    (folder_of(mirror) / "changes.json").write_bytes(body)
    await build(mirror)

    assert len(changes_of(mirror).tables) == 2


async def test_a_file_that_cannot_be_written_stops_nothing(mirror: Mirror) -> None:
    await add_day(mirror, BEFORE, days_ago=1)
    await build(mirror)
    (folder_of(mirror) / "changes.json").mkdir()
    (folder_of(mirror) / "changes.json/x").touch()
    await add_day(mirror, AFTER)
    report = await build(mirror)

    assert report.requests[0].outcome.steps > 0
    (alert,) = [each for each in await alerts(mirror) if not each.subject.endswith("/bad")]
    assert "/changes.json: Is a directory" in alert.message
    assert (folder_of(mirror) / "changes.json").is_dir()


async def test_the_report_shows_them(mirror: Mirror) -> None:
    mirror.config["history"] = {"tables": ["*"], "memory": "256 MiB"}
    hostile = b"id,name\n1,Tower A\n9,<script>alert(1)</script>\n"
    await add_day(mirror, {"admin_projects.csv": b"id,name\n1,Tower A\n"}, days_ago=1)
    await add_day(mirror, {"admin_projects.csv": hostile})
    await mirror.run()
    without = (mirror.root / "index.html").read_text()
    await build(mirror)
    await mirror.run()
    shown = (mirror.root / "index.html").read_text()

    assert "1 project added" not in without
    assert "1 project added: &lt;script&gt;alert(1)&lt;/script&gt;" in shown
    assert "<script>alert(1)" not in shown
    assert "+1 (1 added)</td>" in shown
