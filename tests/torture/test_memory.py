"""Out of memory in the middle of it: the kernel kills, and the next run goes on (docs/project/faults.md D11).

The limit is that of a control group. How much a run needs is measured first, and the limits are drawn below it: the
lowest end it while it imports, the highest when it is nearly through. That a unit's restarts are limited is in
test_poison.py.
"""

from __future__ import annotations

import random
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dcsync.sandbox import Options, Sandbox
from tests.rigs.cgroups import memory_group
from tests.rigs.kills import CONCURRENCY, IN_MEMORY, TOKEN, Witness, due_bytes, make_world, sent_bytes, write_config
from tests.rigs.mirror import tables
from tests.rigs.processes import Cold, run_of, said
from tests.torture.conftest import Figure, need, pick


@pytest.mark.timeout(900)
async def test_a_run_that_is_killed_for_want_of_memory_loses_nothing(
    tmp_path: Path, chance: random.Random, figure: Figure
) -> None:
    need()
    world = make_world(with_archive=True, days=3)
    (tmp_path / "mirror").mkdir()
    witness = Witness(tmp_path / "mirror", world)
    statuses, worked = [], 0
    with memory_group() as group:
        start = Cold(tmp_path, group.members)
        async with Sandbox(world, options=Options(quota_per_minute=None)) as sandbox:
            argv = ("--config", str(write_config(tmp_path, sandbox)), "sync")
            environ = {TOKEN: sandbox.tokens.issue_access_token("tester", 86400)}

            async def sync() -> int:
                async with run_of(start, *argv, environ=environ) as run:
                    return await run.wait()

            def another_day(number: int) -> None:
                request = next(iter(world.requests))
                world.add_job(request, completed_at=datetime.now(UTC), files=tables(300, size=20_000, seed=number))

            group.limit(None)
            another_day(0)
            assert await sync() == 0, said(tmp_path)
            needed = group.peak()
            # Kept for files is what the kernel gives back; a run ends for want of about this.
            lowest, highest = int(0.3 * needed), int(0.9 * needed)
            for number in range(1, pick(40, 6) + 1):
                another_day(number)
                # Every third anywhere, the others where it is at work.
                share = chance.uniform(0.0, 1.0) if number % 3 == 0 else chance.uniform(0.5, 1.0)
                group.limit(int(lowest + share * (highest - lowest)))
                kills, calls = group.kills(), len(sandbox.calls)
                statuses.append(await sync())
                # Killed by the kernel for this and nothing else.
                assert statuses[-1] in {0, -signal.SIGKILL}, said(tmp_path)
                assert (group.kills() > kills) is (statuses[-1] != 0)
                worked += statuses[-1] != 0 and len(sandbox.calls) > calls
                witness.look()
            group.limit(None)
            assert await sync() == 0, said(tmp_path)
            witness.assert_all_mirrored()
            assert "Traceback" not in said(tmp_path)
            killed = len([status for status in statuses if status])
            assert sent_bytes(sandbox) <= due_bytes(world) + killed * CONCURRENCY * IN_MEMORY
    assert killed > 0, f"no limit between {lowest} and {highest} bytes was too low"
    figure(
        "killed because memory ran out",
        f"{killed} of {len(statuses)} runs, {worked} of them with work to do, under limits of {lowest >> 20} to "
        f"{highest >> 20} MiB; nothing partial or lost",
    )
