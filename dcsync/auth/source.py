"""Token sources: the port `TokenSource` for `auth.method = "token"`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from dcsync.auth.endpoint import Granted, TokenEndpoint
from dcsync.auth.store import Intent, TokenPair, TokenStore, fingerprint
from dcsync.clock import Clock
from dcsync.core.quota import backoff
from dcsync.errors import ClientRejected, LoginRequired, TokenEndpointUnavailable, TokenStoreDamaged, TokenUndecided
from dcsync.tasks import DiskThreads, finish

log = structlog.get_logger(__name__)

#: A token with less time left is renewed, so that none ends in the middle of a call.
MARGIN = timedelta(minutes=5)
#: Refresh tokens live 15 days and work once (APS, Get a 3-legged token).
REFRESH_LIFE = timedelta(days=15)
#: An unanswered refresh is asked again after 1 minute, at most 15 (FAULTS rule T5).
_UNDECIDED_BASE_S, _UNDECIDED_CAP_S = 60.0, 900.0


class FixedToken:
    """One access token from the configuration, for short runs. It cannot be renewed."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def access_token(self, *, rejected: str | None = None) -> str:
        """Return the token; `LoginRequired` when it was just refused."""
        if rejected is not None:
            message = "the API does not accept auth.access_token: it has expired or is for another application"
            raise LoginRequired(message, hint="put a fresh access token in place; one lives 60 minutes")
        return self._token


class RefreshingToken:
    """Access tokens from a chain of refresh tokens, shared through the store by all tasks and processes."""

    def __init__(
        self, *, store: TokenStore, endpoint: TokenEndpoint, clock: Clock, disk: DiskThreads, seed: str | None
    ) -> None:
        self._store = store
        self._endpoint = endpoint
        self._clock = clock
        self._disk = disk
        self._seed = seed
        self._turn = asyncio.Lock()
        self._pair: TokenPair | None = None
        #: What the server gave and the disk did not take. It is not used before it is saved.
        self._unsaved: TokenPair | None = None
        #: When the token in hand should be renewed, on the clock that no one sets (FAULTS T14).
        self._good_until: float | None = None

    async def access_token(self, *, rejected: str | None = None) -> str:
        """Return a token with at least five minutes to live, renewing it if need be.

        However many tasks ask, one refresh is made. A refresh that has begun is finished when the caller is cancelled.
        """
        token = self._in_hand(rejected)
        if token is not None:
            return token
        async with self._turn:
            token = self._in_hand(rejected)
            if token is not None:
                return token
            return await finish(self._renew(rejected))

    def _in_hand(self, rejected: str | None) -> str | None:
        pair = self._pair
        if pair is None or pair.access_token is None or pair.access_token == rejected or self._good_until is None:
            return None
        return pair.access_token if self._clock.monotonic() < self._good_until else None

    async def _renew(self, rejected: str | None) -> str:
        # The lock is waited for in a thread: the other process holds it for the length of a refresh.
        lock = self._store.locked()
        await self._disk.run(lock.__enter__)
        try:
            return await self._renew_locked(rejected)
        finally:
            lock.__exit__(None, None, None)

    async def _renew_locked(self, rejected: str | None) -> str:
        await self._save_what_was_not_saved()
        await self._disk.run(self._store.settle)
        stored = await self._read()
        seed = None if self._seed is None else fingerprint(self._seed)
        if self._seed is not None and (stored is None or (seed is not None and stored.seed not in {None, seed})):
            # A new refresh_token in the configuration begins a new chain; the old generation is kept behind it.
            stored = TokenPair(refresh_token=self._seed, seed=seed)
            await self._disk.run(self._store.save, stored)
            await self._disk.run(self._store.note_seed, fingerprint(self._seed))
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
        if self._unsaved is not None:
            await self._disk.run(self._store.save, self._unsaved)
            self._unsaved = None
            await self._disk.run(self._store.clear_intent)

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
            raise
        except (ClientRejected, TokenEndpointUnavailable):
            # Of this attempt it is known that it spent nothing; of an earlier one it may still be unknown.
            if attempt == 1:
                await self._disk.run(self._store.clear_intent)
            raise
        pair = _next_pair(stored, granted, self._clock.now())
        # Durable before first use: what the server rotated must not be lost with this process.
        self._unsaved = pair
        await self._save_what_was_not_saved()
        self._take(pair, self._clock.now())
        log.info("access token renewed", expires_at=pair.expires_at)
        return granted.access_token

    def _refuse_too_soon(self, earlier: Intent, now: datetime) -> None:
        """Hold back a token that was refused for good, or whose outcome was asked for a moment ago."""
        if earlier.refused:
            message = f"the stored refresh token was refused at {earlier.at:%Y-%m-%d %H:%M} UTC (invalid_grant)"
            raise LoginRequired(message)
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
    )
