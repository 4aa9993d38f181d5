"""The token store: one file, replaced durably, with one generation kept behind it (FAULTS rule T).

All methods block. `locked()` is the lock between processes; whoever holds it re-reads before doing anything. Neither
the lock's file nor a stored token is ever removed by an error.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from dcsync.core.model import Json
from dcsync.core.wire import parse_time, time_json
from dcsync.errors import TokenStoreDamaged, TokenStoreExposed, TokenStoreUnusable

#: A pair of tokens is about 3 KB; the slot is made this large so that a longer one fits as well.
_SLOT_SIZE = 16 << 10
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPair:
    """One generation of the chain. The tokens are left out of `repr`."""

    refresh_token: str = field(repr=False)
    access_token: str | None = field(default=None, repr=False)
    expires_at: datetime | None = None
    #: When the access token should be renewed, some time before it expires.
    renew_at: datetime | None = None
    #: When the refresh token was issued: it lives 15 days.
    issued_at: datetime | None = None
    #: SHA-256 of the configured token that began this chain: another one in the configuration begins a new chain.
    seed: str | None = None
    #: Whose tokens these are, where an access token said so.
    user: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A refresh that was begun: written before the token is spent, removed after a grant.

    `refused` says that the server called this very token invalid: it is not offered again, by any process.
    """

    spending: str
    attempt: int
    at: datetime
    refused: bool = False


def fingerprint(token: str) -> str:
    """Return what may be written of a token: its SHA-256."""
    return hashlib.sha256(token.encode()).hexdigest()


