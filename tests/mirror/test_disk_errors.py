"""Each error of a system call becomes an error of dcsync that names the path and says what it means."""

from __future__ import annotations

import errno
import os
import pwd
from pathlib import Path

import pytest

from dcsync.errors import (
    DcsyncError,
    DiskDenied,
    DiskError,
    DiskFault,
    DiskFull,
    DiskReadOnly,
    MirrorTampered,
    OtherFileSystem,
    PlaceUnusable,
    Scope,
)
from dcsync.mirror import disk
from tests.rigs.folders import opened


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EFBIG, DiskFull),
        (errno.EROFS, DiskReadOnly),
        (errno.EACCES, DiskDenied),
        (errno.EPERM, DiskDenied),
        (errno.EIO, DiskFault),
        (errno.ESTALE, DiskFault),
        (errno.ELOOP, MirrorTampered),
        (errno.ENOTDIR, MirrorTampered),
        (errno.EMFILE, DiskError),
        (errno.ENOENT, DiskError),
    ],
)
def test_an_error_of_the_system_becomes_the_one_of_ours_that_it_means(number: int, kind: type[DcsyncError]) -> None:
    with pytest.raises(DcsyncError) as caught, disk.disk_errors("writing /mirror/acme/a.csv"):
        raise OSError(number, "whatever the caller was told")

    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"writing /mirror/acme/a.csv: {os.strerror(number)}")


def test_a_refusal_names_the_user_that_was_refused() -> None:
    name = pwd.getpwuid(os.geteuid()).pw_name
    refused = PermissionError(errno.EACCES, "no", "/srv/mirror/acme")

    error = disk.disk_error(refused, "opening x")

    assert error.message == f"opening x: Permission denied: /srv/mirror/acme (as uid {os.geteuid()}, {name})"
    assert error.advice == (
        f"give the user that runs dcsync (uid {os.geteuid()}, {name}) read and write permission for /srv/mirror/acme"
    )


def test_a_refusal_names_a_path_once(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = PermissionError(errno.EPERM, "no", "/srv/mirror/acme")

    def unknown(_: int) -> pwd.struct_passwd:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    error = disk.disk_error(refused, "removing /srv/mirror/acme")

    user = f"uid {os.geteuid()}, without a name"
    assert error.message == f"removing /srv/mirror/acme: Operation not permitted (as {user})"
    assert error.advice == (
        f"check the owner, the ACL and the attributes (lsattr) of /srv/mirror/acme: dcsync runs as {user}"
    )


@pytest.mark.parametrize(
    ("doing", "path", "words"),
    [
        ("reading .dcsync/instance", "/m/.dcsync/instance", "reading /m/.dcsync/instance: Input/output error"),
        ("writing /m/index.html", "/m/index.html", "writing /m/index.html: Input/output error"),
        ("opening /m/acme/2026", "2026", "opening /m/acme/2026: Input/output error"),
        ("locking the mirror", "/m/lock", "locking the mirror: Input/output error: /m/lock"),
        ("locking the mirror", None, "locking the mirror: Input/output error"),
    ],
)
def test_a_message_names_a_path_once_and_in_full(doing: str, path: str | None, words: str) -> None:
    assert disk.disk_error(OSError(errno.EIO, "refused", path), doing).message == words


def test_an_error_without_a_number_keeps_its_words() -> None:
    error = disk.disk_error(OSError("the device said something"), "reading x")

    assert type(error) is DiskError
    assert str(error) == "reading x: the device said something"


def test_what_is_no_error_of_the_system_passes_through() -> None:
    with pytest.raises(ValueError, match="a bug"), disk.disk_errors("writing x"):
        raise ValueError("a bug")


def test_a_path_is_shown_on_one_line() -> None:
    assert disk.shown("acme/a\nb\x1b[31m.csv") == "acme/a\\nb\\x1b[31m.csv"


@pytest.mark.parametrize(("lacking", "named"), [("from", "from"), ("to", "to"), (None, "to/new")])
def test_a_refused_rename_names_the_folder_that_may_not_be_changed_or_else_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str | None, named: str
) -> None:
    for name in ("from", "to"):
        (tmp_path / name).mkdir()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def may(path: str, *_: object, **__: object) -> bool:
        return Path(path).readlink().name != lacking

    monkeypatch.setattr(os, "rename", refuse)
    monkeypatch.setattr(disk, "_renameat2", refuse)
    monkeypatch.setattr(os, "access", may)

    with opened(tmp_path / "from") as source, opened(tmp_path / "to") as target:
        for rename in (disk.rename, disk.rename_noreplace):
            with pytest.raises(PermissionError) as caught:
                rename("old", source, "new", target)
            assert caught.value.filename == str(tmp_path / named)


@pytest.mark.parametrize(("may_change", "named"), [(True, "acme"), (False, "")])
def test_a_refused_folder_names_the_folder_that_it_would_be_in(
    tmp_path: Path, folder: int, monkeypatch: pytest.MonkeyPatch, may_change: bool, named: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "mkdir", refuse)
    monkeypatch.setattr(os, "access", lambda *_, **__: may_change)

    with pytest.raises(PermissionError) as caught:
        disk.open_folders(folder, ["acme"], create=True)

    assert caught.value.filename == str(tmp_path / named)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EIO])
@pytest.mark.parametrize("mode", [0o444, 0o600])
def test_a_refused_mode_is_accepted_unless_it_exposes_a_private_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, mode: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fchmod", refuse)
    with (tmp_path / "file").open("wb") as file:
        (tmp_path / "file").chmod(0o644)
        if number == errno.EIO or mode == 0o600:
            with pytest.raises(OSError, match=os.strerror(number)):
                disk.set_mode(file.fileno(), mode)
        else:
            disk.set_mode(file.fileno(), mode)


def test_errors_of_a_place_fail_its_job_and_those_of_the_whole_disk_the_run(
    folder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def met(number: int) -> DcsyncError:
        with pytest.raises(DcsyncError) as caught, disk.place_errors("publishing x", root=folder):
            raise OSError(number, os.strerror(number))
        return caught.value

    assert type(met(errno.EROFS)) is PlaceUnusable
    assert type(met(errno.EMFILE)) is PlaceUnusable
    assert type(met(errno.EXDEV)) is OtherFileSystem
    assert type(met(errno.EIO)) is DiskFault
    assert type(met(errno.ENOSPC)) is DiskFull
    assert met(errno.EROFS).scope is Scope.JOB
    monkeypatch.setattr(disk, "refuse_read_only", lambda _: met_read_only())
    assert type(met(errno.EROFS)) is DiskReadOnly


def met_read_only() -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))
