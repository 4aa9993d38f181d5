"""What a reader types or pastes from the documents: commands, configurations and links. Nothing is run."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import pytest

from dcsync.cli.group import dcsync
from dcsync.config.load import parse
from dcsync.errors import ConfigInvalid

REPOSITORY: Final = Path(__file__).parent.parent
DOCUMENTS: Final = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for pattern in ("README.md", "SECURITY.md", "CONTRIBUTING.md", "docs/**/*.md")
    for path in REPOSITORY.glob(pattern)
)
_FENCE: Final = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_SPAN: Final = re.compile(r"`([^`\n]+)`")
#: What may stand before a command that is started by something else, with its options.
_STARTERS: Final = {"sudo": {"-u"}, "systemd-run": {"-p"}, "runuser": {"-u"}, "exec": set(), "nice": {"-n"}}
_LINK: Final = re.compile(r"\[[^\]\n]*(?:\n[^\]\n]*)?\]\(([^)\s]+)\)")


def text_of(document: str) -> str:
    return (REPOSITORY / document).read_text(encoding="utf-8")


# --- commands ---------------------------------------------------------------------------------------------------------


def commands_in(text: str) -> Iterator[list[str]]:
    """Yield the arguments of each call of dcsync: in code blocks for a shell or a terminal, and in code spans."""
    blocks = list(_FENCE.finditer(text))
    for block in blocks:
        if block[2] in {"sh", ""}:
            for line in re.sub(r"\\\n\s*", "", block[3]).splitlines():
                is_output = block[2] == "" and not line.strip().startswith("$ ")
                if "dcsync" in line and not is_output:
                    yield from calls(line.strip().removeprefix("$ "))
    for span in _SPAN.finditer(_FENCE.sub("", text)):
        if re.match(r"(sudo .*|systemd-run .*)?\bdcsync [a-z-]", span[1]) and "…" not in span[1]:
            yield from calls(span[1])


def calls(line: str) -> Iterator[list[str]]:
    """Yield the arguments of each call of dcsync in a line of a shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|()")
    lexer.commenters = "#"
    lexer.whitespace_split = True
    command: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set(";&|()"):
            arguments = arguments_of(command)
            if arguments is not None:
                yield arguments
            command = []
        else:
            command.append(word)


def arguments_of(command: list[str]) -> list[str] | None:
    """Return what follows the program, or None if the program is not dcsync."""
    words = iter(command)
    options: set[str] = set()
    for word in words:
        if word in _STARTERS:
            options = _STARTERS[word]
        elif word in options:
            next(words, None)
        elif not re.match(r"-|\w+=", word):
            return list(words) if word.rpartition("/")[2] == "dcsync" else None
    return None


def check_call(arguments: list[str]) -> str | None:
    """Return what click says against a call. A group alone, such as `dcsync hooks`, is the name of its commands."""
    parent: click.Context | None = None
    command: click.Command = dcsync
    name: str | None = "dcsync"
    rest = list(arguments)
    try:
        while True:
            context = command.make_context(name, rest, parent=parent)
            after = [*context._protected_args, *context.args]
            if not isinstance(command, click.Group) or (command.invoke_without_command and not after):
                return None
            name, found, rest = command.resolve_command(context, after)
            assert found is not None
            command, parent = found, context
    except click.exceptions.NoArgsIsHelpError:
        return None
    except click.exceptions.Exit:
        return None
    except click.exceptions.MissingParameter:
        return None if command.name in {"rerun", "explain", "copy", "notify"} else "a parameter is missing"
    except click.UsageError as error:
        return error.format_message()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_in_a_document_exists_with_its_options(document: str) -> None:
    mistakes = [(shlex.join(each), check_call(each)) for each in commands_in(text_of(document))]

    assert [f"dcsync {call}: {mistake}" for call, mistake in mistakes if mistake] == []


