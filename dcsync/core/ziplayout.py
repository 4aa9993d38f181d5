"""Reads a ZIP from its end: the members and their places. Nothing in the ZIP is trusted. Pure.

Source: PKWARE, APPNOTE.TXT 6.3.10. Comments below name its sections. Python's zipfile accepts overlapping entries,
false sizes and repeated names. This module refuses such members one by one. A refused member is downloaded with its own
signed URL, so strictness loses nothing.
"""

from __future__ import annotations

import stat
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from dcsync.core.names import printable

#: 64 KiB and the fixed part: enough for any comment, and for a central directory of about 600 members.
TAIL_SIZE = 22 + 0xFFFF
#: A full extract has 260 members (docs/project/faults.md S4).
MAX_MEMBERS = 10_000
#: 10,000 members with names of 200 bytes and Zip64 fields are under 3 MiB.
MAX_DIRECTORY = 16 << 20
#: No table compresses this well. A member that claims to is a ZIP bomb. It is downloaded as a single file, whose size
#: the data listing limits (docs/project/faults.md S4).
MAX_RATIO = 200
#: The ratio of less content than this means nothing: the table may have only a header, or a column of zeros.
RATIO_COUNTS_FROM = 1 << 20
STORED, DEFLATED = 0, 8

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_END_SIGNATURE = b"PK\x05\x06"
_LOCATOR_SIGNATURE = b"PK\x06\x07"
_END64_SIGNATURE = b"PK\x06\x06"
_CENTRAL_SIGNATURE = b"PK\x01\x02"
_LOCAL_SIGNATURE = b"PK\x03\x04"
_MAX16, _MAX32 = 0xFFFF, 0xFFFFFFFF
_ZIP64_EXTRA = 0x0001
# APPNOTE 4.4.4: bit 0 encrypted, 5 patched data, 6 strong encryption, 13 masked header, 11 the name is UTF-8.
_REFUSED_FLAGS = 0x0001 | 0x0020 | 0x0040 | 0x2000
_UTF8_FLAG = 0x0800
#: APPNOTE 4.4.2: the upper byte is 3 for Unix, whose modes are in the upper half of the external attributes.
_UNIX = 3
#: After the content: a signature, the CRC, and two sizes of eight bytes (APPNOTE 4.3.9).
_DESCRIPTOR_SIZE = 24

LOCAL_HEADER_SIZE = _LOCAL.size


