"""`dcsync init`: write a commented configuration from options and answers."""

from __future__ import annotations

import os
import pwd
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from dcsync.cli.group import Globals, exit_statuses
from dcsync.errors import ConfigInvalid

#: The keys that init sets, by parameter name.
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
#: Parameters that apply to one sign-in method only.
_ONLY_FOR = {
    "redirect_uri": "login",
    "service_account": "service-account",
    "key_id": "service-account",
    "private_key": "service-account",
    "refresh_token": "token",
    "access_token": "token",
}
#: Keys that are placeholders in the example. They are commented out if they have no value.
_NO_DEFAULT = (
    "client_id",
    "client_secret",
    "service_account",
    "key_id",
    "private_key",
    "refresh_token",
    "access_token",
)
#: The units of dcsync know the file of the private key under this name.
KEY_CREDENTIAL = "service-account-key"
_REFRESH_TOKEN = "env:DCSYNC_REFRESH_TOKEN"  # noqa: S105 - the same


def absolute(value: str) -> str:
    """Return an absolute path. A relative one starts in the current folder, as usual in a shell."""
    if not value:
        message = "the path is empty"
        raise click.BadParameter(message)
    try:
        return str(Path(value).expanduser().absolute())
    except RuntimeError:
        message = f"{value!r}: this user has no home folder"
        raise click.BadParameter(message) from None


def reference(value: str) -> str:
    """Return a reference to a secret. A secret itself is refused, and the message does not repeat it."""
    kind, colon, rest = value.partition(":")
    if not colon or kind not in {"env", "file", "credential"}:
        message = (
            "do not write a secret on the command line: other users can see it (ps), and your shell keeps it in its "
            "history. Write a reference: env:NAME, file:PATH (a file with mode 0600), or credential:NAME (systemd)"
        )
        raise click.BadParameter(message)
    if not rest:
        message = f"a name is missing after {kind}:"
        raise click.BadParameter(message)
    return f"file:{absolute(rest)}" if kind == "file" else value


def _name_and_id(value: str) -> tuple[str, str]:
    """Return an account's name and ID from `NAME=ID`."""
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


@click.command("init", epilog=exit_statuses(3))
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
@click.option("--redirect-uri", metavar="URL", help="login: a callback URL of your app.")
@click.option("--service-account", metavar="ID", help="service-account: the service account's ID.")
@click.option("--key-id", metavar="ID", help="service-account: the ID of its key.")
@click.option("--private-key", type=reference, metavar="REF", help="service-account: its private key (PEM).")
@click.option(
    "--refresh-token",
    type=reference,
    metavar="REF",
    help=f"token: a refresh token [{_REFRESH_TOKEN}].",
)
@click.option(
    "--access-token", type=reference, metavar="REF", help="token: an access token instead, valid for one hour."
)
@click.option(
    "--account",
    "accounts",
    type=_name_and_id,
    multiple=True,
    metavar="NAME=ID",
    help="An account to mirror, with its hub ID or account ID. Can be given multiple times.",
)
@click.option("--base-url", metavar="URL", help="The address of the API, for example of `dcsync sandbox`.")
@click.pass_context
def init_command(ctx: click.Context, /, **_: object) -> int:
    """Write a configuration with a comment on every key. An existing file is never overwritten.

    On a terminal, init asks for required values that you did not give. Elsewhere it lists them and stops. It writes to
    the file that you name before the command (dcsync --config FILE init), to $DCSYNC_CONFIG, to
    ~/.config/dcsync/config.toml, or for root to /etc/dcsync/config.toml.

    The file contains no secrets, only references to them: REF is env:NAME, file:PATH or credential:NAME.

    Where the service is installed, root writes a file that the service can read, and the secrets are its credentials.
    """
    from dcsync.config import create, create_schema, new_place, refuse_existing

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
    create(place, _text(values, accounts, place), group=service_group(place))
    create_schema(place)
    _show_next(place, values, accounts)
    return 0


