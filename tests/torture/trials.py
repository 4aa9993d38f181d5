"""Further trials, of kills and of answers that are wrong: each returns what was wrong."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from dcsync.sandbox import Fault
from tests.rigs import aftermath, tracer
from tests.rigs.stage import Stage

_PATIENCE_S = 120.0


def short_writes(stage: Stage, *, limit: int, bug: str | None = None) -> list[str]:
    """Let no file grow past `limit`: the last write before it takes some bytes, the next one none (RLIMIT_FSIZE)."""
    process = stage.start(largest_file=limit, bug=bug, stops_first=True)
    # No room can be reserved here, or that would fail first.
    ended = tracer.trace(process, "fallocate:error=EOPNOTSUPP").ended
    wrong = stage.look(acked=ended.acked())
    if ended.status != 3 or "F-SPACE" not in ended.output:
        wrong.append(f"it ended with {ended.status}: {ended.output[-2000:]}")
    return wrong or stage.complete()


def short_answers(stage: Stage, *, bug: str | None = None) -> list[str]:
    """Let a body end early, with no length said before (docs/project/faults.md A20). The store's ETags are no MD5."""
    stage.sandbox.faults.add(Fault(server="storage", kind="short-chunked", amount=1000, match="drawings"))
    ended = stage.run(bug=bug)
    stage.sandbox.faults.clear()
    return stage.look(acked=ended.acked()) or stage.complete()


def broken_answers(stage: Stage, *, bug: str | None = None) -> list[str]:
    """Let a download break off in its middle: it goes on under the condition that the file is still the same."""
    since = len(stage.sandbox.calls)
    stage.sandbox.faults.add(Fault(server="storage", kind="cut", amount=1_400_000, match="drawings", times=2))
    ended = stage.run(bug=bug)
    stage.sandbox.faults.clear()
    ranged = [
        call
        for call in stage.sandbox.calls[since:]
        if call.server == "storage" and "range" in call.headers and call.path.endswith("drawings.bin")
    ]
    wrong = [f"{call.path} is resumed without If-Match" for call in ranged if "if-match" not in call.headers]
    if not ranged:
        wrong.append(f"nothing was resumed: {ended.output}")
    return wrong + stage.look(acked=ended.acked()) or stage.complete()


def killed_before_the_commit(stage: Stage, *, bug: str | None = None) -> list[str]:
    """Kill it between the rename and the commit: what is published is adopted, neither touched nor fetched again."""
    # The second: after the first one the manifest knows no snapshot, and is made anew from the tree.
    stage.run(cut_on="commit", cut_at=2, bug=bug)
    found = {folder: folder.stat().st_ino for folder in aftermath.snapshots(stage.root)}
    jobs = [folder.name.rpartition("-")[2] for folder in found]
    before = _fetched(stage, jobs)
    ended = stage.run(bug=bug)
    wrong = [] if found else ["nothing was published"]
    if ended.status != 0:
        wrong.append(f"it ended with {ended.status}: {ended.output[-2000:]}")
    wrong += [
        f"{folder.name} is another folder now"
        for folder, inode in found.items()
        if not folder.exists() or folder.stat().st_ino != inode
    ]
    if _fetched(stage, jobs) != before:
        wrong.append("what was published is fetched again")
    return wrong or stage.complete()


def killed_before_the_rename(stage: Stage, *, bug: str | None = None) -> list[str]:
    """Kill it when all is staged, and lose the manifest: what is staged is not published."""
    _kill_when_staged(stage)
    for place in stage.state.glob("manifest.sqlite*"):
        place.unlink()
    ended = stage.run(bug=bug)
    return stage.look(acked=ended.acked()) or stage.complete()


def flipped_in_the_staging(stage: Stage, *, bug: str | None = None) -> list[str]:
    """Kill it when all is staged, and let a byte of that rot: the next run believes nothing that it has not hashed."""
    _kill_when_staged(stage)
    (path,) = stage.root.glob(".dcsync/staging/*/drawings.bin")
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    ended = stage.run(bug=bug)
    return stage.look(acked=ended.acked()) or stage.complete()


def somebody_s_folder(stage: Stage, *, bug: str | None = None) -> list[str]:
    """Let a folder of somebody else's appear where a snapshot is about to go: it stays as it is."""
    stage.sandbox.faults.add(Fault(server="storage", kind="delay", seconds=1.0, match="drawings", times=None))
    process = stage.start(bug=bug)
    folder = _chosen_folder(stage)
    folder.mkdir(parents=True)
    (folder / "theirs.txt").write_text("not dcsync's")
    stage.sandbox.faults.clear()
    ended = process.wait()
    there = sorted(path.name for path in folder.iterdir())
    wrong = [] if there == ["theirs.txt"] else [f"their folder holds {there} now"]
    if ended.status != 3 or "M-TAMPERED" not in ended.output:
        # The rest is mirrored all the same.
        wrong.append(f"it ended with {ended.status}: {ended.output[-2000:]}")
    (folder / "theirs.txt").unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
    return wrong or stage.complete()


def _kill_when_staged(stage: Stage) -> None:
    """Kill a run after the last fsync before its first publish."""
    ended = stage.run(one_thread=True, cut_on="step", cut_at=stage.steps().index("rename_noreplace"))
    assert ended.status < 0
    assert list(stage.root.glob(".dcsync/staging/*/SHA256SUMS")), "it was not staged yet"


def _chosen_folder(stage: Stage) -> Path:
    """Wait until a job has its folder, while its bytes are held back."""
    import sqlite3
    from contextlib import closing

    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        with (
            suppress(sqlite3.OperationalError),
            closing(sqlite3.connect(f"file:{stage.state}/manifest.sqlite?mode=ro", uri=True)) as database,
        ):
            found = database.execute("SELECT folder FROM job WHERE state = 'staging'").fetchone()
            if found:
                return stage.root / str(found[0])
        time.sleep(0.01)  # noqa: TID251 - another process's work
    message = "no job came to be staged"
    raise AssertionError(message)


def _fetched(stage: Stage, jobs: list[str]) -> int:
    """Return how often the file store was asked for something of these jobs."""
    return sum(call.server == "storage" and any(f"/{job}" in call.path for job in jobs) for call in stage.sandbox.calls)
