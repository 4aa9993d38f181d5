"""Files of JSON lines in `.dcsync` that only grow: one line for each event, durable when the call returns."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping

from dcsync.core.model import Json
from dcsync.core.wire import WireError, decode_json
from dcsync.mirror import disk
from dcsync.mirror.root import OWN_FOLDER, MirrorRoot
from dcsync.opening import open_regular


def append_lines(root: MirrorRoot, name: str, *entries: Mapping[str, Json]) -> None:
    """Append lines to a file in `.dcsync`, durably. Blocks. The caller holds the lock.

    After an error, any of them may be there.
    """
    lines = b"".join(json.dumps(entry).encode("ascii") + b"\n" for entry in entries)
    with disk.disk_errors(f"writing {OWN_FOLDER}/{name}"), root.folder(OWN_FOLDER, create=True) as own:
        descriptor = open_regular(name, os.O_RDWR | os.O_CREAT, 0o644, below=own)
        try:
            end = os.lseek(descriptor, 0, os.SEEK_END)
            if end and os.pread(descriptor, 1, end - 1) != b"\n":
                # A crash or a full disk cut the last line.
                lines = b"\n" + lines
            disk.write_all(descriptor, lines)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.fsync(own)


def read_lines(root: MirrorRoot, name: str) -> Iterator[Mapping[str, Json]]:
    """Yield the lines of a file in `.dcsync`, oldest first. Lines that are not JSON objects are skipped. Blocks."""
    try:
        body = root.read_file(OWN_FOLDER, name)
    except FileNotFoundError:
        return
    for line in body.splitlines():
        try:
            entry = decode_json(line)
        except WireError:
            continue
        if isinstance(entry, Mapping):
            yield entry
