"""The generated parts of the reference. A page of docs/ has the marker `<!-- generated: NAME -->` in their place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, cast

import click

from dcsync.cli.group import MEANINGS, dcsync
from dcsync.config import json_schema
from dcsync.config.template import example
from dcsync.errors import ExitStatus
from dcsync.explain import sections
from dcsync.ops.metrics import families
from dcsync.ops.peers import Host
from dcsync.ops.status import Status
from scripts.docs.pages import REPOSITORY
from scripts.manual import commands

#: A guide that a text names. Its link shows the title of the page.
_GUIDE: Final = re.compile(r"`dcsync explain ([a-z-]+)`")
_PAGE: Final = re.compile(r"\bdocs/([\w/-]+\.md)")
#: A row of the table of exit statuses below a command's help.
_STATUS: Final = re.compile(r"^ +(\d+) +(.+)$", re.MULTILINE)
_MARKUP: Final = re.compile(r"([*_<|\[\]])")


# --- codes ------------------------------------------------------------------------------------------------------------


def codes() -> str:
    """Return every code with its texts, by topic."""
    parts: list[str] = []
    for section in sections():
        parts += [f"## {section.title}", section.intro]
        for each in section.explanations:
            parts += [
                f"### {each.code}",
                f"Severity **{each.kind.severity}**, exit status **{int(each.kind.exit_status)}**.",
                f"**What it means:** {_text(each.meaning)}",
                f"**What dcsync does:** {_text(each.response)}",
                f"**When it is resolved:** {_text(each.resolved)}",
                f"**What you do:** {_text(each.advice)}",
            ]
    return _paragraphs(parts)


def exit_statuses() -> str:
    """Return every exit status with its meaning, its codes, and the commands that can return it."""
    explained = [each for section in sections() for each in section.explanations]
    parts: list[str] = []
    for status in ExitStatus:
        named = [each.code for each in explained if each.kind.exit_status is status]
        users = [name for name, command in _all_commands() if str(int(status)) in _statuses(command)]
        parts += [f"## Exit status {int(status)}", f"{MEANINGS[status].capitalize()}."]
        every = len(users) == len(list(_all_commands()))
        parts += [f"Commands: {'all' if every else ', '.join(f'`{name}`' for name in users)}."]
        if named:
            parts.append(f"Codes: {', '.join(f'[{code}](alerts.md#{code.lower()})' for code in named)}.")
    return _paragraphs(parts)


# --- configuration ----------------------------------------------------------------------------------------------------


def configuration() -> str:
    """Return every section and key of the configuration: its type, its default, and what it is for."""
    parts: list[str] = []
    for name, section in cast("dict[str, dict[str, Any]]", json_schema()["properties"]).items():
        table = section.get("items", section)
        parts += [f"## \\[\\[{name}\\]\\]" if "items" in section else f"## \\[{name}\\]", _text(section["description"])]
        for key, described in table["properties"].items():
            facts = [f"Type: {_type(described)}."]
            if key in table.get("required", ()):
                facts.append("Required.")
            elif "default" in described:
                facts.append(f"Default: `{_value(described['default'])}`.")
            parts += [f"### {name}.{key}", _text(described["description"]), " ".join(facts)]
    return _paragraphs(parts)


def _type(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(f"`{_value(value)}`" for value in schema["enum"])
    names = {"string": "text", "integer": "number", "boolean": "`true` or `false`", "object": "table of texts"}
    if schema["type"] == "array":
        inner = _type(schema["items"])
        return f"list of {'texts' if inner == 'text' else inner}"
    if "examples" in schema:
        return "text such as " + " or ".join(f"`{_value(value)}`" for value in schema["examples"])
    if schema.get("format") == "path":
        return "path"
    limits = f", {schema['minimum']} to {schema['maximum']}" if "maximum" in schema else ""
    return names[schema["type"]] + limits


def _value(value: object) -> str:
    """Return a value as TOML shows it. All defaults and names have the same form in JSON."""
    return json.dumps(value, ensure_ascii=False)


def example_file() -> str:
    """Return the commented example."""
    return f"```toml\n{example().strip()}\n```"


# --- commands ---------------------------------------------------------------------------------------------------------


def command_line() -> str:
    """Return every command with its usage, description, options and exit statuses."""
    parts = ["## dcsync", *_command("dcsync", dcsync)]
    for name, command in _all_commands():
        parts += [f"## {name}", *_command(name, command)]
    return _paragraphs(parts)


def _command(name: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=name)
    yield f"```\n{name} {' '.join(command.collect_usage_pieces(context))}\n```"
    yield from _help(command.help or "")
    records = (option.get_help_record(context) for option in command.get_params(context))
    rows = [
        (f"`{record[0]}`", _text(record[1])) for record in records if record is not None and "--help" not in record[0]
    ]
    yield _table(("Option", "Meaning"), rows) if rows else ""
    statuses = _statuses(command)
    yield _table(("Exit status", "Meaning"), [(f"`{number}`", _text(text)) for number, text in statuses.items()])


def _help(text: str) -> Iterator[str]:
    """Yield the paragraphs of a help text. One that begins with a backspace keeps its lines."""
    for paragraph in re.split(r"\n\s*\n", text.partition("\f")[0].strip()):
        kept = paragraph.replace("\b", "").strip("\n")
        yield f"```\n{kept}\n```" if "\b" in paragraph else _text(" ".join(kept.split()))


def _statuses(command: click.Command) -> dict[str, str]:
    return dict(_STATUS.findall(command.epilog or ""))


def _all_commands() -> Iterator[tuple[str, click.Command]]:
    return commands(dcsync, dcsync.make_context("dcsync", [], resilient_parsing=True))


# --- metrics ----------------------------------------------------------------------------------------------------------


def metrics() -> str:
    """Return every metric with its type, labels and meaning."""
    now = datetime.now(UTC)
    host = Host(id=1, name="", pid=1, version="", role="run", started_at=now, seen_at=now, is_alive=True, doing="")
    status = Status(
        accounts=(),
        quota_limit=0,
        quota_used=0,
        token_method="",
        token_expires_at=None,
        token_refresh_by=now,
        free_bytes=0,
        holder=None,
        hosts=(host,),
    )
    rows = []
    for family in families(status):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(f"`{label}`" for label in family._labelnames)  # type: ignore[attr-defined] # noqa: SLF001
        rows.append((f"`{name}`", family.type, labels, _text(family.documentation)))
    return _table(("Metric", "Type", "Labels", "Meaning"), rows)


# --- Markdown ---------------------------------------------------------------------------------------------------------


def _paragraphs(parts: Iterable[str]) -> str:
    return "\n\n".join(part for part in parts if part)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(text: str) -> str:
    """Return plain text with code in backticks as Markdown: no other markup, and links to the pages that it names."""
    spans = _GUIDE.sub(r"docs/guides/\1.md", text).split("`")
    for index in range(0, len(spans), 2):
        spans[index] = _PAGE.sub(_link, _MARKUP.sub(r"\\\1", spans[index]))
    return "`".join(spans)


def _link(found: re.Match[str]) -> str:
    page = found[1].replace("\\", "")
    title = (REPOSITORY / "docs" / page).read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
    return f"[{title}](../{page})"


GENERATED: Final[Mapping[str, Callable[[], str]]] = {
    "codes": codes,
    "commands": command_line,
    "configuration": configuration,
    "example": example_file,
    "exit-statuses": exit_statuses,
    "metrics": metrics,
}
