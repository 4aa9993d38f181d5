"""The columns and keys of a snapshot's tables, read from the schema documents in its folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from dcsync.core import column_types
from dcsync.core.column_types import Described, Sections
from dcsync.core.model import StoredFile
from dcsync.core.schema_documents import MAX_SIZE, is_schema_document
from dcsync.errors import DcsyncError
from dcsync.mirror.root import MirrorRoot

#: A full extract has about 50 documents, the same for all data requests until Autodesk changes one.
_REMEMBERED = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    """A document. Documents with the same name and content are equal."""

    name: str
    sha256: str
    read: Callable[[], bytes] = field(compare=False)


def describe_tables(root: MirrorRoot, folder: str, files: Iterable[StoredFile]) -> Mapping[str, Described]:
    """Return what the schema documents of a snapshot say about its tables, by their original names. Blocks.

    `files` are those of the snapshot in `folder`. A document that is missing or damaged says nothing. Each content is
    read and parsed once in a process.
    """
    files = tuple(files)
    documents = {
        stored.original: _sections_of(root, folder, stored)
        for stored in files
        if is_schema_document(stored.original) and stored.size <= MAX_SIZE
    }
    return column_types.matched(documents, [stored.original for stored in files])


def _sections_of(root: MirrorRoot, folder: str, stored: StoredFile) -> Sections:
    above, _, leaf = f"{folder}/{stored.name}".rpartition("/")
    document = _Document(name=stored.original, sha256=stored.sha256, read=lambda: root.read_file(above, leaf))
    try:
        return _parse(document)
    except (DcsyncError, FileNotFoundError, ValueError):
        return {}


@lru_cache(maxsize=_REMEMBERED)
def _parse(document: _Document) -> Sections:
    body = document.read()
    if hashlib.sha256(body).hexdigest() != document.sha256:
        msg = f"{document.name} is damaged"
        raise ValueError(msg)
    return column_types.sections(document.name, body)
