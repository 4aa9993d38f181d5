"""System calls that the standard library lacks or wraps too loosely, and their errors as `DiskError`s.

Folders are held as descriptors, and no symlink is followed on the way to them. A program that can write in the mirror
can therefore not redirect a write of dcsync to a place outside of it (docs/project/faults.md F18).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import pwd
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dcsync.core.names import printable
from dcsync.core.system_files import is_disposable
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
)
from dcsync.opening import NotRegular, full_path, open_regular

FILE_MODE = 0o444
FOLDER_MODE = 0o755

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
#: For libraries without the wrapper (musl): the system call's number.
_SYS_RENAMEAT2 = {"x86_64": 316, "aarch64": 276, "riscv64": 276, "ppc64le": 357, "s390x": 347}
NOT_SUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EPERM})
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
#: The hint of an error that prevents publishing.
KEPT = "The downloaded files stay in .dcsync/staging, and the next attempt uses them"
MODE_REFUSED = frozenset({errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})

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
    doing, named = _naming_once(doing, error.filename)
    words = f"{doing}: {os.strerror(error.errno) if error.errno else error}{named}"
    match error.errno:
        case number if number in FULL:
            return DiskFull(words)
        case errno.EROFS:
            return DiskReadOnly(words)
        case errno.EACCES | errno.EPERM:
            return _denied(error, words)
        case errno.EXDEV:
            return OtherFileSystem(words)
        case errno.EIO | errno.ESTALE:
            return DiskFault(words)
        case _ if isinstance(error, NotRegular):
            return MirrorTampered(
                f"{doing}{named}: {error.strerror}",
                hint="another program put it there: move it away. dcsync then continues automatically",
            )
        case errno.ELOOP | errno.ENOTDIR:
            return MirrorTampered(
                f"{words}: there is a symlink or a file in the place of a folder",
                hint="another program replaced a folder of the mirror: move it away and put the folder back",
            )
        case _:
            return DiskError(words, hint="dcsync retries automatically")


def _naming_once(doing: str, path: object) -> tuple[str, str]:
    """Return the attempt, with the full path if it ends with a part of it, and what to add to name `path`."""
    if not isinstance(path, str) or doing.endswith(path):
        return doing, ""
    attempt, _, last = doing.rpartition(" ")
    if path.endswith(f"/{last}"):
        return f"{attempt} {shown(path)}", ""
    return doing, f": {shown(path)}"


def _denied(error: OSError, words: str) -> DiskDenied:
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        name = "without a name"
    user = f"uid {os.geteuid()}, {name}"
    path = shown(error.filename) if isinstance(error.filename, str) else ""
    hint = None
    if path.startswith("/"):
        hint = f"give the user that runs dcsync ({user}) read and write permission for {path}"
        if error.errno == errno.EPERM:
            hint = f"check the owner, the ACL and the attributes (lsattr) of {path}: dcsync runs as {user}"
    return DiskDenied(f"{words} (as {user})", hint=hint)


@contextmanager
def place_errors(doing: str, *, root: int) -> Iterator[None]:
    """Turn errors in the block into those of one folder of the mirror, so that only its job fails.

    A full disk, a faulty one, and a read-only root concern everything, and keep their scope.
    """
    try:
        with disk_errors(doing):
            yield
    except DiskReadOnly as error:
        with disk_errors(doing):
            refuse_read_only(root)
        raise PlaceUnusable(error.message, hint=f"remount that file system read-write. {KEPT}") from None
    except DiskError as error:
        if type(error) is not DiskError:
            raise
        raise PlaceUnusable(error.message) from None


def open_folder(path: str, *, below: int | None = None) -> int:
    """Open a folder. The last component may not be a symlink."""
    try:
        return os.open(path, _FOLDER_FLAGS, dir_fd=below)
    except PermissionError as error:
        raise PermissionError(error.errno, error.strerror, full_path(path, below)) from None


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
    except PermissionError as error:
        raise _naming(error, name, parent) from None
    created = open_folder(name, below=parent)
    try:
        set_mode(created, FOLDER_MODE)
        os.fsync(parent)
    except BaseException:
        os.close(created)
        raise
    return created


def _naming(error: OSError, name: str, folder: int) -> PermissionError:
    """Return the error with the full path of what lacks a permission: the folder that would change, or the entry."""
    may_change = os.access(f"/proc/self/fd/{folder}", os.W_OK | os.X_OK, effective_ids=True)
    return PermissionError(error.errno, error.strerror, full_path(name if may_change else "", folder))


def set_mode(descriptor: int, mode: int) -> None:
    """Set the mode of an open file or folder, where the file system allows that.

    CIFS, many FUSE file systems, and ZFS with `aclmode=restricted` refuse it. The mode is then theirs. A file that must
    stay private raises the error if others can use it.
    """
    try:
        os.fchmod(descriptor, mode)
    except OSError as error:
        facts = os.fstat(descriptor)
        is_exposed = not mode & 0o077 and bool(facts.st_mode & 0o077) and is_plain_file(facts)
        if error.errno not in MODE_REFUSED or is_exposed:
            raise


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


def rename(source: str, source_folder: int, target: str, target_folder: int) -> None:
    """Rename, and replace a file of that name. A missing permission is raised with the full path that lacks it."""
    try:
        os.rename(source, target, src_dir_fd=source_folder, dst_dir_fd=target_folder)
    except PermissionError as error:
        raise _naming_rename(error, source_folder, target, target_folder) from None


def _naming_rename(error: OSError, source_folder: int, target: str, target_folder: int) -> PermissionError:
    if os.access(f"/proc/self/fd/{source_folder}", os.W_OK | os.X_OK, effective_ids=True):
        return _naming(error, target, target_folder)
    return _naming(error, "", source_folder)


def rename_noreplace(source: str, source_folder: int, target: str, target_folder: int) -> None:
    """Rename, or raise `FileExistsError` when the target exists.

    On a file system that cannot do this in one step, mkdir claims the name first.
    """
    try:
        _renameat2(source, source_folder, target, target_folder, _RENAME_NOREPLACE)
    except OSError as error:
        if error.errno == errno.EACCES:
            raise _naming_rename(error, source_folder, target, target_folder) from None
        if error.errno not in NOT_SUPPORTED or error.errno == errno.EXDEV:
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
        if error.errno in NOT_SUPPORTED:
            return False
        raise
    return False


def exchange(first: str, first_folder: int, second: str, second_folder: int) -> bool:
    """Swap two names in one step. False where the file system cannot do that."""
    try:
        _renameat2(first, first_folder, second, second_folder, _RENAME_EXCHANGE)
    except OSError as error:
        if error.errno in NOT_SUPPORTED:
            return False
        raise
    return True


def remove_tree(name: str, parent: int) -> None:
    """Remove a file, or a folder with everything in it, if it exists.

    Symlinks are removed, not followed. What cannot be removed does not keep the rest: the first error is raised at the
    end. Its `filename` is the path from `name` on.
    """
    try:
        folder = os.open(name, _FOLDER_FLAGS, dir_fd=parent)
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
