"""Records which content and which names a piece of work leaves in the kernel's cache, where a power cut takes them.

The recorder follows the system calls of Python's `os` module below one folder, and `renameat2`:

- A file is unsynced from its creation, or from a write or a change of its mode, until it is fsynced.
- A folder is unsynced from the time when a name in it is new, renamed, or removed, until it is fsynced.
- To rename an unsynced file, or a folder that holds anything unsynced, is too early: after a power cut the new name may
  be there without the content.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from dcsync.mirror import disk

Inode = tuple[int, int]


@dataclass(slots=True, kw_only=True)
class Recorder:
    """What is unsynced at the moment, and every rename that came too early."""

    base: Path
    #: Unsynced files.
    files: set[Inode] = field(default_factory=set)
    #: Unsynced folders, and the names that changed in each.
    folders: dict[Inode, set[str]] = field(default_factory=dict)
    #: Names that were given to something unsynced.
    renamed_too_early: list[str] = field(default_factory=list)

    def may_vanish(self) -> set[str]:
        """Return what a power cut may take: files whose content, and names whose folder, is not on the disk."""
        return {path for path in self._unsynced() if os.path.lexists(self.base / path)}

    def may_return(self) -> set[str]:
        """Return the names that are gone, and that a power cut may bring back."""
        return {path for path in self._unsynced() if not os.path.lexists(self.base / path)}

    def _unsynced(self) -> set[str]:
        found = set()
        for path in (self.base, *self.base.rglob("*")):
            inode, shown = _inode(os.lstat(path)), str(path.relative_to(self.base))
            if inode in self.files:
                found.add(shown)
            found |= {os.path.normpath(f"{shown}/{name}") for name in self.folders.get(inode, ())}
        return found

    def changed(self, path: Any, dir_fd: int | None) -> None:
        """Note a new or removed name."""
        parent, name = os.path.split(os.fspath(path))
        facts = os.stat(parent or ".", dir_fd=dir_fd)
        where = Path(f"/proc/self/fd/{dir_fd}").readlink() / parent if dir_fd is not None else Path(parent or ".")
        if where.resolve().is_relative_to(self.base):
            self.folders.setdefault(_inode(facts), set()).add(str(name))

    def written(self, descriptor: int) -> None:
        """Note that a file's content or mode changed."""
        facts = os.fstat(descriptor)
        if stat.S_ISREG(facts.st_mode) and Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(self.base):
            self.files.add(_inode(facts))

    def settled(self, facts: os.stat_result) -> None:
        """Note that a file or a folder is on the disk, or that its inode is free for another one."""
        self.files.discard(_inode(facts))
        self.folders.pop(_inode(facts), None)

    def renaming(self, source: Any, source_folder: int | None, target: Any) -> None:
        """Note a rename that comes before the content is on the disk."""
        where = Path(f"/proc/self/fd/{source_folder}").readlink() if source_folder is not None else Path()
        path = where / source
        inside = [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]
        for each in inside:
            inode = _inode(os.lstat(each))
            if inode in self.files or inode in self.folders:
                self.renamed_too_early.append(f"{each.relative_to(path.parent)} -> {target}")


@contextmanager
def recorded(base: Path, *, after_a_kill: bool = False) -> Iterator[Recorder]:
    """Record the work within. `after_a_kill` counts every folder as unsynced at first, as after a killed run."""
    recorder = Recorder(base=base.resolve())
    if after_a_kill:
        for path in (base, *base.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                recorder.folders[_inode(path.stat())] = {"."}
    with patch.dict(vars(os), _calls(recorder)), patch.object(disk, "_libc", _Libc(recorder)):
        yield recorder


def _calls(recorder: Recorder) -> dict[str, Callable[..., Any]]:
    real = {name: getattr(os, name) for name in ("open", "rename", "replace")}

    def opened(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        is_new = bool(flags & os.O_CREAT) and _facts(path, dir_fd) is None
        descriptor: int = real["open"](path, flags, mode, dir_fd=dir_fd)
        if is_new:
            recorder.changed(path, dir_fd)
        if is_new or flags & os.O_TRUNC:
            recorder.written(descriptor)
        return descriptor

    def renamed(call: str) -> Callable[..., None]:
        def rename(source: Any, target: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
            recorder.renaming(source, src_dir_fd, target)
            real[call](source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            recorder.changed(source, src_dir_fd)
            recorder.changed(target, dst_dir_fd)

        return rename

    return {
        "open": opened,
        "rename": renamed("rename"),
        "replace": renamed("replace"),
        **{name: _then(getattr(os, name), recorder.written) for name in ("write", "pwrite", "ftruncate", "fchmod")},
        "fsync": _then(os.fsync, lambda descriptor: recorder.settled(os.fstat(descriptor))),
        **{name: _naming(getattr(os, name), recorder, at=0, key="dir_fd") for name in ("unlink", "rmdir")},
        "mkdir": _naming(os.mkdir, recorder, at=0, key="dir_fd"),
        "symlink": _naming(os.symlink, recorder, at=1, key="dir_fd"),
        "link": _naming(os.link, recorder, at=1, key="dst_dir_fd"),
    }


def _then(call: Callable[..., Any], note: Callable[[int], None]) -> Callable[..., Any]:
    def noting(descriptor: int, *arguments: Any) -> Any:
        result = call(descriptor, *arguments)
        note(descriptor)
        return result

    return noting


def _naming(call: Callable[..., Any], recorder: Recorder, *, at: int, key: str) -> Callable[..., Any]:
    def noting(*arguments: Any, **options: Any) -> None:
        before = _facts(arguments[at], options.get(key))
        call(*arguments, **options)
        if before is not None and (stat.S_ISDIR(before.st_mode) or before.st_nlink == 1):
            recorder.settled(before)
        recorder.changed(arguments[at], options.get(key))

    return noting


class _Libc:
    """The C library, with `renameat2` recorded."""

    def __init__(self, recorder: Recorder) -> None:
        self._real = disk._libc
        self._recorder = recorder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def renameat2(self, source_folder: int, source: bytes, target_folder: int, target: bytes, flags: int) -> int:
        """Rename, and note it when it worked."""
        self._recorder.renaming(os.fsdecode(source), source_folder, os.fsdecode(target))
        result: int = self._real.renameat2(source_folder, source, target_folder, target, flags)
        number = ctypes.get_errno()
        if result == 0:
            self._recorder.changed(os.fsdecode(source), source_folder)
            self._recorder.changed(os.fsdecode(target), target_folder)
        ctypes.set_errno(number)
        return result


def _inode(facts: os.stat_result) -> Inode:
    return facts.st_dev, facts.st_ino


def _facts(path: Any, dir_fd: int | None) -> os.stat_result | None:
    try:
        return os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
