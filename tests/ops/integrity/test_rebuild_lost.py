"""A lost or damaged manifest is rebuilt from the mirror, row for row."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from dcsync.errors import ManifestCorrupt, MirrorForeign, MirrorNotMounted
from tests.rigs.mirror import Mirror
from tests.rigs.rebuilt import drop_manifest, fill, manifest_file, reopen, rows

RANDOM_WAYS = 30


async def test_a_lost_manifest_is_made_anew_row_for_row(mirror: Mirror) -> None:
    await fill(mirror)
    before = rows(mirror)
    assert len(before["job"]) == 7
    assert len(before["file"]) > 25
    drop_manifest(mirror)
    mirror.clock.advance(3600)

    await reopen(mirror)

    assert rows(mirror) == before


def flip(body: bytearray, chance: random.Random, bits: int) -> None:
    for _ in range(bits):
        body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)


def overwrite(body: bytearray, chance: random.Random, piece: bytes) -> None:
    start = chance.randrange(len(body))
    body[start : start + len(piece)] = piece[: len(body) - start]


def truncate(body: bytearray, chance: random.Random) -> None:
    del body[chance.randrange(len(body)) :]


def swap_pages(body: bytearray, chance: random.Random) -> None:
    pages = len(body) // 4096
    one, other = (4096 * page for page in chance.sample(range(pages), 2))
    body[one : one + 4096], body[other : other + 4096] = body[other : other + 4096], body[one : one + 4096]


def zero_page(body: bytearray, chance: random.Random) -> None:
    start = 4096 * chance.randrange(len(body) // 4096)
    body[start : start + 4096] = bytes(4096)


WAYS: list[Callable[[bytearray, random.Random], None]] = [
    lambda body, chance: flip(body, chance, 1),
    lambda body, chance: flip(body, chance, 1),
    lambda body, chance: flip(body, chance, chance.randrange(2, 50)),
    lambda body, chance: overwrite(body, chance, chance.randbytes(chance.randrange(1, 9000))),
    lambda body, chance: overwrite(body, chance, bytes(chance.randrange(1, 9000))),
    truncate,
    truncate,
    swap_pages,
    zero_page,
    lambda body, chance: overwrite(body, chance, b"published" * 100),
]


@pytest.mark.timeout(300)
async def test_a_manifest_damaged_in_random_ways_rebuilds_to_the_same_rows(mirror: Mirror, tmp_path: Path) -> None:
    """docs/project/faults.md M3. Damage that hits no row causes no rebuild. The rows after a start are what counts."""
    await fill(mirror)
    before, sound = rows(mirror), manifest_file(mirror).read_bytes()
    wrong, noticed = [], 0
    for number in range(RANDOM_WAYS):
        chance = random.Random(number)
        body = bytearray(sound)
        WAYS[number % len(WAYS)](body, chance)
        drop_manifest(mirror)
        manifest_file(mirror).write_bytes(body)
        if number % 7 == 0:
            (mirror.state / "manifest.sqlite-wal").write_bytes(chance.randbytes(5000))
            (mirror.state / "manifest.sqlite-shm").write_bytes(chance.randbytes(32768))
        try:
            await reopen(mirror)
            await reopen(mirror)
        except Exception as error:  # noqa: BLE001 - all of them are shown at the end
            wrong.append(f"{number}: {type(error).__name__}: {error}")
            continue
        if rows(mirror) != before:
            wrong.append(f"{number}: other rows")
        noticed += any(mirror.state.glob("manifest.sqlite.damaged-*"))

    assert wrong == []
    assert noticed > RANDOM_WAYS / 2


async def test_the_damaged_manifest_is_set_aside_under_a_dated_name_and_kept(mirror: Mirror) -> None:
    await fill(mirror)
    manifest_file(mirror).write_bytes(b"no database at all" * 1000)

    await reopen(mirror)

    (aside,) = mirror.state.glob("manifest.sqlite.*")
    assert aside.name == "manifest.sqlite.damaged-20261122T120000Z"
    assert aside.read_bytes() == b"no database at all" * 1000


async def test_a_second_damage_in_the_same_second_overwrites_no_older_one(mirror: Mirror) -> None:
    await fill(mirror)
    for number in range(2):
        manifest_file(mirror).write_bytes(b"no database: %d" % number * 1000)
        await reopen(mirror)

    assert len(list(mirror.state.glob("manifest.sqlite.damaged-*"))) == 2


async def test_a_run_after_the_damage_goes_on_without_a_download(mirror: Mirror) -> None:
    await fill(mirror)
    before = mirror.sandbox.count("storage")
    manifest_file(mirror).write_bytes(manifest_file(mirror).read_bytes()[:5000])

    outcome = await mirror.sync_one()

    assert (outcome.published, outcome.failed, outcome.error) == ([], [], None)
    assert mirror.sandbox.count("storage") == before


async def test_without_the_tree_a_damaged_manifest_stays_where_it_is(mirror: Mirror) -> None:
    await fill(mirror)
    damaged = b"no database at all" * 1000
    manifest_file(mirror).write_bytes(damaged)
    mirror.root.rename(mirror.folder / "the disk")
    mirror.root.mkdir()

    with pytest.raises(MirrorNotMounted):
        await reopen(mirror)

    assert manifest_file(mirror).read_bytes() == damaged
    assert list(mirror.root.iterdir()) == []


async def test_on_another_mirror_s_disk_a_damaged_manifest_stays_where_it_is(mirror: Mirror) -> None:
    await fill(mirror)
    (mirror.state / "instance").write_text("another\n")
    damaged = b"no database at all" * 1000
    manifest_file(mirror).write_bytes(damaged)

    with pytest.raises(MirrorForeign):
        await reopen(mirror)

    assert manifest_file(mirror).read_bytes() == damaged


async def test_a_dry_run_sets_nothing_aside(mirror: Mirror) -> None:
    await fill(mirror)
    manifest_file(mirror).write_bytes(b"no database at all" * 1000)

    with pytest.raises(ManifestCorrupt, match="is damaged") as caught:
        await mirror.sync(dry_run=True)

    assert "dcsync rebuild" in caught.value.advice
    assert list(mirror.state.glob("manifest.sqlite.*")) == []
