"""Names that the configuration used in the previous version: accepted for one more, with a warning.

An entry is added with the version that renames something, and removed one minor version later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

#: Where something is in the file: the section, then an index in an array of tables, then the key.
Place: TypeAlias = tuple[str | int, ...]

#: By section: the old key and the new one.
_KEYS: Mapping[str, Mapping[str, str]] = {"auth": {"account_id": "service_account_id"}}
#: By section and key: the old value and the new one. Where the value is an array, each of its elements.
_VALUES: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("mirror", "strategy"): {"archive": "zip"},
    ("hook", "on"): {"attention": "alert"},
    ("notify", "on"): {"attention": "alert"},
}
_LAST_VERSION = "0.2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Renaming:
    """An old name that a file uses. `clashes` when the new key is there as well, so that neither can be believed."""

    place: Place
    message: str
    clashes: bool = False
    #: Where the value is read from instead.
    new_place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class OldName:
    """A warning about an old name, with its line. Its text is one line."""

    file: str
    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.key}: {self.message}"


def rename(document: Mapping[str, object]) -> tuple[dict[str, object], tuple[Renaming, ...]]:
    """Return a TOML document with the current names, and the old names that it used. Changes nothing in place."""
    found: list[Renaming] = []
    renamed: dict[str, object] = {}
    for section, content in document.items():
        # Anything else than a table is a mistake that the check of types reports.
        if isinstance(content, dict):
            renamed[section] = _section((section,), content, found)
        elif isinstance(content, list):
            renamed[section] = [
                _section((section, index), item, found) if isinstance(item, dict) else item
                for index, item in enumerate(content)
            ]
        else:
            renamed[section] = content
    return renamed, tuple(found)


def _section(place: Place, content: Mapping[str, object], found: list[Renaming]) -> dict[str, object]:
    section = str(place[0])
    keys = _KEYS.get(section, {})
    renamed: dict[str, object] = {}
    for key, value in content.items():
        new = keys.get(key)
        if new is None:
            renamed[key] = _value((*place, key), _VALUES.get((section, key), {}), value, found)
            continue
        clashes = new in content
        message = f"it is the old name of {section}.{new}, and both are set: remove this line" if clashes else None
        found.append(
            Renaming(
                place=(*place, key),
                message=message or f"renamed to {section}.{new}. {_ends()}",
                clashes=clashes,
                new_place=(*place, new),
            )
        )
        if not clashes:
            renamed[new] = value
    return renamed


def _value(place: Place, names: Mapping[str, str], value: object, found: list[Renaming]) -> object:
    old = [item for item in _strings(value) if item in names]
    if not old:
        return value
    found += [
        Renaming(place=place, message=f'"{item}" is now called "{names[item]}". {_ends()}', new_place=place)
        for item in dict.fromkeys(old)
    ]
    if isinstance(value, list):
        # A file for both versions may have both names, which mean the same.
        renamed = [names.get(item, item) if isinstance(item, str) else item for item in value]
        return [item for index, item in enumerate(renamed) if item not in renamed[:index]]
    return names[old[0]]


def _strings(value: object) -> Iterator[str]:
    items: Sequence[object] = value if isinstance(value, list) else [value]
    yield from (item for item in items if isinstance(item, str))


def _ends() -> str:
    return f"Version {_LAST_VERSION} is the last one that accepts the old name"
