"""System calls that the standard library lacks or wraps too loosely, and their errors as `DiskError`s.

Folders are held as descriptors, and no symlink is followed on the way to them. A program that can write in the mirror
can therefore not redirect a write of dcsync to a place outside of it (docs/faults.md F18).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dcsync.core.formatting import size_text
from dcsync.core.names import printable
from dcsync.core.system_files import is_disposable
from dcsync.errors import (
    DcsyncError,
    DiskDenied,
    DiskError,
    DiskFault,
    DiskFull,
    DiskReadOnly,
    InodesExhausted,
    MirrorTampered,
    SpaceNeeds,
)
from dcsync.opening import NotRegular, open_regular

FILE_MODE = 0o444
FOLDER_MODE = 0o755

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_FALLOC_FL_KEEP_SIZE = 1
_SYNC_FILE_RANGE_WRITE = 2
# ioctl FICLONE = _IOW(0x94, 9, int), the same on all architectures that Python wheels exist for.
_FICLONE = 0x40049409
#: For libraries without the wrapper (musl): the system call's number.
_SYS_RENAMEAT2 = {"x86_64": 316, "aarch64": 276, "riscv64": 276, "ppc64le": 357, "s390x": 347}
_NOT_SUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EPERM})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Turn an `OSError` in the block into the matching `DiskError`. `doing` names the attempt and the path."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, doing) from None


@contextmanager
def disk_errors_but_missing(doing: str) -> Iterator[None]:
    """Turn an `OSError` in the block into the matching `DiskError`, but not `FileNotFoundError`."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise disk_error(error, doing) from None


def disk_error(error: OSError, doing: str) -> DcsyncError:
    """Return the error of dcsync that matches an error of the system."""
    words = f"{doing}: {os.strerror(error.errno) if error.errno else error}"
    match error.errno:
        case number if number in _FULL:
            return DiskFull(words)
        case errno.EROFS:
            return DiskReadOnly(words)
        case errno.EACCES | errno.EPERM:
            return DiskDenied(f"{words} (as uid {os.geteuid()})")
        case errno.EIO | errno.ESTALE:
            return DiskFault(words)
        case _ if isinstance(error, NotRegular):
            return MirrorTampered(
                f"{doing}: {error.filename}: {error.strerror}",
                hint="another program put it there: move it away. dcsync then continues automatically",
            )
        case errno.ELOOP | errno.ENOTDIR:
            return MirrorTampered(
                f"{words}: there is a symlink or a file in the place of a folder",
                hint="another program replaced a folder of the mirror: move it away and put the folder back",
            )
        case _:
            return DiskError(words, hint="dcsync retries automatically")


def open_folder(path: str, *, below: int | None = None) -> int:
    """Open a folder. The last component may not be a symlink."""
    return os.open(path, _FOLDER_FLAGS, dir_fd=below)


def open_folders(root: int, components: Sequence[str], *, create: bool) -> int:
    """Walk from `root` component by component and return the last folder's descriptor.

    With `create`, missing folders are created with mode 0755 whatever the umask, and the parent of each new folder is
    fsynced.
    """
    current = os.dup(root)
    try:
        for component in components:
            try:
                following = open_folder(component, below=current)
            except FileNotFoundError:
                if not create:
                    raise
                following = _make_folder(component, current)
            os.close(current)
            current = following
    except BaseException:
        os.close(current)
        raise
    return current


def _make_folder(name: str, parent: int) -> int:
    try:
        os.mkdir(name, FOLDER_MODE, dir_fd=parent)
    except FileExistsError:
        return open_folder(name, below=parent)
    created = open_folder(name, below=parent)
    try:
        os.fchmod(created, FOLDER_MODE)
        os.fsync(parent)
    except BaseException:
        os.close(created)
        raise
    return created


def fsync_path(root: int, components: Sequence[str], *, last: bool = False) -> None:
    """Fsync `root` and every folder on the path, and with `last` the last folder too. A power cut then spares the path.

    A process that was killed right after its mkdir leaves a folder that every program sees and the disk does not have.
    """
    current = os.dup(root)
    try:
        for component in components:
            os.fsync(current)
            following = open_folder(component, below=current)
            os.close(current)
            current = following
        if last:
            os.fsync(current)
    finally:
        os.close(current)


