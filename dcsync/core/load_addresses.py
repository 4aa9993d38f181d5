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
_FILES: Final = {"duckdb", "sqlite", "file"}
#: Their addresses have no user and no password, and a path may contain anything.
_PLACES: Final = _FILES | {"s3"}


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
    message = f"the address cannot begin with {scheme[:40]!r}; {hint}"
    raise ValueError(message)


def check_address(address: str) -> None:
    """Raise `ValueError` for an address that dcsync cannot load into. The message does not have the address.

    A special character in a password would make a part of it the host, which drivers and messages show.
    """
    scheme = scheme_of(address)
    path = address.partition("://")[2]
    if scheme in _FILES and (not path.startswith("/") or path.startswith("//")):
        message = f"must begin with {scheme}:/// (three slashes) and an absolute path, such as {scheme}:///srv/acc"
        raise ValueError(message)
    if scheme not in _PLACES and not _is_divided_as_meant(address):
        special = ", ".join(f"%{ord(character):02X} for {character}" for character in "@:/?#")
        message = f"has a port that is not a number, or a user or password with a special character: write {special}"
        raise ValueError(message)


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


def _is_divided_as_meant(address: str) -> bool:
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError:
        return False
    user = parts.netloc.rpartition("@")[0]
    has_password_in_path = ":" in parts.netloc and "@" in parts.path
    return "@" not in user and user.count(":") <= 1 and not has_password_in_path and not parts.fragment


def _may_be_cut(address: str, netloc: str) -> bool:
    """Say whether the password may have a slash or the like, and so end behind the host."""
    before = address.partition("://")[2].rpartition("@")[0]
    return bool(netloc) and ":" in before and len(before) > len(netloc)
