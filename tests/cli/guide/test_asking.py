"""Questions: their defaults, `later`, hidden answers, and lists that fit on the screen."""

from __future__ import annotations

import os

import click
import pytest

from dcsync.cli.guide.asking import LaterError, agree, ask, pick, say, word
from tests.rigs.hands import at_keyboard


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_: os.terminal_size((40, 10)))


@pytest.mark.parametrize("answer", ["later", " LATER "])
@pytest.mark.parametrize("hidden", [False, True])
def test_later_leaves_every_question(monkeypatch: pytest.MonkeyPatch, answer: str, hidden: bool) -> None:
    at_keyboard(monkeypatch, [("Client", answer)])

    with pytest.raises(LaterError):
        ask("Client", str, hidden=hidden)


def test_a_wrong_hidden_answer_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def check(text: str) -> str:
        if text == "hunter2":
            message = f"{text} is wrong"
            raise click.BadParameter(message)
        return text

    at_keyboard(monkeypatch, [("Secret", "hunter2"), ("Secret", " good ")])

    assert ask("Secret", check, hidden=True) == "good"
    assert "hunter2" not in capsys.readouterr().out


@pytest.mark.parametrize(("answers", "agreed"), [(["maybe", "y"], True), ([""], True), (["NO"], False)])
def test_a_yes_or_a_no_is_needed(monkeypatch: pytest.MonkeyPatch, answers: list[str], agreed: bool) -> None:
    at_keyboard(monkeypatch, [("Go? (y, n, later) [y]", answer) for answer in answers])

    assert agree("Go?") is agreed


@pytest.mark.parametrize("text", ["", "a b", "a\tb"])
def test_one_word_is_one_word(text: str) -> None:
    with pytest.raises(click.BadParameter):
        word(text)


@pytest.mark.usefixtures("narrow")
def test_prose_fits_on_a_narrow_terminal_and_addresses_stay_whole(capsys: pytest.CaptureFixture[str]) -> None:
    address = f"https://aps.autodesk.com/{'x' * 40}"

    say(f"one two three four five six seven eight nine ten {address} end", indent="  ")

    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 40] == [f"  {address}"]
    assert all(line.startswith("  ") for line in lines)


@pytest.mark.usefixtures("narrow")
def test_a_list_shows_what_fits_and_finds_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"row {number}" for number in range(1, 31)]
    # 31 is no number of the list, so it is a text to find, which is not there.
    at_keyboard(monkeypatch, [("Row", "31"), ("Row", "ROW 2"), ("Row", "row 29"), ("Row [29]", "")])

    assert pick("Row", rows) == 28
    out = capsys.readouterr().out
    assert out.count("... and 25 more.") == 2
    assert out.count("... and 6 more.") == 1
    assert "Nothing in the list contains '31'." in out


def test_a_word_beside_the_numbers_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    at_keyboard(monkeypatch, [("Row [all]", "")])

    assert pick("Row", ["a", "b"], words=("all",), default="all") == "all"


def test_control_characters_of_a_name_reach_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_keyboard(monkeypatch, [("Row", "1")])

    pick("Row", ["evil\x1b[2J\nname"])

    assert "\x1b" not in capsys.readouterr().out
