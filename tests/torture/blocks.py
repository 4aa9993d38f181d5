"""The trial of replayed block logs (docs/project/torture.md)."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.rigs.blocklog import Crashes, logged
from tests.rigs.disks import Disk, Kind, Workshop, run
from tests.rigs.stage import Stage


@dataclass(slots=True, kw_only=True)
class Report:
    """What a trial saw."""

    wrong: list[str] = field(default_factory=list)
    images: int = 0
    acks: int = 0
    lost_bytes: int = 0
    flushes: int = 0
    completed: int = 0
    kills: int = 0


def crash_everywhere(
    workshop: Workshop,
    stage: Stage,
    kind: Kind,
    chance: random.Random,
    *,
    images: int,
    grains: tuple[int, ...],
    complete_each: int,
    kills: int = 0,
    bug: str | None = None,
) -> Report:
    """Log what a run writes, and look at the disks that a cut could leave: right after each ack, and after any write.

    Before that run, `kills` others are killed after one of their steps; what they wrote is in the log, too. Of every
    `complete_each`-th disk the following run is made as well.
    """
    report = Report()
    steps = len(stage.steps()) if kills else 0
    with logged(workshop, f"{kind}-{stage.runs}", kind) as log:
        mount = log.disk.mount
        stage = replace(stage, root=mount / "mirror", state=mount / "state")
        stage.root.mkdir()
        stage.state.mkdir(mode=0o700)
        run("sync", "--file-system", mount)
        began = log.position()
        runs = [
            stage.run(block_log=log.log, bug=bug, cut_on="step", cut_at=chance.randrange(1, steps))
            for _ in range(kills)
        ]
        ended = stage.run(block_log=log.log, bug=bug)
        stopped = log.position()
    if ended.status != 0:
        report.wrong.append(f"it ended with {ended.status}: {ended.output[-2000:]}")
        return report
    report.kills = sum(run.status < 0 for run in runs)
    acks = [event for run in (*runs, ended) for event in run.events if event.kind == "ack"]
    crashes = Crashes(log, workshop.folder / "running")
    report.flushes = crashes.flushes()
    # Right after an ack all is flushed as a rule. Of the other half each has a write to lose.
    positions = [event.position for event in acks][: images // 2]
    positions += chance.choices(crashes.unflushed(began, stopped), k=images - len(positions))
    for position in sorted(positions):
        image = workshop.folder / "crashed"
        grain = chance.choice(grains)
        report.lost_bytes += crashes.leave(image, position=position, grain=grain, chance=chance)
        report.images += 1
        acked = [event.about for event in acks if event.position <= position]
        report.acks += len(acked)
        completes = report.images % complete_each == 0
        report.wrong += _look_at(stage, kind, image, mount, acked, completes=completes)
        report.completed += completes
        if report.wrong:
            report.wrong.append(f"that was at {position} of {began} to {stopped}, grain {grain}")
            break
    return report


def _look_at(stage: Stage, kind: Kind, image: Path, mount: Path, acked: list[str], *, completes: bool) -> list[str]:
    disk = Disk(kind=kind, image=image, mount=mount, backing=image)
    try:
        disk.attach()
        wrong = stage.look(acked=acked)
        if completes and not wrong:
            wrong = stage.complete()
        return wrong
    except AssertionError as error:
        return [str(error)]
    finally:
        disk.detach()
        if kind == "btrfs":
            # It remembers each disk by its id, and these have all the same.
            run("btrfs", "device", "scan", "--forget")
