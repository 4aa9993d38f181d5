"""A new pair of tokens is stored before it is used, whatever the disk does."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from dcsync.auth.source import RefreshingToken
from dcsync.auth.token_store import TokenPair
from dcsync.errors import (
    TokenStoreExposed,
    TokenStoreUnusable,
    TokenUndecided,
)
from tests.rigs.token_chain import Rig, full_disk

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
