"""Sign in and out: by browser or paste, durably or not at all, while a daemon runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest

from dcsync.auth.endpoint import WRITE_SCOPES, Client, TokenEndpoint
from dcsync.auth.source import RefreshingToken
from dcsync.auth.token_store import TokenPair, TokenStore
from dcsync.errors import (
    AuthError,
    ClientRejected,
    DcsyncError,
    LoginRefused,
    LoginRequired,
    TokenEndpointUnavailable,
    TokenStoreUnusable,
    WrongUser,
)
from dcsync.ops.login import PATIENCE_S, TokenChain, login, logout, page_refusal, signed_in_once
from dcsync.sandbox import Fault, Options, Sandbox, World
from dcsync.tasks import DiskThreads
from tests.fakes import FakeClock


@dataclass(slots=True)
class Pasting:
    """A user who pastes the addresses that a test queues, and records what is shown."""

    url: str = ""
    listening: bool = False
    why_not: str = ""
    complaints: list[str] = field(default_factory=list)
    shown: asyncio.Event = field(default_factory=asyncio.Event)
    lines: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    def show(self, url: str, *, listening: bool, why_not: str) -> None:
        self.url, self.listening, self.why_not = url, listening, why_not
        self.shown.set()

    async def pasted(self) -> str:
        return await self.lines.get()

    def complain(self, error: DcsyncError) -> None:
        self.complaints.append(error.message)


@dataclass(slots=True, kw_only=True)
class Rig:
    sandbox: Sandbox
    chain: TokenChain
    redirect_uri: str
    clock: FakeClock
    disk: DiskThreads
    store: TokenStore

    def source(self) -> RefreshingToken:
        """Return the token source of a daemon that runs at the same time."""
        return RefreshingToken(
            store=TokenStore(self.store.path.parent),
            endpoint=self.chain.endpoint,
            clock=self.clock,
            disk=self.disk,
            seed=None,
        )


@asynccontextmanager
async def rigged(folder: Path, port: int, *, secret: str | None = "sandbox-secret") -> AsyncIterator[Rig]:
    clock = FakeClock()
    redirect_uri = f"http://localhost:{port}/callback"
    options = Options(client_secret=secret, redirect_uris=(redirect_uri,))
    async with Sandbox(World(now=lambda: clock.now().timestamp()), options=options) as sandbox:
        with DiskThreads() as disk:
            endpoint = TokenEndpoint(base_url=sandbox.base_url, client=Client(id="sandbox", secret=secret))
            store = TokenStore(folder)
            chain = TokenChain(endpoint=endpoint, store=store, clock=clock, disk=disk)
            yield Rig(sandbox=sandbox, store=store, chain=chain, redirect_uri=redirect_uri, clock=clock, disk=disk)


@pytest.fixture
async def rig(tmp_path: Path, unused_tcp_port: int) -> AsyncIterator[Rig]:
    async with rigged(tmp_path, unused_tcp_port) as ready:
        yield ready


async def consent(url: str, *, answer: str = "allow", user: str = "sandbox-user") -> str:
    """Submit the sandbox's consent page like a browser without scripts, and return the redirect address."""
    query = {key: values[0] for key, values in parse_qs(urlsplit(url).query).items()}
    kept = {name: query[name] for name in ("client_id", "redirect_uri", "state", "code_challenge", "scope")}
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            url.partition("?")[0], data={**kept, "answer": answer, "user": user}, allow_redirects=False
        ) as page,
    ):
        return page.headers["Location"]


