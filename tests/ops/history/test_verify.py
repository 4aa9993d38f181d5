"""The proof of row histories finds rows that are missing, changed, or too many, in each kind of table."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import duckdb
import pytest

from dcsync.app.from_config import account_settings
from dcsync.core.retention import KeepPolicy
from dcsync.errors import RowsUnproved
from dcsync.ops.history import statements
from dcsync.ops.history.catch_up import verify
from dcsync.ops.history.prove import prove_counts
from dcsync.ops.history.statements import Sources
from dcsync.ops.history.verify import Verified
from tests.rigs.histories import ALL, add_day, build, folder_of
from tests.rigs.mirror import Mirror
from tests.rigs.prunings import pruned

FULL, WINDOW = "admin_users", "activities_admin"


async def mirrored(mirror: Mirror, days: int = 2) -> None:
    """Mirror some days of a table of each kind, and build their histories."""
    for day in range(days):
        files = {
            f"{FULL}.csv": f"id,v\n1,{day}\n2,x\n".encode(),
            f"{WINDOW}.csv": f"id,v\n1,{day}\n2,x\n2,x\n".encode(),
        }
        await add_day(mirror, files, days_ago=days + 2 - day)
    await build(mirror)


async def proved(mirror: Mirror, *, notices_missing: bool = True) -> Verified:
    async with mirror.opened(notices_missing=notices_missing) as context:
        (found,) = await verify(context, account_settings(mirror.configuration()), ALL)
    return found


def rewrite(path: Path, query: str) -> None:
    """Replace the rows of a history, and keep what it says about its steps."""
    (metadata,) = duckdb.execute(f"SELECT value FROM parquet_kv_metadata('{path}')").fetchall()[0]
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE t AS {query.format(path=path)}")
        connection.execute(f"COPY t TO '{path}' (FORMAT parquet, KV_METADATA {{dcsync: '{bytes(metadata).decode()}'}})")


async def test_every_step_is_proved(mirror: Mirror) -> None:
    await mirrored(mirror)
    found = await proved(mirror)

    assert (found.proved, found.gone, found.unproved) == (4, 0, [])


@pytest.mark.parametrize(
    ("table", "query"),
    [
        (FULL, "SELECT * FROM '{path}' WHERE v <> '0'"),
        (FULL, "SELECT * REPLACE (replace(v, '0', '7') AS v) FROM '{path}'"),
        (FULL, "SELECT * FROM '{path}' UNION ALL SELECT * FROM '{path}' WHERE v = '0'"),
        (
            FULL,
            "SELECT * REPLACE (coalesce(v, 'y') AS v, _valid_from + INTERVAL 1 SECOND AS _valid_from) FROM '{path}'",
        ),
        (WINDOW, "SELECT * FROM '{path}' WHERE v <> '0'"),
        (WINDOW, "SELECT DISTINCT * FROM '{path}'"),
    ],
)
async def test_a_change_of_the_file_does_not_prove(mirror: Mirror, table: str, query: str) -> None:
    await mirrored(mirror)
    rewrite(folder_of(mirror) / f"{table}.parquet", query)
    found = await proved(mirror)

    assert {each.table for each in found.unproved} == {table}
    # Those of a window table are compared with what its steps recorded, before a snapshot is read.
    assert found.unproved[0].path.endswith(f"{table}.csv" if table == FULL else f"history/{table}.parquet")
    assert "rows" in found.unproved[0].reason


async def test_a_column_that_the_history_lacks_does_not_prove(mirror: Mirror) -> None:
    await mirrored(mirror)
    path = mirror.snapshots()[0] / f"{FULL}.csv"
    path.chmod(0o644)
    path.write_bytes(b"id,v,w\n1,0,\n2,x,\n")
    (unproved,) = (await proved(mirror)).unproved

    assert "columns" in unproved.reason


async def test_a_table_that_is_missing_or_damaged_does_not_prove(mirror: Mirror) -> None:
    await mirrored(mirror, days=2)
    first, second = mirror.snapshots()
    (first / f"{FULL}.csv").unlink()
    damaged = second / f"{FULL}.csv"
    damaged.chmod(0o644)
    damaged.write_bytes(b"id,v\n1\n")
    found = await proved(mirror, notices_missing=False)

    assert [each.table for each in found.unproved] == [FULL, FULL]
    assert "line 2: it has 1 field" in found.unproved[1].reason


async def test_a_history_that_cannot_be_read_does_not_prove(mirror: Mirror) -> None:
    await mirrored(mirror)
    (folder_of(mirror) / f"{FULL}.parquet").write_bytes(b"PAR1")
    (unproved,) = (await proved(mirror)).unproved

    assert (unproved.table, unproved.job) == (FULL, None)
    assert unproved.path.endswith(f"history/{FULL}.parquet")


async def test_steps_whose_snapshots_are_gone_are_counted(mirror: Mirror) -> None:
    for day in range(2):
        await add_day(mirror, {f"{FULL}.csv": f"id\n{day}\n".encode()}, days_ago=2 - day)
    await build(mirror)
    await pruned(mirror, KeepPolicy(last=1))
    found = await proved(mirror)

    assert (found.proved, found.gone, found.unproved) == (1, 1, [])


def test_a_step_that_loses_rows_of_the_file_is_not_proved() -> None:
    prove_counts(2, 3, 5)
    with pytest.raises(RowsUnproved, match="2 rows, and after 3 more it has 4"):
        prove_counts(2, 3, 4)


async def test_a_step_that_changes_rows_of_earlier_windows_is_not_taken(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mirrored(mirror)
    before = (folder_of(mirror) / f"{WINDOW}.parquet").read_bytes()
    write = statements.write

    def changed(sources: Sources, moment: datetime, *, copies: bool) -> str:
        sql = write(sources, moment, copies=copies)
        return f"SELECT * REPLACE (CASE WHEN v = '0' THEN '7' ELSE v END AS v) FROM ({sql})"

    monkeypatch.setattr(statements, "write", changed)
    await add_day(mirror, {f"{WINDOW}.csv": b"id,v\n9,9\n"})
    report = await build(mirror)

    assert [failed.reason for failed in report.requests[0].outcome.failed] == [
        "the step would change rows of earlier steps"
    ]
    assert (folder_of(mirror) / f"{WINDOW}.parquet").read_bytes() == before
