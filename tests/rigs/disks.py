"""File systems to break: on loop devices, in memory, frozen, cut off. All of it is released, however the test ends."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import stat
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

#: In memory: what is cut off here need not wear a disk out.
_HOME: Final = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
_OURS: Final = "dcsync-torture."
_SWEEPING: Final = _HOME / ".dcsync-torture-sweeping"
#: What `xfs_io -x -c shutdown` asks for, on XFS and on ext4: stop at once, and write no log.
_GOING_DOWN: Final = 0x8004587D
_NO_LOG_FLUSH: Final = struct.pack("I", 2)
_LOOP_MAJOR: Final = 7
#: Nodes that a container may lack, though the kernel has what is behind them.
_NODES: Final = {"/dev/loop-control": (10, 237), "/dev/fuse": (10, 229)}

Kind: TypeAlias = Literal["ext4", "xfs", "btrfs"]
#: Of a file system's image; the least that its maker takes. Sparse: only what is written takes memory.
SIZES: Final[dict[Kind, int]] = {"ext4": 64 << 20, "xfs": 300 << 20, "btrfs": 128 << 20}
_MAKERS: Final[dict[Kind, tuple[str, ...]]] = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-b", "4096", "-J", "size=8"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}


def run(*argv: str | Path) -> str:
    """Run a program of the system and return what it says; its own words when it fails."""
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv} failed with {done.returncode}: {done.stderr}{done.stdout}"
    return done.stdout


def cut(*mounts: str | os.PathLike[str]) -> None:
    """Cut the power of mounted file systems: nothing more is written, not even the log."""
    for mount in mounts:
        descriptor = os.open(mount, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _GOING_DOWN, _NO_LOG_FLUSH)
        finally:
            os.close(descriptor)


@dataclass(slots=True, kw_only=True)
class Disk:
    """A file system in an image file, mounted or not."""

    kind: Kind
    image: Path
    mount: Path
    #: What the file system writes to: the image, or a log in front of it.
    backing: Path
    options: str = ""
    device: Path | None = None

    def make(self) -> None:
        """Make a new, empty file system."""
        self.image.unlink(missing_ok=True)
        with self.image.open("wb") as file:
            file.truncate(SIZES[self.kind])
        run(*_MAKERS[self.kind], self.image)

    def attach(self) -> None:
        """Mount it, which plays back the log of one that was cut off."""
        self.mount.mkdir(exist_ok=True)
        self.device = attach_loop(self.backing)
        options = ("-o", self.options) if self.options else ()
        try:
            run("mount", "-t", self.kind, *options, self.device, self.mount)
        except BaseException:
            self.detach()
            raise

    def detach(self) -> None:
        """Take it out of use; fine when it is not."""
        thaw(self.mount)
        unmount(self.mount)
        if self.device is not None:
            device, self.device = self.device, None
            run("losetup", "-d", device)

    def again(self) -> None:
        """Unmount and mount it, as a machine does that starts again."""
        self.detach()
        self.attach()


@dataclass(slots=True, kw_only=True)
class Workshop:
    """A folder of its own for disks, and what must be undone at the end."""

    folder: Path
    stack: ExitStack = field(default_factory=ExitStack)

    def disk(self, name: str, kind: Kind, *, backing: Path | None = None, options: str = "") -> Disk:
        """Return a new, empty file system, mounted."""
        image = self.folder / f"{name}.image"
        disk = Disk(kind=kind, image=image, mount=self.folder / name, backing=backing or image, options=options)
        if backing is None:
            disk.make()
        self.stack.callback(disk.detach)
        disk.attach()
        return disk

    def memory(self, name: str, options: str) -> Path:
        """Return a file system in memory, mounted: `size=4m`, `nr_inodes=300`."""
        place = self.folder / name
        place.mkdir()
        run("mount", "-t", "tmpfs", "-o", options, f"{_OURS}{name}", place)
        self.stack.callback(unmount, place)
        return place


@contextmanager
def workshop() -> Iterator[Workshop]:
    """Lend a workshop; all that was mounted, attached or frozen in it is released at the end, also after a SIGTERM."""
    make_nodes()
    sweep()
    folder = _HOME / f"{_OURS}{os.getpid()}"
    number = 0
    while folder.exists():
        number += 1
        folder = _HOME / f"{_OURS}{os.getpid()}.{number}"
    folder.mkdir(mode=0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        stack.callback(_release, folder)
        stack.enter_context(_termination_unwinds())
        yield Workshop(folder=folder, stack=stack.enter_context(ExitStack()))


def make_nodes() -> None:
    """Make the device nodes that a container may lack."""
    for node, numbers in _NODES.items():
        if not Path(node).exists():
            os.mknod(node, 0o600 | stat.S_IFCHR, os.makedev(*numbers))


def sweep() -> None:
    """Release what a run left that was killed: what bears our name and the id of a process that is gone."""
    with _SWEEPING.open("w") as lock:
        # Processes that run side by side must not release the same.
        fcntl.flock(lock, fcntl.LOCK_EX)
        for folder in _HOME.glob(f"{_OURS}*"):
            pid = folder.name.removeprefix(_OURS).partition(".")[0]
            if not Path("/proc", pid).exists():
                _release(folder)
                shutil.rmtree(folder)


def _release(folder: Path) -> None:
    """Thaw, unmount and detach everything below a folder."""
    for mount in sorted(_mounts_below(folder), reverse=True):
        thaw(mount)
        unmount(mount)
    for line in run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE").splitlines():
        device, _, image = line.partition(" ")
        if image.strip().startswith(f"{folder}/"):
            run("losetup", "-d", device)


@contextmanager
def _termination_unwinds() -> Iterator[None]:
    """Let SIGTERM end the test as Ctrl-C does: through every `finally`."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _mounts_below(folder: Path) -> list[Path]:
    mounts = [line.split(" ")[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [Path(mount) for mount in mounts if mount.startswith(f"{folder}/")]


def is_mounted(place: Path) -> bool:
    """Say whether something is mounted there."""
    return place in _mounts_below(place.parent)


def unmount(place: Path) -> None:
    """Unmount; fine when nothing is mounted there. What still holds it is let go: the workshop ends here."""
    if is_mounted(place):
        done = subprocess.run(["umount", str(place)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            run("umount", "--lazy", place)


def freeze(place: Path) -> None:
    """Freeze a file system: whoever writes waits, and no signal ends that. Thaw it whatever happens."""
    run("fsfreeze", "--freeze", place)


def thaw(place: Path) -> None:
    """Thaw a file system; fine when it is not frozen."""
    with suppress(FileNotFoundError):
        subprocess.run(["fsfreeze", "--unfreeze", str(place)], capture_output=True, check=False)


def attach_loop(backing: Path) -> Path:
    """Attach a file to a free loop device and return that. Its node is made where nobody makes it by itself."""
    refused = ""
    for _ in range(20):
        device = Path(run("losetup", "--find").strip())
        match = re.fullmatch(r"/dev/loop(\d+)", str(device))
        assert match is not None, f"no loop device: {device}"
        if not device.exists():
            os.mknod(device, 0o600 | stat.S_IFBLK, os.makedev(_LOOP_MAJOR, int(match[1])))
        done = subprocess.run(["losetup", str(device), str(backing)], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return device
        # Somebody else took it in between.
        refused = done.stderr
    message = f"no loop device could be had for {backing}: {refused}"
    raise AssertionError(message)
