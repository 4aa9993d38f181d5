"""The program that the units start, and whether their user can run it."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import dcsync
from dcsync.core.extras import WHEEL
from dcsync.errors import ConfigError

#: Folders that the units hide, and the setting that does it.
_HIDDEN = {
    "/home": "ProtectHome=",
    "/root": "ProtectHome=",
    "/run/user": "ProtectHome=",
    "/tmp": "PrivateTmp=",  # noqa: S108 - only named
    "/var/tmp": "PrivateTmp=",  # noqa: S108 - the same
    "/dev/shm": "TemporaryFileSystem=",  # noqa: S108 - the same
}
_HINT = (
    "install dcsync for all users: sudo PIPX_HOME=/opt/pipx PIPX_BIN_DIR=/usr/local/bin "
    f"pipx install --force --python /usr/bin/python3 ./{WHEEL}, then run: sudo /usr/local/bin/dcsync service install"
)


def this_program() -> tuple[Path, list[Path]]:
    """Return the `dcsync` of this installation, and the folders that it needs."""
    called = Path(sys.argv[0]).absolute()
    program = called if called.name == "dcsync" else Path(sysconfig.get_path("scripts"), "dcsync")
    return program, [Path(sys.prefix), Path(sys.base_prefix), Path(dcsync.__file__).parent]


def refuse_unusable(paths: Iterable[Path]) -> None:
    """Raise `ConfigError` if the service's user cannot read one of these paths inside the units."""
    for given in paths:
        followed = (given, given.resolve())
        for path in followed:
            _refuse_hidden(path)
        for path in followed:
            _refuse_private(path)


def _refuse_hidden(path: Path) -> None:
    for folder, setting in _HIDDEN.items():
        if path.is_relative_to(folder):
            message = f"the service cannot use {path}: its unit hides {folder} ({setting})"
            raise ConfigError(message, hint=_HINT)


def _refuse_private(path: Path) -> None:
    """Refuse a path that other users cannot read. The service's user owns none of them and is in no group."""
    for step in (*reversed(path.parents), path):
        try:
            mode = step.stat().st_mode
        except OSError as error:
            message = f"the service cannot use {path}: {step}: {error.strerror}"
            raise ConfigError(message, hint=_HINT) from None
        if mode & 0o001 == 0:
            message = f"the service cannot use {path}: its user has no access to {step} (mode {mode & 0o7777:04o})"
            raise ConfigError(message, hint=f"chmod o+rx {step}, or {_HINT}")
