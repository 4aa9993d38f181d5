"""`dcsync requests`: list data requests, and create, change and delete them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dcsync.cli.backfill import backfill_command
from dcsync.cli.completion import request_ids
from dcsync.cli.group import exit_statuses
from dcsync.cli.lists import list_options, list_requests
from dcsync.cli.request_changes import Change, create_request, delete_request, update_request
from dcsync.cli.request_options import Days, Moment, change_options, only_account

if TYPE_CHECKING:
    from dcsync.config import Config
    from dcsync.core.model import DataRequest
    from dcsync.core.new_request import NewRequest, RequestChanges

_STATUSES = exit_statuses(3, 12, 13)
_SCHEDULES = {"once": "ONE_TIME", "day": "DAY", "week": "WEEK", "month": "MONTH", "year": "YEAR"}
_LIFE = timedelta(days=3650)


@click.group("requests", invoke_without_command=True, epilog=_STATUSES)
@list_options
@click.pass_context
def requests_command(ctx: click.Context, /, *, accounts: Sequence[str], as_json: bool, **_: object) -> int:
    """List the data requests that the signed-in user created. The commands below create and change them.

    dcsync keeps a sign-in that only reads. To create or change a data request, you sign in once more in the browser,
    and that token is revoked afterwards. A service account needs no further sign-in.
    """
    return 0 if ctx.invoked_subcommand is not None else list_requests(ctx, accounts=accounts, as_json=as_json)


requests_command.add_command(backfill_command)


@requests_command.command("create", epilog=_STATUSES)
@click.option(
    "--service-group",
    "groups",
    multiple=True,
    default=["all"],
    show_default=True,
    metavar="GROUP",
    help="A service group, such as admin or issues. Can be given multiple times.",
)
@click.option("--description", default="", metavar="TEXT", help="How Autodesk and dcsync name it.")
@click.option(
    "--schedule", type=click.Choice(list(_SCHEDULES)), default="day", show_default=True, help="How often it runs."
)
@click.option("--every", type=click.IntRange(min=1), default=1, help="Run every this many days, weeks, ….")
@click.option("--from", "starts_at", type=Moment(), metavar="TIME", help="The first run, in UTC. By default now.")
@click.option(
    "--to",
    "ends_at",
    type=Moment(ends_day=True),
    metavar="TIME",
    help="The end of the schedule. By default in ten years.",
)
@click.option(
    "--project",
    "projects",
    multiple=True,
    metavar="ID",
    help="Only this project. Can be given multiple times. By default those of [[account]] projects.",
)
@click.option(
    "--project-status", type=click.Choice(["all", "active", "archived"]), help="Only projects of this status."
)
@click.option(
    "--date-range",
    type=click.Choice(["TODAY", "YESTERDAY", "PAST_7_DAYS", "MONTH_TO_DATE", "LAST_MONTH"]),
    help="The period of activities and of delta service groups.",
)
@click.option("--start-date", type=Moment(), metavar="TIME", help="The begin of a fixed period.")
@click.option("--end-date", type=Moment(ends_day=True), metavar="TIME", help="The end of a fixed period.")
@click.option(
    "--callback-url",
    metavar="URL",
    help="Where Autodesk reports the end of a job. For https://HOST/callback/, the secret of this mirror is added.",
)
@click.option("--email", "send_email", is_flag=True, help="Autodesk sends you an e-mail after each job.")
@change_options
@click.pass_context
def create_command(ctx: click.Context, /, *, account: str | None, **_: object) -> int:
    """Create a data request, also after an attempt whose end is not known. It is never created twice."""
    from dcsync.cli.startup import load_config, run_async

    config = load_config(ctx)
    change = Change(config, only_account(config, account), ctx.params)
    return run_async(create_request(change, _wanted(config, ctx.params, change.account.projects)))


@requests_command.command("extend", epilog=_STATUSES)
@click.argument("request", shell_complete=request_ids)
@click.option(
    "--to", "ends_at", type=Moment(ends_day=True), metavar="TIME", help="The new end of the schedule, in UTC."
)
@click.option(
    "--by", type=Days(), default="365d", show_default=True, help="Move the end by this duration, without --to."
)
@change_options
@click.pass_context
def extend_command(
    ctx: click.Context, /, *, request: str, ends_at: datetime | None, by: timedelta, account: str | None, **_: object
) -> int:
    """Let the schedule of REQUEST end later. An ended schedule is extended from now on."""
    from dcsync.cli.output import time_text
    from dcsync.core.new_request import RequestChanges
    from dcsync.errors import ConfigError

    if ends_at is not None and ctx.get_parameter_source("by") is ParameterSource.COMMANDLINE:
        message = "give either --to or --by"
        raise click.UsageError(message)

    def changes(found: DataRequest) -> RequestChanges:
        if found.schedule_interval in {None, "ONE_TIME"}:
            message = f"{found.id} runs once and has no schedule to extend"
            raise ConfigError(message, hint="create a recurring one: dcsync requests create --schedule day")
        now = datetime.now(UTC)
        end = max(now, found.effective_to or now)
        if ends_at is not None and ends_at <= end:
            when = "is past" if found.effective_to is None or end == now else f"is not after {time_text(end)}, its end"
            message = f"the schedule of {found.id} cannot be extended to {time_text(ends_at)}, which {when}"
            raise ConfigError(message, hint="give a later time. To stop it, run dcsync requests deactivate")
        return RequestChanges(ends_at=ends_at or end + by)

    return _change(ctx, account, request, changes)


@requests_command.command("activate", epilog=_STATUSES)
@click.argument("request", shell_complete=request_ids)
@change_options
@click.pass_context
def activate_command(ctx: click.Context, /, *, request: str, account: str | None, **_: object) -> int:
    """Let REQUEST run again by its schedule."""
    from dcsync.core.new_request import RequestChanges

    return _change(ctx, account, request, lambda _found: RequestChanges(is_active=True))


@requests_command.command("deactivate", epilog=_STATUSES)
@click.argument("request", shell_complete=request_ids)
@change_options
@click.pass_context
def deactivate_command(ctx: click.Context, /, *, request: str, account: str | None, **_: object) -> int:
    """Stop the schedule of REQUEST. It stays at Autodesk, and can be activated again."""
    from dcsync.core.new_request import RequestChanges

    return _change(ctx, account, request, lambda _found: RequestChanges(is_active=False))


@requests_command.command("set-callback", epilog=_STATUSES)
@click.argument("request", shell_complete=request_ids)
@click.argument("url", required=False)
@click.option("--none", "removes", is_flag=True, help="Remove the callback.")
@change_options
@click.pass_context
def set_callback_command(
    ctx: click.Context, /, *, request: str, url: str | None, removes: bool, account: str | None, **_: object
) -> int:
    """Set the URL that Autodesk calls after each job of REQUEST. For https://HOST/callback/, the secret is added."""
    from dcsync.cli.startup import load_config
    from dcsync.core.new_request import RequestChanges

    if (url is None) != removes:
        message = "give either a URL or --none"
        raise click.UsageError(message)
    address = "" if url is None else _callback(load_config(ctx), url)
    return _change(ctx, account, request, lambda _found: RequestChanges(callback_url=address))


