"""Changing one value of a configuration file, and nothing else in it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from dcsync.config.lines import key_lines
from dcsync.config.load import read


def change_value(text: str, section: str, key: str, *, old: str, new: str) -> str | None:
    """Return the text with another value of a key, or None if the value is not the only one on a line of its own.

    Comments, order and line breaks stay as they are.
    """
    number = key_lines(text).get((section, key))
    if number is None:
        return None
    lines = text.split("\n")
    found = re.fullmatch(rf"""(\s*{re.escape(key)}\s*=\s*)(["']){re.escape(old)}\2(\s*(?:#.*)?)""", lines[number - 1])
    if found is None or not _is_plain(new):
        return None
    lines[number - 1] = f"{found[1]}{found[2]}{new}{found[2]}{found[3]}"
    changed = "\n".join(lines)
    wanted = tomllib.loads(text)
    wanted[section][key] = new
    return changed if tomllib.loads(changed) == wanted else None


def read_text(place: Path) -> str:
    """Return the text of a configuration. Raises `ConfigError`s."""
    return read(place)[0]


def _is_plain(value: str) -> bool:
    """Return whether TOML needs no escape for the value, in either kind of quotes."""
    return re.fullmatch(r"[A-Za-z0-9._:-]+", value) is not None
