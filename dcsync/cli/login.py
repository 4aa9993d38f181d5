"""`dcsync login`, `logout` and `accounts`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Final

import click

from dcsync.cli.group import exit_statuses
from dcsync.errors import DcsyncError, NobodyToSignIn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dcsync.config import Config
    from dcsync.core.model import Hub

_STDIN = 0
#: A browser that has not failed after these seconds is open.
_BROWSER_STARTS_S: Final = 2.0


@click.command("login", epilog=exit_statuses(3, 12))
@click.option("--no-browser", is_flag=True, help="Print the address and do not open a browser.")
@click.option("--switch-user", is_flag=True, help="Allow a different user than the one who is signed in now.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def login_command(ctx: click.Context, no_browser: bool, switch_user: bool, as_json: bool) -> int:
    """Sign in to Autodesk with a browser, on this machine or another. The daemon can keep running.

    If this machine has no browser, open the printed address on any machine and allow access. The browser then goes to
    an address that contains ?code=. Paste that address here, even if the browser shows an error page.
    """
    from dcsync.cli.startup import load_config, run_async

    config = load_config(ctx, accounts_needed=False)
    terminal = Terminal(opens_browser=not no_browser)
    return run_async(_login(config, terminal, switch_user=switch_user, as_json=as_json))


@click.command("logout", epilog=exit_statuses(3))
@click.option("--local", is_flag=True, help="Only delete the token on this machine. It stays valid for up to 15 days.")
@click.pass_context
def logout_command(ctx: click.Context, local: bool) -> int:
    """Revoke the stored refresh token at Autodesk and delete it. The mirror stays as it is."""
    from dcsync.cli.startup import load_config, run_async

    was_there = run_async(_logout(load_config(ctx, accounts_needed=False), local=local))
    if not was_there:
        click.echo("no user was signed in")
    elif local:
        click.echo("the token was deleted on this machine; it was not revoked and stays valid for up to 15 days")
    else:
        click.echo("signed out: the token was revoked and deleted")
    return 0


@click.command("accounts", epilog=exit_statuses(3, 12, 13))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def accounts_command(ctx: click.Context, as_json: bool) -> int:
    """List the accounts (hubs) that the signed-in user can see, ready to paste into the configuration."""
    from dcsync.cli.output import print_json
    from dcsync.cli.startup import load_config, run_async
    from dcsync.config import is_account_id

    config = load_config(ctx, accounts_needed=False)
    warnings: list[str] = []
    hubs = run_async(_hubs(config, warnings))
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
                        "supported": is_account_id(hub.id),
                    }
                    for hub in hubs
                ],
                "warnings": list(warnings),
            }
        )
        return 0
    for warning in warnings:
        click.secho(f"dcsync: Autodesk could not list all accounts: {warning}", fg="yellow", err=True)
    names = {account.name.casefold() for account in config.accounts}
    for hub in hubs:
        _print_hub(hub, names, configured=_account_id(hub) in configured)
    if not hubs:
        click.echo("dcsync: this user cannot see any account", err=True)
        click.echo("  do:   ask an account administrator to add the client ID under Custom Integrations,", err=True)
        click.echo("        and check that the user is a member of the account", err=True)
    return 0


class Terminal:
    """Asks the user on the terminal. Prompts go to stderr, so that stdout has only the result."""

    def __init__(self, *, opens_browser: bool) -> None:
        self._opens_browser = opens_browser
        self._listening = False
        self._rest = b""

    def show(self, url: str, *, listening: bool, why_not: str) -> None:
        """Print the address on stderr, and open it in a browser if this machine has a display."""
        self._listening = listening
        click.echo("Sign in to Autodesk at this address:\n", err=True)
        click.echo(f"  {url}\n", err=True)
        if not listening:
            click.echo(f"dcsync cannot receive the answer from the browser: {why_not}.", err=True)
        opened = self._opens_browser and listening and _open_browser(url)
        if opened:
            click.echo("The browser is opening. Waiting for you to sign in …", err=True)
        click.echo(
            "Signing in on another machine? Paste the address from the browser (it contains ?code=…) and press Enter.",
            err=True,
        )

    async def pasted(self) -> str:
        """Return a line of standard input. If it is closed, wait for the browser, if its answer can arrive.

        On a terminal, Ctrl-D is not the end of the input, but of the command.
        """
        while True:
            line = await self._line()
            if line is None and os.isatty(_STDIN):
                raise click.Abort
            if line is None:
                if self._listening:
                    await asyncio.Event().wait()
                message = "standard input is closed, so no address can be pasted"
                hint = "run dcsync login in a terminal, or stop the program that uses the port of auth.redirect_uri"
                raise NobodyToSignIn(message, hint=hint)
            if line.strip():
                return line.strip()

    def complain(self, error: DcsyncError) -> None:
        """Print the error. The next line is read after that."""
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
    """Return the available bytes, empty at the end. Read a file that the loop cannot watch (/dev/null) directly."""
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


def has_browser() -> bool:
    """Return whether a browser can be opened here."""
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


def _open_browser(url: str) -> bool:
    """Open a browser if there is a display. A text browser would take over the terminal."""
    import webbrowser

    if not has_browser():
        return False
    results: list[bool] = []

    def opening() -> None:
        with suppress(webbrowser.Error, OSError):
            results.append(webbrowser.open(url))

    # A browser in the foreground, as $BROWSER may name one, ends after the sign-in only.
    thread = threading.Thread(target=opening, name="dcsync-browser", daemon=True)
    thread.start()
    thread.join(_BROWSER_STARTS_S)
    return thread.is_alive() or results == [True]


async def _login(config: Config, terminal: Terminal, *, switch_user: bool, as_json: bool) -> int:
    from dcsync.app.login import open_chain
    from dcsync.cli.output import print_json, time_text
    from dcsync.cluster import stores_for
    from dcsync.core.oauth import REFRESH_LIFE
    from dcsync.ops.login import login

    async with open_chain(config, stores_for(config, os.environ), environ=os.environ) as chain:
        pair = await login(chain, terminal, redirect_uri=config.auth.redirect_uri, switch_user=switch_user)
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
    click.echo(f"dcsync renews the sign-in automatically; if it does not run, the sign-in expires at {time_text(by)}")
    if problem is not None:
        click.echo(f"dcsync: cannot list the accounts: {problem.message}", err=True)
        return 0
    for account in config.accounts:
        if account.account_id in seen:
            click.echo(f"{account.name}: visible")
        else:
            click.secho(f"{account.name}: this user cannot see the account {account.id}", fg="yellow", err=True)
    if not config.accounts:
        click.echo("Next: run dcsync accounts, and add the accounts to mirror to the configuration")
    return 0


async def _visible(config: Config) -> tuple[Sequence[Hub], DcsyncError | None]:
    """Return the hubs, or the error. The sign-in itself has worked either way."""
    try:
        return await _hubs(config, []), None
    except DcsyncError as error:
        return (), error


async def _logout(config: Config, *, local: bool) -> bool:
    from dcsync.app.login import open_chain
    from dcsync.cluster import stores_for
    from dcsync.ops.login import logout

    async with open_chain(config, stores_for(config, os.environ), environ=os.environ) as chain:
        return await logout(chain, local=local)


async def _hubs(config: Config, warnings: list[str]) -> Sequence[Hub]:
    """Return the hubs, and add the warnings about those that Autodesk could not list."""
    from dcsync.app.api import open_api
    from dcsync.cluster import stores_for

    async with open_api(config, stores_for(config, os.environ), environ=os.environ) as opened:
        return await opened.client.hubs(on_warning=warnings.append)


def _account_id(hub: Hub) -> str:
    return hub.id.removeprefix("b.").lower()


def _print_hub(hub: Hub, names: set[str], *, configured: bool) -> None:
    """Print a hub as a TOML section, or as a comment if it is already configured or has no extracts.

    `names` are taken. The name of the section is added.
    """
    from dcsync.config import is_account_id
    from dcsync.core.names import printable

    region = f" ({printable(hub.region, 20)})" if hub.region else ""
    title = f"# {printable(hub.name, 120)}{region}"
    if not is_account_id(hub.id):
        click.echo(f"{title}: {printable(hub.id, 80)} is not an ACC or BIM 360 account, so it has no Data Connector\n")
        return
    mark = "# " if configured else ""
    name = folder_name(hub.name) if configured else _free_name(folder_name(hub.name), names)
    names.add(name.casefold())
    click.echo(f"{title}{': already in the configuration' if configured else ''}")
    click.echo(f"{mark}[[account]]")
    click.echo(f"{mark}name = {json.dumps(name)}")
    click.echo(f"{mark}id = {json.dumps(hub.id)}\n")


def _free_name(name: str, names: set[str]) -> str:
    numbered = (f"{name[:61]}-{number}" for number in count(2))
    return name if name not in names else next(other for other in numbered if other not in names)


def folder_name(hub_name: str) -> str:
    """Return a valid account name made from the name of the hub."""
    from dcsync.core.names import ascii_fold

    words = re.sub(r"[^a-z0-9]+", "-", ascii_fold(hub_name).lower())
    return words.strip("-")[:64].strip("-") or "account"
