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

    With a `group`, its members can read the file (mode 0640). The file gets its name when it is complete. Raises
    `ConfigError`. The file then does not exist, unless it existed before.
    """
    try:
        for folder in reversed([parent for parent in path.absolute().parents if not parent.is_dir()]):
            folder.mkdir(mode=0o700, exist_ok=True)
            _sync_folder(folder.parent)
    except OSError as error:
        raise _failed(path, error) from None
    refuse_existing(path)
    try:
        _write_complete(path, text.encode(), mode=0o600, group=group)
    except FileExistsError:
        raise _there(path) from None
    except OSError as error:
        raise _failed(path, error) from None


def _write_complete(path: Path, body: bytes, *, mode: int, group: int | None = None) -> None:
    """Write a file that gets its name when it is complete. Raises `FileExistsError` if the name is taken."""
    # Imported here because most commands write no configuration.
    from dcsync.mirror import disk
    from dcsync.mirror.durable import write_new

    new = f"{path.name}.new"
    folder = os.open(path.absolute().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        write_new(folder, path.name, body, mode=mode)
        if group is not None:
            os.chown(new, -1, group, dir_fd=folder)
            os.chmod(new, 0o640, dir_fd=folder)
        disk.rename_noreplace(new, folder, path.name, folder)
        os.fsync(folder)
    finally:
        # What is left of a failed attempt. After the rename there is nothing to remove.
        with suppress(OSError):
            os.unlink(new, dir_fd=folder)
        os.close(folder)


def schema_line(path: Path) -> str:
    """Return the line at the top of a configuration that names its schema to editors (Taplo, Even Better TOML)."""
    return f"#:schema ./{_schema_place(path).name}\n"


def create_schema(path: Path) -> None:
    """Write the JSON schema into the folder of a configuration, unless the file exists or cannot be written."""
    text = json.dumps(json_schema(), indent=2, ensure_ascii=False)
    with suppress(OSError):
        _write_complete(_schema_place(path), f"{text}\n".encode(), mode=0o644)


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
    hint = "edit the file, continue with dcsync init on a terminal, without options, or use dcsync --config FILE init"
    return ConfigError(message, hint=hint)


def _failed(path: Path, error: OSError) -> ConfigError:
    message = f"cannot write the configuration {path}: {error.strerror} (as uid {os.geteuid()})"
    return ConfigError(message, hint="choose another file: dcsync --config FILE init")