async def visit(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as page:
        return page.status, await page.text()


async def sign_in(rig: Rig, *, user: str = "sandbox-user", switch_user: bool = False) -> TokenPair:
    """Sign in by pasting."""
    person = Pasting()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(
            login(rig.chain, person, redirect_uri=rig.redirect_uri, switch_user=switch_user), name="login"
        )
        await person.shown.wait()
        person.lines.put_nowait(await consent(person.url, user=user))
    return task.result()


async def failed_sign_in(rig: Rig, **options: object) -> AuthError:
    with pytest.raises(BaseExceptionGroup) as caught:
        await sign_in(rig, **options)  # type: ignore[arg-type]
    error = caught.value.exceptions[0]
    assert isinstance(error, AuthError)
    return error


@pytest.mark.parametrize("secret", ["sandbox-secret", None], ids=["confidential", "public"])
async def test_the_browser_brings_the_code_and_shows_the_outcome(
    tmp_path: Path, unused_tcp_port: int, secret: str | None
) -> None:
    async with rigged(tmp_path, unused_tcp_port, secret=secret) as rig:
        person = Pasting()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(login(rig.chain, person, redirect_uri=rig.redirect_uri))
            await person.shown.wait()
            assert person.listening
            status, page = await visit(await consent(person.url))

        assert (status, "You are signed in" in page) == (200, True)
        stored = rig.chain.store.read()
        assert stored == task.result()
        assert stored is not None
        assert stored.refresh_token in rig.sandbox.tokens.live_refresh_tokens
        assert stored.user == "sandbox-user"
        assert await rig.source().access_token() == stored.access_token


async def test_a_pasted_address_works_after_wrong_ones(rig: Rig) -> None:
    person = Pasting()
    async with asyncio.TaskGroup() as group:
        group.create_task(login(rig.chain, person, redirect_uri=rig.redirect_uri))
        await person.shown.wait()
        person.lines.put_nowait("what?")
        person.lines.put_nowait(f"{rig.redirect_uri}?code=x&state=forged")
        person.lines.put_nowait(await consent(person.url))

    assert len(person.complaints) == 2
    assert rig.chain.store.read() is not None


async def test_a_foreign_redirect_is_rejected_and_ends_nothing(rig: Rig) -> None:
    person = Pasting()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(login(rig.chain, person, redirect_uri=rig.redirect_uri))
        await person.shown.wait()
        forged, _ = await visit(f"{rig.redirect_uri}?code=x&state=forged")
        elsewhere, _ = await visit(rig.redirect_uri.replace("/callback", "/favicon.ico"))
        assert not task.done()
        await visit(await consent(person.url))

    assert (forged, elsewhere) == (400, 404)
    assert rig.chain.store.read() is not None


async def test_a_denied_sign_in_ends_and_the_page_says_so(rig: Rig) -> None:
    person, refusals = Pasting(), []

    async def refused() -> None:
        with pytest.raises(LoginRefused) as caught:
            await login(rig.chain, person, redirect_uri=rig.redirect_uri)
        refusals.append(caught.value.message)

    async with asyncio.TaskGroup() as group:
        group.create_task(refused())
        await person.shown.wait()
        status, page = await visit(await consent(person.url, answer="deny"))

    assert (status, "The user denied access" in page) == (400, True)
    assert refusals == ["Autodesk refused the sign-in: The user denied access"]
    assert rig.chain.store.read() is None


async def test_a_port_that_is_taken_leaves_pasting(rig: Rig) -> None:
    port = urlsplit(rig.redirect_uri).port
    blocker = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", port)
    async with blocker:
        person = Pasting()
        async with asyncio.TaskGroup() as group:
            group.create_task(login(rig.chain, person, redirect_uri=rig.redirect_uri))
            await person.shown.wait()
            person.lines.put_nowait(await consent(person.url))

    assert not person.listening
    assert "Address already in use" in person.why_not
    assert rig.chain.store.read() is not None


async def test_an_address_of_another_machine_is_not_listened_on(rig: Rig) -> None:
    person = Pasting()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(login(rig.chain, person, redirect_uri="https://bim.example/callback"))
        await person.shown.wait()
        waiting.cancel()

    assert "not an http address of this machine" in person.why_not


async def test_a_sign_in_ends_after_a_quarter_of_an_hour(rig: Rig) -> None:
    with pytest.raises(LoginRefused, match="not completed within"):
        await login(rig.chain, Pasting(), redirect_uri=rig.redirect_uri, patience_s=0.05)

    assert PATIENCE_S == 15 * 60


async def test_a_different_user_is_refused_and_the_stored_chain_stays_live(rig: Rig) -> None:
    """docs/project/faults.md T15."""
    before = await sign_in(rig, user="anna")
    live = set(rig.sandbox.tokens.live_refresh_tokens)

    error = await failed_sign_in(rig, user="bert")

    assert isinstance(error, WrongUser)
    assert "bert" in error.message
    assert "anna" in error.message
    assert rig.chain.store.read() == before
    # Bert's chain was revoked.
    assert rig.sandbox.tokens.live_refresh_tokens == live


async def test_a_different_user_can_be_intended(rig: Rig) -> None:
    await sign_in(rig, user="anna")

    pair = await sign_in(rig, user="bert", switch_user=True)

    assert pair.user == "bert"
    assert rig.chain.store.read() == pair


async def test_a_daemon_that_needs_a_sign_in_picks_up_the_new_chain(rig: Rig) -> None:
    """docs/project/faults.md T12: off for 16 days."""
    await sign_in(rig)
    rig.clock.advance(16 * 86400)
    daemon = rig.source()
    for _ in range(3):
        with pytest.raises(LoginRequired, match="invalid_grant"):
            await daemon.access_token()
    assert rig.sandbox.count("token", status=400) == 1  # asked once, not three times

    pair = await sign_in(rig)

    assert await daemon.access_token() == pair.access_token


async def test_a_daemon_that_renews_during_a_sign_in_does_not_undo_it(rig: Rig) -> None:
    await sign_in(rig)
    daemon = rig.source()
    await daemon.access_token()
    person = Pasting()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(login(rig.chain, person, redirect_uri=rig.redirect_uri))
        await person.shown.wait()
        rig.clock.advance(3500)
        await daemon.access_token()  # the store is not locked while a person takes their time
        person.lines.put_nowait(await consent(person.url))

    rig.clock.advance(3500)
    token = await daemon.access_token()

    assert rig.chain.store.read() is not None
    assert rig.sandbox.tokens.accepts(token)
    assert task.result().refresh_token not in rig.sandbox.tokens.live_refresh_tokens  # the daemon went on from it


async def test_a_sign_in_renames_a_damaged_store(rig: Rig) -> None:
    await sign_in(rig)
    await sign_in(rig)
    store = rig.store
    for path in (store.path, store.path.with_name("token.previous.json")):
        path.write_bytes(b"rubbish")

    pair = await sign_in(rig)

    assert store.read() == pair
    assert store.path.with_suffix(".damaged").read_bytes() == b"rubbish"


@pytest.mark.needs_root
async def test_without_space_for_the_token_the_code_is_not_used(tmp_path: Path, rig: Rig) -> None:
    """docs/project/faults.md T6, at sign-in."""
    rig.store.path.parent.joinpath("token.next").mkdir()  # the slot cannot be written

    error = await failed_sign_in(rig)

    assert isinstance(error, TokenStoreUnusable)
    assert rig.sandbox.count("token", path_contains="/token") == 0


@pytest.mark.parametrize(
    ("fault", "raised"),
    [
        (
            Fault(server="token", kind="status", status=401, body=b'{"error": "invalid_client"}', match="token"),
            ClientRejected,
        ),
        (
            Fault(server="token", kind="status", status=400, body=b'{"error": "invalid_grant"}', match="token"),
            LoginRefused,
        ),
        (Fault(server="token", kind="json", body=b'{"access_token": "x"}', match="token"), LoginRefused),
    ],
)
async def test_each_response_to_the_code_has_its_own_error(rig: Rig, fault: Fault, raised: type[AuthError]) -> None:
    rig.sandbox.faults.add(fault)

    error = await failed_sign_in(rig)

    assert isinstance(error, raised)
    assert rig.chain.store.read() is None


async def test_logout_revokes_and_deletes(rig: Rig) -> None:
    pair = await sign_in(rig)

    assert await logout(rig.chain)

    assert pair.refresh_token not in rig.sandbox.tokens.live_refresh_tokens
    assert rig.chain.store.read() is None
    assert [path.name for path in rig.store.path.parent.iterdir()] == ["token.lock"]
    with pytest.raises(LoginRequired):
        await rig.source().access_token()
    assert not await logout(rig.chain)


async def test_a_logout_that_cannot_revoke_deletes_nothing_unless_local(rig: Rig) -> None:
    pair = await sign_in(rig)
    rig.sandbox.faults.add(Fault(server="token", kind="status", status=503, match="revoke", times=None))

    with pytest.raises(TokenEndpointUnavailable, match="503"):
        await logout(rig.chain)
    assert rig.chain.store.read() == pair

    assert await logout(rig.chain, local=True)
    assert rig.chain.store.read() is None


async def test_a_configured_token_is_not_used_again_after_a_logout(rig: Rig) -> None:
    seed = rig.sandbox.tokens.issue_refresh_token("anna")
    store, folder = rig.store, rig.store.path.parent

    def seeded() -> RefreshingToken:
        return RefreshingToken(
            store=TokenStore(folder), endpoint=rig.chain.endpoint, clock=rig.clock, disk=rig.disk, seed=seed
        )

    await seeded().access_token()
    await logout(rig.chain)
    asked = rig.sandbox.count("token")

    with pytest.raises(LoginRequired, match="was already used"):
        await seeded().access_token()

    assert rig.sandbox.count("token") == asked
    assert store.read() is None


async def test_an_unused_chain_is_renewed_on_its_seventh_day(rig: Rig) -> None:
    """docs/project/faults.md T11: idle 13 days."""
    await sign_in(rig)
    before = rig.sandbox.tokens.refresh_count
    renewed_on = []
    for day in range(1, 14):
        rig.clock.advance(86400)
        if await rig.source().keep_alive():
            renewed_on.append(day)

    assert renewed_on == [7]
    assert rig.sandbox.tokens.refresh_count == before + 1
    assert await rig.source().access_token()


async def test_without_a_chain_there_is_nothing_to_keep_alive(rig: Rig) -> None:
    assert not await rig.source().keep_alive()


async def once(rig: Rig, *, user: str = "sandbox-user") -> tuple[str, set[str]]:
    """Sign in for one command. Returns its access token, and the refresh tokens that were valid in it."""
    person = Pasting()

    async def command() -> tuple[str, set[str]]:
        async with signed_in_once(rig.chain, person, redirect_uri=rig.redirect_uri) as token:
            return token, set(rig.sandbox.tokens.live_refresh_tokens)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(command())
        await person.shown.wait()
        person.lines.put_nowait(await consent(person.url, user=user))
    return task.result()


async def test_a_sign_in_for_one_command_may_change_data_requests_and_stores_nothing(rig: Rig) -> None:
    token, live = await once(rig)

    grant = rig.sandbox.tokens.grant_of(token)
    assert grant is not None
    assert grant.scopes == set(WRITE_SCOPES)
    assert rig.chain.store.read() is None
    assert len(live) == 1
    # Nothing that may change anything is left.
    assert set(rig.sandbox.tokens.live_refresh_tokens) == set()


async def test_a_sign_in_for_one_command_leaves_the_stored_chain_alone(rig: Rig) -> None:
    stored = await sign_in(rig)

    token, _ = await once(rig)

    assert token != stored.access_token
    assert rig.chain.store.read() == stored
    assert set(rig.sandbox.tokens.live_refresh_tokens) == {stored.refresh_token}


async def test_another_user_cannot_sign_in_for_one_command(rig: Rig) -> None:
    stored = await sign_in(rig)

    with pytest.raises(BaseExceptionGroup) as caught:
        await once(rig, user="somebody-else")

    assert isinstance(caught.value.exceptions[0], WrongUser)
    assert set(rig.sandbox.tokens.live_refresh_tokens) == {stored.refresh_token}


# --- before a sign-in -------------------------------------------------------------------------------------------------


async def test_the_sign_in_page_is_shown_for_a_known_client_and_callback_url_only(rig: Rig) -> None:
    other = TokenEndpoint(base_url=rig.sandbox.base_url, client=Client(id="another"))

    assert await page_refusal(rig.chain.endpoint, redirect_uri=rig.redirect_uri) == ""
    refusals = [
        await page_refusal(rig.chain.endpoint, redirect_uri="http://localhost:1/callback"),
        await page_refusal(other, redirect_uri=rig.redirect_uri),
    ]
    assert ["the redirect_uri is not registered" in words for words in refusals] == [True, False]
    assert ["unknown client" in words for words in refusals] == [False, True]


@pytest.mark.parametrize(("status", "body", "words"), [(400, b"", "status 400"), (403, b"no", ""), (503, b"no", "")])
async def test_only_a_bad_request_is_a_refusal_of_the_page(rig: Rig, status: int, body: bytes, words: str) -> None:
    rig.sandbox.faults.add(Fault(server="token", kind="status", status=status, body=body, match="/authorize"))

    assert await page_refusal(rig.chain.endpoint, redirect_uri=rig.redirect_uri) == words


async def test_a_sign_in_page_that_cannot_be_reached_is_an_error(rig: Rig) -> None:
    rig.sandbox.faults.add(Fault(server="token", kind="reset", match="/authorize", times=None))

    with pytest.raises(TokenEndpointUnavailable, match="the sign-in page cannot be reached"):
        await page_refusal(rig.chain.endpoint, redirect_uri=rig.redirect_uri)
