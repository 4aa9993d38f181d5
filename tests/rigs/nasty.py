"""Input that means ill, from a seed: names, JSON, bytes and archives with something wrong in them."""

from __future__ import annotations

import io
import json
import random
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, Final

from tests.rigs.zips import CENTRAL_SIGNATURE, END_SIGNATURE, make_zip, patch_central

#: What docs/project/faults.md S1 and S2 name, and their neighbours.
SEEDS: Final = (
    "../x",
    "../../etc/passwd",
    "/etc/x",
    "C:\\x",
    "C:x",
    "..\\x",
    "a/../b",
    "a/b",
    "a//b",
    "./a",
    ".",
    "..",
    "...",
    "",
    " ",
    "%2e%2e",
    "%2E%2E%2Fx",
    "%00",
    "%FF",
    "%25",
    "\udcc0\udcaf",
    "\ud800",
    "\udfff\ud800",
    "a\0b",
    "a\nb",
    "a\r\nlevel=critical event=forged",
    "\x1b[2J\x1b]0;owned\x07",
    "\x9b31m",
    "\u202egpj.exe",
    "a\u200bb",
    "\ufeffa.csv",
    "a\u2028b",
    "CON.csv",
    "con",
    "nul.tar.gz",
    "COM1",
    "LPT9.txt",
    "aux .csv",
    "conin$",
    "x.",
    "x ",
    ".dcsync",
    ".DCSync",
    "_dcsync.json",
    "_DCSYNC.json",
    "SHA256SUMS",
    "sha256sums",
    "latest",
    "index.html",
    "a.csv.part",
    "a%7E.csv",
    "file:stream",
    "a*b?.csv",
    "a|b<c>d\"e'f",
    "straße.csv",
    "STRASSE.csv",
    "İstanbul.csv",
    "istanbul.csv",
    "ıstanbul.csv",
    "ﬁle.csv",
    "file.csv",
    "ＦＵＬＬ.csv",
    "é.csv",
    "e\u0301.csv",
    "Å.csv",
    "Å.csv",
    "K.csv",
    "ſ.csv",
    "x" * 300,
    "é" * 150,
    "😀" * 60,
    "x" * 250 + ".csv",
    "x." + "y" * 250,
    "admin_users.csv",
    "ADMIN_USERS.CSV",
)
_SIGNS: Final[list[str]] = [
    *"%./\\:*?\"<>| ~'aAsSkKiIeE25Ff_-",
    "\0",
    "\n",
    "\r",
    "\t",
    "\x1b",
    "\x7f",
    "\x85",
    "\u202e",
    "\u200b",
]


def name(chance: random.Random, before: list[str]) -> str:
    """Return a name: one of the known bad ones, chance, or one given before, changed a little."""
    match chance.randrange(6):
        case 0:
            text = chance.choice(SEEDS)
        case 1:
            text = "".join(chance.choice(_SIGNS) for _ in range(chance.randrange(1, 12)))
        case 2:
            text = "".join(chr(_code_point(chance)) for _ in range(chance.randrange(1, 24)))
        case 3 if before:
            text = _changed(chance, chance.choice(before))
        case 4:
            text = chance.choice(SEEDS) + chance.choice(SEEDS)
        case _:
            text = f"{chance.choice(('admin', 'issues', 'ISSUES'))}_{chance.randrange(1 << 24):x}.csv"
    if len(before) < 500:
        before.append(text)
    else:
        before[chance.randrange(500)] = text
    return text


def _code_point(chance: random.Random) -> int:
    # The lower planes hold what is dangerous; a surrogate now and then.
    top = chance.choice((0x80, 0x300, 0x2100, 0x10000, 0x110000))
    return chance.randrange(top)


def _changed(chance: random.Random, text: str) -> str:
    if not text:
        return chance.choice(_SIGNS)
    at = chance.randrange(len(text))
    forms = (
        text.upper(),
        text.lower(),
        text.title(),
        unicodedata.normalize("NFD", text),
        unicodedata.normalize("NFC", text),
        unicodedata.normalize("NFKC", text),
        text[:at] + chance.choice(_SIGNS) + text[at:],
        text[:at] + text[at + 1 :],
        text + chance.choice(_SIGNS),
        text * chance.randrange(1, 9),
    )
    found: str = chance.choice(forms)
    return found[:400]


# --- JSON -------------------------------------------------------------------------------------------------------------

