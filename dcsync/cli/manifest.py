"""`dcsync manifest copy`."""

from __future__ import annotations

import os

import click

from dcsync.cli.group import exit_statuses


@click.group("manifest", epilog=exit_statuses(3, 11, 14))
def manifest_command() -> None:
    """Manage the manifest, the database of known jobs, snapshots and alerts."""


@manifest_command.command("copy", short_help="Copy the manifest and the tokens.", epilog=exit_statuses(3, 11, 14))
@click.option(
    "--to",
    "target",
    required=True,
    metavar="ADDRESS",
    help='"sqlite", "postgresql://user@host/database", or "env:NAME" or "file:PATH" that contains the address.',
)
@click.option("--replace", is_flag=True, help="Replace an existing manifest.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def copy_command(ctx: click.Context, target: str, replace: bool, as_json: bool) -> int:
    """Copy the manifest that state.manifest names, and the tokens, to another address.

    This moves the manifest from SQLite to PostgreSQL for several hosts, or back. Stop every other dcsync on the mirror
    first. Afterwards set state.manifest to the new address on every host. Hosts that still use the old manifest are
    refused.
    """
    from dcsync.app.copy import copy_manifest
    from dcsync.cli.output import print_json
    from dcsync.cli.startup import load_config, run_async
    from dcsync.cluster import stores_for

    copied = run_async(copy_manifest(load_config(ctx), target, stores_for, replace=replace, environ=os.environ))
    if as_json:
        print_json({"jobs": copied.jobs, "tokens": copied.tokens, "to": copied.to, "instance": copied.instance})
        return 0
    tokens = " and the tokens" if copied.tokens else ""
    click.echo(f"Copied {copied.jobs} jobs{tokens} to {copied.to}")
    click.echo(
        "Next: set state.manifest to the new address on every host. "
        "Hosts that still use the old manifest are refused.\n"
        f"The mirror's new ID is {copied.instance}"
    )
    return 0
