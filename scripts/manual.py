"""The manual page and the completion of the shells, made from the commands themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import click
from click.shell_completion import ShellComplete, get_completion_class

from dcsync import __version__
from dcsync.cli.group import dcsync

#: Where each shell looks for the completion of a command, below a prefix such as /usr.
COMPLETIONS = {
    "bash": "share/bash-completion/completions/dcsync",
    "zsh": "share/zsh/site-functions/_dcsync",
    "fish": "share/fish/vendor_completions.d/dcsync.fish",
}
MANUAL = "share/man/man1/dcsync.1"

_FILES = (
    ("~/.config/dcsync/config.toml, /etc/dcsync/config.toml", "The configuration. dcsync reads the first that exists."),
    ("/var/lib/dcsync", "The tokens and the manifest of the service."),
    ("/srv/dcsync", "The mirror of the service."),
)
_ENVIRONMENT = (("DCSYNC_CONFIG", "The configuration file to read, unless --config names another."),)


def generated_files() -> dict[str, str]:
    """Return every generated file, text by path below the prefix."""
    return {MANUAL: manual_page(), **{path: completion(shell) for shell, path in COMPLETIONS.items()}}


def completion(shell: str) -> str:
    """Return click's script for this shell. bash's own check of its version would run bash."""
    complete = get_completion_class(shell)
    assert complete is not None, shell
    return ShellComplete.source(complete(dcsync, {}, "dcsync", "_DCSYNC_COMPLETE")).strip() + "\n"


def manual_page() -> str:
    """Return dcsync(1) in the man macros: every command with its options and exit statuses."""
    context = dcsync.make_context("dcsync", [], resilient_parsing=True)
    lines = [
        f'.TH DCSYNC 1 "" "dcsync {__version__}" "User Commands"',
        ".SH NAME",
        f"dcsync \\- {_escaped(_summary(dcsync))}",
        ".SH SYNOPSIS",
        f".B dcsync\n{_escaped('[OPTIONS] COMMAND [ARGS]...')}",
        ".SH DESCRIPTION",
        *_text(dcsync.help),
        ".SH OPTIONS",
        *_options(dcsync, context),
        ".SH COMMANDS",
    ]
    for name, command in commands(dcsync, context):
        own = click.Context(command, info_name=name, help_option_names=[])  # --help is among the options of dcsync
        lines += [f".SS {_escaped(' '.join([name, *command.collect_usage_pieces(own)]))}"]
        lines += [*_text(command.help), *_options(command, own), *_text(command.epilog)]
    lines += [".SH EXIT STATUS", *_text((dcsync.epilog or "").replace("Exit status:\n", ""))]
    lines += [".SH FILES", *_definitions(_FILES), ".SH ENVIRONMENT", *_definitions(_ENVIRONMENT)]
    lines += [".SH SEE ALSO", ".BR systemctl (1),", ".BR systemd.exec (5)"]
    return "\n".join(lines) + "\n"


def commands(group: click.Group, context: click.Context, prefix: str = "dcsync") -> Iterator[tuple[str, click.Command]]:
    """Yield every command below a group, and its full name."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        yield f"{prefix} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, context, f"{prefix} {name}")


def _summary(command: click.Command) -> str:
    """Return the first sentence, as NAME has it: `dcsync - mirror …`."""
    sentence = " ".join((command.help or "").split("\n\n")[0].split()).rstrip(".")
    return sentence[:1].lower() + sentence[1:]


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    records = (parameter.get_help_record(context) for parameter in command.get_params(context))
    yield from _definitions(record for record in records if record is not None and record[1])


def _definitions(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    for term, meaning in rows:
        yield from (".TP", f"\\fB{_escaped(term)}\\fR", _escaped(meaning))


def _text(text: str | None) -> Iterator[str]:
    """Yield the paragraphs of a help text. The lines of one that begins with a backspace stay as they are."""
    for paragraph in re.split(r"\n\s*\n", (text or "").replace("\f", "").strip()):
        if paragraph.lstrip().startswith("\b"):
            kept = paragraph.replace("\b", "").strip("\n").splitlines()
            yield from (".PP", ".nf", *map(_escaped, kept), ".fi")
        elif paragraph:
            yield from (".PP", _escaped(" ".join(paragraph.split())))


def _escaped(text: str) -> str:
    """Return a line of text for troff, in ASCII: no escapes, plain hyphens, and no request at its start."""
    line = text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("^", "\\(ha")
    line = "".join(letter if letter.isascii() else f"\\[u{ord(letter):04X}]" for letter in line)
    return f"\\&{line}" if line.startswith((".", "'")) else line
