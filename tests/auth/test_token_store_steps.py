"""The steps of the token store in their order, its other files, and what the system may refuse."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import pytest

from dcsync.auth.token_store import (
    Intent,
    TokenPair,
    TokenStore,
    fingerprint,
    intent_json,
    parse_intent,
    parse_pair,
    render_pair,
)
from dcsync.errors import TokenStoreDamaged, TokenStoreUnusable
from tests.auth.test_token_store import CURRENT, PREVIOUS, SLOT, contents, make_pair, make_store
from tests.fakes import NOON
from tests.rigs.odd import refuse_to_open

INTENT = Intent(spending=fingerprint("refresh-1"), attempt=1, at=NOON)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done to the disk: `fsync`, `rename` and `unlink`, each with the name of its file."""
    done: list[str] = []

    def noted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *rest: Any, **options: Any) -> Any:
            path = Path(f"/proc/self/fd/{first}").readlink() if isinstance(first, int) else Path(first)
            result = real(first, *rest, **options)
            done.append(f"{name} {path.name}")
            return result

        return call

    for name in ("fsync", "rename", "replace", "unlink"):
        monkeypatch.setattr(os, name, noted("rename" if name == "replace" else name, getattr(os, name)))
    return done


# --- the seed ---------------------------------------------------------------------------------------------------------


def test_the_configured_token_that_began_the_chain_is_known_by_its_fingerprint(tmp_path: Path) -> None:
    store = TokenStore(tmp_path)
    at_first = store.last_seed()

    store.note_seed(fingerprint("one"))
    store.note_seed(fingerprint("other"))

    assert at_first is None
    assert TokenStore(tmp_path).last_seed() == fingerprint("other")
    assert (tmp_path / "token.seed").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("write", [lambda store: store.note_seed("x"), lambda store: store.note_intent(INTENT)])
def test_a_small_file_is_on_the_disk_before_its_name_and_its_name_before_the_answer(
    tmp_path: Path, steps: list[str], write: Callable[[TokenStore], None]
) -> None:
    write(TokenStore(tmp_path))

    (name,) = (path.stem for path in tmp_path.iterdir())
    assert steps == [f"fsync {name}.new", f"rename {name}.new", f"fsync {tmp_path.name}"]


# --- the slot ---------------------------------------------------------------------------------------------------------


def test_the_room_of_the_next_pair_is_on_the_disk_before_a_token_is_used(tmp_path: Path, steps: list[str]) -> None:
    TokenStore(tmp_path).prepare()

    assert contents(tmp_path) == {SLOT: bytes(16 << 10)}
    assert steps == [f"fsync {SLOT}", f"fsync {tmp_path.name}"]


def test_a_slot_of_any_size_becomes_a_pair_of_16_kib(tmp_path: Path) -> None:
    store = TokenStore(tmp_path)
    (tmp_path / SLOT).write_bytes(b"x" * 20_000)
    (tmp_path / SLOT).chmod(0o600)

    store.save(make_pair())

    assert (tmp_path / CURRENT).stat().st_size == 16 << 10
    assert store.read() == make_pair()


def test_a_pair_is_whole_although_each_write_takes_only_some_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, body: write(descriptor, bytes(body)[:1000]))

    store = make_store(tmp_path, generations=1)

    assert store.read() == make_pair(1)
    assert (tmp_path / CURRENT).stat().st_size == 16 << 10


def test_a_pair_that_is_settled_is_made_durable_from_its_beginning(tmp_path: Path, steps: list[str]) -> None:
    store = make_store(tmp_path, generations=1)
    (tmp_path / SLOT).write_bytes(render_pair(make_pair(2)))
    (tmp_path / SLOT).chmod(0o600)
    steps.clear()

    store.settle()

    assert steps[0] == f"fsync {SLOT}"
    assert steps[-2:] == [f"rename {SLOT}", f"fsync {tmp_path.name}"]
    assert store.read() == make_pair(2)


# --- the previous generation ------------------------------------------------------------------------------------------


def test_what_a_crash_left_of_the_previous_generation_is_replaced(tmp_path: Path) -> None:
    store = make_store(tmp_path, generations=1)
    (tmp_path / "token.previous.new").write_bytes(b"left")

    store.save(make_pair(2))

    assert contents(tmp_path).keys() == {CURRENT, PREVIOUS}
    assert parse_pair((tmp_path / PREVIOUS).read_bytes()) == make_pair(1)


def test_where_no_hard_link_can_be_made_the_new_pair_is_saved_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path, generations=1)

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)

    store.save(make_pair(2))

    assert contents(tmp_path).keys() == {CURRENT}
    assert store.read() == make_pair(2)


# --- an end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generations", [0, 1, 2])
def test_damaged_generations_are_renamed_and_kept(tmp_path: Path, steps: list[str], generations: int) -> None:
    store = make_store(tmp_path, generations=2)
    store.note_seed("seed")
    for name in (CURRENT, PREVIOUS)[generations:]:
        (tmp_path / name).unlink()
    for name in (CURRENT, PREVIOUS)[:generations]:
        (tmp_path / name).write_bytes(name.encode())
    steps.clear()

    store.set_aside()

    assert steps[-1] == f"fsync {tmp_path.name}"
    damaged = {"token.damaged": CURRENT.encode(), "token.previous.damaged": PREVIOUS.encode()}
    assert contents(tmp_path) == {**dict(list(damaged.items())[:generations]), "token.seed": b"seed"}
    assert store.read() is None


