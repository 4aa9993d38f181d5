"""Locating, reading and checking the file."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dcsync.config.lines import key_lines, line_of
from dcsync.config.model import Config
from dcsync.config.renamed import OldName, rename
from dcsync.config.secret_refs import is_utf_16, secret_refs
from dcsync.core.names import printable
from dcsync.errors import ConfigInvalid, ConfigMissing, ConfigMistake, ConfigUnreadable

#: What a value must be, by pydantic's name for the mistake. Its own words are those of Python.
_TYPES: Final = {
    "bool_type": "must be true or false, without quotes",
    "int_type": "must be a whole number, without quotes",
    "string_type": "must be text in quotes",
    "path_type": "must be a path in quotes",
    "dict_type": 'must be a table such as { NAME = "value" }',
}
#: The machine's configuration, for a service.
SYSTEM = Path("/etc/dcsync/config.toml")


def find(path: Path | None, *, environ: Mapping[str, str], system: Path = SYSTEM) -> Path:
    """Return the file to read: `path`, `$DCSYNC_CONFIG`, the user's, or the system's."""
    named = named_place(path, environ)
    if named is not None:
        return named
    places = [*places_of_the_user(environ), system]
    for place in places:
        if _is_there(place):
            return place
    message = f"no configuration found in {' or '.join(str(place) for place in places)}"
    raise ConfigMissing(message)


def named_place(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the file that the option or the environment variable names."""
    return path or (Path(environ["DCSYNC_CONFIG"]) if environ.get("DCSYNC_CONFIG") else None)


def places_of_the_user(environ: Mapping[str, str]) -> list[Path]:
    """Return the path of the user's configuration. Empty if the user has no home folder."""
    if environ.get("XDG_CONFIG_HOME"):
        return [Path(environ["XDG_CONFIG_HOME"]) / "dcsync" / "config.toml"]
    try:
        home = Path(environ["HOME"]) if environ.get("HOME") else Path.home()
    except RuntimeError:
        # A system user may have no home folder.
        return []
    return [home / ".config" / "dcsync" / "config.toml"]


def _is_there(place: Path) -> bool:
    """Return whether the file exists. A file that cannot be examined counts: reading it then reports the reason."""
    try:
        place.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def load(path: Path | None = None, *, environ: Mapping[str, str], accounts_needed: bool = True) -> Config:
    """Read and check the configuration. Commands that list accounts do without `accounts_needed`.

    Raises `ConfigMissing`, or `ConfigInvalid` with all mistakes and their lines.
    """
    place = find(path, environ=environ)
    text, exposed = read(place)
    return parse(text, place=place, exposed=exposed, accounts_needed=accounts_needed)


def parse(text: str, *, place: Path, exposed: bool = False, accounts_needed: bool = True) -> Config:
    """Check a configuration's text as `load` does. `exposed`: others can read it, so it must hold no secret."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid((_broken(place, error),)) from None
    lines = key_lines(text)
    document, renamings = rename(document)
    mistakes, old_names = [], []
    for renaming in renamings:
        line, key = line_of(renaming.place, lines), dotted(renaming.place)
        lines.setdefault(renaming.new_place, line or 0)
        if renaming.clashes:
            mistakes.append(ConfigMistake(file=str(place), line=line, key=key, message=renaming.message))
        else:
            old_names.append(OldName(file=str(place), line=line, key=key, message=renaming.message))
    if accounts_needed and document.get("account", []) == []:
        message = "add at least one [[account]], or let dcsync init add one"
        line = line_of(("account",), lines)
        mistakes.append(ConfigMistake(file=str(place), line=line, key="account", message=message))
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        details = error.errors(include_input=False, include_url=False, include_context=True)
        mistakes = [*(_mistake(place, item, lines) for item in details), *mistakes]
    else:
        for path, ref in secret_refs(config):
            if exposed and ref.holds_secret:
                message = "others can read this secret. Run chmod 600, or write env:NAME or file:PATH instead"
                mistakes.append(
                    ConfigMistake(file=str(place), line=line_of(path, lines), key=dotted(path), message=message)
                )
        if not mistakes:
            return config.with_old_names(tuple(old_names))
    raise ConfigInvalid(tuple(sorted(mistakes, key=lambda mistake: mistake.line or 0)))


def read(place: Path) -> tuple[str, bool]:
    """Return the file's text, and whether others can read it. Raises `ConfigMissing` or `ConfigInvalid`."""

    def fail(message: str, line: int | None = None) -> ConfigInvalid:
        return ConfigInvalid((ConfigMistake(file=str(place), line=line, key="", message=message),))

    try:
        body = place.read_bytes()
        exposed = bool(stat.S_IMODE(place.stat().st_mode) & 0o077)
    except FileNotFoundError:
        message = f"the configuration {place} does not exist"
        raise ConfigMissing(message) from None
    except IsADirectoryError:
        raise fail("not a file but a folder") from None
    except OSError as error:
        message = f"cannot read the file: {error.strerror} (as uid {os.geteuid()})"
        kind = ConfigUnreadable if isinstance(error, PermissionError) else ConfigInvalid
        raise kind(fail(message).mistakes) from None
    if is_utf_16(body):
        message = "UTF-16 text. Save the file as UTF-8"
        raise fail(message, 1)
    try:
        return body.decode("utf-8-sig"), exposed
    except UnicodeDecodeError as error:
        raise fail("not UTF-8 text", body[: error.start].count(b"\n") + 1) from None


