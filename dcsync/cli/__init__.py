"""The command line: options → one op → output. The only place that prints."""

import gc
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and exit with a status of DESIGN §6; no error leaves as a traceback but a bug."""
    try:
        _open_outputs()
        # What is imported stays: to look through it for garbage took a fifth of the start. `run_loop` turns it on.
        gc.disable()
        # Imported here, where an interrupt is caught: it takes the longest of a start.
        from dcsync.cli.group import run

        status = run(sys.argv[1:])
        _let_interrupts_end_it()
    except KeyboardInterrupt:
        # During the start, or a second one while the first was told of.
        status = 130
    _let_interrupts_end_it()
    _let_go()
    sys.exit(status)


def _let_interrupts_end_it() -> None:
    """Let an interrupt just end the process: all is done, and the interpreter is about to go down."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _open_outputs() -> None:
    """Let all three standard descriptors lead somewhere: else the next file that is opened gets what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - as long as the process


def _let_go() -> None:
    """Write out what was said; what nobody is there to hear goes nowhere, instead of as a complaint at the very end."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
