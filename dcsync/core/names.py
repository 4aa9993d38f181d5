"""From a name the server gave to one path component that is safe everywhere (FAULTS, rule N).

What cannot be taken is escaped as `%XX` of its UTF-8 bytes, never dropped, so the data is saved all the same; the
original name stands in `_dcsync.json`. `component` is injective for names that need no cutting; `assign` keeps all of
them apart, also those that a file system would take for the same.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Iterable

#: Leaves room below the usual 255 bytes for `.part`, a clash suffix, and what archivers add.
MAX_BYTES = 200

#: Folders that an archive's member may have above it; `schemas/` is one.
MAX_DEPTH = 8

#: Our own files in a snapshot's folder.
SIDECAR_NAME = "_dcsync.json"
SUMS_NAME = "SHA256SUMS"
OWN_FILES = frozenset({SIDECAR_NAME, SUMS_NAME})
# In any case: a file system may take `sha256sums` for the same name.
_OWN_NAMES = frozenset(name.lower() for name in OWN_FILES)

# Windows' reserved device names, with any extension (Microsoft, "Naming Files, Paths, and Namespaces").
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])\s*(\.|$)", re.IGNORECASE)
_FORBIDDEN = frozenset('/\\<>:"|?*')
_HEX_PAIR = re.compile(r"[0-9A-Fa-f]{2}")
# Unicode's default-ignorable code points outside category Cf: invisible, or dropped by HFS+ when names are compared.
_IGNORABLE = frozenset(
    {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x3164, 0xFFA0}
    | set(range(0xFE00, 0xFE10))
    | set(range(0xE0100, 0xE01F0))
)
# Cc control, Cf format (bidi, zero-width), Cs surrogate, Zl and Zp line separators: invisible or a line break.
_BAD_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# No UTF-8 text has this byte: it stands for the empty name and is never the escape of a character.
_EMPTY = "%FF"


def component(original: str) -> str:
    """Return the path component for a name: itself if safe, else escaped; over 200 bytes cut, with a hash."""
    escaped = _escape(original)
    if len(escaped.encode()) <= MAX_BYTES:
        return escaped
    return _with_suffix(escaped, _digest(original), MAX_BYTES)


def clash_key(name: str) -> str:
    """Return what two names share when some file system takes them for one: NFC(casefold(NFKC))."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKC", name).casefold())


def assign(originals: Iterable[str]) -> dict[str, str]:
    """Return a component for each distinct name, all of them different also by `clash_key`.

    The first of a clash, in order of code points, keeps its name, the others get `~` and 8 hex of their hash. The
    result does not depend on the order the names came in.
    """
    assigned: dict[str, str] = {}
    taken = _Taken()
    for original in sorted(set(originals)):
        name = _free(component(original), _escape(original), original, taken)
        taken.add(name)
        assigned[original] = name
    return assigned


def assign_paths(listed: Iterable[str], extra: Iterable[str]) -> dict[str, str]:
    """Return a relative path for each name of a listing, and below it for each extra member of the archive.

    Listed names are one component each. An extra one keeps its folders, each made safe; one whose path leads elsewhere
    or is too deep is left out. What would clash with a file, or with a folder, gets `~` and a hash in one component.
    """
    assigned = assign(listed)
    taken = _Taken(assigned.values())
    for original in sorted(set(extra) - assigned.keys()):
        parts = original.split("/")
        if len(parts) > MAX_DEPTH or any(part in {"", ".", ".."} for part in parts):
            continue
        plain = "/".join(component(part) for part in parts)
        path = _free(plain, _escape(original), original, taken)
        taken.add(path)
        assigned[original] = path
    return assigned


def ascii_fold(text: str) -> str:
    """Return text with accents taken off and every other non-ASCII character as a space."""
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(
        character if character.isascii() else " " for character in decomposed if not unicodedata.combining(character)
    )


def printable(text: str, limit: int = 80) -> str:
    """Return text for a message: one line, nothing that a terminal obeys, at most `limit` characters."""
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "replace").decode("ascii") for c in text[: limit + 1]
    )
    return shown if len(shown) <= limit else shown[:limit] + "…"


def _free(name: str, stem: str, original: str, taken: _Taken) -> str:
    """Return `name`, or `stem` with a hash of the original that is not taken. Nobody can take them all."""
    attempts = itertools.count()
    while name in taken:
        attempt = next(attempts)
        name = _with_suffix(stem, _digest(original if attempt == 0 else f"{attempt}/{original}"), MAX_BYTES)
    return name


class _Taken:
    """The paths of a snapshot so far, as a file system that folds case and form sees them: its files and folders."""

    def __init__(self, paths: Iterable[str] = ()) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()
        for path in paths:
            self.add(path)

    def __contains__(self, path: str) -> bool:
        key = clash_key(path)
        return key in self._files or key in self._folders or any(parent in self._files for parent in _parents(key))

    def add(self, path: str) -> None:
        """Take a path, and the folders above it."""
        key = clash_key(path)
        self._files.add(key)
        self._folders.update(_parents(key))


def _parents(key: str) -> list[str]:
    return [key[:place] for place, character in enumerate(key) if character == "/"]


def _escape(original: str) -> str:
    if not original:
        return _EMPTY
    characters = [
        _percent(character) if _must_escape(original, index, character) else character
        for index, character in enumerate(original)
    ]
    # As a file system that folds case or form would see it.
    key = clash_key(original)
    if key in _OWN_NAMES or key.startswith(".dcsync") or _DEVICE.match(original):
        characters[0] = _percent(original[0])
    if original[-1] in ". ":
        characters[-1] = _percent(original[-1])
    return "".join(characters)


def _must_escape(original: str, index: int, character: str) -> bool:
    if character == "%":
        # Only where it would read as an escape: that keeps `50%.csv` as it is and the mapping injective.
        return _HEX_PAIR.match(original, index + 1) is not None
    return character in _FORBIDDEN or unicodedata.category(character) in _BAD_CATEGORIES or ord(character) in _IGNORABLE


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def _digest(original: str) -> str:
    return hashlib.sha256(original.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _with_suffix(name: str, digest: str, limit: int) -> str:
    """Put `~digest` before the extension, and cut the stem at a character so that the whole fits."""
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension.encode()) > 16:
        stem, dot, extension = name, "", ""
    tail = f"~{digest}{dot}{extension}"
    room = limit - len(tail.encode())
    return stem.encode()[:room].decode("utf-8", "ignore").rstrip(". ") + tail
