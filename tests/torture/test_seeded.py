"""The rigs prove themselves: each bug that is seeded is caught by a named one, which passes without it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from tests.rigs.disks import workshop
from tests.rigs.hatchery import Hatchery
from tests.rigs.stage import make_world, staged
from tests.torture import blocks, errnos, power, trials
from tests.torture.conftest import Figure, need
from tests.torture.errnos import Fault
from tests.torture.power import Powered, powered
from tests.torture.seeded import BUGS

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(autouse=True)
def tools() -> None:
    need("strace", "mkfs.ext4", "mkfs.xfs", "losetup", "nbdkit", "nbdfuse")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Where a trial finds what it needs."""

    folder: Path
    hatchery: Hatchery
    chance: random.Random


#: Tries a bug, or none, and returns what was wrong.
Trial: TypeAlias = Callable[[Ground, str | None], list[str]]


def _powered(
    trial: Callable[..., power.Report], *, on_two: bool = False, chained: bool = False, **options: int
) -> Trial:
    def tried(ground: Ground, bug: str | None) -> list[str]:
        with (
            workshop() as shop,
            staged(ground.folder, ground.hatchery, make_world(2), chained=chained) as stage,
            powered(shop, stage, "ext4", on_two=on_two) as mirror,
        ):
            mirrored: Powered = mirror
            return trial(mirrored, rounds=2, bug=bug, **options).wrong

    return tried


def _staged(trial: Callable[..., list[str]], *, world: dict[str, int] | None = None, **options: Any) -> Trial:
    served = {"etag": options.pop("etag")} if "etag" in options else {}

    def tried(ground: Ground, bug: str | None) -> list[str]:
        made = make_world(**(world or {"jobs": 2}))
        with staged(ground.folder, ground.hatchery, made, **served) as stage:
            return trial(stage, bug=bug, **options)

    return tried


def _fsync_fails(ground: Ground, bug: str | None) -> list[str]:
    with staged(ground.folder, ground.hatchery, make_world(1, files=2), chained=True) as stage:
        some = [Fault(call="fsync", error="EIO", at=at) for at in range(14, 24, 2)]
        return errnos.fail_at(stage, some, bug=bug).wrong


def _crashed(ground: Ground, bug: str | None) -> list[str]:
    with workshop() as shop, staged(ground.folder, ground.hatchery, make_world(2)) as stage:
        return blocks.crash_everywhere(
            shop, stage, "xfs", ground.chance, images=8, grains=(4096,), complete_each=8, bug=bug
        ).wrong


TRIALS: Final[dict[str, Trial]] = {
    "PL, cut after each ack": _powered(power.cut_after_each_ack),
    "PL, cut after each ack, two file systems": _powered(power.cut_after_each_ack, on_two=True),
    "PL, killed after its first rename, cut after the next ack": _powered(
        power.cut_after_a_killed_publish, number=1, on_two=True
    ),
    "PL, killed after its second rename, cut after the next ack": _powered(
        power.cut_after_a_killed_publish, number=2, on_two=True
    ),
    "PL, cut at the use of a token": _powered(power.cut_after_use_of_a_token, chained=True),
    "PL, cut during a refresh": _powered(power.cut_while_refreshing, chained=True),
    "LW, block log replayed": _crashed,
    "EI, failing fsync": _fsync_fails,
    "EI, folders that cannot be looked at": _staged(errnos.cannot_look, error="EIO"),
    # A byte below the whole: it is the last write that is short, however the bytes came. After any other one the next
    # write fails, which is what is told without the bug as well.
    "RL, short writes": _staged(trials.short_writes, world={"jobs": 1, "big": 1_500_000}, limit=1_499_999),
    "FS, short answers": _staged(trials.short_answers, etag="multipart"),
    "FS, broken answers": _staged(trials.broken_answers, world={"jobs": 1, "big": 2_000_000}),
    "K, killed before the rename, manifest lost": _staged(trials.killed_before_the_rename),
    "K, killed before the rename, a bit flipped": _staged(trials.flipped_in_the_staging),
    "K, killed before the commit": _staged(trials.killed_before_the_commit),
    "FS, an existing folder in the way": _staged(trials.somebody_s_folder),
}

#: Which rig catches which bug.
CATCHES: Final[dict[str, tuple[str, ...]]] = {
    "no_fsync_of_files": ("PL, cut after each ack", "LW, block log replayed"),
    "no_fsync_of_folders": ("PL, cut after each ack, two file systems",),
    "no_fsync_of_data_files": ("PL, cut after each ack",),
    "no_fsync_of_own_files": ("PL, cut after each ack",),
    "adopted_before_it_is_durable": (
        "PL, killed after its first rename, cut after the next ack",
        "PL, killed after its second rename, cut after the next ack",
    ),
    "commits_not_durable": ("PL, cut after each ack", "LW, block log replayed"),
    "commit_before_rename": ("PL, cut after each ack",),
    "fsync_again_after_a_failure": ("EI, failing fsync",),
    "token_used_before_it_is_saved": ("PL, cut at the use of a token",),
    "intent_not_written": ("PL, cut during a refresh",),
    "unreadable_is_missing": ("EI, folders that cannot be looked at",),
    "short_write_ignored": ("RL, short writes",),
    "rename_that_replaces": ("FS, an existing folder in the way",),
    "size_not_checked": ("FS, short answers",),
    "staging_taken_for_published": ("K, killed before the rename, manifest lost",),
    "recovery_that_deletes": ("K, killed before the commit",),
    "no_if_match": ("FS, broken answers",),
    "hash_not_checked": ("K, killed before the rename, a bit flipped",),
}


def test_every_bug_has_a_rig() -> None:
    assert set(CATCHES) == set(BUGS)
    assert {rig for rigs in CATCHES.values() for rig in rigs} == set(TRIALS)


@pytest.mark.parametrize(
    ("bug", "rig"),
    [pytest.param(bug, rig, id=f"{bug}, {rig}") for bug, rigs in CATCHES.items() for rig in rigs],
)
def test_a_seeded_bug_is_caught(
    tmp_path: Path, hatchery: Hatchery, figure: Figure, chance: random.Random, bug: str, rig: str
) -> None:
    wrong = TRIALS[rig](Ground(folder=tmp_path, hatchery=hatchery, chance=chance), bug)

    assert wrong != [], f"{rig} does not see {bug}"
    figure(f"seeded: {bug.replace('_', ' ')}", f"caught by {rig}")


@pytest.mark.parametrize("rig", TRIALS)
def test_without_a_bug_the_rig_passes(tmp_path: Path, hatchery: Hatchery, chance: random.Random, rig: str) -> None:
    assert TRIALS[rig](Ground(folder=tmp_path, hatchery=hatchery, chance=chance), None) == []
