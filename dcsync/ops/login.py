"""Sign in and out: the browser, the code, and a new chain that is stored durably or not at all."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import structlog

from dcsync.auth.endpoint import SCOPES, WRITE_SCOPES, Granted, TokenEndpoint
from dcsync.auth.listener import Listener, listening
from dcsync.auth.source import first_pair
from dcsync.auth.token_store import ChainStore, TokenPair
from dcsync.clock import Clock
from dcsync.core.oauth import SignIn, begin, code_in, user_of
from dcsync.errors import AuthError, DcsyncError, LoginRefused, TokenStoreDamaged, WrongUser
from dcsync.tasks import DiskThreads, finish, primary_error

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: How long dcsync waits for the sign-in. The code itself lives 5 minutes after it (docs/project/api.md §6).
PATIENCE_S = 15 * 60.0


class Person(Protocol):
    """The port to the user who signs in."""

    def show(self, url: str, *, listening: bool, why_not: str) -> None:
        """Show the sign-in address and open it if possible. If only pasting is left, `why_not` says why."""

    async def pasted(self) -> str:
        """Return a pasted address. Without a terminal it never returns, and the caller cancels it."""

    def complain(self, error: DcsyncError) -> None:
        """Show why a pasted address was refused. The user may paste another address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenChain:
    """The parts of a sign-in: the token endpoint, the token store, a clock and disk threads."""

    endpoint: TokenEndpoint
    store: ChainStore
    clock: Clock
    disk: DiskThreads

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Hold the store's lock between processes. A thread waits for it."""
        lock = self.store.locked()
        await self.disk.run(lock.__enter__)
        try:
            yield
        finally:
            await self.disk.run(lock.__exit__, None, None, None)


async def login(
    chain: TokenChain,
    person: Person,
    *,
    redirect_uri: str,
    switch_user: bool = False,
    patience_s: float = PATIENCE_S,
) -> TokenPair:
    """Sign in and begin a new chain. A running daemon picks it up.

    Raises `LoginRefused`, `WrongUser` (before anything is stored), `ClientRejected`, `TokenStoreUnusable` and the
    other `AuthError`s. The old chain is untouched until the new pair is durable.
    """
    attempt = _attempt(chain.endpoint, redirect_uri, SCOPES)

    async def use(code: str) -> TokenPair:
        return await finish(_begin_chain(chain, code, attempt, switch_user=switch_user))

    pair = await _signed_in(attempt, person, patience_s, use)
    log.debug("signed in", user=pair.user)
    return pair


async def page_refusal(endpoint: TokenEndpoint, *, redirect_uri: str) -> str:
    """Return why Autodesk would not show its sign-in page for this callback URL, or an empty text if it does.

    Raises `TokenEndpointUnavailable`.
    """
    return await endpoint.page_refusal(_attempt(endpoint, redirect_uri, SCOPES).url)


@asynccontextmanager
async def signed_in_once(
    chain: TokenChain, person: Person, *, redirect_uri: str, patience_s: float = PATIENCE_S
) -> AsyncIterator[str]:
    """Sign in for the block, with the scopes to change data requests. Yields the access token, which is not stored.

    The stored chain, which only reads, stays as it is. Raises `WrongUser` for another user than that of the chain,
    because every user sees only their own data requests, and the errors of `login`.
    """
    attempt = _attempt(chain.endpoint, redirect_uri, WRITE_SCOPES)

    async def use(code: str) -> Granted:
        return await chain.endpoint.exchange(code, verifier=attempt.verifier, redirect_uri=attempt.redirect_uri)

    granted = await _signed_in(attempt, person, patience_s, use)
    try:
        try:
            before = await chain.disk.run(chain.store.read)
        except TokenStoreDamaged:
            before = None
        user = user_of(granted.access_token)
        if before is not None and None not in {before.user, user} and before.user != user:
            message = f"signed in as user {user}, but dcsync mirrors the data requests of user {before.user}"
            raise WrongUser(message, hint="sign in as that user, who then owns the data request")
        yield granted.access_token
    finally:
        if granted.refresh_token is not None:
            await _revoke_quietly(chain, granted.refresh_token)


def _attempt(endpoint: TokenEndpoint, redirect_uri: str, scopes: Sequence[str]) -> SignIn:
    return begin(
        authorize_url=endpoint.authorize_url,
        client_id=endpoint.client_id,
        redirect_uri=redirect_uri,
        scopes=scopes,
        state=secrets.token_urlsafe(32),
        verifier=secrets.token_urlsafe(64),
    )


