"""The power is cut on ext4 and XFS, tree and manifest on one file system or on two (faults.md D3, D4, D5, T)."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcsync.sandbox import Fault
from tests.rigs.disks import Kind, Workshop, workshop
from tests.rigs.hatchery import Hatchery
from tests.rigs.kills import LINE_RATE
from tests.rigs.stage import make_world, staged
from tests.torture import power
from tests.torture.conftest import Figure, need, pick
from tests.torture.power import Report, powered

pytestmark = pytest.mark.timeout(900)

ON_ONE_AND_TWO = pytest.mark.parametrize("on_two", [False, True], ids=["one", "two"])
KINDS = pytest.mark.parametrize("kind", ["ext4", "xfs"])


@pytest.fixture
def shop() -> Iterator[Workshop]:
    need("mkfs.ext4", "mkfs.xfs", "losetup")
    with workshop() as shop:
        yield shop


def told(report: Report) -> str:
    return f"{report.cuts} cuts, {report.acks} acks, {report.rows} rows checked: nothing partial, missing or lost"


def where(kind: str, on_two: bool) -> str:
    return f"{kind}, {'tree and manifest on two file systems' if on_two else 'on one file system'}"


@KINDS
@ON_ONE_AND_TWO
def test_an_acked_snapshot_outlives_a_cut_right_after_its_ack(
    tmp_path: Path, hatchery: Hatchery, shop: Workshop, figure: Figure, kind: Kind, on_two: bool
) -> None:
    """What random cuts miss: no fsync of a folder shows only here, and only on two file systems (faults.md D4)."""
    with staged(tmp_path, hatchery) as stage, powered(shop, stage, kind, on_two=on_two) as mirror:
        report = power.cut_after_each_ack(mirror, rounds=pick(12, 2))

    assert report.wrong == []
    assert report.acks == len(stage.world.jobs) * pick(12, 2)
    figure(f"power cut right after each ack, {where(kind, on_two)}", told(report))


@KINDS
@ON_ONE_AND_TWO
def test_a_cut_after_any_step_leaves_a_folder_whole_or_absent(
    tmp_path: Path,
    hatchery: Hatchery,
    shop: Workshop,
    figure: Figure,
    chance: random.Random,
    kind: Kind,
    on_two: bool,
) -> None:
    """The fsyncs and renames of a first run, in the middle of a publish too (fault D5); the next run completes it."""
    with staged(tmp_path, hatchery, chained=True) as stage:
        steps = sum(event.kind == "step" for event in stage.run().events)
        with powered(shop, stage, kind, on_two=on_two) as mirror:
            chosen = range(1, steps + 1)
            some = chance.sample(chosen, min(steps, pick(60, 6)))
            report = power.cut_at_steps(mirror, some)

    assert report.wrong == []
    # A run more or less orders its fsyncs otherwise; nearly every cut came.
    assert report.cuts > 0.8 * len(some)
    figure(f"power cut after the N-th fsync or rename of {steps}, {where(kind, on_two)}", told(report))


@KINDS
def test_what_a_killed_run_made_is_durable_before_the_next_one_acks_it(
    tmp_path: Path, hatchery: Hatchery, shop: Workshop, figure: Figure, kind: Kind
) -> None:
    """A folder that was made or renamed and not fsynced is there for who looks, and gone with the power (fault D3)."""
    with staged(tmp_path, hatchery, make_world(2)) as stage:
        names = stage.steps()
        visible = [number for number, name in enumerate(names, 1) if name in {"mkdir", "rename_noreplace"}]
        with powered(shop, stage, kind, on_two=True) as mirror:
            report = power.cut_after_what_a_kill_left(mirror, pick(list(range(1, len(names) + 1)), visible))

    assert report.wrong == []
    # Killed after the last ack, there is none in the next run.
    assert report.cuts >= len(visible) - 2
    figure(f"power cut right after the ack of what a killed run left, {where(kind, on_two=True)}", told(report))


@KINDS
@ON_ONE_AND_TWO
def test_cuts_at_random_moments_lose_nothing_that_was_acked(
    tmp_path: Path,
    hatchery: Hatchery,
    shop: Workshop,
    figure: Figure,
    chance: random.Random,
    kind: Kind,
    on_two: bool,
) -> None:
    """Many cuts in one mirror. They hit the token store as well (faults.md D3; design.md, Token protocol)."""
    with (
        staged(tmp_path, hatchery, chained=True) as stage,
        powered(shop, stage, kind, on_two=on_two) as mirror,
    ):
        began = time.monotonic()
        assert stage.run().status == 0
        report = power.cut_at_random(mirror, chance, cuts=pick(120, 12), longest_s=time.monotonic() - began)

    assert report.wrong == []
    assert report.cuts == pick(120, 12)
    figure(f"power cut at random, {where(kind, on_two)}", told(report))


@KINDS
def test_cuts_while_several_connections_bring_a_file_lose_nothing_that_was_acked(
    tmp_path: Path, hatchery: Hatchery, shop: Workshop, figure: Figure, chance: random.Random, kind: Kind
) -> None:
    """What arrived ahead of its turn is in memory, and the journal must not count it (design.md, One run)."""
    with (
        staged(tmp_path, hatchery, make_world(2, big=6 << 20)) as stage,
        powered(shop, stage, kind, on_two=True) as mirror,
    ):
        stage.sandbox.faults.add(
            Fault(server="storage", kind="slow", amount=LINE_RATE, match="drawings|zip", times=None)
        )
        began = time.monotonic()
        assert stage.run().status == 0
        longest_s = time.monotonic() - began
        ahead = [call for call in stage.sandbox.calls if "if-match" in call.headers]
        mirror.anew()
        report = power.cut_at_random(mirror, chance, cuts=pick(60, 4), longest_s=longest_s)

    assert report.wrong == []
    assert report.cuts == pick(60, 4)
    # An undisturbed run used several connections.
    assert len(ahead) >= 3
    figure(f"power cut while several connections bring a file, {kind}", told(report))


@KINDS
def test_a_token_that_was_used_is_saved(
    tmp_path: Path, hatchery: Hatchery, shop: Workshop, figure: Figure, kind: Kind
) -> None:
    with (
        staged(tmp_path, hatchery, chained=True) as stage,
        powered(shop, stage, kind, on_two=False) as mirror,
    ):
        report = power.cut_after_use_of_a_token(mirror, rounds=pick(60, 5))

    assert report.wrong == []
    assert report.cuts == pick(60, 5)
    assert stage.sandbox.tokens.refresh_count >= report.cuts
    figure(f"power cut at the first use of a new token, {kind}", f"{report.cuts} cuts: each was saved")


@KINDS
def test_a_token_that_is_lost_on_the_way_was_noted_before(
    tmp_path: Path, hatchery: Hatchery, shop: Workshop, figure: Figure, kind: Kind
) -> None:
    with (
        staged(tmp_path, hatchery, chained=True) as stage,
        powered(shop, stage, kind, on_two=False) as mirror,
    ):
        report = power.cut_while_refreshing(mirror, rounds=pick(30, 3))

    assert report.wrong == []
    assert report.cuts == pick(30, 3)
    figure(f"power cut between Autodesk's commit and its response, {kind}", f"{report.cuts} cuts: each intent is there")