def refuse_read_only(descriptor: int) -> None:
    """Raise EROFS when the file system has become read-only.

    A file system becomes read-only after an error, and syncfs(2) still succeeds there.
    """
    if os.fstatvfs(descriptor).f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def sync_file_system(descriptor: int) -> None:
    """Make all of a file system durable: syncfs(2)."""
    if not hasattr(_libc, "syncfs"):
        os.sync()
    elif _libc.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextmanager
def parent_of(path: str, *, below: int, create: bool = False) -> Iterator[tuple[int, str]]:
    """Open the parent folder of a file at a relative path. Yields the parent's descriptor and the file's own name.

    Raises `MirrorTampered` for a path that leads out, and the errors of `open_folders`.
    """
    *folders, name = path.split("/")
    if any(component in {"", ".", ".."} for component in (*folders, name)):
        message = f"{printable(path, 300)!r} is not a path below a snapshot"
        raise MirrorTampered(message, hint="find out which program changed the mirror")
    descriptor = open_folders(below, folders, create=create)
    try:
        yield descriptor, name
    finally:
        os.close(descriptor)


def open_file(path: str, *, below: int) -> int:
    """Open a regular file at a relative path for reading. No component may be a symlink."""
    with parent_of(path, below=below) as (folder, name):
        return open_regular(name, below=folder)


def is_there(name: str, *, below: int | None = None) -> bool:
    """Return whether a name exists. Only ENOENT means no: `os.path.exists` returns False on EACCES and EIO as well."""
    try:
        os.stat(name, dir_fd=below, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def write_all(descriptor: int, data: bytes | bytearray) -> None:
    """Write all bytes. The last write before a full disk is short and raises no error."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def preallocate(descriptor: int, size: int) -> None:
    """Reserve `size` bytes, so that a full disk is noticed now. The file's length does not change."""
    if size <= 0:
        return
    if _libc.fallocate(descriptor, _FALLOC_FL_KEEP_SIZE, ctypes.c_longlong(0), ctypes.c_longlong(size)) == 0:
        return
    number = ctypes.get_errno()
    if number in _FULL:
        raise OSError(number, os.strerror(number))
    # Any other error means that this file system cannot reserve space. A full disk then fails a write.


def start_writeback(descriptor: int, offset: int, size: int) -> None:
    """Ask the kernel to start writing a part of a file to the disk, so that the final fsync has little left to do.

    This is a hint. Its errors are ignored, because the fsync reports them.
    """
    if hasattr(_libc, "sync_file_range"):
        _libc.sync_file_range(descriptor, ctypes.c_int64(offset), ctypes.c_int64(size), _SYNC_FILE_RANGE_WRITE)


def rename_noreplace(source: str, source_folder: int, target: str, target_folder: int) -> None:
    """Rename, or raise `FileExistsError` when the target exists.

    On a file system that cannot do this in one step, mkdir claims the name first.
    """
    try:
        _renameat2(source, source_folder, target, target_folder, _RENAME_NOREPLACE)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED or error.errno == errno.EXDEV:
            raise
        # mkdir is the exclusive claim: a folder can be renamed over an empty folder, and over nothing else. An empty
        # folder that exists is the claim of a process that ended, or of another host. The first rename wins.
        try:
            os.mkdir(target, dir_fd=target_folder)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(source, dir_fd=source_folder, follow_symlinks=False).st_mode):
                raise
        try:
            os.rename(source, target, src_dir_fd=source_folder, dst_dir_fd=target_folder)
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from None
            raise


def refuses_to_replace(source: str, target: str, folder: int) -> bool:
    """Return whether a rename can refuse, in one step, to replace `target`, which exists.

    After False, `target` may have been replaced.
    """
    try:
        _renameat2(source, folder, target, folder, _RENAME_NOREPLACE)
    except FileExistsError:
        return True
    except OSError as error:
        if error.errno in _NOT_SUPPORTED:
            return False
        raise
    return False


