"""The lists of `dcsync requests` and `dcsync jobs`, with the options of the API."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

import click

from dcsync.cli.completion import account_names, request_ids
from dcsync.cli.group import exit_statuses
from dcsync.cli.request_options import only_account

if TYPE_CHECKING:
    from dcsync.api.client import DataConnector, ListOptions
    from dcsync.config import Config
    from dcsync.core.filters import ListFilters
    from dcsync.core.model import DataRequest, Job, Json
    from dcsync.errors import ApiError
    from dcsync.ops.context import AccountSettings

P = ParamSpec("P")
T = TypeVar("T")
T2 = TypeVar("T2", "Job", "DataRequest")
#: The characters of a UUID. A shorter text is the beginning of an ID, or a description.
_ID_LENGTH = 36
#: The entries of an account as JSON, and what keeps others out of the list.
_Rows: TypeAlias = "tuple[list[dict[str, Json]], list[ApiError]]"


def list_options(command: Callable[P, T]) -> Callable[P, T]:
    """Add the options that both lists share. Names and defaults are those of the API."""
    for option in reversed(
        [
            click.option(
                "--account",
                "accounts",
                multiple=True,
                metavar="NAME",
                shell_complete=account_names,
                help="Only this account. Can be given multiple times.",
            ),
            click.option(
                "--filter",
                "filters",
                multiple=True,
                metavar="FIELD=VALUE",
                help="Filter by a field of the API, for example isActive=true or createdAt=2026-11-01..2026-11-30. "
                "Either side of a range can be missing. Can be given once for each field.",
            ),
            click.option(
                "--sort", type=click.Choice(["asc", "desc"]), help="Sort by date. By default the newest come first."
            ),
            click.option(
                "--sort-fields",
                metavar="FIELD,…",
                help="Sort by these fields of the API, in ascending order. A hyphen sorts in descending order, for "
                "example -createdAt.",
            ),
            click.option(
                "--limit",
                type=click.IntRange(min=1),
                default=100,
                show_default=True,
                help="Show at most this many results.",
            ),
            click.option("--offset", type=click.IntRange(min=0), default=0, help="Skip this many results."),
            click.option(
                "--project", metavar="ID", help="Only this project. By default those of [[account]] projects."
            ),
            click.option("--json", "as_json", is_flag=True, help="Print JSON with every field of the API."),
        ]
    ):
        command = option(command)
    return command


def list_requests(ctx: click.Context, *, accounts: Sequence[str], as_json: bool) -> int:
    """Print the data requests of these accounts, chosen by the list options of the command."""
    from dcsync.core.filters import REQUEST_FILTERS
    from dcsync.core.wire import request_json

    chosen = _options(ctx.params, REQUEST_FILTERS)

    async def list_rows(api: DataConnector, account: AccountSettings) -> _Rows:
        async def read(options: ListOptions) -> list[DataRequest]:
            return await api.requests(account.id, options)

        found, errors = await _read_projects(account, chosen, read)
        return [request_json(request) for request in found], errors

    rows, status = _list_rows(ctx, accounts, list_rows)
    _print(
        "requests",
        rows,
        {
            "account": "account",
            "id": "id",
            "active": "isActive",
            "schedule": "scheduleInterval",
            "last queued": "lastQueuedAt",
            "services": "serviceGroups",
            "description": "description",
        },
        shown={
            "account": ["account"],
            "id": ["id"],
            "active": ["isActive"],
            "every": ["scheduleInterval"],
            "last queued": ["lastQueuedAt"],
            "description": ["description"],
        },
        as_json=as_json,
    )
    return status


@click.command("jobs", epilog=exit_statuses(3, 12, 13))
@list_options
@click.option(
    "--request",
    "request_id",
    metavar="REQUEST",
    shell_complete=request_ids,
    help="Show only jobs of this data request.",
)
@click.pass_context
def jobs_command(
    ctx: click.Context, /, *, accounts: Sequence[str], as_json: bool, request_id: str | None, **_: object
) -> int:
    """List the jobs of the data requests that the signed-in user created."""
    from dcsync.cli.startup import load_config
    from dcsync.core.filters import JOB_FILTERS
    from dcsync.core.model import RequestId
    from dcsync.core.wire import job_json
    from dcsync.ops.requests import find_request

    chosen = _options(ctx.params, JOB_FILTERS)
    if request_id is not None and (chosen.filters or chosen.sort_fields or chosen.project_id):
        message = "with --request, the API supports only --sort, --limit and --offset"
        raise click.UsageError(message)

    if request_id is not None and len(request_id) != _ID_LENGTH and len(accounts) != 1:
        # It is a data request of one account.
        accounts = (only_account(load_config(ctx), None).name,)

    async def list_rows(api: DataConnector, account: AccountSettings) -> _Rows:
        async def read(options: ListOptions) -> list[Job]:
            return await api.jobs(account.id, options)

        if request_id is not None:
            whole = RequestId(request_id)
            if len(request_id) != _ID_LENGTH:
                whole = (await find_request(api, account, request_id)).id
            found = await api.jobs(account.id, chosen, request=whole)
            return [job_json(job) for job in found], []
        found, errors = await _read_projects(account, chosen, read)
        return [job_json(job) for job in found], errors

    rows, status = _list_rows(ctx, accounts, list_rows)
    _print(
        "jobs",
        rows,
        {
            "account": "account",
            "id": "id",
            "request": "requestId",
            "status": "status",
            "completion": "completionStatus",
            "created": "createdAt",
            "completed": "completedAt",
        },
        shown={
            "account": ["account"],
            "id": ["id"],
            "request": ["requestId"],
            "result": ["completionStatus", "status"],
            "completed": ["completedAt"],
        },
        as_json=as_json,
    )
    return status


def _options(params: dict[str, Any], known: ListFilters) -> ListOptions:
    from dcsync.api.client import ListOptions
    from dcsync.core.filters import FilterError, parse_filters

    try:
        filters = parse_filters(params["filters"], known)
    except FilterError as error:
        raise click.BadParameter(str(error), param_hint="--filter") from None
    if "projectId" in filters and params["project"] is not None:
        message = "--project and --filter projectId=… name a project each: give one of them"
        raise click.UsageError(message)
    return ListOptions(
        sort=params["sort"],
        limit=params["limit"],
        offset=params["offset"],
        sort_fields=tuple(field for field in (params["sort_fields"] or "").split(",") if field),
        filters=filters,
        project_id=params["project"],
    )


async def _read_projects(
    account: AccountSettings, chosen: ListOptions, read: Callable[[ListOptions], Awaitable[list[T2]]]
) -> tuple[list[T2], list[ApiError]]:
    """Return the entries of the configured projects as one list, and the errors of projects that cannot be read."""
    from dcsync.ops.project_lists import read_projects

    if chosen.project_id is not None or "projectId" in (chosen.filters or {}) or not account.projects:
        return await read(chosen), []
    if chosen.sort_fields and len(account.projects) > 1:
        message = "--sort-fields sorts the list of one project: name it with --project"
        raise click.UsageError(message)
    # The entries that are skipped and shown may all be those of one project.
    most = None if chosen.limit is None else chosen.offset + chosen.limit
    from_top = replace(chosen, limit=most, offset=0)
    lists = await read_projects(account, lambda project: read(replace(from_top, project_id=project)))
    found = lists.entries
    if len(account.projects) > 1:
        oldest = datetime.min.replace(tzinfo=UTC)
        found.sort(key=lambda entry: entry.created_at or oldest, reverse=chosen.sort != "asc")
    return found[chosen.offset : most], lists.errors


def _list_rows(
    ctx: click.Context,
    accounts: Sequence[str],
    list_rows: Callable[[DataConnector, AccountSettings], Awaitable[_Rows]],
) -> tuple[list[dict[str, Json]], int]:
    from dcsync.cli.startup import load_config, run_async

    config = load_config(ctx)
    return run_async(_list_each(config, accounts, list_rows))


async def _list_each(
    config: Config,
    accounts: Sequence[str],
    list_rows: Callable[[DataConnector, AccountSettings], Awaitable[_Rows]],
) -> tuple[list[dict[str, Json]], int]:
    """Return the rows of every account. An account or project that fails is reported and hides no other one."""
    from dcsync.app.api import open_api
    from dcsync.app.from_config import account_settings
    from dcsync.cli.group import show_error
    from dcsync.cluster import stores_for
    from dcsync.errors import ApiError

    rows: list[dict[str, Json]] = []
    status = 0
    async with open_api(config, stores_for(config, os.environ), environ=os.environ) as opened:
        for account in account_settings(config, accounts):
            try:
                found, errors = await list_rows(opened.client, account)
            except ApiError as error:
                found, errors = [], [error]
            rows += [{"account": account.name, **row} for row in found]
            for each in errors:
                show_error(each)
                status = status or int(each.exit_status)
    return rows, status


def _print(
    key: str,
    rows: Sequence[dict[str, Json]],
    columns: Mapping[str, str],
    *,
    shown: Mapping[str, Sequence[str]],
    as_json: bool,
) -> None:
    """Print the rows as JSON, all `columns` for programs, or on a terminal those that fit.

    `shown` has the fields of each column of a terminal. The first one with a value is shown. If all rows
    are of one account, its column is left out.
    """
    from dcsync.cli.output import print_json, print_table

    if as_json:
        print_json({key: list(rows)})
    elif not sys.stdout.isatty():
        print_table(list(columns), [[_cell(row.get(field)) for field in columns.values()] for row in rows])
    else:
        if len({row["account"] for row in rows}) == 1:
            # The description needs the room.
            shown = {header: fields for header, fields in shown.items() if header != "account"}
        table = [[_shown(fields, row) for fields in shown.values()] for row in rows]
        whole = [index for index, (field, *_) in enumerate(shown.values()) if field == "id" or field.endswith("At")]
        print_table(list(shown), table, wide=whole)


def _shown(fields: Sequence[str], row: Mapping[str, Json]) -> str:
    """Return the first value of these fields. A time is to the minute, the ID of another object is its first part."""
    from dcsync.cli.output import time_text
    from dcsync.core.wire import parse_time

    field, value = next(((field, row[field]) for field in fields if row.get(field)), (fields[0], None))
    if field.endswith("At") and isinstance(value, str):
        moment = parse_time(value)
        return value if moment is None else time_text(moment)
    if field.endswith("Id") and isinstance(value, str):
        return value[:8]
    return _cell(value)


def _cell(value: Json) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list():
            return ",".join(str(item) for item in value)
        case _:
            return str(value)
