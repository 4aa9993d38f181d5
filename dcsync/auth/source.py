"""Token sources: what meets the port `TokenSource` for each `auth.method`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from dcsync.auth.assertion import sign_assertion
from dcsync.auth.endpoint import Granted, TokenEndpoint
from dcsync.auth.token_store import ChainStore, Intent, TokenPair, fingerprint
from dcsync.clock import Clock
from dcsync.core.oauth import user_of, wants_keeping_alive
from dcsync.core.quota import backoff
from dcsync.errors import (
    ClientRejected,
    ConfigError,
    DcsyncError,
    LoginRequired,
    ServiceAccountRejected,
    TokenEndpointUnavailable,
    TokenStoreDamaged,
    TokenUndecided,
)
from dcsync.tasks import DiskThreads, finish

log = structlog.get_logger(__name__)

#: A token with less time left is renewed, so that none ends in the middle of a call.
MARGIN = timedelta(minutes=5)
#: An unanswered refresh is asked again after 1 minute, at most 15 (FAULTS rule T5).
_UNDECIDED_BASE_S, _UNDECIDED_CAP_S = 60.0, 900.0
#: What ends a chain besides its 15 days: an old copy of it. Offering one may also have revoked the live one.
_DEAD_CHAIN_HINT = (
    "sign in again: dcsync login. If state.dir was restored from a backup or is used on a second machine, that is why: "
    "each needs a login of its own"
)
#: A rejected assertion is not signed anew at every poll: a person has to change something first.
_REJECTED_PAUSE_S = 300.0
#: The pauses before the last tries to save a new pair, in all less than what is left of the 10 s that an end may take.
_LAST_TRIES_S = (0.0, 1.0, 2.0)


class FixedToken:
    """One access token from the configuration, for short runs. It cannot be renewed."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def access_token(self, *, rejected: str | None = None) -> str:
        """Return the token; `LoginRequired` when it was just refused."""
        if rejected is not None:
            message = "the API refuses the configured access token, which has expired or is for another application"
            raise LoginRequired(message, hint="put a fresh access token in place; one lives 60 minutes")
        return self._token

    async def keep_alive(self) -> bool:
        """Do nothing: it cannot be renewed."""
        return False


class ServiceAccountToken:
    """Access tokens of a service account, minted when they are needed and kept in memory only."""

    def __init__(
        self, *, endpoint: TokenEndpoint, account_id: str, key_id: str, private_key: str, clock: Clock
    ) -> None:
        self._endpoint = endpoint
        self._account_id = account_id
        self._key_id = key_id
        self._private_key = private_key
        self._clock = clock
        self._turn = asyncio.Lock()
        self._token: str | None = None
        self._good_until = 0.0
        self._rejection: tuple[ServiceAccountRejected, float] | None = None

    async def access_token(self, *, rejected: str | None = None) -> str:
        """Return a token with at least five minutes to live, minting one if need be: one for all who ask at once."""
        token = self._in_hand(rejected)
        if token is not None:
            return token
        async with self._turn:
            return self._in_hand(rejected) or await self._mint()

    async def keep_alive(self) -> bool:
        """Do nothing: a key does not age."""
        return False

    def _in_hand(self, rejected: str | None) -> str | None:
        usable = self._token != rejected and self._clock.monotonic() < self._good_until
        return self._token if usable else None

    async def _mint(self) -> str:
        now = self._clock.monotonic()
        if self._rejection is not None and now - self._rejection[1] < _REJECTED_PAUSE_S:
            raise self._rejection[0]
        assertion = sign_assertion(
            client_id=self._endpoint.client_id,
            account_id=self._account_id,
            key_id=self._key_id,
            private_key=self._private_key,
            audience=self._endpoint.url,
            now=self._clock.now(),
        )
        try:
            granted = await self._endpoint.mint(assertion)
        except ServiceAccountRejected as error:
            self._rejection = (error, now)
            raise
        self._rejection = None
        self._token = granted.access_token
        lifetime = timedelta(seconds=granted.lifetime_s)
        self._good_until = now + max(lifetime - MARGIN, lifetime / 2).total_seconds()
        log.info("service account token minted", lifetime_seconds=granted.lifetime_s)
        return granted.access_token


