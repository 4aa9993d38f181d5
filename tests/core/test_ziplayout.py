"""The directory of a ZIP: what is read of it, and what is refused."""

from __future__ import annotations

import io
import stat
import struct
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core.ziplayout import (
    MAX_DIRECTORY,
    Directory,
    Member,
    NeedsFrom,
    ZipError,
    coalesce,
    content_offset,
    describe,
    read_directory,
    split,
)
from tests.rigs.zips import END_SIGNATURE, directory_of, make_zip, patch_central

FILES = {"admin_users.csv": b"id,name\n" * 50, "empty.csv": b"", "schemas/admin.json": b"{}", "ünï.csv": b"x" * 999}
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0\\/"), min_size=1, max_size=20)


def reasons(archive: bytes) -> dict[str, str]:
    return {refused.name: refused.reason for refused in directory_of(archive).refused}


@given(
    st.dictionaries(NAMES, st.binary(max_size=300), max_size=8), st.binary(max_size=40), st.booleans(), st.booleans()
)
def test_it_finds_what_zipfile_wrote(files: dict[str, bytes], comment: bytes, zip64: bool, streamed: bool) -> None:
    archive = make_zip(files, comment=comment.replace(b"PK", b"--"), zip64=zip64, streamed=streamed)

    directory = directory_of(archive)

    assert not directory.refused
    with zipfile.ZipFile(io.BytesIO(archive)) as expected:
        assert {
            name: (member.crc32, member.packed, member.size, member.offset, member.method)
            for name, member in directory.by_name.items()
        } == {
            info.filename: (info.CRC, info.compress_size, info.file_size, info.header_offset, info.compress_type)
            for info in expected.infolist()
        }


@given(st.data())
def test_whatever_the_bytes_are_it_raises_nothing_but_zip_errors(data: st.DataObject) -> None:
    archive = bytearray(make_zip(FILES, zip64=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 4))):
        archive[data.draw(st.integers(0, len(archive) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(archive)))

    try:
        found = read_directory(bytes(archive[cut:]), size=len(archive))
    except ZipError:
        return

    if isinstance(found, NeedsFrom):
        assert 0 <= found.start < cut
    else:
        for member in found.members:
            assert 0 <= member.offset < member.stop <= len(archive)


@given(st.binary(max_size=200))
def test_no_zip_at_all_is_said(body: bytes) -> None:
    if END_SIGNATURE in body:
        return
    with pytest.raises(ZipError, match="no end record"):
        read_directory(body, size=len(body))


def test_a_directory_longer_than_the_tail_is_asked_for() -> None:
    archive = make_zip({f"{index:04}" + "n" * 100: b"" for index in range(900)})
    tail = archive[-66_000:]

    found = read_directory(tail, size=len(archive))

    assert found == NeedsFrom(start=archive.index(b"PK\x01\x02"))
    assert len(directory_of(archive).members) == 900


def test_a_comment_of_any_length_is_stepped_over() -> None:
    archive = make_zip(FILES, comment=b"c" * 0xFFFF)

    assert directory_of(archive, first=1000).by_name.keys() == FILES.keys()


def test_a_comment_that_looks_like_an_end_is_none() -> None:
    assert directory_of(make_zip(FILES, comment=b"see PK\x05\x06")).by_name.keys() == FILES.keys()


def test_a_tail_within_the_zip64_record_asks_for_all_of_it() -> None:
    archive = make_zip(FILES, zip64=True)

    assert directory_of(archive, first=30).by_name.keys() == FILES.keys()
    assert directory_of(archive, first=45).by_name.keys() == FILES.keys()


def test_an_archive_in_one_piece_that_is_only_its_end_has_no_members() -> None:
    assert directory_of(make_zip({}), first=22) == Directory(members=(), refused=(), size=22)


def test_folders_are_no_members() -> None:
    assert directory_of(make_zip({"schemas/": b"", "a.csv": b"1"})).by_name.keys() == {"a.csv"}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"flags": 0x0001}, "the content is encrypted"),
        ({"flags": 0x0041}, "the content is encrypted"),
        ({"flags": 0x2000}, "the content is encrypted"),
        ({"method": 12}, "the compression method 12 is not supported (0 and 8 are)"),
        ({"made_by": 0x0314, "attributes": (stat.S_IFLNK | 0o777) << 16}, "not a regular file"),
        ({"made_by": 0x0314, "attributes": (stat.S_IFBLK | 0o600) << 16}, "not a regular file"),
        ({"method": 0}, "the content is not compressed, but its two sizes differ"),
        ({"size": 200 << 20}, "the content would unpack to more than 200 times its size"),
        ({"offset": 1 << 30}, "the content is outside the ZIP"),
        ({"packed": 1 << 30}, "the content is outside the ZIP"),
        ({"disk": 1}, "the content is outside the ZIP"),
        ({"size": 0xFFFFFFFF}, "the Zip64 sizes are missing"),
    ],
)
def test_a_member_that_is_not_what_a_table_is_is_refused_and_the_others_are_not(
    fields: dict[str, int], reason: str
) -> None:
    archive = patch_central(make_zip(FILES), 0, **fields)

    assert reasons(archive) == {"admin_users.csv": reason}
    assert directory_of(archive).by_name.keys() == FILES.keys() - {"admin_users.csv"}


