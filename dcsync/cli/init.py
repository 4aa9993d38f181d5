"""`dcsync init`: from flags and answers to a commented configuration."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from dcsync.cli.group import EXIT_STATUSES, Globals
from dcsync.errors import ConfigInvalid

#: Every key that init sets, by the name of its parameter.
_KEYS = {
    "root": ("mirror", "root"),
    "state_dir": ("state", "dir"),
    "base_url": ("api", "base_url"),
    "method": ("auth", "method"),
    "client_id": ("auth", "client_id"),
    "client_secret": ("auth", "client_secret"),
    "redirect_uri": ("auth", "redirect_uri"),
    "service_account": ("auth", "service_account_id"),
    "key_id": ("auth", "key_id"),
    "private_key": ("auth", "private_key"),
    "refresh_token": ("auth", "refresh_token"),
    "access_token": ("auth", "access_token"),
}
#: Keys without a meaning for the other methods.
_ONLY_FOR = {
    "redirect_uri": "login",
    "service_account": "service-account",
    "key_id": "service-account",
    "private_key": "service-account",
    "refresh_token": "token",
    "access_token": "token",
}
#: What the example gives for show: commented out when nothing is given.
_NO_DEFAULT = (
    "client_id",
    "client_secret",
    "service_account",
    "key_id",
    "private_key",
    "refresh_token",
    "access_token",
)
_CLIENT_SECRET = "env:DCSYNC_CLIENT_SECRET"  # noqa: S105 - where it is, not what
_REFRESH_TOKEN = "env:DCSYNC_REFRESH_TOKEN"  # noqa: S105 - the same


def _absolute(value: str) -> str:
    """Return an absolute path; a relative one is of the folder that one is in, as everywhere in a shell."""
    if not value:
        message = "it is empty"
        raise click.BadParameter(message)
    try:
        return str(Path(value).expanduser().absolute())
    except RuntimeError:
        message = f"{value!r}: there is no such home"
        raise click.BadParameter(message) from None


def _reference(value: str) -> str:
    """Return where a secret is. A secret itself is refused, and not repeated."""
    kind, colon, rest = value.partition(":")
    if not colon or kind not in {"env", "file", "credential"}:
        message = (
            "a secret is not given here: others can see a command line (ps), and it stays in the shell's history. "
            "Say where it is: env:NAME, file:PATH (a file with mode 0600), or credential:NAME (systemd)"
        )
        raise click.BadParameter(message)
    if not rest:
        message = f"{kind}: names nothing"
        raise click.BadParameter(message)
    return f"file:{_absolute(rest)}" if kind == "file" else value


def _name_and_id(value: str) -> tuple[str, str]:
    """Return an account's name and id, as `NAME=ID` gives them."""
    from pydantic import ValidationError

    from dcsync.config import Account

    name, equals, identifier = value.partition("=")
    if not equals:
        message = f"{value!r} is not NAME=ID"
        raise click.BadParameter(message)
    try:
        Account(name=name, id=identifier)
    except ValidationError as error:
        messages = [item["msg"].removeprefix("Value error, ") for item in error.errors(include_context=False)]
        raise click.BadParameter("; ".join(messages)) from None
    return name, identifier


