"""What a row history records, as JSON: `history.json`, and the steps in the metadata of a Parquet file. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from dcsync.core.model import JobId, Json
from dcsync.core.row_history import (
    FORMAT,
    NO_ROWS,
    Check,
    Omission,
    RequestState,
    Step,
    TableHistory,
    Wait,
)
from dcsync.core.snapshot import exact_time
from dcsync.core.table import TableKind
from dcsync.core.wire import WireError, parse_time

#: The counts of a comparison.
_COUNTS: Final = ("equal", "missing", "extra", "different")


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
        if step.added:
            counts["fingerprint"] = step.fingerprint
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
    if history.sha256 is not None:
        found["sha256"] = history.sha256
    if history.lost:
        found["lost"] = list(history.lost)
    if history.checked is not None:
        found["checked"] = check_json(history.checked)
    if history.tried is not None:
        found["tried"] = list(history.tried)
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
        whole = {**whole, "added": 0, "removed": 0, "fingerprint": None, **_mapping(each)}
        steps.append(_step(whole, kind))
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
        sha256=_text_or_none(entry, "sha256"),
        lost=tuple(map(str, _list(entry.get("lost", ())))),
        checked=None if checked is None else _check(_mapping(checked)),
        tried=_tried(entry.get("tried")),
    )


def _step(entry: Mapping[str, Json], kind: TableKind) -> Step:
    added = _count(entry.get("added"))
    return Step(
        job=JobId(_text(entry, "job")),
        time=_time(entry),
        sha256=_text(entry, "sha256"),
        rows=_count(entry.get("rows")),
        digest=_text(entry, "digest"),
        columns=tuple(map(str, _list(entry.get("columns")))),
        added=added,
        removed=_count(entry.get("removed")),
        fingerprint=NO_ROWS if kind is TableKind.WINDOW and not added else _text_or_none(entry, "fingerprint"),
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


def _tried(value: Json) -> tuple[JobId, JobId] | None:
    if value is None:
        return None
    jobs = [JobId(str(job)) for job in _list(value)]
    if len(jobs) != 2:
        raise WireError("a comparison that failed has no two jobs")
    return jobs[0], jobs[1]


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


def _text_or_none(entry: Mapping[str, Json], key: str) -> str | None:
    return None if entry.get(key) is None else _text(entry, key)


def _count(value: Json) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise WireError("something is not a number")
    return value
