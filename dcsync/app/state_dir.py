"""The state folder: the names of its files, and how they are read and written."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dcsync.config import Config
from dcsync.errors import ManifestError, NotStateOwner
from dcsync.mirror.durable import replace_durably
from dcsync.opening import read_regular

MANIFEST_NAME = "manifest.sqlite"
INSTANCE_NAME = "instance"
MOVED_NAME = "moved"
LOCK_NAME = "lock"
QUOTA_NAME = "quota"
CALLBACK_NAME = "callback.secret"
DAEMON_NAME = "daemon.json"
HOST_NAME = "host"


def host_name() -> str:
    """Return the name under which other hosts know this one."""
    return socket.gethostname()


def state_folder(config: Config) -> Path:
    """Return the state folder, and create it if it is missing.

    Raises `ManifestError` when it cannot be created or used, and `NotStateOwner` when root would use another user's.
    """
    path = Path(config.state.dir)
    refuse_to_be_root(path)
    try:
        if not path.is_dir():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            # A parent that cannot be listed cannot be fsynced either. The file system makes the folder durable later.
            with suppress(PermissionError):
                _sync_folder(path.parent)
    except OSError as error:
        message = f"state.dir {path} cannot be created: {error.strerror} (as uid {os.geteuid()})"
        raise ManifestError(message, hint="create it for the user that runs dcsync, or correct state.dir") from None
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        message = f"state.dir {path} cannot be written (as uid {os.geteuid()})"
        raise ManifestError(message, hint="give it to the user that runs dcsync, or correct state.dir")
    return path


def refuse_to_be_root(path: Path) -> None:
    """Raise `NotStateOwner` for root in another user's state folder: its owner could not read the files of root."""
    try:
        owner = path.stat().st_uid
    except OSError:
        return
    if os.geteuid() == 0 and owner != 0 and os.access(path, os.W_OK):
        try:
            name = pwd.getpwuid(owner).pw_name
        except KeyError:
            name = f"#{owner}"
        message = f"state.dir {path} belongs to the user {name}, who could not read the files that root creates there"
        raise NotStateOwner(message, uid=owner, hint=f"run dcsync as that user: runuser -u {name} -- dcsync …")


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(state: Path, name: str, text: str) -> None:
    """Write a line to a file of the state folder, durably. Raises `ManifestError`."""
    try:
        with open_folder(state) as descriptor:
            replace_durably(descriptor, name, f"{text}\n".encode(), mode=0o600)
    except OSError as error:
        message = f"{state / name} cannot be written: {error.strerror} (as uid {os.geteuid()})"
        raise ManifestError(message) from None


@contextmanager
def open_folder(path: Path) -> Iterator[int]:
    """Open a folder for functions that work below its descriptor."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_text(path: Path) -> str | None:
    """Return the line that `write_text` wrote, or None if the file is empty or missing. Raises `ManifestError`."""
    try:
        return read_regular(path).decode("utf-8").strip() or None
    except FileNotFoundError:
        return None
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror} (as uid {os.geteuid()})"
        raise ManifestError(message) from None


def has_content(path: Path) -> bool:
    """Return whether the manifest's file exists and is not empty. Raises `ManifestError` if that cannot be seen."""
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
    except OSError as error:
        message = f"the manifest {path} cannot be read: {error.strerror} (as uid {os.geteuid()})"
        raise ManifestError(message) from None
