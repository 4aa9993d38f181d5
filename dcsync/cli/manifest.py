"""`dcsync manifest copy`."""

from __future__ import annotations

import os

import click

from dcsync.cli.group import EXIT_STATUSES


@click.group("manifest", epilog=EXIT_STATUSES)
def manifest_command() -> None:
    """Look after the manifest: the list of what is mirrored."""


@manifest_command.command("copy", epilog=EXIT_STATUSES)
@click.option(
    "--to",
    "target",
    required=True,
    metavar="PLACE",
    help='Where to: "sqlite", "postgresql://user@host/database", or where that is: "env:NAME", "file:PATH".',
)
@click.option("--replace", is_flag=True, help="Replace a manifest that is there already.")
@click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
@click.pass_context
def copy_command(ctx: click.Context, target: str, replace: bool, as_json: bool) -> int:
    """Copy the manifest from where state.manifest says to another place, and the tokens with it.

    From SQLite to PostgreSQL for several hosts, or back. Afterwards the mirror belongs to the copy: the manifest before
    it is refused, so that no host goes on with it. Set state.manifest to the new place, on every host. Nothing else may
    be at work on the mirror.
    """
    from dcsync.app.copy import copy_manifest
    from dcsync.cli.output import print_json
    from dcsync.cli.startup import load_config, run_async

    copied = run_async(copy_manifest(load_config(ctx), target, replace=replace, environ=os.environ))
    if as_json:
        print_json({"jobs": copied.jobs, "tokens": copied.tokens, "to": copied.to, "instance": copied.instance})
        return 0
    tokens = " and the tokens" if copied.tokens else ""
    click.echo(f"{copied.jobs} jobs{tokens} copied to {copied.to}")
    click.echo(
        f"now set state.manifest to it on every host: the one before is refused from here on ({copied.instance})"
    )
    return 0
