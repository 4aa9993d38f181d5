"""`dcsync hooks` and `dcsync notify`."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from dcsync.cli.group import exit_statuses
from dcsync.errors import DAEMON_ROLE, ConfigError, ExitStatus, MirrorLocked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import JsonValue

    from dcsync.config import Config
    from dcsync.core.model import Json
    from dcsync.daemon.open_order import OpenOrder
    from dcsync.manifest import HookRun
    from dcsync.ops.alerts.notify import Delivery
    from dcsync.orders import Answer


@click.group("hooks", epilog=exit_statuses(3, 11, 14))
def hooks_command() -> None:
    """List the runs of hooks, or run the hooks of a snapshot again."""


@hooks_command.command("list", epilog=exit_statuses(3, 14))
@click.option("--job", metavar="ID", help="Show only hook runs of this job.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Show at most this many results."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def list_command(ctx: click.Context, job: str | None, limit: int, as_json: bool) -> int:
    """List the latest hook runs, newest first."""
    from dcsync.cli.output import print_json, print_table, time_text
    from dcsync.cli.startup import load_config, run_async

    runs = run_async(_runs(load_config(ctx), job, limit))
    if as_json:
        print_json({"hooks": [_json(run) for run in runs]})
        return 0
    headers = ["hook", "event", "account", "job", "state", "tries", "exit", "ended", "error"]
    rows = [
        [
            run.argv[0],
            run.kind.value,
            run.account or "-",
            run.job or "-",
            run.state.value,
            str(run.attempts),
            "-" if run.exit_status is None else str(run.exit_status),
            time_text(run.ended_at),
            run.error or "",
        ]
        for run in runs
    ]
    print_table(headers, rows, wide=(3,))
    return 0


@hooks_command.command("rerun", epilog=exit_statuses(3, 11, 14, incomplete="a hook failed, or retrying can help"))
@click.argument("job")
@click.pass_context
def rerun_command(ctx: click.Context, job: str) -> int:
    """Run the snapshot hooks of JOB again, as they are configured now.

    While the daemon is running, the daemon runs them.
    """
    from dcsync.cli.orders import Shown, carry_out, print_answer
    from dcsync.cli.startup import load_config

    config = load_config(ctx, is_order=True)
    if not any("snapshot" in hook.on for hook in config.hooks):
        message = "no hook is configured for the event snapshot"
        raise ConfigError(message, hint='add a [[hook]] with on = ["snapshot"]')
    options = RerunOptions(job=job)

    async def alone() -> Answer:
        return _rerun_answer(job, *await _rerun(config, job))

    return print_answer(carry_out(config, "hooks rerun", asdict(options), alone=alone, shown=Shown.NOTHING))


@dataclass(frozen=True, kw_only=True)
class RerunOptions:
    """The options of an order to run hooks again."""

    job: str


async def order_work(order: OpenOrder, options: Mapping[str, JsonValue]) -> Answer:
    """Run hooks again in the daemon."""
    from dcsync.cli.orders import read_options

    job = read_options(RerunOptions, options).job
    return _rerun_answer(job, *await order.rerun_hooks(job))


@click.command("notify", epilog=exit_statuses(3, incomplete="at least one address failed, or retrying can help"))
@click.option("--test", "is_test", is_flag=True, required=True, help="Send the test message.")
@click.pass_context
def notify_command(ctx: click.Context, is_test: bool) -> int:  # noqa: ARG001 - required, so that the command line says what happens
    """Send a test message to every address in [notify]."""
    from dcsync.cli.startup import load_config, run_async

    config = load_config(ctx)
    if not config.notify.urls:
        message = "notify.urls is empty"
        raise ConfigError(message, hint="add an address; https://github.com/caronc/apprise/wiki lists the formats")
    outcomes = run_async(_notify(config))
    for outcome in outcomes:
        words = "sent" if outcome.error is None else f"failed: {outcome.error}"
        click.secho(f"address {outcome.number} ({outcome.service}): {words}", fg="red" if outcome.error else None)
    if all(outcome.error is None for outcome in outcomes):
        return 0
    click.echo("  do:   correct these addresses; https://github.com/caronc/apprise/wiki lists the formats", err=True)
    return 3


async def _runs(config: Config, job: str | None, limit: int) -> Sequence[HookRun]:
    from dcsync.app.hooks import open_hooks
    from dcsync.cluster import stores_for

    stores = stores_for(config, os.environ)
    async with open_hooks(config, stores, environ=os.environ, runs=False, writes=False) as dispatcher:
        return await dispatcher.hook_runs(job=job, limit=limit)


async def _rerun(config: Config, job: str) -> tuple[int, Sequence[HookRun]]:
    """Run the hooks, and return how many there are and their runs. None of them ran if a daemon runs them later."""
    from dcsync.app.hooks import open_hooks
    from dcsync.cluster import stores_for

    stores = stores_for(config, os.environ)
    try:
        async with open_hooks(config, stores, environ=os.environ, runs=True, writes=True) as dispatcher:
            count = await dispatcher.rerun(job)
            await dispatcher.run_hooks()
            return count, (await dispatcher.hook_runs(job=job, limit=max(count, 1)))[:count]
    except MirrorLocked as error:
        if error.role != DAEMON_ROLE:
            raise
        # A daemon of another host, or one that does not take orders now.
        async with open_hooks(config, stores, environ=os.environ, runs=False, writes=True) as dispatcher:
            return await dispatcher.rerun(job), ()


def _rerun_answer(job: str, count: int, runs: Sequence[HookRun]) -> Answer:
    from dcsync.manifest import HookState
    from dcsync.orders import Answer

    if count == 0:
        message = f"no snapshot of a job {job} is in the mirror"
        raise ConfigError(message, hint="run dcsync jobs to list the jobs; check the ID")
    answer = Answer()
    if not runs:
        queued = f"{count} hook run{'' if count == 1 else 's'} queued"
        answer.echo(f"{queued}; the daemon starts hooks within five minutes")
        return answer
    for run in runs:
        words = "done" if run.state is HookState.DONE else f"failed: {run.error}"
        answer.echo(f"{run.argv[0]}: {words}")
    answer.status = ExitStatus.DONE if all(run.state is HookState.DONE for run in runs) else ExitStatus.INCOMPLETE
    return answer


async def _notify(config: Config) -> Sequence[Delivery]:
    from dcsync.app.alerts import alert_settings
    from dcsync.clock import SystemClock
    from dcsync.cluster import stores_for
    from dcsync.core.events import Event, EventKind
    from dcsync.ops.alerts.notify import deliver

    settings = alert_settings(config, stores_for(config, os.environ), environ=os.environ)
    event = Event(
        kind=EventKind.ALERT,
        account="",
        at=SystemClock().now(),
        message="this is a test message from dcsync; no action is needed",
    )
    return await deliver(settings.urls, [event])


def _json(run: HookRun) -> dict[str, Json]:
    from dcsync.core.wire import time_json

    return {
        "id": run.id,
        "account": run.account,
        "job": run.job,
        "event": run.kind.value,
        "argv": list(run.argv),
        "state": run.state.value,
        "attempts": run.attempts,
        "created_at": time_json(run.created_at),
        "next_try_at": time_json(run.next_try_at),
        "ended_at": time_json(run.ended_at),
        "exit_status": run.exit_status,
        "error": run.error,
    }
