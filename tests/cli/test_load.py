"""`dcsync load` and `dcsync load status`, into a DuckDB file, and the loads after `dcsync sync`."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.cli.conftest import Dcsync
from tests.rigs.json_page import documented, written
from tests.rigs.served import Served

pytestmark = pytest.mark.timeout(240)


def target(side: Served) -> Path:
    return side.folder / "target.duckdb"


def switch_on(side: Served, *lines: str, history: bool = False) -> None:
    load = ["", "[[load]]", f'to = "duckdb://{target(side)}"', *lines, ""]
    section = ["", "[history]", 'tables = ["*"]', 'memory = "256 MiB"'] if history else []
    side.config.write_text(side.config.read_text() + "\n".join([*section, *load]))


def add_day(side: Served, body: bytes, *, days_ago: int = 0, **more: bytes) -> str:
    world = side.sandbox.world
    request = next(iter(world.requests), None) or world.add_request("Nightly")
    files = {"admin_users.csv": body, **{f"{name}.csv": content for name, content in more.items()}}
    completed = datetime.now(UTC) - timedelta(days=days_ago, minutes=1)
    return world.add_job(request, completed_at=completed, files=files, with_archive=False)


def ask(side: Served, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(target(side)), read_only=True) as connection:
        return [tuple(row) for row in connection.execute(sql).fetchall()]


def test_sync_loads_and_the_command_finds_nothing_to_do(side: Served, dcsync: Dcsync) -> None:
    switch_on(side)
    job = add_day(side, b"id,name\n1,a\n2,b\n", roles=b"id\n7\n")
    assert dcsync("sync").status == 0

    assert ask(side, "SELECT * FROM dcsync.admin_users ORDER BY id") == [("1", "a"), ("2", "b")]
    assert ask(side, "SELECT DISTINCT job FROM dcsync._dcsync_loads") == [(job,)]
    result = dcsync("load")
    assert (result.status, result.err) == (0, "")
    assert result.out == f"main: duckdb://{target(side)}: 0 tables loaded, 2 unchanged\n"
    assert f"load:  main: duckdb://{target(side)}, last load" in dcsync("status").out


def test_a_dry_run_says_what_a_load_would_do(side: Served, dcsync: Dcsync) -> None:
    add_day(side, b"id,name\n1,a\n", days_ago=1, roles=b"id\n7\n", activities_x=b"id\n1\n")
    dcsync("sync")
    switch_on(side)
    dry = dcsync("load", "--dry-run")
    assert not target(side).exists() or ask(side, "SELECT table_name FROM duckdb_tables()") == []
    assert dry.status == 0
    lines = {line.split(": ")[1]: line.split(": ", 2)[2] for line in dry.out.splitlines()}
    assert lines["admin_users"].startswith("load 1 row (job ")
    assert lines["activities_x"].startswith(
        "left out: it is a window table: one snapshot has only the rows of a period"
    )

    assert dcsync("load").out.endswith("2 tables loaded with 2 rows, 1 left out (dcsync load status)\n")
    job = add_day(side, b"id,name\n2,b\n", roles=b"id\n7\n", activities_x=b"id\n1\n")
    side.config.write_text(side.config.read_text().replace("[[load]]", "[[load]]\nname = 'w'"))
    dcsync("sync")
    assert f"roles: up to date (job {job})" in dcsync("load", "--dry-run").out
    assert dcsync("load", "w", "--full").out.endswith("2 tables loaded with 2 rows, 1 left out (dcsync load status)\n")


def test_the_history_is_loaded_after_it_is_built(side: Served, dcsync: Dcsync) -> None:
    switch_on(side, 'mode = "history"', history=True)
    for days_ago, body in ((2, b"id,name\n1,a\n"), (1, b"id,name\n1,b\n")):
        add_day(side, body, days_ago=days_ago, activities_x=b"id\n%d\n" % days_ago)
        assert dcsync("sync").status == 0

    rows = "SELECT name, _valid_to IS NULL FROM dcsync.admin_users ORDER BY _valid_from"
    assert ask(side, rows) == [("a", False), ("b", True)]
    assert ask(side, "SELECT count(*) FROM dcsync.activities_x WHERE _first_seen IS NOT NULL") == [(2,)]


def test_a_target_that_cannot_be_used_is_exit_3_and_no_problem_of_sync(side: Served, dcsync: Dcsync) -> None:
    switch_on(side)
    target(side).mkdir()
    add_day(side, b"id\n1\n")
    assert dcsync("sync").status == 0

    result = dcsync("load")
    assert result.status == 3
    assert result.err.startswith(f"main: duckdb://{target(side)}: ")
    status = dcsync("status", "--check")
    assert "[R-LOAD] the load main into duckdb://" in status.out
    assert status.status == 3
    shown = dcsync("load", "status")
    assert (shown.status, "next try" in shown.out) == (3, True)
    (check,) = [each for each in dcsync("doctor", "--json").json["checks"] if each["name"] == "load"]
    assert check["level"] == "warn"

    target(side).rmdir()
    assert dcsync("load").status == 0
    assert "R-LOAD" not in dcsync("status").out
    (check,) = [each for each in dcsync("doctor", "--json").json["checks"] if each["name"] == "load"]
    assert (check["level"], check["message"]) == ("ok", f"main: duckdb://{target(side)}")
    assert dcsync("load", "status").status == 0


def test_names_that_are_no_loads_are_refused(side: Served, dcsync: Dcsync) -> None:
    none = dcsync("load")
    assert (none.status, "the configuration has no [[load]]" in none.err) == (2, True)
    switch_on(side)

    unknown = dcsync("load", "other")

    assert (unknown.status, "the configuration has no load 'other'" in unknown.err) == (2, True)
    assert "the loads are: main" in unknown.err
    assert dcsync("load", "status", "--full").status == 2


def test_the_json_has_the_documented_keys(side: Served, dcsync: Dcsync) -> None:
    switch_on(side)
    add_day(side, b"id\n1\n", activities_x=b"id\n1\n")
    dcsync("sync")

    loads, states = dcsync("load", "--json").json, dcsync("load", "--json", "status").json

    assert set(written(loads)) == documented("`dcsync load --json`")
    in_status = {f"loads[].{key}" for key in dcsync("status", "--json").json["loads"][0]}
    assert in_status == {path for path in documented("`dcsync status --json`") if path.startswith("loads[].")}
    assert set(written(states)) == documented("`dcsync load status --json`")
    (load,) = loads["loads"]
    assert {each["table"]: each["action"] for each in load["tables"]} == {"activities_x": "skip", "admin_users": "keep"}
    (state,) = states["loads"]
    assert [each["rows"] for each in state["tables"] if each["table"] == "admin_users"] == [1]


def test_a_secret_that_is_missing_is_told_without_a_traceback(side: Served, dcsync: Dcsync) -> None:
    side.config.write_text(side.config.read_text() + '\n[[load]]\nto = "env:NO_SUCH_VARIABLE"\n')
    add_day(side, b"id\n1\n")
    assert dcsync("sync").status == 0

    result = dcsync("load")

    assert result.status == 3
    assert result.err.startswith("main: the target: the environment variable NO_SUCH_VARIABLE is not set")


@pytest.mark.parametrize(
    ("password", "said_instead"),
    [
        ("hunter2-canary", "main: postgresql://127.0.0.1:9/acc: "),
        ("x@hunter2-canary", "has a port that is not a number, or a user or password with a special character"),
        ("1/hunter2-canary", "has a port that is not a number, or a user or password with a special character"),
    ],
)
def test_a_password_in_an_address_is_shown_nowhere(
    side: Served, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch, password: str, said_instead: str
) -> None:
    monkeypatch.setenv("LOAD_TO", f"postgresql://dcsync:{password}@127.0.0.1:9/acc")
    side.config.write_text(side.config.read_text() + '\n[[load]]\nto = "env:LOAD_TO"\n')
    add_day(side, b"id\n1\n")

    said = [dcsync(*words) for words in (("sync",), ("load",), ("load", "status"), ("status",), ("doctor",))]

    assert "hunter2" not in json.dumps([[each.out, each.err] for each in said])
    assert said_instead in said[1].err
    files = [path for folder in (side.root, side.state) for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if b"hunter2" in path.read_bytes()]


@pytest.mark.parametrize("address", ["sqlite://{}/target.db", "file://{}/parquet"])
def test_other_targets(side: Served, dcsync: Dcsync, address: str) -> None:
    to = address.format(side.folder)
    (side.folder / "parquet").mkdir()
    side.config.write_text(f'{side.config.read_text()}\n[[load]]\nto = "{to}"\n')
    add_day(side, b"id,name\n1,a\n2,b\n")
    dcsync("sync")

    result = dcsync("load")
    assert (result.out, result.err) == (f"main: {to}: 0 tables loaded, 1 unchanged\n", "")
    parquet = side.folder / "parquet/dcsync/admin_users.parquet"
    with duckdb.connect() if to.startswith("file") else closing(sqlite3.connect(side.folder / "target.db")) as reader:
        source = f"'{parquet}'" if to.startswith("file") else "admin_users"
        assert reader.execute(f"SELECT name FROM {source} ORDER BY id").fetchall() == [("a",), ("b",)]
