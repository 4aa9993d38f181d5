"""`dcsync config`: show the configuration, check it, and print its JSON schema."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import click

from dcsync.cli.group import Globals, exit_statuses
from dcsync.errors import ConfigInvalid, ExitStatus

if TYPE_CHECKING:
    from dcsync.config import Settings
    from dcsync.core.model import Json


@click.group("config", epilog=exit_statuses())
def config_command() -> None:
    """Show the configuration, check it, or print its JSON schema for editors."""


@config_command.command("show", short_help="Show every key, its value and its line.", epilog=exit_statuses())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def show_command(ctx: click.Context, as_json: bool) -> int:
    """Show every key with its value, and the line of the file that sets it. Secrets are shown as ***."""
    from dcsync.cli.output import print_json, print_table

    found = _read(ctx)
    if as_json:
        keys: list[Json] = [
            {
                "key": setting.key,
                "value": setting.value,
                "origin": "default" if setting.line is None else "file",
                "line": setting.line,
            }
            for setting in found.settings
        ]
        print_json({"file": str(found.file), "keys": keys})
        return 0
    click.echo(f"{found.file}:", err=True)
    rows = [
        [
            setting.key,
            "(not set)" if setting.value is None else json.dumps(setting.value, ensure_ascii=False),
            "default" if setting.line is None else f"line {setting.line}",
        ]
        for setting in found.settings
    ]
    print_table(["key", "value", "from"], rows, wide=(0, 1, 2))
    return 0


@config_command.command("check", short_help="Check the file and list all mistakes.", epilog=exit_statuses())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def check_command(ctx: click.Context, as_json: bool) -> int:
    """Check the configuration file, and list all mistakes with their lines. Needs neither the network nor the disk.

    `dcsync doctor` checks what the file refers to: secrets, folders, the token and the API.
    """
    from dcsync.cli.output import print_json

    try:
        found = _read(ctx)
    except ConfigInvalid as error:
        if not as_json:
            raise
        mistakes: list[Json] = [
            {"file": mistake.file, "line": mistake.line, "key": mistake.key, "message": mistake.message}
            for mistake in error.mistakes
        ]
        print_json({"valid": False, "mistakes": mistakes, "warnings": []})
        return int(ExitStatus.USAGE)
    if as_json:
        warnings: list[Json] = [
            {"file": old.file, "line": old.line, "key": old.key, "message": old.message} for old in found.old_names
        ]
        print_json({"valid": True, "mistakes": [], "warnings": warnings})
        return 0
    for old in found.old_names:
        click.secho(f"warning: {old}", fg="yellow", err=True)
    click.echo(f"{found.file} is valid")
    if not any(setting.key.startswith("account.") for setting in found.settings):
        click.echo("It has no [[account]] yet: dcsync accounts lists those that you can see")
    return 0


@config_command.command("schema", short_help="Print the JSON schema for editors.", epilog=exit_statuses())
def schema_command() -> int:
    """Print the JSON schema of the configuration, with which an editor completes and checks the file.

    Save it in the folder of the configuration as config.schema.json. The first line of the configuration refers to it:
    #:schema ./config.schema.json
    """
    from dcsync.cli.output import print_json
    from dcsync.config import json_schema

    print_json(json_schema())
    return 0


def _read(ctx: click.Context) -> Settings:
    from dcsync.config import read_settings

    options = ctx.obj
    assert isinstance(options, Globals)  # noqa: S101 - the group sets it
    return read_settings(options.config, environ=os.environ)
