"""The token store: one file, replaced durably, and one previous generation (docs/project/design.md, Token protocol).

All methods block. `locked()` is the lock between processes. Its holder reads the store again before it does anything.
No error ever deletes the lock file or a stored token.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from dcsync.core.model import Json
from dcsync.core.wire import parse_time, time_json
from dcsync.errors import TokenStoreDamaged, TokenStoreExposed, TokenStoreUnusable
from dcsync.opening import NotRegular, open_regular

#: A token pair takes about 3 KB. The slot has room for longer tokens.
_SLOT_SIZE = 16 << 10
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPair:
    """One generation of the chain. `repr` does not show the tokens."""

    refresh_token: str = field(repr=False)
    access_token: str | None = field(default=None, repr=False)
    expires_at: datetime | None = None
    #: When the access token should be renewed: before `expires_at`.
    renew_at: datetime | None = None
    #: When the refresh token was issued. It lives 15 days.
    issued_at: datetime | None = None
    #: SHA-256 of the configured token that began this chain. A different configured token begins a new chain.
    seed: str | None = None
    #: The signed-in user, if an access token names one.
    user: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A refresh that was begun: written before the token is used, deleted after the response.

    `refused` means that Autodesk rejected this token with `invalid_grant`. No process uses it again.
    """

    spending: str
    attempt: int
    at: datetime
    refused: bool = False


def fingerprint(token: str) -> str:
    """Return a token's SHA-256, the only form in which a token may be written elsewhere."""
    return hashlib.sha256(token.encode()).hexdigest()


class ChainStore(Protocol):
    """The port of a token store. All methods block. `TokenStore` documents them for a folder."""

    def locked(self) -> AbstractContextManager[None]:
        """Wait for the lock between all users of the store, and hold it."""

    def read(self) -> TokenPair | None:
        """Return the newest readable generation, or None if none was ever stored."""

    def last_seed(self) -> str | None:
        """Return the fingerprint of the configured token that began the chain."""

    def note_seed(self, seed: str) -> None:
        """Record which configured token began the chain."""

    def set_aside(self) -> None:
        """Rename the damaged generations, so that a new chain can begin."""

    def forget(self) -> None:
        """Delete the chain."""

    def settle(self) -> None:
        """Complete a `save` that a crash interrupted."""

    def prepare(self) -> None:
        """Prove that a new pair can be stored."""

    def save(self, pair: TokenPair) -> None:
        """Durably make a pair the current one, and keep the previous one."""

    def intent(self) -> Intent | None:
        """Return the unconfirmed or refused refresh, if there is one."""

    def note_intent(self, intent: Intent) -> None:
        """Record durably that a token is about to be used."""

    def clear_intent(self) -> None:
        """Delete the intent."""


