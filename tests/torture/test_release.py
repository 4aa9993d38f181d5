"""What the rigs mount, attach and freeze is released, however the torture ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rigs.disks import run, sweep
from tests.rigs.ended import end
from tests.torture.conftest import Figure, need

_WORK = """
import signal
from tests.rigs.disks import freeze, workshop
with workshop() as shop:
    disk = shop.disk("tree", "ext4")
    shop.memory("memory", "size=1m")
    freeze(disk.mount)
    print(shop.folder, flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_nothing_stays_mounted_attached_or_frozen(figure: Figure, number: signal.Signals) -> None:
    need("mkfs.ext4", "losetup", "fsfreeze")
    process = subprocess.Popen([sys.executable, "-c", _WORK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        folder = process.stdout.readline().strip()
        assert folder in Path("/proc/mounts").read_text()
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    finally:
        end(process)
        if number is signal.SIGKILL:
            # Nobody can clean up after that but the next one.
            sweep()

    assert not Path(folder).exists(), errors
    assert folder not in Path("/proc/mounts").read_text()
    assert folder not in run("losetup", "--list", "--output", "BACK-FILE")
    figure(f"mounts, loop devices and freezes after {number.name}", "all released")
