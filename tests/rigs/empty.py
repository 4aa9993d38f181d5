"""An empty manifest that is copied, because the migrations of a new one take four times as long as its opening.

The processes that the tests start migrate theirs, and so do the tests of the migrations.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from dcsync.manifest import open_manifest, sqlite


def copy_empty_manifests() -> None:
    """Let each manifest that is made from now on be a copy of one that was migrated."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.sqlite"
        asyncio.run(_make(path))
        content = path.read_bytes()
    make_private = sqlite._make_private

    def make_copy(path: Path) -> None:
        with suppress(OSError):
            _link_new(path, content)
        make_private(path)

    sqlite._make_private = make_copy


async def _make(path: Path) -> None:
    async with open_manifest(path):
        pass


def _link_new(path: Path, content: bytes) -> None:
    """Create a file with its content at once, as another process might open it. Raises `OSError` if there is one."""
    if os.path.lexists(path):
        return
    with TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        made.touch(0o600)
        made.write_bytes(content)
        os.link(made, path)
