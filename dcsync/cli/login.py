"""`dcsync login`, `logout` and `accounts`."""

from __future__ import annotations

import asyncio
import json
import os
import re
from typing import TYPE_CHECKING

import click

from dcsync.cli.group import EXIT_STATUSES
from dcsync.errors import DcsyncError, NobodyToSignIn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dcsync.config import Config
    from dcsync.core.model import Hub

_STDIN = 0


@click.command("login", epilog=EXIT_STATUSES)
@click.option("--no-browser", is_flag=True, help="Only print the address; do not open a browser.")
@click.option("--switch-user", is_flag=True, help="Allow another user than the one whose token is stored.")
@click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
@click.pass_context
def login_command(ctx: click.Context, no_browser: bool, switch_user: bool, as_json: bool) -> int:
    """Sign in with a browser, here or on another machine; works while the daemon runs.

    Without a browser on this machine: open the printed address anywhere, allow access, and paste the address that the
    browser ends at, also if its page cannot be shown.
    """
    from dcsync.cli.startup import load_config, run_async

    config = load_config(ctx, accounts_needed=False)
    person = Terminal(opens_browser=not no_browser)
    return run_async(_login(config, person, switch_user=switch_user, as_json=as_json))


@click.command("logout", epilog=EXIT_STATUSES)
@click.option("--local", is_flag=True, help="Forget the token here only, when the server cannot be asked to revoke it.")
@click.pass_context
def logout_command(ctx: click.Context, local: bool) -> int:
    """Revoke the stored refresh token and forget it. The mirror itself is untouched."""
    from dcsync.cli.startup import load_config, run_async

    was_there = run_async(_logout(load_config(ctx, accounts_needed=False), local=local))
    if not was_there:
        click.echo("nobody was signed in")
    elif local:
        click.echo("the token is forgotten here; it was not revoked and lives on for up to 15 days")
    else:
        click.echo("signed out: the token is revoked and forgotten")
    return 0


@click.command("accounts", epilog=EXIT_STATUSES)
@click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
@click.pass_context
def accounts_command(ctx: click.Context, as_json: bool) -> int:
    """List the accounts (hubs) that the user sees, ready to be pasted into the configuration."""
    from dcsync.cli.output import print_json
    from dcsync.cli.startup import load_config, run_async

    config = load_config(ctx, accounts_needed=False)
    hubs = run_async(_hubs(config))
    configured = {account.account_id for account in config.accounts}
    if as_json:
        print_json(
            {
                "accounts": [
                    {
                        "id": hub.id,
                        "name": hub.name,
                        "region": hub.region,
                        "configured": _account_id(hub) in configured,
                    }
                    for hub in hubs
                ]
            }
        )
        return 0
    for hub in hubs:
        _print_hub(hub, configured=_account_id(hub) in configured)
    if not hubs:
        click.echo("dcsync: this user sees no account; has the client id been added to the account's custom ", err=True)
        click.echo("        integrations, and is the user a member of it?", err=True)
    return 0


class Terminal:
    """The person at standard input and output. What is printed is for reading; the answer comes at the end."""

    def __init__(self, *, opens_browser: bool) -> None:
        self._opens_browser = opens_browser
        self._listening = False
        self._rest = b""

    def show(self, url: str, *, listening: bool, why_not: str) -> None:
        """Print the address on stderr, where a log's lines go too, and open a browser if there is a screen for it."""
        self._listening = listening
        click.echo("Sign in to Autodesk at this address:\n", err=True)
        click.echo(f"  {url}\n", err=True)
        if not listening:
            click.echo(f"Nothing listens for the answer: {why_not}.", err=True)
        opened = self._opens_browser and listening and _open_browser(url)
        if opened:
            click.echo("A browser was opened with it. Waiting for it to come back …", err=True)
        click.echo(
            "Signing in elsewhere? Paste the address that the browser ends at (it has ?code=) here, and press Enter.",
            err=True,
        )

    async def pasted(self) -> str:
        """Return a line of standard input. With none to come, wait for the browser, if something listens for it."""
        while True:
            line = await self._line()
            if line is None:
                if self._listening:
                    await asyncio.Event().wait()
                message = "nobody can paste an address: standard input is closed"
                hint = "run dcsync login on a terminal, or free the address that auth.redirect_uri names"
                raise NobodyToSignIn(message, hint=hint)
            if line.strip():
                return line.strip()

    def complain(self, error: DcsyncError) -> None:
        """Print what is wrong; the next line is read after it."""
        click.secho(f"dcsync: {error.message}", fg="red", err=True)
        click.echo(f"  do:   {error.advice}", err=True)

    async def _line(self) -> str | None:
        while b"\n" not in self._rest:
            piece = await _read_stdin()
            if not piece:
                last, self._rest = self._rest, b""
                return last.decode("utf-8", "replace") if last else None
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode("utf-8", "replace")