class ChainStore(Protocol):
    """Where a chain of tokens is kept. All methods block; what they say is in `TokenStore`, in a folder's words."""

    def locked(self) -> AbstractContextManager[None]:
        """Hold the lock between all that use the store, waiting for it."""

    def read(self) -> TokenPair | None:
        """Return the newest readable generation; None when there was never one."""

    def last_seed(self) -> str | None:
        """Return the fingerprint of the configured token that began the chain."""

    def note_seed(self, seed: str) -> None:
        """Remember which configured token was taken over."""

    def set_aside(self) -> None:
        """Keep what is damaged under another name, so that a new chain can begin."""

    def forget(self) -> None:
        """Remove the chain."""

    def settle(self) -> None:
        """Finish what a crash cut short."""

    def prepare(self) -> None:
        """Prove that a new pair can be stored."""

    def save(self, pair: TokenPair) -> None:
        """Make a pair the current one, durably, keeping the one before."""

    def intent(self) -> Intent | None:
        """Return the refresh whose outcome is unknown, if there is one."""

    def note_intent(self, intent: Intent) -> None:
        """Write durably that a token is about to be spent."""

    def clear_intent(self) -> None:
        """Forget the intent."""


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
        """Hold the lock between processes, waiting for it. The kernel frees it however the holder ends."""
        with self._usable("locking"):
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with self._usable("locking"):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            # Nothing was written to it, and free it is whatever the system says of it.
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def read(self) -> TokenPair | None:
        """Return the newest readable generation; None when there was never one.

        Raises `TokenStoreExposed` when others can read the file, `TokenStoreDamaged` when there are files and none of
        them can be used, `TokenStoreUnusable` when they cannot be read: that is no reason to spend anything.
        """
        damaged = False
        # A slot that holds a whole pair was written, and lost its rename to a crash or the disk: it is the newest.
        for path in (self._slot, self.path, self._previous):
            body = self._read_private(path)
            if body is None or (path == self._slot and not body.strip(b"\0 \n")):
                continue
            pair = parse_pair(body)
            if pair is not None:
                return pair
            damaged = damaged or path != self._slot
        if damaged:
            message = f"the token store {self.path} is damaged, and so is the generation before"
            raise TokenStoreDamaged(message)
        return None

    def last_seed(self) -> str | None:
        """Return the fingerprint of the configured token that began the chain: known also when the pair is damaged."""
        body = self._read_private(self._seed)
        return None if body is None else body.decode("ascii", "replace").strip()

    def note_seed(self, seed: str) -> None:
        """Remember which configured token was taken over."""
        with self._usable("writing"):
            self._replace(self._seed, seed.encode("ascii"))

    def set_aside(self) -> None:
        """Keep damaged files under another name, so that a new chain can begin. The caller holds the lock."""
        with self._usable("setting aside"):
            for path in (self.path, self._previous):
                with contextlib.suppress(FileNotFoundError):
                    path.rename(path.with_suffix(".damaged"))
            self._sync_folder()

    def forget(self) -> None:
        """Remove the chain, because a person asked for it (`logout`). The caller holds the lock.

        What stays: the lock, and which configured token began the chain, so that it is not offered again.
        """
        with self._usable("forgetting"):
            # The slot first: whole, it would count as the newest generation. The current file last.
            for path in (self._slot, self._previous, self._intent, self.path):
                path.unlink(missing_ok=True)
            self._sync_folder()

    def settle(self) -> None:
        """Finish a `save` that a crash or the disk cut short, from its beginning. The caller holds the lock.

        That a pair can be read does not say that it is on the disk: its fsync may have failed, or never begun.
        """
        body = self._read_private(self._slot)
        pair = None if body is None else parse_pair(body)
        if pair is not None:
            self.save(pair)

    def prepare(self) -> None:
        """Prove that a new pair can be stored: reserve its room durably. Raises `TokenStoreUnusable` if not.

        The caller holds the lock and called `settle`: what the slot held is written over.
        """
        with self._usable("preparing"):
            descriptor = os.open(self._slot, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                # Zeros that are really written: a preallocated block can still meet a full disk on copy-on-write.
                _write_all(descriptor, b"\0" * _SLOT_SIZE)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._sync_folder()

    def save(self, pair: TokenPair) -> None:
        """Make a pair the current one, durably: slot, fsync, keep the old one, rename, fsync."""
        body = render_pair(pair).ljust(_SLOT_SIZE, b" ")
        with self._usable("writing"):
            descriptor = os.open(self._slot, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
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
        """Return the refresh whose outcome is unknown, if there is one."""
        return parse_intent(self._read_private(self._intent) or b"")

    def note_intent(self, intent: Intent) -> None:
        """Write durably that a token is about to be spent."""
        body = json.dumps(intent_json(intent)).encode()
        with self._usable("writing"):
            self._replace(self._intent, body)

    def clear_intent(self) -> None:
        """Forget the intent: the answer was definite."""
        with contextlib.suppress(OSError):
            # One that stays behind only costs a repeated question.
            self._intent.unlink(missing_ok=True)

    def _replace(self, path: Path, body: bytes) -> None:
        aside = path.with_suffix(".new")
        descriptor = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _write_all(descriptor, body)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        aside.replace(path)
        self._sync_folder()

    def _keep_previous(self) -> None:
        """Keep the current generation as the previous one, with no moment without either."""
        aside = self._previous.with_suffix(".new")
        aside.unlink(missing_ok=True)
        try:
            os.link(self.path, aside)
        except FileNotFoundError:
            return
        except OSError:
            # No hard links here: without the generation before is better than without the new one.
            return
        aside.replace(self._previous)

    def _read_private(self, path: Path) -> bytes | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            message = f"the token store {path} cannot be read: {error.strerror} (as uid {os.geteuid()})"
            raise TokenStoreUnusable(message) from None
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            os.close(descriptor)
            message = f"the token store {path} is no file"
            raise TokenStoreUnusable(message, hint="look who put it there, and move it away")
        with os.fdopen(descriptor, "rb") as file:
            mode = facts.st_mode & 0o777
            if mode & 0o077:
                message = f"the token store {path} has mode {mode:04o}: others can use it"
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
    """Return a pair as it is stored, with its sum."""
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
    # The sum is what tells a flipped bit from a token: a wrong token spent would be taken for a dead chain.
    return json.dumps({**entry, "sum": fingerprint(text)}).encode()


def parse_pair(body: str | bytes) -> TokenPair | None:
    """Return a pair as it was stored; None when its sum is another one."""
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
            user=entry.get("user"),  # not in what the first version wrote
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def intent_json(intent: Intent) -> dict[str, Json]:
    """Return an intent as it is written."""
    return {
        "spending": intent.spending,
        "attempt": intent.attempt,
        "at": time_json(intent.at),
        "refused": intent.refused,
    }


def parse_intent(body: str | bytes) -> Intent | None:
    """Return an intent as it was written; None for anything else."""
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