def test_forgetting_deletes_the_newest_generation_first_and_keeps_lock_and_seed(
    tmp_path: Path, steps: list[str]
) -> None:
    store = make_store(tmp_path)
    store.prepare()
    store.note_intent(INTENT)
    store.note_seed("seed")
    with store.locked():
        steps.clear()
        store.forget()

        assert steps == [
            *(f"unlink {name}" for name in (SLOT, PREVIOUS, "token.intent", CURRENT)),
            f"fsync {tmp_path.name}",
        ]
        assert contents(tmp_path) == {"token.lock": b"", "token.seed": b"seed"}
        store.forget()
    assert store.read() is None


# --- refused by the system --------------------------------------------------------------------------------------------


def test_a_folder_in_the_place_of_a_token_is_named(tmp_path: Path) -> None:
    (tmp_path / CURRENT).mkdir()

    with pytest.raises(TokenStoreUnusable, match=r"token\.json is not a regular file"):
        TokenStore(tmp_path).read()


def test_a_token_that_cannot_be_opened_says_for_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_open(monkeypatch, CURRENT, errno.EACCES)

    with pytest.raises(TokenStoreUnusable) as caught:
        TokenStore(tmp_path).read()

    reason = f"{os.strerror(errno.EACCES)} (as uid {os.geteuid()})"
    assert caught.value.message == f"the token store {tmp_path / CURRENT} cannot be read: {reason}"


def test_a_bad_sector_below_a_token_is_named_and_leads_to_no_other_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path)
    fdopen = os.fdopen

    class Unreadable:
        def __init__(self, file: Any) -> None:
            self._file: AbstractContextManager[Any] = file

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.__exit__(None, None, None)

        def read(self) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdopen", lambda *arguments: Unreadable(fdopen(*arguments)))

    with pytest.raises(TokenStoreUnusable, match=r"token\.json cannot be read: Input/output error"):
        store.read()


def test_no_step_leaves_a_descriptor_open(tmp_path: Path) -> None:
    before = set(Path("/proc/self/fd").iterdir())

    store = make_store(tmp_path)
    store.prepare()
    store.settle()
    store.note_intent(INTENT)
    store.note_seed("seed")
    with store.locked():
        store.read()
    (tmp_path / SLOT).unlink()
    (tmp_path / SLOT).mkdir()
    with pytest.raises(TokenStoreUnusable):
        store.read()
    store.clear_intent()

    assert set(Path("/proc/self/fd").iterdir()) <= before


def test_nothing_but_damage_is_an_error_and_a_slot_alone_is_none(tmp_path: Path) -> None:
    """A slot without a complete pair is what a crash leaves before the first token was ever stored."""
    store = TokenStore(tmp_path)
    for body in (b"", b"\0" * 100, b" \n\0", b"half a pair"):
        (tmp_path / SLOT).write_bytes(body)
        (tmp_path / SLOT).chmod(0o600)
        assert store.read() is None

    (tmp_path / PREVIOUS).write_bytes(b"damage")
    (tmp_path / PREVIOUS).chmod(0o600)
    with pytest.raises(TokenStoreDamaged, match=r"token\.json is damaged, and so is its previous generation"):
        store.read()


# --- what is stored ---------------------------------------------------------------------------------------------------


def sealed(**changes: Any) -> bytes:
    """Return a pair in its stored form with other fields, under the right checksum."""
    entry = json.loads(render_pair(make_pair()))
    del entry["sum"]
    entry = {name: value for name, value in {**entry, **changes}.items() if value != "left out"}
    return json.dumps({**entry, "sum": fingerprint(json.dumps(entry, sort_keys=True))}).encode()


def test_a_pair_of_another_format_is_not_read(tmp_path: Path) -> None:
    assert parse_pair(sealed()) == make_pair()
    assert parse_pair(sealed(format=2)) is None
    assert parse_pair(sealed(format=0)) is None


def test_a_pair_of_the_first_version_has_no_user() -> None:
    pair = parse_pair(sealed(user="left out"))

    assert pair is not None
    assert (pair.refresh_token, pair.user) == ("refresh-1", None)


@pytest.mark.parametrize("field", ["refresh_token", "access_token", "expires_at", "renew_at", "issued_at", "seed"])
def test_a_pair_without_a_field_is_not_read(field: str) -> None:
    assert parse_pair(sealed(**{field: "left out"})) is None


def test_a_pair_may_have_only_a_refresh_token() -> None:
    pair = TokenPair(refresh_token="r")

    assert parse_pair(render_pair(pair)) == pair


@pytest.mark.parametrize("pair_or_intent", [parse_pair, parse_intent])
@pytest.mark.parametrize("body", [b"[" * 100_000, b"\xff", b"7", b"null", b"{}", b""])
def test_anything_else_is_neither_a_pair_nor_an_intent(pair_or_intent: Callable[[bytes], object], body: bytes) -> None:
    assert pair_or_intent(body) is None


@pytest.mark.parametrize(("refused", "expected"), [(True, True), (False, False), ("true", False), (1, False)])
def test_a_token_is_refused_only_by_the_word_for_it(refused: object, expected: bool) -> None:
    intent = parse_intent(json.dumps({**intent_json(INTENT), "refused": refused}))

    assert intent is not None
    assert intent.refused is expected
    assert (intent.spending, intent.attempt, intent.at) == (fingerprint("refresh-1"), 1, NOON)


def test_an_intent_has_a_time_and_is_not_refused_yet() -> None:
    assert INTENT.refused is False
    assert parse_intent(json.dumps({**intent_json(INTENT), "at": None})) is None
    later = parse_intent(json.dumps(intent_json(Intent(spending="x", attempt=2, at=NOON + timedelta(seconds=1)))))
    assert later == Intent(spending="x", attempt=2, at=NOON + timedelta(seconds=1))
