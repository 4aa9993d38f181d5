"""The first sync, and a mirror folder that is not there."""

from __future__ import annotations

import pytest

from tests.cli.guide.conftest import Home, Init


@pytest.fixture
def nightly(with_account: Home) -> Home:
    with_account.side.sandbox.world.add_request("Nightly", tables=3)
    return with_account


def test_an_extract_that_is_not_complete_is_looked_for_again(nightly: Home, init: Init) -> None:
    result = init([("Mirror all extracts now?", ""), ("Look again now?", ""), ("Look again now?", "n")])

    assert result.status == 0, result
    assert result.out.count("No extract is complete yet") == 2
    assert "acme: nothing new" in result.out


def test_a_folder_that_is_not_created_stops_the_sync_with_its_own_words(nightly: Home, init: Init) -> None:
    (nightly.folder / "dcsync").rmdir()

    result = init([("Create the folder now?", "n"), ("Mirror all extracts now?", "")])

    assert result.status == 14
    assert f"{nightly.folder}/dcsync" in result.err
    assert f"The configuration {nightly.place} is written" in result.out
    assert result.out.endswith("To continue: dcsync init")


def test_a_folder_that_cannot_be_created_is_named(nightly: Home, init: Init) -> None:
    text = nightly.place.read_text()
    nightly.place.write_text(text.replace(f'root = "{nightly.folder}/dcsync"', 'root = "/proc/dcsync"'))

    result = init([("Create the folder now?", "")])

    assert result.status == 2
    assert "the mirror folder /proc/dcsync cannot be created" in result.err
    assert f"safe: The configuration {nightly.place} is written, and the steps before this one are done." in result.err
    assert "nothing was done" not in result.err