async def _signed_in(attempt: SignIn, person: Person, patience_s: float, use: Callable[[str], Awaitable[T]]) -> T:
    """Wait for the code, use it, and tell the browser of the outcome."""
    async with _listening_if_possible(attempt) as (listener, why_not):
        person.show(attempt.url, listening=listener is not None, why_not=why_not)
        try:
            result = await use(await _wait_for_code(attempt, listener, person, patience_s))
        except DcsyncError as error:
            if listener is not None:
                listener.show_outcome(error)
            raise
        if listener is not None:
            listener.show_outcome(None)
    return result


async def logout(chain: TokenChain, *, local: bool = False) -> bool:
    """Revoke the stored chain and delete it. Returns whether a chain was stored.

    If Autodesk cannot be reached, nothing is deleted. `local` deletes only the local copy, without revoking it.
    """
    async with chain.locked():
        await chain.disk.run(chain.store.settle)
        try:
            pair = await chain.disk.run(chain.store.read)
        except TokenStoreDamaged:
            # Without a readable token there is nothing to revoke. The damaged files are renamed, not deleted.
            await chain.disk.run(chain.store.set_aside)
            return True
        if pair is None:
            return False
        if not local:
            await chain.endpoint.revoke(pair.refresh_token)
        await chain.disk.run(chain.store.forget)
        return True


@asynccontextmanager
async def _listening_if_possible(attempt: SignIn) -> AsyncIterator[tuple[Listener | None, str]]:
    manager = listening(attempt)
    try:
        listener = await manager.__aenter__()
    except LoginRefused as error:
        yield None, error.message
        return
    try:
        yield listener, ""
    finally:
        await manager.__aexit__(None, None, None)


async def _wait_for_code(attempt: SignIn, listener: Listener | None, person: Person, patience_s: float) -> str:
    """Return the code from the browser or from a valid pasted address, whichever comes first."""
    found: list[str] = []
    refused: list[LoginRefused] = []

    async def from_browser(listener: Listener) -> None:
        address = await listener.redirect()
        try:
            found.append(code_in(attempt, address))
        except LoginRefused as error:
            refused.append(error)
        pasting.cancel()

    async def from_person(browser: asyncio.Task[None] | None) -> None:
        while not found:
            try:
                found.append(code_in(attempt, await person.pasted()))
            except LoginRefused as error:
                person.complain(error)
        if browser is not None:
            browser.cancel()

    try:
        async with asyncio.timeout(patience_s), asyncio.TaskGroup() as group:
            waiting = None if listener is None else group.create_task(from_browser(listener))
            pasting = group.create_task(from_person(waiting))
    except TimeoutError:
        message = f"the sign-in was not completed within {patience_s / 60:.0f} minutes"
        raise LoginRefused(message) from None
    except BaseExceptionGroup as errors:
        raise primary_error(errors) from None
    if not found:
        raise refused[0]
    return found[0]


async def _begin_chain(chain: TokenChain, code: str, attempt: SignIn, *, switch_user: bool) -> TokenPair:
    store, disk = chain.store, chain.disk
    async with chain.locked():
        await disk.run(store.settle)
        try:
            before = await disk.run(store.read)
        except TokenStoreDamaged as error:
            log.warning("damaged token store renamed", error=error.message)
            await disk.run(store.set_aside)
            before = None
        # The code works only once, so the store must prove first that it can save the new pair.
        await disk.run(store.prepare)
        granted = await chain.endpoint.exchange(code, verifier=attempt.verifier, redirect_uri=attempt.redirect_uri)
        if granted.refresh_token is None:
            message = "Autodesk returned no refresh token, and dcsync needs one to run unattended"
            raise LoginRefused(message, hint="check the app's grant types on the APS developer portal")
        pair = first_pair(granted, granted.refresh_token, chain.clock.now())
        if before is not None and _is_different_user(before, pair) and not switch_user:
            await _revoke_quietly(chain, granted.refresh_token)
            message = f"signed in as user {pair.user}, but the stored token belongs to user {before.user}"
            raise WrongUser(message)
        await disk.run(store.save, pair)
        await disk.run(store.clear_intent)
    return pair


def _is_different_user(before: TokenPair, now: TokenPair) -> bool:
    return before.user is not None and now.user is not None and before.user != now.user


async def _revoke_quietly(chain: TokenChain, refresh_token: str) -> None:
    """Revoke an unwanted chain. A failure is only logged, so that it does not hide why the sign-in was refused."""
    try:
        await chain.endpoint.revoke(refresh_token)
    except AuthError as error:
        log.warning("unused token could not be revoked", code=error.code, error=error.message)