_NUMBERS: Final = (0, -1, 1, 1 << 31, 1 << 53, 1 << 60, (1 << 60) + 1, 1 << 64, -(1 << 70), 0.5, 1e15, 1e300, -0.0)
_TEXTS: Final = (
    "",
    "0",
    "-1",
    "9" * 19,
    "9" * 5000,
    "1e5",
    "NaN",
    "null",
    "[]",
    '["a", 1]',
    "2026-02-29T00:00:00Z",
    "2038-01-19T03:14:08.123456789Z",
    "0000-00-00",
    "9999-12-31T23:59:59+14:00",
    "0001-01-01T00:00:00-23:59",
    "complete",
    "success",
    "../..",
    "\ud800",
    "\x1b[31m",
)
_BODIES: Final = (
    b"",
    b"\xef\xbb\xbf[]",
    b"\xff\xfe[\0]\0",
    b"<html><body>login</body></html>",
    b"NaN",
    b"[NaN]",
    b"[1e400]",
    b'{"a": 1, "a": 2}',
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'[{"name": "x", "size": ' + b"9" * 5000 + b"}]",
    b'"\\ud800"',
    b"\0" * 64,
    b"[1,]",
    b"nul",
)


def value(chance: random.Random, depth: int = 0) -> Any:
    """Return any JSON value."""
    match chance.randrange(7 if depth < 4 else 5):
        case 0:
            return chance.choice((None, True, False))
        case 1:
            return chance.choice(_NUMBERS)
        case 2:
            return chance.choice(_TEXTS)
        case 3:
            return name(chance, [])
        case 4:
            return chance.randrange(-5, 1 << 40)
        case 5:
            return [value(chance, depth + 1) for _ in range(chance.randrange(4))]
        case _:
            return {chance.choice(("id", "name", "size", "x", "")): value(chance, depth + 1) for _ in range(3)}


def bent(chance: random.Random, document: Any) -> Any:
    """Return a copy of a document with some of its values replaced, lost or doubled."""
    if chance.random() < 0.04:
        return value(chance)
    if isinstance(document, dict):
        entries = [(key, bent(chance, item)) for key, item in document.items() if chance.random() > 0.03]
        if chance.random() < 0.05:
            entries.append((chance.choice(_TEXTS)[:40], value(chance)))
        return dict(entries)
    if isinstance(document, list):
        items = [bent(chance, item) for item in document if chance.random() > 0.03]
        return [*items, *([chance.choice(items)] if items and chance.random() < 0.1 else [])]
    return document


def body(chance: random.Random, document: Any) -> bytes:
    """Return a document as an answer's body: bent as JSON, as bytes, or something else altogether."""
    if chance.random() < 0.05:
        return chance.choice(_BODIES)
    out = json.dumps(bent(chance, document)).encode()
    return scratched(chance, out) if chance.random() < 0.3 else out


