"""Loads through dlt's pipelines, as into SQL Server or Snowflake. DuckDB stands for them here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from dcsync.core.loads import NewColumn
from dcsync.errors import LoadFailed, LoadRefused, TargetUnusable, ValueRefused
from dcsync.load import Way, opened
from dcsync.load.pipeline import PipelineTarget
from dcsync.load.target import Options
from tests.rigs.loads import DATASET, latest, shows

USERS = b'id,Name,note\n1,Ada,""\n2,"Grace ""H""",\n'
TYPES = {"id": "BIGINT", "day": "DATE", "ok": "BOOLEAN", "cost": "DECIMAL(12, 2)", "share": "DOUBLE"}


@contextmanager
def pipeline(folder: Path) -> Iterator[PipelineTarget]:
    work = folder / "work"
    work.mkdir(exist_ok=True)
    options = Options(address=f"duckdb:///{folder}/rows.db", dataset=DATASET, work=work, memory=128 << 20)
    with PipelineTarget(options, "duckdb") as target:
        yield target


def rows(folder: Path, columns: str, table: str = "users") -> list[tuple[object, ...]]:
    with duckdb.connect(f"{folder}/rows.db", read_only=True) as connection:
        return [tuple(row) for row in connection.sql(f"SELECT {columns} FROM rows.acc.{table} ORDER BY 1").fetchall()]


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo the settings of dlt, which are in the environment."""
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "true")
    monkeypatch.setenv("RUNTIME__LOG_LEVEL", "INFO")


def test_a_table_has_the_rows_names_and_types_of_the_newest_snapshot(tmp_path: Path) -> None:
    body = b"id,day,ok,cost,share,Other\n7,2026-11-02,true,12.50,0.25,007\n8,,,,,\n"
    with pipeline(tmp_path) as target:
        assert target.shown() == {}
        assert latest(target, tmp_path, USERS, types=TYPES).shown.rows == 2
        latest(target, tmp_path, body, day=2, types=TYPES)
        assert latest(target, tmp_path, USERS, day=1).way is Way.ALREADY
        target.mark([shows(body, day=3), shows(b"others", table="others")])
        with pytest.raises(LoadRefused, match="new column: mail"):
            latest(target, tmp_path, b"id,mail\n1,2\n", day=4, on_new_column=NewColumn.STOP)
        with pytest.raises(ValueRefused, match="'x' is not a BIGINT"):
            latest(target, tmp_path, b"id\nx\n", day=4, types=TYPES)
        with pytest.raises(LoadFailed, match="1 rows of 5"):
            latest(target, tmp_path, b"id\n1\n", day=4, rows=5)
        found = target.shown()
    assert {name: (row.job, row.rows) for name, row in found.items()} == {"users": ("job-3", 2)}
    assert rows(tmp_path, 'id, day, ok, cost, share, "Other"') == [
        (7, date(2026, 11, 2), True, Decimal("12.50"), 0.25, "007"),
        (8, None, None, None, None, None),
    ]


def test_a_database_whose_packages_are_missing_is_named(tmp_path: Path) -> None:
    address = "snowflake://user:canary-secret@account/acc"
    with opened(address, dataset=DATASET, work=tmp_path, memory=1) as target, pytest.raises(TargetUnusable) as caught:
        target.shown()
    assert "dlt[snowflake]" in caught.value.advice
    assert "canary-secret" not in f"{caught.value}{caught.value.advice}"


def test_a_database_whose_packages_are_missing_is_named_with_the_command(tmp_path: Path) -> None:
    target = opened("mssql://user@host/database", dataset="acc", work=tmp_path, memory=1)
    with pytest.raises(TargetUnusable, match="dlt lacks packages for mssql") as caught, target, target.failing(""):
        raise ImportError("pyodbc")
    assert "pipx inject data-connector-mirror 'dlt[mssql]'" in caught.value.advice
