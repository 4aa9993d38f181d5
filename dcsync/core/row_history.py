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

from dcsync.core.model import JobId, Json
from dcsync.core.snapshot import exact_time
from dcsync.core.table import TableKind
from dcsync.core.wire import WireError, parse_time

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
#: The counts of a comparison.
_COUNTS: Final = ("equal", "missing", "extra", "different")


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
    the rows that the step began and ended.
    """

    job: JobId
    time: datetime
    sha256: str
    rows: int
    digest: str
    columns: tuple[str, ...]
    added: int = 0
    removed: int = 0


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
    #: How a delta table compares with a full extract.
    checked: Check | None = None

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
    there = {extract.job: extract.sha256 for extract in extracts}
    return all(there.get(step.job) == step.sha256 for step in history.steps)


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


# --- JSON -----------------------------------------------------------------------------------------------------------


def state_json(request: str, state: RequestState) -> dict[str, Json]:
    """Return the content of `history.json`."""
    return {
        "format": FORMAT,
        "request": request,
        "wanted": list(state.wanted),
        "jobs": list(state.jobs),
        "tables": {name: table_json(state.tables[name]) for name in sorted(state.tables)},
    }


def parse_state(value: Json, request: str) -> RequestState:
    """Parse `history.json`. Raises `WireError` if it is damaged, of another format, or of another data request."""
    entry = _mapping(value)
    if entry.get("format") != FORMAT or entry.get("request") != request:
        raise WireError("it has another format, or belongs to another data request")
    return RequestState(
        tables={name: parse_table(table) for name, table in _mapping(entry.get("tables")).items()},
        wanted=tuple(map(str, _list(entry.get("wanted")))),
        jobs=tuple(JobId(str(job)) for job in _list(entry.get("jobs"))),
    )


def table_json(history: TableHistory) -> dict[str, Json]:
    """Return a table's history as JSON. A step leaves out what is the same as in the step before."""
    steps: list[Json] = []
    before: Mapping[str, Json] = {}
    for step in history.steps:
        whole: dict[str, Json] = {
            "job": step.job,
            "time": exact_time(step.time),
            "sha256": step.sha256,
            "rows": step.rows,
            "digest": step.digest,
            "columns": list(step.columns),
        }
        counts: dict[str, Json] = {"added": step.added, "removed": step.removed}
        changed = {key: each for key, each in whole.items() if before.get(key) != each}
        steps.append({**changed, **{key: each for key, each in counts.items() if each}})
        before = whole
    found: dict[str, Json] = {"format": FORMAT, "kind": history.kind.value, "steps": steps}
    if history.omitted:
        found["omitted"] = [{"job": omission.job, "reason": omission.reason} for omission in history.omitted]
    if history.waits is not None:
        wait = history.waits
        found["waits"] = {"job": wait.job, "path": wait.path, "sha256": wait.sha256, "reason": wait.reason}
    if history.file is not None:
        found["file"] = list(history.file)
    if history.checked is not None:
        found["checked"] = check_json(history.checked)
    return found


def check_json(check: Check) -> dict[str, Json]:
    """Return a comparison as JSON."""
    counts: dict[str, Json] = {name: getattr(check, name) for name in _COUNTS}
    return {"job": check.job, "time": exact_time(check.time), "path": check.path, "step": check.step, **counts}


def parse_table(value: Json) -> TableHistory:
    """Parse a table's history. Raises `WireError` if it is damaged or of another format."""
    entry = _mapping(value)
    if entry.get("format") != FORMAT:
        raise WireError(f"its format is {entry.get('format')}, and this version of dcsync has format {FORMAT}")
    try:
        kind = TableKind(str(entry.get("kind")))
    except ValueError:
        raise WireError("it has no kind of table") from None
    steps: list[Step] = []
    whole: Mapping[str, Json] = {}
    for each in _list(entry.get("steps")):
        whole = {**whole, "added": 0, "removed": 0, **_mapping(each)}
        steps.append(_step(whole))
    waits, file, checked = entry.get("waits"), entry.get("file"), entry.get("checked")
    return TableHistory(
        kind=kind,
        steps=tuple(steps),
        omitted=tuple(
            Omission(job=JobId(_text(item, "job")), reason=_text(item, "reason"))
            for item in map(_mapping, _list(entry.get("omitted", ())))
        ),
        waits=None if waits is None else _wait(_mapping(waits)),
        file=None if file is None else _pair(_list(file)),
        checked=None if checked is None else _check(_mapping(checked)),
    )


def _step(entry: Mapping[str, Json]) -> Step:
    return Step(
        job=JobId(_text(entry, "job")),
        time=_time(entry),
        sha256=_text(entry, "sha256"),
        rows=_count(entry.get("rows")),
        digest=_text(entry, "digest"),
        columns=tuple(map(str, _list(entry.get("columns")))),
        added=_count(entry.get("added")),
        removed=_count(entry.get("removed")),
    )


def _wait(entry: Mapping[str, Json]) -> Wait:
    return Wait(
        job=JobId(_text(entry, "job")),
        path=_text(entry, "path"),
        sha256=_text(entry, "sha256"),
        reason=_text(entry, "reason"),
    )


def _check(entry: Mapping[str, Json]) -> Check:
    equal, missing, extra, different = (_count(entry.get(name)) for name in _COUNTS)
    return Check(
        job=JobId(_text(entry, "job")),
        time=_time(entry),
        path=_text(entry, "path"),
        step=JobId(_text(entry, "step")),
        equal=equal,
        missing=missing,
        extra=extra,
        different=different,
    )


def _time(entry: Mapping[str, Json]) -> datetime:
    time = parse_time(entry.get("time"))
    if time is None:
        raise WireError("a step has no time")
    return time


def _pair(values: Sequence[Json]) -> tuple[int, int]:
    if len(values) != 2:
        raise WireError("a file has no size and time")
    return _count(values[0]), _count(values[1])


def _mapping(value: Json) -> Mapping[str, Json]:
    if not isinstance(value, Mapping):
        raise WireError("something is not an object")
    return value


def _list(value: Json) -> Sequence[Json]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise WireError("something is not a list")
    return value


def _text(entry: Mapping[str, Json], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        raise WireError(f"{key} is not a text")
    return value


def _count(value: Json) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise WireError("something is not a number")
    return value
