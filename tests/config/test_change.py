"""One value of a configuration changes, and nothing else in the file."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from dcsync.config import example, fill
from dcsync.config.change import add_account, change_value, read_text, set_requests

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


# --- accounts ---------------------------------------------------------------------------------------------------------

ID = "b.872264f8-2433-498d-8d36-16649ecb13fe"


def test_the_first_account_takes_the_place_of_the_commented_one() -> None:
    text = fill(example(), {}, ())

    changed = add_account(text, "acme", ID)

    assert changed is not None
    assert changed == fill(example(), {}, [("acme", ID)]).replace("\nprojects = ", "\n# projects = ").replace(
        "\nrequests = ", "\n# requests = "
    ).replace("\nretired = ", "\n# retired = ").replace("\ninclude = ", "\n# include = ").replace(
        "\nexclude = ", "\n# exclude = "
    ).replace('\nstart = ""', '\n# start = ""')


@pytest.mark.parametrize("text", ["", "[auth]\n", '[[account]]\nname = "a"\nid = "b"', "# [[account]]\n"])
def test_another_account_is_added_at_the_end(text: str) -> None:
    changed = add_account(text, 'quo"ted', "x")

    assert changed is not None
    assert changed.startswith(text.rstrip())
    assert tomllib.loads(changed)["account"][-1] == {"name": 'quo"ted', "id": "x"}


@pytest.mark.parametrize("text", ["account = []\n", "account = 1\n"])
def test_an_account_that_cannot_be_added_is_not(text: str) -> None:
    assert add_account(text, "a", "b") is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[[account]]\nname = "a"\nid = "1"\n', 4),
        ('[[account]]\nrequests = [] # none\nname = "a"\nid = "1"\n', 2),
        ('[[account]]\nname = "b"\nid = "0"\n[[account]]\nname = "a"\nid = "1"\n', 7),
    ],
)
def test_data_requests_are_set_for_an_account(text: str, line: int) -> None:
    changed = set_requests(text, "a", ["x", "y*"])

    assert changed is not None
    assert changed.split("\n")[line - 1] == 'requests = ["x", "y*"]'


@pytest.mark.parametrize(
    "text",
    [
        '[[account]]\nname = "a"\nid = "1"\nrequests = ["z"]\n',
        '[[account]]\nname = "other"\nid = "1"\n',
        '[[account]]\nname = "a"\nid = "1"\nrequests = [\n]\n',
        'account = [{ name = "a", id = "1" }]\n',
    ],
)
def test_data_requests_that_cannot_be_set_are_left(text: str) -> None:
    assert set_requests(text, "a", ["x"]) is None
