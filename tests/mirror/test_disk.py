"""The system calls under the mirror: what they promise, and what their errors become."""

from __future__ import annotations

import errno
import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
from tests.rigs.stats import unread

MIB = 1 << 20


@contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """The descriptor of `tmp_path`."""
    with opened(tmp_path) as descriptor:
        yield descriptor


@contextmanager
def small_disk(path: Path, options: str = "size=1m") -> Iterator[Path]:
    """A file system of its own, really full when it is full."""
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


#: As nobody: looks for a name below a folder that only root may search.
LOOK_AS_NOBODY = """
import os, sys
from dcsync.mirror import disk
below = os.open(sys.argv[1], os.O_RDONLY)
os.setuid(65534)
try:
    print(disk.is_there("private/file", below=below))
except PermissionError:
    print("refused")
"""


# --- errors -----------------------------------------------------------------------------------------------------------


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


# --- folders ----------------------------------------------------------------------------------------------------------


def test_missing_folders_are_made_for_readers_whatever_the_umask(tmp_path: Path, folder: int) -> None:
    before = os.umask(0o077)
    try:
        made = disk.open_folders(folder, ["2026", "11", "22"], create=True)
    finally:
        os.umask(before)
    os.mkdir("here", dir_fd=made)
    os.close(made)

    assert (tmp_path / "2026/11/22/here").is_dir()
    for path in ("2026", "2026/11", "2026/11/22"):
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == 0o755


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path, folder: int) -> None:
    (tmp_path / "2026").mkdir(mode=0o750)

    os.close(disk.open_folders(folder, ["2026", "11"], create=True))

    assert stat.S_IMODE((tmp_path / "2026").stat().st_mode) == 0o750


def test_without_create_a_missing_folder_is_said_and_not_made(tmp_path: Path, folder: int) -> None:
    (tmp_path / "2026").mkdir()

    with pytest.raises(FileNotFoundError):
        disk.open_folders(folder, ["2026", "11"], create=False)

    assert list((tmp_path / "2026").iterdir()) == []


@pytest.mark.parametrize("components", [["link"], ["link", "below"], ["real", "link"]])
@pytest.mark.parametrize("create", [True, False])
def test_a_symlink_on_the_way_is_not_followed(tmp_path: Path, folder: int, components: list[str], create: bool) -> None:
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "real").mkdir()
    elsewhere.mkdir()
    (tmp_path / "link").symlink_to(elsewhere)
    (tmp_path / "real/link").symlink_to(elsewhere)

    with pytest.raises(MirrorTampered), disk.disk_errors("opening"):
        disk.open_folders(folder, components, create=create)

    assert list(elsewhere.iterdir()) == []


def test_walking_leaves_no_descriptor_open(tmp_path: Path, folder: int) -> None:
    (tmp_path / "a").mkdir()
    before = set(Path("/proc/self/fd").iterdir())

    os.close(disk.open_folders(folder, ["a", "b", "c"], create=True))
    with pytest.raises(FileNotFoundError):
        disk.open_folders(folder, ["a", "b", "x", "y"], create=False)

    assert set(Path("/proc/self/fd").iterdir()) <= before


