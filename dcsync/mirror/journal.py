"""The journal of a staging folder: which files are complete, and from where an incomplete one can resume.

The journal is not fsynced. After a kill, the kernel still has it. After a power cut, files that it lacks are downloaded
again. An entry counts only after the file has been hashed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from dcsync.clock import boot_id
from dcsync.core import sidecar
from dcsync.core.model import Json, StoredFile
from dcsync.core.transfer import PIECE_SIZE
from dcsync.mirror import disk
from dcsync.mirror.staged_names import staged_leaf
from dcsync.opening import NotRegular, open_regular, read_regular

SUFFIX = ".journal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """An incomplete file in the journal: its listed size, its ETag, and size and CRC32 of its bytes so far."""

    size: int
    etag: str
    written: int = 0
    crc32: int = 0


class Journal:
    """The open journal of one staging folder, `<leaf>.journal` next to it. All methods block."""

    def __init__(self, leaf: str, parent: int) -> None:
        self._shown = f"{leaf}{SUFFIX}"
        self._boot = boot_id()
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        try:
            self._descriptor = open_regular(f"{leaf}{SUFFIX}", flags, below=parent)
        except NotRegular:
            # Only dcsync uses this name. A journal that another program replaced costs another download.
            disk.remove_tree(f"{leaf}{SUFFIX}", parent)
            self._descriptor = open_regular(f"{leaf}{SUFFIX}", flags, below=parent)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def note_opened(self, name: str, size: int, etag: str) -> None:
        """Record that a file begins, and the ETag under which it can resume."""
        self._note({"opened": staged_leaf(name), "size": size, "etag": etag, "boot": self._boot})

    def note_written(self, name: str, size: int, crc32: int) -> None:
        """Record the size and the CRC32 of the bytes of an incomplete file."""
        self._note({"written": staged_leaf(name), "size": size, "crc32": crc32, "boot": self._boot})

    def note_stored(self, stored: StoredFile) -> None:
        """Record a complete file."""
        self._note({"stored": sidecar.file_json(stored)})

    def read(self) -> tuple[dict[str, Unfinished], dict[str, StoredFile]]:
        """Return the incomplete files of this boot by staged name, and the complete files by name."""
        with disk.disk_errors(f"reading the journal {self._shown}"):
            body = b""
            while piece := os.pread(self._descriptor, PIECE_SIZE, len(body)):
                body += piece
        return _parse(body, self._boot)

    def _note(self, entry: Mapping[str, Json]) -> None:
        with disk.disk_errors(f"writing the journal {self._shown}"):
            # One write with O_APPEND: lines of several threads do not mix.
            disk.write_all(self._descriptor, json.dumps(entry).encode() + b"\n")


def read_stored(leaf: str, parent: int) -> dict[str, StoredFile]:
    """Return the complete files that the journal of another staging folder records, by name."""
    try:
        return _parse(read_regular(f"{leaf}{SUFFIX}", below=parent), "")[1]
    except FileNotFoundError:
        return {}


def _parse(body: bytes, boot: str) -> tuple[dict[str, Unfinished], dict[str, StoredFile]]:
    opened: dict[str, Unfinished] = {}
    stored: dict[str, StoredFile] = {}
    for line in body.splitlines():
        # The last line of a killed run, and a line that a power cut left as zeros, are left out.
        with suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            if "stored" in entry:
                record = sidecar.parse_file(entry["stored"])
                stored[record.name] = record
            elif "opened" in entry:
                if entry["boot"] == boot != "":
                    # In place of any earlier entry: the file began again.
                    opened[str(entry["opened"])] = Unfinished(size=int(entry["size"]), etag=str(entry["etag"]))
            elif entry["boot"] == boot and str(entry["written"]) in opened:
                name = str(entry["written"])
                opened[name] = replace(opened[name], written=int(entry["size"]), crc32=int(entry["crc32"]))
    return opened, stored
