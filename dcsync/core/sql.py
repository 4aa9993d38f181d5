"""Names and strings in SQL statements for DuckDB. Pure."""

from __future__ import annotations


def text(value: str) -> str:
    """Return a string as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Return the name of a table or a column as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
