"""Text in any locale: names on disk are UTF-8, and output never fails for a character that the terminal lacks."""

import io
import locale
import os
import sys
from contextlib import suppress

#: Tells the restarted interpreter the encoding of the locale. It is an option, because hooks inherit the environment.
_OPTION = "dcsync_output"


def restart_with_utf8_names() -> None:
    """Restart the interpreter in UTF-8 mode if the locale would give file names another encoding. May not return.

    Python chooses the encoding of file names once, at its start. In a Latin-1 locale, names outside of it could not be
    created, and all others would be different bytes than on any other machine.
    """
    if sys.getfilesystemencoding().lower() == "utf-8" or not sys.executable:
        return
    options = ["-X", "utf8", "-X", f"{_OPTION}={locale.getencoding()}"]
    # The same bytes: arguments are decoded and encoded in the same way.
    os.execv(sys.executable, [sys.executable, *options, *sys.orig_argv[1:]])  # noqa: S606 - dcsync itself


def make_outputs_lenient() -> None:
    """Replace characters that an output cannot show, instead of raising `UnicodeEncodeError`."""
    encoding = sys._xoptions.get(_OPTION)  # noqa: SLF001 - its documented name
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # An encoding that the user named for the output is kept.
            own = encoding if isinstance(encoding, str) and "PYTHONIOENCODING" not in os.environ else None
            # A stream whose file was replaced by a pipe after it was opened refuses every change.
            with suppress(OSError):
                stream.reconfigure(encoding=own or stream.encoding, errors="replace")
