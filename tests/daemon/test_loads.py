"""The daemon loads after snapshots and row histories, retries at its time, and ends at once while it loads."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pydantic import JsonValue

from dcsync.app.fingerprints import fingerprints
from dcsync.cli.orders import works
from dcsync.errors import ExitStatus
from dcsync.orders import Order, connect, send
from tests.rigs.daemon import Rig, running
from tests.rigs.mirror import Mirror, add_extract
from tests.rigs.waiting import until

pytestmark = pytest.mark.timeout(240)


def target(folder: Path) -> Path:
    return folder / "target.duckdb"


def with_loads(mirror: Mirror) -> None:
    path = f"duckdb://{target(mirror.folder)}"
    mirror.config["history"] = {"tables": ["*"]}
    mirror.config["load"] = [
        {"to": path, "schema": "now"},
        {"to": f"{path}2", "name": "rows", "schema": "ever", "mode": "history"},
    ]
    mirror.config["hook"] = [
        {"on": ["failure", "alert"], "run": ["/bin/sh", "-c", f"cat >> {mirror.folder}/heard.jsonl"]}
    ]


def ask(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """Return the rows, or nothing without the table. Reads a copy, so that the daemon can open the file."""
    if not path.is_file():
        return []
    copy = path.with_name("copy.duckdb")
    copy.write_bytes(path.read_bytes())
    try:
        with duckdb.connect(str(copy), read_only=True) as connection:
            return [tuple(row) for row in connection.execute(sql).fetchall()]
    except duckdb.Error:
        return []


async def test_a_snapshot_is_loaded_soon_in_both_modes(tmp_path: Path) -> None:
    async with running(tmp_path, prepare=with_loads) as rig:
        for day in range(2):
            add_extract(rig.mirror, {"admin_users.csv": b"id\n%d\n" % day}, days_ago=2 - day)
        rig.service.poll_now()
        now, ever = target(tmp_path), Path(f"{target(tmp_path)}2")
        await until(lambda: ask(now, "SELECT id FROM now.admin_users") == [("1",)], "the latest rows")
        await until(lambda: len(ask(ever, "SELECT id FROM ever.admin_users")) == 2, "the history")
    assert rig.task.result() is ExitStatus.DONE


async def test_a_target_that_is_away_is_an_alert_and_retried_without_a_new_snapshot(tmp_path: Path) -> None:
    async with running(tmp_path, prepare=with_loads) as rig:
        target(tmp_path).mkdir()
        add_extract(rig.mirror, {"admin_users.csv": b"id\n1\n"})
        rig.service.poll_now()
        await until(lambda: _is_known(rig), "the failure")
        target(tmp_path).rmdir()
        # The load waits for its next try a moment after its failure is known.
        while ask(target(tmp_path), "SELECT id FROM now.admin_users") != [("1",)]:
            await rig.pass_time(minutes=2)
        await until(lambda: not _is_known(rig), "the end of the alert")


def _is_known(rig: Rig) -> bool:
    """Say whether the failure is an alert."""
    with closing(sqlite3.connect(f"file:{rig.mirror.state}/manifest.sqlite?mode=ro", uri=True)) as manifest:
        return "R-LOAD" in str(manifest.execute("SELECT value FROM meta WHERE key = 'broken:'").fetchall())


async def test_a_command_orders_a_load(tmp_path: Path) -> None:
    async with running(tmp_path, prepare=with_loads, works=works()) as rig:
        add_extract(rig.mirror, {"admin_users.csv": b"id\n1\n"})
        rig.service.poll_now()
        await until(lambda: ask(target(tmp_path), "SELECT id FROM now.admin_users"), "the load")
        connection = connect(tmp_path / "state")
        assert connection is not None
        options: dict[str, JsonValue] = {"names": ["main"], "is_full": True, "is_dry": False, "as_json": False}
        order = Order(
            name="load", options=options, root=str(rig.mirror.root), config=fingerprints(rig.mirror.configuration())
        )
        answer = await send(connection, order, waits=lambda _: None, progressed=lambda _event, _values: None)

    assert [line.text for line in answer.lines] == [f"main: duckdb://{target(tmp_path)}: 1 table loaded with 1 row\n"]
