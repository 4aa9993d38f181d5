"""Publish a snapshot into a folder on another file system than the staging, where a rename of it is refused.

That folder is a mount point, a btrfs subvolume, a ZFS dataset, or has a project quota. The files are linked and copied
into a hidden folder next to the snapshot's place, out of which one rename publishes them. Readers never see half a
snapshot.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from dcsync.core.model import Snapshot, StoredFile
from dcsync.core.names import OWN_FILES
from dcsync.errors import DcsyncError, DiskFault, DiskFull, InodesExhausted, PlaceUnusable
from dcsync.mirror import disk
from dcsync.mirror.durable import copy_durably
from dcsync.mirror.hashing import hash_descriptor
from dcsync.mirror.link import link_earlier
from dcsync.mirror.root import OWN_FOLDER, MirrorRoot, split
from dcsync.mirror.space import check_room
from dcsync.mirror.staged_names import staged_leaf
from dcsync.mirror.staging import Staging

_NEW = "new"


def publish_across(
    root: MirrorRoot, staging: Staging, folder: str, files: Sequence[StoredFile], previous: Snapshot | None
) -> tuple[StoredFile, ...] | None:
    """Publish the complete staged `files` as `folder`, durably, and remove the staging. Blocks.

    Returns the files as they are in `folder`, or None, having changed nothing, when that name exists already. Files
    that `previous` has are linked to it. Raises a `DiskError` that concerns only this job when the folder cannot be
    written: the staging then stays as it was. The caller holds the mirror's lock.
    """
    parent_path, _, leaf = folder.rpartition("/")
    hidden = _hidden_name(staging.leaf)
    doing = f"publishing {disk.shown(folder)}, which is on another file system than the staging"
    try:
        with disk.place_errors(doing, root=root.descriptor):
            with root.reshaping, root.folder(parent_path, create=True) as opened:
                disk.fsync_path(root.descriptor, split(parent_path))
                disk.remove_tree(hidden, opened)
                # From here on, the folders above are not empty, so that no pruning removes them.
                outer = disk.open_folders(opened, [hidden], create=True)
                parent = os.dup(opened)
            try:
                made = _fill(root, staging, outer, files, previous)
                disk.rename_noreplace(_NEW, outer, leaf, parent)
                os.fsync(parent)
            except FileExistsError:
                return None
            finally:
                with suppress(OSError):
                    disk.remove_tree(hidden, parent)
                os.close(outer)
                os.close(parent)
    except (DiskFull, InodesExhausted) as error:
        # The mirror's own disk has room: it holds the staging.
        hint = f"free space on the file system of {root.path / parent_path}. {disk.KEPT}"
        raise PlaceUnusable(f"{doing}: {error.message}", hint=hint) from None
    with suppress(DcsyncError):
        # It is published. The next start clears what is left of the staging.
        staging.discard()
    return made


def discard_copy(root: MirrorRoot, leaf: str, folder: str) -> None:
    """Remove the hidden copy that a killed `publish_across` left, for a staging `leaf` that nothing needs. Blocks.

    Call it before the staging is removed, because only the staging's name leads to the copy.
    """
    parent, _, _ = folder.rpartition("/")
    with suppress(FileNotFoundError), root.folder(parent) as opened, disk.disk_errors(f"clearing {disk.shown(parent)}"):
        disk.remove_tree(_hidden_name(leaf), opened)


def _hidden_name(leaf: str) -> str:
    # No name from Autodesk begins like this (design.md, Names), and the patterns of a shell do not match it.
    return f"{OWN_FOLDER}-{hashlib.sha256(leaf.encode()).hexdigest()[:16]}"


def _fill(
    root: MirrorRoot, staging: Staging, outer: int, files: Sequence[StoredFile], previous: Snapshot | None
) -> tuple[StoredFile, ...]:
    """Make the folder `new` in a hidden folder.

    It is one level deeper than a snapshot, because the patterns of DuckDB match hidden folders as well. The mode of the
    hidden one keeps all other readers out.
    """
    disk.set_mode(outer, 0o700)
    new = disk.open_folders(outer, [_NEW], create=True)
    try:
        return _fill_new(root, staging, new, files, previous)
    finally:
        os.close(new)


def _fill_new(
    root: MirrorRoot, staging: Staging, new: int, files: Sequence[StoredFile], previous: Snapshot | None
) -> tuple[StoredFile, ...]:
    before = {} if previous is None else {stored.original: stored for stored in previous.files}
    made: dict[str, StoredFile] = {}
    for stored in files:
        earlier = before.get(stored.original)
        if previous is not None and earlier is not None and earlier.sha256 == stored.sha256:
            linked = link_earlier(root, new, previous, earlier, stored.name)
            if linked is not None:
                _unfold(stored.name, new)
                made[stored.name] = replace(stored, mtime_ns=linked.mtime_ns, inode=linked.inode)
    rest = [stored for stored in files if stored.name not in made]
    size, entries = sum(stored.size for stored in rest), len(rest) + len(OWN_FILES)
    check_room(new, size=size, entries=entries, reserve=0, disk="that file system")
    for stored in rest:
        facts = _copy(staging.descriptor, new, stored.name, sha256=stored.sha256)
        made[stored.name] = replace(stored, mtime_ns=facts.st_mtime_ns, inode=facts.st_ino)
    for name in sorted(OWN_FILES):
        _copy(staging.descriptor, new, name, sha256=None)
    os.fsync(new)
    return tuple(made[stored.name] for stored in files)


def _unfold(name: str, new: int) -> None:
    with disk.parent_of(name, below=new, create=True) as (target, leaf):
        if staged_leaf(name) != name:
            disk.rename(staged_leaf(name), new, leaf, target)
        os.fsync(target)


def _copy(staged: int, new: int, name: str, *, sha256: str | None) -> os.stat_result:
    source = disk.open_file(name, below=staged)
    try:
        with disk.parent_of(name, below=new, create=True) as (target, leaf):
            facts = copy_durably(source, target, leaf)
            os.fsync(target)
        copied = disk.open_file(name, below=new)
    finally:
        os.close(source)
    try:
        if sha256 is not None and hash_descriptor(copied).sha256 != sha256:
            message = f"the copy of {disk.shown(name)} differs from the staged file"
            raise DiskFault(message)
    finally:
        os.close(copied)
    return facts
