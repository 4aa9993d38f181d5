"""The rows that differ between two versions of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from dcsync.core.row_keys import RowKey, key_candidates
from dcsync.rows.engine import Engine
from dcsync.rows.table import CsvTable

#: The values that are fetched at once.
_VALUES = 20_000
_COLUMNS = 200
_TABLES = ("diff_before", "diff_after", "diff_removed", "diff_added", "diff_changed", "diff_digests")


class RowFate(StrEnum):
    """How a row differs."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowChange:
    """A row that differs. `before` and `after` have its values, or of a changed row only those that changed.

    None stands for the side without the row, and for an empty field. The field `""` is the empty string.
    """

    fate: RowFate
    key: Mapping[str, str | None]
    before: Mapping[str, str | None] | None
    after: Mapping[str, str | None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TableChanges:
    """The differences of a table. Columns that only one side has are not compared.

    `columns` has the number of changed rows by column. `unchanged` rows are equal in both.
    """

    key: RowKey
    added: int
    removed: int
    changed: int
    unchanged: int
    columns: Mapping[str, int]
    _pair: _Pair = field(repr=False)

    def rows(self, limit: int | None = None) -> Iterator[RowChange]:
        """Yield the rows that differ, in the order of their files: removed, added, changed, at most `limit` of each."""
        yield from self._pair.one_side(RowFate.REMOVED, self.key, limit)
        yield from self._pair.one_side(RowFate.ADDED, self.key, limit)
        yield from self._pair.both_sides(self.key, limit)


@contextmanager
def compared(
    engine: Engine, before: CsvTable | None, after: CsvTable | None, documented: Sequence[str] = ()
) -> Iterator[TableChanges]:
    """Compare two tables, of which one may be missing, by the key that `documented` names or the data shows.

    The result is valid inside the block. Raises `RowsUnreadable` with the file's name, and `RowsFailed`.
    """
    pair = _Pair(engine, before, after)
    try:
        pair.load()
        yield pair.compare(documented)
    finally:
        for table in _TABLES:
            with _quietly():
                engine.connection.execute(f"DROP TABLE IF EXISTS {table}")


@contextmanager
def _quietly() -> Iterator[None]:
    import duckdb

    try:
        yield
    except duckdb.Error:
        return


class _Pair:
    """Two tables in the engine. Columns have numbers there, because a name could be one of SQL's own, such as rowid."""

    def __init__(self, engine: Engine, before: CsvTable | None, after: CsvTable | None) -> None:
        self._engine = engine
        self._files = (before, after)
        left = before or after
        right = after or before
        self._columns = (() if left is None else left.columns, () if right is None else right.columns)
        places = [{name: f"c{number}" for number, name in enumerate(columns)} for columns in self._columns]
        self._before, self._after = places
        self._common = [name for name in self._columns[1] if name in self._before]

    def load(self) -> None:
        for name, file, columns in zip(("diff_before", "diff_after"), self._files, self._columns, strict=True):
            places = [f"c{number}" for number in range(len(columns))]
            if file is None:
                declared = ", ".join(f"{place} VARCHAR" for place in places) or "nothing VARCHAR"
                self._engine.run(f"CREATE TEMP TABLE {name} ({declared})")
                continue
            taken = f"{file.source} AS source({', '.join(places)})"
            with file.reading():
                self._engine.run(f"CREATE TEMP TABLE {name} AS SELECT * FROM {taken}")

    def compare(self, documented: Sequence[str]) -> TableChanges:
        key = next((key for key in key_candidates(self._common, documented) if self._is_unique(key)), RowKey())
        if key.columns:
            self._by_key(key)
        else:
            self._by_rows()
        removed, added, changed = (self._count(f"diff_{fate.value}") for fate in _FATES)
        return TableChanges(
            key=key,
            added=added,
            removed=removed,
            changed=changed,
            unchanged=self._count("diff_before") - removed - changed,
            columns=self._changed_columns(key) if changed else {},
            _pair=self,
        )

    def _is_unique(self, key: RowKey) -> bool:
        for table, places in (("diff_before", self._before), ("diff_after", self._after)):
            columns = [places[name] for name in key.columns]
            # Empty text does not identify a row either.
            empty = " OR ".join(f"{column} IS NULL OR {column} = ''" for column in columns)
            if self._engine.one(f"SELECT count(*) FROM (SELECT 1 FROM {table} WHERE {empty} LIMIT 1)")[0]:
                return False
            doubled = f"SELECT 1 FROM {table} GROUP BY {', '.join(columns)} HAVING count(*) > 1 LIMIT 1"
            if self._engine.one(f"SELECT count(*) FROM ({doubled})")[0]:
                return False
        return True

    def _by_key(self, key: RowKey) -> None:
        same = " AND ".join(f"b.{self._before[name]} = a.{self._after[name]}" for name in key.columns)
        differs = self._differing(key)
        both = f"diff_before b JOIN diff_after a ON {same}"
        any_differs = " OR ".join(differs.values()) or "false"
        for statement in (
            f"diff_removed AS SELECT b.rowid AS b FROM diff_before b ANTI JOIN diff_after a ON {same}",
            f"diff_added AS SELECT a.rowid AS a FROM diff_after a ANTI JOIN diff_before b ON {same}",
            f"diff_changed AS SELECT b.rowid AS b, a.rowid AS a FROM {both} WHERE {any_differs}",
        ):
            self._engine.run(f"CREATE TEMP TABLE {statement}")

    def _by_rows(self) -> None:
        """Pair equal rows. Of a row that occurs several times, each occurrence has a number."""
        sides = []
        for side, (table, places) in enumerate((("diff_before", self._before), ("diff_after", self._after))):
            digest = _digest([places[name] for name in self._common]) if self._common else f"'{side}'"
            sides.append(f"SELECT {side} AS side, rowid AS r, {digest} AS d FROM {table}")
        numbered = "row_number() OVER (PARTITION BY side, d ORDER BY r) AS n"
        self._engine.run(f"CREATE TEMP TABLE diff_digests AS SELECT *, {numbered} FROM ({' UNION ALL '.join(sides)})")
        for name, row, side in (("diff_removed", "b", 0), ("diff_added", "a", 1)):
            mine, other = (f"(FROM diff_digests WHERE side = {number})" for number in (side, 1 - side))
            self._engine.run(
                f"CREATE TEMP TABLE {name} AS SELECT x.r AS {row} FROM {mine} x "
                f"ANTI JOIN {other} y ON x.d = y.d AND x.n = y.n"
            )
        self._engine.run("CREATE TEMP TABLE diff_changed (b BIGINT, a BIGINT)")

    def _differing(self, key: RowKey) -> Mapping[str, str]:
        return {
            name: f"b.{self._before[name]} IS DISTINCT FROM a.{self._after[name]}"
            for name in self._common
            if name not in key.columns
        }

    def _changed_columns(self, key: RowKey) -> Mapping[str, int]:
        differs = list(self._differing(key).items())
        counts: dict[str, int] = {}
        # The time of a query grows with the square of its columns.
        for start in range(0, len(differs), _COLUMNS):
            part = differs[start : start + _COLUMNS]
            shown = ", ".join(f"count(*) FILTER (WHERE {differ})" for _, differ in part)
            found = self._engine.one(f"SELECT {shown} FROM {_BOTH}")
            counts |= {name: int(str(count)) for (name, _), count in zip(part, found, strict=True) if count}
        return counts

    def _count(self, table: str) -> int:
        return int(str(self._engine.one(f"SELECT count(*) FROM {table}")[0]))

    def one_side(self, fate: RowFate, key: RowKey, limit: int | None) -> Iterator[RowChange]:
        """Yield the rows that only one table has."""
        is_new = fate is RowFate.ADDED
        table, row, columns = ("after", "a", self._columns[1]) if is_new else ("before", "b", self._columns[0])
        sql = f"SELECT t.* FROM diff_{fate.value} d JOIN diff_{table} t ON t.rowid = d.{row} ORDER BY d.{row}"
        for values in self._fetch(sql, len(columns), limit):
            named = dict(zip(columns, values, strict=True))
            yield RowChange(
                fate=fate,
                key={name: named[name] for name in key.columns},
                before=None if is_new else named,
                after=named if is_new else None,
            )

    def both_sides(self, key: RowKey, limit: int | None) -> Iterator[RowChange]:
        """Yield the rows of both tables that differ."""
        shown = [*(f"b.{self._before[name]}" for name in self._common)]
        shown += [f"a.{self._after[name]}" for name in self._common]
        if not key.columns:
            return
        for values in self._fetch(f"SELECT {', '.join(shown)} FROM {_BOTH} ORDER BY d.a", len(shown), limit):
            before = dict(zip(self._common, values[: len(self._common)], strict=True))
            after = dict(zip(self._common, values[len(self._common) :], strict=True))
            changed = [name for name in self._common if before[name] != after[name]]
            yield RowChange(
                fate=RowFate.CHANGED,
                key={name: after[name] for name in key.columns},
                before={name: before[name] for name in changed},
                after={name: after[name] for name in changed},
            )

    def _fetch(self, sql: str, columns: int, limit: int | None) -> Iterator[list[str | None]]:
        limited = sql if limit is None else f"{sql} LIMIT {limit}"
        for rows in self._engine.stream(limited, max(1, _VALUES // max(1, columns))):
            for row in rows:
                yield [None if value is None else str(value) for value in row]


_FATES = (RowFate.REMOVED, RowFate.ADDED, RowFate.CHANGED)
_BOTH = "diff_changed d JOIN diff_before b ON b.rowid = d.b JOIN diff_after a ON a.rowid = d.a"


def _digest(columns: Sequence[str]) -> str:
    """Return the SQL of a digest of a row. JSON keeps NULL, the empty string and the limits of fields apart."""
    return f"sha256(to_json([{', '.join(columns)}]))"
