"""The token store: private, durable, with one previous generation, and never wiped."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from dcsync.auth.token_store import Intent, TokenPair, TokenStore, fingerprint
from dcsync.errors import ExitStatus, TokenStoreExposed, TokenStoreUnusable
from tests.fakes import NOON

SLOT, CURRENT, PREVIOUS = "token.next", "token.json", "token.previous.json"

#: Tries the lock without waiting. Exits with 0 if it is free, with 75 if another process holds it.
TRY_LOCK = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(75)
"""


def make_pair(number: int = 1) -> TokenPair:
    return TokenPair(
        refresh_token=f"refresh-{number}",
        access_token=f"access-{number}",
        expires_at=NOON + timedelta(hours=1),
        renew_at=NOON + timedelta(minutes=55),
        issued_at=NOON,
        seed=fingerprint("seed"),
        user="tester",
    )


def make_store(folder: Path, generations: int = 2) -> TokenStore:
    """Return a store in which `generations` pairs were saved, one after the other."""
    store = TokenStore(folder)
    for number in range(1, generations + 1):
        store.save(make_pair(number))
    return store


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def lock_from_another_process(folder: Path) -> int:
    return subprocess.run([sys.executable, "-c", TRY_LOCK, folder / "token.lock"], check=False).returncode


def test_an_empty_store_is_not_an_error(tmp_path: Path) -> None:
    store = TokenStore(tmp_path)

    assert store.read() is None
    assert store.intent() is None
    assert contents(tmp_path) == {}


def test_a_saved_pair_is_read_back_with_every_field(tmp_path: Path) -> None:
    make_store(tmp_path, generations=1)

    assert TokenStore(tmp_path).read() == make_pair(1)


def test_every_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = make_store(tmp_path)
        store.prepare()
        store.note_intent(Intent(spending="x", attempt=1, at=NOON))
        with store.locked():
            pass
    finally:
        os.umask(before)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys([CURRENT, PREVIOUS, SLOT, "token.intent", "token.lock"], 0o600)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o602, 0o601, 0o660, 0o777])
@pytest.mark.parametrize("name", [CURRENT, SLOT])
def test_a_file_that_others_can_use_is_refused(tmp_path: Path, name: str, mode: int) -> None:
    store = make_store(tmp_path)
    store.prepare()
    (tmp_path / name).chmod(mode)

    with pytest.raises(TokenStoreExposed, match=f"{name} has mode {mode:04o}") as caught:
        store.read()

    assert caught.value.exit_status == ExitStatus.USAGE


def test_a_symlink_in_place_of_the_token_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    make_store(elsewhere)
    (tmp_path / CURRENT).symlink_to(elsewhere / CURRENT)

    with pytest.raises(TokenStoreUnusable, match="is not a regular file"):
        TokenStore(tmp_path).read()


def test_saving_goes_through_the_slot_and_keeps_one_generation(tmp_path: Path) -> None:
    store = make_store(tmp_path, generations=1)
    store.prepare()
    reserved = (tmp_path / SLOT).stat()

    store.save(make_pair(2))

    # The file with the reserved space became the current one, so a full disk cannot prevent it.
    assert (tmp_path / CURRENT).stat().st_ino == reserved.st_ino
    assert reserved.st_size == (tmp_path / CURRENT).stat().st_size == 16 << 10
    assert contents(tmp_path).keys() == {CURRENT, PREVIOUS}
    (tmp_path / CURRENT).unlink()
    assert store.read() == make_pair(1)


def test_saving_is_fsynced_before_the_rename_and_the_folder_after_it(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from dcsync.auth.token_store import *\n"
        "TokenStore(Path(sys.argv[1])).save(TokenPair(refresh_token='x'))"
    )
    seen: list[str] = []
    audit = f"""
import os, sys
def told(name, real):
    def call(first, *rest, **more):
        path = os.readlink(f"/proc/self/fd/{{first}}") if isinstance(first, int) else os.fspath(first)
        print(name, os.path.basename(path), flush=True)
        return real(first, *rest, **more)
    return call
os.fsync, os.replace, os.link = told("fsync", os.fsync), told("rename", os.replace), told("link", os.link)
{program}
"""
    make_store(tmp_path, generations=1)

    done = subprocess.run([sys.executable, "-c", audit, tmp_path], check=True, capture_output=True, text=True)
    seen.extend(done.stdout.splitlines())

    assert seen == [
        f"fsync {SLOT}",
        f"link {CURRENT}",
        "rename token.previous.new",
        f"rename {SLOT}",
        f"fsync {tmp_path.name}",
    ]


