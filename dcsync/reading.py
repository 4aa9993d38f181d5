"""Read a mirror from Python: data requests, snapshots, files, and their rows through DuckDB.

It needs the folders of the mirror, and neither a configuration nor the manifest nor a network. Nothing is written.
"""

from __future__ import annotations

import importlib.util
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, tzinfo
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcsync.core.columns import distinct_names
from dcsync.core.layout import NAMED_LAYOUTS, parse_layout, recognise
from dcsync.core.moment import end_of, is_moment
from dcsync.core.names import SIDECAR_NAME
from dcsync.core.row_history import FIRST_SEEN, STATE_NAME, VALID_FROM, VALID_TO, table_name
from dcsync.core.sidecar import Adopted
from dcsync.core.sql import csv_text, text
from dcsync.core.table import HEADER_CAP, TableCounter, TableKind, has_rows
from dcsync.core.table_names import matching, similar, stem
from dcsync.errors import ConfigError, DcsyncError, RowsUnreadable, SnapshotUnclear, TableUnclear
from dcsync.mirror import disk
from dcsync.mirror.adopt import find_snapshots, read_snapshot
from dcsync.mirror.root import open_root
from dcsync.opening import open_regular
from dcsync.ops.history.statements import valid_at
from dcsync.rows import check_installed

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

_HISTORIES = ("history", "_history")
_OLDEST = datetime.min.replace(tzinfo=UTC)
_DATED = parse_layout(NAMED_LAYOUTS["dated"])


class Mirror:
    """A mirror as it was when it was read. `read` it again to see newer snapshots."""

    def __init__(self, root: Path, zone: tzinfo, connection: DuckDBPyConnection | None) -> None:
        self.root = root
        self.zone = zone
        self._connection = connection
        self._requests, self._places = _scan(self)

    @property
    def requests(self) -> Sequence[Request]:
        """The data requests with at least one snapshot, by account and description."""
        return self._requests

    @property
    def unreadable(self) -> Mapping[str, str]:
        """The folders that look like snapshots and cannot be used, each with the reason. Reads all of them."""
        return {place.folder: place.reason for place in self._places if place.adopted(self) is None}

    def request(self, name: str) -> Request:
        """Return a data request by its ID, its folder's name, or a glob for one of them or its description.

        Raises `SnapshotUnclear`, which names the choices, if none or several match.
        """
        found = [each for each in self._requests if name in {each.id, each.slug}]
        found = found or [
            each
            for each in self._requests
            if any(fnmatchcase(word.casefold(), name.casefold()) for word in (each.description, each.slug, each.id))
        ]
        if len(found) == 1:
            return found[0]
        choices = ", ".join(each.slug for each in found or self._requests)
        what = "no data request" if not found else f"{len(found)} data requests"
        raise SnapshotUnclear(
            f"{what} match {name!r}", hint=f"there are {choices}" if choices else "the mirror is empty"
        )

    @property
    def connection(self) -> DuckDBPyConnection:
        """The connection to which all relations belong. Relations of one connection can be joined."""
        if self._connection is None:
            check_installed()
            import duckdb

            # A reader may have no internet, and an extension is a program.
            config: dict[str, str | bool | int | float | list[str]] = {"autoinstall_known_extensions": False}
            self._connection = duckdb.connect(config=config)
            self._connection.execute("SET TimeZone = 'UTC'")
        return self._connection

    def __repr__(self) -> str:
        return f"<Mirror {self.root}: {len(self._requests)} data requests>"


