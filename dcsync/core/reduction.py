"""What stays of a snapshot that the retention policy does not keep. Pure.

A newer extract has the rows of a full table, but not those of a window or delta table. A snapshot that has such tables
is reduced instead of removed: these tables stay, with the documents that describe them, and the full tables go. A full
table stays too if no newer snapshot that stays whole has it: the extracts may have fewer tables now. A file stays in
doubt.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from dcsync.core.kinds import kind_of
from dcsync.core.model import ARCHIVE_NAME, DataRequest, JobId, Json, StoredFile
from dcsync.core.row_history import table_name
from dcsync.core.snapshot import exact_time
from dcsync.core.table import TableKind, is_table
from dcsync.core.wire import WireError, decode_json, parse_time

_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """The files of a snapshot that is reduced. `tables` are those of `kept` that are tables.

    `keeps_full` says that one of them is a full table, because no newer snapshot has it. `in_history` names those of
    `removed` whose rows are only in the row history.
    """

    kept: tuple[StoredFile, ...]
    removed: tuple[StoredFile, ...]
    keeps_full: bool = False
    in_history: tuple[str, ...] = ()

    @property
    def tables(self) -> tuple[StoredFile, ...]:
        """The tables that stay. A snapshot without any is removed as a whole."""
        return tuple(stored for stored in self.kept if is_table(stored.original) or _is_archive(stored))

    @property
    def frees_tables(self) -> bool:
        """Whether a table is removed. Otherwise it is not worth a reduction."""
        return any(is_table(stored.original) for stored in self.removed)


def divide(
    files: Sequence[StoredFile], request: DataRequest | None, *, archive_repeats: bool, newer: Collection[str]
) -> Division:
    """Divide the files of a snapshot. Without a `request`, Autodesk never described it.

    `archive_repeats` says that the extract's ZIP has nothing that is not among the other files. `newer` has Autodesk's
    names of the full tables in the newer snapshots that stay whole.
    """
    kept: list[StoredFile] = []
    removed: list[StoredFile] = []
    keeps_full = False
    for stored in files:
        is_full = is_table(stored.original) and _has_all_rows(kind_now(stored, request))
        keeps_full |= is_full and stored.original not in newer
        goes = archive_repeats if _is_archive(stored) else is_full and stored.original in newer
        (removed if goes else kept).append(stored)
    return Division(kept=tuple(kept), removed=tuple(removed), keeps_full=keeps_full)


def without_windows(division: Division, proved: Collection[str]) -> Division:
    """Return the division if these window tables go too. `proved` has their names in the snapshot."""
    gone = tuple(stored for stored in division.kept if stored.name in proved and stored.kind is TableKind.WINDOW)
    return replace(
        division,
        kept=tuple(stored for stored in division.kept if stored not in gone),
        removed=(*division.removed, *gone),
        in_history=tuple(stored.name for stored in gone),
    )


def full_tables(kinds: Iterable[tuple[str, TableKind | None]], request: DataRequest | None) -> set[str]:
    """Return those of Autodesk's file names that are certainly full tables. `kinds` has their recorded kinds."""
    return {name for name, kind in kinds if is_table(name) and _has_all_rows(_certain(name, kind, request))}


def kind_now(stored: StoredFile, request: DataRequest | None) -> TableKind | None:
    """Return the kind of a table as it was recorded, or else as far as it is certain now.

    The data request may have changed since an older version made the snapshot. Then only its certain kinds count: the
    dates or delta groups of a data request make every table of it uncertain.
    """
    return _certain(stored.original, stored.kind, request)


def describe_tables(tables: Sequence[StoredFile], request: DataRequest | None) -> str:
    """Return the tables that stay as text: `3 window tables (1,204 rows)`."""
    counts: dict[str, int] = {}
    for stored in tables:
        kind = kind_now(stored, request)
        word = "ZIP" if _is_archive(stored) else _UNKNOWN if kind is None else kind.value
        counts[word] = counts.get(word, 0) + 1
    parts = [_counted(word, count) for word, count in sorted(counts.items(), reverse=True)]
    if not parts:
        return "no table"
    rows = rows_of(tables)
    return " and ".join(parts) + ("" if rows is None else f" ({rows:,} row{'' if rows == 1 else 's'})")


