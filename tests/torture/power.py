"""The trials of power cuts (torture.md): each returns what was wrong, so that a seeded bug is seen to fail it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from dcsync.sandbox import Fault
from tests.rigs import aftermath
from tests.rigs.disks import Disk, Kind, Workshop, cut, run
from tests.rigs.hatchery import Ended
from tests.rigs.stage import Stage

#: For what a process does within a second.
_PATIENCE_S: Final = 120.0


@dataclass(slots=True, kw_only=True)
class Report:
    """What a trial saw."""

    wrong: list[str] = field(default_factory=list)
    cuts: int = 0
    acks: int = 0
    rows: int = 0

    def add(self, other: Report) -> None:
        """Add up."""
        self.wrong += other.wrong
        self.cuts += other.cuts
        self.acks += other.acks
        self.rows += other.rows


@dataclass(slots=True, kw_only=True)
class Powered:
    """A mirror on file systems whose power can be cut."""

    stage: Stage
    disks: list[Disk]
    report: Report = field(default_factory=Report)
    acked: set[str] = field(default_factory=set)

    def anew(self) -> None:
        """Begin with empty file systems."""
        for disk in self.disks:
            disk.detach()
            disk.make()
            disk.attach()
        self.stage.root.mkdir()
        self.stage.state.mkdir(mode=0o700)
        for disk in self.disks:
            run("sync", "--file-system", disk.mount)
        self.acked.clear()

    def run_and_cut(self, *, on: str, at: int = 1, bug: str | None = None) -> Ended:
        """Run until the `at`-th event of a kind, where the power is cut, and look at what is left."""
        since = self._before()
        mounts = [disk.mount for disk in self.disks]
        ended = self.stage.run(cuts=mounts, cut_on=on, cut_at=at, bug=bug)
        self._after(ended, since)
        return ended

    def run_for(self, seconds: float, *, bug: str | None = None) -> Ended:
        """Run for so long, cut the power, and look at what is left."""
        until = time.monotonic() + seconds
        return self.run_until(lambda: time.monotonic() >= until, bug=bug)

    def run_until(self, is_so: Callable[[], bool], *, bug: str | None = None) -> Ended:
        """Run until something is so, cut the power, and look at what is left."""
        since = self._before()
        process = self.stage.start(bug=bug)
        deadline = time.monotonic() + _PATIENCE_S
        while not is_so():
            assert time.monotonic() < deadline, f"it did not come to that: {process.output()}"
            time.sleep(0.001)  # noqa: TID251 - another process's work
        # It stands still first: between the cuts of two file systems nothing can happen, as with one power supply.
        process.stop()
        cut(*(disk.mount for disk in self.disks))
        process.kill()
        ended = process.wait()
        self._after(ended, since)
        return ended

    def finish(self) -> None:
        """See whether a following run completes it all."""
        if not self.report.wrong:
            self.report.wrong += self.stage.complete()

    def _before(self) -> int:
        # Each run refreshes its token once.
        self.stage.sandbox.tokens.revoke_access()
        return len(self.stage.sandbox.calls)

    def _after(self, ended: Ended, since: int) -> None:
        for disk in self.disks:
            disk.again()
        report, stage = self.report, self.stage
        self.acked.update(ended.acked())
        report.acks += len(ended.acked())
        report.cuts += ended.status < 0
        if ended.status > 0:
            report.wrong.append(f"it ended with {ended.status}: {ended.output[-2000:]}")
        report.wrong += stage.look(acked=sorted(self.acked))
        if stage.chained:
            report.wrong += aftermath.wrong_with_tokens(stage.state, stage.sandbox, since=since)
            aftermath.heal_tokens(stage.state, stage.sandbox)
        if not report.wrong:
            report.rows += len(aftermath.published(stage.state))


@contextmanager
def powered(workshop: Workshop, stage: Stage, kind: Kind, *, on_two: bool) -> Iterator[Powered]:
    """Put a mirror on a file system of its own, or tree and state folder on one each."""
    names = ("tree", "state") if on_two else ("both",)
    disks = [workshop.disk(f"{kind}-{name}", kind) for name in names]
    mirror = Powered(stage=replace(stage, root=disks[0].mount / "mirror", state=disks[-1].mount / "state"), disks=disks)
    try:
        mirror.anew()
        yield mirror
    finally:
        for disk in disks:
            disk.detach()


def cut_after_each_ack(mirror: Powered, *, rounds: int, bug: str | None = None) -> Report:
    """Cut the power right after each acknowledgement, until all is mirrored; so many times from the beginning."""
    return _cut_after_each("ack", mirror, rounds=rounds, bug=bug)


def cut_after_use_of_a_token(mirror: Powered, *, rounds: int, bug: str | None = None) -> Report:
    """Cut the power right after the first call under a new access token, again and again."""
    for _ in range(rounds):
        # The first answer is a 401, the second one comes to the new token.
        mirror.run_and_cut(on="used", at=2, bug=bug)
        if mirror.report.wrong:
            break
    mirror.finish()
    return mirror.report


def cut_while_refreshing(mirror: Powered, *, rounds: int, bug: str | None = None) -> Report:
    """Cut the power when Autodesk has used up a token and its answer is on the way (design.md, Token protocol)."""
    tokens = mirror.stage.sandbox.tokens
    for _ in range(rounds):
        mirror.stage.sandbox.faults.add(Fault(server="token", kind="wait-after-commit", seconds=1.0))
        mirror.run_until(lambda before=tokens.refresh_count: tokens.refresh_count > before, bug=bug)  # type: ignore[misc]
        if mirror.report.wrong:
            break
    mirror.stage.sandbox.faults.clear()
    mirror.finish()
    return mirror.report


def cut_at_steps(mirror: Powered, steps: Iterable[int], *, on: str = "step", bug: str | None = None) -> Report:
    """Cut the power after the N-th fsync or rename of a first run, for each N, and let the next run complete it."""
    for step in steps:
        mirror.anew()
        mirror.run_and_cut(on=on, at=step, bug=bug)
        mirror.finish()
        if mirror.report.wrong:
            mirror.report.wrong.append(f"that was at step {step}")
            break
    return mirror.report


def cut_after_what_a_kill_left(mirror: Powered, steps: Iterable[int], *, bug: str | None = None) -> Report:
    """Kill a first run after its N-th step, the power stays on; cut that right after the next run's first ack.

    The kernel still has what the killed one made and nobody made durable: the next run finds it, and builds on it.
    """
    for step in steps:
        mirror.anew()
        killed = mirror.stage.run(one_thread=True, cut_on="step", cut_at=step, bug=bug)
        mirror.acked.update(killed.acked())
        mirror.run_and_cut(on="ack", bug=bug)
        mirror.finish()
        if mirror.report.wrong:
            mirror.report.wrong.append(f"that was after step {step}")
            break
    return mirror.report


def cut_after_a_killed_publish(mirror: Powered, *, number: int, rounds: int, bug: str | None = None) -> Report:
    """Kill a first run right after its N-th publish by rename, and cut the power right after the next run's first ack.

    After the first one the manifest is made anew from the tree; after a later one the snapshot alone is adopted.
    """
    renames = [step for step, name in enumerate(mirror.stage.steps(), 1) if name == "rename_noreplace"]
    return cut_after_what_a_kill_left(mirror, [renames[number - 1]] * rounds, bug=bug)


def cut_at_random(
    mirror: Powered, chance: random.Random, *, cuts: int, longest_s: float, bug: str | None = None
) -> Report:
    """Cut the power at random moments, again and again in the same mirror, until that is complete."""
    while mirror.report.cuts < cuts and not mirror.report.wrong:
        mirror.run_for(chance.uniform(0.0, longest_s), bug=bug)
        if len(mirror.acked) == len(mirror.stage.world.jobs):
            mirror.finish()
            mirror.anew()
    return mirror.report


def _cut_after_each(event: str, mirror: Powered, *, rounds: int, bug: str | None) -> Report:
    for _ in range(rounds):
        mirror.anew()
        while not mirror.report.wrong:
            if mirror.run_and_cut(on=event, bug=bug).status == 0:
                break
        mirror.finish()
        if mirror.report.wrong:
            break
    return mirror.report
