"""`dcsync hooks` and `dcsync notify`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from dcsync.cli.group import EXIT_STATUSES
from dcsync.errors import ConfigError, MirrorLocked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dcsync.config import Config
    from dcsync.core.model import Json
    from dcsync.manifest import HookRun


@click.group("hooks", epilog=EXIT_STATUSES)
def hooks_command() -> None:
    """Show what hooks ran, and run those of a snapshot again."""


@hooks_command.command("list", epilog=EXIT_STATUSES)
@click.option("--job", metavar="ID", help="Only those of this job.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
@click.pass_context
def list_command(ctx: click.Context, job: str | None, limit: int, as_json: bool) -> int:
    """List the newest runs of hooks, newest first."""
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


@hooks_command.command("rerun", epilog=EXIT_STATUSES)
@click.argument("job")
@click.pass_context
def rerun_command(ctx: click.Context, job: str) -> int:
    """Run the snapshot hooks of JOB again, as they are configured now."""
    from dcsync.cli.startup import load_config, run_async

    config = load_config(ctx)
    if not any("snapshot" in hook.on for hook in config.hooks):
        message = "no hook is configured for snapshots"
        raise ConfigError(message, hint='add a [[hook]] with on = ["snapshot"]')
    return run_async(_rerun(config, job))


@click.command("notify", epilog=EXIT_STATUSES)
@click.option("--test", "is_test", is_flag=True, required=True, help="Send a message to every address.")
@click.pass_context
def notify_command(ctx: click.Context, is_test: bool) -> int:  # noqa: ARG001 - required, so that it is said
    """Send a test message to every address of [notify]."""
    from dcsync.cli.startup import load_config, run_async

    config = load_config(ctx)
    if not config.notify.urls:
        message = "[notify] has no urls"
        raise ConfigError(message, hint="add some, as https://github.com/caronc/apprise/wiki describes them")
    delivered = run_async(_notify(config))
    click.echo("sent" if delivered else "not every address took it; see the log above")
    return 0 if delivered else 3


async def _runs(config: Config, job: str | None, limit: int) -> Sequence[HookRun]:
    from dcsync.app.hooks import open_hooks

    async with open_hooks(config, environ=os.environ, runs=False, writes=False) as dispatcher:
        return await dispatcher.hook_runs(job=job, limit=limit)


async def _rerun(config: Config, job: str) -> int:
    from dcsync.app.hooks import open_hooks
    from dcsync.manifest import HookState

    try:
        async with open_hooks(config, environ=os.environ, runs=True, writes=True) as dispatcher:
            count = await dispatcher.rerun(job)
            await dispatcher.run_hooks()
            runs = (await dispatcher.hook_runs(job=job, limit=max(count, 1)))[:count]
    except MirrorLocked as error:
        if error.role != "run":
            raise
        # The daemon runs them, within five minutes.
        async with open_hooks(config, environ=os.environ, runs=False, writes=True) as dispatcher:
            count = await dispatcher.rerun(job)
        runs = ()
    if count == 0:
        message = f"there is no snapshot of a job {job}"
        raise ConfigError(message, hint="dcsync jobs lists the jobs, dcsync status says how many are mirrored")
    if not runs:
        click.echo(f"{count} to run; the daemon does it within five minutes")
        return 0
    for run in runs:
        words = "done" if run.state is HookState.DONE else f"failed: {run.error}"
        click.echo(f"{run.argv[0]}: {words}")
    return 0 if all(run.state is HookState.DONE for run in runs) else 3


async def _notify(config: Config) -> bool:
    from dcsync.app.from_config import alert_settings
    from dcsync.clock import SystemClock
    from dcsync.core.events import Event, EventKind
    from dcsync.ops.alerts.notify import send

    settings = alert_settings(config, environ=os.environ)
    event = Event(
        kind=EventKind.ALERT,
        account="",
        at=SystemClock().now(),
        message="this is a test of dcsync; nothing is wrong",
    )
    return await send(settings.urls, [event])


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
