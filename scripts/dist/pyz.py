"""dcsync in a single file."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from dcsync import DISTRIBUTION, __version__
from scripts.dist.pinned import EXTRAS
from scripts.dist.tree import PYTHON


def build_pyz(wheel: Path, wheels: Path, into: Path, *, compress: bool = True) -> Path:
    """Build the file and return its path. It needs the version of Python that builds it."""
    path = into / f"dcsync-{__version__}-{PYTHON}-{platform.machine()}.pyz"
    with tempfile.TemporaryDirectory() as own:
        shutil.copy(wheel, own)
        command = [sys.executable, "-m", "pex", f"{DISTRIBUTION}[{','.join(EXTRAS)}]", "--script=dcsync", "--venv"]
        # Only the files that pip has checked against their hashes, and no network.
        resolved = [f"--pre-resolved-dists={folder}" for folder in (wheels, own)]
        form = [f"--python-shebang=/usr/bin/env {PYTHON}", "--sh-boot", "--compress" if compress else "--no-compress"]
        subprocess.run([*command, *resolved, *form, f"--output-file={path}"], check=True)
    return path
