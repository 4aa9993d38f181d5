"""`dcsync hooks` and `dcsync notify`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from dcsync.cli.group import exit_statuses
from dcsync.errors import ConfigError, MirrorLocked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dcsync.config import Config
    from dcsync.core.model import Json
    from dcsync.manifest import HookRun
    from dcsync.ops.alerts.notify import Delivery


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

    While the daemon is running, the daemon runs them within five minutes.
    """
    from dcsync.cli.startup import load_config, run_async

    config = load_config(ctx)
    if not any("snapshot" in hook.on for hook in config.hooks):
        message = "no hook is configured for the event snapshot"
        raise ConfigError(message, hint='add a [[hook]] with on = ["snapshot"]')
    return run_async(_rerun(config, job))


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
    return 0 if all(outcome.error is None for outcome in outcomes) else 3


async def _runs(config: Config, job: str | None, limit: int) -> Sequence[HookRun]:
    from dcsync.app.hooks import open_hooks
    from dcsync.cluster import stores_for

    stores = stores_for(config, os.environ)
    async with open_hooks(config, stores, environ=os.environ, runs=False, writes=False) as dispatcher:
        return await dispatcher.hook_runs(job=job, limit=limit)


async def _rerun(config: Config, job: str) -> int:
    from dcsync.app.hooks import open_hooks
    from dcsync.cluster import stores_for
    from dcsync.manifest import HookState

    stores = stores_for(config, os.environ)
    try:
        async with open_hooks(config, stores, environ=os.environ, runs=True, writes=True) as dispatcher:
            count = await dispatcher.rerun(job)
            await dispatcher.run_hooks()
            runs = (await dispatcher.hook_runs(job=job, limit=max(count, 1)))[:count]
    except MirrorLocked as error:
        if error.role != "run":
            raise
        # The daemon runs them, within five minutes.
        async with open_hooks(config, stores, environ=os.environ, runs=False, writes=True) as dispatcher:
            count = await dispatcher.rerun(job)
        runs = ()
    if count == 0:
        message = f"no snapshot of a job {job} is in the mirror"
        raise ConfigError(message, hint="run dcsync jobs to list the jobs; check the ID")
    if not runs:
        click.echo(f"{count} hook run{'' if count == 1 else 's'} queued; the daemon starts hooks within five minutes")
        return 0
    for run in runs:
        words = "done" if run.state is HookState.DONE else f"failed: {run.error}"
        click.echo(f"{run.argv[0]}: {words}")
    return 0 if all(run.state is HookState.DONE for run in runs) else 3


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