async def _read_stdin() -> bytes:
    """Return what there is; nothing at its end. A file that the loop cannot watch (/dev/null) is read at once."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(_STDIN, ready.set)
    except (OSError, ValueError):
        try:
            return os.read(_STDIN, 1 << 16)
        except OSError:
            return b""
    try:
        await ready.wait()
    finally:
        loop.remove_reader(_STDIN)
    return os.read(_STDIN, 1 << 16)


def _open_browser(url: str) -> bool:
    """Open a browser where there is a screen; a text browser would take the terminal over."""
    import webbrowser

    if not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")):
        return False
    try:
        return webbrowser.open(url)
    except (webbrowser.Error, OSError):
        return False


async def _login(config: Config, person: Terminal, *, switch_user: bool, as_json: bool) -> int:
    from dcsync.app.login import open_chain
    from dcsync.cli.output import print_json, time_text
    from dcsync.core.oauth import REFRESH_LIFE
    from dcsync.ops.login import login

    async with open_chain(config, environ=os.environ) as chain:
        pair = await login(chain, person, redirect_uri=config.auth.redirect_uri, switch_user=switch_user)
    hubs, problem = await _visible(config)
    by = None if pair.issued_at is None else pair.issued_at + REFRESH_LIFE
    seen = {_account_id(hub) for hub in hubs}
    if as_json:
        rows = [
            {"name": account.name, "id": account.account_id, "visible": None if problem else account.account_id in seen}
            for account in config.accounts
        ]
        print_json({"user": pair.user, "refresh_by": None if by is None else by.isoformat(), "accounts": rows})
        return 0
    click.echo(f"signed in{'' if pair.user is None else f' as user {pair.user}'}")
    click.echo(f"the token renews itself while dcsync runs; unused it lasts until {time_text(by)}")
    if problem is not None:
        click.echo(f"dcsync: the accounts could not be looked up: {problem.message}", err=True)
        return 0
    for account in config.accounts:
        if account.account_id in seen:
            click.echo(f"{account.name}: visible")
        else:
            click.secho(f"{account.name}: this user does not see the account {account.id}", fg="yellow", err=True)
    if not config.accounts:
        click.echo("next: dcsync accounts, and add what you want to mirror to the configuration")
    return 0


async def _visible(config: Config) -> tuple[Sequence[Hub], DcsyncError | None]:
    """Return the hubs, or why they are not known: signing in worked all the same."""
    try:
        return await _hubs(config), None
    except DcsyncError as error:
        return (), error


async def _logout(config: Config, *, local: bool) -> bool:
    from dcsync.app.login import open_chain
    from dcsync.ops.login import logout

    async with open_chain(config, environ=os.environ) as chain:
        return await logout(chain, local=local)


async def _hubs(config: Config) -> Sequence[Hub]:
    from dcsync.app.api import open_api

    async with open_api(config, environ=os.environ) as opened:
        return await opened.client.hubs()


def _account_id(hub: Hub) -> str:
    return hub.id.removeprefix("b.").lower()


def _print_hub(hub: Hub, *, configured: bool) -> None:
    """Print a hub as a section of TOML; one that is configured already as a comment."""
    from dcsync.core.names import printable

    mark = "# " if configured else ""
    region = f" ({printable(hub.region, 20)})" if hub.region else ""
    click.echo(f"# {printable(hub.name, 120)}{region}{': in the configuration already' if configured else ''}")
    click.echo(f"{mark}[[account]]")
    click.echo(f"{mark}name = {json.dumps(_folder_name(hub))}")
    click.echo(f"{mark}id = {json.dumps(printable(hub.id, 80))}\n")


def _folder_name(hub: Hub) -> str:
    """Return a name that an account's folder may have, from the hub's."""
    from dcsync.core.names import ascii_fold

    words = re.sub(r"[^a-z0-9]+", "-", ascii_fold(hub.name).lower())
    return words.strip("-")[:64].strip("-") or "account"
