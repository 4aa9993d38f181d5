"""What every secret of a test begins with, looked for in every file that a run left behind."""

from __future__ import annotations

import base64
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

#: Each stands in every secret of its kind that the sandbox, or a test, ever makes.
MARKS: Final = {
    "a signed URL's key": b"ASIASANDBOX7EXAMPLE",
    "a signed URL's token": b"x-amz-security-token=",
    "a signature": b"X-Amz-Signature=",
    "an access token or an assertion": b"eyJhbGciO",
    "a refresh token": b"sandbox-refresh-",
    "the client's secret": b"sandbox-secret",
    "a secret of a test's own": b"canary-",
    "a private key": b"-----BEGIN PRIVATE KEY",
}
#: Where they belong: the stores of tokens and keys, and the configurations that name them.
BELONGS: Final = re.compile(
    r"token\..*|client-secret|.*\.pem|config.*\.toml|callback\.secret",
)
_PIECE: Final = 1 << 20


def _forms(mark: bytes) -> Iterator[bytes]:
    """Yield a mark as it is, as UTF-16, in hex, and in base64 wherever it begins."""
    yield mark
    yield mark.decode().encode("utf-16-le")
    yield mark.hex().encode()
    for shift in range(3):
        # The letters at both ends also depend on their neighbours.
        yield base64.b64encode(b"\0" * shift + mark)[4 if shift else 0 : -4]


_NEEDLES: Final = {form: what for what, mark in MARKS.items() for form in _forms(mark)}
_OVERLAP: Final = max(map(len, _NEEDLES))


def leaks_in(folder: Path) -> tuple[list[str], int, int]:
    """Return what was found below a folder and in which file, how many files were read, and how many bytes."""
    found: list[str] = []
    files = size = 0
    seen: set[tuple[int, int]] = set()
    for place in sorted(folder.rglob("*")):
        facts = place.lstat()
        if stat.S_ISLNK(facts.st_mode):
            found += [f"{what} in the target of {place}" for what in marks_in(os.fsencode(place.readlink()))]
        found += [f"{what} in the name of {place}" for what in marks_in(os.fsencode(place.name))]
        if not stat.S_ISREG(facts.st_mode) or BELONGS.fullmatch(place.name) or (facts.st_dev, facts.st_ino) in seen:
            continue
        seen.add((facts.st_dev, facts.st_ino))
        files += 1
        for what, read in _in_file(place):
            size += read
            found += [f"{what} in {place}"] if what else []
    return found, files, size


def marks_in(data: bytes) -> list[str]:
    """Return what stands in some bytes."""
    return sorted({what for needle, what in _NEEDLES.items() if needle in data})


def _in_file(place: Path) -> Iterator[tuple[str, int]]:
    """Yield what a file holds, each once, and how much was read; holes are stepped over."""
    told: set[str] = set()
    with place.open("rb") as file:
        rest, at = b"", 0
        while True:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            rest = rest if start == at else b""
            piece = os.pread(file.fileno(), _PIECE, start)
            if not piece:
                return
            yield "", len(piece)
            for what in marks_in(rest + piece):
                if what not in told:
                    told.add(what)
                    yield what, 0
            rest, at = piece[-_OVERLAP:], start + len(piece)
