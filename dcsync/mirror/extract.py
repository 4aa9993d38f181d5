"""ZIP entries, extracted into the staging in one pass over the bytes of a span: inflate, hash, write, check, name.

This code runs in a disk thread. Only one thread at a time uses one extractor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dcsync.core.inflate import Decompressor, MemberReader
from dcsync.core.model import StoredFile
from dcsync.core.ziplayout import Member, Span, ZipError
from dcsync.errors import StorageError
from dcsync.mirror.part import Part
from dcsync.mirror.staging import Staging

#: A decompressor gets this much at once: it copies the rest of its input each time that it gives output.
_AT_ONCE = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A ZIP entry to extract, and its names: on disk and in the data listing."""

    member: Member
    name: str
    original: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The progress of one target in a `feed`: the ZIP's bytes taken, and at its end the stored file or the damage."""

    target: Target
    size: int
    stored: StoredFile | None = None
    damage: str | None = None


class SpanExtractor:
    """Takes the bytes of a span in order and stages the wanted ZIP entries in it.

    The bytes may come from several requests. Each one starts at the offset that `resume` returns, also in the middle of
    an entry.
    """

    def __init__(
        self, staging: Staging, span: Span, targets: Sequence[Target], *, inflate: Callable[[], Decompressor]
    ) -> None:
        #: The number of targets that are finished, stored or damaged.
        self.done = 0
        self._staging = staging
        self._targets = sorted(targets, key=lambda target: target.member.offset)
        self._inflate = inflate
        self._position = span.start
        self._reader: MemberReader | None = None
        self._part: Part | None = None
        #: The bytes taken of the current entry.
        self._taken = 0

    def resume(self) -> int:
        """Return the offset in the ZIP at which the next bytes must start. Earlier bytes are not needed."""
        if self._reader is None and self.done < len(self._targets):
            self._position = max(self._position, self._targets[self.done].member.offset)
        return self._position

    def feed(self, data: bytes | bytearray) -> list[Step]:
        """Take the next bytes and return the progress. Raises `DiskError`s. A damaged entry is a step, not an error."""
        steps: list[Step] = []
        begin, self._position = self._position, self._position + len(data)
        view = memoryview(data)
        while self.done < len(self._targets):
            target = self._targets[self.done]
            member = target.member
            start, stop = max(begin, member.offset), min(self._position, member.stop)
            if start >= self._position:
                break
            step = self._stage_bytes(target, view[start - begin : stop - begin], is_last=self._position >= member.stop)
            if step is not None:
                steps.append(step)
            if step is None or (step.stored is None and step.damage is None):
                break
            self.done += 1
        return steps

    def close(self) -> list[Step]:
        """Drop an incomplete entry, because the state of its decompressor ends with this object."""
        if self._part is None:
            return []
        dropped = Step(target=self._targets[self.done], size=-self._taken)
        self._part.discard()
        self._reader = self._part = None
        return [dropped]

    def _stage_bytes(self, target: Target, data: memoryview, *, is_last: bool) -> Step | None:
        if self._reader is None or self._part is None:
            self._taken = 0
            self._reader = MemberReader(target.member, inflate=self._inflate)
            self._part = self._staging.part(target.name, target.original, target.member.size)
            self._part.restart()
        self._taken += len(data)
        try:
            for start in range(0, len(data), _AT_ONCE):
                for piece in self._reader.feed(bytes(data[start : start + _AT_ONCE])):
                    self._part.write(piece)
            if not self._reader.is_complete and not is_last:
                return Step(target=target, size=len(data))
            self._reader.finish()
            digest = self._part.digest()
            if digest.crc32 != target.member.crc32:
                damage = (
                    f"its CRC32 is {digest.crc32:08x}, not {target.member.crc32:08x} as in the ZIP's central directory"
                )
                return self._damaged(target, damage)
        except ZipError as error:
            return self._damaged(target, str(error))
        except StorageError as error:
            return self._damaged(target, error.message)
        stored = self._part.finish(None, packed=target.member.packed)
        self._reader = self._part = None
        return Step(target=target, size=len(data), stored=stored)

    def _damaged(self, target: Target, damage: str) -> Step:
        self.close()
        return Step(target=target, size=0, damage=damage)
