"""Every key of a configuration with its value and where the value comes from. Secrets are never shown."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from dcsync.config.lines import key_lines, line_of
from dcsync.config.load import dotted, find, parse, read
from dcsync.config.reference import reference
from dcsync.config.renamed import OldName, rename
from dcsync.config.schema import default_of
from dcsync.config.secret_refs import secret_refs
from dcsync.core.model import Json

_HIDDEN = "***"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A key and its value. Both `line` (of a default) and `value` (without a default) may be None."""

    key: str
    value: Json
    line: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A valid configuration file, all its settings, and the old names it uses."""

    file: Path
    settings: Sequence[Setting]
    old_names: Sequence[OldName]


def read_settings(path: Path | None, *, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read and check the configuration as `load` does, and return every key in the order of the example.

    Raises what `load` raises.
    """
    place = find(path, environ=environ)
    text, exposed = read(place)
    config = parse(text, place=place, exposed=exposed, accounts_needed=False)
    shown = dict(secret_refs(config))
    document, renamings = rename(tomllib.loads(text))
    lines = key_lines(text)
    for renaming in renamings:
        lines.setdefault(renaming.new_place, line_of(renaming.place, lines) or 0)

    def value_of(place: tuple[str | int, ...], value: object) -> Json:
        if place in shown:
            return shown[place].describe()
        if isinstance(value, list):
            return [value_of((*place, index), item) for index, item in enumerate(value)]
        if isinstance(value, dict):
            # The headers of the API: a gateway's may hold a key.
            return dict.fromkeys(value, _HIDDEN)
        return cast("Json", value) if isinstance(value, bool | int | float | str) else str(value)

    def settings() -> Iterator[Setting]:
        for table, section, written in _tables(document):
            for key in reference()[section].keys:
                place = (*table, key)
                if key in written:
                    value, line = value_of(place, written[key]), line_of(place, lines)
                else:
                    value, line = default_of(section, key), None
                yield Setting(key=dotted(place), value=value, line=line)

    return Settings(file=place, settings=tuple(settings()), old_names=config.old_names)


def _tables(document: Mapping[str, object]) -> Iterator[tuple[tuple[str | int, ...], str, Mapping[str, object]]]:
    """Yield the place, the section and the content of each table. A section that is not in the file is empty."""
    for section in reference():
        content = document.get(section, [] if section in {"account", "load", "hook"} else {})
        if isinstance(content, list):
            for index, table in enumerate(content):
                yield (section, index), section, table
        else:
            yield (section,), section, cast("Mapping[str, object]", content)
