"""Mirrors with row histories."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from dcsync.app.from_config import account_settings
from dcsync.core.model import JobId
from dcsync.core.row_history import STATE_NAME, Extract, RequestState
from dcsync.core.row_history_json import parse_state
from dcsync.core.table import TableKind
from dcsync.manifest.broken import BrokenPart, BrokenParts
from dcsync.mirror.root import open_root
from dcsync.ops.context import HistorySettings
from dcsync.ops.history.build import Building, Options, Outcome, RequestTables
from dcsync.ops.history.catch_up import Chosen, HistoryReport, catch_up
from dcsync.ops.history.thread import Stopping
from tests.rigs.mirror import TODAY, Mirror, add_extract

ALL = HistorySettings(tables=("*",), memory=256 << 20)


async def add_day(mirror: Mirror, files: Mapping[str, Any], *, days_ago: float = 0.0, **options: Any) -> str:
    """Mirror a snapshot with these files, and return its job."""
    job = add_extract(mirror, files, days_ago=days_ago, **options)
    await mirror.sync()
    return job


async def build(mirror: Mirror, settings: HistorySettings = ALL, **chosen: Any) -> HistoryReport:
    """Bring all row histories up to date."""
    async with mirror.opened() as context:
        accounts = account_settings(mirror.configuration())
        return await catch_up(context, accounts, settings, chosen=Chosen(**chosen))


async def alerts(mirror: Mirror) -> list[BrokenPart]:
    """Return the alerts about row histories."""
    async with mirror.opened() as context:
        return [part for part in await BrokenParts(context.manifest, mirror.acme).load() if part.code == "R-HISTORY"]


def folder_of(mirror: Mirror) -> Path:
    """Return the folder of the only history."""
    (found,) = mirror.root.glob("[!.]*/*/*history")
    return found


def state_of(mirror: Mirror) -> RequestState:
    """Return what `history.json` says."""
    body = json.loads((folder_of(mirror) / "history.json").read_bytes())
    return parse_state(body, body["request"])


def forget_seals(folder: Path) -> None:
    """Make `history.json` one that an older version of dcsync wrote, which recorded no way to notice damage."""
    path = folder / STATE_NAME
    body = json.loads(path.read_bytes())
    for table in body["tables"].values():
        del table["sha256"]
        for step in table["steps"]:
            step.pop("fingerprint", None)
    path.write_text(json.dumps(body))


def rows_at(mirror: Mirror, table: str, moment: datetime | None = None) -> list[tuple[str | None, ...]]:
    """Return the rows of a table at a time, or now, sorted. A plain reader of Parquet files, as users have one."""
    return rows_in(folder_of(mirror), table, moment)


def rows_in(folder: Path, table: str, moment: datetime | None = None) -> list[tuple[str | None, ...]]:
    """Return the same of a history in this folder."""
    path = folder / f"{table}.parquet"
    # DuckDB would take the folders of the layout "hive" for columns.
    source, where = f"read_parquet('{path}', hive_partitioning = false)", "_valid_to IS NULL"
    if moment is not None:
        literal = f"TIMESTAMPTZ '{moment.isoformat()}'"
        where = f"_valid_from <= {literal} AND (_valid_to IS NULL OR {literal} < _valid_to)"
    with duckdb.connect() as connection:
        sql = f"SELECT * EXCLUDE (_valid_from, _valid_to) FROM {source} WHERE {where}"
        return sorted(connection.execute(sql).fetchall(), key=repr)


def steps_of(mirror: Mirror, table: str) -> Sequence[str]:
    """Return the jobs of a table's steps."""
    return [step.job for step in state_of(mirror).tables[table].steps]


def build_plain(
    root: Path,
    bodies: Mapping[str, Sequence[bytes]],
    *,
    kinds: Sequence[TableKind | None] = (TableKind.FULL,) * 9,
    **options: Any,
) -> Outcome:
    """Build the histories of these tables, each with the body of each day, in a root without a manifest."""
    tables: dict[str, list[Extract]] = {}
    jobs: list[JobId] = []
    for name, days in bodies.items():
        for day, body in enumerate(days):
            folder = root / f"acme/r/{day}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.csv").write_bytes(body)
            tables.setdefault(name, []).append(
                Extract(
                    job=JobId(f"job-{day}"),
                    time=TODAY + timedelta(days=day),
                    folder=f"acme/r/{day}",
                    name=f"{name}.csv",
                    size=len(body),
                    sha256=hashlib.sha256(body).hexdigest(),
                    rows=None,
                    kind=kinds[day],
                )
            )
        jobs = [extract.job for extract in tables[name]]
    request = RequestTables(
        request="r", slug="r", folder="acme/r/history", wanted=("*",), jobs=tuple(jobs), tables=tables
    )
    with open_root(root) as opened:
        return Building(opened, request, Options(memory=256 << 20, **options), Stopping()).run()
