"""A real terminal: a process on a pty, and the screen as a person would see it.

The screen knows the control sequences that dcsync uses. Any other one is an error: its effect is not known.
"""

from __future__ import annotations

import codecs
import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from tests.rigs.ended import end

#: Finds a hang, on the slowest machine too.
_PATIENCE_S: Final = 150.0
_SEQUENCE: Final = re.compile(r"\x1b\[(\??)([\d;]*)([A-Za-z])")
#: An unfinished sequence at the end of what has arrived.
_UNFINISHED: Final = re.compile(r"\x1b(\[\??[\d;]*)?$")


class Screen:
    """What a terminal shows: lines that wrap at its width and scroll at its height."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        #: The lines that have scrolled off the top.
        self.gone: list[str] = []
        self._rows = [[" "] * width for _ in range(height)]
        self._row = self._column = 0
        self._left = ""

    def feed(self, text: str) -> None:
        """Show what a process has written."""
        text, self._left = self._left + text, ""
        position = 0
        while position < len(text):
            if _UNFINISHED.match(text, position):
                self._left = text[position:]
                return
            sequence = _SEQUENCE.match(text, position)
            if sequence is not None:
                self._obey(*sequence.groups())
                position = sequence.end()
            else:
                self._put(text[position])
                position += 1

    def lines(self) -> list[str]:
        """Return the lines on the screen without the empty ones at the end."""
        lines = ["".join(row).rstrip() for row in self._rows]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def text(self) -> str:
        """Return everything that the terminal has shown and not erased."""
        return "\n".join([*self.gone, *self.lines()])

    def _put(self, sign: str) -> None:
        match sign:
            case "\r":
                self._column = 0
            case "\n":
                self._next_row()
            case _:
                assert sign.isprintable(), f"the terminal does not know {sign!r}"
                if self._column == self.width:
                    self._column = 0
                    self._next_row()
                self._rows[self._row][self._column] = sign
                self._column += 1

    def _next_row(self) -> None:
        self._row += 1
        if self._row == self.height:
            self._row -= 1
            self.gone.append("".join(self._rows.pop(0)).rstrip())
            self._rows.append([" "] * self.width)

    def _obey(self, private: str, numbers: str, final: str) -> None:
        match private, numbers, final:
            case ("", _, "m") | ("?", "25", "h" | "l"):
                pass  # colours, and whether the cursor is shown
            case "", _, "A":
                self._row = max(0, self._row - int(numbers or 1))
            case "", "2", "K":
                self._rows[self._row] = [" "] * self.width
            case _:
                raise AssertionError(f"the terminal does not know ESC[{private}{numbers}{final}")


@dataclass(slots=True, kw_only=True)
class Terminal:
    """A process on a terminal."""

    process: subprocess.Popen[bytes]
    screen: Screen
    descriptor: int
    #: Each state of the screen that a person could have seen, oldest first.
    frames: list[list[str]] = field(default_factory=list)
    _decoder: codecs.IncrementalDecoder = field(default_factory=codecs.getincrementaldecoder("utf-8"))

    def until(self, is_so: Callable[[list[str]], bool], what: str) -> list[str]:
        """Read until a frame is so, and return it."""
        deadline = time.monotonic() + _PATIENCE_S
        while self._read(deadline):
            if is_so(self.frames[-1]):
                return self.frames[-1]
        raise AssertionError(f"it did not come to this: {what}\n" + self.screen.text())

    def end(self) -> int:
        """Read to the end, and return the exit status."""
        deadline = time.monotonic() + _PATIENCE_S
        while self._read(deadline):
            pass
        return self.process.wait(timeout=_PATIENCE_S)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self.descriptor], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"nothing happens any more\n{self.screen.text()}"
        try:
            data = os.read(self.descriptor, 1 << 16)
        except OSError:  # EIO: the last process has left the terminal
            data = b""
        self.screen.feed(self._decoder.decode(data))
        self.frames.append(self.screen.lines())
        return bool(data)


@contextmanager
def on_terminal(
    command: Sequence[str], *, width: int = 80, height: int = 24, environ: Mapping[str, str] | None = None
) -> Iterator[Terminal]:
    """Start a process on a terminal of a size; it is dead at the end of the block."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", height, width, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
    try:
        process = subprocess.Popen(
            list(command),
            env={**kept, "TERM": "xterm-256color", **(environ or {})},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
    finally:
        os.close(theirs)
    try:
        yield Terminal(process=process, screen=Screen(width, height), descriptor=ours)
    finally:
        process.kill()
        os.close(ours)
        end(process, group=True)
