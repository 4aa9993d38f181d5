"""The stored backfills."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from dcsync.app.backfills import NAME, Backfills
from dcsync.core.backfill import Backfill, Part
from dcsync.core.coverage import Days
from dcsync.errors import MirrorLocked

OCTOBER = Days(first=date(2026, 10, 1), last=date(2026, 10, 31))


def backfill(account: str = "acme", *, is_mirrored: bool = False) -> Backfill:
    return Backfill(account=account, days=OCTOBER, parts=(Part(days=OCTOBER, is_mirrored=is_mirrored),))


def test_each_account_has_one_until_it_is_complete(tmp_path: Path) -> None:
    store = Backfills(tmp_path)
    store.save(backfill())
    store.save(backfill("other"))

    assert store.of("acme") == backfill()
    assert store.all() == (backfill(), backfill("other"))
    store.save(backfill(is_mirrored=True))
    assert store.of("acme") is None
    store.forget("acme")
    assert Backfills(tmp_path).all() == (backfill("other"),)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"acme": 7}', '{"acme": {"parts": []}}'])
def test_a_record_that_cannot_be_used_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)

    assert Backfills(tmp_path).all() == ()
    Backfills(tmp_path).save(backfill())
    assert Backfills(tmp_path).of("acme") == backfill()


def test_one_process_continues_it_at_a_time(tmp_path: Path) -> None:
    with (
        Backfills(tmp_path).lock(),
        pytest.raises(MirrorLocked, match="holds the backfills"),
        Backfills(tmp_path).lock(),
    ):
        raise AssertionError
