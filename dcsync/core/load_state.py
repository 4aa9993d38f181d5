"""What the manifest remembers about the last attempt of a load, as JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from dcsync.core.model import Json
from dcsync.core.wire import WireError, decode_json, parse_time, time_json


@dataclass(frozen=True, slots=True, kw_only=True)
class TableState:
    """A table of a load. `job` and the times are those that the target shows, None before its first load.

    `note` says why it is left out, or that the newest snapshot lacks it. `problem` says why it is not up to date.
    """

    table: str
    account: str | None = None
    request: str | None = None
    job: str | None = None
    completed: datetime | None = None
    rows: int | None = None
    loaded_at: datetime | None = None
    note: str | None = None
    problem: str | None = None

    def json(self) -> dict[str, Json]:
        """Return the state as JSON."""
        return {
            "table": self.table,
            "account": self.account,
            "request": self.request,
            "job": self.job,
            "completed_at": time_json(self.completed),
            "rows": self.rows,
            "loaded_at": time_json(self.loaded_at),
            "note": self.note,
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadState:
    """The last attempt of a load. `attempts` counts those that failed since the last one that did not.

    `seen` identifies what that attempt had to load. `target` is the address without its secrets.
    """

    target: str = ""
    attempts: int = 0
    tried_at: datetime | None = None
    done_at: datetime | None = None
    next_try_at: datetime | None = None
    problem: str | None = None
    hint: str | None = None
    seen: str = ""
    tables: Sequence[TableState] = ()

    def json(self) -> dict[str, Json]:
        """Return the state as JSON, with the keys of `dcsync load status --json`."""
        return {
            "target": self.target,
            "failed_attempts": self.attempts,
            "tried_at": time_json(self.tried_at),
            "done_at": time_json(self.done_at),
            "next_try_at": time_json(self.next_try_at),
            "problem": self.problem,
            "hint": self.hint,
            "tables": [table.json() for table in self.tables],
        }


def state_text(state: LoadState) -> str:
    """Return a state as text for the manifest."""
    return json.dumps({**state.json(), "seen": state.seen}, separators=(",", ":"))


def parse_state(text: str | None) -> LoadState:
    """Return the state. One that this version cannot read, or that is missing, is empty."""
    try:
        entry = _mapping(decode_json((text or "{}").encode()))
        tables = entry.get("tables")
        return LoadState(
            target=_text(entry, "target") or "",
            attempts=_number(entry, "failed_attempts") or 0,
            tried_at=parse_time(entry.get("tried_at")),
            done_at=parse_time(entry.get("done_at")),
            next_try_at=parse_time(entry.get("next_try_at")),
            problem=_text(entry, "problem"),
            hint=_text(entry, "hint"),
            seen=_text(entry, "seen") or "",
            tables=tuple(map(_table, tables)) if isinstance(tables, list) else (),
        )
    except WireError:
        return LoadState()


def _table(value: Json) -> TableState:
    entry = _mapping(value)
    return TableState(
        table=_text(entry, "table") or "",
        account=_text(entry, "account"),
        request=_text(entry, "request"),
        job=_text(entry, "job"),
        completed=parse_time(entry.get("completed_at")),
        rows=_number(entry, "rows"),
        loaded_at=parse_time(entry.get("loaded_at")),
        note=_text(entry, "note"),
        problem=_text(entry, "problem"),
    )


def _mapping(value: Json) -> Mapping[str, Json]:
    if not isinstance(value, Mapping):
        raise WireError("the state of a load is not an object")
    return value


def _text(entry: Mapping[str, Json], key: str) -> str | None:
    value = entry.get(key)
    return value if isinstance(value, str) else None


def _number(entry: Mapping[str, Json], key: str) -> int | None:
    value = entry.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
