"""Give the folder of an account another name."""

from __future__ import annotations

import os

from dcsync.errors import MirrorTampered
from dcsync.mirror import disk
from dcsync.mirror.root import MirrorRoot


def rename_folder(root: MirrorRoot, old: str, new: str) -> None:
    """Rename a folder below the root, durably and in one step. Blocks. The caller holds the lock.

    Only the last component differs. Does nothing if the folder is renamed already. Raises `MirrorTampered` if both
    names exist.
    """
    parent, _, old_name = old.rpartition("/")
    new_name = new.rpartition("/")[2]
    with disk.disk_errors(f"renaming {disk.shown(old)} to {disk.shown(new)}"):
        folder = disk.open_folders(root.descriptor, parent.split("/") if parent else [], create=False)
        try:
            if not disk.is_there(old_name, below=folder):
                return
            disk.rename_noreplace(old_name, folder, new_name, folder)
            os.fsync(folder)
        except FileExistsError:
            message = f"{old} cannot be renamed to {new}: both exist"
            raise MirrorTampered(message, hint=f"move {new} away, or give the account another name") from None
        finally:
            os.close(folder)
