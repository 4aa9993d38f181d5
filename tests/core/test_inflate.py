"""One member's bytes in any pieces: its content, or a refusal."""

from __future__ import annotations

import random
import struct
import zipfile
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dcsync.core.inflate import MemberReader, zlib_decompressor
from dcsync.core.transfer import PIECE_SIZE
from dcsync.core.ziplayout import Member, ZipError
from tests.rigs.zips import directory_of, make_zip

RANDOM = random.Random(1).randbytes(3 * PIECE_SIZE + 5)


def read(archive: bytes, member: Member, *, step: int) -> bytes:
    reader = MemberReader(member)
    out = b""
    for start in range(member.offset, member.stop, step):
        for piece in reader.feed(archive[start : min(member.stop, start + step)]):
            assert 0 < len(piece) <= PIECE_SIZE
            out += piece
    reader.finish()
    return out


def raw_member(packed: bytes, size: int) -> tuple[bytes, Member]:
    """Return a deflated member by hand, with the local header before it."""
    header = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 8, 0, 0, 0, len(packed), size, 1, 0) + b"a"
    archive = header + packed
    member = Member(
        name="a",
        raw_name=b"a",
        method=8,
        crc32=0,
        packed=len(packed),
        size=size,
        offset=0,
        stop=len(archive),
    )
    return archive, member


def deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return packer.compress(body) + packer.flush()


@given(
    st.dictionaries(st.text("abc", min_size=1), st.binary(max_size=2000), min_size=1, max_size=4),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    st.booleans(),
    st.booleans(),
    st.integers(1, 700),
)
@example({"a": b"1"}, zipfile.ZIP_DEFLATED, False, True, 7)
def test_any_chunking_gives_the_same_content(
    files: dict[str, bytes], method: int, streamed: bool, zip64: bool, step: int
) -> None:
    archive = make_zip(files, method=method, streamed=streamed, zip64=zip64)

    found = {member.name: read(archive, member, step=step) for member in directory_of(archive).members}

    assert found == files


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("body", [RANDOM, RANDOM.hex().encode()])
def test_large_content_comes_in_pieces_of_at_most_a_mebibyte(method: int, body: bytes) -> None:
    archive = make_zip({"a.csv": body + b"\n"}, method=method)
    (member,) = directory_of(archive).members

    assert read(archive, member, step=1 << 22) == body + b"\n"
    assert read(archive, member, step=777) == body + b"\n"


def test_a_member_that_unpacks_to_more_than_it_says_is_cut_off_there() -> None:
    """docs/project/faults.md S5: zipfile gives the first ten bytes and says nothing."""
    archive, member = raw_member(deflate(b"x" * 100_000), size=10)

    with pytest.raises(ZipError, match="more than the 10 bytes"):
        read(archive, member, step=50)


class Recording:
    """A decompressor that records how much it may return."""

    def __init__(self) -> None:
        self.allowed: list[int] = []
        self._inner = zlib_decompressor()

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unconsumed_tail(self) -> bytes:
        return self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = 0, /) -> bytes:
        self.allowed.append(max_length)
        return self._inner.decompress(data, max_length)


def test_no_more_than_one_byte_too_many_is_ever_unpacked() -> None:
    body = b"0123456789" * 1000
    packed = deflate(body)
    archive, member = raw_member(packed, size=len(body))
    recording = Recording()
    reader = MemberReader(member, inflate=lambda: recording)

    first = b"".join(reader.feed(archive[: member.stop - 5]))
    rest = b"".join(reader.feed(archive[member.stop - 5 :]))

    assert first + rest == body
    assert recording.allowed[0] == len(body) + 1
    assert recording.allowed[-1] == len(body) - len(first) + 1


def test_a_member_that_unpacks_to_less_is_refused() -> None:
    archive, member = raw_member(deflate(b"x" * 100), size=101)

    with pytest.raises(ZipError, match="unpacks to 100 bytes, the central directory says 101"):
        read(archive, member, step=50)


def test_a_stream_that_ends_before_its_bytes_is_refused() -> None:
    archive, member = raw_member(deflate(b"x" * 100) + b"hidden", size=100)

    with pytest.raises(ZipError, match="ends before its declared size"):
        read(archive, member, step=500)
    with pytest.raises(ZipError, match="ends before its declared size"):
        read(archive, member, step=1)
    # It is refused as soon as the stream has ended.
    with pytest.raises(ZipError, match="ends before its declared size"):
        list(MemberReader(member).feed(archive[: -len(b"hidden")]))


def test_a_stream_without_an_end_is_refused() -> None:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    open_ended = packer.compress(b"x" * 100) + packer.flush(zlib.Z_SYNC_FLUSH)
    archive, member = raw_member(open_ended, size=100)

    with pytest.raises(ZipError, match="has no end"):
        read(archive, member, step=500)


def test_a_damaged_stream_is_refused() -> None:
    archive, member = raw_member(b"\xff" * 40, size=100)

    with pytest.raises(ZipError, match="damaged"):
        read(archive, member, step=500)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_without_content_is_complete_after_its_header(method: int) -> None:
    archive = make_zip({"a.csv": b""}, method=method)
    (member,) = directory_of(archive).members
    reader = MemberReader(member)

    assert not reader.is_complete
    assert list(reader.feed(archive[member.offset : member.stop])) == []
    reader.finish()


def test_bytes_that_end_too_soon_are_no_member() -> None:
    archive = make_zip({"a.csv": b"hello" * 100})
    (member,) = directory_of(archive).members
    reader = MemberReader(member)

    list(reader.feed(archive[:40]))

    assert not reader.is_complete
    with pytest.raises(ZipError, match="ends before its content"):
        reader.finish()


@given(st.integers(0, 200), st.integers(0, 255))
def test_one_wrong_byte_gives_the_content_or_an_error_but_never_another_length(place: int, value: int) -> None:
    body = b"id,name,created_at\n" * 40
    archive = bytearray(make_zip({"a.csv": body}))
    (member,) = directory_of(bytes(archive)).members
    archive[place % (member.stop - member.offset)] = value

    try:
        found = read(bytes(archive), member, step=64)
    except ZipError:
        return

    assert len(found) == len(body)
