"""Changing one value or one account of a configuration file, and nothing else in it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from dcsync.config.lines import key_lines
from dcsync.config.load import read
from dcsync.config.template import quoted


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


def add_account(text: str, name: str, identifier: str) -> str | None:
    """Return the text with another account, or None if it cannot be added to what is there.

    The commented section of the example is used if it is still there. Otherwise the account is added at the end.
    """
    values = {"name": quoted(name), "id": quoted(identifier)}
    wanted = tomllib.loads(text)
    if not isinstance(wanted.setdefault("account", []), list):
        return None
    wanted["account"].append({"name": name, "id": identifier})
    lines = [f"{key} = {value}" for key, value in values.items()]
    appended = "\n".join([*text.rstrip().split("\n"), "", "[[account]]", *lines, ""])
    return next((each for each in (_uncommented(text, values), appended) if _is(each, wanted)), None)


def set_requests(text: str, name: str, requests: Sequence[str]) -> str | None:
    """Return the text in which an account mirrors only these data requests, or None if that cannot be changed.

    The account must not name any data requests yet.
    """
    wanted = tomllib.loads(text)
    index = next((i for i, each in enumerate(wanted.get("account", [])) if each.get("name") == name), None)
    if index is None or wanted["account"][index].get("requests"):
        return None
    wanted["account"][index]["requests"] = list(requests)
    known, lines = key_lines(text), text.split("\n")
    line = f"requests = [{', '.join(map(quoted, requests))}]"
    old, place = known.get(("account", index, "requests")), known.get(("account", index, "id"))
    if old is not None:
        lines[old - 1] = line
    elif place is not None:
        lines.insert(place, line)
    changed = "\n".join(lines)
    return changed if _is(changed, wanted) else None


def _uncommented(text: str, values: Mapping[str, str]) -> str:
    """Return the text with these values in its commented account."""
    before, header, after = text.partition("\n# [[account]]\n")
    for key, value in values.items():
        first, found, rest = after.partition(f"# {key} = ")
        after = f"{first}{key} = {value}\n{rest.partition(chr(10))[2]}" if found else after
    return f"{before}{header.replace('# ', '')}{after}"


def _is(text: str, wanted: Mapping[str, object]) -> bool:
    """Return whether the text has these values."""
    try:
        return tomllib.loads(text) == wanted
    except tomllib.TOMLDecodeError:
        return False


def read_text(place: Path) -> str:
    """Return the text of a configuration. Raises `ConfigError`s."""
    return read(place)[0]


def _is_plain(value: str) -> bool:
    """Return whether TOML needs no escape for the value, in either kind of quotes."""
    return re.fullmatch(r"[A-Za-z0-9._:-]+", value) is not None
