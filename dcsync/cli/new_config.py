"""A new configuration: its values, its text, and the commands that come after it. For `dcsync init` and its guide."""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from dcsync.core.urls import check_callback_url
from dcsync.errors import ConfigInvalid

#: The keys that init sets, by parameter name.
KEYS = {
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
REFRESH_TOKEN = "env:DCSYNC_REFRESH_TOKEN"  # noqa: S105 - the same


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


def callback_url(value: str) -> str:
    """Return a callback URL of an app."""
    try:
        return check_callback_url(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


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


def name_and_id(value: str) -> tuple[str, str]:
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


def with_defaults(given: Mapping[str, str]) -> dict[str, str]:
    """Add the values that are always written."""
    values = {"state_dir": default_state(), "method": "login", **given}
    if values["method"] == "token" and "access_token" not in values:
        values.setdefault("refresh_token", REFRESH_TOKEN)
    return values


def configuration_text(values: Mapping[str, str], accounts: Sequence[tuple[str, str]], place: Path) -> str:
    """Return the filled and checked example. Mistakes are reported with the names of the options."""
    from dcsync.config import example, fill, parse, schema_line

    written = {KEYS[name]: values.get(name) for name in (*_NO_DEFAULT, *values)}
    text = schema_line(place) + fill(example(), written, accounts)
    try:
        text.encode()
    except UnicodeEncodeError:
        message = "a value is not valid UTF-8"
        raise click.UsageError(message) from None
    flags = {".".join(key): flag(name) for name, key in KEYS.items()}
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


def show_next(place: Path, values: Mapping[str, str], accounts: Sequence[tuple[str, str]]) -> None:
    """Print what was written, and the commands to run next."""
    mode = "0600" if service_group(place) is None else "0640, for the service"
    click.echo(f"Wrote {place} (mode {mode}, with a comment on every key).\n\nNext:")
    for command, why in _next_steps(place, values, accounts):
        click.echo(f"  {command}\n      {why}" if len(command) > 40 else f"  {command:<40}  {why}")


def _next_steps(
    place: Path, values: Mapping[str, str], accounts: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, str]]:
    """Yield the next commands in order, each with its reason."""
    from dcsync.config import SYSTEM

    dcsync = "dcsync" if is_found(place) else f"dcsync --config {shlex.quote(str(place))}"
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


def is_found(place: Path) -> bool:
    """Return whether dcsync finds the file without --config."""
    from dcsync.config import find
    from dcsync.errors import ConfigMissing

    try:
        return find(None, environ=os.environ) == place
    except ConfigMissing:
        return False


def default_root() -> str:
    """Return the usual mirror folder of this user."""
    return "/srv/dcsync" if os.geteuid() == 0 else "~/dcsync"


def default_state() -> str:
    """Return the usual state folder of this user."""
    if os.geteuid() == 0:
        return "/var/lib/dcsync"
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    try:
        return str(Path(base).expanduser() / "dcsync")
    except RuntimeError:
        # A system user may have no home.
        return "/var/lib/dcsync"


def flag(name: str) -> str:
    """Return the option of a parameter."""
    return f"--{name.replace('_', '-')}"