class Request:
    """A data request. `slug` is the name of its folder. Snapshots are read when they are needed."""

    def __init__(self, mirror: Mirror, places: Sequence[_Place], newest: Adopted) -> None:
        self.account = newest.account
        self.id = newest.snapshot.request
        self.description = newest.description
        self.slug = _slug(newest)
        self._mirror = mirror
        self._places = sorted(places, key=lambda place: place.order)

    @cached_property
    def snapshots(self) -> Sequence[Snapshot]:
        """All snapshots, oldest first."""
        return [snapshot for found in self._newest_first() for snapshot in found][::-1]

    @property
    def latest(self) -> Snapshot:
        """The newest snapshot with all its tables. Raises `SnapshotUnclear` if the retention policy left none."""
        found = next((each for found in self._newest_first() for each in found if not each.is_reduced), None)
        if found is None:
            raise SnapshotUnclear(f"{self.slug} has no snapshot with all its tables")
        return found

    def at(self, moment: str | date) -> Snapshot:
        """Return the last snapshot of a day, or the newest one before it, also for a `datetime`.

        A day is in the zone of the mirror. Raises `SnapshotUnclear` if no snapshot is that old.
        """
        until = self._until(moment)
        for found in self._newest_first(until):
            for each in found:
                if each.completed_at is not None and each.completed_at <= until:
                    return each
        first = next((each.completed_at for each in self.snapshots if each.completed_at is not None), None)
        raise SnapshotUnclear(f"{self.slug} has no snapshot as old as {moment}: the first one is of {first}")

    def _newest_first(self, until: datetime | None = None) -> Iterator[list[Snapshot]]:
        """Yield the snapshots, newest first: those of one second at once. Only those that are taken are read."""
        places = [place for place in self._places if until is None or place.begins <= until]
        for _, found in groupby(reversed(places), key=lambda place: place.begins):
            snapshots = [each for each in (place.snapshot(self._mirror) for place in found) if each is not None]
            yield sorted(snapshots, key=lambda each: (each.completed_at or _OLDEST, str(each.path)), reverse=True)

    def __repr__(self) -> str:
        return f"<Request {self.account}: {self.description!r}, {self.slug}>"

    @property
    def history_path(self) -> Path | None:
        """The folder of the row history, if it exists."""
        newest = next(found[0] for found in self._newest_first() if found)
        above = [parent for parent in newest.path.parents if parent.is_relative_to(self._mirror.root)]
        folders = (parent / name for parent in above for name in _HISTORIES)
        return next((folder for folder in folders if (folder / STATE_NAME).is_file()), None)

    def history(self, table: str, at: str | date | None = None) -> DuckDBPyRelation:
        """Return the row history of a table, with its columns for the times, or the rows that it had at a moment.

        Raises `TableUnclear` if the row history does not have the table.
        """
        folder = self.history_path
        files = {} if folder is None else {f"{path.stem}.csv": path for path in folder.glob("*.parquet")}
        path = files[_one(table, files, f"the row history of {self.slug}")]
        relation = self._mirror.connection.sql(f"SELECT * FROM read_parquet({text(_escaped(path))})")
        if at is None:
            return relation
        kind = TableKind.WINDOW if FIRST_SEEN in relation.columns else TableKind.FULL
        added = [name for name in (VALID_FROM, VALID_TO, FIRST_SEEN) if name in relation.columns]
        return relation.filter(valid_at(kind, self._until(at))).select(f"* EXCLUDE ({', '.join(added)})")

    def _until(self, moment: str | date) -> datetime:
        zone = self._mirror.zone
        if isinstance(moment, datetime):
            return moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
        word = moment.isoformat() if isinstance(moment, date) else moment
        try:
            if is_moment(word):
                return end_of(word, zone)
        except (ValueError, OverflowError):
            pass
        raise SnapshotUnclear(f"{word!r} is not a valid day or time", hint="give a day such as 2026-11-22")


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """A snapshot. `files` are its files by Autodesk's names. A reduced one has lost its full tables."""

    job: str
    completed_at: datetime | None
    path: Path
    files: Mapping[str, Path]
    is_reduced: bool
    _mirror: Mirror = field(repr=False)

    @property
    def tables(self) -> Sequence[str]:
        """The names of the tables, without `.csv`."""
        return [stem(name) for name in sorted(self.files) if has_rows(name)]

    def table(self, name: str) -> DuckDBPyRelation:
        """Return a table as a relation, which DuckDB reads when its rows are needed.

        All columns are text, exactly as in the file: an empty field is NULL, and the field `""` is an empty string.
        Raises `TableUnclear` for an unknown name, and `RowsUnreadable` if the header cannot be used.
        """
        path = self.files[_one(name, [each for each in self.files if has_rows(each)], str(self.path))]
        return self._mirror.connection.sql(f"SELECT * FROM {csv_text(_escaped(path), _columns(path))}")

    def arrow(self, name: str) -> Any:  # noqa: ANN401 - pyarrow is not a dependency
        """Return a table as a `pyarrow.Table`, which needs the package pyarrow. Raises the errors of `table`."""
        if importlib.util.find_spec("pyarrow") is None:
            raise ConfigError(
                "Arrow tables need the package pyarrow, which is not installed", hint="pip install pyarrow"
            )
        return self.table(name).to_arrow_table()


def read(root: str | os.PathLike[str], *, zone: tzinfo, connection: DuckDBPyConnection | None) -> Mirror:
    """Read a mirror. Raises `MirrorMissing` if the folder does not exist."""
    return Mirror(Path(root), zone, connection)


