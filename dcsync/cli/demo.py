"""`dcsync demo`: a sandbox and a sync into a folder, without any configuration."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dcsync.cli.group import exit_statuses
from dcsync.core.names import SIDECAR_NAME, SUMS_NAME
from dcsync.core.table_names import stem
from dcsync.errors import ConfigError
from dcsync.sandbox import DEMO_APART, demo_time

if TYPE_CHECKING:
    from dcsync.ops.integrity.report import VerifyReport
    from dcsync.ops.mirroring.outcome import AccountOutcome

_STATE = ".state"
_TOKEN = "token"  # noqa: S105 - the name of its file
_FIRST_DAYS = 3
#: A program that starts the demo, such as make, sets this variable to the command that runs the demo again.
_RERUN_VARIABLE = "DCSYNC_DEMO_AGAIN"


@click.command("demo", epilog=exit_statuses(3, 11, 14))
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path("dcsync-demo"))
@click.pass_context
def demo_command(ctx: click.Context, folder: Path) -> int:
    """Mirror a made-up account into FOLDER (./dcsync-demo).

    The demo starts a local simulator of Autodesk's API and mirrors from it over real HTTP. You need no Autodesk
    account. Each further run adds a newer extract. Unchanged files are hard links to the previous snapshot. If `dcsync
    verify` found damaged files, the next run repairs them.
    """
    from dcsync.cli.startup import run_async, set_up_log
    from dcsync.ops.mirroring.outcome import exit_status

    set_up_log(ctx, level="warning", form="auto")
    folder = folder.absolute()
    before = _prepare(folder)
    completed = _next_extracts(before, datetime.now(UTC))
    click.echo(
        f"A local simulator of Autodesk's API serves {len(completed)} extracts of two data requests. "
        f"dcsync mirrors {'the new ones' if before else 'them'} into {folder}\n"
    )
    outcomes, repaired = run_async(_mirror(folder, completed))
    (folder / _STATE / "demo.json").write_text(json.dumps({"completed": [at.isoformat() for at in completed]}))
    _show_published(outcomes, repaired)
    status = exit_status(outcomes)
    if status == 0:
        _show_tree(folder)
        _show_next(folder)
    return int(status)


def _prepare(folder: Path) -> list[datetime]:
    """Return when the extracts of earlier runs were completed. Refuse a folder that does not belong to the demo."""
    state = folder / _STATE
    progress = state / "demo.json"
    try:
        if progress.is_file():
            entry = json.loads(progress.read_text())
            if "first_day" in entry:  # as version 0.2 wrote it
                first = date.fromisoformat(entry["first_day"])
                return [demo_time(first + timedelta(days=day)) for day in range(int(entry["days"]))]
            return [datetime.fromisoformat(at) for at in entry["completed"]]
        if folder.is_dir() and not state.is_dir() and any(folder.iterdir()):
            message = f"{folder} contains other files"
            raise ConfigError(message, hint="name a new or empty folder: dcsync demo DIR")
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        message = f"cannot use {folder}: {error.strerror}"
        raise ConfigError(message, hint="name a folder that you may write to: dcsync demo DIR") from None
    except (ValueError, KeyError, TypeError):
        message = f"{progress} was not written by the demo, or is damaged"
        raise ConfigError(message, hint=f"remove {folder} and run the demo again") from None
    return []


def _next_extracts(before: Sequence[datetime], now: datetime) -> list[datetime]:
    """Return when the extracts are complete, up to the newest one that both data requests have by now.

    The first run has those of the last days. Any other run adds that of today, or if it is there, one of this moment.
    """
    of_today = demo_time(now.date())
    newest = of_today if of_today + DEMO_APART <= now else of_today - timedelta(days=1)
    if not before:
        return [newest - timedelta(days=day) for day in reversed(range(_FIRST_DAYS))]
    return [*before, newest if newest > before[-1] else max(now - DEMO_APART, before[-1] + timedelta(seconds=1))]


async def _mirror(folder: Path, completed: Sequence[datetime]) -> tuple[list[AccountOutcome], VerifyReport | None]:
    """Mirror the extracts, and repair what a verify found while the simulator can serve it."""
    from dcsync.app.from_config import account_settings, history_settings
    from dcsync.app.renew import renewing
    from dcsync.app.secret_file import write_secret
    from dcsync.app.status import current_status
    from dcsync.app.sync import open_sync
    from dcsync.cluster import stores_for
    from dcsync.config import load
    from dcsync.manifest.damage import known_damage
    from dcsync.ops.history.catch_up import catch_up
    from dcsync.ops.integrity.verify import verify
    from dcsync.ops.mirroring.run import sync
    from dcsync.ops.page import write_report
    from dcsync.ops.recovery import recover
    from dcsync.sandbox import Options, Sandbox, World

    world = World.demo_at(completed)
    # Autodesk's limit of 60 calls per minute would make you wait. Everything else is as strict as the real API.
    async with Sandbox(world, options=Options(quota_per_minute=None)) as sandbox:
        path = folder / _STATE / "config.toml"
        path.write_text(_config(folder, sandbox.base_url, world.hub_id))
        # In a file, so that commands find it after the demo.
        write_secret(folder / _STATE / _TOKEN, sandbox.tokens.issue_access_token("demo", 3600))
        config = load(path, environ={})
        accounts = account_settings(config)
        opener = partial(open_sync, environ={})
        async with renewing(opener, config, stores_for(config, {}), role="sync") as context:
            await recover(context, accounts)
            damaged = await known_damage(context.manifest, accounts[0].name)
            repaired = await verify(context, accounts, repair=True) if damaged else None
            outcomes = await sync(context, accounts)
            await catch_up(context, accounts, history_settings(config))
            status = await current_status(config, context)
            await write_report(context, status.accounts, stale_after=config.poll.stale_after)
            return outcomes, repaired


def _config(folder: Path, base_url: str, hub_id: str) -> str:
    return f"""# The configuration of the last run of the demo. The simulator at this address runs only during the demo.
