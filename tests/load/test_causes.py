"""Each cause has a reason and a hint that work where it appears."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest

from dcsync.errors import LoadFailed, TargetUnusable
from dcsync.load import causes, opened
from tests.rigs.loads import goal, latest

USERS = b"id,name\n1,Ada\n"
_SERVER = 'connection to server at "192.0.2.1", port 5432 failed: '


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ('could not translate host name "db" to address: Name or service not known', "check the host .* DNS"),
        (f"{_SERVER}Connection refused", "check that PostgreSQL runs, the host and port"),
        (f"{_SERVER}timeout expired", "firewalls"),
        (f"{_SERVER}Operation not permitted", "IPAddressAllow="),
        (f'{_SERVER}FATAL:  password authentication failed for user "ada"', "check user and password"),
        (f"{_SERVER}fe_sendauth: no password supplied", "check user and password"),
        (f'{_SERVER}FATAL:  database "acc" does not exist', "CREATE DATABASE"),
        (f'{_SERVER}FATAL:  role "ada" does not exist', "CREATE ROLE"),
        (f'{_SERVER}FATAL:  role "ada" is not permitted to log in', "ALTER ROLE"),
        (f'{_SERVER}FATAL:  permission denied for database "acc"', "GRANT CONNECT"),
        (f'{_SERVER}FATAL:  no pg_hba.conf entry for host "192.0.2.9", no encryption', r"pg_hba\.conf"),
        (f"{_SERVER}FATAL:  sorry, too many clients already", "max_connections"),
        (f"{_SERVER}FATAL:  the database system is starting up", "wait until"),
        (f"{_SERVER}server does not support SSL, but SSL was required", "sslmode"),
        (f"{_SERVER}FATAL:  could not write init file", "free space on the disk of PostgreSQL"),
        (f"{_SERVER}FATAL:  Passwort-Authentifizierung fehlgeschlagen", "PostgreSQL answers, and refuses"),
        ("something else", "^$"),
    ],
)
def test_a_connection_that_fails_has_a_hint_for_its_cause(said: str, hint: str) -> None:
    assert re.search(hint, causes.of_connection(said))


def test_states_of_postgresql_have_hints() -> None:
    assert "right to create tables" in str(causes.of_state("42501"))
    assert "primary server" in str(causes.of_state("25006"))
    assert "disk of PostgreSQL" in str(causes.of_state("53100"))
    assert "memory" in str(causes.of_state("53200"))
    assert causes.of_state("40001") is None


class _AnswerError(Exception):
    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.response: dict[str, Any] = {"Error": {"Code": code}}


class EndpointConnectionError(ConnectionError):
    """As botocore has one."""


class NoCredentialsError(Exception):
    """As botocore has one."""


@pytest.mark.parametrize(
    ("error", "code", "hint"),
    [
        (FileNotFoundError("The specified bucket does not exist"), "NoSuchBucket", "create the bucket"),
        (FileNotFoundError("The specified bucket does not exist"), "", "create the bucket"),
        (PermissionError("no"), "SignatureDoesNotMatch", "secret_access_key"),
        (PermissionError("no"), "AccessDenied", "let the key list, read, write"),
        (OSError("no"), "PermanentRedirect", "region="),
        (EndpointConnectionError("no"), "", "endpoint_url"),
        (NoCredentialsError("no"), "", "add access_key_id"),
        (RuntimeError("no"), "", "check that the target runs"),
    ],
)
def test_errors_of_a_bucket_have_hints(error: Exception, code: str, hint: str, tmp_path: Path) -> None:
    target = opened("s3://lake/acc", dataset="acc", work=tmp_path, memory=1)
    error.__cause__ = _AnswerError(code) if code else None
    with target, pytest.raises(TargetUnusable) as caught, target.failing("users"):
        raise error
    assert hint in caught.value.advice


@pytest.mark.parametrize("kind", ["duckdb", "sqlite"])
def test_a_path_that_cannot_be_a_database_file_is_named(kind: str, tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"something else" * 100)
    (tmp_path / "folder").mkdir()
    wanted = {
        "missing/acc": ("the folder .*/missing does not exist", "create it, mount its disk"),
        "plain/acc": ("/plain is not a folder", "correct the path"),
        "folder": ("/folder is not a file", "correct the path"),
        "plain": ("not a", "restore the file from a backup, or name another file"),
    }
    for path, (reason, hint) in wanted.items():
        with opened(f"{kind}://{tmp_path}/{path}", dataset="acc", work=tmp_path, memory=1 << 26) as target:
            with pytest.raises(TargetUnusable, match=reason) as caught:
                latest(target, tmp_path, USERS)
            assert hint in caught.value.advice
            assert "close the programs" not in caught.value.advice


def test_a_file_that_another_program_writes_is_named(tmp_path: Path) -> None:
    place = goal("sqlite", tmp_path)
    with place.opened(patience_s=0.0) as target, place.opened(patience_s=0.0) as other:
        latest(target, tmp_path, USERS)
        with pytest.raises(LoadFailed, match="locked") as caught, target.transaction():  # type: ignore[attr-defined]
            latest(other, tmp_path, b"id,name\n2,Grace\n", day=2)
    assert "close the programs" in caught.value.advice


def test_a_full_disk_is_named_with_the_folder_to_free(tmp_path: Path) -> None:
    full = os.strerror(errno.ENOSPC)
    target = opened(f"duckdb://{tmp_path}/acc", dataset="acc", work=tmp_path / "work", memory=1)
    with pytest.raises(LoadFailed, match=full) as caught, target, target.failing("users"):
        raise OSError(errno.ENOSPC, full)
    assert f"free space on the disk of {tmp_path}," in caught.value.advice
    work = tmp_path / "work"
    assert f"disk of {work}," in target.failed("users", f"IO Error: {work}: {full}", tmp_path).advice


def test_a_folder_that_may_not_be_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # root may write everywhere
    monkeypatch.setattr(os, "access", lambda *_args: False)
    assert causes.of_file(tmp_path / "acc", "no").reason == f"dcsync may not write into {tmp_path}"
    assert "right to write into this folder" in causes.of_folder(tmp_path, "no").hint


def test_a_file_that_may_not_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "acc"
    path.touch()
    monkeypatch.setattr(os, "access", lambda place, _mode: place != path)
    assert causes.of_file(path, "no").reason == f"dcsync may not write {path}"
    assert "read and write this file" in causes.of_file(path, "no").hint


def test_a_read_only_file_system_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.statvfs(tmp_path)
    fields = list(found)
    fields[8] |= os.ST_RDONLY
    monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result(fields))
    cause = causes.of_file(tmp_path / "acc", "unable to open database file")
    assert cause.reason == f"{tmp_path} is read-only here"
    assert "ReadWritePaths=" in cause.hint
