"""What a disk may hold after a power cut, out of a log of its writes: dropped, reordered, torn (fault D3, D6)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.rigs.disks import Kind, workshop
from tests.rigs.hatchery import Hatchery
from tests.rigs.stage import staged
from tests.torture import blocks
from tests.torture.conftest import Figure, need, pick

pytestmark = pytest.mark.timeout(900)


KINDS = pytest.mark.parametrize(
    ("kind", "grains"),
    # btrfs trusts a disk to write its 4 KiB whole: its superblock is one of them.
    [("ext4", (4096, 512)), ("xfs", (4096, 512)), ("btrfs", (4096,))],
    ids=["ext4", "xfs", "btrfs"],
)


@KINDS
def test_whatever_a_cut_leaves_of_the_writes_no_ack_is_lost(
    tmp_path: Path, hatchery: Hatchery, figure: Figure, chance: random.Random, kind: Kind, grains: tuple[int, ...]
) -> None:
    need("nbdkit", "nbdfuse", f"mkfs.{kind}", "losetup")
    with workshop() as shop, staged(tmp_path, hatchery) as stage:
        report = blocks.crash_everywhere(
            shop, stage, kind, chance, images=pick(240, 24), grains=grains, complete_each=pick(4, 5)
        )

    assert report.wrong == []
    assert report.images == pick(240, 24)
    assert report.completed > 0
    # The cuts took something away, and there was something to be kept.
    assert report.lost_bytes > 0
    assert report.acks > 0
    figure(
        f"block log replayed, {kind}, in pieces of {' and '.join(str(grain) for grain in grains)} bytes",
        f"{report.images} disks out of {report.flushes} flushes, {report.lost_bytes >> 10} KiB of writes lost, "
        f"{report.acks} acked snapshots: all there; {report.completed} completed",
    )


@KINDS
def test_nor_is_one_lost_of_what_killed_runs_began(
    tmp_path: Path, hatchery: Hatchery, figure: Figure, chance: random.Random, kind: Kind, grains: tuple[int, ...]
) -> None:
    """Runs that were killed leave names and bytes that nobody made durable, for the next one to build on."""
    need("nbdkit", "nbdfuse", f"mkfs.{kind}", "losetup")
    kills = disks = acks = lost = 0
    for number in range(pick(12, 2)):
        folder = tmp_path / str(number)
        folder.mkdir()
        with workshop() as shop, staged(folder, hatchery) as stage:
            report = blocks.crash_everywhere(
                shop, stage, kind, chance, images=pick(30, 10), grains=grains, complete_each=5, kills=3
            )
        assert report.wrong == []
        kills, disks = kills + report.kills, disks + report.images
        acks, lost = acks + report.acks, lost + report.lost_bytes
    assert kills > 0
    assert lost > 0
    assert acks > 0
    figure(
        f"block log replayed after kills, {kind}, in pieces of {' and '.join(str(grain) for grain in grains)} bytes",
        f"{disks} disks after {kills} kills, {lost >> 10} KiB of writes lost, {acks} acked snapshots: all there",
    )
