"""The last step: the first snapshot."""

from __future__ import annotations

from pathlib import Path

from dcsync.cli.guide.asking import LaterError, agree, heading, say
from dcsync.cli.guide.commands import StoppedError
from dcsync.cli.guide.sign_in_step import Guided
from dcsync.cli.guide.write_step import make_root
from dcsync.errors import ExitStatus


def first_sync(guided: Guided) -> None:
    """Mirror what is there, until there is a snapshot."""
    heading("5. First sync")
    make_root(guided.config)
    question = "Mirror all extracts now? You can interrupt it at any time, and it resumes"
    while True:
        if not agree(question):
            raise LaterError
        status = guided.commands.run("sync")
        if has_snapshot(guided):
            return
        if status not in {ExitStatus.DONE, ExitStatus.INCOMPLETE}:
            raise StoppedError(status)
        say(
            "No extract is complete yet. Autodesk needs minutes to hours for a new data request. The daemon "
            "mirrors the extract as soon as it is complete."
        )
        question = "Look again now?"


def has_snapshot(guided: Guided) -> bool:
    """Return whether the mirror has a snapshot."""
    if not Path(guided.config.state.dir).is_dir():
        return False
    answer = guided.commands.answer("status", "--json")
    accounts = [] if answer.value is None else answer.value["accounts"]
    return any(account["newest_snapshot"] for account in accounts)
