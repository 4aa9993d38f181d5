"""The files that a run writes for readers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb

from dcsync.core.model import AccountId, AccountName
from dcsync.ops.alerts.collect import AlertSources
from dcsync.ops.context import AccountSettings, SyncContext
from dcsync.ops.mirroring.outcome import AccountOutcome
from dcsync.ops.page import write_report
from dcsync.ops.status import account_statuses
from tests.rigs.mirror import Mirror, add_extract

ACME = AccountName("acme")


async def write(context: SyncContext, *, retired: tuple[str, ...] = (), **options: Any) -> None:
    """Write the report as what follows a run does."""
    account = AccountSettings(name=ACME, id=AccountId("acme"), retired=retired)
    sources = AlertSources(account=account, root=context.root.path, **options)
    statuses = await account_statuses(context.manifest, [sources], context.clock.now(), stale_after=timedelta(days=2))
    await write_report(context, statuses, stale_after=timedelta(days=2))


async def report(mirror: Mirror) -> str:
    """Write the report and return the page."""
    async with mirror.opened() as context:
        await write(context)
    return (mirror.root / "index.html").read_text()


async def days(mirror: Mirror, *bodies: bytes, name: str = "a.csv", **options: Any) -> list[AccountOutcome]:
    """Publish one snapshot a day with these bodies of one table, the last one today."""
    outcomes = []
    for index, body in enumerate(bodies):
        add_extract(mirror, {name: body}, days_ago=len(bodies) - 1 - index, **options)
        outcomes.append(await mirror.sync_one())
    return outcomes


def rows(count: int, header: bytes = b"id") -> bytes:
    return header + b"\n" + b"1\n" * count


@contextmanager
def views_of(root: Path, *before: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """Read `views.sql` as a user does, after these statements."""
    with duckdb.connect() as connection:
        for statement in before:
            connection.execute(statement)
        connection.execute((root / "views.sql").read_text(encoding="utf-8"))
        yield connection


def ask(mirror: Mirror, question: str) -> list[Any]:
    """Read `views.sql` as a user does, and ask."""
    with views_of(mirror.root) as connection:
        return connection.execute(question).fetchall()


def schema_of(**types: str) -> bytes:
    """Return the page of a schema with one table `a`, whose columns have these types."""
    rows = "".join(f"<tr><td>{name}</td><td>{kind}</td></tr>" for name, kind in types.items())
    return f"<h2>a</h2><table><tr><th>column_name</th><th>data_type</th></tr>{rows}</table>".encode()