def test_a_name_that_is_not_utf8_is_refused() -> None:
    archive = make_zip({"ünï.csv": b"1"}).replace("ünï".encode(), b"\xff\xfe\xfd\xfcX")

    assert list(reasons(archive).values()) == ["the name is not UTF-8"]


def test_a_name_without_the_flag_is_of_the_old_code_page() -> None:
    archive = patch_central(make_zip({"ünï.csv": b"1"}), 0, flags=0)

    assert directory_of(archive).members[0].name == "ünï.csv".encode().decode("cp437")


def test_names_with_nul_and_empty_ones_are_refused() -> None:
    archive = make_zip({"a0b": b"1"}).replace(b"a0b", b"a\0b")
    assert list(reasons(archive).values()) == ["the name is empty or contains NUL"]

    nameless = bytearray(make_zip({"": b"1"}))
    assert list(reasons(bytes(nameless)).values()) == ["the name is empty or contains NUL"]


def test_a_folder_with_content_is_refused() -> None:
    archive = make_zip({"a/": b"1"})

    assert reasons(archive) == {"a/": "the folder has content"}


def test_the_same_name_twice_is_refused_both_times() -> None:
    archive = make_zip({"a.csv": b"1", "b.csv": b"2", "c.csv": b"3"}).replace(b"b.csv", b"a.csv")

    assert [refused.reason for refused in directory_of(archive).refused] == ["the ZIP has this name several times"] * 2
    assert directory_of(archive).by_name.keys() == {"c.csv"}


def test_members_that_share_bytes_are_refused() -> None:
    """Zipfile of 3.11.7 accepts these (CVE-2024-0450)."""
    files = {"a.csv": b"a" * 100, "b.csv": b"b" * 100, "c.csv": b"c" * 100}
    archive = make_zip(files, method=zipfile.ZIP_STORED)
    first = directory_of(archive).by_name["a.csv"]

    overlapping = patch_central(archive, 1, offset=first.offset + 10)

    assert reasons(overlapping) == dict.fromkeys(["a.csv", "b.csv"], "the content overlaps another ZIP entry")
    assert directory_of(overlapping).by_name.keys() == {"c.csv"}


def test_a_large_member_may_not_hide_behind_a_small_one_between() -> None:
    files = {"a.csv": b"a" * 400, "b.csv": b"b", "c.csv": b"c" * 10}
    archive = make_zip(files, method=zipfile.ZIP_STORED)
    inside = directory_of(archive).by_name["a.csv"].offset

    both = patch_central(patch_central(archive, 1, offset=inside + 40), 2, offset=inside + 300)

    assert reasons(both).keys() == files.keys()


