"""The token store of several hosts: one chain, one refresh at a time, and a frozen holder that loses its lock."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from dcsync.auth.endpoint import Client, TokenEndpoint
from dcsync.auth.source import RefreshingToken
from dcsync.auth.token_store import Intent, TokenPair, fingerprint
from dcsync.cluster import token_store
from dcsync.cluster.database import Database
from dcsync.cluster.token_store import DatabaseTokenStore
from dcsync.errors import TokenStoreDamaged, TokenStoreUnusable, TokenUndecided
from dcsync.ops.login import TokenChain, logout
from dcsync.sandbox import Sandbox, World
from dcsync.tasks import DiskThreads
from tests.fakes import NOON, FakeClock
from tests.rigs.postgres import Postgres


def make_pair(number: int = 1) -> TokenPair:
    return TokenPair(
        refresh_token=f"refresh-{number}",
        access_token=f"access-{number}",
        expires_at=NOON + timedelta(hours=1),
        renew_at=NOON + timedelta(minutes=55),
        issued_at=NOON,
        seed=fingerprint("seed"),
        user="anna",
    )


@pytest.fixture
def store(shared_store: Callable[[], DatabaseTokenStore]) -> Iterator[DatabaseTokenStore]:
    with closing(shared_store()) as ready:
        yield ready


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(World()) as ready:
        yield ready


def write(database: Database, statement: str) -> None:
    engine = database.blocking_engine()
    with engine.begin() as connection:
        connection.execute(sa.text(statement))
    engine.dispose()


def make_source(store: DatabaseTokenStore, sandbox: Sandbox, disk: DiskThreads, seed: str | None) -> RefreshingToken:
    endpoint = TokenEndpoint(base_url=sandbox.base_url, client=Client(id="sandbox", secret="sandbox-secret"))
    return RefreshingToken(store=store, endpoint=endpoint, clock=FakeClock(), disk=disk, seed=seed)


def test_a_saved_pair_is_read_back_with_every_field_by_any_host(
    store: DatabaseTokenStore, shared_store: Callable[[], DatabaseTokenStore]
) -> None:
    assert store.read() is None
    store.prepare()
    store.save(make_pair(1))

    with closing(shared_store()) as other:
        assert other.read() == make_pair(1)
        assert other.intent() is None


def test_each_client_id_has_its_own_chain(store: DatabaseTokenStore, shared_database: Database) -> None:
    store.save(make_pair())

    with closing(DatabaseTokenStore(shared_database, "another")) as other:
        assert other.read() is None
        other.forget()
    assert store.read() == make_pair()


def test_a_damaged_generation_gives_way_to_the_previous_and_two_damaged_ones_are_renamed(
    store: DatabaseTokenStore, shared_database: Database
) -> None:
    store.save(make_pair(1))
    store.save(make_pair(2))
    write(shared_database, "UPDATE token_slot SET body = replace(body, 'refresh-2', 'refresh-9')")
    assert store.read() == make_pair(1)

    write(shared_database, "UPDATE token_slot SET body = 'rubbish'")
    with pytest.raises(TokenStoreDamaged, match="the tokens in the database"):
        store.read()
    store.set_aside()

    assert store.read() is None


def test_an_intent_is_visible_to_others_while_the_lock_is_held(
    store: DatabaseTokenStore, shared_store: Callable[[], DatabaseTokenStore]
) -> None:
    """docs/project/design.md, Token protocol (T2): durable before the token is used, even if the holder then dies."""
    intent = Intent(spending=fingerprint("x"), attempt=2, at=NOON)
    with closing(shared_store()) as other, store.locked():
        store.note_intent(intent)

        assert other.intent() == intent


def test_one_process_holds_the_lock_and_releases_it_with_the_connection(
    store: DatabaseTokenStore, shared_store: Callable[[], DatabaseTokenStore], postgres_server: Postgres
) -> None:
    has_it = threading.Event()
    with closing(shared_store()) as other:

        def wait_for_it() -> None:
            with other.locked():
                has_it.set()

        thread = threading.Thread(target=wait_for_it, daemon=True)
        with store.locked():
            thread.start()
            assert not has_it.wait(0.5)
            # PostgreSQL does this to a holder that is frozen for too long.
            postgres_server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction' "
                "AND application_name = 'dcsync tokens'"
            )
            assert has_it.wait(120)
        thread.join(120)


def test_a_frozen_holder_loses_the_lock_after_a_time(
    shared_store: Callable[[], DatabaseTokenStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_store, "HOLD_S", 1)
    with closing(shared_store()) as frozen, closing(shared_store()) as other, frozen.locked(), other.locked():
        other.save(make_pair())


def test_without_the_database_no_token_is_used_and_none_is_lost(
    store: DatabaseTokenStore, postgres_server: Postgres
) -> None:
    store.save(make_pair())
    with postgres_server.outage():
        for attempt in (store.read, store.prepare, lambda: store.save(make_pair(2)), store.locked().__enter__):
            with pytest.raises(TokenStoreUnusable, match=r"the stored tokens failed: the database .* does not answer"):
                attempt()
        store.clear_intent()

    assert store.read() == make_pair()


async def test_three_hosts_at_once_make_one_refresh(
    sandbox: Sandbox, shared_store: Callable[[], DatabaseTokenStore]
) -> None:
    seed = sandbox.tokens.issue_refresh_token("tester")
    stores = [shared_store() for _ in range(3)]
    with DiskThreads(8) as disk:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(make_source(store, sandbox, disk, seed).access_token()) for store in stores]

    assert len({task.result() for task in asked}) == 1
    assert sandbox.tokens.refresh_count == 1
    for store in stores:
        store.close()


async def test_a_database_that_goes_away_within_a_refresh_loses_no_token(
    sandbox: Sandbox, store: DatabaseTokenStore, postgres_server: Postgres
) -> None:
    """The token was rotated, and the new pair is saved as soon as the database is back."""
    seed = sandbox.tokens.issue_refresh_token("tester")
    with DiskThreads() as disk:
        source = make_source(store, sandbox, disk, seed)
        refresh = source._endpoint.refresh

        async def interrupted(token: str, **more: object) -> object:
            granted = await refresh(token, **more)  # type: ignore[arg-type]
            await asyncio.to_thread(postgres_server.stop)
            return granted

        source._endpoint.refresh = interrupted  # type: ignore[assignment, method-assign]
        with pytest.raises(TokenStoreUnusable):
            await source.access_token()
        postgres_server.start()

        token = await source.access_token()

        stored = store.read()
        assert stored is not None
        assert sandbox.tokens.accepts(token)
        assert sandbox.tokens.refresh_count == 1
        assert {stored.refresh_token} == sandbox.tokens.live_refresh_tokens
        assert store.intent() is None


async def test_a_late_pair_does_not_replace_that_of_a_new_sign_in(
    sandbox: Sandbox, store: DatabaseTokenStore, shared_store: Callable[[], DatabaseTokenStore]
) -> None:
    seed = sandbox.tokens.issue_refresh_token("tester")
    with DiskThreads() as disk, closing(shared_store()) as other:
        source = make_source(store, sandbox, disk, seed)
        save = store.save

        def fail(pair: TokenPair) -> None:
            if pair.access_token is None:
                save(pair)
            else:
                message = "the database is away"
                raise TokenStoreUnusable(message)

        store.save = fail  # type: ignore[method-assign]
        with pytest.raises(TokenStoreUnusable):
            await source.access_token()
        store.save = save  # type: ignore[method-assign]
        fresh = sandbox.tokens.issue_access_token("anna", 3000)
        signed_in = replace(make_pair(7), access_token=fresh, seed=None)
        other.save(signed_in)
        other.clear_intent()

        assert await source.access_token() == fresh
        assert other.read() == signed_in


async def test_another_host_waits_before_it_retries_an_unconfirmed_token(
    sandbox: Sandbox, store: DatabaseTokenStore
) -> None:
    """docs/project/design.md, Token protocol (T5), over hosts: the host that used the token died or lost its lock."""
    token = sandbox.tokens.issue_refresh_token("tester")
    store.save(TokenPair(refresh_token=token))
    store.note_intent(Intent(spending=fingerprint(token), attempt=1, at=NOON))
    with DiskThreads() as disk, pytest.raises(TokenUndecided):
        await make_source(store, sandbox, disk, None).access_token()

    assert sandbox.count("token") == 0


async def test_a_logout_on_one_host_holds_for_all(
    sandbox: Sandbox, store: DatabaseTokenStore, shared_store: Callable[[], DatabaseTokenStore]
) -> None:
    token = sandbox.tokens.issue_refresh_token("tester")
    store.save(TokenPair(refresh_token=token))
    endpoint = TokenEndpoint(base_url=sandbox.base_url, client=Client(id="sandbox", secret="sandbox-secret"))
    with DiskThreads() as disk, closing(shared_store()) as other:
        assert await logout(TokenChain(endpoint=endpoint, store=other, clock=FakeClock(), disk=disk))

    assert store.read() is None
    assert sandbox.tokens.live_refresh_tokens == set()
