"""The start of every command."""

from __future__ import annotations

import gc

from dcsync.cli.startup import run_loop


def test_the_work_runs_with_the_garbage_collector_that_the_start_turned_off() -> None:
    async def is_on() -> bool:
        return gc.isenabled()

    gc.disable()
    try:
        assert run_loop(is_on())
    finally:
        gc.enable()