def _broken(place: Path, error: tomllib.TOMLDecodeError) -> ConfigMistake:
    words = str(error)
    found = re.search(r"at line (\d+), column (\d+)", words)
    reason = words.split(" (at ", maxsplit=1)[0]
    return ConfigMistake(
        file=str(place),
        line=int(found[1]) if found else None,
        key="",
        message=f"not valid TOML: {reason}" + (f" (column {found[2]})" if found else ""),
    )


def _mistake(place: Path, item: ErrorDetails, lines: dict[tuple[str | int, ...], int]) -> ConfigMistake:
    path = tuple(item["loc"])
    message = item["msg"].removeprefix("Value error, ")
    key = dotted(path)
    match item["type"]:
        case "extra_forbidden":
            message = "unknown key" + _suggestion(path)
        case "missing":
            message = "is missing" if len(path) > 1 else f"the section [{path[0]}] is missing"
        case "literal_error":
            expected = item.get("ctx", {}).get("expected", "")
            message = f"must be one of {expected}"
        case "list_type":
            message = _list_words(path)
        case "model_type":
            message = f"must be a section: write [{key}]"
        case "greater_than_equal" | "less_than_equal" as kind:
            least = kind.startswith("greater")
            limit = item.get("ctx", {}).get("ge" if least else "le")
            message = f"must be {limit} or {'more' if least else 'less'}"
        case kind:
            message = _TYPES.get(kind, message)
    if not path and ": " in message and re.match(r"[a-z.]+: ", message):
        key, message = message.split(": ", 1)
        path = tuple(key.split("."))
    # A quoted key may contain any character.
    return ConfigMistake(file=str(place), line=line_of(path, lines), key=printable(key, 200), message=message)


def _list_words(path: Sequence[str | int]) -> str:
    """Return what a list must be, with its words if they are fixed."""
    annotation = _annotation(Config, path)
    if _model_in(annotation) is not None:
        return f"must be a list of sections: write [[{path[-1]}]], with two brackets"
    words = ", ".join(f'"{word}"' for inner in get_args(annotation) for word in get_args(inner))
    return f"must be a list in brackets, of {words}" if words else 'must be a list in brackets, such as ["*"]'


def dotted(path: Sequence[str | int]) -> str:
    """Return a path as messages show it: array elements count from 1."""
    return ".".join(str(part + 1) if isinstance(part, int) else part for part in path)


def _suggestion(path: Sequence[str | int]) -> str:
    known = _known_keys(Config, path[:-1])
    close = get_close_matches(str(path[-1]), known, n=1, cutoff=0.6)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; the keys are {', '.join(sorted(known))}" if known else ""


def _known_keys(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """Return the keys of the section at a path."""
    inner = _model_in(_annotation(model, path))
    return [] if inner is None else [field.alias or name for name, field in inner.model_fields.items()]


def _annotation(model: type[BaseModel], path: Sequence[str | int]) -> Any:  # noqa: ANN401 - it can have any type
    """Return the annotation of the key at a path, or None for an unknown one."""
    annotation: Any = model
    for part in path:
        if isinstance(part, int):
            continue
        section = _model_in(annotation)
        fields = {} if section is None else section.model_fields
        annotation = next((field.annotation for name, field in fields.items() if (field.alias or name) == part), None)
    return annotation


def _model_in(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401 - an annotation can have any type
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in {list, UnionType}:
        return next((found for found in map(_model_in, get_args(annotation)) if found is not None), None)
    return None
