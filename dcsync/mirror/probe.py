"""The type and the abilities of a file system, for `doctor`. The abilities are tried out in a temporary folder."""

from __future__ import annotations

import os
import re
import stat
import uuid
from dataclasses import dataclass

from dcsync.mirror import disk, space
from dcsync.mirror.root import OWN_FOLDER, MirrorRoot
from dcsync.opening import open_regular

#: Several machines can write to these, or the caches of file server and client differ. SQLite's write-ahead log needs a
#: local disk, because its users share memory (sqlite.org/wal.html: "All processes … must be on the same host").
_NETWORK = frozenset(
    {
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "fuse.glusterfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "gfs2",
        "glusterfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "smb3",
        "smbfs",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """Abilities of a file system that the mirror uses where they exist."""

    hardlinks: bool
    #: Two files can share blocks (btrfs, XFS).
    clones: bool
    symlinks: bool
    #: A rename can refuse to replace, in one step.
    keeps_names: bool
    #: Two names can be swapped, in one step.
    exchanges: bool
    #: Its owner can change the mode of a file.
    sets_modes: bool


def try_out(root: MirrorRoot) -> Abilities:
    """Find out the abilities of the root's file system by writing to it. Raises `DiskError`s where it cannot write.

    The test happens in a new folder with a random name, below `.dcsync` if that exists. It needs no lock and does not
    disturb a running dcsync.
    """
    doing = f"trying to write to {disk.shown(str(root.path))}"
    within = f"{OWN_FOLDER}" if root.has_folder(OWN_FOLDER) else ""
    with disk.disk_errors(doing):
        parent = disk.open_folders(root.descriptor, [within] if within else [], create=False)
        try:
            name = f"{OWN_FOLDER}-doctor-{uuid.uuid4().hex}"
            os.mkdir(name, 0o700, dir_fd=parent)
            try:
                folder = disk.open_folder(name, below=parent)
                try:
                    return _try_out_in(folder)
                finally:
                    os.close(folder)
            finally:
                disk.remove_tree(name, parent)
        finally:
            os.close(parent)


def file_system(descriptor: int) -> str | None:
    """Return the type of an open file's file system, for example `ext4` or `nfs4`. None when the kernel does not tell.

    The type is that of the mount through which the descriptor was opened. Device numbers do not work, because one file
    system can have many (btrfs, overlay).
    """
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
            mount = re.search(r"^mnt_id:\s*(\d+)$", file.read(), re.MULTILINE)
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            table = file.read()
    except OSError:
        return None
    return None if mount is None else type_in(table, int(mount[1]))


def type_in(table: str, mount: int) -> str | None:
    """Return the type of a mount in the text of /proc/self/mountinfo (proc_pid_mountinfo(5))."""
    for line in table.split("\n"):
        fields = line.split(" ")
        # A variable number of optional fields ends with a hyphen, then comes the type. Spaces in paths are escaped.
        if fields[0] == str(mount) and "-" in fields[:-1]:
            return fields[fields.index("-") + 1]
    return None


def is_network(kind: str | None) -> bool:
    """Return whether this is a network or cluster file system, to which other machines can write."""
    return kind in _NETWORK


def _try_out_in(folder: int) -> Abilities:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    first = open_regular("first", flags, below=folder)
    second = open_regular("second", flags, below=folder)
    try:
        disk.write_all(first, b"dcsync\n")
        os.fsync(first)
        return Abilities(
            hardlinks=_links(folder),
            clones=space.clone(first, second),
            symlinks=_symlinks(folder),
            keeps_names=disk.refuses_to_replace("first", "second", folder),
            exchanges=disk.exchange("first", folder, "second", folder),
            sets_modes=_sets_modes(first),
        )
    finally:
        os.close(first)
        os.close(second)


def _links(folder: int) -> bool:
    try:
        os.link("first", "linked", src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    facts = os.stat("linked", dir_fd=folder, follow_symlinks=False)
    # Some network shares silently make a copy.
    return (facts.st_ino, facts.st_nlink) == (os.stat("first", dir_fd=folder).st_ino, 2)


def _sets_modes(descriptor: int) -> bool:
    try:
        os.fchmod(descriptor, disk.FILE_MODE)
    except OSError:
        return False
    # Some file systems silently keep their own.
    return stat.S_IMODE(os.fstat(descriptor).st_mode) == disk.FILE_MODE


def _symlinks(folder: int) -> bool:
    try:
        os.symlink("first", "symlink", dir_fd=folder)
        return os.readlink("symlink", dir_fd=folder) == "first"
    except OSError:
        return False
