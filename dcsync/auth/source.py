"""Token sources: one implementation of `TokenSource` for each `auth.method`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from dcsync.auth.assertion import sign_assertion
from dcsync.auth.endpoint import SCOPES, Granted, TokenEndpoint
from dcsync.auth.token_store import ChainStore, Intent, TokenPair, fingerprint
from dcsync.clock import Clock
from dcsync.core.oauth import user_of, wants_keeping_alive
from dcsync.core.quota import backoff
from dcsync.errors import (
    AuthError,
    ClientRejected,
    ConfigError,
    DcsyncError,
    LoginRequired,
    ServiceAccountRejected,
    TokenEndpointUnavailable,
    TokenStoreDamaged,
    TokenUndecided,
)
from dcsync.tasks import DiskThreads, finish, vital

log = structlog.get_logger(__name__)

#: A token with less time left is renewed, so that it does not expire during a call.
MARGIN = timedelta(minutes=5)
#: An unconfirmed refresh is retried after 1 to 15 minutes (docs/project/design.md, Token protocol T5).
_UNDECIDED_BASE_S, _UNDECIDED_CAP_S = 60.0, 900.0
#: A chain ends after 15 days without use, or when an old copy of it is used. That may also revoke the live chain.
_DEAD_CHAIN_HINT = (
    "sign in again: dcsync login. If state.dir was restored from a backup or copied to a second machine, that ended "
    "the sign-in: each machine needs its own"
)
_RENEW_HINT = "configure a new access token, which is valid for 60 minutes"
_NO_ACCESS_HINT = (
    "check that the app on the developer portal includes the Data Connector API, that its client ID is among the "
    "account's Custom Integrations, and the clock of this host"
)
#: A rejected assertion is not signed again at every poll, because it stays rejected until something changes.
_REJECTED_PAUSE_S = 300.0
#: The pauses before the final attempts to save a new pair. A stop may take 10 s in total.
_FINAL_SAVE_PAUSES_S = (0.0, 1.0, 2.0)


class FixedToken:
    """One access token, for short runs: of the configuration, or of a sign-in for one command. It is not renewed."""

    def __init__(self, token: str, *, what: str = "the configured access token", hint: str = _RENEW_HINT) -> None:
        self._token = token
        self._what = what
        self._hint = hint

    async def access_token(self, *, rejected: str | None = None) -> str:
        """Return the token. Raises `LoginRequired` if the API just rejected it."""
        if rejected is not None:
            message = f"the API rejected {self._what}, which has expired or belongs to another application"
            raise LoginRequired(message, hint=self._hint)
        return self._token

    def refused(self, message: str) -> AuthError:
        """Return `LoginRequired`: only another token helps."""
        return LoginRequired(message, hint=self._hint)

    async def keep_alive(self) -> bool:
        """Do nothing, because a fixed token cannot be renewed."""
        return False


class ServiceAccountToken:
    """Access tokens of a service account, obtained when they are needed and kept in memory only."""

    def __init__(
        self,
        *,
        endpoint: TokenEndpoint,
        service_account_id: str,
        key_id: str,
        private_key: str,
        clock: Clock,
        scopes: Sequence[str] = SCOPES,
    ) -> None:
        self._scopes = tuple(scopes)
        self._endpoint = endpoint
        self._service_account_id = service_account_id
        self._key_id = key_id
        self._private_key = private_key
        self._clock = clock
        self._turn = asyncio.Lock()
        self._token: str | None = None
        self._good_until = 0.0
        self._rejection: tuple[ServiceAccountRejected, float] | None = None

    async def access_token(self, *, rejected: str | None = None) -> str:
        """Return a token that is valid for at least five minutes. Concurrent callers share one new token."""
        token = self._cached_token(rejected)
        if token is not None:
            return token
        async with self._turn:
            return self._cached_token(rejected) or await self._mint()

    def refused(self, message: str) -> AuthError:
        """Return `ServiceAccountRejected`. The key was accepted, so the app or the account lacks access."""
        return ServiceAccountRejected(message, hint=_NO_ACCESS_HINT)

    async def keep_alive(self) -> bool:
        """Do nothing, because a private key does not expire."""
        return False

    def _cached_token(self, rejected: str | None) -> str | None:
        usable = self._token != rejected and self._clock.monotonic() < self._good_until
        return self._token if usable else None

    async def _mint(self) -> str:
        now = self._clock.monotonic()
        if self._rejection is not None and now - self._rejection[1] < _REJECTED_PAUSE_S:
            raise self._rejection[0]
        signed_at = self._clock.now()
        assertion = sign_assertion(
            client_id=self._endpoint.client_id,
            service_account_id=self._service_account_id,
            key_id=self._key_id,
            private_key=self._private_key,
            audience=self._endpoint.url,
            now=signed_at,
            scopes=self._scopes,
        )
        try:
            granted = await self._endpoint.mint(assertion, now=signed_at, scopes=self._scopes)
        except ServiceAccountRejected as error:
            self._rejection = (error, now)
            raise
        self._rejection = None
        self._token = granted.access_token
        lifetime = timedelta(seconds=granted.lifetime_s)
        self._good_until = now + max(lifetime - MARGIN, lifetime / 2).total_seconds()
        log.debug("service account token obtained", lifetime_seconds=granted.lifetime_s)
        return granted.access_token


class RefreshingToken:
    """Access tokens from a chain of refresh tokens. All tasks and processes share the chain through the store."""

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
        #: Why the configured seed cannot be read. It matters only while no token is stored.
        self._seed_problem = seed_problem
        self._turn = asyncio.Lock()
        self._pair: TokenPair | None = None
        #: A new pair that is not saved yet, and the fingerprint of the used token. It is saved before its first use.
        self._unsaved: tuple[TokenPair, str] | None = None
        #: When the cached token should be renewed, on the monotonic clock, which never jumps (faults.md T14).
        self._good_until: float | None = None

    async def access_token(self, *, rejected: str | None = None) -> str:
        """Return a token that is valid for at least five minutes, and renew it if necessary.

        Concurrent callers share one refresh. If the caller is cancelled, a started refresh is still completed.
        Raises `AuthError`s, and a `ConfigError` if no token is stored and the configured refresh_token is unreadable.
        """
        token = self._cached_token(rejected)
        if token is not None:
            return token
        async with self._turn:
            token = self._cached_token(rejected)
            if token is not None:
                return token
            return await finish(self._renew(rejected))

    def refused(self, message: str) -> AuthError:
        """Return `LoginRequired`: the sign-in no longer gives access."""
        return LoginRequired(message)

    async def keep_alive(self) -> bool:
        """Renew the chain if half of its life has passed since the last renewal (docs/project/faults.md T11).

        Returns whether it was renewed.

        Raises `AuthError`s as `access_token` does.
        """
        async with self._turn:
            pair = await self._disk.run(self._store.read)
            if pair is None or not wants_keeping_alive(pair.issued_at, self._clock.now()):
                return False
            await finish(self._renew(pair.access_token))
            return True

    async def close(self) -> None:
        """Try for a few seconds to save a pair that is not saved yet. Otherwise it would be lost with this process.

        Never raises, because the run already has its own error.
        """
        for pause in _FINAL_SAVE_PAUSES_S:
            if self._unsaved is None:
                return
            await self._clock.sleep(pause)
            with suppress(DcsyncError):
                async with self._turn:
                    with vital():
                        await finish(self._save_locked())
        if self._unsaved is not None:
            log.error("new refresh token could not be saved and is lost", hint=LoginRequired.hint)

    def _cached_token(self, rejected: str | None) -> str | None:
        pair = self._pair
        if pair is None or pair.access_token is None or pair.access_token == rejected or self._good_until is None:
            return None
        return pair.access_token if self._clock.monotonic() < self._good_until else None

    async def _renew(self, rejected: str | None) -> str:
        async with self._locked():
            return await self._renew_locked(rejected)

    async def _save_locked(self) -> None:
        async with self._locked():
            await self._save_unsaved()

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        # A thread waits for the lock, because another process may hold it for the length of a refresh.
        lock = self._store.locked()
        await self._disk.run(lock.__enter__)
        try:
            yield
        finally:
            await self._disk.run(lock.__exit__, None, None, None)

    async def _renew_locked(self, rejected: str | None) -> str:
        await self._save_unsaved()
        await self._disk.run(self._store.settle)
        stored = await self._read()
        seed = None if self._seed is None else fingerprint(self._seed)
        if stored is None and seed is not None and await self._disk.run(self._store.last_seed) == seed:
            # A refresh token works once, and this one was used before. A second use could revoke the live chain.
            message = (
                "the configured refresh_token was already used, and the tokens that replaced it are no longer stored"
            )
            raise LoginRequired(message)
        if self._seed is not None and (stored is None or (seed is not None and stored.seed not in {None, seed})):
            # A new refresh_token in the configuration begins a new chain. The old generation is kept as the previous.
            stored = TokenPair(refresh_token=self._seed, seed=seed)
            await self._disk.run(self._store.save, stored)
            await self._disk.run(self._store.note_seed, fingerprint(self._seed))
        if stored is None and self._seed_problem is not None:
            raise self._seed_problem
        if stored is None:
            message = "no token is stored in state.dir, and [auth] contains no refresh_token"
            raise LoginRequired(message)
        now = self._clock.now()
        if stored.access_token is not None and stored.access_token != rejected and _is_fresh(stored, now):
            # Another process has renewed it.
            self._cache(stored, now)
            return stored.access_token
        with vital():
            return await self._refresh(stored, now)

    async def _read(self) -> TokenPair | None:
        """Read the store. Only a new token in the configuration may replace a damaged store.

        The token that began the damaged chain was used long ago. A second use could revoke the live chain.
        """
        try:
            return await self._disk.run(self._store.read)
        except TokenStoreDamaged as error:
            last = await self._disk.run(self._store.last_seed)
            if self._seed is None or last is None or last == fingerprint(self._seed):
                raise
            log.warning("damaged token store renamed", error=error.message)
            await self._disk.run(self._store.set_aside)
            return None

    async def _save_unsaved(self) -> None:
        """Try again to save the unsaved pair, because it is the only live one."""
        if self._unsaved is None:
            return
        pair, used = self._unsaved
        if not await self._is_superseded(used, fingerprint(pair.refresh_token)):
            await self._disk.run(self._store.save, pair)
            await self._disk.run(self._store.clear_intent)
        self._unsaved = None

    async def _is_superseded(self, used: str, ours: str) -> bool:
        """Return whether a newer sign-in, on this or another host, replaced our chain. It takes precedence.

        A readable copy of our own pair does not count: it may not be durable, so it is saved again.
        """
        try:
            stored = await self._disk.run(self._store.read)
        except TokenStoreDamaged:
            return False
        return stored is not None and fingerprint(stored.refresh_token) not in {used, ours}

    async def _refresh(self, stored: TokenPair, now: datetime) -> str:
        spending = fingerprint(stored.refresh_token)
        earlier = await self._disk.run(self._store.intent)
        attempt = 1 if earlier is None or earlier.spending != spending else earlier.attempt + 1
        if earlier is not None and attempt > 1:
            self._refuse_too_soon(earlier, now)
        await self._disk.run(self._store.prepare)

        async def note() -> None:
            await self._disk.run(self._store.note_intent, Intent(spending=spending, attempt=attempt, at=now))

        try:
            granted = await self._endpoint.refresh(stored.refresh_token, before_use=note)
        except LoginRequired as error:
            refused = Intent(spending=spending, attempt=attempt, at=now, refused=True)
            await self._disk.run(self._store.note_intent, refused)
            log.warning("sign-in required", reason=error.message, tried_before=attempt > 1)
            raise LoginRequired(error.message, hint=_DEAD_CHAIN_HINT) from None
        except (ClientRejected, TokenEndpointUnavailable):
            # This attempt did not use the token. The outcome of an earlier attempt may still be unconfirmed.
            if attempt == 1:
                await self._disk.run(self._store.clear_intent)
            raise
        pair = _next_pair(stored, granted, self._clock.now())
        # The new pair is durable before its first use, so that it cannot be lost with this process.
        self._unsaved = (pair, spending)
        await self._save_unsaved()
        self._cache(pair, self._clock.now())
        log.debug("access token renewed", expires_at=pair.expires_at)
        return granted.access_token

    def _refuse_too_soon(self, earlier: Intent, now: datetime) -> None:
        """Raise if Autodesk refused the token for good, or if the pause after an unconfirmed refresh is not over."""
        if earlier.refused:
            message = f"Autodesk refused the stored refresh token at {earlier.at:%Y-%m-%d %H:%M} UTC (invalid_grant)"
            raise LoginRequired(message, hint=_DEAD_CHAIN_HINT)
        pause = timedelta(seconds=backoff(earlier.attempt, base_s=_UNDECIDED_BASE_S, cap_s=_UNDECIDED_CAP_S, draw=1.0))
        due = earlier.at + pause
        # An intent from the future was written under a wrong clock.
        if earlier.at <= now < due:
            wait = (due - now).total_seconds()
            message = f"the token refresh at {earlier.at:%H:%M:%S} UTC is unconfirmed"
            raise TokenUndecided(message, retry_after_s=wait, hint=f"dcsync retries in {wait:.0f} s")

    def _cache(self, pair: TokenPair, now: datetime) -> None:
        self._pair = pair
        left = timedelta(0) if pair.renew_at is None else pair.renew_at - now
        self._good_until = self._clock.monotonic() + left.total_seconds()


def _is_fresh(pair: TokenPair, now: datetime) -> bool:
    # No token lives longer than an hour, so a later time was written under a wrong clock.
    return pair.renew_at is not None and now < pair.renew_at <= now + timedelta(hours=1)


def _next_pair(stored: TokenPair, granted: Granted, now: datetime) -> TokenPair:
    rotated = granted.refresh_token not in {None, stored.refresh_token}
    lifetime = timedelta(seconds=granted.lifetime_s)
    return replace(
        stored,
        refresh_token=granted.refresh_token or stored.refresh_token,
        access_token=granted.access_token,
        expires_at=now + lifetime,
        # At least half of the lifetime, so that a very short-lived token is not renewed at every call.
        renew_at=now + max(lifetime - MARGIN, lifetime / 2),
        issued_at=now if rotated else stored.issued_at,
        user=user_of(granted.access_token) or stored.user,
    )


def first_pair(granted: Granted, refresh_token: str, now: datetime) -> TokenPair:
    """Return the first pair of the chain that a sign-in begins."""
    return _next_pair(TokenPair(refresh_token=refresh_token, issued_at=now), granted, now)
