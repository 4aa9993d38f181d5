"""The bodies of the sandbox's files: in memory, computed when they are read, or packed into a ZIP."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from dcsync.sandbox import data

_PIECE = 1 << 20


class Blob(Protocol):
    """Bytes that can be served in ranges."""

    @property
    def size(self) -> int:
        """The length in bytes."""

    @property
    def md5(self) -> str:
        """The MD5 in hex."""

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop`."""


class Stored:
    """Bytes in memory."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._md5: str | None = None

    @property
    def size(self) -> int:
        """The length in bytes."""
        return len(self._body)

    @property
    def md5(self) -> str:
        """The MD5 in hex."""
        if self._md5 is None:
            self._md5 = hashlib.md5(self._body, usedforsecurity=False).hexdigest()
        return self._md5

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop`."""
        return self._body[start:stop]


class Synthetic:
    """A large file that is computed when it is read: numbered copies of a seeded block of 1 MiB."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self._size = size
        block = b"".join(hashlib.sha256(f"{seed}/{index}".encode()).digest() for index in range(_PIECE // 32))
        self._tail = block[8:]
        self._md5: str | None = None

    @property
    def size(self) -> int:
        """The length in bytes."""
        return self._size

    @property
    def md5(self) -> str:
        """The MD5 in hex, computed once."""
        if self._md5 is None:
            total = hashlib.md5(usedforsecurity=False)
            for piece in self.pieces():
                total.update(piece)
            self._md5 = total.hexdigest()
        return self._md5

    def pieces(self) -> Iterator[bytes]:
        """Yield the whole file in pieces of 1 MiB."""
        for start in range(0, self._size, _PIECE):
            yield self.read(start, min(self._size, start + _PIECE))

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop`."""
        out = []
        while start < stop:
            number, offset = divmod(start, _PIECE)
            block = number.to_bytes(8, "big") + self._tail
            piece = block[offset : offset + stop - start]
            out.append(piece)
            start += len(piece)
        return b"".join(out)


@dataclass(slots=True)
class Archive:
    """The ZIP of an extract. It is packed at the first access, so that a demo without ZIP downloads does not wait."""

    files: Mapping[str, Blob]
    has_windows: bool
    packed: Stored | None = field(default=None)

    @property
    def size(self) -> int:
        """The length in bytes."""
        return self._pack().size

    @property
    def md5(self) -> str:
        """The MD5 in hex."""
        return self._pack().md5

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop`."""
        return self._pack().read(start, stop)

    def _pack(self) -> Stored:
        if self.packed is None:
            plain = {name: blob.read(0, blob.size) for name, blob in self.files.items()}
            schemas = data.schema_files(list(plain), has_windows=self.has_windows)
            self.packed = Stored(data.archive({**plain, **schemas}))
        return self.packed


def as_blob(body: bytes | Blob) -> Blob:
    """Return the body of a file in a form that can be served in ranges."""
    return Stored(body) if isinstance(body, bytes) else body
