"""Loads through dlt's pipelines, for databases that the tests do not have: SQL Server, Snowflake and others.

The rows of a table change in one step, as far as dlt and the database can. Its row in `_dcsync_loads` follows in a
second step. A load that is killed between the two is repeated.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from dcsync import DISTRIBUTION
from dcsync.core.loads import Shown
from dcsync.errors import DcsyncError, LoadFailed, RowsUnreadable, TargetUnusable
from dcsync.load.clients import column_hint
from dcsync.load.reading import Reading, reading_of
from dcsync.load.target import FIELDS, LOADS, Options, Target, now, parse_record, record
from dcsync.load.values import Loaded, TableLoad, Way

if TYPE_CHECKING:
    from dlt import Pipeline
    from dlt.extract import DltResource

_ROWS: Final = 5000
#: dlt reads these when a pipeline is made: no reports to its makers, and no addresses in a log.
_SETTINGS: Final = {"RUNTIME__DLTHUB_TELEMETRY": "false", "RUNTIME__LOG_LEVEL": "CRITICAL"}


class PipelineTarget(Target):
    """A database that dlt's pipelines write into."""

    def __init__(self, options: Options, kind: str) -> None:
        super().__init__(options)
        self._kind = kind
        self._made: Pipeline | None = None

    def shown(self) -> dict[str, Shown]:
        from dlt.destinations.exceptions import DatabaseUndefinedRelation

        fields = ", ".join(FIELDS)
        with self.failing(""), self._pipeline().sql_client() as client:
            try:
                rows = client.execute_sql(f"SELECT {fields} FROM {client.make_qualified_table_name(LOADS)}")
            except DatabaseUndefinedRelation:
                rows = []
            return {row.table: row for row in map(parse_record, rows or [])}

    def mark(self, shown: Sequence[Shown]) -> None:
        there = self.shown()
        with self.failing(""):
            rows = [
                replace(old, job=row.job, completed=row.completed, loaded_at=now())
                for row in shown
                if (old := there.get(row.table)) is not None and (old.sha256, old.mode) == (row.sha256, row.mode)
            ]
            self._write(rows)

    def load(self, load: TableLoad) -> Loaded:
        name = load.shown.table
        known = self.shown().get(name)
        if known is not None and load.is_outrun_by(known):
            return Loaded(shown=known, way=Way.ALREADY, sent=0)
        with self.failing(name):
            reading = reading_of(load, self.engine(), 0)
        if not any(column.source for column in reading.columns):
            raise RowsUnreadable(f"{load.source.path}: it has no header", path=load.source.path)
        with self.failing(name, reading):
            if known is not None:
                columns = self._pipeline().default_schema.tables.get(name, {}).get("columns", {})
                self.check_columns(load, columns, reading.names)
            rows = self._count(load, reading)
            self._run(self._resource(name, reading))
            shown = replace(load.shown, rows=rows, loaded_at=now())
            self._write([shown])
        return Loaded(shown=shown, way=Way.WHOLE, sent=rows)

    def close(self) -> None:
        """A pipeline has nothing open between two steps."""

    def _failure(self, error: Exception, table: str, reading: Reading | None) -> DcsyncError:
        # A failure to read the rows comes through several errors of dlt.
        last: BaseException | None = error
        while last is not None:
            if isinstance(last, DcsyncError):
                return super()._failure(last, table, reading)
            last = last.__cause__ or last.__context__
        return super()._failure(error, table, reading)

    def explained(self, error: Exception, table: str) -> LoadFailed:
        last: BaseException = error
        while (cause := last.__cause__ or last.__context__) is not None:
            last = cause
        if isinstance(last, ImportError):
            hint = f"run pipx inject {DISTRIBUTION} 'dlt[{self._kind}]', with the PIPX_HOME of the installation"
            return TargetUnusable(self.name, table, f"dlt lacks packages for {self._kind}", hint=hint)
        reason = self.clean(str(last) or type(last).__name__)
        return LoadFailed(self.name, table, reason) if table else TargetUnusable(self.name, table, reason)

    def _pipeline(self) -> Pipeline:
        if self._made is None:
            os.environ.update(_SETTINGS)
            import dlt

            destination = getattr(dlt.destinations, self._kind)
            place = destination(
                credentials=self._options.address,
                replace_strategy="insert-from-staging",
                naming_convention="direct",
            )
            self._made = dlt.pipeline(
                f"dcsync_{self._options.dataset}",
                destination=place,
                dataset_name=self._options.dataset,
                pipelines_dir=str(self._options.work / "dlt"),
            )
        return self._made

    def _count(self, load: TableLoad, reading: Reading) -> int:
        with reading.failing():
            rows = int(str(self.engine().one(f"SELECT count(*) FROM {reading.table}")[0]))
        self.check_rows(load, rows)
        return rows

    def _resource(self, name: str, reading: Reading) -> DltResource:
        import dlt

        columns: Any = [{"name": column.name, **column_hint(column.kind)} for column in reading.columns]
        return dlt.resource(self._rows(reading), name=name, columns=columns, write_disposition="replace")

    def _rows(self, reading: Reading) -> Iterator[list[dict[str, object]]]:
        with reading.failing():
            for rows in self.engine().stream(reading.all(), _ROWS):
                yield [dict(zip(reading.names, row, strict=True)) for row in rows]

    def _write(self, rows: Sequence[Shown]) -> None:
        import dlt

        # Times are text here, because databases differ in how they show them.
        kinds = {"row_count": "BIGINT"}
        columns: Any = [{"name": name, **column_hint(kinds.get(name, "VARCHAR"))} for name in FIELDS]
        found = dlt.resource(
            [dict(zip(FIELDS, record(row), strict=True)) for row in rows],
            name=LOADS,
            columns=columns,
            primary_key="table_name",
            write_disposition="merge",
        )
        self._run(found)

    def _run(self, resource: DltResource) -> None:
        self._pipeline().run(resource)
