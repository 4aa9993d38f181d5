"""A person at a terminal, who answers the questions of dcsync, and the browser in which they sign in."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

#: Finds a hang, on the slowest machine too.
_PATIENCE_S: Final = 120.0
_COLOR: Final = re.compile(r"\x1b\[[\d;]*m")
#: The browser of the person: it allows access as this user, and goes where Autodesk then sends it.
_BROWSER: Final = """#!{python} -SE
import sys, urllib.parse, urllib.request
page, _, query = sys.argv[1].partition("?")
form = {{**dict(urllib.parse.parse_qsl(query)), "answer": "{answer}", "user": "{user}"}}
opener = urllib.request.build_opener(urllib.request.ProxyHandler({{}}))
try:
    opener.open(page, urllib.parse.urlencode(form).encode()).read()
except OSError:
    pass  # a page that says why the sign-in failed, or a process that was killed
"""


class Person:
    """A process that has a terminal, and the hands in front of it."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        #: What was printed since the last answer.
        self.said = ""
        #: All that was printed.
        self.seen = ""
        #: The same with its control sequences.
        self.raw = ""
        self._descriptor = descriptor

    def answer(self, question: str, reply: str) -> None:
        """Wait for a question that was not answered yet, and answer it."""
        self.until(question)
        self.said = self.said[self.said.index(question) + len(question) :]
        self.type(f"{reply}\n")

    def type(self, text: str) -> None:
        """Type without Enter."""
        os.write(self._descriptor, text.encode())

    def until(self, words: str) -> None:
        """Wait for words."""
        deadline = time.monotonic() + _PATIENCE_S
        while words not in self.said:
            assert self._read(deadline), f"{words!r} was not said, but {self.said!r}"

    def shows_typing(self) -> bool:
        """Return whether the terminal shows what is typed."""
        return bool(termios.tcgetattr(self._descriptor)[3] & termios.ECHO)

    def finish(self) -> int:
        """Wait for the end of the process, and return its exit status."""
        deadline = time.monotonic() + _PATIENCE_S
        while self._read(deadline):
            pass
        return self.process.wait(_PATIENCE_S)

    def kill(self) -> None:
        """Kill the process, as a power cut would."""
        self.process.kill()
        self.process.wait(_PATIENCE_S)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._descriptor], [], [], max(0.0, deadline - time.monotonic()))
        try:
            piece = os.read(self._descriptor, 4096) if ready else b""
        except OSError:
            # Linux gives EIO when the program has closed its end.
            piece = b""
        text = piece.decode(errors="replace").replace("\r\n", "\n")
        self.raw += text
        text = _COLOR.sub("", text)
        self.said += text
        self.seen += text
        return piece != b""


@contextmanager
def at_terminal(
    *arguments: str | Path, width: int = 80, height: int = 24, environ: Mapping[str, str] | None = None
) -> Iterator[Person]:
    """Start `dcsync` with these arguments on a terminal. It is dead at the end of the block."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", height, width, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "dcsync", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**kept, **(environ or {})},
            start_new_session=True,
        ) as process:
            os.close(theirs)
            try:
                yield Person(process, ours)
            finally:
                process.kill()
    finally:
        os.close(ours)


def browser(folder: Path, *, user: str = "ada", answer: str = "allow") -> str:
    """Write the browser of a person into a folder, and return the value of the variable BROWSER for it."""
    path = folder / f"browser-of-{user}-{answer}"
    path.write_text(_BROWSER.format(python=sys.executable, user=user, answer=answer))
    path.chmod(0o755)
    # In the background, because dcsync waits for what the browser does.
    return f"{path} %s &"


def answer_all(descriptor: int, answers: Mapping[str, str], ended: threading.Event) -> str:
    """Answer each of these questions whenever it is asked, until the process has ended. Return what was printed."""
    seen, answered = "", 0
    while True:
        ready, _, _ = select.select([descriptor], [], [], 0.02)
        if not ready:
            if ended.is_set():
                return seen
            continue
        seen += os.read(descriptor, 1 << 16).decode(errors="replace")
        for question, answer in answers.items():
            if question in seen[answered:]:
                answered = len(seen)
                os.write(descriptor, f"{answer}\n".encode())
