"""The row history of a table: what it records about its steps, and which snapshots are its next steps. Pure.

A step takes a table from one snapshot to the next. The history of each table is a Parquet file, which has its steps in
its metadata. `history.json` has those of all tables of a data request (docs/project/design.md, Row history).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from dcsync.core.model import JobId
from dcsync.core.table import TableKind

#: The format of the Parquet files and of `history.json`. A file of another format is built again.
FORMAT: Final = 1
#: The file in the history's folder that has the steps of all tables.
STATE_NAME: Final = "history.json"
#: The key of the steps in a Parquet file's metadata.
METADATA_KEY: Final = "dcsync"

VALID_FROM: Final = "_valid_from"
VALID_TO: Final = "_valid_to"
FIRST_SEEN: Final = "_first_seen"
#: The number of a row in its Parquet file, which DuckDB adds.
ROW_NUMBER: Final = "file_row_number"
#: No column of a CSV file gets one of these names in a history.
RESERVED: Final = (VALID_FROM, VALID_TO, FIRST_SEEN, ROW_NUMBER)
#: The columns that delta tables have (docs/project/api.md §8).
KEY: Final = "adsk_row_id"
DELETED_AT: Final = "deleted_at"
#: The fingerprint of no row.
NO_ROWS: Final = "0" * 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Extract:
    """A table in a snapshot. `path` is its file below the root, and `rows` what dcsync counted at the download."""

    job: JobId
    time: datetime
    folder: str
    name: str
    size: int
    sha256: str
    rows: int | None
    kind: TableKind | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A proved step: from its `time` on, the history has exactly the rows of this job's table.

    `rows` and `digest` are those of the table in the snapshot, which has these `columns`. `added` and `removed` count
    the rows that the step began and ended. `fingerprint` is of the rows that a step of a window table added: a digest
    that every version of DuckDB computes alike.
    """

    job: JobId
    time: datetime
    sha256: str
    rows: int
    digest: str
    columns: tuple[str, ...]
    added: int = 0
    removed: int = 0
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Omission:
    """A snapshot that the history leaves out, unless it is built again."""

    job: JobId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Why a table does not advance to this job's snapshot. `path` and `sha256` are those of the table in it."""

    job: JobId
    path: str
    sha256: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A comparison of a delta table with a full extract of the same table, whose `job`, `time` and `path` these are.

    The rows are those that the delta table had after the last `step` before. The counts are of rows that both have,
    that the delta table lacks, that only it has, and that have the same key and other fields.
    """

    job: JobId
    time: datetime
    path: str
    step: JobId
    equal: int
    missing: int
    extra: int
    different: int

    @property
    def is_equal(self) -> bool:
        """Whether both have the same rows."""
        return not (self.missing or self.extra or self.different)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableHistory:
    """The steps of a table, oldest first."""

    kind: TableKind
    steps: tuple[Step, ...] = ()
    omitted: tuple[Omission, ...] = ()
    waits: Wait | None = None
    #: The size and the time of the Parquet file, by which dcsync recognizes that the steps are those of this file.
    file: tuple[int, int] | None = None
    #: The SHA-256 of that file.
    sha256: str | None = None
    #: The tables of snapshots of which only a file had the rows that is gone, and its steps with it.
    lost: tuple[str, ...] = ()
    #: How a delta table compares with a full extract.
    checked: Check | None = None
    #: The newest full extract that could not be compared, and the last step before it. So none was that is older.
    tried: tuple[JobId, JobId] | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that a step had, in the order in which they came."""
        found: dict[str, str] = {}
        for step in self.steps:
            for name in step.columns:
                found.setdefault(name.casefold(), name)
        return tuple(found.values())

    @property
    def jobs(self) -> frozenset[JobId]:
        """The jobs that are steps, or are left out."""
        return frozenset({step.job for step in self.steps} | {omission.job for omission in self.omitted})

    @property
    def is_sealed(self) -> bool:
        """Whether everything is recorded by which damage is noticed. Older versions of dcsync did not record it."""
        is_window = self.kind is TableKind.WINDOW
        return self.sha256 is not None and not any(is_window and step.fingerprint is None for step in self.steps)

    def with_step(self, step: Step) -> TableHistory:
        """Return the history after one more step."""
        return replace(self._without_wait(step.job), steps=(*self.steps, step))

    def with_wait(self, extract: Extract, reason: str) -> TableHistory:
        """Return the history with a table that it waits for."""
        path = f"{extract.folder}/{extract.name}"
        wait = Wait(job=extract.job, path=path, sha256=extract.sha256, reason=reason)
        return replace(self._without_wait(extract.job), waits=wait)

    def _without_wait(self, job: JobId) -> TableHistory:
        """Return the history without the table that it waited for, which is left out if a later one follows."""
        if self.waits is None:
            return self
        omission = Omission(job=self.waits.job, reason=self.waits.reason)
        return replace(self, omitted=self.omitted if job == omission.job else (*self.omitted, omission), waits=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestState:
    """The histories of the tables of a data request, by their names.

    `jobs` are the snapshots from which no table in `wanted`, the globs of the configuration, still needs a step.
    """

    tables: Mapping[str, TableHistory] = field(default_factory=dict)
    wanted: tuple[str, ...] = ()
    jobs: tuple[JobId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The next steps of a table, oldest first. With `restarts`, its history begins again with them.

    `late` came after later steps, and are left out.
    """

    steps: tuple[Extract, ...] = ()
    restarts: bool = False
    late: tuple[Extract, ...] = ()


def plan(history: TableHistory, extracts: Sequence[Extract]) -> Plan:
    """Return the next steps of a table that is in the mirror with these extracts.

    A snapshot that is older than the last step belongs between earlier steps. The history then begins again if the
    mirror has all its snapshots, and otherwise leaves that snapshot out.
    """
    ordered = sorted(extracts, key=lambda extract: (extract.time, extract.job))
    waiting = [extract for extract in ordered if extract.job not in history.jobs]
    if not history.steps:
        return Plan(steps=tuple(waiting))
    last = history.steps[-1].time
    late = tuple(extract for extract in waiting if extract.time < last)
    if late and can_restart(history, ordered):
        left_out = {omission.job for omission in history.omitted}
        return Plan(steps=tuple(extract for extract in ordered if extract.job not in left_out), restarts=True)
    return Plan(steps=tuple(extract for extract in waiting if extract.time >= last), late=late)


def can_restart(history: TableHistory, extracts: Sequence[Extract]) -> bool:
    """Whether the mirror has the snapshots of all steps, unchanged."""
    return not (history.lost or gone_steps(history.steps, extracts))


def gone_steps(steps: Sequence[Step], extracts: Sequence[Extract]) -> tuple[Step, ...]:
    """Return the steps whose tables are not in the mirror, or are other files now."""
    there = {extract.job: extract.sha256 for extract in extracts}
    return tuple(step for step in steps if there.get(step.job) != step.sha256)


def steps_after(listed: TableHistory, found: TableHistory) -> tuple[Step, ...]:
    """Return the steps that changed rows and that an older file, `found`, does not have."""
    return tuple(step for step in listed.steps if step.job not in found.jobs and (step.added or step.removed))


def is_of_other_table(listed: TableHistory, found: TableHistory) -> bool:
    """Say whether a file has a step to a job that is in the record with another table."""
    known = {step.job: step.sha256 for step in listed.steps}
    return any(known.get(step.job, step.sha256) != step.sha256 for step in found.steps)


def is_continued(listed: TableHistory, found: TableHistory) -> bool:
    """Say whether `listed` has the steps of a file and later ones that changed no row, and so did not write the file.

    Older versions of dcsync recorded no fingerprints.
    """
    count = len(found.steps)
    same = [replace(step, fingerprint=None) for step in listed.steps[:count]]
    return (
        listed.kind is found.kind
        and same == [replace(step, fingerprint=None) for step in found.steps]
        and not any(step.added or step.removed for step in listed.steps[count:])
    )


def table_name(path: str) -> str:
    """Return the name of a table's history, without `.parquet`, by the path of the table in its snapshot."""
    return re.sub(r"\.csv$", "", path, flags=re.IGNORECASE).replace("/", ".")


def merged_columns(known: Sequence[str], columns: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return all columns of a history after a step, and the names that a table's columns have in it.

    SQL does not tell names apart by their case. A column keeps the spelling with which it came.
    """
    spelled = {name.casefold(): name for name in known}
    for name in columns:
        spelled.setdefault(name.casefold(), name)
    return tuple(spelled.values()), tuple(spelled[name.casefold()] for name in columns)
