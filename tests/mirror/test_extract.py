"""Members out of the bytes of an archive, however those come."""

from __future__ import annotations

import hashlib
import random
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dcsync.core.inflate import zlib_decompressor
from dcsync.core.ziplayout import coalesce
from dcsync.mirror.extract import SpanExtractor, Step, Target
from dcsync.mirror.root import open_root
from dcsync.mirror.staging import Staging
from tests.fakes import JOB_ID
from tests.rigs.zips import directory_of, make_zip

FILES = {f"{n}.csv": random.Random(n).randbytes(400 * n) + b"same" * 300 for n in range(6)}
ARCHIVE = make_zip(FILES)
MEMBERS = directory_of(ARCHIVE).members


def explode(folder: Path, wanted: list[int], sizes: list[int], breaks: set[int]) -> dict[str, bytes]:
    """Stage members out of pieces of these sizes; before some of them the line breaks."""
    members = [MEMBERS[index] for index in wanted]
    (span,) = coalesce(members, gap=len(ARCHIVE))
    (folder / "mirror").mkdir()
    steps: list[Step] = []
    with open_root(folder / "mirror") as root, Staging(root, JOB_ID) as staging:
        targets = [Target(member=member, name=member.name, original=member.name) for member in members]
        extractor = SpanExtractor(staging, span, targets, inflate=zlib_decompressor)
        at = extractor.resume()
        for number, size in enumerate([*sizes, len(ARCHIVE)]):
            if number in breaks:
                at = extractor.resume()
            piece = ARCHIVE[at : min(at + size, span.stop)]
            at += len(piece)
            steps += extractor.feed(piece)
        assert extractor.done == len(targets)
        assert extractor.close() == []
        path = root.path / ".dcsync/staging" / JOB_ID
        assert sum(step.size for step in steps) == sum(member.stop - member.offset for member in members)
        return {file.name: file.read_bytes() for file in path.iterdir()}


@given(
    st.sets(st.integers(0, 5), min_size=1),
    st.lists(st.integers(0, 3000), max_size=12),
    st.sets(st.integers(0, 12)),
)
def test_any_pieces_and_any_breaks_between_them_give_the_same_files(
    wanted: set[int], sizes: list[int], breaks: set[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = explode(Path(folder), sorted(wanted), sizes, breaks)

    assert found == {f"{index}.csv": FILES[f"{index}.csv"] for index in wanted}


def test_after_a_break_nothing_is_asked_for_that_is_not_needed(tmp_path: Path) -> None:
    first, last = MEMBERS[0], MEMBERS[5]
    (span,) = coalesce([first, last], gap=len(ARCHIVE))
    with open_root(tmp_path) as root, Staging(root, JOB_ID) as staging:
        targets = [Target(member=member, name=member.name, original=member.name) for member in (first, last)]
        extractor = SpanExtractor(staging, span, targets, inflate=zlib_decompressor)
        extractor.feed(ARCHIVE[first.offset : first.stop + 5])

        assert extractor.resume() == last.offset
        extractor.feed(ARCHIVE[last.offset : last.offset + 100])
        assert extractor.resume() == last.offset + 100
        (dropped,) = extractor.close()

    assert (dropped.target.name, dropped.stored) == ("5.csv", None)
    assert [path.name for path in (tmp_path / ".dcsync/staging" / JOB_ID).iterdir()] == ["0.csv"]


class Measured:
    """A decompressor that records how much it is given at once."""

    def __init__(self, most: list[int]) -> None:
        self._inner, self._most = zlib_decompressor(), most

    def decompress(self, data: bytes, max_length: int = 0, /) -> bytes:
        self._most.append(len(data))
        return self._inner.decompress(data, max_length)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unconsumed_tail(self) -> bytes:
        return self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data


def test_a_decompressor_holds_little_input_however_much_arrives_at_once(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(1 << 20)
    archive = make_zip({"a.csv": content})
    (member,) = directory_of(archive).members
    (span,) = coalesce([member], gap=0)
    most: list[int] = []
    with open_root(tmp_path) as root, Staging(root, JOB_ID) as staging:
        target = Target(member=member, name=member.name, original=member.name)
        extractor = SpanExtractor(staging, span, [target], inflate=lambda: Measured(most))
        (step,) = extractor.feed(archive[member.offset : member.stop])

    assert step.stored is not None
    assert step.stored.sha256 == hashlib.sha256(content).hexdigest()
    assert max(most) <= 1 << 18
