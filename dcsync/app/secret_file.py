"""Storing a secret in a file of its own."""

from __future__ import annotations

import os
from pathlib import Path

from dcsync.app.state_dir import open_folder
from dcsync.errors import ConfigError
from dcsync.mirror.durable import replace_durably


def write_secret(path: Path, text: str) -> None:
    """Write a secret durably in one step, with the mode 0600. Creates missing folders for the user alone.

    Raises `ConfigError`.
    """
    try:
        for folder in reversed([parent for parent in path.parents if not parent.is_dir()]):
            folder.mkdir(mode=0o700, exist_ok=True)
        with open_folder(path.parent) as descriptor:
            replace_durably(descriptor, path.name, f"{text}\n".encode(), mode=0o600)
    except OSError as error:
        message = f"the secret cannot be written to {path}: {error.strerror} (as uid {os.geteuid()})"
        raise ConfigError(message, hint="run the command as a user who may do that") from None
