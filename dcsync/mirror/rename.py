"""Give the folder of an account another name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection

from dcsync.errors import MirrorTampered
from dcsync.mirror import disk
from dcsync.mirror.root import MirrorRoot


def renames(root: MirrorRoot, old: str, new: str, *, snapshots: Collection[str]) -> list[tuple[str, str]]:
    """Return the renames that move the folder `old` to `new`: one, or one for each entry if `new` exists. Blocks.

    Empty if `old` is renamed already, also where both names are the same to the file system. Raises `MirrorTampered` if
    `new` has the name of an entry that holds one of these snapshots.
    """
    try:
        with root.folder(old) as source, root.folder(new) as target, disk.disk_errors(f"reading {disk.shown(old)}"):
            if os.path.samestat(os.fstat(source), os.fstat(target)):
                return []
            entries, taken = sorted(os.listdir(source)), set(os.listdir(target))
    except FileNotFoundError:
        return [(old, new)] if root.has_folder(old) else []
    holding = {folder[len(old) + 1 :].split("/")[0] for folder in snapshots if folder.startswith(f"{old}/")}
    for entry in entries:
        if entry in taken & holding:
            raise _both_exist(f"{old}/{entry}", f"{new}/{entry}")
    return [(f"{old}/{entry}", f"{new}/{entry}") for entry in entries if entry not in taken]


def rename_entry(root: MirrorRoot, old: str, new: str) -> None:
    """Rename an entry below the root, durably and in one step. Blocks. The caller holds the lock.

    Does nothing if it is renamed already. Raises `MirrorTampered` if both names exist.
    """
    (old_parent, _, old_name), (new_parent, _, new_name) = old.rpartition("/"), new.rpartition("/")
    with disk.disk_errors(f"renaming {disk.shown(old)} to {disk.shown(new)}"):
        try:
            source = disk.open_folders(root.descriptor, old_parent.split("/") if old_parent else [], create=False)
        except FileNotFoundError:
            return
        try:
            if not disk.is_there(old_name, below=source):
                return
            target = disk.open_folders(root.descriptor, new_parent.split("/") if new_parent else [], create=True)
            try:
                disk.rename_noreplace(old_name, source, new_name, target)
                # The new name first: a crash in between may leave both names, never none.
                os.fsync(target)
                os.fsync(source)
            finally:
                os.close(target)
        except FileExistsError:
            raise _both_exist(old, new) from None
        finally:
            os.close(source)


def drop_empty(root: MirrorRoot, folder: str) -> None:
    """Remove a folder whose entries were all moved. Any other one stays. Blocks."""
    with contextlib.suppress(OSError), disk.parent_of(folder, below=root.descriptor) as (parent, name):
        disk.remove_unused(name, parent)


def _both_exist(old: str, new: str) -> MirrorTampered:
    message = f"{disk.shown(old)} cannot be moved to {disk.shown(new)}: both exist"
    hint = f"dcsync does not merge them. If you do not need {disk.shown(new)}, stop the daemon, move it out of the "
    hint += "mirror, and run dcsync rebuild: it finishes the rename"
    return MirrorTampered(message, hint=hint)