@click.command("init", epilog=EXIT_STATUSES)
@click.option("--root", type=_absolute, metavar="FOLDER", help="The mirror's folder.")
@click.option(
    "--state-dir",
    type=_absolute,
    metavar="FOLDER",
    help="Tokens and manifest [root: /var/lib/dcsync; others: ~/.local/state/dcsync].",
)
@click.option("--method", type=click.Choice(["login", "service-account", "token"]), help="How to get access [login].")
@click.option("--client-id", metavar="ID", help="The app's client id.")
@click.option("--client-secret", type=_reference, metavar="REF", help="Where the app's secret is; a public app: none.")
@click.option("--redirect-uri", metavar="URL", help="login: a callback URL of the app.")
@click.option("--service-account", metavar="ID", help="service-account: its id.")
@click.option("--key-id", metavar="ID", help="service-account: the id of its key.")
@click.option("--private-key", type=_reference, metavar="REF", help="service-account: where its key (PEM) is.")
@click.option(
    "--refresh-token",
    type=_reference,
    metavar="REF",
    help=f"token: where a refresh token is [{_REFRESH_TOKEN}].",
)
@click.option("--access-token", type=_reference, metavar="REF", help="token: an access token instead, for an hour.")
@click.option(
    "--account",
    "accounts",
    type=_name_and_id,
    multiple=True,
    metavar="NAME=ID",
    help="An account to mirror, with its hub id or account id; may be repeated.",
)
@click.option("--base-url", metavar="URL", help="The API's address, the sandbox's say.")
@click.pass_context
def init_command(ctx: click.Context, /, **_: object) -> int:
    """Write a configuration with a comment on every key. One that is there is never overwritten.

    On a terminal it asks when something is missing that has no default; elsewhere it names all that is missing. It
    goes to the file given before the command (dcsync --config FILE init), $DCSYNC_CONFIG,
    ~/.config/dcsync/config.toml, or /etc/dcsync/config.toml for root.

    Secrets stay out of it: REF is env:NAME, file:PATH or credential:NAME.
    """
    from dcsync.config import create, new_place, refuse_existing

    options = ctx.obj
    assert isinstance(options, Globals)  # noqa: S101 - the group sets it
    place = new_place(options.config, environ=os.environ, is_root=os.geteuid() == 0)
    refuse_existing(place)
    given = {name: value for name, value in ctx.params.items() if value}
    accounts: list[tuple[str, str]] = list(given.pop("accounts", ()))
    _refuse_unfitting(given)
    if missing := _missing(given):
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            message = f"missing: {', '.join(_flag(name) for name in missing)} (on a terminal, init asks)"
            raise click.UsageError(message)
        given, accounts = _ask(given, accounts, place)
    values = _with_defaults(given)
    create(place, _text(values, accounts, place))
    _show_next(place, values, accounts)
    return 0


def _refuse_unfitting(given: Mapping[str, str]) -> None:
    method = given.get("method")
    for name, only in _ONLY_FOR.items():
        # Without a method on a terminal it is still open.
        if name in given and method is not None and method != only:
            message = f"{_flag(name)} is for --method {only}"
            raise click.UsageError(message)


def _missing(given: Mapping[str, str]) -> list[str]:
    """Return what has no default and was not given, by the names of the parameters."""
    needed = ["root", "client_id"]
    match given.get("method"):
        case "service-account":
            needed += ["client_secret", "service_account", "key_id", "private_key"]
        case "token":
            # An access token is not renewed, so no client is asked for.
            needed = ["root"] if "access_token" in given else needed
        case _:
            # The method decides what its flags mean; login is the default, and has none of the others.
            needed += ["method"] if any(name in given and only != "login" for name, only in _ONLY_FOR.items()) else []
    return [name for name in needed if name not in given]