def noted_fsyncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let each fsync be noted with the path that it is about."""
    paths: list[str] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        paths.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    return paths


def test_settling_makes_every_name_on_the_way_durable(
    tmp_path: Path, folder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    before, fsynced = set(Path("/proc/self/fd").iterdir()), noted_fsyncs(monkeypatch)

    disk.fsync_path(folder, ["a", "b", "c"])
    assert fsynced == [str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a/b")]
    disk.fsync_path(folder, ["a"], last=True)
    assert fsynced[3:] == [str(tmp_path), str(tmp_path / "a")]
    with pytest.raises(FileNotFoundError):
        disk.fsync_path(folder, ["a", "x", "y"])

    assert set(Path("/proc/self/fd").iterdir()) <= before


def test_a_file_system_that_cannot_be_synced_says_so(tmp_path: Path, folder: int) -> None:
    (tmp_path / "file").write_bytes(b"x")
    disk.sync_file_system(folder)

    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        disk.sync_file_system(-1)


def test_where_one_file_system_cannot_be_synced_all_are(folder: int, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(disk, "_libc", object())
    monkeypatch.setattr(os, "sync", lambda: synced.append("all"))

    disk.sync_file_system(folder)

    assert synced == ["all"]


def test_a_name_is_there_also_when_it_is_a_symlink_to_nothing(tmp_path: Path, folder: int) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")

    assert disk.is_there("dangling", below=folder)
    assert not disk.is_there("nowhere", below=folder)


def test_a_name_below_a_file_is_an_error_and_not_a_no(tmp_path: Path, folder: int) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(NotADirectoryError):
        disk.is_there("file/below", below=folder)


@pytest.mark.needs_root
def test_a_name_that_may_not_be_looked_at_is_an_error_and_not_a_no(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "private" / "file").touch()

    looked = subprocess.run([sys.executable, "-c", LOOK_AS_NOBODY, tmp_path], check=True, capture_output=True)

    assert looked.stdout == b"refused\n"


# --- renaming ---------------------------------------------------------------------------------------------------------


def test_a_folder_is_renamed_whole(tmp_path: Path, folder: int) -> None:
    (tmp_path / "staged").mkdir()
    (tmp_path / "staged/a.csv").write_bytes(b"a")
    inode = (tmp_path / "staged").stat().st_ino

    disk.rename_noreplace("staged", folder, "published", folder)

    assert (tmp_path / "published").stat().st_ino == inode
    assert not (tmp_path / "staged").exists()


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "symlink"])
def test_a_rename_replaces_nothing(tmp_path: Path, folder: int, kind: str) -> None:
    (tmp_path / "staged").mkdir()
    target = tmp_path / "published"
    match kind:
        case "file":
            target.write_bytes(b"old")
        case "symlink":
            target.symlink_to("nowhere")
        case _:
            target.mkdir()
            if kind == "folder":
                (target / "a.csv").write_bytes(b"old")
    before = unread(target.lstat())

    with pytest.raises(FileExistsError):
        disk.rename_noreplace("staged", folder, "published", folder)

    assert unread(target.lstat()) == before
    assert (tmp_path / "staged").is_dir()


@pytest.mark.parametrize("kind", ["folder", "file", "symlink", "empty folder"])
def test_where_a_rename_cannot_refuse_it_replaces_nothing_but_an_empty_claim(
    tmp_path: Path, folder: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS: an empty folder is the name that a host claimed before it was killed."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, "as NFS answers")

    monkeypatch.setattr(disk, "_renameat2", refuse)
    (tmp_path / "staged").mkdir()
    (tmp_path / "staged/b.csv").write_bytes(b"new")
    target = tmp_path / "published"
    match kind:
        case "file":
            target.write_bytes(b"old")
        case "symlink":
            target.symlink_to("staged")
        case _:
            target.mkdir()
            if kind == "folder":
                (target / "a.csv").write_bytes(b"old")
    before = unread(target.lstat())

    if kind == "empty folder":
        disk.rename_noreplace("staged", folder, "published", folder)
        assert [path.name for path in target.iterdir()] == ["b.csv"]
    else:
        with pytest.raises(FileExistsError):
            disk.rename_noreplace("staged", folder, "published", folder)
        assert unread(target.lstat()) == before
        assert (tmp_path / "staged/b.csv").is_file()


@pytest.mark.needs_root
def test_a_rename_to_another_file_system_is_refused_and_leaves_no_claim(tmp_path: Path, folder: int) -> None:
    (tmp_path / "staged").mkdir()
    with small_disk(tmp_path / "other") as other, opened(other) as there:
        with pytest.raises(OSError, match="cross-device") as caught:
            disk.rename_noreplace("staged", folder, "published", there)

        assert caught.value.errno == errno.EXDEV
        assert list(other.iterdir()) == []


def test_an_exchange_swaps_a_folder_and_a_symlink(tmp_path: Path, folder: int) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").symlink_to("somewhere")

    swapped = disk.exchange("first", folder, "second", folder)

    assert swapped
    assert (tmp_path / "second").is_dir()
    assert (tmp_path / "first").readlink() == Path("somewhere")


def test_an_exchange_with_nothing_is_an_error(tmp_path: Path, folder: int) -> None:
    (tmp_path / "first").mkdir()

    with pytest.raises(FileNotFoundError):
        disk.exchange("first", folder, "second", folder)


# --- removing ---------------------------------------------------------------------------------------------------------


def test_a_tree_is_removed_and_what_its_symlinks_lead_to_stays(tmp_path: Path, folder: int) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "a.csv").write_bytes(b"a")
    (tmp_path / "tree/deep/deeper").mkdir(parents=True)
    (tmp_path / "tree/deep/b.csv").write_bytes(b"b")
    (tmp_path / "tree/to-folder").symlink_to(kept)
    (tmp_path / "tree/deep/to-file").symlink_to(kept / "a.csv")

    disk.remove_tree("tree", folder)

    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (kept / "a.csv").read_bytes() == b"a"


def test_removing_a_symlink_removes_the_symlink(tmp_path: Path, folder: int) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/a.csv").touch()
    (tmp_path / "link").symlink_to("kept")

    disk.remove_tree("link", folder)

    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "kept/a.csv").exists()


def test_removing_takes_a_file_and_does_not_mind_nothing(tmp_path: Path, folder: int) -> None:
    (tmp_path / "file").touch()

    disk.remove_tree("file", folder)
    disk.remove_tree("file", folder)

    assert list(tmp_path.iterdir()) == []


# --- writing and room -------------------------------------------------------------------------------------------------


@pytest.mark.needs_root
def test_a_short_write_before_a_full_disk_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as path, (path / "file").open("wb") as file:
        with pytest.raises(DiskFull), disk.disk_errors("writing"):
            disk.write_all(file.fileno(), b"x" * (MIB + 1))

        assert os.fstat(file.fileno()).st_size == MIB


@pytest.mark.needs_root
def test_a_disk_that_turned_read_only_says_so(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as path, opened(path) as below:
        subprocess.run(["mount", "-o", "remount,ro", path], check=True)

        with pytest.raises(DiskReadOnly), disk.disk_errors("making a folder"):
            disk.open_folders(below, ["acme"], create=True)


def test_only_a_regular_file_is_a_plain_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")

    plain = {path.name for path in tmp_path.iterdir() if disk.is_plain_file(path.lstat())}

    assert plain == {"file"}


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
