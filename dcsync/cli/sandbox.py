"""`dcsync sandbox`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from dcsync.cli.group import exit_statuses

if TYPE_CHECKING:
    from dcsync.sandbox import Sandbox


_JOBS_TAKE_S = 60.0
_SCOPES = frozenset({"data:read", "data:create", "data:write"})


@click.command("sandbox", epilog=exit_statuses())
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8090,
    show_default=True,
    help="Port of the API. 0 picks a free port.",
)
@click.option(
    "--storage-port", type=click.IntRange(0, 65535), default=0, help="Port of the storage. 0 picks a free port."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the made-up data.")
@click.option(
    "--days",
    type=click.IntRange(1, 29),
    default=3,
    show_default=True,
    help="Number of days with extracts, up to today.",
)
@click.option(
    "--tables", type=click.IntRange(1, 260), default=40, show_default=True, help="Number of tables in the full extract."
)
@click.option(
    "--quota",
    type=click.IntRange(min=0),
    default=60,
    show_default=True,
    help="API calls per minute. 0 turns the limit off.",
)
@click.option(
    "--url-lifetime",
    type=click.FloatRange(min=0.1),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Lifetime of a signed URL.",
)
@click.option("--latency", type=click.FloatRange(min=0), default=0.0, metavar="SECONDS", help="Delay of each API call.")
@click.pass_context
def sandbox_command(  # noqa: PLR0913 - its options
    ctx: click.Context,
    port: int,
    storage_port: int,
    seed: int,
    days: int,
    tables: int,
    quota: int,
    url_lifetime: float,
    latency: float,
) -> None:
    """Run a local simulator of Autodesk's API, sign-in and storage on 127.0.0.1 until you interrupt it.

    It prints a configuration for dcsync that uses the simulator. The jobs of data requests that you create take a
    minute. Service accounts that you create are invited at once.
    """
    from datetime import UTC, datetime, timedelta

    from dcsync.cli.startup import run_async, set_up_log
    from dcsync.errors import ConfigError
    from dcsync.sandbox import Options, Sandbox, World

    set_up_log(ctx, level="info", form="auto")

    async def serve() -> None:
        import asyncio
        from contextlib import AsyncExitStack

        first_day = datetime.now(UTC).date() - timedelta(days=days)
        world = World.demo(seed=seed, days=days, first_day=first_day, tables=tables)
        # In this world, no other program completes the jobs of new data requests or invites new service accounts.
        world.jobs_take_s, world.invites_all = _JOBS_TAKE_S, True
        options = Options(quota_per_minute=quota or None, url_lifetime_s=url_lifetime, latency_s=latency)
        async with AsyncExitStack() as stack:
            sandbox = Sandbox(world, port=port, storage_port=storage_port, options=options)
            try:
                await stack.enter_async_context(sandbox)
            except OSError as error:
                ports = " or ".join(str(each) for each in (port, storage_port) if each)
                message = f"the simulator cannot listen on port {ports} of 127.0.0.1: {os.strerror(error.errno or 0)}"
                raise ConfigError(message, hint="choose another port, or a free one with --port 0") from None
            _announce(sandbox)
            await asyncio.Event().wait()

    try:
        run_async(serve())
    except KeyboardInterrupt:
        click.echo("sandbox stopped", err=True)


def _announce(sandbox: Sandbox) -> None:
    token = sandbox.tokens.issue_refresh_token("sandbox-user", scopes=_SCOPES)
    click.echo(f"# API: {sandbox.base_url}, storage: {sandbox.storage_url}. Ctrl-C stops both.")
    click.echo("# Save this as sandbox.toml (chmod 600) and run: dcsync --config sandbox.toml sync")
    click.echo(
        f"""[mirror]
root = "/tmp/dcsync-sandbox/mirror"       # create this folder first

[state]
dir = "/tmp/dcsync-sandbox/state"

[api]
base_url = "{sandbox.base_url}"

[auth]
method = "token"
client_id = "{sandbox.options.client_id}"
client_secret = "{sandbox.options.client_secret or ""}"
refresh_token = "{token}"

[[account]]
name = "sandbox"
id = "{sandbox.world.hub_id}"
"""
    )
