"""The directory of a ZIP at its limits, local headers field by field, and spans with their numbers."""

from __future__ import annotations

import random
import stat
import struct
import zipfile

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
from tests.rigs.zips import CENTRAL_SIGNATURE, directory_of, make_zip, patch_central

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


# --- the records at the end -------------------------------------------------------------------------------------------

END, LOCATOR, END64 = b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"
#: The form and the place of each field (APPNOTE 4.3.14 to 4.3.16).
FIELDS = {
    (END, "disk"): ("<H", 4),
    (END, "first disk"): ("<H", 6),
    (END, "here"): ("<H", 8),
    (END, "count"): ("<H", 10),
    (END, "length"): ("<L", 12),
    (END, "offset"): ("<L", 16),
    (LOCATOR, "disk"): ("<L", 4),
    (LOCATOR, "at"): ("<Q", 8),
    (LOCATOR, "disks"): ("<L", 16),
    (END64, "length"): ("<Q", 4),
    (END64, "disk"): ("<L", 16),
    (END64, "first disk"): ("<L", 20),
    (END64, "here"): ("<Q", 24),
    (END64, "count"): ("<Q", 32),
}


def bent(archive: bytes, record: bytes, field: str, value: int) -> bytes:
    form, place = FIELDS[record, field]
    out = bytearray(archive)
    struct.pack_into(form, out, archive.rindex(record) + place, value)
    return bytes(out)


def value_of(archive: bytes, record: bytes, field: str) -> int:
    form, place = FIELDS[record, field]
    value: int = struct.unpack_from(form, archive, archive.rindex(record) + place)[0]
    return value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("disk", 1),
        ("disk", 0xFFFF),
        ("first disk", 1),
        ("here", 2),
        ("count", 2),
        ("count", 0xFFFF),
        ("length", 0xFFFFFFFF),
        ("offset", 0xFFFFFFFF),
    ],
)
def test_without_a_zip64_record_the_end_says_everything_itself(field: str, value: int) -> None:
    archive = bent(make_zip({"a.csv": BODY}), END, field, value)

    with pytest.raises(ZipError, match="one of several volumes, or lacks its Zip64 record"):
        directory_of(archive)


@pytest.mark.parametrize(("field", "most"), [("count", 0xFFFF), ("length", 0xFFFFFFFF), ("offset", 0xFFFFFFFF)])
def test_with_a_zip64_record_the_end_says_the_same_or_refers_to_it(field: str, most: int) -> None:
    wide = make_zip({"a.csv": BODY}, zip64=True)
    place = {"count": 32, "length": 40, "offset": 48}[field]
    true: int = struct.unpack_from("<Q", wide, wide.rindex(END64) + place)[0]

    for value in (true, most):
        assert [member.name for member in directory_of(bent(wide, END, field, value)).members] == ["a.csv"]
    for value in (true + 1, true - 1):
        with pytest.raises(ZipError, match="contradict each other"):
            directory_of(bent(wide, END, field, value))


@pytest.mark.parametrize(("disk", "allowed"), [(0, True), (0xFFFF, True), (1, False), (0xFFFE, False)])
def test_the_end_of_a_zip64_is_on_the_first_disk(disk: int, allowed: bool) -> None:
    archive = bent(make_zip({"a.csv": BODY}, zip64=True), END, "disk", disk)

    if allowed:
        assert len(directory_of(archive).members) == 1
    else:
        with pytest.raises(ZipError, match="contradict each other"):
            directory_of(archive)


@pytest.mark.parametrize(
    ("field", "change"), [("length", 1), ("length", -1), ("disk", 1), ("first disk", 1), ("here", 1)]
)
def test_each_field_of_a_zip64_record_is_as_it_must_be(field: str, change: int) -> None:
    archive = make_zip({"a.csv": BODY}, zip64=True)
    archive = bent(archive, END64, field, value_of(archive, END64, field) + change)

    with pytest.raises(ZipError, match="the Zip64 record is malformed"):
        directory_of(archive)


@pytest.mark.parametrize(("disks", "allowed"), [(0, True), (1, True), (2, False)])
def test_a_zip64_locator_knows_one_disk(disks: int, allowed: bool) -> None:
    archive = bent(make_zip({"a.csv": BODY}, zip64=True), LOCATOR, "disks", disks)

    if allowed:
        assert len(directory_of(archive).members) == 1
    else:
        with pytest.raises(ZipError, match="does not point to a record"):
            directory_of(archive)


@pytest.mark.parametrize("change", [1, 100])
def test_a_zip64_locator_points_in_front_of_itself(change: int) -> None:
    archive = make_zip({"a.csv": BODY}, zip64=True)
    archive = bent(archive, LOCATOR, "at", value_of(archive, LOCATOR, "at") + change)

    with pytest.raises(ZipError, match="does not point to a record"):
        directory_of(archive)


