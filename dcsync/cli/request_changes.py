"""Create, change and delete data requests for `dcsync requests`, and print what was done."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dcsync.api.client import DataConnector
    from dcsync.config import Config
    from dcsync.core.model import DataRequest, Json
    from dcsync.core.new_request import NewRequest, RequestChanges
    from dcsync.ops.context import AccountSettings
    from dcsync.ops.requests import JobsLeft


@dataclass(frozen=True, slots=True)
class Change:
    """A command that changes something: its configuration, its account and its options."""

    config: Config
    account: AccountSettings
    options: Mapping[str, Any]

    @property
    def as_json(self) -> bool:
        """Whether the answer is printed as JSON."""
        return bool(self.options["as_json"])

    @property
    def is_dry(self) -> bool:
        """Whether the call is only shown."""
        return bool(self.options["dry_run"])

    @asynccontextmanager
    async def api(self, *, reads: bool = False) -> AsyncIterator[DataConnector]:
        """Open the API, to read only in a dry run or with `reads`."""
        from dcsync.app.api import open_api
        from dcsync.cli.login import Terminal
        from dcsync.cluster import stores_for

        person = None if reads or self.is_dry else Terminal(opens_browser=not self.options["no_browser"])
        stores = stores_for(self.config, os.environ)
        async with open_api(self.config, stores, environ=os.environ, changer=person) as opened:
            yield opened.client

    def path(self, found: DataRequest | None = None) -> str:
        """Return the path of the call that a dry run shows."""
        return f"/data-connector/v1/accounts/{self.account.id}/requests" + ("" if found is None else f"/{found.id}")


async def create_request(change: Change, wanted: NewRequest) -> int:
    """Create a data request, or find the one that an earlier attempt created, and print it."""
    from dcsync.app.pending_requests import PendingRequests
    from dcsync.clock import SystemClock
    from dcsync.core.new_request import create_json, problems_of
    from dcsync.errors import ConfigError, DcsyncError, Unconfirmed
    from dcsync.ops.requests import create, jobs_left

    problems = problems_of(wanted)
    if problems:
        message = f"the data request cannot be created: {'; '.join(problems)}"
        raise ConfigError(message, hint="change these options")
    if change.is_dry:
        return _show_call("POST", change.path(), create_json(wanted), as_json=change.as_json)
    pending, clock = PendingRequests(Path(change.config.state.dir)), SystemClock()
    async with change.api() as api:
        since = pending.begun(change.account.id, wanted)
        if since is None:
            pending.note(change.account.id, wanted, clock.now())
        else:
            click.echo("dcsync: looking for the data request of an earlier attempt …", err=True)
        try:
            made = await create(api, change.account, wanted, clock=clock, since=since)
        except Unconfirmed as error:
            hint = "run the same command again. It looks for the data request before it creates one"
            raise Unconfirmed(error.message, hint=hint) from None
        except DcsyncError:
            if since is None:
                # Nothing was created, and nothing has to be looked up.
                pending.forget(change.account.id, wanted)
            raise
        pending.forget(change.account.id, wanted)
        left = await jobs_left(api, change.account, clock=clock)
    return _report_created(change, made.request, left, was_there=made.was_there)


def _report_created(change: Change, made: DataRequest, left: JobsLeft, *, was_there: bool) -> int:
    from dcsync.cli.output import print_json
    from dcsync.core.names import printable
    from dcsync.core.wire import request_json

    if change.as_json:
        print_json({"request": _masked(request_json(made)), "was_there": was_there, "jobs_left": left.count})
        return 0
    click.echo(f"{'found' if was_there else 'created'} data request {made.id}: {printable(made.description, 80)}")
    click.echo(f"  service groups  {', '.join(made.service_groups)}")
    click.echo(f"  schedule        {_schedule_text(made)}")
    click.echo(f"  jobs left       {left.count} of 24 in these 24 hours")
    names = change.account.requests
    if names and not change.account.selects(made.id, made.description):
        click.secho(
            f"dcsync: requests of the account {change.account.name} does not select it: add {made.id!r}",
            fg="yellow",
            err=True,
        )
    return 0


def _schedule_text(request: DataRequest) -> str:
    from dcsync.cli.output import time_text

    begin = time_text(request.effective_from)
    if request.schedule_interval in {None, "ONE_TIME"}:
        return f"once, {begin}"
    unit = (request.schedule_interval or "").lower()
    number = request.recurring_interval or 1
    return f"every {unit if number == 1 else f'{number} {unit}s'}, {begin} to {time_text(request.effective_to)}"


async def update_request(change: Change, word: str, changes: Callable[[DataRequest], RequestChanges]) -> int:
    """Change the data request that `word` names, and print it."""
    from dcsync.cli.output import print_json
    from dcsync.core.names import printable
    from dcsync.core.new_request import update_json
    from dcsync.core.wire import request_json
    from dcsync.ops.requests import find_request

    async with change.api() as api:
        found = await find_request(api, change.account, word)
        wanted = changes(found)
        if change.is_dry:
            return _show_call("PATCH", change.path(found), update_json(found, wanted), as_json=change.as_json)
        changed = await api.update_request(change.account.id, found, wanted)
    if change.as_json:
        print_json({"request": _masked(request_json(changed))})
        return 0
    click.echo(f"changed data request {changed.id}: {printable(changed.description, 80)}")
    click.echo(f"  active          {'yes' if changed.is_active else 'no'}")
    click.echo(f"  schedule        {_schedule_text(changed)}")
    if changed.callback_url or wanted.callback_url is not None:
        url = _masked(request_json(changed))["callbackUrl"]
        click.echo(f"  callback        {printable(str(url or 'none'), 200)}")
    return 0


async def delete_request(change: Change, word: str, *, is_sure: bool) -> int:
    """Delete the data request that `word` names, after asking."""
    from dcsync.cli.output import print_json
    from dcsync.core.names import printable
    from dcsync.ops.requests import find_request

    async with change.api() as api:
        found = await find_request(api, change.account, word)
        if change.is_dry:
            return _show_call("DELETE", change.path(found), None, as_json=change.as_json)
        named = f"{found.id} ({printable(found.description, 80)})"
        if not is_sure:
            if not sys.stdin.isatty():
                message = f"without a terminal, --yes is needed to delete {named}"
                raise click.UsageError(message)
            click.confirm(f"Delete the data request {named} at Autodesk?", abort=True, err=True)
        await api.delete_request(change.account.id, found.id)
    if change.as_json:
        print_json({"deleted": found.id})
    else:
        click.echo(f"deleted data request {named}; its snapshots stay in the mirror")
    return 0


def _show_call(method: str, path: str, body: dict[str, Json] | None, *, as_json: bool) -> int:
    """Print the call that a dry run does not make."""
    from dcsync.cli.output import json_text, print_json

    shown = None if body is None else _masked(body)
    if as_json:
        print_json({"method": method, "path": path, "body": shown})
        return 0
    click.echo(f"{method} {path}")
    if shown is not None:
        click.echo(json_text(shown))
    return 0


def _masked(fields: dict[str, Json]) -> dict[str, Json]:
    """Hide the last part of the callback's path, which is a secret."""
    url = fields.get("callbackUrl")
    if not isinstance(url, str) or "/callback/" not in url:
        return fields
    return {**fields, "callbackUrl": f"{url.partition('/callback/')[0]}/callback/***"}