@pytest.mark.parametrize(
    ("bend", "words"),
    [
        (lambda z: b"junk" + z, "not where the end record"),
        (lambda z: z + b"junk", "no end"),
        (lambda z: z[:-2] + b"\x16\0" + make_zip({}), "two end records"),
        (lambda z: _end(z, here=3), "several volumes"),
        (lambda z: _end(z, disk=1), "several volumes"),
        (lambda z: _end(z, here=0xFFFF, count=0xFFFF), "lacks its Zip64"),
        (lambda z: _end(z, here=9, count=9), "fewer entries"),
        (lambda z: _end(z, here=2, count=2), "bytes after its last entry"),
        (lambda z: _end(z, here=20000, count=20000), "20000 entries"),
        (lambda z: z.replace(b"PK\x01\x02", b"PK\x01\x09"), "malformed"),
    ],
)
def test_a_container_that_does_not_say_one_thing_is_refused(bend: object, words: str) -> None:
    assert callable(bend)
    archive = bend(make_zip(FILES))

    with pytest.raises(ZipError, match=words):
        directory_of(archive)


@pytest.mark.parametrize(
    ("bend", "words"),
    [
        (lambda z: _locator(z, disk=1), "does not point to a record"),
        (lambda z: _locator(z, at=1 << 40), "does not point to a record"),
        (lambda z: z.replace(b"PK\x06\x06", b"PK\x06\x05"), "malformed"),
        (lambda z: _end(z, disk=7), "contradict each other"),
        (lambda z: _end(z, count=7, here=7), "contradict each other"),
    ],
)
def test_a_zip64_end_that_contradicts_itself_is_refused(bend: object, words: str) -> None:
    assert callable(bend)
    archive = bend(make_zip(FILES, zip64=True))

    with pytest.raises(ZipError, match=words):
        directory_of(archive)


def test_a_zip64_record_far_away_is_not_looked_for() -> None:
    archive = _locator(make_zip(FILES, zip64=True), at=0)

    with pytest.raises(ZipError, match="far from the end"):
        read_directory(archive[-100:], size=len(archive) + 2 * MAX_DIRECTORY)