@pytest.mark.parametrize(("distance", "asked"), [(56 + 16_777_216, True), (56 + 16_777_217, False)])
def test_a_zip64_record_is_looked_for_as_far_as_a_directory_is_long(distance: int, asked: bool) -> None:
    """The tail begins with the locator. The record is that far in front of it."""
    locator = struct.pack("<4sLQL", LOCATOR, 0, 1000, 1)
    end = struct.pack("<4s4H2LH", END, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    tail = locator + end
    size = 1000 + distance + len(tail)

    if asked:
        assert read_directory(tail, size=size) == NeedsFrom(start=1000)
    else:
        with pytest.raises(ZipError, match="too far from the end"):
            read_directory(tail, size=size)


# --- members ----------------------------------------------------------------------------------------------------------

# APPNOTE 4.4.4: encrypted, patched data, strong encryption, masked header.
REFUSED = [0, 5, 6, 13]


@pytest.mark.parametrize("bit", range(16))
def test_four_flags_refuse_a_member_and_no_other(bit: int) -> None:
    archive = patch_central(make_zip({"a.csv": BODY}), 0, flags=1 << bit)

    assert [member.name for member in directory_of(archive).members] == ([] if bit in REFUSED else ["a.csv"])


@pytest.mark.parametrize(
    ("made_by", "kind", "usable"),
    [
        (3, stat.S_IFREG, True),
        (3, 0, True),
        (3, stat.S_IFLNK, False),
        (3, stat.S_IFIFO, False),
        (3, stat.S_IFCHR, False),
        (3, stat.S_IFBLK, False),
        (3, stat.S_IFSOCK, False),
        (0, stat.S_IFLNK, True),  # made on DOS, where the upper half means nothing
    ],
)
def test_a_member_made_on_unix_is_a_regular_file(made_by: int, kind: int, usable: bool) -> None:
    archive = patch_central(make_zip({"a.csv": BODY}), 0, made_by=made_by << 8 | 20, attributes=(kind | 0o644) << 16)

    assert bool(directory_of(archive).members) is usable


@pytest.mark.parametrize(
    ("size", "packed", "usable"),
    [
        (1_048_600, 5243, True),  # 200 times
        (1_048_601, 5243, False),
        (1_048_575, 1, True),  # too little for a bomb
        (1_048_576, 1, False),
    ],
)
def test_content_unpacks_to_200_times_its_size_at_most_from_a_mebibyte_on(size: int, packed: int, usable: bool) -> None:
    archive = make_zip({"a.bin": random.Random(1).randbytes(6000)})

    assert bool(directory_of(patch_central(archive, 0, size=size, packed=packed)).members) is usable


def test_a_member_reaches_up_to_the_next_or_the_directory() -> None:
    archive = make_zip({"a.csv": BODY, "b.csv": BODY, "c.csv": BODY})

    first, second, third = directory_of(archive).members

    assert (first.stop, second.stop, third.stop) == (second.offset, third.offset, archive.index(CENTRAL_SIGNATURE))


def test_a_member_reaches_no_further_than_its_headers_and_content_can() -> None:
    """30 bytes, the name, an extra field of 64 KiB at most, the content, and a descriptor of 24 bytes."""
    plain = make_zip({"a.csv": BODY})
    at = plain.index(CENTRAL_SIGNATURE)
    archive = bent(plain[:at] + bytes(100_000) + plain[at:], END, "offset", at + 100_000)

    (member,) = directory_of(archive).members

    assert member.stop == 30 + 5 + 65_535 + member.packed + 24


@pytest.mark.parametrize(("closer", "usable"), [(0, 2), (1, 0)])
def test_members_share_no_byte_of_their_content(closer: int, usable: int) -> None:
    archive = make_zip({"a.csv": BODY, "b.csv": BODY})
    first, second = directory_of(archive).members
    assert second.offset == 30 + 5 + first.packed

    bent_archive = patch_central(archive, 1, offset=second.offset - closer)

    assert len(directory_of(bent_archive).members) == usable


def with_extra(extra: bytes, **fields: int) -> bytes:
    """Return an archive of one stored member, whose entry has an extra field."""
    plain = make_zip({"a.csv": b"hello"}, method=zipfile.ZIP_STORED)
    at = plain.index(CENTRAL_SIGNATURE)
    entry = bytearray(plain[at : at + 46])
    struct.pack_into("<H", entry, 30, len(extra))
    for field, value in fields.items():
        struct.pack_into("<L", entry, {"packed": 20, "size": 24, "offset": 42}[field], value)
    end = plain[plain.index(END) :]
    return bent(plain[:at] + entry + b"a.csv" + extra + end, END, "length", 46 + 5 + len(extra))


@pytest.mark.parametrize("field", ["packed", "size", "offset"])
def test_only_the_zip64_fields_that_are_wanted_are_there(field: str) -> None:
    extra = struct.pack("<2HQ", 1, 8, 0 if field == "offset" else 5)

    (member,) = directory_of(with_extra(extra, **{field: 0xFFFFFFFF})).members

    assert (member.size, member.packed, member.offset) == (5, 5, 0)


@pytest.mark.parametrize(
    "extra",
    [
        b"",
        b"abc",
        struct.pack("<2H", 1, 0),
        struct.pack("<2H", 1, 15) + bytes(15),
        struct.pack("<2H", 1, 15) + bytes(16),
        struct.pack("<2H", 7, 4) + bytes(4) + b"abc",
    ],
)
def test_zip64_fields_that_are_cut_short_refuse_their_member(extra: bytes) -> None:
    directory = directory_of(with_extra(extra, packed=0xFFFFFFFF, size=0xFFFFFFFF))

    assert [(refused.name, refused.reason) for refused in directory.refused] == [
        ("a.csv", "the Zip64 sizes are missing")
    ]


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
