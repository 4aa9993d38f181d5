"""Extracts with a ZIP, and what was mirrored from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dcsync.ops.context import NullObserver
from tests.rigs.mirror import ARCHIVE, Mirror, add_extract, assert_proved_by_sums, sidecar

MIB = 1 << 20
STRATEGIES = ("auto", "files", "zip")


def calls(mirror: Mirror) -> int:
    return mirror.sandbox.count("api")


def hows(snapshot: Path) -> dict[str, str]:
    return {entry["name"]: entry["how"] for entry in sidecar(snapshot)["files"]}


def whys(snapshot: Path) -> dict[str, str]:
    return {entry["name"]: entry["why"] for entry in sidecar(snapshot)["files"]}


def add_with(mirror: Mirror, files: Mapping[str, bytes], archive: bytes, **options: Any) -> str:
    """Add an extract whose archive is these bytes, whatever they are."""
    return add_extract(mirror, {**files, ARCHIVE: archive}, **options)


async def sync_until_it_gives_up(mirror: Mirror, code: str, observer: NullObserver | None = None) -> None:
    """Sync until the files that only the ZIP may have count as lost: not before the third attempt in a row."""
    for _ in range(2):
        assert [failed.code for failed in (await mirror.sync_one(observer=observer)).failed] == [code]
        assert mirror.visible() == []
        mirror.clock.advance(7 * 3600)
    outcome = await mirror.sync_one(observer=observer)
    assert not outcome.failed
    assert [warning.code for warning in outcome.published[0].warnings] == ["L-PARTIAL"]


def assert_zip_kept(mirror: Mirror, job: str, reason: str) -> None:
    """Check that the snapshot contains the ZIP itself, and that the record says why."""
    snapshot, archive = mirror.snapshot_of(job), mirror.world.extract(job)[ARCHIVE]
    assert (snapshot / ARCHIVE).read_bytes() == archive.read(0, archive.size)
    assert whys(snapshot)[ARCHIVE].startswith(reason)
    assert [warning["code"] for warning in sidecar(snapshot)["warnings"]] == ["L-ZIP"]
    assert_proved_by_sums(snapshot)
