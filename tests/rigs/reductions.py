"""Mirrors with full tables and windows, which are reduced."""

from __future__ import annotations

import csv
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from dcsync.app.from_config import account_settings
from dcsync.app.mirror import open_mirror_unlocked
from dcsync.core.retention import KeepPolicy
from dcsync.ops.integrity.prune import PruneReport, prune
from dcsync.ops.integrity.verify import verify
from tests.rigs.mirror import Mirror, add_extract, tables
from tests.rigs.sqlite import FILE_VIEW

DAYS = 10
#: Rows a day, and in all days.
ROWS = 120
WINDOWS = ("activities_docs.csv", "activities_issues.csv")
FULL = ("admin_table_000.csv", "admin_table_001.csv")
LARGE = 40_000


def window(name: str, day: int) -> bytes:
    """Return the rows of one day, which no other day has."""
    return b"id,table,day\n" + b"".join(b"%d,%s,%d\n" % (row, name.encode(), day) for row in range(ROWS // 2))


async def fill(mirror: Mirror, days: int = DAYS, **options: Any) -> list[str]:
    """Mirror daily extracts of all service groups, oldest first: the full tables differ every day."""
    if not mirror.world.requests:
        mirror.world.add_request("Everything", service_groups=("all",))
    jobs = []
    for day in range(days):
        files = {
            "README.html": b"<html>",
            **tables(2, size=LARGE, seed=day),
            **{name: window(name, day) for name in WINDOWS},
        }
        jobs.append(add_extract(mirror, files, days_ago=days - day, **options))
    await mirror.sync()
    return jobs


async def pruned(mirror: Mirror, policy: KeepPolicy | None = None, **options: Any) -> PruneReport:
    async with mirror.opened() as context:
        accounts = account_settings(mirror.configuration())
        return await prune(context, accounts, policy or KeepPolicy(daily=3), **{"force": True, **options})


def activity_rows(mirror: Mirror) -> set[tuple[str, ...]]:
    """Return the distinct rows of all activities tables that a reader finds in the mirror."""
    return {
        tuple(row)
        for path in mirror.root.glob("acme/*/2026/*/*/*/activities_*.csv")
        for row in list(csv.reader(path.read_text().splitlines()))[1:]
    }


def full_tables(mirror: Mirror) -> list[Path]:
    return sorted(mirror.root.glob("acme/*/2026/*/*/*/admin_*.csv"))


async def damage(mirror: Mirror) -> list[str]:
    async with open_mirror_unlocked(mirror.configuration(), mirror.stores(), clock=mirror.clock) as context:
        report = await verify(context, account_settings(mirror.configuration()))
    return [f"{item.kind} {item.path}: {item.detail}" for item in report.damage]


def rows_of(mirror: Mirror) -> dict[str, list[dict[str, Any]]]:
    with closing(sqlite3.connect(mirror.state / "manifest.sqlite")) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute(FILE_VIEW)
        found = {
            table: [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3")]  # noqa: S608
            for table in ("job", "file")
        }
    for row in found["job"]:
        # A rebuild may number the contents otherwise. The digest covers what they are.
        del row["files"]
    return found
