"""Jobs that fail each time they are touched, among many that do not (docs/project/faults.md D13)."""

from __future__ import annotations

import configparser
import random
from pathlib import Path

import pytest

from dcsync.core.lifecycle import POISON_ATTEMPTS, JobState
from dcsync.core.model import AccountName, JobId
from dcsync.ops.context import NullObserver
from dcsync.sandbox import Fault
from tests.rigs.mirror import add_extract, mirroring, tables
from tests.torture.conftest import Figure, pick

UNITS = Path(__file__).parents[2] / "dcsync/systemd/files"
#: Longer than any wait between two tries.
HOURS = 7


class Broken(NullObserver):
    """An observer that raises what nobody foresees, for some jobs."""

    def __init__(self, jobs: set[str]) -> None:
        self._jobs = jobs
        self.raised = 0

    def job_started(self, account: AccountName, job: JobId, label: str, *, files: int, size: int) -> None:
        """Raise for a job of those."""
        if job in self._jobs:
            self.raised += 1
            raise ZeroDivisionError


@pytest.mark.timeout(600)
async def test_poison_is_set_aside_after_three_tries_and_the_others_go_on(
    memory_path: Path, chance: random.Random, figure: Figure
) -> None:
    async with mirroring(memory_path) as mirror:
        count = pick(60, 12)
        jobs = [add_extract(mirror, tables(3, seed=day), days_ago=(count - day) / 4) for day in range(count)]
        poison = chance.sample(jobs, count // 2)
        content, bugs = set(poison[::2]), set(poison[1::2])
        for job in content:
            kind = chance.choice(["short", "long", "short-chunked"])
            # One of its files is too short or too long each time it is fetched.
            mirror.sandbox.faults.add(
                Fault(server="storage", kind=kind, match=f"{job}.*table_001", amount=7, times=None)  # type: ignore[arg-type]
            )
        observer = Broken(bugs)

        for number in range(POISON_ATTEMPTS):
            outcome = await mirror.sync_one(observer=observer)

            # The good ones are there after the first run: none of the others held them up.
            assert len(mirror.snapshots()) == count - len(poison)
            assert {failed.job for failed in outcome.failed} == set(poison)
            last = number == POISON_ATTEMPTS - 1
            assert {failed.state for failed in outcome.failed} == {JobState.QUARANTINED if last else JobState.FAILED}
            codes = {failed.job: failed.code for failed in outcome.failed}
            assert {codes[JobId(job)] for job in content} == {"F-SIZE"}
            assert {codes[JobId(job)] for job in bugs} == {"D-BUG"}
            mirror.clock.advance(HOURS * 3600)

        tries, calls = observer.raised, len(mirror.sandbox.calls)
        later = add_extract(mirror, tables(3, seed=count))
        outcome = await mirror.sync_one(observer=observer)
        assert (observer.raised, outcome.given_up, outcome.failed) == (tries, len(poison), [])
        assert [published.job for published in outcome.published] == [later]
        # One page, one listing, three files and their URLs: nothing for what was given up.
        assert len(mirror.sandbox.calls) - calls <= 8
        for job in {*jobs, later} - set(poison):
            mirror.assert_identical(job)
    assert tries == POISON_ATTEMPTS * len(bugs)
    figure(
        "poison jobs",
        f"{len(content)} wrong by content and {len(bugs)} that meet a bug among {count}: each tried "
        f"{POISON_ATTEMPTS} times and quarantined, all others mirrored by the first run",
    )


@pytest.mark.parametrize("name", ["dcsync.service", "dcsync@.service"])
def test_a_daemon_that_crashes_at_every_start_is_given_up(name: str) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=")
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNITS / name)

    assert unit["Service"]["Restart"] == "on-failure"
    # Twenty starts, half a minute apart, are over well within the hour in which they are counted.
    assert (unit["Unit"]["StartLimitIntervalSec"], unit["Unit"]["StartLimitBurst"]) == ("1h", "20")
    assert unit["Service"]["RestartSec"] == "30s"
