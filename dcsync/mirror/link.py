"""An unchanged file of an earlier snapshot, put into the staging without a download."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from dcsync.core.model import How, Snapshot, StoredFile
from dcsync.core.table import is_table
from dcsync.errors import DcsyncError
from dcsync.mirror import disk
from dcsync.mirror.durable import copy_durably
from dcsync.mirror.hashing import Unreadable, count_rows, eio_as_unreadable, hash_descriptor
from dcsync.mirror.root import MirrorRoot
from dcsync.mirror.staged_names import ESCAPE, staged_leaf
from dcsync.opening import NotRegular, open_regular

#: These say nothing about the file: the process or the machine is short of something.
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def link_earlier(
    root: MirrorRoot, staging: int, previous: Snapshot, source: StoredFile, name: str
) -> StoredFile | None:
    """Stage a file of an earlier snapshot as `name`. None when that file no longer matches its record. Blocks.

    Makes a hard link where the file system allows one, else a reflink, else a copy. A file with the recorded size, time
    and inode is taken as unchanged. Any other file is hashed first. What cannot be read, or is not a regular file,
    counts as changed: it can be downloaded again, and `verify` reports it. A file that is staged already is only
    replaced by one with the same content.
    """
    with disk.disk_errors(f"linking {disk.shown(f'{previous.folder}/{source.name}')}"):
        try:
            with _opened(root, previous, source) as (descriptor, parent, leaf):
                return _link_opened(descriptor, parent, leaf, source, staging, name)
        except _Unusable:
            return None


class _Unusable(Exception):
    """The file of the earlier snapshot cannot be used."""


@contextmanager
def _opened(root: MirrorRoot, previous: Snapshot, source: StoredFile) -> Iterator[tuple[int, int, str]]:
    """Open a file of an earlier snapshot. Yields its descriptor, that of its folder, and its name there."""
    parent = None
    try:
        with root.folder(previous.folder) as folder:
            *above, leaf = source.name.split("/")
            parent = disk.open_folders(folder, above, create=False)
        descriptor = open_regular(leaf, below=parent)
    except (OSError, DcsyncError) as error:
        if parent is not None:
            os.close(parent)
        if isinstance(error, OSError) and error.errno in _SHORTAGES:
            raise
        raise _Unusable from None
    try:
        yield descriptor, parent, leaf
    finally:
        os.close(descriptor)
        os.close(parent)


def _link_opened(
    descriptor: int, folder: int, source_leaf: str, source: StoredFile, staging: int, name: str
) -> StoredFile | None:
    # A name that no staged file has: `a.csv` cannot be a folder too.
    temporary = f"{staged_leaf(name)}{ESCAPE}link"
    facts = os.fstat(descriptor)
    disk.remove_tree(temporary, staging)
    try:
        if not _matches(descriptor, facts, source):
            return None
        try:
            os.link(source_leaf, temporary, src_dir_fd=folder, dst_dir_fd=staging, follow_symlinks=False)
        except OSError:
            # No hard links here (exFAT, some network shares), or the file has too many of them.
            made = copy_durably(descriptor, staging, temporary)
        else:
            made = _check_linked(facts, source, temporary, staging)
        table = source.table
        if table is None and is_table(source.original):
            # The snapshot of an older version: the rows are counted once, and later links inherit the count.
            with eio_as_unreadable():
                table = count_rows(descriptor)
    except (Unreadable, _Unusable):
        disk.remove_tree(temporary, staging)
        return None
    # A rename between two names of the same file does nothing.
    disk.remove_tree(staged_leaf(name), staging)
    disk.rename(temporary, staging, staged_leaf(name), staging)
    return replace(source, name=name, how=How.LINKED, mtime_ns=made.st_mtime_ns, inode=made.st_ino, table=table)


def _check_linked(facts: os.stat_result, source: StoredFile, leaf: str, staging: int) -> os.stat_result:
    """Return the attributes of a new hard link. Raises `_Unusable` when it is not the file that was opened.

    Another program may have replaced the file in between. An overlay copies a file out of its lower layer before it
    links it, and may give it another inode: then the content decides.
    """
    made = os.stat(leaf, dir_fd=staging, follow_symlinks=False)
    if (made.st_dev, made.st_ino) == (facts.st_dev, facts.st_ino):
        return made
    try:
        descriptor = open_regular(leaf, below=staging)
    except NotRegular:
        raise _Unusable from None
    try:
        if _matches(descriptor, made, source, trusts_inode=False):
            return made
    finally:
        os.close(descriptor)
    raise _Unusable


def _matches(descriptor: int, facts: os.stat_result, source: StoredFile, *, trusts_inode: bool = True) -> bool:
    if facts.st_size != source.size:
        return False
    if trusts_inode and (facts.st_mtime_ns, facts.st_ino) == (source.mtime_ns, source.inode):
        return True
    with eio_as_unreadable():
        return hash_descriptor(descriptor).sha256 == source.sha256
