"""Completion of account names and data requests in a shell. A problem completes nothing, and prints nothing."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from dcsync.errors import DcsyncError


def account_names(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the accounts of the configuration."""
    from dcsync.config import load

    try:
        accounts = load(_config_of(ctx), environ=os.environ).accounts
    except DcsyncError:
        return []
    return [CompletionItem(each.name) for each in accounts if each.name.startswith(incomplete)]


def request_ids(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the IDs of the data requests that the manifest knows, with their descriptions."""
    import asyncio

    from dcsync.app.status import read_status
    from dcsync.cluster import stores_for
    from dcsync.config import load

    try:
        config = load(_config_of(ctx), environ=os.environ)
        status = asyncio.run(read_status(config, stores_for(config, os.environ)))
    except DcsyncError:
        return []
    requests = [request for account in status.accounts for request in account.requests]
    return [
        CompletionItem(each.request, help=each.description) for each in requests if each.request.startswith(incomplete)
    ]


def load_names(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the loads of the configuration, and the word `status`."""
    from dcsync.config import load

    try:
        names = [each.name for each in load(_config_of(ctx), environ=os.environ).loads]
    except DcsyncError:
        names = []
    return [CompletionItem(name) for name in [*names, "status"] if name.startswith(incomplete)]


def table_names(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the tables of the newest snapshots, without `.csv`."""
    from dcsync.config import load
    from dcsync.core.table import has_rows
    from dcsync.core.table_names import stem

    try:
        root = Path(load(_config_of(ctx), environ=os.environ).mirror.root)
        found = {stem(path.name) for path in root.glob("*/*/*latest/*.csv") if has_rows(path.name)}
    except (DcsyncError, OSError):
        return []
    return [CompletionItem(name) for name in sorted(found) if name.startswith(incomplete)]


def _config_of(ctx: click.Context) -> Path | None:
    found = ctx.find_root().params.get("config")
    return found if isinstance(found, Path) else None