@requests_command.command("delete", epilog=_STATUSES)
@click.argument("request", shell_complete=request_ids)
@click.option("--yes", is_flag=True, help="Do not ask.")
@change_options
@click.pass_context
def delete_command(ctx: click.Context, /, *, request: str, yes: bool, account: str | None, **_: object) -> int:
    """Delete REQUEST and its schedule at Autodesk. The snapshots in the mirror stay."""
    from dcsync.cli.startup import load_config, run_async

    config = load_config(ctx)
    change = Change(config, only_account(config, account), ctx.params)
    return run_async(delete_request(change, request, is_sure=yes))


def _change(
    ctx: click.Context, account: str | None, word: str, changes: Callable[[DataRequest], RequestChanges]
) -> int:
    from dcsync.cli.startup import load_config, run_async

    config = load_config(ctx)
    return run_async(update_request(Change(config, only_account(config, account), ctx.params), word, changes))


def _wanted(config: Config, options: Mapping[str, Any], projects: Sequence[str]) -> NewRequest:
    """Return the data request of the options. `projects` are those of the account."""
    from dcsync.core.new_request import NewRequest

    schedule = _SCHEDULES[str(options["schedule"])]
    is_recurring = schedule != "ONE_TIME"
    starts_at = options["starts_at"] or datetime.now(UTC)
    url = options["callback_url"]
    has_period = options["start_date"] is not None and options["end_date"] is not None
    return NewRequest(
        service_groups=tuple(options["groups"]),
        starts_at=starts_at,
        schedule=schedule,
        every=options["every"] if is_recurring else None,
        ends_at=options["ends_at"] or (starts_at + _LIFE if is_recurring else None),
        description=options["description"],
        # A project administrator has to name them (docs/project/api.md §9).
        project_ids=tuple(dict.fromkeys(project.removeprefix("b.") for project in options["projects"] or projects)),
        project_status=options["project_status"],
        date_range=options["date_range"] or ("CUSTOM" if has_period else None),
        start_date=options["start_date"],
        end_date=options["end_date"],
        callback_url=None if url is None else _callback(config, url),
        send_email=options["send_email"],
    )


def _callback(config: Config, url: str) -> str:
    """Return the callback's URL, with this mirror's secret if the URL ends before it."""
    from dcsync.app.from_config import callback_secret

    if not url.startswith("https://"):
        message = "the callback URL must begin with https://"
        raise click.UsageError(message)
    if not url.rstrip("/").endswith("/callback"):
        return url
    return f"{url.rstrip('/')}/{callback_secret(config, environ=os.environ)}"
