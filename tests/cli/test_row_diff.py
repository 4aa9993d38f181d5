"""`dcsync diff --rows`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from dcsync.errors import RowsFailed
from dcsync.rows import RowChange, TableChanges
from tests.cli.conftest import Dcsync
from tests.rigs.json_page import documented, written
from tests.rigs.served import Served

LONG = "x" * 200
BEFORE = {
    "a.csv": b"id,status,note\n1,open,\n2,open,x\n3,open,x\n",
    "bad.csv": b"id,v\n1,a\n2\n",
    "gone.csv": b"id\n1\n",
    "pairs.csv": b"k,v\n1,1\n1,1\n",
    "same.csv": b"id\n1\n",
    "activities_log.csv": b"id,at\n1,mon\n",
}
AFTER = {
    "a.csv": f'id,status,note,new\n1,closed,{LONG},n\n2,open,x,n\n4,open,"\x1b[2J",n\n'.encode(),
    "bad.csv": b"id,v\n1,b\n2,a\n",
    "pairs.csv": b"k,v\n1,1\n",
    "same.csv": b"id\n1\n",
    "activities_log.csv": b"id,at\n2,tue\n",
}


@pytest.fixture
def jobs(side: Served, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two published snapshots of one request."""
    monkeypatch.setenv("COLUMNS", "80")
    return add(side, dcsync, "Nightly")


def add(side: Served, dcsync: Dcsync, description: str) -> list[str]:
    world = side.sandbox.world
    request = world.add_request(description)
    made = [
        world.add_job(request, completed_at=datetime.now(UTC) - timedelta(days=days), files=files, with_archive=False)
        for days, files in ((1, BEFORE), (0, AFTER))
    ]
    assert dcsync("sync").status == 0
    return made


def test_it_shows_rows_by_key_within_the_width(jobs: list[str], dcsync: Dcsync) -> None:
    result = dcsync("diff", "--rows", "--table", "a", "--table", "pairs*")

    head, *lines = result.out.split("\n\n")
    assert result.status == 0
    assert head.splitlines()[2] == "2 tables differ"
    assert lines[0].splitlines() == [
        "a: 1 added, 1 removed, 1 changed (key: id)",
        "  columns: +new",
        "  changed: status 1, note 1",
        "  - id=3 status=open note=x",
        "  + id=4 status=open note=\\x1b[2J new=n",
        "  ~ id=1",
        "      status: open → closed",
        f"      note: (empty) → {'x' * 31}…",
    ]
    assert lines[1].splitlines() == [
        "pairs: 0 added, 1 removed, 0 changed (whole rows: no column is unique)",
        "  - k=1 v=1",
    ]
    assert max(map(len, "\n".join(lines).splitlines())) <= 80


def test_a_table_that_cannot_be_read_is_named_with_its_line_and_the_others_are_shown(
    jobs: list[str], dcsync: Dcsync
) -> None:
    result = dcsync("diff", "--rows")

    assert result.status == 3
    assert "bad: cannot be compared: acme/nightly-" in result.out
    assert "/bad.csv, line 3: it has 1 field and the header 2" in result.out
    assert "gone: 0 added, 1 removed, 0 changed (key: id)" in result.out
    assert "activities_log: 1 only in B, 1 only in A, 0 changed" in result.out
    assert "window table: each extract has only the rows of a period" in result.out
    assert "same" not in result.out


def test_json_has_all_rows_and_the_documented_keys(jobs: list[str], dcsync: Dcsync) -> None:
    result = dcsync("diff", "--rows", "--json")

    document = result.json
    assert result.status == 3
    assert set(written(document)) == documented("`dcsync diff --rows --json`") | {f"a.{key}" for key in document["a"]}
    tables = {table["name"]: table for table in document["tables"]}
    assert [(table["change"], table["kind"]) for table in (tables["gone.csv"], tables["activities_log.csv"])] == [
        ("removed", "full"),
        ("changed", "window"),
    ]
    assert tables["bad.csv"]["error"]["line"] == 3
    assert tables["bad.csv"]["error"]["path"].endswith("/bad.csv")
    assert tables["a.csv"]["rows"][2] == {
        "change": "changed",
        "key": {"id": "1"},
        "before": {"status": "open", "note": None},
        "after": {"status": "closed", "note": LONG},
    }
    # A program can read it line by line.
    assert sum('"change": "changed", "key"' in line for line in result.out.splitlines()) == 1


def test_the_limit_counts_each_kind_of_a_table(jobs: list[str], dcsync: Dcsync) -> None:
    none = dcsync("diff", "--rows", "--table", "a.csv", "--limit", "0")
    some = dcsync("diff", "--rows", "--table", "a.csv", "--limit", "1", "--json").json

    assert none.out.splitlines()[-1] == "  … 3 more rows: --limit N shows more, --json all"
    assert [row["change"] for row in some["tables"][0]["rows"]] == ["removed", "added", "changed"]


