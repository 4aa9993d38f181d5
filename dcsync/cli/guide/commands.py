"""The commands of dcsync that the guide runs, as a user would type them.

They run in this process. If the state folder belongs to another user, root starts them as processes of their own, and
each of them then runs as the service does (`cli/as_owner.py`).
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcsync.cli.group import run
from dcsync.cli.guide.asking import show_words
from dcsync.errors import ExitStatus


class StoppedError(Exception):
    """A command has failed and has said why. The guide ends with its exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command answered: its exit status, its JSON if it printed any, and its words on stderr."""

    status: int
    value: Any
    words: str

    def show(self) -> None:
        """Print the words of the command."""
        show_words(self.words)

    def stop(self) -> StoppedError:
        """Print the words of the command, and return the end of the guide."""
        self.show()
        return StoppedError(self.status)


@dataclass(frozen=True, slots=True)
class Commands:
    """Runs commands with one configuration."""

    place: Path

    def run(self, *arguments: str) -> int:
        """Run a command on the terminal, and return its exit status. Raises `StoppedError` if it was interrupted."""
        line = self._line(arguments)
        status = _spawn(line).status if self._is_of_another_user() else run(line)
        return _unless_interrupted(status)

    def answer(self, *arguments: str, asks: bool = False) -> Answer:
        """Run a command and return its answer. One that `asks` shows its questions, which are on stderr."""
        line = self._line(arguments)
        found = _spawn(line, reads=True, asks=asks) if self._is_of_another_user() else _call(line, asks=asks)
        _unless_interrupted(found.status)
        return found

    def _line(self, arguments: tuple[str, ...]) -> list[str]:
        return ["--config", str(self.place), *arguments]

    def _is_of_another_user(self) -> bool:
        from dcsync.app.state_dir import refuse_to_be_root
        from dcsync.config import load
        from dcsync.errors import NotStateOwner

        if not self.place.exists():
            return False
        try:
            refuse_to_be_root(Path(load(self.place, environ=os.environ, accounts_needed=False).state.dir))
        except NotStateOwner:
            return True
        return False


def _call(line: list[str], *, asks: bool) -> Answer:
    out, words = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(sys.stderr if asks else words):
        status = run(line)
    return Answer(status=status, value=_json(out.getvalue()), words=words.getvalue())


def _spawn(line: list[str], *, reads: bool = False, asks: bool = False) -> Answer:
    """Run a command as a process. Ctrl-C reaches it as well, and the guide waits for its end."""
    # Unlike SIG_IGN, a handler is not inherited by the process.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with subprocess.Popen(  # noqa: S603 - dcsync itself
            [sys.executable, "-m", "dcsync", *line],
            stdout=subprocess.PIPE if reads else None,
            stderr=subprocess.PIPE if reads and not asks else None,
            text=True,
            errors="replace",
        ) as process:
            out, err = process.communicate()
    finally:
        signal.signal(signal.SIGINT, before)
    return Answer(status=process.returncode, value=_json(out or ""), words=err or "")


def _json(text: str) -> Any:  # noqa: ANN401 - any document
    try:
        return json.loads(text)
    except ValueError:
        return None


def _unless_interrupted(status: int) -> int:
    if status == ExitStatus.INTERRUPTED or status < 0:
        raise StoppedError(int(ExitStatus.INTERRUPTED))
    return status
