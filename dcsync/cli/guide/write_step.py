"""The files: the secret, the configuration, and for the service the drop-in with its credentials."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dcsync.cli.guide.app_step import AppAnswers, Start, ask_app
from dcsync.cli.guide.asking import agree, ask, say
from dcsync.cli.guide.kind_step import Kind, ask_kind, kind_values
from dcsync.cli.new_config import (
    absolute,
    configuration_text,
    credential_file,
    default_root,
    default_state,
    service_group,
)

if TYPE_CHECKING:
    from dcsync.config import Config

_FOLDERS = {
    "root": "Mirror folder",
    "state_dir": "Folder for tokens and the manifest, on a local disk",
}


def write_configuration(start: Start, accounts: Sequence[tuple[str, str]]) -> Kind:
    """Ask for the app, the sign-in and the folders, and write them. The last file is the configuration."""
    app = None
    if start.given.get("access_token"):
        values, kind = {**start.given, "method": "token"}, Kind.RENEWED
    else:
        app = ask_app(start)
        kind = ask_kind(start, app)
        if kind is Kind.CREATED:
            # A run that is killed from here on must find the secret again.
            _store(start, app)
        secret = {} if app.secret is None else {"client_secret": app.secret}
        values = {**start.given, "client_id": app.client_id, **secret, **kind_values(start, app, kind)}
    text = _with_folders(start, values, accounts)
    if kind is not Kind.CREATED and app is not None:
        _store(start, app)
    _create(start.place, text)
    return kind


def _store(start: Start, app: AppAnswers) -> None:
    """Write the typed secret where the configuration will say."""
    from dcsync.app.secret_file import write_secret

    path = start.file_of(app.secret or "")
    if app.typed is not None and path is not None:
        write_secret(path, app.typed)
        say(f"Wrote the client secret to {path} (mode 0600).")


def _with_folders(start: Start, values: Mapping[str, str], accounts: Sequence[tuple[str, str]]) -> str:
    """Ask for the folders until the configuration is valid, and return its text."""
    defaults = {"root": default_root(), "state_dir": default_state()}
    while True:
        folders = {
            name: start.given.get(name) or _ask_folder(question, defaults[name]) for name, question in _FOLDERS.items()
        }
        try:
            return configuration_text({**values, **folders}, accounts, start.place)
        except click.UsageError as error:
            if _FOLDERS.keys() <= start.given.keys():
                raise
            say(f"This is not possible: {error.message}")


def _ask_folder(question: str, default: str) -> str:
    """Ask for a folder, and show the absolute path that a relative one means."""
    typed: list[str] = []

    def check(text: str) -> str:
        typed.append(text)
        return absolute(text)

    path = ask(question, check, default=default)
    if path != typed[-1]:
        say(f"That is {path}.")
    return path


def _create(place: Path, text: str) -> None:
    from dcsync.config import create, create_schema

    group = service_group(place)
    create(place, text, group=group)
    create_schema(place)
    say(f"Wrote {place} (mode {'0600' if group is None else '0640, for the service'}, with a comment on every key).")


def pass_credentials(place: Path, config: Config) -> None:
    """Let systemd pass the secrets of the configuration to the service. Only root writes this, for the service.

    What the administrator wrote stays as it is.
    """
    from dcsync.config import secret_refs
    from dcsync.systemd import SHARED_SETTINGS

    if service_group(place) is None:
        return
    names = [ref.describe().partition(":")[2] for _, ref in secret_refs(config) if ref.kind == "credential"]
    folder = place.absolute().parent / SHARED_SETTINGS.name
    known = [line.strip() for path in sorted(folder.glob("*.conf")) for line in _read(path).splitlines()]
    missing = [
        f"LoadCredential={name}:{credential_file(name)}"
        for name in dict.fromkeys(names)
        if not any(line.startswith(f"LoadCredential={name}:") for line in known)
    ]
    if missing:
        _append(folder / "secrets.conf", missing)


def _append(path: Path, lines: Sequence[str]) -> None:
    from dcsync.app.key_files import replace_text
    from dcsync.systemd import Machine
    from dcsync.systemd.machine import run

    before = _read(path)
    text = f"{before}{'' if not before or before.endswith(chr(10)) else chr(10)}[Service]\n" + "\n".join(lines) + "\n"
    if not before:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.touch(mode=0o644)
    replace_text(path, text)
    say(f"Wrote {path}, so that systemd passes the secrets to the service only.")
    if Machine().is_running:
        run(["systemctl", "daemon-reload"])


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def make_root(config: Config) -> None:
    """Create the mirror folder, if it is missing and the user agrees."""
    from dcsync.errors import ConfigError

    root = config.mirror.root
    if root.is_dir():
        return
    say(f"The mirror folder {root} does not exist. If it is on a disk of its own, mount that disk first.")
    if not agree("Create the folder now?"):
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        state = Path(config.state.dir)
        if os.geteuid() == 0 and state.is_dir():
            # The user that runs dcsync owns both folders.
            found = state.stat()
            os.chown(root, found.st_uid, found.st_gid)
    except OSError as error:
        message = f"the mirror folder {root} cannot be created: {error.strerror} (as uid {os.geteuid()})"
        hint = "create it, give it to the user that runs dcsync, and run dcsync init again"
        raise ConfigError(message, hint=hint) from None
