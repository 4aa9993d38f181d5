"""Broken parts: recorded until they work again, written only when something changed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from dcsync.core.alerts import AlertCode
from dcsync.core.model import AccountName
from dcsync.manifest import SqlManifest, open_manifest
from dcsync.manifest.broken import BrokenPart, BrokenParts

ACME = AccountName("acme")
FIRST = BrokenPart(code=AlertCode.M_MASS, subject="a", message="a is broken", hint="mend a")
SECOND = BrokenPart(code=AlertCode.M_MASS, subject="b", message="b is broken")
OTHER = BrokenPart(code=AlertCode.A_DENIED, subject="a", message="refused")


@pytest.fixture
async def manifest(tmp_path: Path) -> AsyncIterator[SqlManifest]:
    async with open_manifest(tmp_path / "manifest.db") as opened:
        yield opened


async def broken_in(manifest: SqlManifest, parts: Sequence[BrokenPart]) -> BrokenParts:
    broken = BrokenParts(manifest, ACME)
    for part in parts:
        await broken.record(part)
    return broken


async def test_a_part_is_broken_until_it_works_again(manifest: SqlManifest) -> None:
    broken = await broken_in(manifest, [FIRST, SECOND, OTHER])

    assert await broken.load() == (FIRST, SECOND, OTHER)
    await broken.resolve(AlertCode.M_MASS, "a")
    assert await broken.load() == (SECOND, OTHER)


async def test_what_is_recorded_again_replaces_what_was_known(manifest: SqlManifest) -> None:
    broken = await broken_in(manifest, [FIRST, replace(FIRST, message="it got worse")])

    assert await broken.load() == (replace(FIRST, message="it got worse"),)


@pytest.mark.parametrize(("now", "left"), [([], (OTHER,)), ([SECOND], (OTHER, SECOND))])
async def test_all_parts_of_a_code_are_replaced_at_once(
    manifest: SqlManifest, now: list[BrokenPart], left: tuple[BrokenPart, ...]
) -> None:
    broken = await broken_in(manifest, [FIRST, OTHER])

    await broken.replace([AlertCode.M_MASS], now)

    assert await broken.load() == left


async def test_the_parts_of_accounts_and_of_the_mirror_are_apart(manifest: SqlManifest) -> None:
    broken = await broken_in(manifest, [FIRST])
    shared = BrokenParts(manifest, None)
    await shared.record(SECOND)

    assert await broken.load() == (FIRST,)
    assert await shared.load() == (SECOND,)
    await shared.resolve(AlertCode.M_MASS, "b")
    assert await shared.load() == ()


async def test_nothing_is_written_when_nothing_has_changed(
    manifest: SqlManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = await broken_in(manifest, [FIRST, SECOND])
    monkeypatch.setattr(manifest, "writing", lambda: pytest.fail("it is written"))

    await broken.record(FIRST)
    await broken.replace([AlertCode.M_MASS], [SECOND, FIRST])
    await broken.resolve(AlertCode.A_DENIED, "a")


async def test_what_was_the_last_broken_part_leaves_no_row(manifest: SqlManifest) -> None:
    broken = await broken_in(manifest, [FIRST])

    await broken.resolve(FIRST.code, FIRST.subject)

    async with manifest.reading() as connection:
        assert not await connection.scalar(sa.text("SELECT count(*) FROM meta WHERE key LIKE 'broken:%'"))


async def test_parts_that_a_change_keeps_stay_as_they_are(manifest: SqlManifest) -> None:
    broken = await broken_in(manifest, [FIRST, SECOND, OTHER])

    before = await broken.replace([AlertCode.M_MASS], [], keeps=lambda part: part.subject == "b")

    assert before == (FIRST, SECOND, OTHER)
    assert await broken.load() == (SECOND, OTHER)