def test_zip64_sizes_of_a_member_are_read_in_their_order() -> None:
    plain = make_zip({"a.csv": b"hello"}, method=zipfile.ZIP_STORED)
    at = plain.index(b"PK\x01\x02")
    extra = struct.pack("<2H", 0x9999, 2) + b"??" + struct.pack("<2H3Q", 1, 24, 5, 5, 0)
    entry = bytearray(plain[at : at + 46])
    struct.pack_into("<3L", entry, 16, *struct.unpack_from("<L", entry, 16), 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<H", entry, 30, len(extra))
    struct.pack_into("<L", entry, 42, 0xFFFFFFFF)
    end = bytearray(plain[plain.index(END_SIGNATURE) :])
    struct.pack_into("<L", end, 12, 46 + 5 + len(extra))

    (member,) = directory_of(plain[:at] + entry + b"a.csv" + extra + end).members

    assert (member.size, member.packed, member.offset) == (5, 5, 0)


@pytest.mark.parametrize("extra", [struct.pack("<2HQ", 1, 8, 5), struct.pack("<2H", 7, 900)])
def test_zip64_sizes_that_are_not_all_there_refuse_the_member(extra: bytes) -> None:
    plain = make_zip({"a.csv": b"hello"}, method=zipfile.ZIP_STORED)
    at = plain.index(b"PK\x01\x02")
    entry = bytearray(plain[at : at + 46])
    struct.pack_into("<2L", entry, 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<H", entry, 30, len(extra))
    end = bytearray(plain[plain.index(END_SIGNATURE) :])
    struct.pack_into("<L", end, 12, 46 + 5 + len(extra))

    assert reasons(plain[:at] + entry + b"a.csv" + extra + end) == {"a.csv": "the Zip64 sizes are missing"}


# --- the local header -------------------------------------------------------------------------------------------------


def header_of(archive: bytes, member: Member) -> bytes:
    return archive[member.offset : member.offset + 30 + len(member.raw_name)]


@pytest.mark.parametrize("streamed", [False, True])
def test_the_content_begins_behind_the_local_header(streamed: bool) -> None:
    archive = make_zip(FILES, streamed=streamed)
    for member in directory_of(archive).members:
        begin = member.offset + content_offset(header_of(archive, member), member)

        with zipfile.ZipFile(io.BytesIO(archive)) as expected:
            info = expected.getinfo(member.name)
            assert begin == info.header_offset + 30 + len(member.raw_name)


@pytest.mark.parametrize(
    ("place", "form", "value", "words"),
    [
        (0, "<L", 0, "differs from the central directory"),
        (30, "<B", ord("X"), "differs from the central directory"),
        (8, "<H", 0, "differs from the central directory"),
        (6, "<H", 1, "encrypted"),
        (14, "<L", 12345, "different sizes"),
        (22, "<L", 12345, "different sizes"),
        (28, "<H", 0xFFFF, "overlaps the next entry"),
    ],
)
def test_a_local_header_that_contradicts_the_directory_is_refused(
    place: int, form: str, value: int, words: str
) -> None:
    archive = make_zip(FILES)
    member = directory_of(archive).by_name["admin_users.csv"]
    header = bytearray(header_of(archive, member))
    struct.pack_into(form, header, place, value)

    with pytest.raises(ZipError, match=words):
        content_offset(bytes(header), member)


# --- spans ------------------------------------------------------------------------------------------------------------


def make_member(offset: int, stop: int) -> Member:
    return Member(name=str(offset), raw_name=b"x", method=0, crc32=0, packed=1, size=1, offset=offset, stop=stop)


def test_neighbours_share_a_span_and_others_do_not() -> None:
    members = [make_member(100, 150), make_member(0, 50), make_member(50, 100), make_member(500, 600)]

    spans = coalesce(members, gap=10)

    assert [(span.start, span.stop, len(span.members)) for span in spans] == [(0, 150, 3), (500, 600, 1)]
    assert len(coalesce(members, gap=350)) == 1


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 500)), min_size=1, max_size=30), st.integers(1, 8))
def test_cutting_spans_loses_no_member_and_adds_no_byte(steps: list[tuple[int, int]], pieces: int) -> None:
    members, at = [], 0
    for gap, length in steps:
        members.append(make_member(at + gap, at + gap + length))
        at += gap + length

    spans = coalesce(members, gap=20)
    cut = split(spans, pieces=pieces, least=1)

    assert [member for span in cut for member in span.members] == members
    assert all(span.start == span.members[0].offset and span.stop == span.members[-1].stop for span in cut)
    assert sum(span.stop - span.start for span in cut) <= sum(span.stop - span.start for span in spans)


def test_a_refused_member_is_described_in_printable_words() -> None:
    (refused,) = directory_of(patch_central(make_zip({"a\n.csv": b"1"}), 0, flags=1)).refused

    assert describe(refused) == "a\\n.csv: the content is encrypted"


def _end(archive: bytes, **fields: int) -> bytes:
    out = bytearray(archive)
    at = archive.rindex(END_SIGNATURE)
    for field, value in fields.items():
        struct.pack_into("<H", out, at + {"disk": 4, "here": 8, "count": 10}[field], value)
    return bytes(out)


def _locator(archive: bytes, **fields: int) -> bytes:
    out = bytearray(archive)
    at = archive.rindex(b"PK\x06\x07")
    for field, value in fields.items():
        form, offset = {"disk": ("<L", 4), "at": ("<Q", 8)}[field]
        struct.pack_into(form, out, at + offset, value)
    return bytes(out)
