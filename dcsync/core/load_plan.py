"""Which tables a load has to bring up to date, and under which names in the target. Pure.

A load shows the newest state of each table. Days that the target missed are not loaded one by one: with `latest` they
would be replaced at once, and the row history has them all in one file. A table never goes back to an older snapshot,
and a table that the newest snapshot lacks stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import count
from typing import Final

from dcsync.core.load_settings import LoadSettings
from dcsync.core.loads import LoadMode, Shown
from dcsync.core.model import AccountName, JobId, RequestId
from dcsync.core.table import TableKind

_KINDS: Final = {
    TableKind.WINDOW: "one snapshot has only the rows of a period",
    TableKind.DELTA: "one snapshot has only changed rows",
}
#: The table of the target that says which snapshot each table shows.
LOADS: Final = "_dcsync_loads"
_NOT_A_NAME: Final = re.compile(r"\W+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """The newest state of a table of a data request: a CSV file of a snapshot, or a row history.

    `path` is the file below the root, and `sha256` as in `Shown`. `rows` are those of the snapshot, if they are known.
    `earlier` has the states of a row history before.
    """

    account: AccountName
    request: RequestId
    name: str
    path: str
    job: JobId
    completed: datetime
    sha256: str
    rows: int | None
    kind: TableKind | None
    earlier: frozenset[str] = frozenset()


class Action(StrEnum):
    """What a load does about a table."""

    #: Load its rows.
    LOAD = "load"
    #: Load the rows that changed since the state that the target shows.
    CHANGES = "changes"
    #: Record that it shows a newer snapshot with the same rows.
    MARK = "mark"
    #: It is up to date.
    KEEP = "keep"
    #: It is left out.
    SKIP = "skip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A table, its name in the target, and what the load does about it. `shown` is what the target shows now."""

    table: str
    candidate: Candidate
    action: Action
    shown: Shown | None = None
    #: Why the table is left out.
    reason: str = ""

    @property
    def writes(self) -> bool:
        """Whether the target changes."""
        return self.action in {Action.LOAD, Action.CHANGES, Action.MARK}

    def shows(self, mode: LoadMode) -> Shown:
        """Return what the table shows after the load. `rows` is the number that must be loaded, if it is known."""
        found = self.candidate
        rows = found.rows if mode is LoadMode.LATEST else None
        if self.action is Action.MARK and self.shown is not None:
            rows = self.shown.rows
        return Shown(
            table=self.table,
            mode=mode,
            account=found.account,
            request=found.request,
            job=found.job,
            completed=found.completed,
            sha256=found.sha256,
            rows=rows,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """The tables of a load by their names in the target, and those that only the target has."""

    tables: tuple[Planned, ...]
    gone: tuple[Shown, ...] = ()


def plan(
    settings: LoadSettings, candidates: Sequence[Candidate], shown: Mapping[str, Shown], *, is_full: bool = False
) -> LoadPlan:
    """Return what a load does. `is_full` loads all rows of every table again."""
    wanted = [each for each in candidates if _left_out(settings.mode, each) is None]
    names = target_names(wanted, shown)
    tables = [_planned(settings.mode, each, table, shown.get(table), is_full) for table, each in names.items()]
    tables += [
        Planned(table=each.name, candidate=each, action=Action.SKIP, reason=reason)
        for each in candidates
        if (reason := _left_out(settings.mode, each)) is not None
    ]
    requests = {each.request for each in candidates}
    gone = (
        each
        for each in shown.values()
        if each.table not in names and each.request in requests and settings.wants_table(f"{_plain(each)}.csv")
    )
    return LoadPlan(
        tables=tuple(sorted(tables, key=lambda each: (each.candidate.completed, each.table))),
        gone=tuple(sorted(gone, key=lambda each: each.table)),
    )


def target_names(candidates: Sequence[Candidate], shown: Mapping[str, Shown]) -> dict[str, Candidate]:
    """Return the tables by their names in the target, each name once, however SQL compares names.

    A table has the name of its file. If several data requests have a table of that name, it belongs to the one that
    the target shows there, or else to the first one. The others add `__` and the beginning of their ID. A table keeps
    the name under which the target shows it.
    """
    found: dict[str, Candidate] = {}
    taken = {LOADS}
    left: list[Candidate] = []
    accounts = {each.account for each in candidates}
    for each in candidates:
        own = (name for name in _names(each) if _is_of(shown.get(name), each, accounts))
        name = next((name for name in own if name.casefold() not in taken), None)
        if name is None:
            left.append(each)
        else:
            found[name] = each
            taken.add(name.casefold())
    # A name in the target belongs to its table, also while the mirror does not have that table.
    taken |= {name.casefold() for name in shown}
    for each in left:
        numbered = (f"{each.name}__{number}" for number in count(2))
        name = next(name for names in (_names(each), numbered) for name in names if name.casefold() not in taken)
        found[name] = each
        taken.add(name.casefold())
    return found


def _names(candidate: Candidate) -> Iterator[str]:
    beginning = _NOT_A_NAME.sub("", candidate.request[:8])
    account = _NOT_A_NAME.sub("_", candidate.account)
    yield candidate.name
    yield f"{candidate.name}__{beginning}"
    yield f"{candidate.name}__{account}_{beginning}"


def _is_of(shown: Shown | None, candidate: Candidate, accounts: Collection[AccountName]) -> bool:
    """Say whether a table in the target is of this data request, also if its account had another name then."""
    if shown is None or shown.request != candidate.request:
        return False
    return shown.account == candidate.account or shown.account not in accounts


def _plain(shown: Shown) -> str:
    """Return the name of a table in the target without what tells data requests apart."""
    return shown.table.partition("__")[0]


def _left_out(mode: LoadMode, candidate: Candidate) -> str | None:
    """Return why a table is left out, or None."""
    if mode is LoadMode.HISTORY or candidate.kind not in _KINDS:
        return None
    return f'it is a {candidate.kind} table: {_KINDS[candidate.kind]}. A load with mode = "history" has all rows'


def _planned(mode: LoadMode, candidate: Candidate, table: str, shown: Shown | None, is_full: bool) -> Planned:  # noqa: FBT001 - private
    action = Action.LOAD if is_full else _action(mode, candidate, shown)
    return Planned(table=table, candidate=candidate, action=action, shown=shown)


def _action(mode: LoadMode, candidate: Candidate, shown: Shown | None) -> Action:
    if shown is None or shown.mode is not mode:
        return Action.LOAD
    if shown.completed > candidate.completed:
        # The mirror went back, for example to a backup. The target has the newer rows.
        return Action.KEEP
    if shown.sha256 == candidate.sha256:
        return Action.KEEP if shown.job == candidate.job else Action.MARK
    # Otherwise the history began again, and any of its rows may differ.
    return Action.CHANGES if shown.sha256 in candidate.earlier else Action.LOAD
