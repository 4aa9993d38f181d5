"""An unchanged file of an earlier snapshot, put into the staging without a download."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace

from dcsync.core.model import How, Snapshot, StoredFile
from dcsync.core.table import is_table
from dcsync.errors import MirrorTampered
from dcsync.mirror import disk
from dcsync.mirror.durable import copy_durably
from dcsync.mirror.hashing import Unreadable, count_rows, eio_as_unreadable, hash_descriptor
from dcsync.mirror.root import MirrorRoot
from dcsync.mirror.staged_names import staged_leaf


def link_earlier(
    root: MirrorRoot, staging: int, previous: Snapshot, source: StoredFile, name: str
) -> StoredFile | None:
    """Stage a file of an earlier snapshot as `name`. None when that file no longer matches its record. Blocks.

    Makes a hard link where the file system allows one, else a reflink, else a copy. A file with the recorded size, time
    and inode is taken as unchanged. Any other file is hashed first. An unreadable file counts as changed, and `verify`
    reports it.
    """
    with disk.disk_errors(f"linking {disk.shown(f'{previous.folder}/{source.name}')}"):
        try:
            with (
                root.folder(previous.folder) as folder,
                disk.parent_of(source.name, below=folder) as (parent, leaf),
            ):
                descriptor = os.open(leaf, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
                try:
                    return _link_opened(descriptor, parent, leaf, source, staging, name)
                finally:
                    os.close(descriptor)
        except FileNotFoundError:
            return None
        except Unreadable:
            with suppress(FileNotFoundError):
                os.unlink(staged_leaf(name), dir_fd=staging)
            return None


def _link_opened(
    descriptor: int, folder: int, source_leaf: str, source: StoredFile, staging: int, name: str
) -> StoredFile | None:
    leaf = staged_leaf(name)
    facts = os.fstat(descriptor)
    if not _matches(descriptor, facts, source):
        return None
    if disk.is_there(leaf, below=staging):
        os.unlink(leaf, dir_fd=staging)
    try:
        os.link(source_leaf, leaf, src_dir_fd=folder, dst_dir_fd=staging, follow_symlinks=False)
        made = os.stat(leaf, dir_fd=staging, follow_symlinks=False)
        if (made.st_dev, made.st_ino) != (facts.st_dev, facts.st_ino):
            message = f"{disk.shown(source.name)} was replaced while dcsync linked it"
            raise MirrorTampered(message, hint="find out which program changes the mirror")
    except OSError:
        # No hard links here (exFAT, some network shares), or the file has too many of them.
        made = copy_durably(descriptor, staging, leaf)
    table = source.table
    if table is None and is_table(source.original):
        # The snapshot of an older version: the rows are counted once, and later links inherit the count.
        with eio_as_unreadable():
            table = count_rows(descriptor)
    return replace(source, name=name, how=How.LINKED, mtime_ns=made.st_mtime_ns, inode=made.st_ino, table=table)


def _matches(descriptor: int, facts: os.stat_result, source: StoredFile) -> bool:
    if not disk.is_plain_file(facts) or facts.st_size != source.size:
        return False
    if (facts.st_mtime_ns, facts.st_ino) == (source.mtime_ns, source.inode):
        return True
    with eio_as_unreadable():
        return hash_descriptor(descriptor).sha256 == source.sha256
