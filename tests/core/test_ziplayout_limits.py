"""The directory of a ZIP at its limits, local headers field by field, and spans with their numbers."""

from __future__ import annotations

import struct

import pytest

from dcsync.core import ziplayout
from dcsync.core.ziplayout import (
    Member,
    NeedsFrom,
    Span,
    ZipError,
    coalesce,
    content_offset,
    read_directory,
    split,
)
from tests.rigs.zips import directory_of, make_zip, patch_central

BODY = b"id,name\n" * 50


def test_the_limits_of_a_zip_are_these() -> None:
    assert (ziplayout.TAIL_SIZE, ziplayout.MAX_MEMBERS, ziplayout.MAX_DIRECTORY) == (65_557, 10_000, 16_777_216)
    assert (ziplayout.MAX_RATIO, ziplayout.RATIO_COUNTS_FROM) == (200, 1_048_576)
    assert ziplayout.LOCAL_HEADER_SIZE == 30


@pytest.mark.parametrize(
    ("count", "length", "words"),
    [
        (10_000, 100, "malformed"),
        (10_001, 100, "10001 entries in a central directory of 100 bytes"),
        (1, 16_777_217, "1 entries in a central directory of 16777217 bytes"),
    ],
)
def test_more_entries_or_a_longer_directory_than_any_extract_has_are_refused(
    count: int, length: int, words: str
) -> None:
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, length, 0, 0)

    with pytest.raises(ZipError, match=words):
        read_directory(bytes(min(length, 100)) + end, size=length + len(end))


def test_a_directory_of_16_mib_is_asked_for() -> None:
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 16_777_216, 0, 0)

    assert read_directory(bytes(100) + end, size=16_777_216 + len(end)) == NeedsFrom(start=0)


# APPNOTE 4.4.4: encrypted, patched data, strong encryption, masked header.
REFUSED = [0, 5, 6, 13]


@pytest.mark.parametrize("bit", range(16))
def test_four_flags_refuse_a_member_and_no_other(bit: int) -> None:
    archive = patch_central(make_zip({"a.csv": BODY}), 0, flags=1 << bit)

    assert [member.name for member in directory_of(archive).members] == ([] if bit in REFUSED else ["a.csv"])


# --- local headers ----------------------------------------------------------------------------------------------------


def local(member: Member, *, flags: int = 0, extra: int = 0, **sizes: int) -> bytes:
    """Return the local header of a member, with other flags and sizes."""
    fields = {"crc32": member.crc32, "packed": member.packed, "size": member.size, **sizes}
    numbers = [fields["crc32"], fields["packed"], fields["size"], len(member.raw_name), extra]
    fixed = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, flags, member.method, 0, 0, *numbers)
    return fixed + member.raw_name


def one_member() -> Member:
    return directory_of(make_zip({"a.csv": BODY})).members[0]


@pytest.mark.parametrize("field", ["crc32", "packed", "size"])
def test_each_size_of_a_local_header_is_that_of_the_directory_or_not_given(field: str) -> None:
    member = one_member()

    assert content_offset(local(member), member) == 35
    for not_given in (0, 0xFFFFFFFF):
        assert content_offset(local(member, **{field: not_given}), member) == 35
    for wrong in (1, 12_345):
        with pytest.raises(ZipError, match="different sizes"):
            content_offset(local(member, **{field: wrong}), member)


def test_sizes_that_follow_the_content_are_not_looked_at() -> None:
    member = one_member()

    assert content_offset(local(member, flags=0x0008, size=12_345), member) == 35
    for flag in (0x0002, 0x0004, 0x0010):
        with pytest.raises(ZipError, match="different sizes"):
            content_offset(local(member, flags=flag, size=12_345), member)


def test_a_local_header_leaves_the_content_its_room() -> None:
    member = one_member()
    room = member.stop - member.offset - 35 - member.packed

    assert content_offset(local(member, extra=room), member) == 35 + room
    with pytest.raises(ZipError, match="overlaps the next entry"):
        content_offset(local(member, extra=room + 1), member)


@pytest.mark.parametrize("bit", range(16))
def test_four_flags_of_a_local_header_refuse_its_member(bit: int) -> None:
    member = one_member()

    if bit in REFUSED:
        with pytest.raises(ZipError, match="encrypted"):
            content_offset(local(member, flags=1 << bit), member)
    else:
        assert content_offset(local(member, flags=1 << bit), member) == 35


# --- spans ------------------------------------------------------------------------------------------------------------


def members(*spans: tuple[int, int]) -> list[Member]:
    return [
        Member(name=str(start), raw_name=b"x", method=0, crc32=0, packed=1, size=1, offset=start, stop=stop)
        for start, stop in spans
    ]


def places(spans: tuple[Span, ...]) -> list[tuple[int, int]]:
    return [(span.start, span.stop) for span in spans]


def test_neighbours_share_a_span_over_a_gap_up_to_the_limit() -> None:
    three = members((0, 10), (10, 20), (25, 30))

    assert places(coalesce(three, gap=5)) == [(0, 30)]
    assert places(coalesce(three, gap=4)) == [(0, 20), (25, 30)]
    assert places(coalesce(members((0, 10), (100, 110), (112, 120)), gap=2)) == [(0, 10), (100, 120)]


@pytest.mark.parametrize(
    ("pieces", "least", "expected"),
    [
        (1, 1, [(100, 160)]),
        (2, 1, [(100, 130), (130, 160)]),
        (3, 1, [(100, 120), (120, 140), (140, 160)]),
        (4, 1, [(100, 120), (120, 140), (140, 160)]),
        (6, 1, [(100, 110), (110, 120), (120, 130), (130, 140), (140, 150), (150, 160)]),
        (0, 1, [(100, 160)]),
        (6, 20, [(100, 120), (120, 140), (140, 160)]),
        (6, 21, [(100, 130), (130, 160)]),
        (6, 25, [(100, 130), (130, 160)]),
        (6, 35, [(100, 140), (140, 160)]),
        (6, 61, [(100, 160)]),
    ],
)
def test_a_span_is_cut_into_about_as_many_pieces_none_shorter_than_the_least(
    pieces: int, least: int, expected: list[tuple[int, int]]
) -> None:
    spans = coalesce(members(*((start, start + 10) for start in range(100, 160, 10))), gap=0)

    assert places(split(spans, pieces=pieces, least=least)) == expected


def test_spans_are_cut_by_their_length_together() -> None:
    spans = coalesce(members((0, 10), (10, 20), (100, 110), (110, 120)), gap=5)

    assert places(split(spans, pieces=4, least=1)) == [(0, 10), (10, 20), (100, 110), (110, 120)]
    assert places(split(spans, pieces=2, least=1)) == [(0, 20), (100, 120)]
