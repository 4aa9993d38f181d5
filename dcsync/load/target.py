"""What a target is: tables, and `_dcsync_loads`, which says which snapshot each of them shows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from dcsync.core.load_addresses import shown as without_secrets
from dcsync.core.loads import LoadMode, NewColumn, Shown
from dcsync.core.names import printable
from dcsync.core.snapshot import exact_time
from dcsync.core.wire import parse_time
from dcsync.errors import (
    ConfigError,
    DcsyncError,
    LoadFailed,
    LoadInterrupted,
    LoadRefused,
    RowsFailed,
    RowsInterrupted,
    RowsUnreadable,
    ValueRefused,
)
from dcsync.load import causes
from dcsync.load.reading import Reading
from dcsync.load.values import Loaded, TableLoad
from dcsync.rows import CsvTable, Engine
from dcsync.rows import opened as open_engine

#: The table in the target that says what the others show.
LOADS = "_dcsync_loads"
FIELDS = ("table_name", "mode", "account", "request", "job", "completed", "sha256", "row_count", "loaded_at")
TIMES = frozenset({"completed", "loaded_at"})
_LONGEST_REASON = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where a target is, and what a load may use. `work` is a folder for unfinished data.

    `patience_s` is how long a load waits for other users of its table.
    """

    address: str
    dataset: str
    work: Path
    memory: int
    patience_s: float = 60.0

    def __repr__(self) -> str:
        return f"Options({without_secrets(self.address)})"


class Target(ABC):
    """A target that is open. Its methods block, and belong into one thread. Only `interrupt` is for another thread."""

    def __init__(self, options: Options) -> None:
        self.name = without_secrets(options.address)
        self._options = options
        self._secrets = _secrets(options.address)
        self._is_interrupted = False
        self._engine: Engine | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stack.close()
        finally:
            self._engine = None
            self.close()

    @abstractmethod
    def shown(self) -> dict[str, Shown]:
        """Return what the tables show, by their names in the target. Changes nothing. Raises `LoadFailed`."""

    @abstractmethod
    def load(self, load: TableLoad) -> Loaded:
        """Load a table and its row in `_dcsync_loads`, both or nothing. Readers see the rows before or after it.

        Raises `LoadFailed`, and `TargetUnusable` if no other table can be loaded either.
        """

    @abstractmethod
    def mark(self, shown: Sequence[Shown]) -> None:
        """Say in `_dcsync_loads` that tables show a newer snapshot, which has the same rows. Raises `LoadFailed`."""

    def check_writable(self) -> None:
        """Check that a load could write, and leave nothing. Raises `LoadFailed`."""
        self.shown()

    @abstractmethod
    def close(self) -> None:
        """Close what is open."""

    def interrupt(self) -> None:
        """End what runs now, and any later load, with `LoadInterrupted`. For another thread."""
        self._is_interrupted = True
        if self._engine is not None:
            self._engine.interrupt()

    def engine(self) -> Engine:
        """Return the DuckDB that reads the files of snapshots."""
        if self._engine is None:
            options = self._options
            self._engine = self._stack.enter_context(open_engine(memory=options.memory, spill=options.work))
            # To keep the order of rows takes memory, and a database has none.
            self._engine.run("SET preserve_insertion_order = false")
            if self._is_interrupted:
                self._engine.interrupt()
        return self._engine

    @contextmanager
    def failing(self, table: str, reading: Reading | None = None) -> Iterator[None]:
        """Turn every error of the block into a `LoadFailed` without the secrets of the address."""
        if self._is_interrupted:
            raise LoadInterrupted(self.name, table, "it was interrupted")
        try:
            yield
        except (LoadFailed, RowsUnreadable, ConfigError):
            raise
        except Exception as error:  # noqa: BLE001 - drivers have no common error
            failure = self._failure(error, table, reading)
        else:
            return
        # Outside of the block, so that no traceback leads to the driver's error, which may have the address.
        raise failure from None

    def _failure(self, error: Exception, table: str, reading: Reading | None) -> DcsyncError:
        if self._is_interrupted or isinstance(error, RowsInterrupted):
            return LoadInterrupted(self.name, table, "it was interrupted")
        if isinstance(error, RowsFailed):
            found = None if reading is None else self._refused(reading)
            if found is not None:
                column, row, reason = found
                return ValueRefused(self.name, table, reason, column=column, place=f"row {row}")
            return self.failed(table, self.clean(error.message), self.own_folder())
        return self.explained(error, table)

    def _refused(self, reading: Reading) -> tuple[str, int, str] | None:
        try:
            return reading.refused(self.engine())
        except RowsFailed:
            return None

    @abstractmethod
    def explained(self, error: Exception, table: str) -> LoadFailed:
        """Return what an error of the driver means."""

    def failed(self, table: str, reason: str, folder: Path) -> LoadFailed:
        """Return the failure of one table, with a hint if the disk of `folder`, or the one for the work, is full."""
        if not causes.is_full(reason):
            return LoadFailed(self.name, table, reason)
        work = self._options.work
        cause = causes.full(work if str(work) in reason else folder)
        return LoadFailed(self.name, table, cause.reason, hint=cause.hint)

    def own_folder(self) -> Path:
        """Return the folder into which the engine writes while it reads a snapshot."""
        return self._options.work

    def clean(self, message: str) -> str:
        """Return the first line of a driver's message, without the secrets of the address."""
        for secret in self._secrets:
            message = message.replace(secret, "…")
        return printable(message.strip().partition("\n")[0], _LONGEST_REASON)

    def check_columns(self, load: TableLoad, known: Iterable[str], wanted: Iterable[str]) -> None:
        """Raise `LoadRefused` for a new column if the configuration says so."""
        have = {name.casefold() for name in known}
        new = [name for name in wanted if name.casefold() not in have]
        if new and load.on_new_column is NewColumn.STOP:
            names = ", ".join(printable(name, 80) for name in new[:5])
            hint = 'add the column to the table, or set on_new_column = "add" and run dcsync load'
            raise LoadRefused(self.name, load.shown.table, f"the snapshot has a new column: {names}", hint=hint)

    def check_rows(self, load: TableLoad, rows: int) -> None:
        """Raise `LoadFailed` if the target counts other rows than the snapshot has."""
        wanted = load.shown.rows
        if wanted is not None and rows != wanted and isinstance(load.source, CsvTable) and len(load.source.columns) > 1:
            # dcsync counts blank lines as rows.
            wanted -= load.source.blank_lines()
        if wanted is not None and rows != wanted:
            raise LoadFailed(self.name, load.shown.table, f"the target took {rows} rows of {wanted}")


