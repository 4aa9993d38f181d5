"""The chain of refresh tokens: used rarely, saved before use, recovered when unconfirmed, shared by all processes."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import pytest
from structlog.testing import capture_logs

from dcsync.auth.endpoint import Client, TokenEndpoint
from dcsync.auth.source import FixedToken, RefreshingToken
from dcsync.auth.token_store import ChainStore, Intent, TokenPair, TokenStore, fingerprint
from dcsync.core.oauth import user_of
from dcsync.errors import (
    ClientRejected,
    ConfigError,
    LoginRequired,
    SecretUnavailable,
    TokenEndpointUnavailable,
    TokenStoreExposed,
    TokenStoreUnusable,
    TokenUndecided,
)
from dcsync.sandbox import Fault, Sandbox, World
from dcsync.tasks import DiskThreads
from tests.fakes import NOON, FakeClock


@dataclass(slots=True, kw_only=True)
class Rig:
    """A token endpoint, a store, and any number of processes on it. The sandbox has its own clock."""

    sandbox: Sandbox
    folder: Path
    clock: FakeClock
    disk: DiskThreads
    seed: str
    #: Opens the store as one process does.
    open_store: Callable[[], ChainStore]

    @property
    def store(self) -> ChainStore:
        return self.open_store()

    @property
    def path(self) -> Path:
        """The token file of a folder store."""
        return self.folder / "token.json"

    @property
    def asked(self) -> int:
        return self.sandbox.count("token")

    def source(
        self,
        *,
        seed: str | None = "",
        secret: str = "sandbox-secret",
        base_url: str | None = None,
        seed_problem: ConfigError | None = None,
    ) -> RefreshingToken:
        """Return the token source of one process. An empty seed means the rig's seed."""
        return RefreshingToken(
            store=self.open_store(),
            endpoint=TokenEndpoint(
                base_url=base_url or self.sandbox.base_url, client=Client(id="sandbox", secret=secret)
            ),
            clock=self.clock,
            disk=self.disk,
            seed=self.seed if seed == "" else seed,
            seed_problem=seed_problem,
        )

    def break_next(self, kind: str, *, times: int | None = 1, **more: object) -> Fault:
        return self.sandbox.faults.add(Fault(server="token", kind=kind, times=times, **more))  # type: ignore[arg-type]

    def answer_next(self, body: str) -> None:
        self.break_next("json", body=body.encode())

    def stored(self) -> TokenPair:
        pair = self.store.read()
        assert pair is not None
        return pair


@asynccontextmanager
async def rigged(folder: Path, open_store: Callable[[], ChainStore]) -> AsyncIterator[Rig]:
    async with Sandbox(World()) as sandbox:
        with DiskThreads() as disk:
            seed = sandbox.tokens.issue_refresh_token("tester")
            yield Rig(sandbox=sandbox, folder=folder, clock=FakeClock(), disk=disk, seed=seed, open_store=open_store)