class RefreshingToken:
    """Access tokens from a chain of refresh tokens, shared through the store by all tasks and processes."""

    def __init__(
        self,
        *,
        store: ChainStore,
        endpoint: TokenEndpoint,
        clock: Clock,
        disk: DiskThreads,
        seed: str | None,
        seed_problem: ConfigError | None = None,
    ) -> None:
        self._store = store
        self._endpoint = endpoint
        self._clock = clock
        self._disk = disk
        self._seed = seed
        #: Why there is no seed though the configuration names one. It matters only while nothing is stored.
        self._seed_problem = seed_problem
        self._turn = asyncio.Lock()
        self._pair: TokenPair | None = None
        #: What the server gave and the disk did not take, and for which token. It is not used before it is saved.
        self._unsaved: tuple[TokenPair, str] | None = None
        #: When the token in hand should be renewed, on the clock that no one sets (FAULTS T14).
        self._good_until: float | None = None

    async def access_token(self, *, rejected: str | None = None) -> str:
        """Return a token with at least five minutes to live, renewing it if need be.

        However many tasks ask, one refresh is made. A refresh that has begun is finished when the caller is cancelled.
        Raises `AuthError`s, and the `ConfigError` of a refresh_token that cannot be read while nothing is stored.
        """
        token = self._in_hand(rejected)
        if token is not None:
            return token
        async with self._turn:
            token = self._in_hand(rejected)
            if token is not None:
                return token
            return await finish(self._renew(rejected))

    async def keep_alive(self) -> bool:
        """Renew the chain if nothing else did for half of its life; return whether it was (FAULTS T11).

        Raises `AuthError`s as `access_token` does.
        """
        async with self._turn:
            pair = await self._disk.run(self._store.read)
            if pair is None or not wants_keeping_alive(pair.issued_at, self._clock.now()):
                return False
            await finish(self._renew(pair.access_token))
            return True

    async def close(self) -> None:
        """Try for some seconds to save a pair that the store did not take: it would be gone with this process.

        Never fails: what ends the run has been said.
        """
        for pause in _LAST_TRIES_S:
            if self._unsaved is None:
                return
            await self._clock.sleep(pause)
            with suppress(DcsyncError):
                async with self._turn:
                    await finish(self._save_locked())
        if self._unsaved is not None:
            log.error("the new refresh token could not be saved and is lost", hint=LoginRequired.hint)

    def _in_hand(self, rejected: str | None) -> str | None:
        pair = self._pair
        if pair is None or pair.access_token is None or pair.access_token == rejected or self._good_until is None:
            return None
        return pair.access_token if self._clock.monotonic() < self._good_until else None

    async def _renew(self, rejected: str | None) -> str:
        async with self._locked():
            return await self._renew_locked(rejected)

    async def _save_locked(self) -> None:
        async with self._locked():
            await self._save_what_was_not_saved()

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        # The lock is waited for in a thread: the other process holds it for the length of a refresh.
        lock = self._store.locked()
        await self._disk.run(lock.__enter__)
        try:
            yield
        finally:
            await self._disk.run(lock.__exit__, None, None, None)

    async def _renew_locked(self, rejected: str | None) -> str:
        await self._save_what_was_not_saved()
        await self._disk.run(self._store.settle)
        stored = await self._read()
        seed = None if self._seed is None else fingerprint(self._seed)
        if stored is None and seed is not None and await self._disk.run(self._store.last_seed) == seed:
            # It works once, and it was taken over before: to offer it again may only revoke what came of it.
            message = "the configured refresh_token was used before, and the chain that it began is not stored any more"
            raise LoginRequired(message)
        if self._seed is not None and (stored is None or (seed is not None and stored.seed not in {None, seed})):
            # A new refresh_token in the configuration begins a new chain; the old generation is kept behind it.
            stored = TokenPair(refresh_token=self._seed, seed=seed)
            await self._disk.run(self._store.save, stored)
            await self._disk.run(self._store.note_seed, fingerprint(self._seed))
        if stored is None and self._seed_problem is not None:
            raise self._seed_problem
        if stored is None:
            message = "no token is stored in state.dir and [auth] gives no refresh_token"
            raise LoginRequired(message)
        now = self._clock.now()
        if stored.access_token is not None and stored.access_token != rejected and _is_fresh(stored, now):
            # Another process renewed it meanwhile.
            self._take(stored, now)
            return stored.access_token
        return await self._spend(stored, now)

    async def _read(self) -> TokenPair | None:
        """Read the store. A damaged one gives way to a new token in the configuration, and to nothing else.

        The one that began the damaged chain is long spent: to offer it again may revoke the live one.
        """
        try:
            return await self._disk.run(self._store.read)
        except TokenStoreDamaged as error:
            last = await self._disk.run(self._store.last_seed)
            if self._seed is None or last is None or last == fingerprint(self._seed):
                raise
            log.warning("a damaged token store is set aside", error=error.message)
            await self._disk.run(self._store.set_aside)
            return None

    async def _save_what_was_not_saved(self) -> None:
        """Try again to save a pair that the disk did not take: it is the only live one."""
        if self._unsaved is None:
            return
        pair, spent = self._unsaved
        if not await self._is_superseded(spent, fingerprint(pair.refresh_token)):
            await self._disk.run(self._store.save, pair)
            await self._disk.run(self._store.clear_intent)
        self._unsaved = None

    async def _is_superseded(self, spent: str, ours: str) -> bool:
        """Say whether somebody signed in anew meanwhile, here or on another host: that chain goes before ours.

        Our own pair may be there to be read, and not be on the disk for that: it is saved again.
        """
        try:
            stored = await self._disk.run(self._store.read)
        except TokenStoreDamaged:
            return False
        return stored is not None and fingerprint(stored.refresh_token) not in {spent, ours}

    async def _spend(self, stored: TokenPair, now: datetime) -> str:
        spending = fingerprint(stored.refresh_token)
        earlier = await self._disk.run(self._store.intent)
        attempt = 1 if earlier is None or earlier.spending != spending else earlier.attempt + 1
        if earlier is not None and attempt > 1:
            self._refuse_too_soon(earlier, now)
        await self._disk.run(self._store.prepare)

        async def note() -> None:
            await self._disk.run(self._store.note_intent, Intent(spending=spending, attempt=attempt, at=now))

        try:
            granted = await self._endpoint.refresh(stored.refresh_token, before_spending=note)
        except LoginRequired as error:
            refused = Intent(spending=spending, attempt=attempt, at=now, refused=True)
            await self._disk.run(self._store.note_intent, refused)
            log.warning("login required", reason=error.message, tried_before=attempt > 1)
            raise LoginRequired(error.message, hint=_DEAD_CHAIN_HINT) from None
        except (ClientRejected, TokenEndpointUnavailable):
            # Of this attempt it is known that it spent nothing; of an earlier one it may still be unknown.
            if attempt == 1:
                await self._disk.run(self._store.clear_intent)
            raise
        pair = _next_pair(stored, granted, self._clock.now())
        # Durable before first use: what the server rotated must not be lost with this process.
        self._unsaved = (pair, spending)
        await self._save_what_was_not_saved()
        self._take(pair, self._clock.now())
        log.info("access token renewed", expires_at=pair.expires_at)
        return granted.access_token

    def _refuse_too_soon(self, earlier: Intent, now: datetime) -> None:
        """Hold back a token that was refused for good, or whose outcome was asked for a moment ago."""
        if earlier.refused:
            message = f"the stored refresh token was refused at {earlier.at:%Y-%m-%d %H:%M} UTC (invalid_grant)"
            raise LoginRequired(message, hint=_DEAD_CHAIN_HINT)
        pause = timedelta(seconds=backoff(earlier.attempt, base_s=_UNDECIDED_BASE_S, cap_s=_UNDECIDED_CAP_S, draw=1.0))
        due = earlier.at + pause
        # An intent from the future is one of a clock that was wrong.
        if earlier.at <= now < due:
            wait = (due - now).total_seconds()
            message = f"it is not known whether a token refresh at {earlier.at:%H:%M:%S} UTC went through"
            raise TokenUndecided(message, retry_after_s=wait, hint=f"dcsync asks again in {wait:.0f} s")

    def _take(self, pair: TokenPair, now: datetime) -> None:
        self._pair = pair
        left = timedelta(0) if pair.renew_at is None else pair.renew_at - now
        self._good_until = self._clock.monotonic() + left.total_seconds()


def _is_fresh(pair: TokenPair, now: datetime) -> bool:
    # A time further ahead than any token lives was written under a clock that was wrong.
    return pair.renew_at is not None and now < pair.renew_at <= now + timedelta(hours=1)


def _next_pair(stored: TokenPair, granted: Granted, now: datetime) -> TokenPair:
    rotated = granted.refresh_token not in {None, stored.refresh_token}
    lifetime = timedelta(seconds=granted.lifetime_s)
    return replace(
        stored,
        refresh_token=granted.refresh_token or stored.refresh_token,
        access_token=granted.access_token,
        expires_at=now + lifetime,
        # Half of a very short life, else such a token would be renewed at every call.
        renew_at=now + max(lifetime - MARGIN, lifetime / 2),
        issued_at=now if rotated else stored.issued_at,
        user=user_of(granted.access_token) or stored.user,
    )


def first_pair(granted: Granted, refresh_token: str, now: datetime) -> TokenPair:
    """Return the pair that a sign-in begins a chain with."""
    return _next_pair(TokenPair(refresh_token=refresh_token, issued_at=now), granted, now)
