"""An open mirror root, and the staging of one job in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dcsync.mirror.root import MirrorRoot, open_root
from dcsync.mirror.staging import Staging
from tests.fakes import JOB_ID


@pytest.fixture
def root(tmp_path: Path) -> Iterator[MirrorRoot]:
    """An empty root."""
    (tmp_path / "mirror").mkdir()
    with open_root(tmp_path / "mirror") as opened:
        yield opened


@pytest.fixture
def staging(root: MirrorRoot) -> Iterator[Staging]:
    """The staging of one job."""
    with Staging(root, JOB_ID) as opened:
        yield opened
