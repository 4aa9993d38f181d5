"""Rows as the text of a CSV file. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SPECIAL = re.compile(r'[",\r\n]')


def csv_line(values: Sequence[str | None]) -> str:
    """Return a line of a CSV file, with its end. None is an empty field, and the empty string is the field `""`.

    `dcsync.core.sql.csv_text` reads the same values back.
    """
    return ",".join(map(_field, values)) + "\n"


def _field(value: str | None) -> str:
    if value is None:
        return ""
    if value and not _SPECIAL.search(value):
        return value
    return '"' + value.replace('"', '""') + '"'