class _Place:
    """A folder that looks like a snapshot. Its metadata is read once, when it is needed."""

    def __init__(self, folder: str, begins: datetime | None) -> None:
        """Take a folder. `begins` is the second in which Autodesk completed the extract, as far as its path has it."""
        self.folder = folder
        self.begins = begins or _OLDEST
        self.reason = ""
        self._adopted: Adopted | None = None
        self._snapshot: Snapshot | None = None
        self._is_read = False

    @property
    def order(self) -> tuple[datetime, str]:
        """The order of the snapshots of a data request."""
        return self.begins, self.folder

    def adopted(self, mirror: Mirror) -> Adopted | None:
        """Return the metadata. None if it cannot be used, for a `reason`."""
        if not self._is_read:
            try:
                with open_root(mirror.root) as root:
                    self._adopted = read_snapshot(root, self.folder)
                if self._adopted is None:
                    self.reason = f"it has no {SIDECAR_NAME} that this version of dcsync can read"
            except DcsyncError as error:
                self.reason = error.message
            self._is_read = True
        return self._adopted

    def snapshot(self, mirror: Mirror) -> Snapshot | None:
        """Return the snapshot, always the same one. None if its metadata cannot be used."""
        found = self.adopted(mirror)
        if self._snapshot is None and found is not None:
            self._snapshot = _snapshot(mirror, found)
        return self._snapshot


def _scan(mirror: Mirror) -> tuple[Sequence[Request], Sequence[_Place]]:
    """Find the data requests. Of a folder of snapshots in the usual layout, only the newest is read."""
    folders: defaultdict[str, list[_Place]] = defaultdict(list)
    with open_root(mirror.root) as root:
        for folder in find_snapshots(root):
            found = recognise(_DATED, folder)
            # Elsewhere, the path does not say when the extract was completed.
            key = folder if found is None else "/".join(folder.split("/")[:2])
            folders[key].append(_Place(folder, None if found is None else found.completed_at))
    requests: defaultdict[tuple[str, str], list[_Place]] = defaultdict(list)
    newest: dict[tuple[str, str], list[Adopted]] = defaultdict(list)
    for places in folders.values():
        for place in sorted(places, key=lambda place: place.order, reverse=True):
            adopted = place.adopted(mirror)
            if adopted is not None:
                if place.begins == _OLDEST and adopted.snapshot.completed_at is not None:
                    place.begins = adopted.snapshot.completed_at.replace(microsecond=0)
                key_of_request = adopted.account_id or adopted.account, adopted.snapshot.request
                requests[key_of_request] += places
                newest[key_of_request].append(adopted)
                break
    made = [Request(mirror, places, max(newest[key], key=_age)) for key, places in requests.items()]
    ordered = sorted(made, key=lambda each: (each.account, each.description, each.id))
    return ordered, [place for places in folders.values() for place in places]


def _age(adopted: Adopted) -> tuple[datetime, str]:
    return adopted.snapshot.completed_at or _OLDEST, adopted.snapshot.folder


def _slug(newest: Adopted) -> str:
    """Return the folder's name of a data request: a part of the path that ends with the beginning of its ID."""
    ending = f"-{newest.snapshot.request[:8]}"
    parts = [part.rpartition("=")[2] for part in newest.snapshot.folder.split("/")]
    return next((part for part in parts if part.endswith(ending)), newest.snapshot.request)


def _snapshot(mirror: Mirror, found: Adopted) -> Snapshot:
    path = mirror.root / found.snapshot.folder
    return Snapshot(
        job=found.snapshot.job,
        completed_at=found.snapshot.completed_at,
        path=path,
        files={stored.original: path / stored.name for stored in found.snapshot.files},
        is_reduced=found.reduced_at is not None,
        _mirror=mirror,
    )


def _one(name: str, names: Sequence[str] | Mapping[str, Path], where: str) -> str:
    found = matching(name, names) or matching(table_name(name), names)
    if len(found) == 1:
        return found[0]
    if found:
        raise TableUnclear(f"{name!r} can mean {', '.join(map(stem, found))}")
    close = similar(name, names)
    hint = f"did you mean {' or '.join(close)}?" if close else None
    raise TableUnclear(f"{where} has no table named {name!r}", hint=hint)


def _columns(path: Path) -> tuple[str, ...]:
    """Return distinct names for the columns of a CSV file."""
    counter = TableCounter()
    with disk.disk_errors(f"reading {path}"):
        descriptor = open_regular(path)
        try:
            counter.update(os.pread(descriptor, HEADER_CAP + 1, 0))
        finally:
            os.close(descriptor)
    facts = counter.facts()
    if facts is None or facts.is_cut or not facts.header:
        raise RowsUnreadable(f"{path}, line 1: its header cannot be used", path=str(path), reason="unusable header")
    return distinct_names(facts.header)


def _escaped(path: Path) -> str:
    """Return a path in which DuckDB sees no pattern."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in str(path))
