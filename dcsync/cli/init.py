"""`dcsync init`: write a commented configuration from options and answers."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from dcsync.cli.group import EXIT_STATUSES, Globals
from dcsync.cli.new_config import (
    KEYS,
    REFRESH_TOKEN,
    absolute,
    callback_url,
    configuration_text,
    flag,
    name_and_id,
    reference,
    service_group,
    show_next,
    with_defaults,
)

#: Parameters that apply to one sign-in method only.
_ONLY_FOR = {
    "redirect_uri": "login",
    "service_account": "service-account",
    "key_id": "service-account",
    "private_key": "service-account",
    "refresh_token": "token",
    "access_token": "token",
}


@click.command("init", epilog=EXIT_STATUSES)
@click.option("--root", type=absolute, metavar="FOLDER", help="The mirror folder.")
@click.option(
    "--state-dir",
    type=absolute,
    metavar="FOLDER",
    help="The folder for tokens and the manifest [root: /var/lib/dcsync, others: ~/.local/state/dcsync].",
)
@click.option("--method", type=click.Choice(["login", "service-account", "token"]), help="The sign-in method [login].")
@click.option("--client-id", metavar="ID", help="The client ID of your app.")
@click.option(
    "--client-secret", type=reference, metavar="REF", help="The client secret of your app. A public app has none."
)
@click.option("--redirect-uri", type=callback_url, metavar="URL", help="login: a callback URL of your app.")
@click.option("--service-account", metavar="ID", help="service-account: the service account's ID.")
@click.option("--key-id", metavar="ID", help="service-account: the ID of its key.")
@click.option("--private-key", type=reference, metavar="REF", help="service-account: its private key (PEM).")
@click.option(
    "--refresh-token",
    type=reference,
    metavar="REF",
    help=f"token: a refresh token [{REFRESH_TOKEN}].",
)
@click.option(
    "--access-token", type=reference, metavar="REF", help="token: an access token instead, valid for one hour."
)
@click.option(
    "--account",
    "accounts",
    type=name_and_id,
    multiple=True,
    metavar="NAME=ID",
    help="An account to mirror, with its hub ID or account ID. Can be given multiple times.",
)
@click.option("--base-url", metavar="URL", help="The address of the API, for example of `dcsync sandbox`.")
@click.pass_context
def init_command(ctx: click.Context, /, **_: object) -> int:
    """Write a configuration with a comment on every key. On a terminal, lead from there to the first snapshot.

    On a terminal, init asks for the app and the sign-in, signs in, and lets you choose the account and the data
    request. You can stop at any question with Ctrl-C, and continue with the same command. Elsewhere, or if you give
    all required options, it writes the file and asks nothing. An existing file is never overwritten.

    It writes to the file that you name before the command (dcsync --config FILE init), to $DCSYNC_CONFIG, to
    ~/.config/dcsync/config.toml, or for root to /etc/dcsync/config.toml.

    The file contains no secrets, only references to them: REF is env:NAME, file:PATH or credential:NAME.

    Where the service is installed, root writes a file that the service can read, and the secrets are its credentials.
    """
    from dcsync.config import create, create_schema, new_place, refuse_existing

    options = ctx.obj
    assert isinstance(options, Globals)  # noqa: S101 - the group sets it
    place = new_place(options.config, environ=os.environ, is_root=os.geteuid() == 0)
    given = {name: value for name, value in ctx.params.items() if value}
    accounts: list[tuple[str, str]] = list(given.pop("accounts", ()))
    is_terminal, missing = sys.stdin.isatty() and sys.stdout.isatty(), _missing(given)
    if is_terminal and missing and place.is_file():
        _refuse_other(place, given, accounts)
        return _lead(ctx, place, given, accounts)
    refuse_existing(place)
    _refuse_unfitting(given)
    if missing:
        if not is_terminal:
            message = f"missing: {', '.join(flag(name) for name in missing)} (on a terminal, init asks)"
            raise click.UsageError(message)
        return _lead(ctx, place, given, accounts)
    values = with_defaults(given)
    create(place, configuration_text(values, accounts, place), group=service_group(place))
    create_schema(place)
    show_next(place, values, accounts)
    return 0


def _lead(ctx: click.Context, place: Path, given: Mapping[str, str], accounts: Sequence[tuple[str, str]]) -> int:
    from dcsync.cli.guide import Start, lead
    from dcsync.cli.startup import set_up_log

    set_up_log(ctx, level="warning", form="auto")
    return lead(Start(place=place, given=given), accounts)


def _refuse_other(place: Path, given: Mapping[str, str], accounts: Sequence[tuple[str, str]]) -> None:
    """Refuse an existing file unless it has all values of the options, so that nothing has to change in it."""
    from dcsync.config import refuse_existing
    from dcsync.config.change import read_text

    try:
        document = tomllib.loads(read_text(place))
    except tomllib.TOMLDecodeError:
        # Loading the file reports the mistake with its line.
        return
    own = [(each.get("name"), each.get("id")) for each in document.get("account", [])]
    same = [document.get(KEYS[name][0], {}).get(KEYS[name][1]) == value for name, value in given.items()]
    if not all([*same, *(account in own for account in accounts)]):
        refuse_existing(place)


def _refuse_unfitting(given: Mapping[str, str]) -> None:
    method = given.get("method")
    for name, only in _ONLY_FOR.items():
        # Without --method, init asks for it on a terminal.
        if name in given and method is not None and method != only:
            message = f"{flag(name)} is for --method {only}"
            raise click.UsageError(message)


def _missing(given: Mapping[str, str]) -> list[str]:
    """Return the names of the required parameters without a value."""
    needed = ["root", "client_id"]
    match given.get("method"):
        case "service-account":
            needed += ["client_secret", "service_account", "key_id", "private_key"]
        case "token":
            # An access token is not renewed, so no client ID is needed.
            needed = ["root"] if "access_token" in given else needed
        case _:
            # The default is login, so options of another method require --method.
            needed += ["method"] if any(name in given and only != "login" for name, only in _ONLY_FOR.items()) else []
    return [name for name in needed if name not in given]
