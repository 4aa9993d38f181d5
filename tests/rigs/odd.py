"""Entries that no program expects in the place of a file, and file systems that few people have."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

#: Root can make a device too. As another user, the others are tested.
ODD_KINDS: Final = ("FIFO", "socket", "symlink", "folder", *(("device",) if os.geteuid() == 0 else ()))
_NULL: Final = os.makedev(1, 3)


def plant(kind: str, place: Path) -> None:
    """Put an entry of a kind at a path. The symlink leads to a file with content."""
    place.parent.mkdir(parents=True, exist_ok=True)
    match kind:
        case "FIFO":
            os.mkfifo(place)
        case "socket":
            _make_socket(place)
        case "symlink":
            target = place.with_name(f"{place.name}.target")
            target.write_bytes(b"elsewhere")
            place.symlink_to(target)
        case "device":
            os.mknod(place, 0o666 | stat.S_IFCHR, _NULL)
        case _:
            place.mkdir()


def _make_socket(place: Path) -> None:
    # An address has room for 107 bytes, and a path in a snapshot is longer.
    folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{folder}/{place.name}")
    finally:
        os.close(folder)


def refuse_to_open(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Let every open of a file with this name fail."""
    opening = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if not isinstance(path, int) and Path(path).name == name:
            raise OSError(number, os.strerror(number))
        return opening(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)


@contextmanager
def overlay(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Lend the lower layer and the mount point of an overlay whose files get another inode when they are changed."""
    lower, upper, merged = folder / "lower", folder / "upper", folder / "merged"
    with ExitStack() as stack:
        for place in (lower, upper, merged):
            place.mkdir()
        for place in (lower, upper):
            stack.enter_context(mounted("-t", "tmpfs", "none", place))
        for name in ("files", "work"):
            (upper / name).mkdir()
        options = f"lowerdir={lower},upperdir={upper}/files,workdir={upper}/work,xino=off"
        stack.enter_context(mounted("-t", "overlay", "-o", options, "none", merged))
        yield lower, merged


@contextmanager
def mounted(*arguments: str | Path) -> Iterator[Path]:
    """Mount something. The last argument is the place."""
    place = Path(arguments[-1])
    subprocess.run(["mount", *arguments], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)
