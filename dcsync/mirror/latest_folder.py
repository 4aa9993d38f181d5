"""The files in a real folder `latest`: whether all are copies of published files, so that nothing is lost with them."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from dcsync.core import sidecar
from dcsync.core.names import OWN_FILES, SIDECAR_NAME
from dcsync.core.system_files import is_disposable
from dcsync.core.wire import WireError
from dcsync.mirror import disk


def first_foreign_file(parent: int, name: str) -> str | None:
    """Return the path of a file in a folder that dcsync did not put there. None without such a file. Blocks.

    Files of dcsync are hard links of published files, or copies: they are in the folder's `_dcsync.json` with the same
    size. A symlink, or a name that does not exist, has no file. A file in the place of the folder is foreign: "".
    """
    facts = _facts(name, parent)
    if facts is None or stat.S_ISLNK(facts.st_mode):
        return None
    if not stat.S_ISDIR(facts.st_mode):
        return ""
    folder = disk.open_folder(name, below=parent)
    try:
        return _first_foreign(folder, "", _listed(folder))
    finally:
        os.close(folder)


def _facts(name: str, parent: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _listed(folder: int) -> Mapping[str, int]:
    """Return the sizes of the files that the folder's `_dcsync.json` lists."""
    facts = _facts(SIDECAR_NAME, folder)
    if facts is None or not disk.is_plain_file(facts):
        return {}
    with os.fdopen(disk.open_file(SIDECAR_NAME, below=folder), "rb") as file:
        try:
            adopted = sidecar.parse(file.read(), folder="")
        except WireError:
            return {}
    return {stored.name: stored.size for stored in adopted.snapshot.files}


def _first_foreign(folder: int, prefix: str, listed: Mapping[str, int]) -> str | None:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = f"{prefix}{entry.name}"
            if is_disposable(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                below = disk.open_folder(entry.name, below=folder)
                try:
                    foreign = _first_foreign(below, f"{path}/", listed)
                finally:
                    os.close(below)
                if foreign is not None:
                    return foreign
            elif not _is_copy(path, entry.stat(follow_symlinks=False), listed):
                return path
    return None


def _is_copy(path: str, facts: os.stat_result, listed: Mapping[str, int]) -> bool:
    if not disk.is_plain_file(facts):
        return False
    # The content of a hard link has another name.
    if facts.st_nlink > 1:
        return True
    return facts.st_size == listed.get(path) or (bool(listed) and path in OWN_FILES)