[mirror]
root = {json.dumps(str(folder))}

[state]
dir = {json.dumps(str(folder / _STATE))}

[api]
base_url = "{base_url}"
requests_per_minute = 1000

[auth]
method = "token"
access_token = {json.dumps(f"file:{folder / _STATE / _TOKEN}")}

[[account]]
name = "acme"
id = "{hub_id}"

[history]
tables = {'["*"]' if find_spec("duckdb") else "[]"}
"""


def _show_published(outcomes: Sequence[AccountOutcome], repaired: VerifyReport | None) -> None:
    from dcsync.cli.orders import print_answer
    from dcsync.cli.sync import print_outcomes
    from dcsync.cli.verify import answer_of

    if repaired is not None:
        print_answer(answer_of(repaired, as_json=False))
    print_outcomes(outcomes, as_json=False, dry_run=False)
    click.echo()


def _show_tree(folder: Path) -> None:
    """Print the folder of each data request with its snapshots, and the files of the latest one."""
    click.echo(f"{folder}/")
    account = folder / "acme"
    click.echo("  acme/")
    for request in sorted(path for path in account.iterdir() if path.is_dir()):
        click.secho(f"    {request.name}/", bold=True)
        latest = request / "latest"
        click.echo(f"      latest -> {latest.readlink()}")
        for snapshot in sorted(path.parent for path in request.glob(f"[0-9]*/**/{SIDECAR_NAME}")):
            files = _files(snapshot)
            linked = sum((snapshot / name).stat().st_nlink > 1 for name in files)
            click.echo(f"      {snapshot.relative_to(request)}/  {len(files)} files, {linked} of them hard links")
        names = _files(latest)
        shown = ", ".join(names[:5])
        click.echo(f"        {shown}, … ({len(names)} files)")


def _files(snapshot: Path) -> list[str]:
    """Return the names of the mirrored files, as `sync` counts them: without SHA256SUMS and _dcsync.json."""
    return [entry["name"] for entry in json.loads((snapshot / SIDECAR_NAME).read_text())["files"]]


def _show_next(folder: Path) -> None:
    latest = next(iter(sorted(folder.glob("acme/*/latest"))))
    shown = shlex.quote(str(latest))
    config = shlex.quote(str(folder / _STATE / "config.toml"))
    dcsync = f"{shlex.join(_program())} --config {config}"
    request = shlex.quote(latest.parent.name)
    table, day = _changed_table(latest)
    click.echo(
        f"""
Next:
  {dcsync} status      # is everything here, and when is the next extract expected?
  {dcsync} diff previous latest --request {request}      # what changed
  {dcsync} diff --rows --request {request} --table {table}      # which rows changed, and how
  {dcsync} at {day} {table} --request {request}      # the table as it was on a day
  {dcsync} verify      # read every file again
  (cd {shown} && sha256sum -c --quiet {SUMS_NAME}) && echo OK      # the same without dcsync
  xdg-open {shlex.quote(str(folder / "index.html"))}      # the report: history, changes, alerts
  less {shown}/{SIDECAR_NAME}      # where each file came from
  {_rerun_command(folder)}      # add an extract: only changed files are downloaded"""
    )


def _changed_table(latest: Path) -> tuple[str, str]:
    """Return a table that changed in the latest snapshot, and the day of the oldest one."""
    document = json.loads((latest / SIDECAR_NAME).read_text())
    with_rows = [entry["original"] for entry in document["files"] if entry.get("rows") and entry["kind"] == "full"]
    changed = [name for name in with_rows if name in document["changes"]["changed"]]
    oldest = min(latest.parent.glob(f"[0-9]*/**/{SIDECAR_NAME}"))
    return stem((changed or with_rows)[0]), "-".join(oldest.relative_to(latest.parent).parts[:3])


def _rerun_command(folder: Path) -> str:
    """Return the command that runs the demo again, ready to paste."""
    given = os.environ.get(_RERUN_VARIABLE)
    if given:
        return given
    return shlex.join([*_program(), "demo", str(folder)])


def _program() -> list[str]:
    if shutil.which("dcsync"):
        return ["dcsync"]
    if Path(sys.argv[0]).name == "dcsync":
        return [sys.argv[0]]
    return [sys.executable, "-m", "dcsync"]
