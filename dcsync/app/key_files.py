"""The files of a service account: its private key, and a JSON file that says how far the creation of the key is."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Self

from dcsync.app.state_dir import open_folder
from dcsync.errors import ConfigError
from dcsync.mirror import disk
from dcsync.mirror.durable import replace_durably, write_new
from dcsync.opening import read_regular

_PRIVATE = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What the JSON file says. It has no secret."""

    service_account_id: str
    email: str
    name: str
    client_id: str
    #: Empty until the key exists.
    key_id: str = ""
    #: The time when the creation of the key began, and the keys of the account before it. Empty once its ID is known.
    began_at: str = ""
    known_keys: tuple[str, ...] = ()
    #: The key that this one is to replace. Empty if that key was removed, or never existed.
    replaces: str = ""
    #: Whether the service account signed in with the key.
    proved: bool = False

    def begun(self, at: str, known: tuple[str, ...]) -> Self:
        """Return the note before the key is created."""
        return replace(self, key_id="", began_at=at, known_keys=known, proved=False)

    def with_key(self, key_id: str) -> Self:
        """Return the note with the ID of the key, or without a key."""
        return replace(self, key_id=key_id, began_at="", known_keys=(), proved=False)


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """A private key in a PEM file, with the mode 0600, and its note. All methods block and raise `ConfigError`s."""

    pem: Path

    @property
    def json(self) -> Path:
        """The path of the note."""
        return self.pem.with_suffix(".json")

    def following(self) -> KeyFiles:
        """Return the files of the key that replaces this one."""
        return KeyFiles(self.pem.with_name(f"{self.pem.stem}.next{self.pem.suffix}"))

    def has_key(self) -> bool:
        """Return whether anything has the name of the private key."""
        with _reported(self.pem, "examined"):
            return os.path.lexists(self.pem)

    def note(self) -> Note | None:
        """Return the note, or None if it does not exist."""
        try:
            with _reported(self.json, "read"):
                if not os.path.lexists(self.json):
                    return None
                found = json.loads(read_regular(self.json))
            names = {field.name for field in fields(Note)}
            known = {name: value for name, value in found.items() if name in names}
            return Note(**{**known, "known_keys": tuple(known.get("known_keys", ()))})
        except (ValueError, TypeError, AttributeError):
            message = f"{self.json} is not a note of dcsync about a service account"
            raise ConfigError(message, hint="name another file with --key-file, or rename this one") from None

    def save(self, note: Note) -> None:
        """Write the note durably, and create missing folders."""
        with _reported(self.json, "written"), _folder(self.pem.parent) as folder:
            replace_durably(folder, self.json.name, f"{json.dumps(asdict(note), indent=2)}\n".encode(), mode=_PRIVATE)

    def forget(self) -> None:
        """Remove the note durably. It may be gone already."""
        with _reported(self.json, "removed"), _folder(self.pem.parent) as folder:
            self.json.unlink(missing_ok=True)
            os.fsync(folder)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands from the files of this folder. The kernel lets go if the process is killed."""
        with ExitStack() as stack:
            with _reported(self.pem.parent, "locked"):
                folder = stack.enter_context(_folder(self.pem.parent))
                try:
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    message = f"another dcsync service-account is working in {self.pem.parent}"
                    raise ConfigError(message, hint="run the command again when the other one has ended") from None
            yield

    def write_key(self, text: str) -> None:
        """Write the private key durably. Never replaces a file."""
        with _reported(self.pem, "written"), _folder(self.pem.parent) as folder:
            write_new(folder, self.pem.name, f"{text.strip()}\n".encode(), mode=_PRIVATE)
            disk.rename_noreplace(f"{self.pem.name}.new", folder, self.pem.name, folder)
            os.fsync(folder)

    def key(self) -> str:
        """Return the private key."""
        with _reported(self.pem, "read"):
            return read_regular(self.pem).decode("utf-8", "replace")

    def move_key(self, other: KeyFiles) -> None:
        """Replace another private key of the same folder by this one, in one step. The owner of the file stays."""
        target = other.pem.resolve()
        with _reported(target, "replaced"), _folder(target.parent) as folder:
            _keep_owner(self.pem, target)
            self.pem.rename(target)
            os.fsync(folder)


def replace_text(path: Path, text: str) -> None:
    """Replace a text file durably in one step. Its mode and its owner stay. Raises `ConfigError`."""
    target = path.resolve()
    with _reported(target, "written"), _folder(target.parent) as folder:
        write_new(folder, target.name, text.encode(), mode=target.stat().st_mode & 0o777)
        new = target.with_name(f"{target.name}.new")
        _keep_owner(new, target)
        new.rename(target)
        os.fsync(folder)


def _keep_owner(new: Path, old: Path) -> None:
    """Give a file the owner of the one that it replaces. Only root needs this, and may do it."""
    if os.geteuid() == 0 and old.exists():
        found = old.stat()
        os.chown(new, found.st_uid, found.st_gid)


@contextmanager
def _reported(path: Path, done: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{path} cannot be {done}: {error.strerror} (as uid {os.geteuid()})"
        hint = "run the command as a user who may do that, or name another file with --key-file"
        raise ConfigError(message, hint=hint) from None


@contextmanager
def _folder(path: Path) -> Iterator[int]:
    for missing in reversed([parent for parent in (path, *path.parents) if not parent.is_dir()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    with open_folder(path) as folder:
        yield folder
