"""`dcsync service-account`: create, list, disable and enable service accounts, and replace and delete their keys."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from dcsync.cli.group import exit_statuses

if TYPE_CHECKING:
    from dcsync.auth.service_accounts import Key, ServiceAccount
    from dcsync.cli.service_account_keys import App
    from dcsync.config import Config

P = ParamSpec("P")
T = TypeVar("T")

_STATUSES = exit_statuses(3, 12, 13)


def _reference(value: str) -> str:
    from dcsync.cli.new_config import reference

    return reference(value)


def _absolute(value: str) -> str:
    from dcsync.cli.new_config import absolute

    return absolute(value)


def _app_options(command: Callable[P, T]) -> Callable[P, T]:
    """Add the options that name the app before there is a configuration."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option("--base-url", metavar="URL", help="The address of the API, for example of `dcsync sandbox`."),
        click.option(
            "--client-secret", type=_reference, metavar="REF", help="The app's client secret, with --client-id."
        ),
        click.option("--client-id", metavar="ID", help="The app, before you have a configuration."),
    ):
        command = option(command)
    return command


def _changing_options(command: Callable[P, T]) -> Callable[P, T]:
    return click.option("--dry-run", is_flag=True, help="Show the steps, and change nothing.")(command)


@click.group("service-account", epilog=_STATUSES)
def service_account_command() -> None:
    """Create and manage the service accounts of your app, which sign in with a key.

    The app is that of the configuration (auth.client_id and auth.client_secret). Before there is a configuration, name
    it with --client-id and --client-secret. REF is env:NAME, file:PATH or credential:NAME: never write a secret on the
    command line.
    """


@service_account_command.command("create", epilog=_STATUSES)
@click.argument("name", required=False)
@click.option(
    "--key-file",
    type=_absolute,
    metavar="FILE",
    help="Where the private key is written [service-account.pem in the folder of the configuration].",
)
@_changing_options
@_app_options
@click.pass_context
def create_command(ctx: click.Context, /, *, name: str | None, key_file: str | None, **_: object) -> int:
    """Create the service account NAME and its key, and print what to do next. NAME is dcsync-HOSTNAME by default.

    The private key is written to a file with the mode 0600, and nowhere else. A killed command continues when you run
    it again. An existing service account of this name gets another key.
    """
    from dcsync.cli.service_account_keys import create, open_app

    app = open_app(ctx)
    return _run(create(app, name, None if key_file is None else Path(key_file)))


@service_account_command.command("list", epilog=_STATUSES)
@_app_options
@click.pass_context
def list_command(ctx: click.Context, /, **_: object) -> int:
    """List the service accounts of the app."""
    from dcsync.cli.output import print_json, print_table
    from dcsync.cli.service_account_keys import open_app

    app = open_app(ctx)
    rows = _run(app.admin.list())
    configured = app.config.auth.service_account_id
    if app.as_json:
        print_json({"service_accounts": [{**_row(row), "configured": row.id == configured} for row in rows]})
        return 0
    cells = [[row.id, row.email, row.status, row.created_at, _mark(row.id, configured)] for row in rows]
    print_table(["ID", "E-mail", "Status", "Created", ""], cells, wide=(0, 1))
    return 0


@service_account_command.command("keys", epilog=_STATUSES)
@click.argument("account", required=False)
@_app_options
@click.pass_context
def keys_command(ctx: click.Context, /, *, account: str | None, **_: object) -> int:
    """List the keys of ACCOUNT (an ID, a name or an e-mail address), by default of the configured service account."""
    from dcsync.cli.output import print_json, print_table
    from dcsync.cli.service_account_keys import open_app

    app = open_app(ctx)
    word = account or app.config.auth.service_account_id
    if word is None:
        message = "the configuration names no service account: name one"
        raise click.UsageError(message)

    async def read() -> tuple[ServiceAccount, tuple[Key, ...]]:
        found = await _find(app, word)
        return found, await app.admin.keys(found.id)

    found, keys = _run(read())
    configured = _configured_key(app.config, found)
    if app.as_json:
        print_json(
            {
                "service_account": _row(found),
                "keys": [{**asdict(key), "configured": key.id == configured} for key in keys],
            }
        )
        return 0
    print_table(
        ["ID", "Status", "Created", ""],
        [[key.id, key.status, key.created_at, _mark(key.id, configured)] for key in keys],
        wide=(0,),
    )
    return 0


