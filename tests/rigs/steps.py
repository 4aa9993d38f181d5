"""The commands of a page, as its readers type them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).parents[2]


def commands(page: str, heading: str) -> list[str]:
    """Return the commands in the first shell block under a heading, each with its comment and its continued lines."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    section = re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"{page} has no section {heading!r}"
    block = re.search(r"^```sh\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)
    assert block, f"{heading!r} in {page} has no commands"
    return [line for line in re.split(r"(?<!\\)\n", block[1]) if line]


def one(page: str, heading: str, words: str) -> str:
    """Return the only command of a block that has these words."""
    (found,) = (line for line in commands(page, heading) if words in line)
    return found
