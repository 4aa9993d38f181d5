"""Which full extract a delta table is compared with. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime

from dcsync.core.model import DataRequest
from dcsync.core.row_history import Extract, Step, TableHistory
from dcsync.core.table import TableKind


def full_names(name: str) -> tuple[str, ...]:
    """Return the file names, in lower case, that the full table of a delta table may have, by its history's name.

    A data request for delta groups without a period gives full tables of the same name.
    """
    same = f"{name}.csv".casefold()
    return tuple(dict.fromkeys((same, re.sub(r"^cdc(v2)?", "", same))))


def has_same_projects(one: DataRequest | None, other: DataRequest | None) -> bool:
    """Say whether two data requests are known to be for the same projects."""
    return one is not None and other is not None and _projects(one) == _projects(other)


def full_extracts(
    name: str, history: TableHistory, fulls: Mapping[str, Sequence[Extract]], *, retries: bool = False
) -> list[Extract]:
    """Return the full extracts to compare a table with, the best first: the newest ones, until the last comparison.

    `fulls` has the full tables by their names in lower case. The list is empty while the table waits for an extract.
    With `retries`, those that could not be compared are among them.
    """
    if history.kind is not TableKind.DELTA or history.waits is not None:
        return []
    found = sorted(
        (full for name in full_names(name) for full in fulls.get(name, ())),
        key=lambda full: (full.time, full.job),
        reverse=True,
    )
    due: list[Extract] = []
    for full in found:
        step = step_at(history, full.time)
        checked = history.checked
        if step is not None and (full.job, step.job) == (None if retries else history.tried):
            break
        if checked is not None and step is not None and (checked.job, checked.step) == (full.job, step.job):
            break
        if step is not None:
            due.append(full)
    return due


def step_at(history: TableHistory, moment: datetime) -> Step | None:
    """Return the last step at a time or before it."""
    return next((step for step in reversed(history.steps) if step.time <= moment), None)


def _projects(request: DataRequest) -> tuple[frozenset[str], str | None]:
    return request.projects, request.project_status