@service_account_command.command("delete-key", epilog=_STATUSES)
@click.argument("account")
@click.argument("key")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_changing_options
@_app_options
@click.pass_context
def delete_key_command(ctx: click.Context, /, *, account: str, key: str, yes: bool, **_: object) -> int:
    """Delete the KEY of ACCOUNT at Autodesk. The configured key is refused: replace it with rotate-key."""
    from dcsync.cli.output import print_json
    from dcsync.cli.service_account_keys import open_app, show_steps
    from dcsync.errors import ConfigError

    app = open_app(ctx)

    async def delete() -> int:
        found = await _find(app, account)
        if key == _configured_key(app.config, found):
            message = f"dcsync signs in with the key {key}"
            raise ConfigError(message, hint="replace it: dcsync service-account rotate-key")
        if key not in {each.id for each in await app.admin.keys(found.id)}:
            message = f"the service account {account} has no key {key}"
            raise ConfigError(message, hint=f"choose an ID of dcsync service-account keys {account}")
        verb = f"delete the key {key} of the service account {found.id}"
        if app.is_dry:
            return show_steps(app, [verb])
        _confirm(verb, "What uses it cannot sign in then", is_sure=yes)
        await app.admin.delete_key(found.id, key)
        if app.as_json:
            print_json({"deleted": key})
        else:
            click.echo(f"deleted the key {key} of the service account {found.id}")
        return 0

    return _run(delete())


@service_account_command.command("disable", epilog=_STATUSES)
@click.argument("account")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_changing_options
@_app_options
@click.pass_context
def disable_command(ctx: click.Context, /, *, account: str, yes: bool, **_: object) -> int:
    """Disable ACCOUNT at Autodesk: it cannot sign in until it is enabled again. Its keys stay."""
    from dcsync.auth.service_accounts import DISABLED

    return _set_status(ctx, account, DISABLED, is_sure=yes)


@service_account_command.command("enable", epilog=_STATUSES)
@click.argument("account")
@_changing_options
@_app_options
@click.pass_context
def enable_command(ctx: click.Context, /, *, account: str, **_: object) -> int:
    """Enable ACCOUNT at Autodesk, so that it can sign in with its keys."""
    from dcsync.auth.service_accounts import ENABLED

    return _set_status(ctx, account, ENABLED, is_sure=True)


@service_account_command.command("rotate-key", epilog=_STATUSES)
@click.option(
    "--key-file",
    type=_absolute,
    metavar="FILE",
    help="A new file for the private key, if auth.private_key is env: or credential:.",
)
@click.option(
    "--remove-old",
    is_flag=True,
    help="Remove the replaced key. You need this only with --key-file, after you changed the configuration.",
)
@_changing_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def rotate_key_command(ctx: click.Context, /, *, key_file: str | None, remove_old: bool, **_: object) -> int:
    """Replace the key of the configured service account.

    dcsync creates a new key, signs in with it, replaces the private key and auth.key_id in the configuration, and then
    removes the old key. A killed command continues when you run it again. Restart the daemon afterwards.
    """
    from dcsync.cli.service_account_keys import open_app, rotate

    app = open_app(ctx)
    return _run(rotate(app, None if key_file is None else Path(key_file), remove_old=remove_old))


def _set_status(ctx: click.Context, word: str, status: str, *, is_sure: bool) -> int:
    from dcsync.cli.output import print_json
    from dcsync.cli.service_account_keys import open_app, show_steps
    from dcsync.core.names import printable

    app = open_app(ctx)

    async def change() -> int:
        found = await _find(app, word)
        named = printable(f"{found.id} ({found.email})", 300)
        verb = f"{status.lower()[:-1]} the service account {named}"
        if app.is_dry:
            return show_steps(app, [verb])
        _confirm(verb, "It cannot sign in then", is_sure=is_sure)
        await app.admin.set_status(found.id, status)
        if app.as_json:
            print_json({"service_account": {**_row(found), "status": status}})
        else:
            click.echo(f"{status.lower()} the service account {named}")
        return 0

    return _run(change())


def _confirm(verb: str, consequence: str, *, is_sure: bool) -> None:
    if is_sure:
        return
    if not sys.stdin.isatty():
        message = f"without a terminal, --yes is needed to {verb}"
        raise click.UsageError(message)
    click.confirm(f"{verb[0].upper()}{verb[1:]}? {consequence}", abort=True, err=True)


async def _find(app: App, word: str) -> ServiceAccount:
    from dcsync.app.service_account import find_named
    from dcsync.errors import ConfigError

    found = await find_named(app.admin, word)
    if found is None:
        message = f"the app {app.client_id} has no service account {word}"
        raise ConfigError(message, hint="choose an ID, a name or an e-mail address of dcsync service-account list")
    return found


def _run(work: Coroutine[None, None, T]) -> T:
    """Run a command. A call without a usable answer can be repeated: each one first looks for its effect."""
    from dcsync.cli.startup import run_async
    from dcsync.errors import Unconfirmed

    try:
        return run_async(work)
    except Unconfirmed as error:
        raise Unconfirmed(error.message, hint="run the same command again. It continues from there") from None


def _row(found: ServiceAccount) -> dict[str, Any]:
    return {"id": found.id, "email": found.email, "status": found.status, "created_at": found.created_at}


def _configured_key(config: Config, found: ServiceAccount) -> str | None:
    return config.auth.key_id if config.auth.service_account_id == found.id else None


def _mark(identifier: str, configured: str | None) -> str:
    return "configured" if identifier == configured else ""
