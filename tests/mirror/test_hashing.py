"""Hashes of content, computed in one pass."""

from __future__ import annotations

import hashlib
import os
import zlib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dcsync.mirror.hashing import Hashers, hash_descriptor
from tests.rigs.staged import MIB


@given(st.lists(st.binary(max_size=200), max_size=8), st.booleans())
def test_hashes_do_not_depend_on_how_the_bytes_came(pieces: list[bytes], with_md5: bool) -> None:
    hashers = Hashers(with_md5=with_md5)
    whole = b"".join(pieces)

    for piece in pieces:
        hashers.update(piece)

    digest = hashers.digest()
    assert (digest.size, digest.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert digest.crc32 == zlib.crc32(whole)
    assert digest.md5 == (hashlib.md5(whole, usedforsecurity=False).hexdigest() if with_md5 else None)


def test_a_file_is_hashed_from_its_beginning_and_its_progress_told(tmp_path: Path) -> None:
    body = os.urandom(2 * MIB + 17)
    (tmp_path / "file").write_bytes(body)
    told: list[int] = []

    with (tmp_path / "file").open("rb") as file:
        file.seek(1000)
        digest = hash_descriptor(file.fileno(), each=told.append)

    assert digest.sha256 == hashlib.sha256(body).hexdigest()
    assert told == [MIB, MIB, 17]
