"""Compare the rows of a delta table with those of a full extract of the same table. Blocks.

A delta extract may lag behind, and its history has only the rows that changed since it began. A difference is thus
recorded, and not an error.
"""

from __future__ import annotations

from collections.abc import Sequence

from dcsync.core.delta_check import step_at
from dcsync.core.row_history import DELETED_AT, KEY, Check, Extract, TableHistory
from dcsync.core.sql import identifier
from dcsync.ops.history.statements import valid_at
from dcsync.ops.history.steps import parquet
from dcsync.rows import CsvTable, Engine

#: The columns by which rows are paired, if both tables have one. Full tables may lack the first.
_KEYS = (KEY, "id")
_DROP = "DROP TABLE IF EXISTS delta_rows; DROP TABLE IF EXISTS full_rows"
_UNIQUE = "SELECT count(*) = count(DISTINCT k) FROM {table}"
_COMPARE = """
SELECT count(*) FILTER (d.h = f.h), count(*) FILTER (d.k IS NULL), count(*) FILTER (f.k IS NULL),
       count(*) FILTER (d.h <> f.h)
  FROM delta_rows d FULL JOIN full_rows f ON d.k = f.k
"""


def compare(engine: Engine, history: TableHistory, file: int, full: Extract, table: CsvTable) -> Check | None:
    """Compare the Parquet file of a delta table with an open full table.

    Returns None without a step before it, or without a column that is unique and never empty in both. Raises
    `RowsUnreadable` and `RowsFailed`.
    """
    step = step_at(history, full.time)
    there = {name.casefold(): name for name in table.columns}
    common = [] if step is None else [name for name in step.columns if name.casefold() in there]
    key = next((name for wanted in _KEYS for name in common if name.casefold() == wanted), None)
    if step is None or key is None:
        return None
    engine.run(_DROP)
    try:
        where = valid_at(history.kind, step.time)
        engine.run(f"CREATE TEMP TABLE delta_rows AS {_rows(parquet(file), where, key, common)}")
        names = [there[name.casefold()] for name in common]
        deleted = there.get(DELETED_AT)
        live = "true" if deleted is None else f"coalesce({identifier(deleted)}, '') = ''"
        with table.reading():
            engine.run(f"CREATE TEMP TABLE full_rows AS {_rows(table.source, live, there[key.casefold()], names)}")
        if any(engine.one(_UNIQUE.format(table=name)) != (True,) for name in ("delta_rows", "full_rows")):
            return None
        equal, missing, extra, different = (int(str(count)) for count in engine.one(_COMPARE))
    finally:
        engine.run(_DROP)
    return Check(
        job=full.job,
        time=full.time,
        path=f"{full.folder}/{full.name}",
        step=step.job,
        equal=equal,
        missing=missing,
        extra=extra,
        different=different,
    )


def _rows(source: str, where: str, key: str, columns: Sequence[str]) -> str:
    """Return the query for the keys and hashes of rows. An empty field is the same as the field `""`."""
    values = ", ".join(f"coalesce({identifier(name)}, '')" for name in columns)
    return f"SELECT {identifier(key)} AS k, hash({values}) AS h FROM {source} WHERE {where}"
