"""From a name that Autodesk gave to one path component that is safe everywhere (docs/project/design.md, Names).

Unsafe characters are escaped as `%XX` of their UTF-8 bytes and never dropped, so the data is always saved.
`_dcsync.json` records the original name. `component` is injective for names that need no cutting. `assign` keeps all
names distinct, including those that a file system would treat as equal.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Iterable

#: Leaves room below the usual 255 bytes for `.part`, a clash suffix, and the suffixes of archivers.
MAX_BYTES = 200

#: The most components that the path of a ZIP entry may have, the file name included. `schemas/x.csv` has two.
MAX_DEPTH = 8

#: dcsync's own files in a snapshot's folder.
SIDECAR_NAME = "_dcsync.json"
SUMS_NAME = "SHA256SUMS"
OWN_FILES = frozenset({SIDECAR_NAME, SUMS_NAME})
# Reserved in any case, because a file system that folds case would treat `sha256sums` as the same name.
_OWN_NAMES = frozenset(name.lower() for name in OWN_FILES)

# Windows' reserved device names, with any extension (Microsoft, "Naming Files, Paths, and Namespaces").
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])\s*(\.|$)", re.IGNORECASE)
_FORBIDDEN = frozenset('/\\<>:"|?*')
_HEX_PAIR = re.compile(r"[0-9A-Fa-f]{2}")
# Unicode's default-ignorable code points outside category Cf: invisible, or ignored by HFS+ when it compares names.
_IGNORABLE = frozenset(
    {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x3164, 0xFFA0}
    | set(range(0xFE00, 0xFE10))
    | set(range(0xE0100, 0xE01F0))
)
# Cc control, Cf format (bidi, zero-width), Cs surrogate, Zl and Zp line separators: invisible or a line break.
_BAD_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# The empty name. No UTF-8 text has this byte, so it is never the escape of a character.
_EMPTY = "%FF"


def component(original: str) -> str:
    """Return the path component for a name: unchanged if safe, else escaped. Over 200 bytes it is cut and hashed."""
    escaped = _escape(original)
    if len(escaped.encode()) <= MAX_BYTES:
        return escaped
    return _with_suffix(escaped, _digest(original), MAX_BYTES)


def clash_key(name: str) -> str:
    """Return a key that two names share if some file system treats them as equal: NFC(casefold(NFKC))."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKC", name).casefold())


def assign(originals: Iterable[str]) -> dict[str, str]:
    """Return a component for each distinct name. No two components have the same `clash_key`.

    Of names that clash, the first in order of code points keeps its name. The others get `~` and 8 hex digits of their
    hash. The result does not depend on the order of `originals`.
    """
    assigned: dict[str, str] = {}
    taken = _Taken()
    for original in sorted(set(originals)):
        name = _free(component(original), _escape(original), original, taken)
        taken.add(name)
        assigned[original] = name
    return assigned


def assign_paths(listed: Iterable[str], extra: Iterable[str]) -> dict[str, str]:
    """Return a relative path for each name of the data listing and for each extra entry of the ZIP.

    A listed name becomes one component. An extra entry keeps its folders, and each component is made safe. An entry is
    left out if its path leaves the snapshot or is too deep. An entry that would clash with a file or a folder becomes
    one component with `~` and a hash.
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
    """Return text without accents, and with a space for every other non-ASCII character."""
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(
        character if character.isascii() else " " for character in decomposed if not unicodedata.combining(character)
    )


def printable(text: str, limit: int = 80) -> str:
    """Return text for a message: one line, without control sequences, at most `limit` characters."""
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "replace").decode("ascii") for c in text[: limit + 1]
    )
    return shown if len(shown) <= limit else shown[:limit] + "…"


def _free(name: str, stem: str, original: str, taken: _Taken) -> str:
    """Return `name`, or `stem` with a hash of the original if `name` is taken. Some hash is always free."""
    attempts = itertools.count()
    while name in taken:
        attempt = next(attempts)
        name = _with_suffix(stem, _digest(original if attempt == 0 else f"{attempt}/{original}"), MAX_BYTES)
    return name


class _Taken:
    """The files and folders of a snapshot so far, compared as a file system compares them that folds case and form."""

    def __init__(self, paths: Iterable[str] = ()) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()
        for path in paths:
            self.add(path)

    def __contains__(self, path: str) -> bool:
        key = clash_key(path)
        return key in self._files or key in self._folders or any(parent in self._files for parent in _parents(key))

    def add(self, path: str) -> None:
        """Reserve a path and the folders above it."""
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
    # Compared as a file system compares names that folds case or form.
    key = clash_key(original)
    if key in _OWN_NAMES or key.startswith(".dcsync") or _DEVICE.match(original):
        characters[0] = _percent(original[0])
    if original[-1] in ". ":
        characters[-1] = _percent(original[-1])
    return "".join(characters)


def _must_escape(original: str, index: int, character: str) -> bool:
    if character == "%":
        # Only where it would read as an escape: this leaves `50%.csv` unchanged and keeps the mapping injective.
        return _HEX_PAIR.match(original, index + 1) is not None
    return character in _FORBIDDEN or unicodedata.category(character) in _BAD_CATEGORIES or ord(character) in _IGNORABLE


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def _digest(original: str) -> str:
    return hashlib.sha256(original.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _with_suffix(name: str, digest: str, limit: int) -> str:
    """Put `~digest` before the extension. Cut the stem between characters so that the result fits."""
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension.encode()) > 16:
        stem, dot, extension = name, "", ""
    tail = f"~{digest}{dot}{extension}"
    room = limit - len(tail.encode())
    return stem.encode()[:room].decode("utf-8", "ignore").rstrip(". ") + tail
