"""One value of a configuration changes, and nothing else in the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcsync.config.change import change_value, read_text

TEXT = '# key_id = "old"\n[auth]\n  key_id = "old"  # of 2026\n[hooks]\nnote = """\nkey_id = "old"\n"""\n'


def test_only_the_value_of_the_key_changes() -> None:
    changed = change_value(TEXT, "auth", "key_id", old="old", new="new-1")

    assert changed == TEXT.replace('  key_id = "old"', '  key_id = "new-1"')


def test_quotes_and_line_breaks_stay() -> None:
    assert change_value("[auth]\r\nkey_id='a'\r\n", "auth", "key_id", old="a", new="b") == "[auth]\r\nkey_id='b'\r\n"


@pytest.mark.parametrize(
    "text",
    [
        '[auth]\nmethod = "login"\n',
        '[hooks]\nkey_id = "old"\n',
        'auth = { key_id = "old" }\n',
        '[auth]\nkey_id = "another"\n',
        '[auth]\nkey_id = """\nold"""\n',
        'auth.key_id = "old"\n',
    ],
)
def test_a_value_that_is_not_on_a_line_of_its_own_is_left(text: str) -> None:
    assert change_value(text, "auth", "key_id", old="old", new="new") is None


def test_a_value_that_needs_escapes_is_not_written() -> None:
    assert change_value(TEXT, "auth", "key_id", old="old", new='"') is None


def test_the_text_is_read_as_the_loader_reads_it(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(TEXT)

    assert read_text(tmp_path / "config.toml") == TEXT
