"""Mirrors whose manifest is rebuilt."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.rigs.mirror import Mirror, add_extract, tables
from tests.rigs.sqlite import FILE_VIEW


def manifest_file(mirror: Mirror) -> Path:
    return mirror.state / "manifest.sqlite"


def drop_manifest(mirror: Mirror) -> None:
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()


def rows(mirror: Mirror) -> dict[str, list[dict[str, Any]]]:
    """Return all that the tree can give back: every row but the API's description of a request."""
    with closing(sqlite3.connect(manifest_file(mirror))) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute(FILE_VIEW)
        found = {
            table: [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3")]  # noqa: S608 - our tables
            for table in ("job", "file", "request")
        }
    for row in found["job"]:
        # A rebuild may number the contents otherwise. The digest covers what they are.
        del row["files"]
    for row in found["request"]:
        # It holds the address to call back, which is nobody's business who reads the mirror.
        del row["document"], row["digest"]
    return found


async def fill(mirror: Mirror) -> None:
    """Make a mirror of two requests and a delta one, over three days, with names that have to be escaped."""
    first = mirror.world.add_request("My Company Data Extract")
    second = mirror.world.add_request("Größe: <2>")
    delta = mirror.world.add_request("Changes", service_groups=("cdcadmin",), date_range="YESTERDAY")
    for day in range(3):
        add_extract(mirror, {**tables(3), "con.csv": b"x" * day, "a:b.csv": b""}, request=first, days_ago=3 - day)
        add_extract(mirror, tables(4, seed=day), request=second, days_ago=2.7 - day, with_archive=True)
        mirror.clock.advance(0.123456)
    add_extract(mirror, {"cdc.csv": b"1"}, request=delta, days_ago=0.5)
    await mirror.sync()
    assert len(mirror.snapshots()) == 7


async def reopen(mirror: Mirror) -> None:
    """Start once, and read all there is, as a run would."""
    async with mirror.opened() as context:
        for account in await context.manifest.accounts():
            await context.manifest.facts(account)
            await context.manifest.jobs(account)
            await context.manifest.requests(account)
