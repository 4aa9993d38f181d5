"""System calls fail, each of them in turn, with each error that a disk can give (faults.md F2, F6 to F9, F11)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.rigs.hatchery import Hatchery
from tests.rigs.stage import make_world, staged
from tests.torture import errnos
from tests.torture.conftest import Figure, need, pick

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(autouse=True)
def tools() -> None:
    need("strace")


@pytest.mark.first
def test_any_call_may_fail_with_any_error(
    tmp_path: Path, hatchery: Hatchery, figure: Figure, chance: random.Random
) -> None:
    """Once or from then on: no traceback, nothing partial, each acked snapshot is there, and the next run recovers."""
    with staged(tmp_path, hatchery, make_world(2, files=3, size=1500, big=40_000), chained=True) as stage:
        faults = errnos.points(errnos.survey(stage))
        some = errnos.spread(faults, chance, pick(300, 30))
        report = errnos.fail_at(stage, some)

    assert report.wrong == []
    assert report.rounds > pick(200, 18)
    assert report.failed_fsyncs > 0
    statuses = ", ".join(f"{count} × {status}" for status, count in sorted(report.statuses.items()))
    figure(
        f"a failing system call, of {len(faults)} points and errors",
        f"{report.rounds} (exit statuses {statuses}; {report.failed_fsyncs} failed fsyncs, none repeated): "
        f"nothing partial or lost, all completed by the next run; {report.astray} hit Python itself",
    )


@pytest.mark.parametrize("error", ["EIO", "EACCES", "ESTALE"])
def test_what_cannot_be_looked_at_is_not_missing(
    tmp_path: Path, hatchery: Hatchery, figure: Figure, error: str
) -> None:
    with staged(tmp_path, hatchery, make_world(2, files=3)) as stage:
        wrong = errnos.cannot_look(stage, error)

    assert wrong == []
    figure(f"{error} on the folders of snapshots", "no row lost, nothing fetched again")


def test_what_cannot_be_read_is_unreadable_and_not_missing(
    tmp_path: Path, hatchery: Hatchery, figure: Figure, chance: random.Random
) -> None:
    with staged(tmp_path, hatchery, make_world(2, files=3)) as stage:
        wrong = errnos.cannot_read(stage, chance)

    assert wrong == []
    figure("EIO on read in verify", "unreadable, not missing, left as it is")