def _refuse_unfitting(given: Mapping[str, str]) -> None:
    method = given.get("method")
    for name, only in _ONLY_FOR.items():
        # Without --method, init asks for it on a terminal.
        if name in given and method is not None and method != only:
            message = f"{_flag(name)} is for --method {only}"
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


def _ask(
    given: Mapping[str, str], accounts: Sequence[tuple[str, str]], place: Path
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Ask for every value that was not given, with likely defaults."""
    answers = dict(given)
    click.echo(f"init writes {place}. Press Enter to accept the value in brackets.\n")

    def ask(name: str, question: str, **how: Any) -> None:  # noqa: ANN401 - click's own options
        if name not in answers:
            answers[name] = click.prompt(question, **how)

    ask("root", "Mirror folder", default=_default_root(), value_proc=absolute)
    ask(
        "state_dir",
        "Folder for tokens and the manifest, on a local disk",
        default=_default_state(),
        value_proc=absolute,
    )
    ask(
        "method",
        "Sign-in method",
        default="login",
        type=click.Choice(["login", "service-account", "token"]),
    )
    _refuse_unfitting(answers)
    if "access_token" not in answers:
        ask("client_id", "Client ID of your app")
    match answers["method"]:
        case "service-account":
            ask("client_secret", "Reference to the client secret", default=_secret(place), value_proc=reference)
            ask("service_account", "ID of the service account")
            ask("key_id", "ID of its key")
            key = f"file:{place.absolute().parent / 'service-account.pem'}"
            key = key if service_group(place) is None else f"credential:{KEY_CREDENTIAL}"
            ask("private_key", "Reference to its private key (PEM)", default=key, value_proc=reference)
        case "login":
            _ask_for_secret(answers, place)
            ask("redirect_uri", "Callback URL of your app", default="http://localhost:8080/callback")
        case _:
            if "access_token" not in answers:
                _ask_for_secret(answers, place)
                ask("refresh_token", "Reference to the refresh token", default=_REFRESH_TOKEN, value_proc=reference)
    return answers, list(accounts) or _ask_for_accounts()


def _ask_for_secret(answers: dict[str, str], place: Path) -> None:
    if "client_secret" in answers or not click.confirm(
        "Does your app have a client secret (a public app has none)", default=True
    ):
        return
    answers["client_secret"] = click.prompt(
        "Reference to the client secret", default=_secret(place), value_proc=reference
    )


def _secret(place: Path) -> str:
    own = f"file:{place.absolute().parent / 'client-secret'}"
    return own if service_group(place) is None else "credential:client-secret"


def _ask_for_accounts() -> list[tuple[str, str]]:
    accounts: list[tuple[str, str]] = []

    def optional(value: str) -> tuple[str, str] | None:
        return _name_and_id(value) if value else None

    question = "Account to mirror, as NAME=ID (Enter: skip for now)"
    while True:
        account = click.prompt(question, default="", show_default=False, value_proc=optional)
        if account is None:
            return accounts
        accounts.append(account)
        question = "Next account (Enter: done)"


def _with_defaults(given: Mapping[str, str]) -> dict[str, str]:
    """Add the values that are always written."""
    values = {"state_dir": _default_state(), "method": "login", **given}
    if values["method"] == "token" and "access_token" not in values:
        values.setdefault("refresh_token", _REFRESH_TOKEN)
    return values


def _text(values: Mapping[str, str], accounts: Sequence[tuple[str, str]], place: Path) -> str:
    """Return the filled and checked example. Mistakes are reported with the names of the options."""
    from dcsync.config import example, fill, parse, schema_line

    written = {_KEYS[name]: values.get(name) for name in (*_NO_DEFAULT, *values)}
    text = schema_line(place) + fill(example(), written, accounts)
    try:
        text.encode()
    except UnicodeEncodeError:
        message = "a value is not valid UTF-8"
        raise click.UsageError(message) from None
    flags = {".".join(key): _flag(name) for name, key in _KEYS.items()}
    try:
        parse(text, place=place, accounts_needed=False)
    except ConfigInvalid as error:
        problems = [f"{flags.get(mistake.key, mistake.key)}: {mistake.message}" for mistake in error.mistakes]
        raise click.UsageError("\n".join(problems)) from None
    return text


def service_group(place: Path) -> int | None:
    """Return the group of the service, if root writes a configuration for it."""
    from dcsync.config import SYSTEM

    if os.geteuid() != 0 or place.absolute().parent != SYSTEM.parent:
        return None
    try:
        return pwd.getpwnam("dcsync").pw_gid
    except KeyError:
        return None


def credential_file(name: str) -> Path:
    """Return the file of root that systemd passes to the service under this name."""
    from dcsync.config import SYSTEM

    return SYSTEM.parent / ("service-account.pem" if name == KEY_CREDENTIAL else name)


def _show_next(place: Path, values: Mapping[str, str], accounts: Sequence[tuple[str, str]]) -> None:
    mode = "0600" if service_group(place) is None else "0640, for the service"
    click.echo(f"Wrote {place} (mode {mode}, with a comment on every key).\n\nNext:")
    for command, why in _next_steps(place, values, accounts):
        click.echo(f"  {command}\n      {why}" if len(command) > 40 else f"  {command:<40}  {why}")


def _next_steps(
    place: Path, values: Mapping[str, str], accounts: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, str]]:
    """Yield the next commands in order, each with its reason."""
    from dcsync.config import SYSTEM

    dcsync = "dcsync" if _is_found(place) else f"dcsync --config {shlex.quote(str(place))}"
    is_service = service_group(place) is not None
    if place == SYSTEM and not is_service:
        yield "dcsync service install", "create the user dcsync and the units, to run dcsync as a service"
        yield f"chgrp dcsync {place.parent} {place}", "let the service read the file"
        yield f"chmod g+rX {place.parent} {place}", "the same"
    root = Path(values["root"])
    if not root.is_dir():
        yield f"mkdir -p {shlex.quote(str(root))}", "create the mirror folder, or mount its disk"
    yield from _secrets_to_store(values, SYSTEM.parent)
    if values["method"] == "login":
        yield f"{dcsync} login", "sign in with a browser, once"
    if not accounts:
        yield f"{dcsync} accounts", "list your accounts, then add one to the file as [[account]]"
    yield f"{dcsync} doctor", "check the whole setup"
    if is_service:
        unit = "dcsync" if place == SYSTEM else f"dcsync@{place.stem}"
        yield f"systemctl enable --now {unit}", "start the daemon, now and at each start of the system"
    else:
        yield f"{dcsync} sync", "mirror all extracts"


def _secrets_to_store(values: Mapping[str, str], folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the commands that put each secret where the configuration says that it is."""
    credentials, paste = [], "paste the secret, press Enter, then Ctrl-D"
    for name in ("client_secret", "private_key", "refresh_token", "access_token"):
        kind, _, where = values.get(name, "").partition(":")
        why = f"dcsync reads auth.{name} from here"
        if kind == "env" and where not in os.environ:
            yield f"export {where}=…", why
        elif kind == "file" and not Path(where).is_file():
            # After su, /dev/stdin is the terminal of another user, which `install` cannot open.
            yield f"(umask 077; cat > {shlex.quote(where)})", paste
        elif kind == "credential":
            credentials.append(where)
            if not credential_file(where).is_file():
                yield f"install -m 0600 /dev/stdin {credential_file(where)}", paste
    settings = folder / "service.d/secrets.conf"
    if credentials and not settings.is_file():
        lines = "".join(f"\\nLoadCredential={name}:{credential_file(name)}" for name in credentials)
        yield f"printf '[Service]{lines}\\n' > {settings}", "let systemd pass the secret to the service only"
        yield "systemctl daemon-reload", "let systemd read that file"


def _is_found(place: Path) -> bool:
    """Return whether dcsync finds the file without --config."""
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
