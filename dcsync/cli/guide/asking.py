"""Questions on a terminal of any width: each one can be answered with `later`."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Sequence
from typing import TypeVar

import click

from dcsync.cli.group import error_lines
from dcsync.core.names import printable
from dcsync.errors import DcsyncError

T = TypeVar("T")

#: The answer that leaves the guide.
LATER = "later"
_WIDEST = 100
#: More rows are shown only on request, and fewer on a low screen.
_MOST_ROWS, _FEWEST_ROWS, _OTHER_LINES = 20, 5, 6


class LaterError(Exception):
    """The user continues later."""


def say(text: str = "", *, indent: str = "", first: str | None = None, is_error: bool = False) -> None:
    """Print a paragraph, wrapped to the terminal. Words that are longer than a line, such as addresses, stay whole.

    `first` is the indent of the first line, by default that of the others.
    """
    click.echo(_wrapped(text, indent, indent if first is None else first), err=is_error)


def _wrapped(text: str, indent: str = "", first: str = "") -> str:
    """Wrap a text to the terminal. Everything that the guide prints comes through here, except what is to be copied."""
    lines = textwrap.wrap(
        text,
        width=max(20, min(_WIDEST, _columns())),
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines)


def heading(text: str) -> None:
    """Begin a step."""
    click.echo()
    say(text)


def show_failure(error: DcsyncError, *, safe: str | None = None) -> None:
    """Print on stderr what failed, what is safe, and what to do."""
    show_words("\n".join(error_lines(error, safe=safe)))


def show_words(text: str) -> None:
    """Print lines of a command on stderr. Each one keeps its indent when it is wrapped."""
    for line in text.splitlines():
        first = line[: len(line) - len(line.lstrip())]
        say(line.lstrip(), indent=f"{first}    ", first=first, is_error=True)


def show(*lines: str) -> None:
    """Print lines that are to be copied, so they are not wrapped."""
    for line in lines:
        click.echo(f"  {line}")


def ask(question: str, check: Callable[[str], T], *, default: str | None = None, hidden: bool = False) -> T:
    """Ask until `check` accepts the answer. It raises `click.BadParameter` for a wrong one.

    A hidden answer is neither shown nor repeated in a message. Raises `LaterError`.
    """
    shown = f" [{default}]" if default and not hidden else ""
    while True:
        text: str = click.prompt(
            _wrapped(f"{question}{shown}:"), default=default, hide_input=hidden, show_default=False, prompt_suffix=" "
        )
        if text.strip().lower() == LATER:
            raise LaterError
        try:
            return check(text.strip())
        except click.BadParameter as error:
            say("Error: this answer is not valid." if hidden else f"Error: {error.message}")


def word(text: str) -> str:
    """Accept one word."""
    if not text or not text.isprintable() or " " in text:
        message = "enter one word, without spaces"
        raise click.BadParameter(message)
    return text


def agree(question: str, *, default: bool = True) -> bool:
    """Ask a question that is answered with yes or no."""

    def check(text: str) -> bool:
        word = text.lower()
        if word not in {"y", "yes", "n", "no"}:
            message = f"answer y, n or {LATER}"
            raise click.BadParameter(message)
        return word.startswith("y")

    return ask(f"{question} (y, n, {LATER})", check, default="y" if default else "n")


def pick(question: str, rows: Sequence[str], *, words: Sequence[str] = (), default: str | None = None) -> int | str:
    """Return the index of the chosen row, or one of `words`. Any other answer shows the rows that contain it."""
    texts = [printable(row, 200) for row in rows]
    shown = list(range(len(texts)))
    while True:
        _list(texts, shown)
        is_found = len(shown) == 1 and len(texts) > 1
        answer = ask(question, str, default=str(shown[0] + 1) if is_found else default)
        if answer.lower() in words:
            return answer.lower()
        if answer.isdecimal() and 1 <= int(answer) <= len(texts):
            return int(answer) - 1
        found = [index for index, text in enumerate(texts) if answer.casefold() in text.casefold()]
        if found:
            shown = found
        else:
            say(f"Nothing in the list contains {printable(answer)!r}.")


def _list(texts: Sequence[str], shown: Sequence[int]) -> None:
    """Print the rows that fit on the screen, each with its number in the whole list."""
    most = max(_FEWEST_ROWS, min(_MOST_ROWS, shutil.get_terminal_size().lines - _OTHER_LINES))
    for index in shown[:most]:
        say(texts[index], indent="      ", first=f"{index + 1:>4}  ")
    if len(shown) > most:
        say(f"... and {len(shown) - most} more. Type a part of a name to find it.", indent="      ")


def _columns() -> int:
    return shutil.get_terminal_size().columns
