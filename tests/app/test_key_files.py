"""The files of a service account's key are private, durable, and never those of another program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dcsync.app.key_files import KeyFiles, Note
from dcsync.errors import ConfigError

NOTE = Note(service_account_id="A", email="a@b", name="a", client_id="c", known_keys=("k",), began_at="2026-12-01")


def test_a_note_is_read_as_it_was_saved_and_then_forgotten(tmp_path: Path) -> None:
    files = KeyFiles(tmp_path / "new" / "key.pem")
    assert files.note() is None

    files.save(NOTE)
    assert files.note() == NOTE
    assert files.json.parent.stat().st_mode & 0o777 == 0o700
    files.forget()

    assert files.note() is None


def test_a_note_of_a_later_version_is_read(tmp_path: Path) -> None:
    files = KeyFiles(tmp_path / "key.pem")
    files.save(NOTE)
    files.json.write_text(json.dumps({**json.loads(files.json.read_text()), "new": 1}))

    assert files.note() == NOTE


def test_a_private_key_never_replaces_a_file_also_if_it_appeared_just_now(tmp_path: Path) -> None:
    files = KeyFiles(tmp_path / "key.pem")
    files.write_key("first")

    with pytest.raises(ConfigError, match="File exists"):
        files.write_key("second")

    assert (files.key(), files.pem.stat().st_mode & 0o777) == ("first\n", 0o600)


def test_a_symlink_in_place_of_a_private_key_is_not_followed(tmp_path: Path) -> None:
    files = KeyFiles(tmp_path / "key.pem")
    files.pem.symlink_to(tmp_path / "elsewhere")

    assert files.has_key()
    with pytest.raises(ConfigError, match="File exists"):
        files.write_key("secret")
    assert not (tmp_path / "elsewhere").exists()
