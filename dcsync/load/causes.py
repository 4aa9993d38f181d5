"""Why a target cannot be used, and what to do: one hint for each cause, in the situation in which it appears."""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PATH: Final = "correct the path in the address in [[load]]"
_CLOSE: Final = "close the programs that have the file open, or let them open it for a short time only"
_UNDER_SYSTEMD: Final = "Under systemd, name the folder in ReadWritePaths= (dcsync explain load)"
_FULL: Final = re.compile("|".join(re.escape(os.strerror(code)) for code in (errno.ENOSPC, errno.EDQUOT)))
#: With less than this, no database can write.
_LEAST: Final = 1 << 20

_POSTGRES_FULL: Final = "free space on the disk of PostgreSQL, or move the database to a larger one"

#: The words of libpq and PostgreSQL when a connection fails, which has no SQLSTATE in psycopg2. Of a server that speaks
#: another language than English, dcsync knows only FATAL.
_CONNECTION: Final = (
    ("could not translate host name", "check the host in the address in [[load]], and the DNS of this machine"),
    (
        "Connection refused|No such file or directory",
        "check that PostgreSQL runs, the host and port in the address in [[load]], and listen_addresses of PostgreSQL",
    ),
    (
        "timeout expired|timed out|No route to host|Network is unreachable|Permission denied|Operation not permitted",
        "check the host in [[load]], the firewalls, and IPAddressAllow= of the unit (dcsync explain load)",
    ),
    (
        "password authentication failed|no password supplied",
        "check user and password in the address in [[load]]. Write %40 for @, and the like (dcsync explain load)",
    ),
    ("database .* does not exist", "create the database (CREATE DATABASE), or correct its name in [[load]]"),
    ("role .* does not exist", "create the user (CREATE ROLE … LOGIN), or correct its name in [[load]]"),
    ("not permitted to log in", "let the user of the address sign in: ALTER ROLE … LOGIN"),
    (
        "permission denied for database",
        "let the user of the address use the database: GRANT CONNECT, CREATE ON DATABASE … TO …",
    ),
    (r"pg_hba\.conf", "allow this machine, the user and the database in pg_hba.conf of PostgreSQL, and reload it"),
    (
        "too many|remaining connection slots",
        "close unused connections, or raise max_connections, or the connection limit of the user",
    ),
    ("starting up|shutting down|in recovery mode", "wait until PostgreSQL has started"),
    ("SSL|certificate", "check sslmode in the address in [[load]], and the certificate of PostgreSQL"),
    ("No space left|could not (write|extend|create) ", _POSTGRES_FULL),
    ("FATAL", "PostgreSQL answers, and refuses: check the user, password and database in the address in [[load]]"),
)
DENIED: Final = (
    "give the user of the address the right to create tables in that schema: GRANT USAGE, CREATE ON SCHEMA, or GRANT "
    "CREATE ON DATABASE if the schema does not exist yet. A table that another user owns needs ALTER TABLE … OWNER TO"
)
#: By SQLSTATE, or its first two characters.
_STATES: Final = {
    "42501": DENIED,
    "25006": "name the primary server in the address in [[load]], not a standby, or make the database writable",
    "53100": _POSTGRES_FULL,
    "53": "PostgreSQL lacks memory, connections or disk space: give it more, or close what else uses it",
    "58": "PostgreSQL met an error of its disk: see its log",
    "XX": "PostgreSQL met an internal error, or found damaged data: see its log",
}
_S3_KEY: Final = "check access_key_id and secret_access_key in the address in [[load]]"
_S3_CODES: Final = {
    "NoSuchBucket": "create the bucket, or correct its name in [[load]]",
    "InvalidAccessKeyId": _S3_KEY,
    "SignatureDoesNotMatch": _S3_KEY,
    "ExpiredToken": "renew session_token in the address in [[load]], or use a key that does not expire",
    "RequestTimeTooSkewed": "set the clock of this machine",
    "PermanentRedirect": "name the region of the bucket in the address in [[load]]: region=…",
    "AuthorizationHeaderMalformed": "name the region of the bucket in the address in [[load]]: region=…",
    "QuotaExceeded": "free space in the bucket, or raise its quota",
}
_S3_ERRORS: Final = {
    "NoCredentialsError": "add access_key_id=… and secret_access_key=… to the address in [[load]], or give the machine "
    "a role",
    "FileNotFoundError": _S3_CODES["NoSuchBucket"],
    "PermissionError": "let the key list, read, write and delete objects in this folder of the bucket",
}
_S3_AWAY: Final = "check endpoint_url in the address in [[load]], the network, and the firewalls on the way"


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a target cannot be used, and what to do."""

    reason: str
    hint: str


def is_full(said: str) -> bool:
    """Say whether an error message means that a disk is full."""
    return _FULL.search(said) is not None


def full(place: str | Path) -> Cause:
    """Return the cause for a full disk."""
    return Cause("No space left on device", f"free space on the disk of {place}, which is full")


def in_use(said: str) -> Cause:
    """Return the cause for a file that another program has locked."""
    return Cause(said, _CLOSE)


def of_file(path: Path, said: str) -> Cause:
    """Return why a database file cannot be used. `said` is what the driver says."""
    return _of_folder(path.parent, said) or _of_path(path, said)


def of_folder(folder: Path, said: str) -> Cause:
    """Return why a folder cannot be used."""
    found = _of_folder(folder if os.path.lexists(folder) else folder.parent, said)
    return found or Cause(said, f"check {folder}, its disk, and the rights of the user of dcsync")


def of_connection(said: str) -> str:
    """Return what to do when a connection to PostgreSQL fails, or "" for an unknown cause."""
    return next((hint for words, hint in _CONNECTION if re.search(words, said)), "")


def of_state(state: str) -> str | None:
    """Return what to do about an SQLSTATE of PostgreSQL, or None."""
    return _STATES.get(state) or _STATES.get(state[:2])


def of_s3(error: BaseException) -> str | None:
    """Return what to do about an error of S3, or None."""
    response = getattr(error.__cause__ or error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    kinds = [kind.__name__ for kind in type(error).__mro__]
    if "HTTPClientError" in kinds or "ConnectionError" in kinds:
        return _S3_AWAY
    return _S3_CODES.get(str(code)) or next((_S3_ERRORS[kind] for kind in kinds if kind in _S3_ERRORS), None)


def _of_folder(folder: Path, said: str) -> Cause | None:
    try:
        if not stat.S_ISDIR(folder.stat().st_mode):
            return Cause(f"{folder} is not a folder", _PATH)
        space = os.statvfs(folder)
    except FileNotFoundError:
        return Cause(f"the folder {folder} does not exist", f"create it, mount its disk, or {_PATH}")
    except NotADirectoryError:
        return Cause(f"{folder} is not a folder", _PATH)
    except OSError as error:
        return Cause(f"{folder}: {error.strerror}", "give the user of dcsync the right to use this folder")
    if space.f_flag & os.ST_RDONLY:
        return Cause(f"{folder} is read-only here", f"mount its disk to write. {_UNDER_SYSTEMD}")
    if is_full(said) or space.f_bavail * space.f_frsize < _LEAST:
        return full(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        return Cause(
            f"dcsync may not write into {folder}", "give the user of dcsync the right to write into this folder"
        )
    return None


def _of_path(path: Path, said: str) -> Cause:
    if not os.path.lexists(path):
        return Cause(said, f"check {path}, its disk, and the rights of the user of dcsync")
    if not path.is_file():
        return Cause(f"{path} is not a file", _PATH)
    if not os.access(path, os.R_OK | os.W_OK):
        return Cause(f"dcsync may not write {path}", "give the user of dcsync the right to read and write this file")
    return Cause(said, "restore the file from a backup, or name another file in [[load]]: dcsync creates it")