def record(shown: Shown) -> list[str | int | None]:
    """Return a row of `_dcsync_loads`, in the order of `FIELDS`."""
    return [
        *(shown.table, shown.mode.value, shown.account, shown.request, shown.job, exact_time(shown.completed)),
        *(shown.sha256, shown.rows, exact_time(shown.loaded_at)),
    ]


def parse_record(row: Sequence[Any]) -> Shown:
    """Return what a row of `_dcsync_loads` says, whose times are text."""
    table, mode, account, request, job, completed, sha256, rows, loaded_at = row
    moment = parse_time(completed)
    assert moment is not None  # noqa: S101 - dcsync wrote it
    return Shown(
        table=str(table),
        mode=LoadMode(str(mode)),
        account=str(account),
        request=str(request),
        job=str(job),
        completed=moment,
        sha256=str(sha256),
        rows=int(rows),
        loaded_at=parse_time(loaded_at),
    )


def check_folder(folder: Path) -> None:
    """Check that a file can be created in a folder. Raises `OSError`."""
    with TemporaryFile(dir=folder):
        pass


def now() -> datetime:
    """Return the time of a load."""
    return datetime.now(UTC)


def _secrets(address: str) -> list[str]:
    """Return the parts of an address that no message may have, the longest first."""
    try:
        parts = urlsplit(address)
        values = [value for _, value in parse_qsl(parts.query)]
        found = {address, parts.password or "", unquote(parts.password or ""), parts.query, *values}
    except ValueError:
        found = {address}
    # A value such as `require` is not secret, and would only make a message unreadable if it were short.
    return sorted((secret for secret in found if len(secret) > 3), key=len, reverse=True)
