"""Create a service account and replace its key for `dcsync service-account`, and print what to do next."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dcsync.cli.group import Globals

if TYPE_CHECKING:
    from dcsync.app.key_files import KeyFiles, Note
    from dcsync.app.service_account import Keys, Rotation
    from dcsync.auth.service_accounts import ServiceAccountAdmin
    from dcsync.config import Config, SecretRef

#: APS, POST service-accounts: 5 to 64 letters, digits and dashes, and not only dashes.
_NAME = re.compile(r"(?=.*[A-Za-z0-9])[A-Za-z0-9-]{5,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """The app whose service accounts a command manages. `place` is its configuration, which may not exist yet."""

    config: Config
    place: Path
    is_configured: bool
    environ: Mapping[str, str]
    options: Mapping[str, Any]
    admin: ServiceAccountAdmin

    @property
    def client_id(self) -> str:
        """The client ID of the app."""
        return self.config.auth.client_id or ""

    @property
    def as_json(self) -> bool:
        """Whether the answer is printed as JSON."""
        return bool(self.options["as_json"])

    @property
    def is_dry(self) -> bool:
        """Whether the steps are only shown."""
        return bool(self.options["dry_run"])

    def keys(self) -> Keys:
        """Return what the operations need. Their words go to stderr."""
        from dcsync.app.service_account import Keys
        from dcsync.clock import SystemClock
        from dcsync.core.names import printable

        def say(text: str) -> None:
            click.echo(f"dcsync: {printable(text, 300)}", err=True)

        return Keys(admin=self.admin, client_id=self.client_id, clock=SystemClock(), say=say)


def open_app(ctx: click.Context) -> App:
    """Return the app of the options, or of the configuration. Raises `DcsyncError`s and `UsageError`s."""
    from dcsync.app.api import service_account_admin
    from dcsync.config import find, new_place
    from dcsync.errors import ConfigError, ConfigMissing

    options = ctx.obj
    assert isinstance(options, Globals)  # noqa: S101 - the group sets it
    try:
        place = find(options.config, environ=os.environ)
    except ConfigMissing:
        place = new_place(options.config, environ=os.environ, is_root=os.geteuid() == 0)
    config, is_configured = _config(ctx, place)
    if config.auth.client_id is None or config.auth.client_secret is None:
        message = "the configuration names no app with a client secret, which alone can have service accounts"
        raise ConfigError(message, hint="add client_id and client_secret to [auth], or give --client-id and its secret")
    environ = root_environ()
    return App(
        config=config,
        place=place,
        is_configured=is_configured,
        environ=environ,
        options=ctx.params,
        admin=service_account_admin(config, environ=environ),
    )


def _config(ctx: click.Context, place: Path) -> tuple[Config, bool]:
    from dcsync.cli.startup import load_config, set_up_log
    from dcsync.errors import ConfigMissing

    client_id, secret = ctx.params.get("client_id"), ctx.params.get("client_secret")
    if (client_id is None) != (secret is None):
        message = "--client-id and --client-secret belong together"
        raise click.UsageError(message)
    if client_id is not None and secret is not None:
        set_up_log(ctx, level="warning", form="auto")
        return app_config(place, client_id, secret, ctx.params["base_url"]), False
    if ctx.params.get("base_url") is not None:
        message = "--base-url is for --client-id: the configuration has its own address (api.base_url)"
        raise click.UsageError(message)
    try:
        # Root manages the service's account itself: the key and its credentials belong to root.
        return load_config(ctx, accounts_needed=False, as_owner=False), True
    except ConfigMissing as error:
        if "client_id" not in ctx.params:
            raise
        message = "name the app: --client-id ID --client-secret REF, or create a configuration with dcsync init"
        raise ConfigMissing(error.message, hint=message) from None


def app_config(place: Path, client_id: str, secret: str | None, base_url: str | None) -> Config:
    """Return a configuration of nothing but the app. `secret` is a reference, or the secret itself."""
    from dcsync.config import parse
    from dcsync.errors import ConfigInvalid

    values = {"mirror.root": "/nonexistent", "auth.client_id": client_id}
    values |= {} if secret is None else {"auth.client_secret": secret}
    values |= {} if base_url is None else {"api.base_url": base_url}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    try:
        return parse("\n".join(lines), place=place, accounts_needed=False)
    except ConfigInvalid as error:
        raise click.UsageError("\n".join(f"{each.key}: {each.message}" for each in error.mistakes)) from None


def root_environ() -> Mapping[str, str]:
    """Return the environment. For root, the credentials of the service are the files that systemd would pass to it."""
    from dcsync.config import SYSTEM

    if os.geteuid() != 0 or "CREDENTIALS_DIRECTORY" in os.environ:
        return os.environ
    return {**os.environ, "CREDENTIALS_DIRECTORY": str(SYSTEM.parent)}


async def create(app: App, name: str | None, key_file: Path | None) -> int:
    """Create the service account and its key, and print the next steps."""
    from dcsync.app.key_files import KeyFiles
    from dcsync.app.service_account import create as create_account

    files = KeyFiles(key_file or app.place.absolute().parent / "service-account.pem")
    _refuse_file(files)
    earlier = files.note()
    name = name or (default_name() if earlier is None else earlier.name)
    valid_name(name)
    if app.is_dry:
        steps = [f"create the service account {name} of the app {app.client_id}, unless it exists", "create its key"]
        return show_steps(app, [*steps, f"write the private key to {files.pem} (mode 0600)"])
    with files.locked():
        note = await create_account(app.keys(), files, name)
    _report_created(app, files, note)
    return 0


def valid_name(name: str) -> str:
    """Return a valid name of a service account. Raises `UsageError` for another one."""
    if _NAME.fullmatch(name) is None:
        message = f"{name!r} is not a valid name: use 5 to 64 letters, digits and dashes"
        raise click.UsageError(message)
    return name


def default_name(host: str | None = None) -> str:
    """Return `dcsync-` and the name of this host, made valid."""
    from dcsync.app.state_dir import host_name

    valid = re.sub(r"[^A-Za-z0-9]+", "-", host_name() if host is None else host)
    return f"dcsync-{valid.strip('-')}"[:64].rstrip("-")


def _refuse_file(files: KeyFiles) -> None:
    if not files.pem.name or files.pem == files.json:
        message = f"{files.pem} cannot be the file of a private key: choose a name such as service-account.pem"
        raise click.UsageError(message)


def _report_created(app: App, files: KeyFiles, note: Note) -> None:
    from dcsync.cli.output import print_json
    from dcsync.core.names import printable

    auth, load = _auth(app, files, note)
    if app.as_json:
        fields = {name: asdict(note)[name] for name in ("service_account_id", "email", "key_id", "name", "client_id")}
        print_json({**fields, "key_file": str(files.pem), "auth": auth, "load_credential": load})
        return
    email = printable(note.email, 200)
    click.echo(f"service account {printable(note.service_account_id, 200)}: {email}")
    click.echo(f"  key         {printable(note.key_id, 200)}")
    click.echo(f"  private key {files.pem} (mode 0600)\n")
    click.echo("At Autodesk, an administrator of the account:")
    click.echo(f"  1. adds the client ID {note.client_id} under Custom integrations")
    click.echo(f"  2. invites {email} under Members, as Executive or Account Administrator")
    click.echo("     (for single projects: as Project Administrator, with access to Insight)\n")
    click.echo(f"In {app.place}:\n\n[auth]")
    for name, value in auth.items():
        click.echo(f'{name} = "{printable(value, 500)}"')
    if load:
        click.echo("\nIn /etc/dcsync/service.d/secrets.conf, below [Service]:\n")
        for line in load:
            click.echo(line)
    click.echo("\nNext:")
    for command in _next(app, auth):
        click.echo(f"  {command}")


def _auth(app: App, files: KeyFiles, note: Note) -> tuple[dict[str, str], list[str]]:
    """Return the lines of [auth], and the lines for systemd where dcsync is a service."""
    from dcsync.cli.new_config import KEY_CREDENTIAL, service_group

    secret = app.config.auth.client_secret
    own = "" if secret is None else secret.describe()
    key, load = f"file:{files.pem}", list[tuple[str, str]]()
    if service_group(app.place) is not None:
        kind, _, path = own.partition(":")
        if kind == "file":
            own = "credential:client-secret"
            load.append(("client-secret", path))
        key = f"credential:{KEY_CREDENTIAL}"
        load.append((KEY_CREDENTIAL, str(files.pem)))
    auth = {
        "method": "service-account",
        "client_id": note.client_id,
        "client_secret": own,
        "service_account_id": note.service_account_id,
        "key_id": note.key_id,
        "private_key": key,
    }
    return auth, [f"LoadCredential={name}:{path}" for name, path in load]


def _next(app: App, auth: Mapping[str, str]) -> Iterator[str]:
    from dcsync.cli.new_config import default_root

    dcsync = "dcsync"
    if app.options.get("config") or app.place.name != "config.toml":
        dcsync = f"dcsync --config {shlex.quote(str(app.place))}"
    if not os.path.lexists(app.place):
        flags = {
            "client-id": "client_id",
            "client-secret": "client_secret",
            "service-account": "service_account_id",
            "key-id": "key_id",
            "private-key": "private_key",
        }
        options = [f"--{flag} {shlex.quote(auth[key])}" for flag, key in flags.items()]
        url = app.options.get("base_url")
        options += [f"--base-url {shlex.quote(url)}"] if url else []
        yield f"{dcsync} init --method service-account {' '.join(options)} --root {default_root()}"
        yield f"{dcsync} accounts      # add the account to the configuration as [[account]]"
    yield f'{dcsync} requests create --description "Mirror, every night"'
    yield f"{dcsync} doctor"
    yield f"{dcsync} sync"


async def rotate(app: App, key_file: Path | None, *, remove_old: bool) -> int:
    """Replace the key of the configured service account, as far as dcsync can."""
    from dcsync.app.key_files import KeyFiles
    from dcsync.app.service_account import rotate as rotate_key
    from dcsync.errors import ConfigError

    auth = app.config.auth
    if auth.method != "service-account" or auth.private_key is None:
        message = f'auth.method is "{auth.method}", which has no key'
        raise ConfigError(message, hint="dcsync service-account create makes a service account and its key")
    rotation, kind = _rotation(app), auth.private_key.kind
    if kind != "file":
        if key_file is None:
            message = f"auth.private_key is {auth.private_key.describe()}: name a new file with --key-file"
            raise click.UsageError(message)
        return await _rotate_elsewhere(app, rotation, KeyFiles(key_file), remove_old=remove_old)
    if key_file is not None or remove_old:
        message = "--key-file and --remove-old are for a private key that is env: or credential:"
        raise click.UsageError(message)
    files = _configured_files(auth.private_key.describe().removeprefix("file:"))
    _refuse_file(files)
    if app.is_dry:
        steps = [f"create a key for {rotation.service_account_id}, and sign in with it", f"replace {files.pem}"]
        return show_steps(app, [*steps, f"change auth.key_id in {app.place}", f"delete the key {rotation.key_id}"])
    with files.locked():
        note = await rotate_key(app.keys(), rotation, files, app.place)
    return _report_rotated(app, note, files, changes=[])


def _configured_files(path: str) -> KeyFiles:
    from dcsync.app.key_files import KeyFiles

    # The file itself, if a symlink leads there: the new one must replace it, not the symlink.
    return KeyFiles(Path(path).expanduser().resolve())


def _rotation(app: App) -> Rotation:
    from dcsync.app.api import token_endpoint
    from dcsync.app.service_account import Rotation
    from dcsync.auth.source import ServiceAccountToken
    from dcsync.clock import SystemClock

    account, endpoint = app.config.auth.service_account_id or "", token_endpoint(app.config, environ=app.environ)

    async def prove(key_id: str, private_key: str) -> None:
        source = ServiceAccountToken(
            endpoint=endpoint,
            service_account_id=account,
            key_id=key_id,
            private_key=private_key,
            clock=SystemClock(),
        )
        await source.access_token()

    return Rotation(service_account_id=account, key_id=app.config.auth.key_id or "", prove=prove)


async def _rotate_elsewhere(app: App, rotation: Rotation, files: KeyFiles, *, remove_old: bool) -> int:
    """Write the new key where the user can pass it on, and remove the old one in a second run."""
    from dcsync.app.service_account import prove_next, remove_replaced
    from dcsync.errors import ConfigError

    _refuse_file(files)
    private_key = app.config.auth.private_key
    assert private_key is not None  # noqa: S101 - rotate checks it
    if app.is_dry:
        steps = [f"create a key for {rotation.service_account_id}, and sign in with it", f"write it to {files.pem}"]
        return show_steps(app, [f"delete the key that {files.json} replaces"] if remove_old else steps)
    if remove_old and files.note() is None:
        message = f"{files.json} does not exist, so no key was replaced"
        raise ConfigError(message, hint="run the command without --remove-old first")
    with files.locked():
        note = await prove_next(app.keys(), rotation, files)
    changes = [f'set key_id = "{note.key_id}" below [auth] in {app.place}']
    changes += [_pass_on(private_key, files)]
    changes += ["restart the daemon: systemctl restart dcsync"]
    changes += [f"run: dcsync service-account rotate-key --key-file {shlex.quote(str(files.pem))} --remove-old"]
    if not remove_old:
        return _report_rotated(app, note, files, changes=changes)
    if rotation.key_id != note.key_id:
        message = f"auth.key_id is still {rotation.key_id}, so the old key is not removed"
        raise ConfigError(message, hint=changes[0])
    # Only a unit has its credentials. Elsewhere, the file is proved that the unit shall read.
    is_here = private_key.kind != "credential" or "CREDENTIALS_DIRECTORY" in os.environ
    secret = private_key.resolve(app.environ).get_secret_value() if is_here else files.key()
    with files.locked():
        await remove_replaced(app.keys(), rotation, files, note, secret)
    return _report_rotated(app, note, files, changes=[])


def _pass_on(private_key: SecretRef, files: KeyFiles) -> str:
    """Return what lets the daemon read the new private key."""
    kind, _, name = private_key.describe().partition(":")
    if kind == "credential":
        line = f"LoadCredential={name}:{files.pem}"
        return f"write {line} to /etc/dcsync/service.d/secrets.conf, and run: systemctl daemon-reload"
    place = "auth.private_key" if private_key.holds_secret else private_key.describe()
    return f"store the content of {files.pem} in {place}"


def _report_rotated(app: App, note: Note, files: KeyFiles, *, changes: Sequence[str]) -> int:
    from dcsync.cli.output import print_json

    removed = None if changes else note.replaces
    if app.as_json:
        print_json(
            {
                "service_account_id": note.service_account_id,
                "key_id": note.key_id,
                "removed_key_id": removed,
                "key_file": str(files.pem),
                "changes": list(changes),
            }
        )
        return 0
    click.echo(f"the service account {note.email} signs in with the new key {note.key_id}")
    click.echo(f"  private key  {files.pem}")
    if removed:
        click.echo(f"  removed key  {removed}\n")
        private_key = app.config.auth.private_key
        if private_key is not None and private_key.kind == "file":
            click.echo("A running daemon reads the new key as soon as Autodesk refuses the old one.")
        else:
            click.echo(
                "Restart the daemon, unless you just did, because systemd gives it the key: systemctl restart dcsync"
            )
        return 0
    click.echo(f"\nThe key {note.replaces} stays until you have done this:")
    for number, change in enumerate(changes, start=1):
        click.echo(f"  {number}. {change}")
    return 0


def show_steps(app: App, steps: Sequence[str]) -> int:
    """Print the steps that a dry run does not do."""
    from dcsync.cli.output import print_json

    if app.as_json:
        print_json({"steps": list(steps)})
        return 0
    for step in steps:
        click.echo(f"would {step}")
    return 0
