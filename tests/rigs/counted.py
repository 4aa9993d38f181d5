"""Counts the SQL statements of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa


@contextmanager
def counting_statements() -> Iterator[list[str]]:
    """Collect the text of each statement that any manifest of this process executes in the block."""
    texts: list[str] = []

    def note(*details: Any) -> None:
        texts.append(details[2])

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield texts
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
