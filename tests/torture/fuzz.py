"""What any archive may do to a mirror."""

from __future__ import annotations

from pathlib import Path

from dcsync.core import names
from dcsync.core.model import JobId
from dcsync.core.ziplayout import Directory, ZipError, coalesce, describe, read_directory
from dcsync.mirror.extract import SpanExtractor, Target
from dcsync.mirror.native import fastest_decompressor
from dcsync.mirror.root import open_root
from dcsync.mirror.staged_names import staged_leaf
from dcsync.mirror.staging import Staging


class Explosion:
    """Unpacks archives into a staging and checks what they left, counting."""

    def __init__(self, folder: Path) -> None:
        self.unreadable = self.taken = self.damaged = self.refused = 0
        self._folder = folder
        self._mirror = folder / "mirror"
        self._mirror.mkdir(exist_ok=True)
        (folder / "outside").write_bytes(b"untouched")

    def run(self, body: bytes) -> None:
        """Read an archive as a run does, from its end, and unpack all it may."""
        try:
            directory = self._directory(body)
        except ZipError as error:
            assert str(error).isprintable()  # noqa: PT017 - one of thousands
            self.unreadable += 1
            return
        self.refused += len(directory.refused)
        for refused in directory.refused:
            assert describe(refused).isprintable()
        paths = names.assign_paths([], [member.name for member in directory.members])
        members = [member for member in directory.members if member.name in paths and member.size <= 64 << 20]
        spans = coalesce(members, gap=1 << 16)
        assert all(0 <= span.start < span.stop <= len(body) for span in spans)
        job = JobId("fuzz")
        with open_root(self._mirror) as root, Staging(root, job) as staging:
            stored = {}
            place, promised = self._mirror / ".dcsync/staging" / job, 0
            for span in spans:
                targets = [Target(member=each, name=paths[each.name], original=each.name) for each in span.members]
                extractor = SpanExtractor(staging, span, targets, inflate=fastest_decompressor())
                promised += sum(target.member.size for target in targets)
                for at in range(span.start, span.stop, 1 << 18):
                    for step in extractor.feed(body[at : min(at + (1 << 18), span.stop)]):
                        if step.stored is not None:
                            stored[step.stored.name] = step.stored
                            assert (step.stored.size, step.stored.crc32) == (
                                step.target.member.size,
                                step.target.member.crc32,
                            )
                        elif step.damage is not None:
                            self.damaged += 1
                            assert step.damage.isprintable()
                    # Counted on real output, also of what is dropped later: never more than was promised.
                    assert sum(path.stat().st_size for path in place.iterdir()) <= promised
                extractor.close()
            self.taken += len(stored)
            assert {path.name for path in place.iterdir()} == {staged_leaf(name) for name in stored}
            assert all(path.is_file() and not path.is_symlink() for path in place.iterdir())
            assert sum(path.stat().st_size for path in place.iterdir()) == sum(each.size for each in stored.values())
            staging.discard()
        assert (self._folder / "outside").read_bytes() == b"untouched"
        assert {path.name for path in self._folder.iterdir()} == {"mirror", "outside"}
        assert {path.name for path in self._mirror.iterdir()} == {".dcsync"}

    @staticmethod
    def _directory(body: bytes) -> Directory:
        start = max(0, len(body) - 70_000)
        for _ in range(5):
            found = read_directory(body[start:], size=len(body))
            if isinstance(found, Directory):
                return found
            if not 0 <= found.start < start:
                message = "its directory cannot be found"
                raise ZipError(message)
            start = found.start
        message = "its directory asks for more without end"
        raise ZipError(message)
