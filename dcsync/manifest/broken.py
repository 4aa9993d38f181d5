"""Broken parts: each is kept, and is an alert, until the code that uses the part reports that it works again."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass

from dcsync.core.alerts import AlertCode
from dcsync.core.model import AccountName
from dcsync.manifest.sql import SqlManifest
from dcsync.manifest.state import StoredValues, read_value, write_value


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenPart:
    """A part that does not work now. `subject` tells the parts of a code apart: an ID, a name or a path."""

    code: AlertCode
    subject: str = ""
    #: What failed, with the path or name, and why.
    message: str
    #: What to do, and when dcsync tries again. Empty means the hint of the code.
    hint: str = ""


class BrokenParts:
    """The broken parts of one account, or with None those of the whole mirror or the daemon."""

    def __init__(self, manifest: SqlManifest, account: AccountName | None) -> None:
        self._manifest = manifest
        self._key = f"broken:{account or ''}"

    async def load(self) -> tuple[BrokenPart, ...]:
        """Return the parts that are broken now, in the order in which they broke."""
        return _parse(await StoredValues(self._manifest).load(self._key))

    async def record(self, part: BrokenPart) -> None:
        """Record that a part is broken. It replaces what was recorded for the same code and subject."""
        await self._change(lambda other: (other.code, other.subject) == (part.code, part.subject), [part])

    async def resolve(self, code: AlertCode, subject: str = "") -> None:
        """Record that a part works again."""
        await self._change(lambda other: (other.code, other.subject) == (code, subject), [])

    async def replace(
        self,
        codes: Collection[AlertCode],
        parts: Sequence[BrokenPart],
        *,
        keeps: Callable[[BrokenPart], bool] | None = None,
    ) -> tuple[BrokenPart, ...]:
        """Record all broken parts with these codes, and return the parts that were broken before.

        All others with these codes work again, except those that `keeps` names.
        """
        return await self._change(lambda other: other.code in codes and not (keeps and keeps(other)), parts)

    async def _change(
        self, is_replaced: Callable[[BrokenPart], bool], parts: Sequence[BrokenPart]
    ) -> tuple[BrokenPart, ...]:
        # Most calls change nothing, and then nothing is written.
        before = await self.load()
        if _changed(before, is_replaced, parts) is None:
            return before
        async with self._manifest.writing() as connection:
            changed = _changed(_parse(await read_value(connection, self._key)), is_replaced, parts)
            if changed is not None:
                text = json.dumps([asdict(part) for part in changed]) if changed else None
                await write_value(connection, self._key, text)
        return before


def _changed(
    known: Sequence[BrokenPart], is_replaced: Callable[[BrokenPart], bool], parts: Sequence[BrokenPart]
) -> list[BrokenPart] | None:
    """Return what is known after a change, or None if that is the same."""
    if sorted(map(_key, filter(is_replaced, known))) == sorted(map(_key, parts)):
        return None
    return [part for part in known if not is_replaced(part)] + list(parts)


def _key(part: BrokenPart) -> tuple[str, ...]:
    return (part.code, part.subject, part.message, part.hint)


def _parse(text: str | None) -> tuple[BrokenPart, ...]:
    stored = json.loads(text or "[]")
    return tuple(BrokenPart(**{**entry, "code": AlertCode.parse(entry["code"])}) for entry in stored)