class TokenStore:
    """The tokens of one client id below `state.dir`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "token.json"
        self._previous = folder / "token.previous.json"
        self._slot = folder / "token.next"
        self._intent = folder / "token.intent"
        self._lock = folder / "token.lock"
        self._seed = folder / "token.seed"
        self._folder = folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Wait for the lock between processes, and hold it. The kernel releases it however the holder ends."""
        with self._usable("locking"):
            descriptor = open_regular(self._lock, os.O_RDWR | os.O_CREAT)
        try:
            with self._usable("locking"):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            # Nothing was written to the file, and close releases the lock even when it reports an error.
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def read(self) -> TokenPair | None:
        """Return the newest readable generation, or None if none was ever stored.

        Raises `TokenStoreExposed` if others can read a file, `TokenStoreDamaged` if all files are damaged, and
        `TokenStoreUnusable` if the files cannot be read. None of these may lead to the use of another token.
        """
        damaged = False
        # A slot with a complete pair is the newest generation: a crash or the disk prevented only its rename.
        for path in (self._slot, self.path, self._previous):
            body = self._read_private(path)
            if body is None:
                continue
            pair = parse_pair(body)
            if pair is not None:
                return pair
            # The slot comes first. Without a pair it is what `prepare` leaves.
            damaged = path != self._slot
        if damaged:
            message = f"the token store {self.path} is damaged, and so is its previous generation"
            raise TokenStoreDamaged(message)
        return None

    def last_seed(self) -> str | None:
        """Return the fingerprint of the configured token that began the chain, even if the pair is damaged."""
        body = self._read_private(self._seed)
        return None if body is None else body.decode("ascii", "replace").strip()

    def note_seed(self, seed: str) -> None:
        """Record which configured token began the chain."""
        with self._usable("writing"):
            self._replace(self._seed, seed.encode("ascii"))

    def set_aside(self) -> None:
        """Rename the damaged files, so that a new chain can begin. The caller holds the lock."""
        with self._usable("renaming"):
            for path in (self.path, self._previous):
                with contextlib.suppress(FileNotFoundError):
                    path.rename(path.with_suffix(".damaged"))
            self._sync_folder()

    def forget(self) -> None:
        """Delete the chain for `dcsync logout`. The caller holds the lock.

        The lock file stays, and so does the seed, so that the same configured token is not used again.
        """
        with self._usable("deleting"):
            # The slot goes first, because a complete slot would count as the newest generation. The current file is
            # last.
            for path in (self._slot, self._previous, self._intent, self.path):
                path.unlink(missing_ok=True)
            self._sync_folder()

    def settle(self) -> None:
        """Repeat a `save` that a crash or the disk interrupted, from its beginning. The caller holds the lock.

        A readable pair may still not be on the disk: its fsync may have failed, or may never have started.
        """
        body = self._read_private(self._slot)
        pair = None if body is None else parse_pair(body)
        if pair is not None:
            self.save(pair)

    def prepare(self) -> None:
        """Prove that a new pair can be stored by reserving its space durably. Raises `TokenStoreUnusable` if not.

        The caller holds the lock and has called `settle`, because this overwrites the slot.
        """
        with self._usable("preparing"):
            descriptor = open_regular(self._slot, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            try:
                # Zeros are really written, because on copy-on-write even a preallocated block can meet a full disk.
                _write_all(descriptor, b"\0" * _SLOT_SIZE)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._sync_folder()

    def save(self, pair: TokenPair) -> None:
        """Durably make a pair the current one: write the slot, fsync, keep the old pair, rename, fsync."""
        body = render_pair(pair).ljust(_SLOT_SIZE, b" ")
        with self._usable("writing"):
            descriptor = open_regular(self._slot, os.O_RDWR | os.O_CREAT)
            try:
                _write_all(descriptor, body)
                os.ftruncate(descriptor, len(body))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._keep_previous()
            self._slot.replace(self.path)
            self._sync_folder()

    def intent(self) -> Intent | None:
        """Return the unconfirmed or refused refresh, if there is one."""
        return parse_intent(self._read_private(self._intent) or b"")

    def note_intent(self, intent: Intent) -> None:
        """Record durably that a token is about to be used."""
        body = json.dumps(intent_json(intent)).encode()
        with self._usable("writing"):
            self._replace(self._intent, body)

    def clear_intent(self) -> None:
        """Delete the intent after a definite response."""
        with contextlib.suppress(OSError):
            # An intent that remains only costs one repeated refresh.
            self._intent.unlink()

    def _replace(self, path: Path, body: bytes) -> None:
        temporary = path.with_suffix(".new")
        descriptor = open_regular(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            _write_all(descriptor, body)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
        self._sync_folder()

    def _keep_previous(self) -> None:
        """Keep the current generation as the previous one. At every moment at least one of them exists."""
        temporary = self._previous.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        try:
            os.link(self.path, temporary)
        except FileNotFoundError:
            return
        except OSError:
            # The file system has no hard links. The new generation matters more than the previous one.
            return
        temporary.replace(self._previous)

    def _read_private(self, path: Path) -> bytes | None:
        try:
            descriptor = open_regular(path)
        except FileNotFoundError:
            return None
        except NotRegular:
            message = f"the token store {path} is not a regular file"
            raise TokenStoreUnusable(message, hint="find out what created it, and move it away") from None
        except OSError as error:
            message = f"the token store {path} cannot be read: {error.strerror} (as uid {os.geteuid()})"
            raise TokenStoreUnusable(message) from None
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode & 0o777
            if mode & 0o077:
                message = f"the token store {path} has mode {mode:04o}, so other users can access it"
                raise TokenStoreExposed(message)
            try:
                return file.read()
            except OSError as error:
                message = f"the token store {path} cannot be read: {error.strerror}"
                raise TokenStoreUnusable(message) from None

    @contextmanager
    def _usable(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            message = f"{doing} the token store in {self._folder} failed: {error.strerror}"
            raise TokenStoreUnusable(message) from None

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def render_pair(pair: TokenPair) -> bytes:
    """Return a pair in its stored form, with its checksum."""
    entry = {
        "format": _FORMAT,
        "refresh_token": pair.refresh_token,
        "access_token": pair.access_token,
        "expires_at": time_json(pair.expires_at),
        "renew_at": time_json(pair.renew_at),
        "issued_at": time_json(pair.issued_at),
        "seed": pair.seed,
        "user": pair.user,
    }
    text = json.dumps(entry, sort_keys=True)
    # The checksum detects a flipped bit. Without it, dcsync would use a wrong token and take the chain for dead.
    return json.dumps({**entry, "sum": fingerprint(text)}).encode()


def parse_pair(body: str | bytes) -> TokenPair | None:
    """Return a stored pair, or None if it is malformed or its checksum does not match."""
    try:
        entry = json.loads(body)
        claimed = entry.pop("sum")
        if claimed != fingerprint(json.dumps(entry, sort_keys=True)) or entry["format"] != _FORMAT:
            return None
        return TokenPair(
            refresh_token=entry["refresh_token"],
            access_token=entry["access_token"],
            expires_at=parse_time(entry["expires_at"]),
            renew_at=parse_time(entry["renew_at"]),
            issued_at=parse_time(entry["issued_at"]),
            seed=entry["seed"],
            user=entry.get("user"),  # the first version did not write it
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def intent_json(intent: Intent) -> dict[str, Json]:
    """Return an intent in its stored form."""
    return {
        "spending": intent.spending,
        "attempt": intent.attempt,
        "at": time_json(intent.at),
        "refused": intent.refused,
    }


def parse_intent(body: str | bytes) -> Intent | None:
    """Return a stored intent, or None if it is malformed."""
    try:
        entry = json.loads(body)
        at = parse_time(entry["at"])
        if at is None:
            return None
        return Intent(
            spending=str(entry["spending"]),
            attempt=int(entry["attempt"]),
            at=at,
            refused=entry["refused"] is True,
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _write_all(descriptor: int, body: bytes) -> None:
    view = memoryview(body)
    while view:
        view = view[os.write(descriptor, view) :]
