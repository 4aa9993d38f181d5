"""The command line. Each command reads its options, calls one operation and prints the result."""

import gc
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from dcsync.cli.encoding import make_outputs_lenient, restart_with_utf8_names
from dcsync.cli.without_rich import keep_rich_out


def main() -> NoReturn:
    """Run the command line and exit with one of the statuses in `ExitStatus`. Only a bug prints a traceback."""
    try:
        _open_outputs()
        if os.getpid() == 1:
            # The kernel gives PID 1 of a container no signal that it does not handle. The daemon's handlers come later.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        restart_with_utf8_names()
        make_outputs_lenient()
        # Imported modules are never freed. Searching them for garbage took a fifth of the start. `run_loop` enables it.
        gc.disable()
        keep_rich_out()
        # Most of the start is this import, so it happens where an interrupt is caught.
        from dcsync.cli.group import run

        status = run(sys.argv[1:])
        _restore_interrupts()
    except KeyboardInterrupt:
        # Pressed during the start, or again while the first one was being reported.
        status = 130
    _restore_interrupts()
    _flush_outputs()
    sys.exit(status)


def _restore_interrupts() -> None:
    """Let an interrupt end the process without an exception: the work is done and the interpreter is shutting down."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _open_outputs() -> None:
    """Open closed standard descriptors on /dev/null. Otherwise the next file opened would receive the output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - as long as the process


def _flush_outputs() -> None:
    """Flush stdout and stderr. Discard what no reader takes, or the interpreter would complain at exit."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
