"""The rows that differ between two snapshots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from dcsync.core.column_types import Described
from dcsync.core.diff import FileDiff
from dcsync.core.model import StoredFile
from dcsync.core.table import TableKind, has_rows
from dcsync.core.table_names import matching, similar
from dcsync.errors import DcsyncError, RowsInterrupted, TableUnclear
from dcsync.mirror import disk
from dcsync.mirror.described import describe_tables
from dcsync.mirror.root import MirrorRoot
from dcsync.ops.diff import Comparison
from dcsync.rows import CsvTable, Engine, TableChanges, compared, open_table


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDiff:
    """The rows of a table that differ, or the error that prevents the comparison."""

    file: FileDiff
    kind: TableKind | None
    changes: TableChanges | None = None
    error: DcsyncError | None = None


def differing_tables(comparison: Comparison, wanted: Sequence[str]) -> Sequence[FileDiff]:
    """Return the tables with rows that differ, all or those that names or globs mean.

    Raises `TableUnclear` for a name that no table of the two snapshots has.
    """
    tables = [file for file in comparison.diff.tables if has_rows(file.name)]
    if not wanted:
        return tables
    names = {name for side in comparison.stored for name in side if has_rows(name)} | {*comparison.not_compared}
    meant: set[str] = set()
    for word in wanted:
        found = matching(word, names)
        if not found:
            raise unknown_table(word, names)
        meant |= set(found)
    return [file for file in tables if file.name in meant]


def unknown_table(word: str, names: set[str]) -> TableUnclear:
    """Return the error for a name that no table has."""
    message = f"no table is named {word!r}"
    close = similar(word, names)
    return TableUnclear(message, hint=f"did you mean {' or '.join(close)}?" if close else None)


def table_diffs(
    root: MirrorRoot, engine: Engine, comparison: Comparison, tables: Sequence[FileDiff]
) -> Iterator[TableDiff]:
    """Compare the rows of tables one after another. Each result is valid until the next one. Blocks.

    A table that cannot be compared has an error. Raises `RowsInterrupted`.
    """
    documented = describe_tables(root, comparison.after.folder, comparison.stored[1].values())
    for file in tables:
        before, after = (side.get(file.name) for side in comparison.stored)
        newest = after or before
        kind = None if newest is None else newest.kind
        try:
            with (
                _opened(root, comparison.before.folder, before) as left,
                _opened(root, comparison.after.folder, after) as right,
                compared(engine, left, right, documented.get(file.name, Described()).key) as changes,
            ):
                yield TableDiff(file=file, kind=kind, changes=changes)
        except RowsInterrupted:
            raise
        except DcsyncError as error:
            yield TableDiff(file=file, kind=kind, error=error)


@contextmanager
def _opened(root: MirrorRoot, folder: str, stored: StoredFile | None) -> Iterator[CsvTable | None]:
    """Open a table of a snapshot. Its errors name the path from the root on."""
    if stored is None:
        yield None
        return
    path = f"{folder}/{stored.name}"
    with ExitStack() as stack:
        with disk.disk_errors(f"reading {disk.shown(path)}"):
            table = stack.enter_context(open_table(path, below=root.descriptor))
        yield table
