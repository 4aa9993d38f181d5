"""Signing in and out: the browser's round, the code, and a chain that begins durably or not at all."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import structlog

from dcsync.auth.endpoint import SCOPES, TokenEndpoint
from dcsync.auth.listener import Listener, listening
from dcsync.auth.source import first_pair
from dcsync.auth.token_store import ChainStore, TokenPair
from dcsync.clock import Clock
from dcsync.core.oauth import SignIn, begin, code_in
from dcsync.errors import AuthError, DcsyncError, LoginRefused, TokenStoreDamaged, WrongUser
from dcsync.tasks import DiskThreads, finish, primary_error

log = structlog.get_logger(__name__)

#: How long a person may take. The code itself lives 5 minutes after signing in (APS).
PATIENCE_S = 15 * 60.0


class Person(Protocol):
    """Whoever signs in."""

    def show(self, url: str, *, listening: bool, why_not: str) -> None:
        """Show, and where it can be open, the address to sign in at; say why pasting is all that is left, if it is."""

    async def pasted(self) -> str:
        """Return an address that the person pasted; never returns when there is nobody to paste. Cancel to give up."""

    def complain(self, error: DcsyncError) -> None:
        """Say what is wrong with a pasted address; another may follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenChain:
    """What signing in works on: the endpoint, the store, and what they run on."""

    endpoint: TokenEndpoint
    store: ChainStore
    clock: Clock
    disk: DiskThreads

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Hold the store's lock between processes; it is waited for in a thread."""
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
    """Let a person sign in and begin a new chain with what it brings; a daemon that runs meanwhile takes it up.

    Raises `LoginRefused`, `WrongUser` (before anything is stored), `ClientRejected`, `TokenStoreUnusable` and the
    other `AuthError`s. Until the new pair is durable, the old chain is untouched.
    """
    attempt = begin(
        authorize_url=chain.endpoint.authorize_url,
        client_id=chain.endpoint.client_id,
        redirect_uri=redirect_uri,
        scopes=SCOPES,
        state=secrets.token_urlsafe(32),
        verifier=secrets.token_urlsafe(64),
    )
    async with _listening_if_possible(attempt) as (listener, why_not):
        person.show(attempt.url, listening=listener is not None, why_not=why_not)
        try:
            code = await _code(attempt, listener, person, patience_s)
            pair = await finish(_begin_chain(chain, code, attempt, switch_user=switch_user))
        except DcsyncError as error:
            if listener is not None:
                listener.tell(error)
            raise
        if listener is not None:
            listener.tell(None)
    log.info("signed in", user=pair.user)
    return pair


async def logout(chain: TokenChain, *, local: bool = False) -> bool:
    """Revoke the stored chain and forget it; return whether there was one.

    When the server cannot be asked nothing is forgotten, unless only the `local` copy is meant.
    """
    async with chain.locked():
        await chain.disk.run(chain.store.settle)
        try:
            pair = await chain.disk.run(chain.store.read)
        except TokenStoreDamaged:
            # Nothing readable to revoke: set aside rather than removed.
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


async def _code(attempt: SignIn, listener: Listener | None, person: Person, patience_s: float) -> str:
    """Return the code from whichever comes first: the browser, or a pasted address that is right."""
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
        message = f"nobody signed in within {patience_s / 60:.0f} minutes"
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
            log.warning("a damaged token store is set aside", error=error.message)
            await disk.run(store.set_aside)
            before = None
        # Proved before the code is used: it works once.
        await disk.run(store.prepare)
        granted = await chain.endpoint.exchange(code, verifier=attempt.verifier, redirect_uri=attempt.redirect_uri)
        if granted.refresh_token is None:
            message = "the server gave no refresh token, without which nothing can go on unattended"
            raise LoginRefused(message, hint="check the app's grant types on the developer portal")
        pair = first_pair(granted, granted.refresh_token, chain.clock.now())
        if before is not None and _is_somebody_else(before, pair) and not switch_user:
            await _revoke_quietly(chain, granted.refresh_token)
            message = f"signed in as user {pair.user}, but the stored token is of user {before.user}"
            raise WrongUser(message)
        await disk.run(store.save, pair)
        await disk.run(store.clear_intent)
    return pair


def _is_somebody_else(before: TokenPair, now: TokenPair) -> bool:
    return before.user is not None and now.user is not None and before.user != now.user


async def _revoke_quietly(chain: TokenChain, refresh_token: str) -> None:
    """A chain that is not wanted should not live on; that it may is no reason to hide why it is not wanted."""
    try:
        await chain.endpoint.revoke(refresh_token)
    except AuthError as error:
        log.warning("the unused token could not be revoked", code=error.code, error=error.message)
