"""What the commented example says about each section and key: its comment and the value it shows."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from dcsync.config.template import example
from dcsync.core.model import Json

_HEADER: Final = re.compile(r"(# )?\[\[?(?P<section>[a-z]+)\]\]?")
_KEY: Final = re.compile(r"(# )?(?P<key>[a-z_]+) = (?P<value>.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A key of the example: the comment above it as one paragraph, and the value it shows."""

    comment: str
    value: Json
    #: False for a key that is commented out.
    is_active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedSection:
    """A section of the example: the comment above its header, and its keys in the order of the file."""

    comment: str
    keys: Mapping[str, Described]


@cache
def reference() -> Mapping[str, DescribedSection]:
    """Return every section of the example by its name in the file.

    Keys that follow each other without a comment between them share the comment above the first.
    """
    sections: dict[str, DescribedSection] = {}
    keys: dict[str, Described] = {}
    comment: list[str] = []
    shared = ""
    for line in example().split("\n"):
        header, key = _HEADER.fullmatch(line), _KEY.fullmatch(line)
        if header is not None:
            keys = {}
            sections[header["section"]] = DescribedSection(comment=" ".join(comment), keys=keys)
        elif key is not None:
            shared = " ".join(comment) or shared
            keys[key["key"]] = Described(comment=shared, value=_value(key["value"]), is_active=key[1] is None)
        elif line.startswith("# "):
            comment.append(line[2:])
            continue
        comment = []
    return sections


def _value(text: str) -> Json:
    value: Json = tomllib.loads(f"value = {text}")["value"]
    return value