def rows_of(tables: Sequence[StoredFile]) -> int | None:
    """Return the number of rows in these tables. None if it is not known of all of them."""
    counts = [None if stored.table is None else stored.table.rows for stored in tables if not _is_archive(stored)]
    return sum(count for count in counts if count is not None) if None not in counts else None


def reduced_sidecar(
    body: bytes, keep: Collection[str], *, at: datetime, version: str, in_history: Collection[str] = ()
) -> bytes:
    """Return the sidecar of the reduced snapshot: the old one, with the removed files in `reduced`.

    The entries of files whose rows are `in_history` say so. Everything else stays as it was written. Raises `WireError`
    if the old one cannot be read or lacks a kept file.
    """
    document = decode_json(body)
    files = document.get("files") if isinstance(document, Mapping) else None
    if not isinstance(document, Mapping) or not isinstance(files, list):
        msg = "the sidecar has no files"
        raise WireError(msg)
    kept: list[Json] = []
    removed: list[Json] = [*_removed_before(document)]
    for entry in files:
        name = entry.get("name") if isinstance(entry, Mapping) else None
        if name in keep:
            kept.append(entry)
        elif isinstance(entry, Mapping) and name in in_history:
            removed.append({**entry, "in_history": True})
        else:
            removed.append(entry)
    if len(kept) != len(keep):
        msg = "the sidecar lacks a file of the snapshot"
        raise WireError(msg)
    record = document.get("record")
    reduced = {
        **document,
        "files": kept,
        "record": {**record, "reduced_at": exact_time(at)} if isinstance(record, Mapping) else record,
        "reduced": {"at": exact_time(at), "dcsync": version, "files": removed},
    }
    return (json.dumps(reduced, indent=1, ensure_ascii=True) + "\n").encode("ascii")


def _removed_before(document: Mapping[str, Json]) -> Sequence[Json]:
    """Return the files that an earlier reduction removed."""
    before = document.get("reduced")
    files = before.get("files") if isinstance(before, Mapping) else None
    return files if isinstance(files, list) else []


def reduced_in(document: Mapping[str, Json]) -> tuple[datetime | None, tuple[str, ...]]:
    """Return when the snapshot of a sidecar was reduced, and Autodesk's names of the files that it lost then."""
    entry = document.get("reduced")
    if not isinstance(entry, Mapping):
        return None, ()
    files = entry.get("files")
    names = [file.get("original") for file in files if isinstance(file, Mapping)] if isinstance(files, list) else []
    return parse_time(entry.get("at")), tuple(name for name in names if isinstance(name, str))


def only_in_history(document: Json) -> tuple[str, ...]:
    """Return the names of the tables that the snapshot of a sidecar lost, and whose rows the row history has."""
    entry = document.get("reduced") if isinstance(document, Mapping) else None
    files = entry.get("files") if isinstance(entry, Mapping) else None
    marked = [file for file in files if isinstance(file, Mapping)] if isinstance(files, list) else []
    return tuple(
        name for file in marked if isinstance(name := file.get("name"), str) and file.get("in_history") is True
    )


def recorded_windows(
    files: Sequence[StoredFile], job: JobId, recorded: Collection[tuple[JobId, str, str]]
) -> frozenset[str]:
    """Return the names of the window tables of a snapshot that the row history records.

    `recorded` has the job, the name of the history, and the SHA-256 of each table that is a step.
    """
    return frozenset(
        stored.name
        for stored in files
        if stored.kind is TableKind.WINDOW and (job, table_name(stored.name), stored.sha256) in recorded
    )


def _certain(name: str, recorded: TableKind | None, request: DataRequest | None) -> TableKind | None:
    if recorded is not None:
        return recorded
    kind = kind_of(name, request)
    if kind is TableKind.FULL and (request is None or request.has_dates or _has_delta_groups(request)):
        return None
    return kind


def _has_all_rows(kind: TableKind | None) -> bool:
    return kind is not None and kind.has_all_rows


def _is_archive(stored: StoredFile) -> bool:
    return stored.original == ARCHIVE_NAME


def _has_delta_groups(request: DataRequest) -> bool:
    return any(group.lower().startswith("cdc") for group in request.service_groups)


def _counted(word: str, count: int) -> str:
    if word == "ZIP":
        return "the ZIP"
    plural = "" if count == 1 else "s"
    if word == TableKind.FULL:
        return f"{count} full table{plural} that no newer snapshot has"
    return f"{count} table{plural} of unknown kind" if word == _UNKNOWN else f"{count} {word} table{plural}"