def test_the_commands_are_found_in_each_form() -> None:
    text = """
`dcsync status --check` and `sudo -u dcsync dcsync jobs`, not `dcsync.service` or `dcsync demo … FOLDER`
```
$ dcsync diff A B
dcsync: this is output
```
```sh
systemctl stop dcsync                     # not a call
systemd-run --pty --uid=dcsync -p LoadCredential=a:/b \\
  /usr/local/bin/dcsync --config X login  # a comment
HOME=/x dcsync sync && dcsync verify
```
"""
    assert [shlex.join(each) for each in commands_in(text)] == [
        "diff A B",
        "--config X login",
        "sync",
        "verify",
        "status --check",
        "jobs",
    ]


@pytest.mark.parametrize("call", ["statsu", "status --chek", "hooks lst", "sync extra", "--configuration x status"])
def test_a_wrong_command_is_noticed(call: str) -> None:
    assert check_call(call.split()) is not None


# --- configurations ---------------------------------------------------------------------------------------------------

_NEEDED: Final[dict[str, Any]] = {
    "mirror": {"root": "/srv/dcsync"},
    "auth": {"client_id": "id"},
    "account": [{"name": "acme", "id": "b.872264f8-2433-498d-8d36-16649ecb13fe"}],
}


def with_needed(fragment: dict[str, Any]) -> dict[str, Any]:
    """Return a fragment with the keys that every configuration needs."""
    whole = {**_NEEDED, **fragment}
    for section in ("mirror", "auth"):
        whole[section] = {**_NEEDED[section], **fragment.get(section, {})}
    whole["account"] = [{**_NEEDED["account"][0], **each} for each in whole["account"]]
    return whole


def toml(value: Any) -> str:
    """Return a value of TOML in a single line."""
    match value:
        case dict():
            return "{" + ", ".join(f'"{key}" = {toml(each)}' for key, each in value.items()) + "}"
        case list():
            return "[" + ", ".join(toml(each) for each in value) + "]"
        case bool():
            return str(value).lower()
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case _:
            return str(value)


def mistakes_in(snippet: str) -> list[str]:
    """Return what the parser of the configuration says against a snippet, once its missing keys are added."""
    whole = with_needed(tomllib.loads(snippet))
    text = "\n".join(f"{section} = {toml(value)}" for section, value in whole.items())
    try:
        parse(text, place=Path("snippet.toml"))
    except ConfigInvalid as error:
        return [str(error)]
    return []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_configuration_in_a_document_is_accepted(document: str) -> None:
    snippets = [block[3] for block in _FENCE.finditer(text_of(document)) if block[2] == "toml"]

    # A text that is about the format of pyproject.toml is not a configuration of dcsync.
    found = [mistakes_in(each) for each in snippets if "[project" not in each and "[tool." not in each]
    assert [mistake for mistakes in found for mistake in mistakes] == []


@pytest.mark.parametrize("snippet", ["[mirror]\nrot = '/x'", "[keeep]\nlast = 1", "[keep]\nlast = 'two'"])
def test_a_wrong_configuration_is_noticed(snippet: str) -> None:
    assert mistakes_in(snippet) != []


# --- links ------------------------------------------------------------------------------------------------------------


def anchors_of(path: Path) -> set[str] | None:
    """Return the anchors of a page's headings, or None if the site generates some. Its strict build checks these."""
    text = _FENCE.sub("", path.read_text(encoding="utf-8"))
    if "<!-- generated:" in text:
        return None
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


def broken_links(document: str) -> Iterator[str]:
    """Yield the links of a document to a file or a heading that does not exist."""
    here = REPOSITORY / document
    for target in _LINK.findall(_FENCE.sub("", text_of(document))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (here.parent / name).resolve() if name else here
        known = anchors_of(path) if anchor and path.suffix == ".md" and path.is_file() else None
        if not path.exists() or (known is not None and anchor not in known):
            yield target


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_in_a_document_leads_somewhere(document: str) -> None:
    assert list(broken_links(document)) == []


def test_every_document_that_the_package_names_exists() -> None:
    files = [path for path in (REPOSITORY / "dcsync").rglob("*") if path.suffix in {".py", ".toml", ".service", ".j2"}]
    named = {name for path in files for name in re.findall(r"docs/[\w/-]+\.md", path.read_text(encoding="utf-8"))}

    assert len(named) > 3
    assert [name for name in sorted(named) if not (REPOSITORY / name).is_file()] == []
