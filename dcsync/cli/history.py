"""`dcsync history`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from dcsync.cli.completion import account_names, request_ids
from dcsync.cli.group import exit_statuses
from dcsync.errors import ConfigError, DcsyncError, ExitStatus

if TYPE_CHECKING:
    from pydantic import JsonValue

    from dcsync.config import Config
    from dcsync.core.model import Json
    from dcsync.core.row_history import Check
    from dcsync.daemon.open_order import OpenOrder
    from dcsync.ops.history.catch_up import Chosen, HistoryReport, RequestReport
    from dcsync.ops.history.verify import Verified
    from dcsync.orders import Answer


@click.command(
    "history",
    epilog=exit_statuses(3, 11, 14, incomplete="a table is not up to date, was not rebuilt, or does not prove"),
)
@click.option(
    "--account",
    "accounts",
    multiple=True,
    metavar="NAME",
    shell_complete=account_names,
    help="Only this account. Can be given multiple times.",
)
@click.option(
    "--request",
    "requests",
    multiple=True,
    metavar="ID|GLOB",
    shell_complete=request_ids,
    help="Only this data request, by ID, folder or description.",
)
@click.option("--table", "tables", multiple=True, metavar="GLOB", help="Only these tables, such as 'admin_*'.")
@click.option("--verify", is_flag=True, help="Prove every step again from the snapshots. Changes no file.")
@click.option("--rebuild", is_flag=True, help="Build the histories again from the snapshots.")
@click.option(
    "--accept-loss",
    is_flag=True,
    help="With --rebuild: also build histories again that have rows that no snapshot has. These rows are lost.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def history_command(
    ctx: click.Context,
    accounts: Sequence[str],
    requests: Sequence[str],
    tables: Sequence[str],
    verify: bool,
    rebuild: bool,
    accept_loss: bool,
    as_json: bool,
) -> int:
    """Bring the row histories of the tables in [history] up to date, oldest snapshot first.

    The daemon and sync do this after each snapshot. This command also tries the tables again that could not be read.

    --rebuild leaves a history as it is if the mirror no longer has the tables of all its steps, because the rows of the
    others would be lost. That is also so if its file is damaged or missing: restore it from a backup. With
    --accept-loss, such a history is built from the snapshots that are left. While the daemon is running, the daemon
    builds.
    """
    from dcsync.cli.orders import Shown, carry_out, print_answer
    from dcsync.cli.startup import load_config, run_async

    if verify and rebuild:
        raise click.UsageError("--verify and --rebuild exclude each other")
    if accept_loss and not rebuild:
        raise click.UsageError("--accept-loss needs --rebuild")
    config = load_config(ctx, is_order=not verify)
    if not config.history.tables:
        raise ConfigError("no table has a row history", hint='set [history] tables, for example tables = ["*"]')
    options = HistoryOptions(
        accounts=list(accounts),
        requests=list(requests),
        tables=list(tables),
        rebuild=rebuild,
        accept_loss=accept_loss,
        as_json=as_json,
    )

    async def alone() -> Answer:
        return _answer(await _build(config, options), options)

    if verify:
        return print_answer(run_async(_verify(config, options)))
    return print_answer(carry_out(config, "history", asdict(options), alone=alone, shown=Shown.READING))


@dataclass(frozen=True, kw_only=True)
class HistoryOptions:
    """The options of an order to build histories."""

    accounts: list[str]
    requests: list[str]
    tables: list[str]
    rebuild: bool
    as_json: bool
    # An older command does not send it.
    accept_loss: bool = False

    def chosen(self) -> Chosen:
        """Return what the work is limited to."""
        from dcsync.ops.history.catch_up import Chosen

        return Chosen(
            requests=self.requests,
            tables=self.tables,
            retries=True,
            rebuilds=self.rebuild,
            accepts_loss=self.accept_loss,
        )


async def order_work(order: OpenOrder, options: Mapping[str, JsonValue]) -> Answer:
    """Build in the daemon."""
    from dcsync.cli.orders import read_options

    chosen = read_options(HistoryOptions, options)
    return _answer(await order.build_histories(chosen.accounts, chosen.chosen()), chosen)


async def _build(config: Config, options: HistoryOptions) -> HistoryReport:
    from dcsync.app.from_config import account_settings, history_settings
    from dcsync.app.mirror import open_mirror
    from dcsync.app.renew import renewing
    from dcsync.cli.progress import reading
    from dcsync.clock import SystemClock
    from dcsync.cluster import stores_for
    from dcsync.ops.history.catch_up import catch_up
    from dcsync.ops.recovery import recover

    selected, settings = account_settings(config, options.accounts), history_settings(config)
    stores = stores_for(config, os.environ)
    async with (
        reading(SystemClock()) as observer,
        renewing(open_mirror, config, stores, role="history") as context,
    ):
        await recover(context, account_settings(config))
        return await catch_up(context, selected, settings, chosen=options.chosen(), observer=observer)


async def _verify(config: Config, options: HistoryOptions) -> Answer:
    from dcsync.app.from_config import account_settings, history_settings
    from dcsync.app.history import record_proofs
    from dcsync.app.mirror import open_mirror_unlocked
    from dcsync.cli.progress import reading
    from dcsync.clock import SystemClock
    from dcsync.cluster import stores_for
    from dcsync.ops.history.catch_up import verify

    chosen = options.chosen()
    selected, settings = account_settings(config, options.accounts), history_settings(config)
    stores, names = stores_for(config, os.environ), [account.name for account in selected]
    not_recorded: DcsyncError | None = None
    async with reading(SystemClock()) as observer, open_mirror_unlocked(config, stores) as context:
        verified = await verify(context, selected, settings, chosen=chosen, observer=observer)
        try:
            await record_proofs(stores, context.manifest, verified, names, is_all=chosen.is_all)
        except DcsyncError as error:
            not_recorded = error
    answer = _verify_answer(verified, as_json=options.as_json)
    if not_recorded is not None:
        answer.echo(f"the alerts of this mirror are as before: {not_recorded.message}", err=True)
        answer.echo(f"  do:   {not_recorded.advice}", err=True)
    return answer


def _answer(report: HistoryReport, options: HistoryOptions) -> Answer:
    from dcsync.cli.output import json_text
    from dcsync.orders import Answer

    unknown = _unknown(report, options)
    status = ExitStatus.USAGE if unknown else ExitStatus.DONE
    answer = Answer(status=status if report.is_complete else ExitStatus.INCOMPLETE)
    for what in unknown:
        answer.echo(f"dcsync: {what}", err=True)
    if options.as_json:
        answer.echo(json_text({"requests": [_request_json(found) for found in report.requests]}))
        return answer
    for found in report.requests:
        _print(answer, found)
    return answer


def _unknown(report: HistoryReport, options: HistoryOptions) -> list[str]:
    """Return the options that matched nothing, so that a typing error does not pass for a history without work."""
    from dcsync.core.names import printable
    from dcsync.ops.history.catch_up import Chosen

    if options.requests and not report.requests:
        return ["no data request with a row history matches --request"]
    if any(not failed.table for found in report.requests for failed in found.outcome.failed):
        # The tables of a data request whose history cannot be read are not known.
        return []
    names = {
        name
        for found in report.requests
        for name in (*found.outcome.state.tables, *(failed.table for failed in found.outcome.failed))
    }
    return [
        f"no table with a row history matches --table {printable(glob)!r}"
        for glob in options.tables
        if not any(Chosen(tables=[glob]).has_table(name) for name in names)
    ]


def _print(out: Answer, found: RequestReport) -> None:
    from dcsync.core.names import printable

    outcome, where = found.outcome, f"{found.account}: {found.folder}"
    tables = len(outcome.state.tables)
    done = [f"{outcome.steps} new step{'s' if outcome.steps != 1 else ''}"] if outcome.steps else []
    behind = {*(failed.table for failed in outcome.failed), *found.waiting}
    if behind:
        done.append("not up to date" if "" in behind else f"{len(behind)} not up to date")
    out.echo(f"{where}: {tables} table{'s' if tables != 1 else ''}, {', '.join(done) or 'up to date'}")
    for failed in outcome.failed:
        out.echo(f"{found.account}: {found.path_of(failed.table)}: {printable(failed.reason, 400)}", err=True)
        if failed.hint:
            out.echo(f"  do:   {failed.hint}", err=True)
    for name, wait in found.waiting.items():
        out.echo(f"{where}/{name}.parquet: {wait.path} is left out: {printable(wait.reason, 400)}", err=True)
    for name, table in outcome.state.tables.items():
        if table.checked is not None and not table.checked.is_equal:
            out.echo(f"{where}/{name}.parquet: {_check_text(table.checked)}", err=True)
    for name in outcome.kept:
        reason = "kept: the mirror no longer has the tables of all its steps (--accept-loss gives up their rows)"
        out.echo(f"{where}/{name}.parquet: {reason}", err=True)


def _request_json(found: RequestReport) -> dict[str, Json]:
    from dcsync.core.wire import time_json

    failed = {each.table: each for each in found.outcome.failed}
    tables: list[Json] = []
    for name in sorted({*found.outcome.state.tables, *failed}):
        table = found.outcome.state.tables.get(name)
        last = table.steps[-1] if table is not None and table.steps else None
        wait = found.waiting.get(name)
        problem = failed[name].reason if name in failed else None if wait is None else f"{wait.path}: {wait.reason}"
        tables.append(
            {
                "table": name,
                "kind": None if table is None else table.kind.value,
                "steps": 0 if table is None else len(table.steps),
                "job": None if last is None else last.job,
                "time": None if last is None else time_json(last.time),
                "rows": None if last is None else last.rows,
                "omitted": 0 if table is None else len(table.omitted),
                "kept": name in found.outcome.kept,
                "problem": problem,
            }
        )
    return {
        "account": found.account,
        "request": found.request.id,
        "folder": found.folder,
        "new_steps": found.outcome.steps,
        "tables": tables,
    }


def _verify_answer(verified: Sequence[Verified], *, as_json: bool) -> Answer:
    from dcsync.cli.output import json_text
    from dcsync.core.names import printable
    from dcsync.orders import Answer

    is_proved = not any(found.unproved for found in verified)
    answer = Answer(status=ExitStatus.DONE if is_proved else ExitStatus.INCOMPLETE)
    if as_json:
        answer.echo(json_text({"requests": [_verified_json(found) for found in verified]}))
        return answer
    for found in verified:
        for each in found.unproved:
            what = f"{found.account}: {found.folder}/{each.table}.parquet does not prove"
            answer.echo(f"{what}: {each.path}: {printable(each.reason, 400)}")
        for name, check in found.checked.items():
            answer.echo(f"{found.account}: {found.folder}/{name}.parquet: {_check_text(check)}")
        gone = f", {found.gone} not checked, because their snapshots are no longer in the mirror" if found.gone else ""
        kept = f", {found.recorded} as recorded, because only the history has their rows" if found.recorded else ""
        bad = f", {len(found.unproved)} not proved" if found.unproved else ""
        answer.echo(f"{found.account}: {found.folder}: {found.proved} steps proved{bad}{kept}{gone}")
    return answer


def _check_text(check: Check) -> str:
    counts = f"{check.equal} row{'' if check.equal == 1 else 's'} as in {check.path}"
    differ = f"{check.missing} missing, {check.extra} extra, {check.different} different"
    return counts if check.is_equal else f"{counts}, {differ}"


def _verified_json(found: Verified) -> dict[str, Json]:
    from dcsync.core.row_history_json import check_json

    unproved: list[Json] = [
        {"table": each.table, "job": each.job, "path": each.path, "reason": each.reason} for each in found.unproved
    ]
    return {
        "account": found.account,
        "request": found.request.id,
        "folder": found.folder,
        "proved": found.proved,
        "as_recorded": found.recorded,
        "not_checked": found.gone,
        "unproved": unproved,
        "checked": [{"table": name, **check_json(check)} for name, check in found.checked.items()],
    }