class ZipError(ValueError):
    """The file is not a ZIP, or is an ambiguous one. The message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A file in the ZIP, as the central directory describes it. Offsets and sizes are bytes in the ZIP."""

    name: str
    raw_name: bytes
    method: int
    crc32: int
    packed: int
    size: int
    offset: int
    #: The latest end of its bytes: the next header, or the central directory.
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A member that is not extracted from the ZIP, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """The content of the central directory: the usable members in order of their offsets, and the refused ones."""

    members: tuple[Member, ...]
    refused: tuple[Refused, ...]
    size: int

    @property
    def by_name(self) -> dict[str, Member]:
        """The usable members by name."""
        return {member.name: member for member in self.members}


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedsFrom:
    """More of the ZIP's end is needed: the bytes from `start` on."""

    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A part of the ZIP that one range request reads, and the members in it in order of their offsets."""

    start: int
    stop: int
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    offset: int
    size: int
    count: int


def read_directory(tail: bytes, *, size: int) -> Directory | NeedsFrom:
    """Read the central directory from the last bytes of a ZIP of `size` bytes, or return where to read from.

    Raises `ZipError`, and nothing else whatever the bytes are.
    """
    end = _find_end(tail, size)
    if isinstance(end, NeedsFrom):
        return end
    if end.count > MAX_MEMBERS or end.size > MAX_DIRECTORY:
        msg = f"the ZIP claims {end.count} entries in a central directory of {end.size} bytes"
        raise ZipError(msg)
    begins = size - len(tail)
    if end.offset < begins:
        return NeedsFrom(start=end.offset)
    found, refused = _parse_entries(tail[end.offset - begins : end.offset - begins + end.size], end)
    members, more = _refuse_unsafe(found, end.offset)
    return Directory(members=members, refused=(*refused, *more), size=size)


def coalesce(members: Iterable[Member], *, gap: int) -> tuple[Span, ...]:
    """Return the ranges that cover these members. Neighbours with at most `gap` bytes between them share a range."""
    spans: list[Span] = []
    for member in sorted(members, key=lambda each: each.offset):
        if spans and member.offset - spans[-1].stop <= gap:
            last = spans[-1]
            spans[-1] = Span(start=last.start, stop=member.stop, members=(*last.members, member))
        else:
            spans.append(Span(start=member.offset, stop=member.stop, members=(member,)))
    return tuple(spans)


def split(spans: Iterable[Span], *, pieces: int, least: int) -> tuple[Span, ...]:
    """Cut long spans between members so that about `pieces` can be read at once, none shorter than `least`."""
    whole = tuple(spans)
    target = max(least, sum(span.stop - span.start for span in whole) // max(1, pieces))
    cut: list[Span] = []
    for span in whole:
        gathered: list[Member] = []
        for member in span.members:
            gathered.append(member)
            if member.stop - gathered[0].offset >= target:
                cut.append(_span_of(gathered))
                gathered = []
        if gathered:
            cut.append(_span_of(gathered))
    return tuple(cut)


def content_offset(header: bytes, member: Member) -> int:
    """Return the distance from the member's offset to its content, read from its local header.

    `header` has at least the fixed part of 30 bytes and the name. Raises `ZipError` when the header contradicts the
    central directory (APPNOTE 4.3.7).
    """
    signature, _, flags, method, _, _, crc32, packed, size, name_length, extra_length = _LOCAL.unpack_from(header)
    name = header[_LOCAL.size : _LOCAL.size + name_length]
    if signature != _LOCAL_SIGNATURE or name != member.raw_name or method != member.method:
        msg = "the local header of the ZIP entry differs from the central directory"
        raise ZipError(msg)
    if flags & _REFUSED_FLAGS:
        msg = "the ZIP entry is encrypted"
        raise ZipError(msg)
    # APPNOTE 4.4.4: with bit 3 these fields are zero and follow the content. The central directory's are used anyway.
    declared = {field for field in (crc32, packed, size) if field not in {0, _MAX32}}
    if not flags & 0x0008 and not declared <= {member.crc32, member.packed, member.size}:
        msg = "the local header of the ZIP entry has different sizes than the central directory"
        raise ZipError(msg)
    begin = _LOCAL.size + name_length + extra_length
    if member.offset + begin + member.packed > member.stop:
        msg = "the content of the ZIP entry overlaps the next entry"
        raise ZipError(msg)
    return int(begin)


def _find_end(tail: bytes, size: int) -> _End | NeedsFrom:
    """Find the end record (APPNOTE 4.3.16), whose comment ends with the file. Two would mean two directories."""
    places = [place for place in _occurrences(tail) if _reaches_end(tail, place)]
    if not places:
        if len(tail) < min(size, TAIL_SIZE):
            return NeedsFrom(start=max(0, size - TAIL_SIZE))
        msg = "the file has no end record of a ZIP's central directory"
        raise ZipError(msg)
    if len(places) > 1:
        msg = "the ZIP has two end records of its central directory"
        raise ZipError(msg)
    place = places[0]
    _, disk, first_disk, here, count, length, offset, _ = _END.unpack_from(tail, place)
    at = size - len(tail) + place
    wide = _find_end64(tail, place, size)
    if isinstance(wide, NeedsFrom):
        return wide
    if wide is None:
        if disk or first_disk or here != count or _MAX16 in {disk, count} or _MAX32 in {length, offset}:
            msg = "the ZIP is one of several volumes, or lacks its Zip64 record"
            raise ZipError(msg)
        end = _End(offset=offset, size=length, count=count)
    else:
        end, at = wide
        narrow = ((count, _MAX16, end.count), (length, _MAX32, end.size), (offset, _MAX32, end.offset))
        if any(value not in {most, true} for value, most, true in narrow) or disk not in {0, _MAX16}:
            msg = "the two end records of the ZIP contradict each other"
            raise ZipError(msg)
    if end.offset + end.size != at:
        # There are bytes before the first member or after the directory, and other readers may see another ZIP in them.
        msg = "the central directory is not where the end record of the ZIP says"
        raise ZipError(msg)
    return end


def _find_end64(tail: bytes, place: int, size: int) -> tuple[_End, int] | NeedsFrom | None:
    """Find the Zip64 record (APPNOTE 4.3.14, 4.3.15): it precedes the locator, which precedes the end record."""
    begins = size - len(tail)
    locator = place - _LOCATOR.size
    if locator < 0:
        # The end record is at the beginning of the tail, or nearly. Before the beginning of the ZIP there is nothing.
        return NeedsFrom(start=begins + locator) if begins + locator >= 0 else None
    signature, disk, at, disks = _LOCATOR.unpack_from(tail, locator)
    if signature != _LOCATOR_SIGNATURE:
        return None
    if disk or disks > 1 or at + _END64.size > begins + locator:
        msg = "the Zip64 locator does not point to a record"
        raise ZipError(msg)
    if at < begins:
        if begins + locator - at > _END64.size + MAX_DIRECTORY:
            msg = "the Zip64 record is too far from the end of the ZIP"
            raise ZipError(msg)
        return NeedsFrom(start=at)
    signature, length, _, _, disk, first_disk, here, count, directory, offset = _END64.unpack_from(tail, at - begins)
    if signature != _END64_SIGNATURE or at + 12 + length != begins + locator or disk or first_disk or here != count:
        msg = "the Zip64 record is malformed"
        raise ZipError(msg)
    return _End(offset=offset, size=directory, count=count), at


def _occurrences(tail: bytes) -> Iterable[int]:
    place = tail.rfind(_END_SIGNATURE)
    while place >= 0:
        yield place
        place = tail.rfind(_END_SIGNATURE, 0, place + len(_END_SIGNATURE) - 1)


def _reaches_end(tail: bytes, place: int) -> bool:
    if place + _END.size > len(tail):
        return False
    comment: int = _END.unpack_from(tail, place)[-1]
    return place + _END.size + comment == len(tail)


def _parse_entries(directory: bytes, end: _End) -> tuple[list[Member], list[Refused]]:
    members: list[Member] = []
    refused: list[Refused] = []
    place = 0
    for _ in range(end.count):
        if place + _CENTRAL.size > len(directory):
            msg = "the central directory has fewer entries than the end record says"
            raise ZipError(msg)
        fields = _CENTRAL.unpack_from(directory, place)
        lengths = fields[10:13]
        if fields[0] != _CENTRAL_SIGNATURE or place + _CENTRAL.size + sum(lengths) > len(directory):
            msg = "the central directory is malformed"
            raise ZipError(msg)
        name_at = place + _CENTRAL.size
        extra_at = name_at + lengths[0]
        raw_name = directory[name_at:extra_at]
        entry = _entry(fields, raw_name, directory[extra_at : extra_at + lengths[1]], end.offset)
        if isinstance(entry, Member):
            members.append(entry)
        elif entry is not None:
            refused.append(entry)
        place += _CENTRAL.size + sum(lengths)
    if place != len(directory):
        msg = "the central directory has bytes after its last entry"
        raise ZipError(msg)
    return members, refused


def _entry(fields: Sequence[int], raw_name: bytes, extra: bytes, limit: int) -> Member | Refused | None:
    """Return one entry as a usable or a refused member, or None for a folder, which has no content."""
    _, made_by, _, flags, method, _, _, crc32, packed, size, *_, disk, _, attributes, offset = fields
    try:
        name = raw_name.decode("utf-8" if flags & _UTF8_FLAG else "cp437")
    except UnicodeDecodeError:
        return Refused(name=raw_name.decode("utf-8", "backslashreplace"), reason="the name is not UTF-8")
    wide = _widen(extra, [size, packed, offset])
    if wide is None:
        return Refused(name=name, reason="the Zip64 sizes are missing")
    size, packed, offset = wide
    reason = _reason_to_refuse(name, made_by, flags, method, attributes, packed, size)
    if reason is None and (disk or offset + _LOCAL.size + len(raw_name) + packed > limit):
        reason = "the content is outside the ZIP"
    if reason is not None:
        return Refused(name=name, reason=reason)
    if name.endswith("/"):
        return None if size == 0 else Refused(name=name, reason="the folder has content")
    return Member(
        name=name,
        raw_name=raw_name,
        method=method,
        crc32=crc32,
        packed=packed,
        size=size,
        offset=offset,
        stop=limit,
    )


def _widen(extra: bytes, values: list[int]) -> list[int] | None:
    """Replace the fields that are 0xFFFFFFFF by those of the Zip64 extra field, in its order (APPNOTE 4.5.3)."""
    if _MAX32 not in values:
        return values
    place = 0
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, place)
        if kind == _ZIP64_EXTRA:
            field = extra[place + 4 : place + 4 + length]
            wanted = [index for index, value in enumerate(values) if value == _MAX32]
            if len(field) < 8 * len(wanted):
                return None
            numbers = struct.unpack_from(f"<{len(wanted)}Q", field)
            return [numbers[wanted.index(index)] if index in wanted else value for index, value in enumerate(values)]
        place += 4 + length
    return None


def _reason_to_refuse(
    name: str, made_by: int, flags: int, method: int, attributes: int, packed: int, size: int
) -> str | None:
    mode = attributes >> 16 if made_by >> 8 == _UNIX else 0
    if not name or "\0" in name:
        return "the name is empty or contains NUL"
    if flags & _REFUSED_FLAGS:
        return "the content is encrypted"
    if method not in {STORED, DEFLATED}:
        return f"the compression method {method} is not supported (0 and 8 are)"
    if stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}:
        return "not a regular file"
    if method == STORED and packed != size:
        return "the content is not compressed, but its two sizes differ"
    if size >= RATIO_COUNTS_FROM and size > MAX_RATIO * packed:
        return f"the content would unpack to more than {MAX_RATIO} times its size"
    return None


def _refuse_unsafe(found: list[Member], limit: int) -> tuple[tuple[Member, ...], list[Refused]]:
    """Refuse members with the same name, and members that share bytes (CVE-2024-0450)."""
    repeated = {name for name, count in Counter(member.name for member in found).items() if count > 1}
    ordered = sorted(found, key=lambda member: member.offset)
    overlapping: set[int] = set()
    reach, reacher = 0, -1
    for index, member in enumerate(ordered):
        if member.offset < reach:
            overlapping |= {reacher, index}
        least = member.offset + _LOCAL.size + len(member.raw_name) + member.packed
        if least > reach:
            reach, reacher = least, index
    members: list[Member] = []
    refused: list[Refused] = []
    for index, member in enumerate(ordered):
        following = ordered[index + 1].offset if index + 1 < len(ordered) else limit
        if member.name in repeated:
            refused.append(Refused(name=member.name, reason="the ZIP has this name several times"))
        elif index in overlapping:
            refused.append(Refused(name=member.name, reason="the content overlaps another ZIP entry"))
        else:
            most = member.offset + _LOCAL.size + len(member.raw_name) + _MAX16 + member.packed + _DESCRIPTOR_SIZE
            members.append(replace(member, stop=min(following, most)))
    return tuple(members), refused


def _span_of(members: Sequence[Member]) -> Span:
    return Span(start=members[0].offset, stop=members[-1].stop, members=tuple(members))


def describe(refused: Refused) -> str:
    """Return a refused member and the reason, for the log."""
    return f"{printable(refused.name)}: {refused.reason}"