@pytest.fixture(params=["folder", "database"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    """One rig for each kind of store, because the token protocol is the same."""
    with ExitStack() as stack:
        opener = request.getfixturevalue("shared_store") if request.param == "database" else None

        def open_store() -> ChainStore:
            return TokenStore(tmp_path) if opener is None else stack.enter_context(closing(opener()))

        async with rigged(tmp_path, open_store) as ready:
            yield ready


@pytest.fixture
async def folder_rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rigged(tmp_path, lambda: TokenStore(tmp_path)) as ready:
        yield ready


@contextmanager
def full_disk() -> Iterator[None]:
    """Limit files to 4 KiB: a write is short and the next one fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- the usual way ----------------------------------------------------------------------------------------------------


async def test_the_configured_token_begins_the_chain_and_its_successor_is_stored(rig: Rig) -> None:
    token = await rig.source().access_token()

    pair = rig.stored()
    assert rig.sandbox.tokens.accepts(token)
    assert pair.access_token == token
    assert {pair.refresh_token} == rig.sandbox.tokens.live_refresh_tokens
    assert pair.seed == fingerprint(rig.seed)
    assert (pair.issued_at, pair.expires_at) == (NOON, NOON + timedelta(hours=1))
    assert pair.renew_at == NOON + timedelta(minutes=55)
    assert rig.store.intent() is None


async def test_the_chain_continues_from_the_store_and_not_from_the_configuration(rig: Rig) -> None:
    await rig.source().access_token()
    rig.clock.advance(3600)

    token = await rig.source().access_token()

    assert rig.sandbox.tokens.accepts(token)
    assert rig.sandbox.tokens.refresh_count == 2
    assert {rig.stored().refresh_token} == rig.sandbox.tokens.live_refresh_tokens


async def test_a_fresh_stored_token_is_used_by_the_next_process_without_a_call(rig: Rig) -> None:
    first = await rig.source().access_token()

    second = await rig.source(seed=None).access_token()

    assert second == first
    assert rig.asked == 1


async def test_a_token_is_renewed_when_five_minutes_are_left_and_not_before(rig: Rig) -> None:
    source = rig.source()
    first = await source.access_token()

    rig.clock.advance(3600 - 300 - 0.5)
    just_before = await source.access_token()
    calls_before = rig.asked
    rig.clock.advance(0.5)
    after = await source.access_token()

    assert (just_before, calls_before) == (first, 1)
    assert (after != first, rig.asked) == (True, 2)


async def test_a_token_of_a_minute_is_used_for_half_of_it(rig: Rig) -> None:
    source = rig.source()
    rig.answer_next('{"access_token": "short", "refresh_token": "next", "expires_in": 1}')
    await source.access_token()

    rig.clock.advance(29)

    assert await source.access_token() == "short"
    assert rig.asked == 1


async def test_a_rejected_token_is_renewed_once(rig: Rig) -> None:
    source = rig.source()
    first = await source.access_token()

    second = await source.access_token(rejected=first)
    third = await source.access_token(rejected=first)  # a late caller, whose token has already been replaced

    assert second == third != first
    assert rig.asked == 2


@pytest.mark.parametrize("hours", [-5, 5])
async def test_a_wall_clock_that_jumps_does_not_renew_a_cached_token(rig: Rig, hours: int) -> None:
    source = rig.source()
    first = await source.access_token()

    rig.clock.set_wall(NOON + timedelta(hours=hours))

    assert await source.access_token() == first
    assert rig.asked == 1


async def test_a_stored_token_from_the_future_is_renewed(rig: Rig) -> None:
    first = await rig.source().access_token()
    rig.clock.set_wall(NOON - timedelta(hours=3))

    second = await rig.source().access_token()

    assert second != first
    assert rig.asked == 2


@pytest.mark.parametrize("same", [False, True], ids=["none", "the same"])
async def test_an_answer_without_a_new_refresh_token_keeps_the_old_one(rig: Rig, same: bool) -> None:
    body = '{"access_token": "one", "expires_in": 3600'
    rig.answer_next(body + (f', "refresh_token": "{rig.seed}"}}' if same else "}"))

    token = await rig.source().access_token()

    assert token == "one"
    assert rig.stored().refresh_token == rig.seed
    assert rig.stored().issued_at is None  # its age stays unknown: it was not issued now
    rig.clock.advance(3600)
    assert rig.sandbox.tokens.accepts(await rig.source().access_token())


async def test_a_new_token_in_the_configuration_begins_a_new_chain(rig: Rig) -> None:
    await rig.source().access_token()
    other = rig.sandbox.tokens.issue_refresh_token("somebody")

    token = await rig.source(seed=other).access_token()

    assert user_of(token) == "somebody"
    assert rig.stored().seed == fingerprint(other)
    assert rig.stored().refresh_token != other


async def test_without_a_stored_and_a_configured_token_a_sign_in_is_required(rig: Rig) -> None:
    with pytest.raises(LoginRequired, match="no token is stored"):
        await rig.source(seed=None).access_token()

    assert rig.asked == 0


async def test_an_unreadable_configured_token_is_reported_while_none_is_stored(rig: Rig) -> None:
    problem = SecretUnavailable("the environment variable SEED is not set")

    with pytest.raises(SecretUnavailable, match="SEED is not set"):
        await rig.source(seed=None, seed_problem=problem).access_token()

    assert rig.asked == 0


async def test_an_unreadable_configured_token_does_not_matter_once_one_is_stored(rig: Rig) -> None:
    await rig.source().access_token()
    rig.clock.advance(3600)

    token = await rig.source(seed=None, seed_problem=SecretUnavailable("it is gone")).access_token()

    assert rig.sandbox.tokens.accepts(token)


# --- many at once -----------------------------------------------------------------------------------------------------


async def test_twenty_tasks_that_got_a_401_make_one_refresh(rig: Rig) -> None:
    source = rig.source()
    first = await source.access_token()
    rig.break_next("delay", seconds=0.02)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(source.access_token(rejected=first)) for _ in range(20)]

    assert {task.result() for task in tasks} == {rig.stored().access_token}
    assert rig.sandbox.tokens.refresh_count == rig.asked == 2


async def test_two_processes_make_one_refresh_and_the_other_reads_it(rig: Rig) -> None:
    one, two = rig.source(), rig.source()
    token: str | None = None

    for round_number in range(1, 11):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(source.access_token(rejected=token)) for source in (one, two)]
        (token,) = {task.result() for task in tasks}
        assert rig.sandbox.tokens.refresh_count == round_number

    assert token is not None
    assert rig.sandbox.tokens.accepts(token)
    assert rig.asked == 10


async def test_cancelling_the_caller_still_saves_the_new_token(rig: Rig) -> None:
    source = rig.source()
    fault = rig.break_next("delay", seconds=0.05)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(source.access_token())
        while fault.times:  # noqa: ASYNC110 - until the request has arrived
            await asyncio.sleep(0)  # noqa: TID251
        task.cancel()

    assert task.cancelled()
    assert rig.sandbox.tokens.refresh_count == 1
    assert {rig.stored().refresh_token} == rig.sandbox.tokens.live_refresh_tokens
    assert await source.access_token() == rig.stored().access_token
    assert rig.asked == 1


# --- the store first --------------------------------------------------------------------------------------------------


async def test_a_token_that_could_not_be_saved_is_not_used_and_is_found_later(folder_rig: Rig) -> None:
    rig = folder_rig
    await rig.source().access_token()
    rig.clock.advance(3600)
    in_the_way = rig.folder / "token.previous.new"
    in_the_way.mkdir()
    source = rig.source()

    for _ in range(2):
        with pytest.raises(TokenStoreUnusable, match="writing the token store"):
            await source.access_token()
    in_the_way.rmdir()
    token = await source.access_token()

    # The pair had reached the slot, so the chain continues without another refresh.
    assert rig.sandbox.tokens.refresh_count == 2
    assert rig.sandbox.tokens.accepts(token)
    assert {rig.stored().refresh_token} == rig.sandbox.tokens.live_refresh_tokens


async def test_a_pair_whose_rename_a_crash_prevented_survives_the_next_refresh(folder_rig: Rig) -> None:
    rig = folder_rig
    await rig.source().access_token()
    newest = rig.stored()
    (rig.folder / "token.json").rename(rig.folder / "token.next")
    (rig.folder / "token.previous.json").rename(rig.folder / "token.json")
    rig.clock.advance(3600)
    rig.break_next("reset")

    with pytest.raises(TokenUndecided):
        await rig.source().access_token()

    # Preparing overwrites the slot, so its pair must have been moved first.
    assert rig.stored() == newest


async def test_a_readable_pair_that_is_not_durable_is_not_used(
    folder_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed fsync the bytes can be read but are not durable, so they are written and fsynced again."""
    rig = folder_rig
    source, fsynced = rig.source(), list[str]()
    await source.access_token()
    await rig.disk.run(lambda: None)
    rig.clock.advance(3600)
    fsync, refused = os.fsync, list[str]()

    def failing(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        whole = name == "token.next" and os.pread(descriptor, 1, 0) == b"{"
        if whole and len(refused) < 2:
            refused.append(name)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)
        fsynced.append(f"{name} whole" if whole else name)

    monkeypatch.setattr(os, "fsync", failing)
    for _ in range(2):
        with pytest.raises(TokenStoreUnusable):
            await source.access_token()
        assert "token.next whole" not in fsynced
    token = await source.access_token()

    assert fsynced.count("token.next whole") == 1
    assert rig.sandbox.tokens.accepts(token)
    assert rig.asked == 2
    assert {rig.stored().refresh_token} == rig.sandbox.tokens.live_refresh_tokens


async def test_a_readable_pair_that_is_never_durable_is_reported_as_lost(
    folder_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, source = folder_rig, folder_rig.source()

    def failing(descriptor: int) -> None:
        if os.pread(descriptor, 1, 0) == b"{":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    await source.access_token()
    rig.clock.advance(3600)
    monkeypatch.setattr(os, "fsync", lambda fd: failing(fd) if stat.S_ISREG(os.fstat(fd).st_mode) else None)
    monkeypatch.setattr(rig.store.__class__, "note_intent", lambda *_: None)
    with pytest.raises(TokenStoreUnusable):
        await source.access_token()

    with capture_logs() as lines:
        await source.close()

    assert [line["event"] for line in lines] == ["new refresh token could not be saved and is lost"]


async def test_a_slot_that_a_killed_process_left_is_made_durable_before_it_is_used(
    folder_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = folder_rig
    await rig.source().access_token()
    (rig.folder / "token.json").rename(rig.folder / "token.next")
    fsynced, fsync = list[str](), os.fsync

    def noting(descriptor: int) -> None:
        fsynced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    await rig.source().access_token()

    assert fsynced == ["token.next", rig.folder.name]
    assert rig.asked == 1


async def test_with_a_full_disk_no_request_is_made_and_the_token_is_kept(folder_rig: Rig) -> None:
    rig = folder_rig
    await rig.source().access_token()
    rig.clock.advance(3600)
    kept = rig.stored()
    source = rig.source()

    with full_disk(), pytest.raises(TokenStoreUnusable, match=r"preparing .* File too large"):
        await source.access_token()
    after = rig.stored()

    assert after == kept
    assert rig.asked == 1
    assert rig.sandbox.tokens.accepts(await source.access_token())  # the disk has room again
    assert rig.sandbox.tokens.refresh_count == 2


async def test_an_intent_that_cannot_be_written_keeps_the_token_from_being_sent(folder_rig: Rig) -> None:
    rig = folder_rig
    await rig.source().access_token()
    rig.clock.advance(3600)
    (rig.folder / "token.new").mkdir()

    with pytest.raises(TokenStoreUnusable, match="writing the token store"):
        await rig.source().access_token()

    assert rig.asked == 1
    assert {rig.stored().refresh_token} == rig.sandbox.tokens.live_refresh_tokens


async def test_a_store_that_others_can_read_makes_no_request(folder_rig: Rig) -> None:
    rig = folder_rig
    await rig.source().access_token()
    rig.path.chmod(0o644)
    rig.clock.advance(3600)

    with pytest.raises(TokenStoreExposed):
        await rig.source().access_token()

    assert rig.asked == 1


async def test_a_damaged_store_makes_no_request_and_stays_unchanged(folder_rig: Rig) -> None:
    rig = folder_rig
    await rig.source().access_token()
    for name in ("token.json", "token.previous.json"):
        (rig.folder / name).write_bytes(b"damage")

    with pytest.raises(TokenStoreUnusable, match="damaged"):
        await rig.source().access_token()

    assert rig.asked == 1
    assert rig.path.read_bytes() == b"damage"


async def test_a_new_configured_token_begins_a_new_chain_over_a_damaged_store(folder_rig: Rig) -> None:
    rig = folder_rig
    await rig.source().access_token()
    for name in ("token.json", "token.previous.json"):
        (rig.folder / name).write_bytes(b"damage")
    new = rig.sandbox.tokens.issue_refresh_token("tester")

    token = await rig.source(seed=new).access_token()

    assert rig.sandbox.tokens.accepts(token)
    assert (rig.folder / "token.damaged").read_bytes() == b"damage"
    assert rig.stored().refresh_token in rig.sandbox.tokens.live_refresh_tokens


async def test_a_damaged_store_of_an_unknown_chain_is_not_replaced_by_a_configured_token(folder_rig: Rig) -> None:
    rig = folder_rig
    rig.path.write_bytes(b"damage")
    rig.path.chmod(0o600)

    with pytest.raises(TokenStoreUnusable, match="damaged"):
        await rig.source().access_token()

    assert rig.asked == 0


def full_for(source: RefreshingToken, failures: int) -> None:
    """Make the store refuse the next new pairs."""
    original = source._store.save

    def save(pair: TokenPair) -> None:
        nonlocal failures
        if pair.access_token is not None and failures:
            failures -= 1
            message = "writing the token store failed: No space left on device"
            raise TokenStoreUnusable(message)
        original(pair)

    source._store.save = save  # type: ignore[method-assign]


async def test_an_unsaved_pair_is_saved_at_the_next_call(rig: Rig) -> None:
    source = rig.source()
    full_for(source, 1)
    with pytest.raises(TokenStoreUnusable):
        await source.access_token()

    token = await source.access_token()

    assert rig.asked == 1
    assert rig.sandbox.tokens.accepts(token)
    assert {rig.stored().refresh_token} == rig.sandbox.tokens.live_refresh_tokens
    assert rig.store.intent() is None


@pytest.mark.parametrize("failures", [1, 3])
async def test_an_unsaved_pair_is_saved_before_the_process_ends(rig: Rig, failures: int) -> None:
    source = rig.source()
    full_for(source, failures)
    with pytest.raises(TokenStoreUnusable):
        await source.access_token()

    await source.close()

    assert {rig.stored().refresh_token} == rig.sandbox.tokens.live_refresh_tokens
    assert rig.store.intent() is None
    assert await rig.source().access_token() == rig.stored().access_token
    assert (rig.asked, sum(rig.clock.slept)) == (1, 0.0 if failures == 1 else 3.0)


async def test_a_pair_that_can_never_be_saved_is_reported_as_lost(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    source = rig.source()
    full_for(source, 100)
    with pytest.raises(TokenStoreUnusable):
        await source.access_token()

    await source.close()

    assert "could not be saved and is lost" in capsys.readouterr().out
    # The configured token is used, and the intent keeps every process from using it again.
    assert rig.store.intent() is not None
    assert rig.asked == 1


async def test_closing_with_nothing_to_save_does_nothing(rig: Rig) -> None:
    source = rig.source()
    await source.access_token()

    await source.close()

    assert (rig.asked, rig.clock.slept) == (1, [])


async def test_a_429_after_a_lost_response_keeps_the_earlier_intent(rig: Rig) -> None:
    source = await lose_an_answer(rig, "lose-after-commit")
    rig.clock.advance(60)
    rig.break_next("status", status=429)

    with pytest.raises(TokenEndpointUnavailable):
        await source.access_token()

    intent = rig.store.intent()
    assert intent is not None
    assert intent.attempt == 2


# --- no definite answer -----------------------------------------------------------------------------------------------

LOST = ["lose-after-commit", "garble-after-commit", "fail-after-commit"]


async def lose_an_answer(rig: Rig, kind: str) -> RefreshingToken:
    """Return a source whose last refresh succeeded at the endpoint, but whose response was lost."""
    source = rig.source()
    rig.break_next(kind, status=502)
    with pytest.raises(TokenUndecided):
        await source.access_token()
    assert (rig.asked, rig.sandbox.tokens.refresh_count) == (1, 1)
    return source


@pytest.mark.parametrize("kind", LOST)
async def test_every_process_waits_a_minute_after_an_unconfirmed_refresh(rig: Rig, kind: str) -> None:
    source = await lose_an_answer(rig, kind)
    rig.clock.advance(20)

    for other in (source, rig.source()):
        with pytest.raises(TokenUndecided, match="12:00:00 UTC is unconfirmed") as caught:
            await other.access_token()
        assert caught.value.retry_after_s == pytest.approx(40)

    assert rig.asked == 1
    assert rig.stored().refresh_token == rig.seed
    assert rig.store.intent() == Intent(spending=fingerprint(rig.seed), attempt=1, at=NOON)


@pytest.mark.parametrize("kind", LOST)
async def test_after_a_lost_response_an_endpoint_with_grace_recovers(rig: Rig, kind: str) -> None:
    rig.sandbox.tokens.mode = "grace"
    source = await lose_an_answer(rig, kind)
    rig.clock.advance(60)

    token = await source.access_token()

    assert rig.sandbox.tokens.accepts(token)
    assert (rig.asked, rig.sandbox.tokens.refresh_count) == (2, 1)
    assert {rig.stored().refresh_token} == rig.sandbox.tokens.live_refresh_tokens
    assert rig.store.intent() is None


@pytest.mark.parametrize("kind", LOST)
@pytest.mark.parametrize("mode", ["strict", "revoke-family"])
async def test_after_a_lost_response_a_strict_endpoint_requires_a_sign_in(
    rig: Rig, kind: str, mode: Literal["strict", "revoke-family"]
) -> None:
    rig.sandbox.tokens.mode = mode
    source = await lose_an_answer(rig, kind)
    rig.clock.advance(60)

    with pytest.raises(LoginRequired, match="invalid_grant"):
        await source.access_token()

    assert rig.asked == 2
    assert rig.stored().refresh_token == rig.seed


async def test_a_refresh_that_never_arrived_recovers_on_a_strict_endpoint(rig: Rig) -> None:
    source = rig.source()
    rig.break_next("reset")
    with pytest.raises(TokenUndecided):
        await source.access_token()
    rig.clock.advance(60)

    assert rig.sandbox.tokens.accepts(await source.access_token())


async def test_an_unconfirmed_refresh_is_retried_after_one_to_fifteen_minutes(rig: Rig) -> None:
    source = rig.source()
    rig.break_next("reset", times=None)
    pauses = []

    for attempt in range(1, 8):
        with pytest.raises(TokenUndecided):
            await source.access_token()
        assert rig.asked == attempt
        with pytest.raises(TokenUndecided) as held:
            await source.access_token()
        assert rig.asked == attempt
        pauses.append(held.value.retry_after_s)
        rig.clock.advance(held.value.retry_after_s or 0)

    assert pauses == [60, 120, 240, 480, 900, 900, 900]


async def test_an_intent_left_by_a_crash_also_waits(rig: Rig) -> None:
    rig.store.note_intent(Intent(spending=fingerprint(rig.seed), attempt=1, at=NOON - timedelta(seconds=50)))
    source = rig.source()

    with pytest.raises(TokenUndecided) as caught:
        await source.access_token()
    asked_early = rig.asked
    rig.clock.advance(10)

    assert (caught.value.retry_after_s, asked_early) == (10, 0)
    assert rig.sandbox.tokens.accepts(await source.access_token())


async def test_an_intent_from_the_future_blocks_nothing(rig: Rig) -> None:
    rig.store.note_intent(Intent(spending=fingerprint(rig.seed), attempt=1, at=NOON + timedelta(hours=1)))

    assert rig.sandbox.tokens.accepts(await rig.source().access_token())


# --- definite answers -------------------------------------------------------------------------------------------------


async def test_a_dead_token_is_never_used_again_and_never_wiped(rig: Rig) -> None:
    source = rig.source(seed="dead")

    with pytest.raises(LoginRequired, match="expired"):
        await source.access_token()
    for _ in range(3):
        rig.clock.advance(86400)
        for other in (source, rig.source(seed="dead"), rig.source(seed=None)):
            with pytest.raises(LoginRequired, match="refused the stored refresh token at 2026-11-22 12:00 UTC"):
                await other.access_token()

    assert rig.asked == 1
    assert rig.stored().refresh_token == "dead"


async def test_a_new_configured_token_replaces_a_dead_one(rig: Rig) -> None:
    with pytest.raises(LoginRequired):
        await rig.source(seed="dead").access_token()

    token = await rig.source().access_token()

    assert rig.sandbox.tokens.accepts(token)
    assert rig.store.intent() is None


async def test_a_rejected_client_leaves_the_token_unused_and_no_intent(rig: Rig) -> None:
    with pytest.raises(ClientRejected, match="invalid_client"):
        await rig.source(secret="wrong").access_token()
    intent = rig.store.intent()

    assert intent is None
    assert rig.sandbox.tokens.live_refresh_tokens == {rig.seed}
    assert rig.sandbox.tokens.accepts(await rig.source().access_token())  # at once, with the right secret


async def test_a_429_leaves_the_token_unused_and_no_intent(rig: Rig) -> None:
    rig.break_next("status", status=429, headers={"Retry-After": "30"})

    with pytest.raises(TokenEndpointUnavailable) as caught:
        await rig.source().access_token()
    intent = rig.store.intent()

    assert (intent, caught.value.retry_after_s) == (None, 30.0)
    assert rig.sandbox.tokens.accepts(await rig.source().access_token())


async def test_a_refused_connection_leaves_the_token_unused_and_no_intent(rig: Rig, unused_tcp_port: int) -> None:
    with pytest.raises(TokenEndpointUnavailable, match="no token was used"):
        await rig.source(base_url=f"http://127.0.0.1:{unused_tcp_port}").access_token()
    intent = rig.store.intent()

    assert intent is None
    assert rig.stored().refresh_token == rig.seed
    assert rig.sandbox.tokens.accepts(await rig.source().access_token())


# --- one token from the configuration ---------------------------------------------------------------------------------


async def test_a_fixed_token_is_returned_until_it_is_rejected() -> None:
    source = FixedToken("fixed")

    assert [await source.access_token(), await source.access_token()] == ["fixed", "fixed"]
    with pytest.raises(LoginRequired) as caught:
        await source.access_token(rejected="fixed")
    assert "fixed" not in str(caught.value)
