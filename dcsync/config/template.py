"""Filling in the commented example, `config.example.toml`, which is `example.toml` in the package."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources

_HEADER = re.compile(r"(# )?(?P<header>\[\[?(?P<section>[a-z]+)\]\]?)")
_KEY = re.compile(r"(# )?(?P<key>[a-z_]+) = (?P<value>.+)")
_ACCOUNT = "account"


def example() -> str:
    """Return the example, which has every key with its default and a comment."""
    return resources.files("dcsync.config").joinpath("example.toml").read_text(encoding="utf-8")


def fill(template: str, values: Mapping[tuple[str, str], str | None], accounts: Sequence[tuple[str, str]] = ()) -> str:
    """Return the template with the given values by section and key. Comments and all other keys stay the same.

    A key with a value becomes active, and a key with None is commented out. The template's `[[account]]` becomes the
    first of `accounts` (name, ID), and the others follow it. Without accounts it is commented out. Raises `KeyError` if
    the template lacks a key.
    """
    wanted = dict(values)
    if accounts:
        wanted[_ACCOUNT, "name"], wanted[_ACCOUNT, "id"] = accounts[0]
    out: list[str] = []
    section, end_of_account, filled = "", 0, set()
    for line in template.split("\n"):
        header, key = _HEADER.fullmatch(line), _KEY.fullmatch(line)
        place = (section, key["key"]) if key is not None else None
        if header is not None:
            section = header["section"]
            text = _commented(line) if section == _ACCOUNT and not accounts else line
        elif key is None or place is None:
            text = line
        elif place in wanted:
            filled.add(place)
            value = wanted[place]
            text = _commented(line) if value is None else f"{key['key']} = {quoted(value)}"
        else:
            text = _commented(line) if section == _ACCOUNT and not accounts else line
        out.append(text)
        if section == _ACCOUNT and key is not None:
            end_of_account = len(out)
    missing = wanted.keys() - filled
    if missing:
        raise KeyError(*missing)
    further = [f"\n[[account]]\nname = {quoted(name)}\nid = {quoted(identifier)}" for name, identifier in accounts[1:]]
    out[end_of_account:end_of_account] = further
    return "\n".join(out)


def quoted(text: str) -> str:
    """Return text as a TOML basic string."""
    # TOML has the same escapes as JSON. DEL is the one character that JSON allows and TOML does not.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _commented(line: str) -> str:
    return line if line.startswith("# ") else f"# {line}"