def scratched(chance: random.Random, data: bytes, *, places: list[int] | None = None) -> bytes:
    """Return bytes with a few of them changed, lost, doubled or cut off, near `places` more often than elsewhere."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        if not out:
            break
        near = places is not None and places and chance.random() < 0.8
        at = chance.choice(places or [0]) + chance.randrange(64) if near else chance.randrange(len(out))
        at = min(at, len(out) - 1)
        match chance.randrange(7):
            case 0 | 1:
                out[at] ^= 1 << chance.randrange(8)
            case 2 | 3:
                out[at] = chance.choice((0, 0xFF, 0x7F, 0x80, chance.randrange(256)))
            case 4:
                del out[at : at + chance.randrange(1, 40)]
            case 5:
                out[at:at] = out[at : at + chance.randrange(1, 60)]
            case _:
                if chance.random() < 0.3:
                    del out[at:]
    return bytes(out)


# --- archives ---------------------------------------------------------------------------------------------------------


def archives() -> Iterator[tuple[str, bytes]]:
    """Yield archives, good ones and those of docs/project/faults.md S3 to S5, each with what it is."""
    files = {"admin_users.csv": b"id,name\n" + b"1,a\n" * 400, "schemas/x.json": b'{"a": 1}', "empty.csv": b""}
    yield "deflated", make_zip(files)
    yield "stored", make_zip(files, method=zipfile.ZIP_STORED)
    yield "zip64", make_zip(files, zip64=True)
    yield "streamed", make_zip(files, streamed=True)
    yield "comment", make_zip(files, comment=b"c" * 300)
    yield "random", make_zip({f"{n}.csv": random.Random(n).randbytes(700 * n) for n in range(12)})
    yield "traversal", make_zip({text: b"evil" for text in SEEDS if text and text.isascii() and "\0" not in text})
    yield "unicode", make_zip({text: b"odd" for text in SEEDS if text.isprintable() and not text.isascii()})
    yield "deep", make_zip({"/".join("d" * 40) + "/x.csv": b"deep"})
    yield "nested", make_zip({"inner.zip": make_zip(files), "a.csv": b"a"})
    yield "folders", make_zip({"a/": b"", "a/b.csv": b"b", "a": b"file in a folder's place"})
    yield "prefixed", b"#!/bin/sh\n" * 9 + make_zip(files)
    yield "suffixed", make_zip(files) + b"tail" * 9
    yield "two ends", make_zip(files) + make_zip({"other.csv": b"x"})
    yield "encrypted", patch_central(make_zip(files), 0, flags=1)
    yield "method", patch_central(make_zip(files), 0, method=99)
    yield "symlink", _with_mode(stat.S_IFLNK | 0o777, b"/etc/passwd")
    yield "device", _with_mode(stat.S_IFBLK | 0o666, b"")
    yield "duplicate", make_zip({"a.csv": b"1", "b.csv": b"2"}).replace(b"b.csv", b"a.csv")
    yield "larger than said", patch_central(make_zip(files), 0, size=10)
    yield "smaller than said", patch_central(make_zip(files), 0, size=1 << 20)
    yield "wrong crc", patch_central(make_zip(files), 0, crc32=0)
    yield "bomb", make_zip({"zeros.csv": bytes(32 << 20)})
    yield "bomb with a small size", patch_central(make_zip({"zeros.csv": bytes(32 << 20)}), 0, size=1000)
    yield "quine-like overlap", overlapping(500)
    yield "many members", overlapping(12_000)
    yield "nothing", make_zip({})


def _with_mode(mode: int, content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("link.csv")
        info.create_system = 3
        info.external_attr = mode << 16
        archive.writestr(info, content)
        archive.writestr("plain.csv", b"plain")
    return out.getvalue()


def overlapping(members: int) -> bytes:
    """Return an archive whose members all share the same bytes (Fifield, "A better zip bomb", full overlap)."""
    content = bytes(1 << 20)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(content) + packer.flush()
    crc = zlib.crc32(content)
    local = (
        struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 8, 0, 0, crc, len(packed), len(content), 1, 0) + b"a" + packed
    )
    central = b"".join(
        struct.pack(
            "<4s6H3L5H2L",
            *(CENTRAL_SIGNATURE, 20, 20, 0, 8, 0, 0, crc, len(packed), len(content), 8, 0, 0, 0, 0, 0, 0),
        )
        + f"{number:08x}".encode()
        for number in range(members)
    )
    end = struct.pack("<4s4H2LH", END_SIGNATURE, 0, 0, members, members, len(central), len(local), 0)
    return local + central + end


def mutated(chance: random.Random, corpus: list[bytes]) -> bytes:
    """Return an archive of the corpus with something changed, mostly in its headers."""
    original = chance.choice(corpus)
    kind = chance.random()
    if kind < 0.15 and original.count(CENTRAL_SIGNATURE) < 1000:
        return _patched(chance, original)
    if kind < 0.2:
        other = chance.choice(corpus)
        return original[: chance.randrange(len(original) + 1)] + other[chance.randrange(len(other) + 1) :]
    marks = (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07")
    places = [place for mark in marks for place in _places(original, mark)]
    return scratched(chance, original, places=places)


def _patched(chance: random.Random, original: bytes) -> bytes:
    count = original.count(CENTRAL_SIGNATURE)
    if count == 0:
        return original
    numbers = (0, 1, 10, 0xFF, 0xFFFE, 0xFFFF)
    wide = (*numbers, 0x10000, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF, len(original))
    fields = {
        field: chance.choice(wide if field in {"crc32", "packed", "size", "offset", "attributes"} else numbers)
        for field in chance.sample(
            ("made_by", "flags", "method", "crc32", "packed", "size", "disk", "attributes", "offset"),
            chance.randrange(1, 4),
        )
    }
    return patch_central(original, chance.randrange(count), **fields)


def _places(data: bytes, mark: bytes) -> Iterator[int]:
    at = data.find(mark)
    for _ in range(50):
        if at < 0:
            return
        yield at
        at = data.find(mark, at + 1)
