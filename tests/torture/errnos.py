"""The trials of failing system calls (docs/project/torture.md): each returns what was wrong."""

from __future__ import annotations

import errno
import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.rigs import aftermath, tracer
from tests.rigs.stage import DOCUMENTED, Stage
from tests.rigs.tracer import Call, Traced

_FULL: Final = ("ENOSPC", "EDQUOT")
_BROKEN: Final = ("EIO", "EROFS", "ESTALE")
CLOSE: Final = "close"
ERRORS: Final[dict[str, tuple[str, ...]]] = {
    "write": (*_FULL, "EIO", "ESTALE", "EFBIG"),
    "pwrite64": (*_FULL, "EIO", "ESTALE", "EFBIG"),
    "fsync": (*_FULL, *_BROKEN),
    "fdatasync": (*_FULL, *_BROKEN),
    CLOSE: (*_FULL, "EIO", "ESTALE"),
    "openat": (*_FULL, *_BROKEN, "EMFILE"),
    "rename": (*_FULL, *_BROKEN),
    "renameat": (*_FULL, *_BROKEN),
    "renameat2": (*_FULL, *_BROKEN),
    "mkdir": (*_FULL, *_BROKEN),
    "mkdirat": (*_FULL, *_BROKEN),
    "link": (*_FULL, *_BROKEN, "EMLINK"),
    "linkat": (*_FULL, *_BROKEN, "EMLINK"),
    "ftruncate": (*_FULL, *_BROKEN),
    "fallocate": (*_FULL, *_BROKEN, "EOPNOTSUPP"),
    "unlink": _BROKEN,
    "unlinkat": _BROKEN,
    "fchmod": _BROKEN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The `at`-th call of a kind fails; with `lasts` all that follow do as well."""

    call: str
    error: str
    at: int
    lasts: bool = False

    def __str__(self) -> str:
        return f"{self.call}:error={self.error}:when={self.at}{'+' if self.lasts else ''}"


@dataclass(slots=True, kw_only=True)
class Report:
    """What a trial saw."""

    wrong: list[str] = field(default_factory=list)
    rounds: int = 0
    #: Faults that hit something else than the mirror or its state.
    astray: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    failed_fsyncs: int = 0
    acks: int = 0


def survey(stage: Stage) -> Counter[str]:
    """Make a run without a fault; return how often each call works below the mirror and its state folder."""
    traced = tracer.trace(stage.start(stops_first=True, one_thread=True))
    assert traced.ended.status == 0, traced.ended.output
    counted = tracer.most(traced.calls, (stage.root, stage.state))
    # Of these only what was written is counted, which strace does not tell.
    return Counter({**counted, CLOSE: counted[CLOSE] // 3})


def points(counted: Counter[str]) -> list[Fault]:
    """Return every fault that a run can meet."""
    return [
        Fault(call=call, error=error, at=at, lasts=lasts)
        for call, most in sorted(counted.items())
        for error in ERRORS[call]
        for at in range(1, most + 1)
        for lasts in ((False,) if call == CLOSE else (False, True))
    ]


def spread(faults: Sequence[Fault], chance: random.Random, count: int) -> list[Fault]:
    """Choose so many, each call and error as likely as any other: there are a hundred writes for each mkdir."""
    families: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        families.setdefault((fault.call, fault.error), []).append(fault)
    order = list(families)
    chance.shuffle(order)
    return [chance.choice(families[order[number % len(order)]]) for number in range(count)]


def fail_at(stage: Stage, faults: Sequence[Fault], *, bug: str | None = None) -> Report:
    """Make a run for each fault in a mirror of its own, look at what it left, and let a run without one complete it."""
    report = Report()
    for fault in faults:
        folder = stage.folder / "mirror-under-test"
        there = stage.elsewhere(folder)
        there.root.mkdir(parents=True)
        there.state.mkdir(mode=0o700)
        wrong = list(_one(there, fault, report, bug))
        shutil.rmtree(folder)
        if wrong:
            report.wrong += [f"{fault}: {what}" for what in wrong]
            break
    return report


def _one(stage: Stage, fault: Fault, report: Report, bug: str | None) -> Iterator[str]:
    since = len(stage.sandbox.calls)
    # What is closed is closed also when that fails; strace would leave it open.
    close = (fault.at, getattr(errno, fault.error)) if fault.call == CLOSE else None
    process = stage.start(stops_first=True, one_thread=True, bug=bug, close_fails=close, close_below=stage.root.parent)
    traced = tracer.trace(process, *(() if close else (str(fault),)))
    ended = traced.ended
    report.rounds += any(event.kind == "closed" for event in ended.events)
    hit = [call for call in traced.injected() if str(stage.root.parent) in call.line]
    report.astray += len(hit) != len(traced.injected())
    report.rounds += bool(hit)
    if len(hit) == len(traced.injected()):
        # What hits Python itself, its modules or its stderr, says nothing of dcsync.
        report.statuses[ended.status] += 1
        if ended.status not in DOCUMENTED or "Traceback" in ended.output:
            yield f"it ended with {ended.status}: {ended.output[-6000:]}"
        if ended.status != 0 and not re.search(r"\[[A-Z]-[A-Z]+\]|code: [A-Z]-[A-Z]+", ended.output):
            yield f"it ended with {ended.status} and no error of ours: {ended.output[-2000:]}"
    report.acks += len(ended.acked())
    yield from stage.look(acked=ended.acked())
    report.failed_fsyncs += sum(call.name in {"fsync", "fdatasync"} for call in hit)
    yield from fsynced_again(traced)
    yield from aftermath.wrong_with_tokens(stage.state, stage.sandbox, since=since)
    aftermath.heal_tokens(stage.state, stage.sandbox)
    yield from stage.complete()


def fsynced_again(traced: Traced) -> Iterator[str]:
    """Name the files that were fsynced again after an fsync failed, without being begun anew (fsyncgate)."""
    files = {call.path() for call in traced.calls if call.name in {"write", "pwrite64", "fallocate"}}
    failed: set[str] = set()
    for call in traced.calls:
        if call.name in {"fsync", "fdatasync"}:
            path = call.path()
            # SQLite writes the frames of a failed commit again before it syncs its log once more.
            if path in failed and path in files and "manifest.sqlite" not in path:
                yield f"{path} is fsynced again after a failed fsync"
            if re.search(r"= -1 E", call.line):
                failed.add(path)
        elif (call.name in {"unlink", "unlinkat", "ftruncate"}) or (call.name == "openat" and "O_TRUNC" in call.line):
            failed.discard(_target(call))


def _target(call: Call) -> str:
    """Return the path that a call is about, also where it is given as a folder and a name."""
    if match := re.match(r'\w+\(\S*?<([^>]*)>, "([^"]*)"', call.line):
        return match[2] if match[2].startswith("/") else f"{match[1]}/{match[2]}"
    if match := re.match(r'\w+\("([^"]*)"', call.line):
        return match[1]
    return call.path()


def cannot_look(stage: Stage, error: str, *, bug: str | None = None) -> list[str]:
    """Let the folders of published snapshots not be looked at: they are not missing for that."""
    ended = stage.run()
    if ended.status != 0:
        return [f"it ended with {ended.status}: {ended.output}"]
    before = aftermath.published(stage.state)
    days = sorted({(stage.root / row.folder).parent.parent for row in before.values()})
    fetched = stage.sandbox.count("storage")
    traced = tracer.trace(
        stage.start(stops_first=True, one_thread=True, bug=bug),
        f"openat:error={error}:when=1+",
        calls=("openat",),
        within=days,
    )
    wrong = []
    if not traced.injected():
        wrong.append("nothing failed")
    if traced.ended.status not in DOCUMENTED - {0} or "Traceback" in traced.ended.output:
        wrong.append(f"it ended with {traced.ended.status}: {traced.ended.output[-2000:]}")
    if aftermath.published(stage.state) != before:
        wrong.append("what could not be looked at lost its row")
    wrong += stage.complete()
    if stage.sandbox.count("storage") != fetched:
        wrong.append("what could not be looked at was fetched again")
    return wrong


def cannot_read(stage: Stage, chance: random.Random) -> list[str]:
    """Let one file of a published snapshot not be read: `verify` calls it unreadable, and leaves it as it is."""
    ended = stage.run()
    if ended.status != 0:
        return [f"it ended with {ended.status}: {ended.output}"]
    row = chance.choice(list(aftermath.published(stage.state).values()))
    # One that no other snapshot shares: that would be read under its other name.
    alone = [name for name in sorted(row.files) if (stage.root / row.folder / name).stat().st_nlink == 1]
    name = chance.choice(alone)
    path = stage.root / row.folder / name
    body, inode = path.read_bytes(), path.stat().st_ino
    process = stage.start("verify", "--json", stops_first=True, one_thread=True)
    traced = tracer.trace(process, "/p?read.*:error=EIO:when=1+", calls=tracer.READS, within=[path])
    wrong = []
    if not traced.injected():
        wrong.append("nothing failed")
    report = json.loads(_last_document(traced.ended.output))
    kinds = {finding["kind"] for finding in report["findings"] if finding["path"].endswith(f"/{name}")}
    if kinds != {"unreadable"}:
        wrong.append(f"{name} is called {kinds}: {traced.ended.output}")
    if (path.read_bytes(), path.stat().st_ino) != (body, inode):
        wrong.append("it was changed")
    return wrong + aftermath.incomplete(stage.root, stage.state, stage.world)


def _last_document(text: str) -> str:
    """Return the JSON that a command answered with, after what it logged."""
    return text[text.rindex("\n{\n") + 1 :] if "\n{\n" in text else text[text.index("{\n") :]
