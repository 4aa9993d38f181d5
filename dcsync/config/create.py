"""Writing a new configuration file. An existing file is never replaced."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dcsync.config.load import SYSTEM, named_place, places_of_the_user
from dcsync.config.schema import json_schema
from dcsync.errors import ConfigError


def new_place(path: Path | None, *, environ: Mapping[str, str], is_root: bool) -> Path:
    """Return the path for a new configuration: `path`, `$DCSYNC_CONFIG`, the system's for root, or the user's."""
    named = named_place(path, environ)
    if named is not None:
        return named
    places = [SYSTEM] if is_root else places_of_the_user(environ)
    if not places:
        message = "this user has no home folder for the configuration"
        raise ConfigError(message, hint="choose a file: dcsync --config FILE init")
    return places[0]


def refuse_existing(path: Path) -> None:
    """Raise `ConfigError` if the path exists, even as a broken link or a folder."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise _failed(path, error) from None
    raise _there(path)


def create(path: Path, text: str, *, group: int | None = None) -> None:
    """Write a configuration durably with mode 0600, and create missing folders with mode 0700. Never replaces a file.

    With a `group`, its members can read the file (mode 0640). Raises `ConfigError`. The file then does not exist,
    unless it existed before.
    """
    body = text.encode()
    try:
        for folder in reversed([parent for parent in path.absolute().parents if not parent.is_dir()]):
            folder.mkdir(mode=0o700, exist_ok=True)
            _sync_folder(folder.parent)
    except OSError as error:
        raise _failed(path, error) from None
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError:
        raise _there(path) from None
    except OSError as error:
        raise _failed(path, error) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(body)
            file.flush()
            if group is not None:
                os.fchown(file.fileno(), -1, group)
                os.fchmod(file.fileno(), 0o640)
            os.fsync(file.fileno())
        _sync_folder(path.absolute().parent)
    except OSError as error:
        # A partial file would block the next attempt.
        path.unlink(missing_ok=True)
        raise _failed(path, error) from None


def schema_line(path: Path) -> str:
    """Return the line at the top of a configuration that names its schema to editors (Taplo, Even Better TOML)."""
    return f"#:schema ./{_schema_place(path).name}\n"


def create_schema(path: Path) -> None:
    """Write the JSON schema into the folder of a configuration, unless the file exists or cannot be written."""
    with suppress(OSError), _schema_place(path).open("x", encoding="utf-8") as file:
        json.dump(json_schema(), file, indent=2, ensure_ascii=False)
        file.write("\n")


def _schema_place(path: Path) -> Path:
    return path.with_name(f"{path.stem}.schema.json")


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _there(path: Path) -> ConfigError:
    message = f"{path} already exists, and dcsync never overwrites a configuration"
    return ConfigError(message, hint="edit the file, or choose a different file: dcsync --config FILE init")


def _failed(path: Path, error: OSError) -> ConfigError:
    message = f"cannot write the configuration {path}: {error.strerror} (as uid {os.geteuid()})"
    return ConfigError(message, hint="choose another file: dcsync --config FILE init")
