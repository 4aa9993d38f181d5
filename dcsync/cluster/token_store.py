"""The token store of several hosts: the same chain and the same token protocol, in the manifest's database.

A separate transaction holds the lock, a row lock, while a refresh token is used. The intent must be durable before
that, so another transaction commits it. A frozen holder loses the lock after `HOLD_S`. Its intent then tells the next
holder that the refresh is unconfirmed.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import sqlalchemy as sa

from dcsync.auth.token_store import (
    Intent,
    TokenPair,
    intent_json,
    parse_intent,
    parse_pair,
    render_pair,
)
from dcsync.cluster.database import Database
from dcsync.errors import ManifestError, TokenStoreDamaged, TokenStoreUnusable

#: A refresh takes two and a half minutes at most (`dcsync.auth.endpoint`).
HOLD_S = 180
#: A waiter waits this much longer than a holder can hold the lock.
_EXTRA_WAIT_S = 30
_CURRENT, _PREVIOUS, _INTENT, _SEED, _SPARE = "current", "previous", "intent", "seed", "spare"
#: More than the longest token pair needs. The content is random, so the database cannot compress it.
_SPARE_SIZE = 16 << 10
_MAKE = sa.text("INSERT INTO token_chain (client) VALUES (:client) ON CONFLICT DO NOTHING")
_LOCK = sa.text("SELECT client FROM token_chain WHERE client = :client FOR UPDATE")
_READ = sa.text("SELECT body FROM token_slot WHERE client = :client AND slot = :slot")
_WRITE = sa.text(
    "INSERT INTO token_slot (client, slot, body) VALUES (:client, :slot, :body) "
    "ON CONFLICT (client, slot) DO UPDATE SET body = excluded.body"
)
_COPY = sa.text(
    "INSERT INTO token_slot (client, slot, body) SELECT client, :target, body FROM token_slot "
    "WHERE client = :client AND slot = :slot ON CONFLICT (client, slot) DO UPDATE SET body = excluded.body"
)
_REMOVE = sa.text("DELETE FROM token_slot WHERE client = :client AND slot = :slot")


class DatabaseTokenStore:
    """Implements `ChainStore`. All methods block."""

    def __init__(self, database: Database, client: str) -> None:
        self._database = database
        self._client = client
        self._engine = database.blocking_engine(label="tokens", idle_s=HOLD_S, lock_s=HOLD_S + _EXTRA_WAIT_S)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Wait for the lock between all processes of all hosts, and hold it."""
        with self._usable("locking"):
            connection = self._engine.connect()
            try:
                with connection.begin():
                    connection.execute(_MAKE, {"client": self._client})
                connection.begin()
                connection.execute(_LOCK, {"client": self._client})
            except BaseException:
                connection.close()
                raise
        try:
            yield
        finally:
            # Closing releases the row, whether the connection still works or not.
            with suppress(sa.exc.SQLAlchemyError):
                connection.close()

    def read(self) -> TokenPair | None:
        """Return the newest readable generation, or None if none was ever stored.

        Raises `TokenStoreDamaged` if all stored generations are damaged, `TokenStoreUnusable` if they cannot be read.
        """
        damaged = False
        for slot in (_CURRENT, _PREVIOUS):
            body = self._read(slot)
            pair = None if body is None else parse_pair(body)
            if pair is not None:
                return pair
            damaged = damaged or body is not None
        if damaged:
            message = f"the tokens in {self._database.shown} are damaged, and so is their previous generation"
            raise TokenStoreDamaged(message)
        return None

    def last_seed(self) -> str | None:
        """Return the fingerprint of the configured token that began the chain."""
        return self._read(_SEED)

    def note_seed(self, seed: str) -> None:
        """Record which configured token began the chain."""
        self._write(_SEED, seed)

    def set_aside(self) -> None:
        """Rename the damaged generations, so that a new chain can begin. The caller holds the lock."""
        with self._usable("renaming"), self._engine.begin() as connection:
            for slot in (_CURRENT, _PREVIOUS):
                values = {"client": self._client, "slot": slot}
                connection.execute(_COPY, {**values, "target": f"{slot}.damaged"})
                connection.execute(_REMOVE, values)

    def forget(self) -> None:
        """Delete the chain for `dcsync logout`. The caller holds the lock."""
        with self._usable("deleting"), self._engine.begin() as connection:
            for slot in (_SPARE, _PREVIOUS, _INTENT, _CURRENT):
                connection.execute(_REMOVE, {"client": self._client, "slot": slot})

    def settle(self) -> None:
        """Do nothing, because a transaction is never half done."""

    def prepare(self) -> None:
        """Prove that a new pair can be stored by writing as much, durably. The caller holds the lock."""
        self._write(_SPARE, secrets.token_hex(_SPARE_SIZE // 2))

    def save(self, pair: TokenPair) -> None:
        """Durably make a pair the current one, and the old pair the previous one, in one transaction."""
        with self._usable("writing"), self._engine.begin() as connection:
            current = {"client": self._client, "slot": _CURRENT}
            connection.execute(_COPY, {**current, "target": _PREVIOUS})
            connection.execute(_WRITE, {**current, "body": render_pair(pair).decode()})
            connection.execute(_REMOVE, {"client": self._client, "slot": _SPARE})

    def intent(self) -> Intent | None:
        """Return the unconfirmed or refused refresh, if there is one."""
        return parse_intent(self._read(_INTENT) or "")

    def note_intent(self, intent: Intent) -> None:
        """Record durably that a token is about to be used. The lock's transaction stays open."""
        self._write(_INTENT, json.dumps(intent_json(intent)))

    def clear_intent(self) -> None:
        """Delete the intent after a definite response."""
        # An intent that remains only costs one repeated refresh.
        with suppress(TokenStoreUnusable), self._usable("writing"), self._engine.begin() as connection:
            connection.execute(_REMOVE, {"client": self._client, "slot": _INTENT})

    def _read(self, slot: str) -> str | None:
        with self._usable("reading"), self._engine.connect() as connection:
            found: str | None = connection.scalar(_READ, {"client": self._client, "slot": slot})
            return found

    def _write(self, slot: str, body: str) -> None:
        with self._usable("writing"), self._engine.begin() as connection:
            connection.execute(_WRITE, {"client": self._client, "slot": slot, "body": body})

    @contextmanager
    def _usable(self, doing: str) -> Iterator[None]:
        try:
            with self._database.errors():
                yield
        except ManifestError as error:
            message = f"{doing} the stored tokens failed: {error.message}"
            raise TokenStoreUnusable(message, hint=error.advice) from None
