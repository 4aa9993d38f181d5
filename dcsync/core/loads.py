"""What a table in a target shows: the words and values of loads. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class LoadMode(StrEnum):
    """What a table in a target has."""

    #: The rows of the newest snapshot.
    LATEST = "latest"
    #: The rows of the row history, with `_valid_from` and `_valid_to`, or with `_first_seen`.
    HISTORY = "history"


class NewColumn(StrEnum):
    """What to do with a column that the table in the target lacks."""

    ADD = "add"
    STOP = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A row of the target's table `_dcsync_loads`: which snapshot a table shows.

    In `history` mode, `completed` is the time of the last step of the table's row history, and `rows` counts all its
    rows, those that ended included. Before a load, `rows` may be the number that must be loaded.
    """

    table: str
    mode: LoadMode
    account: str
    request: str
    job: str
    completed: datetime
    sha256: str
    rows: int | None = None
    loaded_at: datetime | None = None
