"""The hands of a person in this process: they answer what click asks, in the order of a script."""

from __future__ import annotations

import asyncio
import sys
import threading
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl

import aiohttp
import pytest

#: Replies that are keys and not text.
CTRL_C: Final = "\x03"
CTRL_D: Final = "\x04"


@dataclass(slots=True)
class Hands:
    """Answers each question with the next reply. A question that the script does not expect is an error."""

    script: list[tuple[str, str]]
    asked: list[str] = field(default_factory=list)

    def __call__(self, question: str) -> str:
        """Answer a question of click."""
        assert self.script, f"nothing more was to be asked, but: {question}"
        words, reply = self.script.pop(0)
        # Long questions have line breaks.
        assert words in " ".join(question.split()), f"{words!r} was to be asked, but: {question}"
        self.asked.append(question)
        if reply == CTRL_C:
            raise KeyboardInterrupt
        if reply == CTRL_D:
            raise EOFError
        return reply


def at_keyboard(monkeypatch: pytest.MonkeyPatch, script: Sequence[tuple[str, str]]) -> Hands:
    """Let commands in this process believe in a terminal whose person answers by this script."""
    hands = Hands(list(script))
    for name in ("visible_prompt_func", "hidden_prompt_func"):
        monkeypatch.setattr(f"click.termui.{name}", hands)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    return hands


def with_browser(monkeypatch: pytest.MonkeyPatch, *, user: str = "ada", answers: Sequence[str] = ("allow",)) -> None:
    """Give the person a browser. `answers` are those to Autodesk's sign-in pages. The last one repeats."""
    left = list(answers)

    async def consent(url: str, answer: str) -> None:
        page, _, query = url.partition("?")
        form = {**dict(parse_qsl(query)), "answer": answer, "user": user}
        async with aiohttp.ClientSession() as session, session.post(page, data=form) as shown:
            await shown.read()

    def opened(url: str) -> bool:
        answer = left.pop(0) if len(left) > 1 else left[0]
        threading.Thread(target=lambda: asyncio.run(consent(url, answer)), daemon=True).start()
        return True

    monkeypatch.setenv("BROWSER", "a browser")
    monkeypatch.setattr(webbrowser, "open", opened)
