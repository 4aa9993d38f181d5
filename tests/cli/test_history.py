"""`dcsync history`, and the histories that `dcsync sync` builds."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from tests.cli.conftest import Dcsync
from tests.rigs.served import Served


def switch_on(side: Served) -> None:
    side.config.write_text(side.config.read_text() + '\n[history]\ntables = ["*"]\nmemory = "256 MiB"\n')


def add_day(side: Served, body: bytes, *, days_ago: int, **more: bytes) -> None:
    world = side.sandbox.world
    request = next(iter(world.requests), None) or world.add_request("Nightly")
    files = {"admin_users.csv": body, **{f"{name}.csv": content for name, content in more.items()}}
    completed = datetime.now(UTC) - timedelta(days=days_ago)
    world.add_job(request, completed_at=completed, files=files, with_archive=False)


def folder_of(side: Served) -> Path:
    (found,) = side.root.glob("acme/*/history")
    return found


def test_sync_builds_the_histories(side: Served, dcsync: Dcsync) -> None:
    switch_on(side)
    add_day(side, b"id,name\n1,a\n", days_ago=2)
    add_day(side, b"id,name\n1,b\n", days_ago=1)
    assert dcsync("sync").status == 0

    path = folder_of(side) / "admin_users.parquet"
    assert duckdb.execute(f"SELECT name, _valid_to IS NULL FROM '{path}' ORDER BY _valid_from").fetchall() == [
        ("a", False),
        ("b", True),
    ]
    assert "admin_users.parquet" in (side.root / "views.sql").read_text()
    result = dcsync("history")
    assert (result.status, result.out) == (0, f"acme: {folder_of(side).relative_to(side.root)}: 1 table, up to date\n")


def test_what_is_there_already_is_caught_up(side: Served, dcsync: Dcsync) -> None:
    add_day(side, b"id\n1\n", days_ago=2, issues=b"id\n1\n")
    add_day(side, b"id\n2\n", days_ago=1, issues=b"id\n1\n")
    dcsync("sync")
    switch_on(side)

    assert dcsync("history", "--table", "admin_*").out.endswith("1 table, 2 new steps\n")
    assert dcsync("history").out.endswith("2 tables, 2 new steps\n")
    assert dcsync("history", "--request", "Other").out == ""


def test_a_table_that_cannot_be_read_is_exit_3_and_no_problem_of_sync(side: Served, dcsync: Dcsync) -> None:
    switch_on(side)
    add_day(side, b"id,name\n1\n", days_ago=1)
    assert dcsync("sync").status == 0
    result = dcsync("history")

    assert result.status == 3
    assert "admin_users.csv is left out: line 2: it has 1 field and the header 2" in result.err
    assert "[R-HISTORY]" in dcsync("status").out


def test_verify_proves_every_step_again_and_names_what_does_not_prove(side: Served, dcsync: Dcsync) -> None:
    switch_on(side)
    add_day(side, b"id,name\n1,a\n2,x\n", days_ago=2, activities=b"id\n1\n")
    add_day(side, b"id,name\n1,b\n2,x\n", days_ago=1, activities=b"id\n2\n")
    dcsync("sync")
    proved = dcsync("history", "--verify")
    assert (proved.status, proved.out.split(": ")[-1]) == (0, "4 steps proved\n")

    path = folder_of(side) / "admin_users.parquet"
    duckdb.execute(
        f"COPY (SELECT * REPLACE (CASE name WHEN 'a' THEN 'A' ELSE name END AS name) FROM '{path}') TO '{path}' "
        f"(KV_METADATA {{dcsync: '{_metadata(path)}'}})"
    )
    result = dcsync("history", "--verify")
    assert result.status == 3
    first, last = result.out.splitlines()
    assert "history/admin_users.parquet does not prove: " in first
    assert "/admin_users.csv: the snapshot has 2 rows with digest" in first
    assert last.endswith("3 steps proved, 1 not proved")
    assert "history/admin_users.parquet does not prove" in dcsync("status").out

    assert dcsync("history", "--rebuild").status == 0
    assert dcsync("history", "--verify").status == 0
    assert "R-HISTORY" not in dcsync("status").out


def test_a_delta_table_that_differs_from_a_full_extract_is_shown(side: Served, dcsync: Dcsync) -> None:
    switch_on(side)
    world, now = side.sandbox.world, datetime.now(UTC)
    for name, group, dates, body, days in (
        ("Changes", "cdcissues", "YESTERDAY", b"adsk_row_id,v\na,1\nb,2\n", 3),
        ("Full", "issues", None, b"adsk_row_id,v\na,1\nb,3\n", 2),
    ):
        request = world.add_request(name, service_groups=(group,), date_range=dates)
        files = {f"{group}_issues.csv": body}
        world.add_job(request, completed_at=now - timedelta(days=days), files=files, with_archive=False)
    assert dcsync("sync").status == 0
    text = "issues_issues.csv, 0 missing, 0 extra, 1 different"

    built, verified = dcsync("history"), dcsync("history", "--verify")
    assert (built.status, verified.status) == (0, 0)
    assert "cdcissues_issues.parquet: 1 row as in acme/full-" in built.err
    assert text in built.err
    assert text in verified.out
    found = json.loads(dcsync("history", "--verify", "--json").out)["requests"]
    (checked,) = [each for request in found for each in request["checked"]]
    assert (checked["table"], checked["equal"], checked["different"]) == ("cdcissues_issues", 1, 1)


def _metadata(path: Path) -> str:
    row = duckdb.execute(f"SELECT value FROM parquet_kv_metadata('{path}')").fetchone()
    assert row is not None
    return bytes(row[0]).decode()


def test_without_a_table_it_is_a_mistake(side: Served, dcsync: Dcsync) -> None:
    result = dcsync("history")

    assert result.status == 2
    assert 'tables = ["*"]' in result.err
    switch_on(side)
    assert dcsync("history", "--verify", "--rebuild").status == 2


def test_without_duckdb_no_command_begins(side: Served, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch) -> None:
    switch_on(side)
    add_day(side, b"id\n1\n", days_ago=1)
    monkeypatch.setitem(sys.modules, "duckdb", None)  # as if it were not installed

    for command in ("sync", "history"):
        result = dcsync(command)
        assert result.status == 2
        assert "the package duckdb, which is not installed" in result.err
        assert "[history]" in result.err
    assert list(side.root.glob("acme/*")) == []


def test_json(side: Served, dcsync: Dcsync) -> None:
    switch_on(side)
    add_day(side, b"id\n1\n", days_ago=2, bad=b"a,b\n1\n")
    dcsync("sync")
    (request,) = dcsync("history", "--json").json["requests"]

    assert request["new_steps"] == 0
    assert [(table["table"], table["steps"], table["rows"]) for table in request["tables"]] == [
        ("admin_users", 1, 1),
        ("bad", 0, None),
    ]
    assert "line 2: it has 1 field" in request["tables"][1]["problem"]
    (verified,) = dcsync("history", "--verify", "--json").json["requests"]
    assert (verified["proved"], verified["not_checked"], verified["unproved"]) == (1, 0, [])
    assert json.loads((folder_of(side) / "history.json").read_text())["format"] == 1


def test_a_name_that_matches_nothing_is_told(side: Served, dcsync: Dcsync) -> None:
    switch_on(side)
    add_day(side, b"id\n1\n", days_ago=1)
    dcsync("sync")

    table = dcsync("history", "--table", "nope*")
    request = dcsync("history", "--request", "nope")

    assert (table.status, request.status) == (2, 2)
    assert "no table with a row history matches --table 'nope*'" in table.err
    assert "no data request with a row history matches --request" in request.err


def test_a_history_that_cannot_be_read_is_not_called_up_to_date(side: Served, dcsync: Dcsync) -> None:
    switch_on(side)
    add_day(side, b"id\n1\n", days_ago=1)
    dcsync("sync")
    folder = folder_of(side)
    folder.rename(folder.with_name("away"))
    folder.write_bytes(b"")

    result = dcsync("history")

    assert result.status == 3
    assert result.out.endswith("history: 0 tables, not up to date\n")


def test_rows_that_no_snapshot_has_are_given_up_only_if_that_is_said(side: Served, dcsync: Dcsync) -> None:
    switch_on(side)
    side.config.write_text(side.config.read_text() + "\n[keep]\nlast = 1\n")
    for days_ago in (2, 1):
        add_day(side, b"id\n%d\n" % days_ago, days_ago=days_ago)
    dcsync("sync")
    dcsync("prune", "--force")
    path = folder_of(side) / "admin_users.parquet"
    path.unlink()

    for argv in ([], ["--rebuild"]):
        result = dcsync("history", *argv)
        assert result.status == 3
        assert "its file is missing, and no snapshot has the rows of 1 step (" in result.err
        assert f"restore {path.relative_to(side.root)} from a backup" in result.err
        assert not path.exists()
    assert "--accept-loss needs --rebuild" in dcsync("history", "--accept-loss").err
    result = dcsync("history", "--rebuild", "--accept-loss")
    assert (result.status, "1 table, 1 new step" in result.out) == (0, True)
    assert duckdb.execute(f"SELECT id FROM '{path}'").fetchall() == [("1",)]
