"""`dcsync requests backfill`: the activities of past months, by one-time data requests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dcsync.cli.group import exit_statuses
from dcsync.cli.request_changes import Change
from dcsync.cli.request_options import Month, change_options, only_account

if TYPE_CHECKING:
    from dcsync.app.backfills import Backfills
    from dcsync.core.backfill import Backfill, Mirrored
    from dcsync.core.coverage import Days
    from dcsync.core.model import Json
    from dcsync.ops.backfill import Followed

#: How often a command looks again while the daemon continues the same backfill.
_LOOKS = 60
_LOOK_S = 1.0


@click.command("backfill", epilog=exit_statuses(3, 11, 12, 13))
@click.argument("what", type=click.Choice(["activities"]))
@click.option("--from", "first", type=Month(), metavar="MONTH", help="The first month, such as 2025-12.")
@click.option(
    "--to", "last", type=Month(), metavar="MONTH", help="The last month. By default the days up to yesterday."
)
@click.option("--list", "lists", is_flag=True, help="Show the backfill of the account, and change nothing.")
@click.option("--cancel", "cancels", is_flag=True, help="Forget the backfill. Its data requests stay at Autodesk.")
@change_options
@click.pass_context
def backfill_command(
    ctx: click.Context,
    /,
    *,
    what: str,  # noqa: ARG001 - the only choice
    first: date | None,
    last: date | None,
    lists: bool,
    cancels: bool,
    account: str | None,
    **_: object,
) -> int:
    """Fetch the activities of past months: a one-time data request for each month that the mirror lacks.

    Days that the mirror has, and days that a scheduled data request will bring, are not requested again. Autodesk runs
    24 jobs a day, and some are left for your schedules. What is left is done by the daemon, or by the same command on
    the next day, without --from.
    """
    from dcsync.cli.startup import load_config, run_async

    config = load_config(ctx)
    change = Change(config, only_account(config, account), ctx.params)
    command = _Command(change)
    if lists:
        return command.show()
    if cancels:
        return run_async(command.cancel())
    return run_async(command.run(first, last))


@dataclass(frozen=True, slots=True)
class _Command:
    change: Change

    @property
    def store(self) -> Backfills:
        from dcsync.app.backfills import Backfills

        return Backfills(Path(self.change.config.state.dir))

    def show(self) -> int:
        """Print the backfill of the account."""
        return self._print(self.store.of(self.change.account.name))

    async def cancel(self) -> int:
        """Forget the backfill of the account."""
        async with self._locked():
            backfill = self.store.of(self.change.account.name)
            self.store.forget(self.change.account.name)
        if backfill is None:
            return self._print(None)
        if self.change.as_json:
            return self._print(backfill)
        click.echo(f"cancelled the backfill of {backfill.days.first} to {backfill.days.last}")
        for part in backfill.parts:
            if part.request is not None:
                click.echo(f"  its data request {part.request} stays: {part.description}")
        return 0

    async def run(self, first: date | None, last: date | None) -> int:
        """Begin or continue the backfill."""
        async with self._locked():
            mirrored = await self._mirrored()
            backfill = self._wanted(first, last)
            return await self._advance(backfill, mirrored)

    def _wanted(self, first: date | None, last: date | None) -> Backfill:
        from dcsync.clock import SystemClock
        from dcsync.core.backfill import Backfill, period

        name, known = self.change.account.name, self.store.of(self.change.account.name)
        if first is None:
            if known is None:
                message = f"name the first month with --from: the account {name} has no backfill to continue"
                raise click.UsageError(message)
            if last is not None:
                message = "--to needs --from"
                raise click.UsageError(message)
            return known
        if last is not None and last < first:
            message = "the last month (--to) is before the first (--from)"
            raise click.UsageError(message)
        days = period(first, last, SystemClock().now())
        if days is None:
            message = "the period has no day before today"
            raise click.UsageError(message)
        self._tell_limits(days)
        return replace(known or Backfill(account=name, days=days), days=days)

    def _tell_limits(self, days: Days) -> None:
        from dcsync.clock import SystemClock
        from dcsync.core.coverage import SERVED_DAYS

        if (SystemClock().now().date() - days.first).days > SERVED_DAYS:
            text = (
                "dcsync: Autodesk returns activities about 12 months back, so the tables of older months may be empty"
            )
            click.secho(text, fg="yellow", err=True)

    async def _mirrored(self) -> Mirrored:
        from dcsync.clock import SystemClock
        from dcsync.cluster import stores_for
        from dcsync.errors import ConfigError
        from dcsync.ops.backfill import mirrored_activities

        account = self.change.account
        async with stores_for(self.change.config, os.environ).open_existing() as manifest:
            if manifest is None or (await manifest.facts(account.name)).last_poll_at is None:
                message = (
                    f"the account {account.name} was never polled, so it is not known which days are in the mirror"
                )
                raise ConfigError(message, hint="run dcsync sync first")
            return await mirrored_activities(manifest, account, SystemClock().now())

    async def _advance(self, backfill: Backfill, mirrored: Mirrored) -> int:
        from dcsync.clock import SystemClock
        from dcsync.core.backfill import allow_more
        from dcsync.ops.backfill import create_parts, follow, refuse_unselected

        change, clock, store = self.change, SystemClock(), self.store
        async with change.api(reads=True) as api:
            followed = await follow(api, change.account, backfill, mirrored, clock.now())
        # The user asks for another attempt now, without the pause after a failed job.
        backfill = allow_more(followed.backfill)
        refuse_unselected(change.account, backfill)
        if change.is_dry:
            return self._show_calls(followed)

        async def save(changed: Backfill) -> None:
            store.save(changed)

        store.save(backfill)
        if followed.spare and backfill.next_part(clock.now()) is not None:
            async with change.api() as api:
                backfill = await create_parts(
                    api, change.account, backfill, clock=clock, save=save, most=followed.spare
                )
        return self._print(backfill)

    def _show_calls(self, followed: Followed) -> int:
        """Print the calls that a dry run does not make."""
        from dcsync.cli.output import json_text, print_json
        from dcsync.clock import SystemClock
        from dcsync.core.backfill import PartState, request_for
        from dcsync.core.new_request import create_json

        now, projects = SystemClock().now(), self.change.account.projects
        parts = [part for part in followed.backfill.parts if part.state is PartState.WAITING]
        bodies = [create_json(request_for(part, now, projects)) for part in parts]
        if self.change.as_json:
            calls: list[Json] = [{"method": "POST", "path": self.change.path(), "body": body} for body in bodies]
            print_json({"calls": calls, "jobs_left": followed.spare})
            return 0
        for body in bodies:
            click.echo(f"POST {self.change.path()}")
            click.echo(json_text(body))
        click.echo(f"{len(parts)} data requests to create, {min(len(parts), followed.spare)} of them today")
        return 0

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        """Wait until no other process continues a backfill."""
        from dcsync.app.state_dir import state_folder
        from dcsync.clock import SystemClock
        from dcsync.errors import MirrorLocked

        state_folder(self.change.config)
        lock = self.store.lock()
        for looks_left in reversed(range(_LOOKS)):
            try:
                lock.__enter__()
                break
            except MirrorLocked:
                if not looks_left:
                    raise
            await SystemClock().sleep(_LOOK_S)
        try:
            yield
        finally:
            lock.__exit__(None, None, None)

    def _print(self, backfill: Backfill | None) -> int:
        """Print a backfill."""
        from dcsync.cli.output import print_json
        from dcsync.core.backfill import PartState

        if self.change.as_json:
            print_json({"backfill": None if backfill is None else backfill.json()})
            return 0
        if backfill is None:
            click.echo(f"the account {self.change.account.name} has no backfill")
            return 0
        click.echo(f"backfill of activities, {backfill.days.first} to {backfill.days.last}")
        for part in backfill.parts:
            words = [f"{part.name:<26}{part.state.value}", part.request or ""]
            if part.failures and not part.is_mirrored:
                words.append(f"{part.failures} failed: {part.problem}")
            click.echo(f"  {'  '.join(filter(None, words))}")
        waiting = backfill.count(PartState.WAITING)
        if backfill.is_complete:
            click.echo("every day is in the mirror, or comes with a schedule")
        elif waiting:
            click.echo(
                f"{waiting} more to request: the daemon does it, or run dcsync requests backfill activities later"
            )
        return 0
