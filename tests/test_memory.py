"""Memory does not grow with the size of a file."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dcsync.sandbox import Synthetic
from tests.rigs.served import TOKEN, served

MIB = 1 << 20
#: VmHWM is of this program alone; ru_maxrss would carry over what the parent had before exec.
PROGRAM = """
import sys
from dcsync.cli.group import run
status = run(["--config", sys.argv[1], "sync"])
for line in open("/proc/self/status"):
    if line.startswith("VmHWM"):
        print("peak", line.split()[1])
sys.exit(status)
"""


def peak_bytes(folder: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Mirror one file of `size` bytes in a process of its own and return the most memory it had."""
    folder.mkdir()
    with served(folder, etag="opaque") as side:
        world = side.sandbox.world
        request = world.add_request("Large")
        files = {"forms_forms.csv": Synthetic(size)}
        world.add_job(request, completed_at=datetime.now(UTC), files=files, with_archive=False)
        monkeypatch.setenv(TOKEN, side.token)

        result = subprocess.run(
            [sys.executable, "-c", PROGRAM, side.config], capture_output=True, text=True, check=False
        )

        assert result.returncode == 0, result.stderr
        (mirrored,) = side.root.glob("acme/*/[0-9]*/**/forms_forms.csv")
        assert mirrored.stat().st_size == size
        mirrored.unlink()
    return int(result.stdout.split()[-1]) * 1024


@pytest.mark.machine
def test_a_file_fifty_times_as_large_takes_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = peak_bytes(tmp_path / "small", 20 * MIB, monkeypatch)
    large = peak_bytes(tmp_path / "large", 1000 * MIB, monkeypatch)

    assert large <= 1.1 * small
    assert large < 180 * MIB
