"""A kill before every single call that changes a file, and kills of the run that recovers (fault D1, D2, D15, T1, T2).

The run that is killed has everything to do that a run can have: see tests/rigs/halfway.py. The calls are counted and
the process is killed by seccomp (tests/rigs/syscalls.py), since strace counts the calls of each thread apart.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from dcsync.manifest import checksums as seal
from tests.rigs.halfway import Halfway, halfway
from tests.rigs.processes import forking, run_of
from tests.rigs.pruned import to_prune
from tests.rigs.syscalls import Call, Watch
from tests.torture.conftest import SLICE, Figure, pick

#: Between the server's answer and its reaching the slot: there, and only there, a kill loses the chain (fault T1).
LOSING = {Call(name="openat", path="state/token.next"), Call(name="write", path="state/token.next")}


async def points_of(mirror: Halfway) -> tuple[list[Call], list[tuple[object, ...]]]:
    """Run once without a kill and return the calls that change files, and what is in the manifest then."""
    mirror.restore()
    watch = Watch(folder=mirror.folder)
    assert await mirror.sync(watch) == 0, mirror.said()
    mirror.witness.assert_all_mirrored()
    mirror.assert_sent_once(kills=0)
    return watch.calls, mirror.rows()


@pytest.mark.first
@pytest.mark.timeout(1800)
async def test_a_kill_before_any_call_that_changes_a_file_loses_nothing(
    tmp_path: Path, chance: random.Random, figure: Figure
) -> None:
    began, lost, killed = time.monotonic(), Counter[Call](), 0
    async with forking(tmp_path) as start, halfway(start) as mirror:
        points, rows = await points_of(mirror)
        step = pick(1, max(1, len(points) // 25))
        chosen = range(1 + chance.randrange(step), len(points) + 1, step)
        for number in chosen:
            mirror.restore()
            watch = Watch(folder=mirror.folder, kill_at=number)
            status = await mirror.sync(watch)
            # How many calls the database makes differs a little from run to run.
            assert status == -signal.SIGKILL if watch.killed_before else status == 0, mirror.said()
            killed += status == -signal.SIGKILL
            if await mirror.finish():
                assert watch.killed_before is not None
                lost[watch.killed_before] += 1
            # Recovering comes to the same end as having never been killed.
            assert mirror.rows() == rows
            mirror.assert_sent_once(kills=1)
            assert "Traceback" not in mirror.said()
        assert set(lost) <= LOSING, lost
        assert SLICE or lost, "no kill met the moment between spending and saving"
    figure(
        "kill before each call that changes a file",
        f"{killed} kills at {len(points)} points, nothing partial or lost; {lost.total()} times a sign-in was needed, "
        f"always between using and saving a token; {(time.monotonic() - began) / len(chosen):.2f} s a point",
    )


@pytest.mark.timeout(1800)
async def test_kills_of_the_run_that_recovers_change_nothing_of_the_end(
    tmp_path: Path, chance: random.Random, figure: Figure
) -> None:
    began, rounds, logins = time.monotonic(), pick(60, 5), 0
    kills = Counter[int]()
    async with forking(tmp_path) as start, halfway(start) as mirror:
        points, rows = await points_of(mirror)
        for number in range(rounds):
            mirror.restore()
            depth, before = 1 + number % 5, set[Call]()
            # The first kill anywhere, the others early: what a start does, and the first it does after that.
            for level in range(1 + depth):
                kill_at = 1 + chance.randrange(len(points) if level == 0 else len(points) // 4)
                watch = Watch(folder=mirror.folder, kill_at=kill_at)
                intent = mirror.doubtful()
                if intent is not None:
                    mirror.let_time_pass(intent)
                was_alive = mirror.holds_live_token()
                status = await mirror.sync(watch)
                if watch.killed_before is None:
                    assert status == (0 if was_alive else 12), mirror.said()
                else:
                    assert status == -signal.SIGKILL, mirror.said()
                    before.add(watch.killed_before)
                    kills[depth] += 1
            if await mirror.finish():
                logins += 1
                assert before & LOSING, before
            assert mirror.rows() == rows
            mirror.assert_sent_once(kills=1 + depth)
            # And once more, with nothing left to do.
            sent = len(mirror.sandbox.calls)
            assert await mirror.sync() == 0
            assert [call.server for call in mirror.sandbox.calls[sent:]] == ["api"]
            assert mirror.rows() == rows
            assert "Traceback" not in mirror.said()
    figure(
        "kills of the run that recovers, 1 to 5 deep",
        f"{rounds} rounds, {kills.total()} kills, the same end each time; {logins} logins needed; "
        f"{(time.monotonic() - began) / rounds:.1f} s a round",
    )


@pytest.mark.timeout(1800)
async def test_a_kill_before_any_call_of_a_prune_loses_no_row(
    tmp_path: Path, chance: random.Random, figure: Figure
) -> None:
    began, killed = time.monotonic(), 0
    async with forking(tmp_path) as start, to_prune(start) as mirror:
        mirror.restore()
        watch = Watch(folder=mirror.folder)
        assert await mirror.run("prune", "--force", watch=watch) == 0, mirror.said()
        mirror.look()
        points, states = watch.calls, mirror.states()
        assert Counter(state[1] for state in {row[:2] for row in states}) == {"published": 2, "reduced": 2, "pruned": 2}
        step = pick(1, max(1, len(points) // 12))
        chosen = range(1 + chance.randrange(step), len(points) + 1, step)
        for number in chosen:
            mirror.restore()
            watch = Watch(folder=mirror.folder, kill_at=number)
            status = await mirror.run("prune", "--force", watch=watch)
            assert status == -signal.SIGKILL if watch.killed_before else status == 0, mirror.said()
            killed += status == -signal.SIGKILL
            mirror.look()
            # The next run ends as if nothing had happened.
            assert await mirror.run("prune", "--force") == 0, mirror.said()
            mirror.look()
            assert mirror.states() == states
            assert mirror.left_over() == []
            assert "Traceback" not in mirror.said()
        assert await mirror.run("verify") == 0, mirror.said()
    figure(
        "kill before each call of a prune",
        f"{killed} kills at {len(points)} points, no row lost; "
        f"{(time.monotonic() - began) / len(chosen):.2f} s a point",
    )


async def upgrade(path: Path) -> None:
    """Do to a manifest what a newer dcsync would: change the schema, its version, and the seal over both."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    async with engine.begin() as connection:
        await connection.execute(sa.text("ALTER TABLE job ADD COLUMN something_new TEXT"))
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        await seal.seal_meta(connection)
    await engine.dispose()


async def test_an_older_dcsync_refuses_the_manifest_of_a_newer_one(tmp_path: Path) -> None:
    async with forking(tmp_path) as start, halfway(start) as mirror:
        mirror.restore()
        assert await mirror.sync() == 0
        await upgrade(mirror.manifest)
        before, calls = mirror.manifest.read_bytes(), len(mirror.sandbox.calls)

        for command in ("sync", "run", "status", "verify", "prune"):
            refusals = mirror.said().count("code: D-NEWER")
            async with run_of(start, "--config", str(mirror.folder / "config.toml"), command) as run:
                status = await run.wait()
            assert (status, mirror.said().count("code: D-NEWER")) == (2, refusals + 1), mirror.said()

        assert mirror.manifest.read_bytes() == before
        assert len(mirror.sandbox.calls) == calls
        mirror.witness.assert_all_mirrored()
