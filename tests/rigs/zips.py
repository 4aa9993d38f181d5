"""ZIPs made by zipfile, and the same bent by hand."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping

from dcsync.core.ziplayout import Directory, NeedsFrom, read_directory

CENTRAL_SIGNATURE = b"PK\x01\x02"
END_SIGNATURE = b"PK\x05\x06"


def make_zip(
    files: Mapping[str, bytes],
    *,
    method: int = zipfile.ZIP_DEFLATED,
    comment: bytes = b"",
    zip64: bool = False,
    streamed: bool = False,
) -> bytes:
    """Return a ZIP of these files. `streamed` writes sizes behind the content, as a server that packs on the fly."""
    out = io.BytesIO()
    sink = Unseekable(out) if streamed else out
    with zipfile.ZipFile(sink, "w", method) as archive:
        for name, body in files.items():
            with archive.open(
                zipfile.ZipInfo(name) if method == 0 else entry(name, method), "w", force_zip64=zip64
            ) as f:
                f.write(body)
        archive.comment = comment
    return widen_end(out.getvalue()) if zip64 else out.getvalue()


def entry(name: str, method: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type = method
    return info


class Unseekable(io.RawIOBase):
    """A sink that zipfile cannot go back in."""

    def __init__(self, sink: io.BytesIO) -> None:
        self._sink = sink

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        return self._sink.write(data)  # type: ignore[arg-type]


def widen_end(plain: bytes) -> bytes:
    """Give an archive the Zip64 record and locator that only huge ones need, its plain fields all ones."""
    at = plain.rindex(END_SIGNATURE)
    _, _, _, here, count, size, offset, comment = struct.unpack_from("<4s4H2LH", plain, at)
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, here, count, size, offset)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
    end = struct.pack("<4s4H2LH", END_SIGNATURE, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, comment)
    return plain[:at] + record + locator + end + plain[at + 22 :]


def patch_central(archive: bytes, index: int, **fields: int) -> bytes:
    """Return the archive with fields of one entry of the central directory changed."""
    places = {
        "made_by": ("<H", 4),
        "flags": ("<H", 8),
        "method": ("<H", 10),
        "crc32": ("<L", 16),
        "packed": ("<L", 20),
        "size": ("<L", 24),
        "disk": ("<H", 34),
        "attributes": ("<L", 38),
        "offset": ("<L", 42),
    }
    out = bytearray(archive)
    at = -1
    for _ in range(index + 1):
        at = out.index(CENTRAL_SIGNATURE, at + 1)
    for field, value in fields.items():
        form, offset = places[field]
        struct.pack_into(form, out, at + offset, value)
    return bytes(out)


def directory_of(archive: bytes, *, first: int = 70_000) -> Directory:
    """Read the directory as a client does: the tail, and more as it is asked for."""
    begin = max(0, len(archive) - first)
    for _ in range(5):
        found = read_directory(archive[begin:], size=len(archive))
        if isinstance(found, Directory):
            return found
        assert isinstance(found, NeedsFrom)
        assert found.start < begin
        begin = found.start
    message = "the directory asks for more without end"
    raise AssertionError(message)
