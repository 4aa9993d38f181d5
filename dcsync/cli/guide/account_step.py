"""The fourth step: the account, chosen from those that the user sees, becomes a section of the configuration."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dcsync.cli.guide.asking import ask, heading, pick, say
from dcsync.cli.guide.sign_in_step import Guided, invite, look_again, sign_in
from dcsync.cli.login import folder_name
from dcsync.core.names import printable
from dcsync.errors import ConfigError


def choose_account(guided: Guided, seen: list[dict[str, Any]]) -> None:
    """Add an account to the configuration."""
    heading("3. Account")
    while not (usable := [hub for hub in seen if hub["supported"]]):
        _show_unusable(guided, seen)
        look_again()
        seen = sign_in(guided)
    others = [printable(str(hub["name"]), 60) for hub in seen if not hub["supported"]]
    if others:
        say(f"Hubs of another kind have no Data Connector: {', '.join(others)}.")
    rows = [f"{hub['name']} ({hub['region']})" if hub["region"] else str(hub["name"]) for hub in usable]
    chosen = None
    while not isinstance(chosen, int):
        chosen = pick("Account (number, or a part of its name)", rows, default="1" if len(rows) == 1 else None)
    hub = usable[chosen]
    name = ask("Name of its folder in the mirror", account_name, default=folder_name(str(hub["name"])))
    add_account(guided.commands.place, name, str(hub["id"]))


def account_name(text: str) -> str:
    """Accept the name of an account. It becomes the name of a folder."""
    from pydantic import ValidationError

    from dcsync.config import Account

    try:
        # Any ID: only the name is checked.
        return Account(name=text, id="b.00000000-0000-0000-0000-000000000000").name
    except ValidationError as error:
        messages = [item["msg"].removeprefix("Value error, ") for item in error.errors(include_context=False)]
        raise click.BadParameter("; ".join(messages)) from None


def _show_unusable(guided: Guided, seen: list[dict[str, Any]]) -> None:
    for hub in seen:
        what = f"{printable(str(hub['name']), 60)}: {printable(str(hub['id']), 80)}"
        say(f"{what} is not an ACC or BIM 360 account, so it has no Data Connector.", indent="  ")
    who = "The signed-in user" if guided.signs_in else "The service account"
    say(f"{who} sees no account with Data Connector yet.")
    invite(guided)


def add_account(place: Path, name: str, identifier: str) -> None:
    """Write an account into the configuration."""
    from dcsync.config.change import add_account as added

    wanted = f'an [[account]] with name = "{name}" and id = "{identifier}"'
    change(place, lambda text: added(text, name, identifier), wanted)
    say(f"Added the account {name} to {place}.")


def change(place: Path, edit: Callable[[str], str | None], wanted: str) -> None:
    """Change the configuration, and nothing else in it. Raises `ConfigError` with what is `wanted` by hand."""
    from dcsync.app.key_files import replace_text
    from dcsync.config import parse
    from dcsync.config.change import read_text

    hint = f"write {wanted} into {place}, and run dcsync init again"
    changed = edit(read_text(place))
    if changed is None:
        message = f"{place} cannot be changed automatically"
        raise ConfigError(message, hint=hint)
    parse(changed, place=place)
    try:
        replace_text(place, changed)
    except ConfigError as error:
        raise ConfigError(error.message, hint=hint) from None


def account_names(guided: Guided) -> list[str]:
    """Return the accounts that the configuration names now."""
    from dcsync.config import load

    return [account.name for account in load(guided.commands.place, environ=os.environ, accounts_needed=False).accounts]
