"""Decide which tables of an extract have all rows, the rows of a period, or only changed rows. Pure.

The decision must never call a table full that is not: `[keep]` deletes full tables, because a newer extract has their
rows. What is known about the tables of Autodesk is in docs/project/api.md §8.
"""

from __future__ import annotations

import re
from dataclasses import replace

from dcsync.core.model import DataRequest, Job, Json
from dcsync.core.table import TableKind, is_table

#: The schema document of a table that a period limits has this sentence (docs/project/api.md §8).
SUPPORTED = re.compile(r"date\s+range\s+extractions?\s+supported", re.IGNORECASE)
#: A table whose schema document names a default is limited to a period even if the data request names none.
_DEFAULT = re.compile(r"default\s+date\s+range", re.IGNORECASE)


def kind_of(name: str, request: DataRequest | None, schema: str | None = None) -> TableKind | None:
    """Return the kind of a file by its original name, its data request, and the text of its own schema document.

    None for a file that is not a table. None also when the data request is unknown and the name does not tell: such a
    table may be a delta. Without `schema`, the prefixes `activities_` and `cdc…` decide. A `schema` without a sentence
    about date ranges says that the table has all rows.
    """
    if not is_table(name):
        return None
    group = group_of(name)
    if group.startswith("cdc"):
        return TableKind.DELTA if request is None or request.has_dates else TableKind.FULL
    if _is_window(group, request, schema):
        return TableKind.WINDOW
    if request is None:
        return None
    groups = {name.lower() for name in request.service_groups}
    # A table that no other service group explains comes from the delta groups, whatever its name.
    if request.is_delta and not groups & {"all", group}:
        return TableKind.DELTA
    return TableKind.FULL


def request_of(job: Job, request: DataRequest) -> DataRequest:
    """Return a data request with the dates of one of its jobs, if the job has any.

    The manifest may know the data request as it was before its user added a period. The job is never out of date.
    """
    if job.start_date is None and job.end_date is None:
        return request
    return replace(request, start_date=job.start_date, end_date=job.end_date)


def is_delta(job: Job, request: DataRequest | None) -> bool:
    """Say whether the extract of a job has only changed rows, as far as its dates and the data request tell."""
    return request is not None and request_of(job, request).is_delta


def group_of(name: str) -> str:
    """Return the service group of a table in lower case: the first part of `<group>_<table>.csv`."""
    return name.rpartition("/")[2].partition("_")[0].removesuffix(".csv").lower()


def parse_kind(value: Json) -> TableKind | None:
    """Parse a recorded kind. None for a missing kind, or one of a newer version."""
    return next((kind for kind in TableKind if kind == value), None)


def _is_window(group: str, request: DataRequest | None, schema: str | None) -> bool:
    if schema is None:
        return group == "activities"
    is_limited = request is None or request.has_dates or _DEFAULT.search(schema) is not None
    return is_limited and SUPPORTED.search(schema) is not None
