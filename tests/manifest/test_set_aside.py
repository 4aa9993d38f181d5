"""A manifest put out of the way: whole, with its log, under a name of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dcsync.errors import ManifestError
from dcsync.manifest.sqlite import set_aside


def make(folder: Path, *suffixes: str) -> Path:
    for suffix in suffixes:
        (folder / f"manifest.sqlite{suffix}").write_text(suffix)
    return folder / "manifest.sqlite"


def test_it_goes_with_its_log_and_index(tmp_path: Path) -> None:
    aside = set_aside(make(tmp_path, "", "-wal", "-shm"), "damaged-x")

    assert aside == tmp_path / "manifest.sqlite.damaged-x"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "manifest.sqlite.damaged-x": "",
        "manifest.sqlite.damaged-x-wal": "-wal",
        "manifest.sqlite.damaged-x-shm": "-shm",
    }


def test_an_older_one_of_that_name_stays(tmp_path: Path) -> None:
    for _ in range(3):
        set_aside(make(tmp_path, "", "-wal"), "damaged-x")

    assert {path.name for path in tmp_path.glob("*.damaged*[!l]")} == {
        "manifest.sqlite.damaged-x",
        "manifest.sqlite.damaged-x.2",
        "manifest.sqlite.damaged-x.3",
    }


def test_where_there_is_none_nothing_happens(tmp_path: Path) -> None:
    assert set_aside(tmp_path / "manifest.sqlite", "damaged-x") is None


def test_the_log_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a new database SQLite would play an old log back into that one."""
    path = make(tmp_path, "", "-wal")
    blocked = tmp_path / "manifest.sqlite.damaged-x"
    real = os.path.lexists
    monkeypatch.setattr(os.path, "lexists", lambda target: False if target == blocked else real(target))
    (blocked / "in the way").mkdir(parents=True)

    with pytest.raises(ManifestError, match="cannot rename the manifest"):
        set_aside(path, "damaged-x")

    assert path.exists()
    assert not path.with_name("manifest.sqlite-wal").exists()