def _ask(
    given: Mapping[str, str], accounts: Sequence[tuple[str, str]], place: Path
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Ask for everything that was not given, with what is likely as default."""
    answers = dict(given)
    click.echo(f"This writes {place}. Enter takes what stands in brackets.\n")

    def ask(name: str, question: str, **how: Any) -> None:  # noqa: ANN401 - click's own options
        if name not in answers:
            answers[name] = click.prompt(question, **how)

    ask("root", "Folder of the mirror", default=_default_root(), value_proc=_absolute)
    ask("state_dir", "Folder of tokens and manifest, on a local disk", default=_default_state(), value_proc=_absolute)
    ask(
        "method",
        "How to get access",
        default="login",
        type=click.Choice(["login", "service-account", "token"]),
    )
    _refuse_unfitting(answers)
    if "access_token" not in answers:
        ask("client_id", "Client id of your app")
    match answers["method"]:
        case "service-account":
            ask("client_secret", "Where the client secret is", default=_CLIENT_SECRET, value_proc=_reference)
            ask("service_account", "Id of the service account")
            ask("key_id", "Id of its key")
            key = f"file:{place.absolute().parent / 'service-account.pem'}"
            ask("private_key", "Where its private key (PEM) is", default=key, value_proc=_reference)
        case "login":
            _ask_for_secret(answers)
            ask("redirect_uri", "Callback URL of the app", default="http://localhost:8080/callback")
        case _:
            if "access_token" not in answers:
                _ask_for_secret(answers)
                ask("refresh_token", "Where the refresh token is", default=_REFRESH_TOKEN, value_proc=_reference)
    return answers, list(accounts) or _ask_for_accounts()


def _ask_for_secret(answers: dict[str, str]) -> None:
    if "client_secret" in answers or not click.confirm(
        "Has the app a client secret (a public app has none)", default=True
    ):
        return
    answers["client_secret"] = click.prompt("Where the client secret is", default=_CLIENT_SECRET, value_proc=_reference)


def _ask_for_accounts() -> list[tuple[str, str]]:
    accounts: list[tuple[str, str]] = []

    def optional(value: str) -> tuple[str, str] | None:
        return _name_and_id(value) if value else None

    question = "Account to mirror, as NAME=ID (Enter: not known yet)"
    while True:
        account = click.prompt(question, default="", show_default=False, value_proc=optional)
        if account is None:
            return accounts
        accounts.append(account)
        question = "Another account (Enter: no more)"


def _with_defaults(given: Mapping[str, str]) -> dict[str, str]:
    """Add what is written whether it was given or not."""
    values = {"state_dir": _default_state(), "method": "login", **given}
    if values["method"] == "token" and "access_token" not in values:
        values.setdefault("refresh_token", _REFRESH_TOKEN)
    return values


def _text(values: Mapping[str, str], accounts: Sequence[tuple[str, str]], place: Path) -> str:
    """Return the filled example, after dcsync's own checks; what they find is said by the flags that set it."""
    from dcsync.config import example, fill, parse

    written = {_KEYS[name]: values.get(name) for name in (*_NO_DEFAULT, *values)}
    text = fill(example(), written, accounts)
    try:
        text.encode()
    except UnicodeEncodeError:
        message = "a value is not UTF-8 text"
        raise click.UsageError(message) from None
    flags = {".".join(key): _flag(name) for name, key in _KEYS.items()}
    try:
        parse(text, place=place, accounts_needed=False)
    except ConfigInvalid as error:
        problems = [f"{flags.get(problem.key, problem.key)}: {problem.message}" for problem in error.problems]
        raise click.UsageError("\n".join(problems)) from None
    return text


def _show_next(place: Path, values: Mapping[str, str], accounts: Sequence[tuple[str, str]]) -> None:
    click.echo(f"Wrote {place} (mode 0600; every key has a comment).\n\nNext:")
    for command, why in _next_steps(place, values, accounts):
        click.echo(f"  {command}\n      {why}" if len(command) > 40 else f"  {command:<40}  {why}")


def _next_steps(
    place: Path, values: Mapping[str, str], accounts: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, str]]:
    """Yield what is left to do, each with its reason, in order."""
    from dcsync.config import SYSTEM

    dcsync = "dcsync" if _is_found(place) else f"dcsync --config {shlex.quote(str(place))}"
    root = Path(values["root"])
    if not root.is_dir():
        yield f"mkdir -p {shlex.quote(str(root))}", "the mirror's folder must be there (or mount its disk)"
    for name in ("client_secret", "private_key", "refresh_token", "access_token"):
        kind, _, where = values.get(name, "").partition(":")
        why = f"[auth] {name} is read from there"
        if kind == "env" and where not in os.environ:
            yield f"export {where}=…", why
        elif kind == "file" and not Path(where).is_file():
            yield f"install -m 600 … {shlex.quote(where)}", why
        elif kind == "credential":
            yield f"LoadCredential={where}:…", f"in the unit: {why}"
    if values["method"] == "login":
        yield f"{dcsync} login", "sign in with a browser, once"
    if not accounts:
        yield f"{dcsync} accounts", "which there are: put one into the file's [[account]] section"
    if place == SYSTEM:
        yield f"chown -R dcsync: {place.parent}", "if a service runs as the user dcsync: it must read the file"
    yield f"{dcsync} doctor", "checks everything, and says what to do"
    yield f"{dcsync} sync", "mirrors what there is"


def _is_found(place: Path) -> bool:
    """Say whether the commands find a file without being told where it is."""
    from dcsync.config import find
    from dcsync.errors import ConfigMissing

    try:
        return find(None, environ=os.environ) == place
    except ConfigMissing:
        return False


def _default_root() -> str:
    return "/srv/dcsync" if os.geteuid() == 0 else "~/dcsync"


def _default_state() -> str:
    if os.geteuid() == 0:
        return "/var/lib/dcsync"
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    try:
        return str(Path(base).expanduser() / "dcsync")
    except RuntimeError:
        # A system user may have no home.
        return "/var/lib/dcsync"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
