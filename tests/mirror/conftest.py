"""An open mirror root, and the staging of one job in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dcsync.mirror.root import MirrorRoot, open_root
from dcsync.mirror.staging import Staging
from tests.fakes import JOB_ID
from tests.rigs.folders import opened
from tests.rigs.latest import NEW, OLD


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


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """The descriptor of `tmp_path`."""
    with opened(tmp_path) as descriptor:
        yield descriptor


@pytest.fixture
def two_snapshots(tmp_path: Path) -> Iterator[MirrorRoot]:
    """A root with two snapshots."""
    for folder in (OLD, NEW):
        path = tmp_path / "mirror" / folder
        (path / "schemas").mkdir(parents=True)
        (path / "_dcsync.json").write_text(folder)
        (path / "a.csv").write_text(f"a of {folder}")
        (path / "schemas/b.csv").write_text(f"b of {folder}")
    with open_root(tmp_path / "mirror") as opened:
        yield opened
