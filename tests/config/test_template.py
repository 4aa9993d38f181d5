"""Filling the example: only what was asked for changes, and what comes out is what was meant."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.config import example, fill, parse
from dcsync.config.template import quoted

#: No surrogates: they are no text that a file can hold.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
ACCOUNTS = [
    ("acme", "b.872264f8-2433-498d-8d36-16649ecb13fe"),
    ("beta", "b.00000000-2433-498d-8d36-16649ecb13fe"),
    ("gamma", "11111111-2433-498d-8d36-16649ecb13fe"),
]


def changed(before: str, after: str) -> dict[str, str]:
    """Return the lines that differ, of texts of the same length."""
    pairs = zip(before.split("\n"), after.split("\n"), strict=True)
    return {old: new for old, new in pairs if old != new}


def test_only_the_keys_that_are_named_change() -> None:
    filled = fill(example(), {("mirror", "root"): "/data", ("state", "dir"): "/state"}, ACCOUNTS[:1])

    assert changed(example(), filled) == {
        'root = "/srv/dcsync"': 'root = "/data"',
        'dir = "/var/lib/dcsync"': 'dir = "/state"',
    }


def test_a_key_that_is_only_shown_becomes_live_and_one_without_a_value_is_only_shown() -> None:
    filled = fill(example(), {("auth", "key_id"): "k", ("auth", "client_secret"): None}, ACCOUNTS[:1])

    assert changed(example(), filled) == {
        '# key_id = "your key\'s id"': 'key_id = "k"',
        'client_secret = "env:DCSYNC_CLIENT_SECRET"': '# client_secret = "env:DCSYNC_CLIENT_SECRET"',
    }


def test_a_key_that_is_only_shown_and_has_no_value_stays_so() -> None:
    assert fill(example(), {("auth", "key_id"): None}, ACCOUNTS[:1]) == example()


def test_without_an_account_its_section_is_only_shown() -> None:
    filled = fill(example(), {})

    difference = changed(example(), filled)
    assert difference.keys() >= {"[[account]]", 'name = "acme"', 'start = ""'}
    assert all(new == f"# {old}" for old, new in difference.items())
    assert "account" not in tomllib.loads(filled)
    assert parse(filled, place=Path("config.toml"), accounts_needed=False).accounts == []


def test_further_accounts_follow_the_first_before_the_next_section() -> None:
    filled = fill(example(), {}, ACCOUNTS)

    config = parse(filled, place=Path("config.toml"))
    assert [(account.name, account.id) for account in config.accounts] == ACCOUNTS
    assert filled.index('name = "gamma"') < filled.index("# The retention policy")


def test_the_same_key_of_another_section_is_left_alone() -> None:
    template = '[first]\nid = "1"\n[[account]]\nid = "2"\n[second]\nid = "3"\n'

    assert fill(template, {("second", "id"): "4"}) == template.replace('"3"', '"4"').replace(
        "[[account]]\nid", "# [[account]]\n# id"
    )


def test_a_key_that_the_template_lacks_is_a_bug() -> None:
    with pytest.raises(KeyError, match="colour"):
        fill(example(), {("mirror", "colour"): "red"})


@given(TEXT)
def test_any_text_comes_back_from_its_quotes(text: str) -> None:
    line = f"x = {quoted(text)}"

    assert "\n" not in line
    assert tomllib.loads(line) == {"x": text}


@given(TEXT)
def test_any_value_comes_back_from_the_filled_example(text: str) -> None:
    filled = fill(example(), {("auth", "client_id"): text}, ACCOUNTS[:1])

    assert tomllib.loads(filled)["auth"]["client_id"] == text