def test_snapshots_without_differing_rows_are_equal(jobs: list[str], dcsync: Dcsync) -> None:
    assert dcsync("diff", "--rows", "latest", "latest").out.splitlines()[2:] == ["no differences"]
    assert dcsync("diff", "--rows", "--table", "same").out.splitlines()[2:] == ["no differences"]
    assert dcsync("diff", "--rows", "latest", "latest", "--json").json["tables"] == []


def test_an_unknown_table_gets_a_suggestion(jobs: list[str], dcsync: Dcsync) -> None:
    result = dcsync("diff", "--rows", "--table", "activity_log")

    assert result.status == 2
    assert "no table is named 'activity_log'" in result.err
    assert "did you mean activities_log?" in result.err
    assert "code: C-TABLE" in result.err


@pytest.mark.parametrize("options", [("--table", "a"), ("--limit", "3")])
def test_options_of_rows_need_rows(jobs: list[str], dcsync: Dcsync, options: tuple[str, str]) -> None:
    result = dcsync("diff", *options)

    assert result.status == 2
    assert "--table and --limit need --rows" in result.err


def test_tables_that_the_retention_policy_removed_are_not_compared(
    jobs: list[str], side: Served, dcsync: Dcsync
) -> None:
    side.config.write_text(side.config.read_text() + "\n[keep]\nlast = 1\n")
    assert "1 reduced" in dcsync("prune").out

    result = dcsync("diff", "--rows", jobs[0], jobs[1])

    assert "lost its full tables to the retention policy: 4 files not compared" in result.out
    assert [line for line in result.out.splitlines() if line.startswith(("a:", "bad:"))] == []
    assert "activities_log: 1 only in B" in result.out


def test_a_table_that_vanished_from_the_disk_is_named(jobs: list[str], side: Served, dcsync: Dcsync) -> None:
    for path in side.root.rglob("*/a.csv"):
        path.unlink()

    result = dcsync("diff", "--rows", "--table", "a")

    assert result.status == 3
    assert "a: cannot be compared: reading acme/nightly-" in result.out
    assert "No such file or directory" in result.out


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the rows of the first table break off, as with a full disk."""
    rows, calls = TableChanges.rows, []

    def breaking(changes: TableChanges, limit: int | None = None) -> Iterator[RowChange]:
        calls.append(changes)
        for number, row in enumerate(rows(changes, limit)):
            if len(calls) == 1 and number:
                raise RowsFailed("the disk is full")
            yield row

    monkeypatch.setattr(TableChanges, "rows", breaking)


def test_json_whose_rows_break_off_is_still_json(jobs: list[str], dcsync: Dcsync, failing: None) -> None:
    result = dcsync("diff", "--rows", "--table", "a", "--table", "pairs*", "--json")

    first, second = result.json["tables"]
    assert (result.status, first["rows_error"], len(first["rows"])) == (3, "the disk is full", 1)
    assert (second["rows_error"], len(second["rows"])) == (None, 1)


def test_rows_that_break_off_stop_no_other_table(jobs: list[str], dcsync: Dcsync, failing: None) -> None:
    result = dcsync("diff", "--rows", "--table", "a", "--table", "pairs*")

    assert result.status == 3
    assert "the other rows cannot be read: the disk is full" in result.out
    assert "pairs: 0 added, 1 removed" in result.out


def test_the_key_of_the_schema_documents_is_used(side: Served, dcsync: Dcsync) -> None:
    world = side.sandbox.world
    request = world.add_request("Nightly")
    schema = b"<h1>admin Schema</h1><h2>roles</h2><table><tr><th>Column Name</th><th>Data Type</th><th>Constraints</th>"
    schema += b"</tr><tr><td>user</td><td>text</td><td>Primary Key</td></tr>"
    schema += b"<tr><td>project</td><td>text</td><td>Primary Key</td></tr></table>"
    for days, role in ((1, b"x"), (0, b"y")):
        files = {"admin_roles.csv": b"id,user,project,role\n1,a,p,%s\n2,a,q,x\n" % role, "schemas/admin.html": schema}
        completed = datetime.now(UTC) - timedelta(days=days)
        world.add_job(request, completed_at=completed, files=files, with_archive=False)
    dcsync("sync")

    (table,) = dcsync("diff", "--rows", "--json").json["tables"]

    assert (table["key"], table["key_source"]) == (["user", "project"], "schema")
    assert table["rows"][0]["key"] == {"user": "a", "project": "p"}
