"""`dcsync load`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from dcsync.cli.completion import load_names
from dcsync.cli.group import exit_statuses
from dcsync.errors import ExitStatus

if TYPE_CHECKING:
    from pydantic import JsonValue

    from dcsync.config import Config
    from dcsync.core.load_state import LoadState, TableState
    from dcsync.core.model import Json
    from dcsync.daemon.open_order import OpenOrder
    from dcsync.ops.loads.loading import TableOutcome
    from dcsync.ops.loads.run import Chosen, LoadReport
    from dcsync.orders import Answer

_STATUS = "status"


class _LoadGroup(click.Group):
    """A group whose words are names of loads, but for `status`."""

    #: Options may follow the names.
    allow_interspersed_args = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Leave everything to the command `status` if it is named."""
        if _STATUS not in args:
            return click.Command.parse_args(self, ctx, args)
        click.Command.parse_args(self, ctx, [])
        ctx.args = [_STATUS, *(word for word in args if word != _STATUS)]
        return ctx.args

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Run the loads, or `status`."""
        if not ctx.args:
            return click.Command.invoke(self, ctx)
        name, command, args = self.resolve_command(ctx, ctx.args)
        assert command is not None  # noqa: S101 - it is `status`
        with command.make_context(name, args, parent=ctx) as inner:
            return command.invoke(inner)


@click.group(
    "load",
    cls=_LoadGroup,
    invoke_without_command=True,
    subcommand_metavar="[status]",
    epilog=exit_statuses(3, 11, 14, incomplete="a table is not up to date, or the target cannot be used"),
)
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=load_names)
@click.option("--full", "is_full", is_flag=True, help="Load all rows of every table again.")
@click.option("--dry-run", "is_dry", is_flag=True, help="Ask the target, and print what would be loaded.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def load_command(ctx: click.Context, names: Sequence[str], is_full: bool, is_dry: bool, as_json: bool) -> int:
    """Load tables into your own database: every [[load]], or those that you name.

    The daemon and sync do this after each snapshot. Only tables that changed are loaded, each in one step: a program
    that reads the database sees the rows before or after it. While the daemon is running, the daemon loads.
    """
    from dcsync.app.loads import wanted_loads
    from dcsync.cli.orders import Shown, carry_out, print_answer
    from dcsync.cli.startup import load_config

    config = load_config(ctx, is_order=True)
    # A mistake in a name is told before anything begins.
    wanted_loads(config, names, environ=os.environ)
    options = LoadOptions(names=list(names), is_full=is_full, is_dry=is_dry, as_json=as_json)

    async def alone() -> Answer:
        return _answer(await _load(config, options), options)

    return print_answer(carry_out(config, "load", asdict(options), alone=alone, shown=Shown.READING))


@load_command.command(_STATUS, epilog=exit_statuses(3, 14, incomplete="a load is not up to date"))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def status_command(ctx: click.Context, as_json: bool) -> int:
    """Show which snapshot each table of each load shows, as of the last attempt. Does not ask the target."""
    from dcsync.app.loads import read_states
    from dcsync.cli.output import print_json
    from dcsync.cli.startup import load_stores, run_async

    config, stores = load_stores(ctx)
    states = run_async(read_states(config, stores))
    if as_json:
        loads: list[Json] = [_state_json(config, name, state) for name, state in states.items()]
        print_json({"loads": loads})
    else:
        for name, state in states.items():
            _print_state(name, state)
    is_complete = all(state.tried_at is not None and not state.attempts for state in states.values())
    return int(ExitStatus.DONE if is_complete else ExitStatus.INCOMPLETE)


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """The options of an order to load."""

    names: list[str]
    is_full: bool
    is_dry: bool
    as_json: bool

    def chosen(self) -> Chosen:
        """Return how the loads run."""
        from dcsync.ops.loads.run import Chosen

        return Chosen(is_full=self.is_full, is_dry=self.is_dry)


async def order_work(order: OpenOrder, options: Mapping[str, JsonValue]) -> Answer:
    """Load in the daemon."""
    from dcsync.cli.orders import read_options

    chosen = read_options(LoadOptions, options)
    return _answer(await order.run_loads(chosen.names, chosen.chosen()), chosen)


async def _load(config: Config, options: LoadOptions) -> list[LoadReport]:
    from dcsync.app.from_config import account_settings
    from dcsync.app.loads import load_alone
    from dcsync.app.mirror import open_mirror
    from dcsync.app.renew import renewing
    from dcsync.cli.progress import reading
    from dcsync.clock import SystemClock
    from dcsync.cluster import stores_for
    from dcsync.ops.recovery import recover

    stores = stores_for(config, os.environ)
    async with (
        reading(SystemClock()) as observer,
        renewing(open_mirror, config, stores, role="load") as context,
    ):
        await recover(context, account_settings(config))
        return await load_alone(config, context, names=options.names, chosen=options.chosen(), observer=observer)


def _answer(reports: Sequence[LoadReport], options: LoadOptions) -> Answer:
    from dcsync.cli.output import json_text
    from dcsync.orders import Answer

    is_complete = all(report.is_complete for report in reports)
    answer = Answer(status=ExitStatus.DONE if is_complete else ExitStatus.INCOMPLETE)
    if options.as_json:
        answer.echo(json_text({"loads": [_report_json(report, is_dry=options.is_dry) for report in reports]}))
        return answer
    for report in reports:
        _print_report(answer, report, is_dry=options.is_dry)
    return answer


def _print_report(out: Answer, report: LoadReport, *, is_dry: bool) -> None:
    name, outcome = report.settings.name, report.outcome
    if outcome.problem is not None:
        out.echo(f"{name}: {report.target or 'the target'}: {outcome.problem.reason}", err=True)
        _print_hint(out, outcome.problem.hint)
    if is_dry:
        for each in outcome.tables:
            out.echo(f"{name}: {_words(each)}")
        return
    for each in report.problems:
        assert each.problem is not None  # noqa: S101 - it is one of the problems
        out.echo(f"{name}: {each.planned.table}: {each.problem.reason}", err=True)
        _print_hint(out, each.problem.hint)
    if outcome.problem is not None:
        return
    loaded, skipped = report.loaded, [each for each in outcome.tables if each.planned.reason]
    rows = f" with {_count(sum(each.sent for each in loaded), 'row')}" if loaded else ""
    parts = [f"{_count(len(loaded), 'table')} loaded{rows}"]
    unchanged = len(outcome.tables) - len(loaded) - len(skipped) - len(report.problems)
    parts += [f"{unchanged} unchanged"] if unchanged else []
    parts += [f"{len(report.problems)} not up to date"] if report.problems else []
    parts += [f"{len(skipped)} left out (dcsync load status)"] if skipped else []
    out.echo(f"{name}: {report.target}: {', '.join(parts)}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _print_hint(out: Answer, hint: str) -> None:
    if hint:
        out.echo(f"  do:   {hint}", err=True)


def _words(each: TableOutcome) -> str:
    """Return what a dry run says about a table."""
    from dcsync.core.load_plan import Action

    planned = each.planned
    found = planned.candidate
    rows = "all rows" if found.rows is None else _count(found.rows, "row")
    words = {
        Action.LOAD: f"load {rows}",
        Action.CHANGES: "load the rows that changed",
        Action.MARK: "mark: the rows did not change",
        Action.KEEP: "up to date",
        Action.SKIP: f"left out: {planned.reason}",
    }[planned.action]
    return f"{planned.table}: {words} (job {found.job})"


def _report_json(report: LoadReport, *, is_dry: bool) -> dict[str, Json]:
    from dcsync.core.wire import time_json

    outcome = report.outcome
    tables: list[Json] = [
        {
            "table": each.planned.table,
            "account": each.planned.candidate.account,
            "request": each.planned.candidate.request,
            "action": each.planned.action.value,
            "job": each.planned.candidate.job,
            "completed_at": time_json(each.planned.candidate.completed),
            "sent": each.sent,
            "note": each.planned.reason or None,
            "problem": None if each.problem is None else each.problem.reason,
        }
        for each in outcome.tables
    ]
    return {
        "name": report.settings.name,
        "target": report.target or None,
        "schema": report.settings.dataset,
        "mode": report.settings.mode.value,
        "dry_run": is_dry,
        "problem": None if outcome.problem is None else outcome.problem.reason,
        "next_try_at": time_json(report.next_try_at),
        "tables": tables,
    }


def _state_json(config: Config, name: str, state: LoadState) -> dict[str, Json]:
    (load,) = [load for load in config.loads if load.name == name]
    return {"name": name, "schema": load.dataset, "mode": load.mode, **state.json()}


def _print_state(name: str, state: LoadState) -> None:
    from dcsync.cli.output import age_text, print_table, time_text

    now = datetime.now(UTC)
    click.secho(f"{name}: {state.target or 'not loaded yet'}", bold=True)
    click.echo(f"  last load     {age_text(state.done_at, now)}")
    if state.problem is not None:
        click.secho(f"  problem       {state.problem}", fg="yellow")
    if state.hint:
        click.echo(f"  do            {state.hint}")
    if state.next_try_at is not None:
        click.echo(f"  next try      {time_text(state.next_try_at)}")
    if state.tables:
        print_table(["table", "snapshot of", "job", "rows", "loaded", "remark"], list(map(_row, state.tables)))


def _row(table: TableState) -> list[str]:
    from dcsync.cli.output import time_text

    return [
        table.table,
        time_text(table.completed),
        table.job or "-",
        "-" if table.rows is None else str(table.rows),
        time_text(table.loaded_at),
        table.problem or table.note or "",
    ]
