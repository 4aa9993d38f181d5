"""Questions: their defaults, `later`, hidden answers, and lists that fit on the screen."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import click
import pytest

from dcsync.cli import guide
from dcsync.cli.guide.asking import LaterError, agree, ask, heading, pick, say, show_failure, show_words, word
from dcsync.errors import ConfigError
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


def test_only_one_module_prints_and_asks() -> None:
    """So everything that the guide says is wrapped to the terminal."""
    own = {"echo", "secho", "prompt", "confirm", "print"}
    for path in sorted(Path(guide.__file__).parent.glob("*.py")):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        names = {call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls}
        assert names.isdisjoint(own) or path.name == "asking.py", path


@pytest.mark.usefixtures("narrow")
def test_all_questions_headings_and_mistakes_fit_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = " ".join(["words"] * 30)

    def check(text: str) -> str:
        if text == "wrong":
            raise click.BadParameter(long)
        return text

    hands = at_keyboard(monkeypatch, [("words", "wrong"), ("words", "right"), ("words", "secret"), ("words", "y")])
    heading(f"1. {long}")
    assert ask(long, check, default="words words") == "right"
    assert ask(long, check, hidden=True) == "secret"
    assert agree(long)
    show_failure(ConfigError(long, hint=long))
    show_words(f"  do:   {long}\n")

    said = capsys.readouterr()
    lines = [*said.out.splitlines(), *said.err.splitlines(), *"\n".join(hands.asked).splitlines()]
    assert [line for line in lines if len(line) > 40] == []
    assert sum(len(line.split()) for line in lines) > 8 * 30
