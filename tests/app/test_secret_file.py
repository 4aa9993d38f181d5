"""A secret in a file of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dcsync.app.secret_file import write_secret
from dcsync.errors import ConfigError


def test_only_the_user_can_read_it_and_its_new_folders(tmp_path: Path) -> None:
    path = tmp_path / "a/b/secret"
    before = os.umask(0)
    try:
        write_secret(path, "hunter2")
    finally:
        os.umask(before)

    assert path.read_text() == "hunter2\n"
    modes = [each.stat().st_mode & 0o777 for each in (path, path.parent, path.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]


def test_it_is_replaced_in_one_step_whatever_has_its_name(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / "secret").symlink_to(other)

    write_secret(tmp_path / "secret", "hunter2")

    assert other.read_text() == "mine"
    assert (tmp_path / "secret").read_text() == "hunter2\n"
    assert {path.name for path in tmp_path.iterdir()} == {"other", "secret"}


def test_a_failure_names_the_file_and_not_the_secret() -> None:
    with pytest.raises(ConfigError) as failed:
        write_secret(Path("/proc/dcsync/secret"), "hunter2")

    assert "/proc/dcsync/secret" in failed.value.message
    assert "hunter2" not in str(failed.value)