def test_the_previous_generation_guards_every_bit_of_a_pair(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    good = (tmp_path / CURRENT).read_bytes()
    length = len(good.rstrip())
    places = [place * 8 + bit for place in range(length) for bit in range(8)]
    places += [place * 8 + 5 for place in range(length, len(good), 97)]  # the padding: a space becomes a NUL

    unnoticed = []
    for place in places:
        body = bytearray(good)
        body[place // 8] ^= 1 << (place % 8)
        (tmp_path / CURRENT).write_bytes(body)
        if store.read() != make_pair(1):
            unnoticed.append(place)

    assert length > 300
    assert unnoticed == []
    (tmp_path / CURRENT).write_bytes(good)
    assert store.read() == make_pair(2)


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\0" * 4096,
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b'{"format": 1}',
        b'{"format": 1, "refresh_token": "x", "sum": "0"}',
        b"\xff\xfe garbage",
    ],
)
def test_a_damaged_file_falls_back_and_with_both_damaged_nothing_is_wiped(tmp_path: Path, damage: bytes) -> None:
    store = make_store(tmp_path)

    (tmp_path / CURRENT).write_bytes(damage)
    fallen_back = store.read()
    (tmp_path / PREVIOUS).write_bytes(damage)
    before = contents(tmp_path)
    with pytest.raises(TokenStoreUnusable, match="damaged"):
        store.read()

    assert fallen_back == make_pair(1)
    assert contents(tmp_path) == before == {CURRENT: damage, PREVIOUS: damage}


def test_a_truncated_pair_is_never_taken_for_a_token(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    good = (tmp_path / CURRENT).read_bytes().rstrip()

    for length in range(len(good)):
        (tmp_path / CURRENT).write_bytes(good[:length])
        assert store.read() == make_pair(1)


def test_a_pair_whose_rename_a_crash_prevented_is_read_and_settled(tmp_path: Path) -> None:
    store = make_store(tmp_path, generations=2)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    make_store(elsewhere, generations=3)
    (elsewhere / CURRENT).rename(tmp_path / SLOT)

    found = store.read()
    store.settle()

    assert found == store.read() == make_pair(3)
    assert not (tmp_path / SLOT).exists()
    (tmp_path / CURRENT).unlink()
    assert store.read() == make_pair(2)


@pytest.mark.parametrize("rest", ["zeros", "half a pair", "empty"])
def test_a_slot_without_a_complete_pair_is_ignored(tmp_path: Path, rest: str) -> None:
    store = make_store(tmp_path)
    whole = (tmp_path / PREVIOUS).read_bytes()
    store.prepare()
    if rest == "half a pair":
        (tmp_path / SLOT).write_bytes(whole[:200] + bytes(1000))
    elif rest == "empty":
        (tmp_path / SLOT).write_bytes(b"")

    store.settle()

    assert store.read() == make_pair(2)
    assert contents(tmp_path).keys() == {CURRENT, PREVIOUS, SLOT}


def test_space_that_cannot_be_reserved_is_an_error_before_anything_changes(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    (tmp_path / SLOT).mkdir()
    before = (tmp_path / CURRENT).read_bytes()

    with pytest.raises(TokenStoreUnusable, match="preparing the token store"):
        store.prepare()

    assert (tmp_path / CURRENT).read_bytes() == before


def test_an_intent_is_read_back_as_written_and_can_be_cleared(tmp_path: Path) -> None:
    store = TokenStore(tmp_path)
    begun = Intent(spending=fingerprint("refresh-1"), attempt=3, at=NOON)
    refused = Intent(spending=fingerprint("refresh-1"), attempt=4, at=NOON + timedelta(minutes=4), refused=True)

    store.note_intent(begun)
    first = TokenStore(tmp_path).intent()
    store.note_intent(refused)
    second = TokenStore(tmp_path).intent()
    store.clear_intent()
    store.clear_intent()

    assert (first, second, store.intent()) == (begun, refused, None)


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b"7", b'{"at": 1}', b'{"at": "2026-11-22T12:00:00Z", "attempt": "x"}']
)
def test_a_damaged_intent_is_none(tmp_path: Path, damage: bytes) -> None:
    store = TokenStore(tmp_path)
    store.note_intent(Intent(spending="x", attempt=1, at=NOON))
    (tmp_path / "token.intent").write_bytes(damage)

    assert store.intent() is None


def test_the_lock_keeps_another_process_out_and_is_free_afterwards(tmp_path: Path) -> None:
    store = TokenStore(tmp_path)

    with store.locked():
        while_held = lock_from_another_process(tmp_path)
    afterwards = lock_from_another_process(tmp_path)

    assert (while_held, afterwards) == (75, 0)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    store = TokenStore(tmp_path / "missing")

    with pytest.raises(TokenStoreUnusable, match="missing failed: No such file"), store.locked():
        pass
    with pytest.raises(TokenStoreUnusable, match="No such file"):
        store.save(make_pair())
    with pytest.raises(TokenStoreUnusable, match="No such file"):
        store.note_intent(Intent(spending="x", attempt=1, at=NOON))


def test_no_repr_shows_a_token() -> None:
    shown = repr(make_pair(1)) + str(make_pair(1))

    assert "refresh-1" not in shown
    assert "access-1" not in shown
    assert "2026" in shown


def test_a_lock_that_fails_to_close_undoes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, close = TokenStore(tmp_path), os.close

    def close_and_fail(descriptor: int) -> None:
        close(descriptor)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with store.locked():
        monkeypatch.setattr(os, "close", close_and_fail)
    monkeypatch.undo()

    assert lock_from_another_process(tmp_path) == 0


def test_a_file_system_without_locks_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)

    with (
        pytest.raises(TokenStoreUnusable, match=r"locking .* failed: No locks available"),
        TokenStore(tmp_path).locked(),
    ):
        pass
