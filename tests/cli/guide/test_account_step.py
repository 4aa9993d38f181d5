"""The account: found among hundreds, named, and written into the configuration."""

from __future__ import annotations

import os
import re

import pytest

from dcsync.config import load
from tests.cli.guide.conftest import Home, Init

LATER = [("Description of the new data request", "later")]


def test_one_of_two_hundred_is_found_by_typing_a_part_of_its_name(
    signed_in: Home, init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_: os.terminal_size((80, 24)))
    hubs = [signed_in.side.sandbox.world.add_account(f"Client {number:03}") for number in range(1, 201)]
    typed = [("Account (", "no such"), ("Account (", "client 10"), ("Account (", "client 107"), ("Account (number", "")]

    result = init([*typed, ("Name of its folder in the mirror [client-107]", ""), *LATER])

    assert result.status == 0, result
    assert "... and 183 more. Type a part of a name to find it." in result.out
    assert "Nothing in the list contains 'no such'." in result.out
    shown = re.findall(r"\d+ Client 10\d", result.out)
    assert shown == [f"{number} Client {number - 1:03}" for number in (*range(101, 111), 108)]
    (account,) = load(signed_in.place, environ=os.environ).accounts
    assert (account.name, account.id) == ("client-107", hubs[106])


def test_other_hubs_are_named_in_words(signed_in: Home, init: Init) -> None:
    signed_in.side.sandbox.world.other_hubs["a.YnVzaW5lc3M6YWJj"] = "My Hub"

    result = init([("name) [1]", ""), ("Name of its folder", ""), *LATER])

    assert result.status == 0, result
    assert "have no Data Connector: My Hub." in " ".join(result.out.split())


def test_a_user_who_sees_only_another_kind_of_hub_is_told_why(signed_in: Home, init: Init) -> None:
    world = signed_in.side.sandbox.world
    world.other_hubs["a.YnVzaW5lc3M6YWJj"] = "My Hub"
    world.accounts.clear()

    result = init([("Look again?", ""), ("Look again?", "later")])

    assert result.status == 0, result
    words = " ".join(result.out.split())
    assert "My Hub: a.YnVzaW5lc3M6YWJj is not an ACC or BIM 360 account, so it has no Data Connector." in words
    assert words.count("sees no account with Data Connector yet") == 2
    assert "adds the client ID sandbox under Custom integrations" in words


@pytest.mark.parametrize("wrong", ["a/b", "..", "a b"])
def test_the_name_is_that_of_a_folder(signed_in: Home, init: Init, wrong: str) -> None:
    result = init([("Account (", "1"), ("Name of its folder", wrong), ("Name of its folder", "acme"), *LATER])

    assert result.status == 0, result
    assert "is not a folder name" in result.out
    assert load(signed_in.place, environ={}).accounts[0].name == "acme"


def test_nothing_else_changes_in_the_file(signed_in: Home, init: Init) -> None:
    before = signed_in.place.read_text().splitlines()
    mode = signed_in.place.stat().st_mode

    init([("Account (", "1"), ("Name of its folder", "acme"), *LATER])

    after = signed_in.place.read_text().splitlines()
    changed = [line for line in after if line not in before]
    assert changed == ["[[account]]", 'name = "acme"', f'id = "{signed_in.side.sandbox.world.hub_id}"']
    assert (len(after), signed_in.place.stat().st_mode) == (len(before), mode)


def test_a_file_that_cannot_be_changed_says_what_to_write(signed_in: Home, init: Init) -> None:
    text = signed_in.place.read_text()
    signed_in.place.write_text(f"account = []\n{text}")

    result = init([("Account (", "1"), ("Name of its folder", "acme")])

    assert result.status == 2
    assert 'write an [[account]] with name = "acme"' in result.err
    assert signed_in.place.read_text() == f"account = []\n{text}"
