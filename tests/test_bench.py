"""The benchmark's own promise: a bar that was missed is no success."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, sys
from bench import run
for bar in sys.argv.pop(1).split():
    run.show("what", "1", "0", met=bar == "ok")
sys.exit(asyncio.run(run.main()))
"""


@pytest.mark.parametrize(("bars", "status"), [("ok ok", 0), ("ok MISS ok", 1)])
def test_a_missed_bar_fails_the_benchmark(bars: str, status: int) -> None:
    result = subprocess.run(
        # No part of it has this name.
        [sys.executable, "-c", PROGRAM, bars, "nothing"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == status, result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()] == bars.split()
