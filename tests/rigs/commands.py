"""The commands that a hint names, and whether they are real ones."""

from __future__ import annotations

import re
import shlex

import click

from dcsync.cli.group import dcsync


def commands(advice: str) -> list[str]:
    """Return the commands of a hint."""
    return re.findall(r"dcsync requests .+?(?=, |\. |$)", advice, re.MULTILINE)


def parsed(command: str) -> None:
    """Parse a command as the shell and click do. Raises if it is not one."""
    words = shlex.split(command)[1:]
    context = click.Context(dcsync)
    found: click.Command = dcsync
    while isinstance(found, click.Group) and words:
        name = words.pop(0)
        child = found.get_command(context, name)
        assert child is not None, command
        found = child
    found.make_context(found.name, words, resilient_parsing=False)
