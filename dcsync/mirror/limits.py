"""What limits a mirror in its file systems and its place: found by looking, at each start and by `doctor`."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from dcsync.core.system_files import is_system_name
from dcsync.errors import DcsyncError
from dcsync.mirror import disk
from dcsync.mirror.nesting import outer_mirror
from dcsync.mirror.probe import file_system
from dcsync.mirror.root import INSTANCE, OWN_FOLDER, MirrorRoot


class LimitKind(StrEnum):
    """What is limited."""

    #: A folder below the root is on another file system: a mount, a btrfs subvolume, a ZFS dataset.
    APART = "apart"
    #: The file system refuses chmod.
    MODES = "modes"
    #: Files are in the lower layer of an overlay.
    LAYER = "layer"
    #: The root is inside another mirror.
    NESTED = "nested"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One limit: the full path that has it, and the type of the file system there, if the kernel tells it."""

    kind: LimitKind
    path: str
    file_system: str | None


def find_limits(root: MirrorRoot, *, depth: int) -> list[Limit]:
    """Return the limits of a mirror's file systems. Writes nothing. Blocks.

    Mounts are found anywhere below the root, subvolumes down to `depth` folders below it. Folders that cannot be opened
    are left out: a run that needs them reports them.
    """
    found = [*_apart(root, depth)]
    above = outer_mirror(root)
    if above is not None:
        found.append(Limit(kind=LimitKind.NESTED, path=str(above), file_system=None))
    try:
        with root.folder(OWN_FOLDER) as own:
            shown = str(root.path / OWN_FOLDER)
            if _refuses_modes(own):
                found.append(Limit(kind=LimitKind.MODES, path=str(root.path), file_system=file_system(own)))
            if disk.is_there(INSTANCE, below=own):
                marker = os.stat(INSTANCE, dir_fd=own, follow_symlinks=False)
                if stat.S_ISREG(marker.st_mode) and marker.st_dev != os.fstat(own).st_dev:
                    found.append(Limit(kind=LimitKind.LAYER, path=shown, file_system=file_system(own)))
    except FileNotFoundError:
        pass
    return found


def _refuses_modes(own: int) -> bool:
    """Return whether chmod is refused to the owner of a folder. The mode stays as it is."""
    facts = os.fstat(own)
    if facts.st_uid != os.geteuid():
        return False
    try:
        os.fchmod(own, stat.S_IMODE(facts.st_mode))
    except OSError as error:
        return error.errno in disk.MODE_REFUSED
    return False


def _apart(root: MirrorRoot, depth: int) -> Iterator[Limit]:
    mounts = _mounts_below(root)
    # Folders with mounts first, so that the search does not descend into them.
    for relative in mounts:
        yield from _limit_at(root, relative)
    device = os.fstat(root.descriptor).st_dev
    pending = [(name, 1) for name in sorted(os.listdir(root.descriptor))]
    while pending:
        relative, level = pending.pop()
        if relative in mounts or is_system_name(relative.rpartition("/")[2]):
            continue
        try:
            with root.folder(relative) as folder:
                if os.fstat(folder).st_dev != device:
                    yield from _limit_at(root, relative)
                elif level < depth:
                    with os.scandir(folder) as entries:
                        below = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
                    pending += [(f"{relative}/{name}", level + 1) for name in sorted(below)]
        except (OSError, DcsyncError):
            continue


def _limit_at(root: MirrorRoot, relative: str) -> Iterator[Limit]:
    try:
        with root.folder(relative) as folder:
            yield Limit(kind=LimitKind.APART, path=str(root.path / relative), file_system=file_system(folder))
    except (OSError, DcsyncError):
        return


def _mounts_below(root: MirrorRoot) -> list[str]:
    """Return the paths below the root at which something is mounted. Not those of a NAS or file system itself."""
    try:
        top = str(Path(f"/proc/self/fd/{root.descriptor}").readlink())
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            points = {_unescaped(line.split(" ")[4]) for line in file}
    except OSError:
        return []
    below = sorted(point.removeprefix(f"{top}/") for point in points if point.startswith(f"{top}/"))
    return [path for path in below if not any(map(is_system_name, path.split("/")))]


def _unescaped(path: str) -> str:
    """Return a path as it is. /proc/self/mountinfo writes blanks as octal numbers (proc_pid_mountinfo(5))."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)