def exchange(first: str, first_folder: int, second: str, second_folder: int) -> bool:
    """Swap two names in one step. False where the file system cannot do that."""
    try:
        _renameat2(first, first_folder, second, second_folder, _RENAME_EXCHANGE)
    except OSError as error:
        if error.errno in _NOT_SUPPORTED:
            return False
        raise
    return True


def clone(source: int, target: int) -> bool:
    """Make `target` share the blocks of `source` (reflink: btrfs, XFS). False where that is not possible."""
    import fcntl

    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in _NOT_SUPPORTED:
            return False
        raise
    return True


def remove_tree(name: str, parent: int) -> None:
    """Remove a file, or a folder with everything in it, if it exists.

    Symlinks are removed, not followed. What cannot be removed does not keep the rest: the first error is raised at the
    end. Its `filename` is the path from `name` on.
    """
    try:
        folder = open_folder(name, below=parent)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in {errno.ENOTDIR, errno.ELOOP}:
            raise
        os.unlink(name, dir_fd=parent)
        return
    try:
        refused = _remove_content(folder)
    finally:
        os.close(folder)
    if refused is not None:
        refused.filename = f"{name}/{refused.filename}"
        raise refused
    os.rmdir(name, dir_fd=parent)


def _remove_content(folder: int) -> OSError | None:
    """Remove everything in a folder and return the first error."""
    refused: OSError | None = None
    with os.scandir(folder) as entries:
        for entry in list(entries):
            try:
                if entry.is_dir(follow_symlinks=False):
                    remove_tree(entry.name, folder)
                else:
                    os.unlink(entry.name, dir_fd=folder)
            except FileNotFoundError:
                continue
            except OSError as error:
                refused = refused or error
    return refused


def remove_unused(name: str, parent: int) -> bool:
    """Remove a folder that is empty, or that has only files which desktops and NAS devices write again (`@eaDir`).

    Return False for any other content, and change nothing. `FileNotFoundError` when the folder does not exist.
    """
    folder = open_folder(name, below=parent)
    try:
        found = os.listdir(folder)
        if not all(map(is_disposable, found)):
            return False
        for entry in found:
            remove_tree(entry, folder)
    finally:
        os.close(folder)
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            # A program has just written into it.
            return False
        raise
    return True


def check_room(folder: int, *, size: int, entries: int, reserve: int) -> None:
    """Raise `DiskFull` or `InodesExhausted` unless `size` bytes and `entries` files fit and `reserve` bytes stay free.

    An error of statvfs fails the check. 5 % are added for folders, `_dcsync.json` and the rounding to blocks.
    """
    facts = os.fstatvfs(folder)
    free = facts.f_bavail * facts.f_frsize
    needed = size + size // 20 + reserve
    needs = SpaceNeeds(size=size, entries=entries)
    if free < needed:
        message = f"the mirror's disk has {size_text(free)} free of {size_text(facts.f_blocks * facts.f_frsize)}, and "
        message += f"{size_text(needed)} are needed"
        message += f" ({size_text(reserve)} of them for mirror.min_free)" if reserve else ""
        raise DiskFull(message, needs=needs)
    # A file system without a fixed number of inodes (btrfs) reports a total of 0.
    if facts.f_files and facts.f_favail < entries + 100:
        message = f"the mirror's disk has {facts.f_favail:,} inodes free of {facts.f_files:,}, and {entries + 100:,} "
        message += "are needed"
        raise InodesExhausted(message, needs=needs)


def is_plain_file(facts: os.stat_result) -> bool:
    """Return whether it is a regular file."""
    return stat.S_ISREG(facts.st_mode)


def shown(path: str) -> str:
    """Return a path as text for a message: one line of printable characters."""
    return printable(path, 300)


def _renameat2(source: str, source_folder: int, target: str, target_folder: int, flags: int) -> None:
    arguments = (source_folder, os.fsencode(source), target_folder, os.fsencode(target), flags)
    if hasattr(_libc, "renameat2"):
        result = _libc.renameat2(*arguments)
    elif (number := _SYS_RENAMEAT2.get(platform.machine())) is not None:
        result = _libc.syscall(number, *arguments)
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), source, None, target)
