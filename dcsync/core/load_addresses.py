"""The addresses that tables are loaded into. Pure. An address may contain a password, so no message has it."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Final
from urllib.parse import urlsplit

#: What an address begins with, and the database that it means.
SCHEMES: Final = {
    "postgresql": "PostgreSQL",
    "postgres": "PostgreSQL",
    "duckdb": "DuckDB",
    "sqlite": "SQLite",
    "file": "Parquet",
    "s3": "Parquet",
    "mssql": "SQL Server",
    "snowflake": "Snowflake",
    "bigquery": "BigQuery",
    "databricks": "Databricks",
}
_EXAMPLE: Final = "postgresql://user@host/database"


def scheme_of(address: str) -> str:
    """Return what an address begins with, in lower case. Raises `ValueError` as `check_address` does."""
    head, colon, rest = address.partition(":")
    scheme = head.lower()
    if colon and rest.startswith("//") and scheme in SCHEMES:
        return scheme
    known = ", ".join(SCHEMES)
    if not (colon and rest.startswith("//")) or not head.isalnum():
        # Not the text: it may be a password.
        message = f"is not an address such as {_EXAMPLE}; it must begin with one of {known}"
        raise ValueError(message)
    close = get_close_matches(scheme, SCHEMES, n=1)
    hint = f"did you mean {close[0]}?" if close else f"the known ones are {known}"
    message = f"an address cannot begin with {scheme[:40]!r}; {hint}"
    raise ValueError(message)


def check_address(address: str) -> None:
    """Raise `ValueError` for an address that dcsync cannot load into. The message does not have the address."""
    scheme_of(address)


def shown(address: str) -> str:
    """Return an address without user, password, query and fragment, for messages."""
    scheme = scheme_of(address)
    try:
        parts = urlsplit(address)
    except ValueError:
        return f"{scheme}://…"
    if _may_be_cut(address, parts.netloc):
        return f"{scheme}://…"
    host = parts.netloc.rpartition("@")[2]
    return f"{scheme}://{host}{parts.path}"


def has_secret(address: str) -> bool:
    """Say whether an address may contain a password or a key: in front of the host, or in its query."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return True
    is_shown_whole = not (parts.query or parts.fragment or _may_be_cut(address, parts.netloc))
    return ":" in parts.netloc.rpartition("@")[0] or not is_shown_whole


def _may_be_cut(address: str, netloc: str) -> bool:
    """Say whether the password may have a slash or the like, and so end behind the host."""
    before = address.partition("://")[2].rpartition("@")[0]
    return bool(netloc) and ":" in before and len(before) > len(netloc)
