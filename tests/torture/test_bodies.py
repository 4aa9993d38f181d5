"""A body cut, lied about, or changed in any place, on a real connection: the file is whole and right, or not there."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

import pytest

from dcsync.core.model import Job, JobId, SignedFile, StoredFile
from dcsync.core.plan import Fetch
from dcsync.core.widening import Widening
from dcsync.errors import StorageError
from dcsync.mirror.staging import Staging
from dcsync.ops.context import SyncContext
from dcsync.ops.mirroring import reader
from dcsync.ops.mirroring.fetch import Fetcher
from dcsync.ops.mirroring.knowledge import AccountKnowledge
from tests.fakes import make_job, make_listed
from tests.rigs.mirror import mirroring
from tests.rigs.rawstore import Blob, Kind, RawStore, Twist
from tests.torture.conftest import Figure, pick

pytestmark = [pytest.mark.timeout(3600), pytest.mark.usefixtures("quiet")]

SIZE: Final = 1 << 16
#: Files of one job at a time: what is checked is removed.
BATCH: Final = 256
#: Answers that the size rule must refuse even when they come three times.
LIES: Final = frozenset({"short", "short-open", "short-chunked", "long", "long-open", "long-chunked", "gzip"})
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


@dataclass(slots=True, kw_only=True)
class Bench:
    """A store that can be broken, and the fetcher of a real mirror."""

    store: RawStore
    context: SyncContext
    folder: Path
    jobs: int = 0

    async def fetch(self, blobs: dict[str, Blob]) -> tuple[dict[str, StoredFile], dict[str, StorageError]]:
        """Fetch these files as one job; check what is on the disk; return what was stored, and what was not and why."""
        self.jobs += 1
        job = make_job(id=JobId(f"job-{self.jobs}"))
        self.store.blobs = {f"/{name}": blob for name, blob in blobs.items()}

        async def sign(job: Job, name: str) -> SignedFile:
            return SignedFile(name=name, size=None, url=f"{self.store.base_url}/{name}?Signature=x")

        fetches = [
            Fetch(file=make_listed(name, len(blob.body)), name=name, reason="new") for name, blob in blobs.items()
        ]
        with Staging(self.context.root, job.id) as staging:
            knowledge = AccountKnowledge()
            fetcher = Fetcher(self.context, job=job, sign=sign, staging=staging, previous=None, knowledge=knowledge)
            await fetcher.fetch_all(tuple(fetches))
            place = self.folder / "mirror/.dcsync/staging" / job.id
            stored = dict(fetcher.tally.stored)
            failed = dict(fetcher.tally.failures)
            assert stored.keys().isdisjoint(failed)
            assert stored.keys() | failed.keys() == blobs.keys()
            for name, blob in blobs.items():
                assert (place / name).exists() == (name in stored)
                if name in stored:
                    written = (place / name).read_bytes()
                    assert written in {blob.body, blob.other}
                    assert stored[name].sha256 == hashlib.sha256(written).hexdigest()
            staging.discard()
        return stored, failed


@asynccontextmanager
async def bench(folder: Path, chance: random.Random, *, is_slow: bool = False) -> AsyncIterator[Bench]:
    sizes = (500, 1000, 1 << 12) if is_slow else (1, 7, 1000, 1 << 14, 1 << 20)
    raw = RawStore(lambda body: cut_up(chance, body, sizes), is_slow=is_slow)
    async with mirroring(folder) as mirror, mirror.opened() as context, raw.serving() as store:
        yield Bench(store=store, context=context, folder=folder)


def cut_up(chance: random.Random, body: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """Give a body in the pieces of chance."""
    at = 0
    while at < len(body):
        size = chance.choice(sizes)
        yield body[at : at + size]
        at += size


async def test_a_body_cut_at_every_byte_gives_the_same_file(
    memory_path: Path, chance: random.Random, figure: Figure
) -> None:
    """Fault A19: 64 KiB, closed or reset after k bytes for every k; it goes on or starts over, and is right."""
    body = chance.randbytes(SIZE)
    step = pick(1, 257)
    offset = chance.randrange(step)
    places = range(offset, SIZE + 1, step)
    resumed = asked = 0
    async with bench(memory_path, chance) as rig:
        for first in range(0, len(places), BATCH):
            blobs = {
                f"cut-{place}": Blob(body=body, twists=[Twist(kind=chance.choice(("cut", "reset")), amount=place)])
                for place in places[first : first + BATCH]
            }
            stored, failed = await rig.fetch(blobs)
            assert failed == {}
            for name, blob in blobs.items():
                assert stored[name].size == SIZE
                asked += len(blob.asked)
                resumed += any(b"if-match" in head.lower() for head in blob.asked)
    assert resumed > len(places) // 3
    figure("64 KiB body cut or reset at byte k", f"{len(places):,} places, {resumed:,} resumed, all whole and equal")


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make parts so small that a body of 64 KiB has many, and use every free connection from the first byte on."""
    monkeypatch.setattr(reader, "LEAST_PART", 64)
    monkeypatch.setattr(reader, "MOST_PART", 1 << 12)

    def all_of_them(_self: Widening, _now: float, *, rest: int, receiving: int, limit: int) -> int:
        return limit if rest and receiving else 1

    monkeypatch.setattr(Widening, "connections", all_of_them)


@pytest.mark.usefixtures("narrow")
async def test_several_connections_cut_at_every_byte_give_the_same_file(
    memory_path: Path, chance: random.Random, figure: Figure
) -> None:
    """Fault A19 again: after k bytes of any of the connections, for every k of a part and of the whole body."""
    body = chance.randbytes(SIZE)
    step = pick(1, 257)
    places = range(chance.randrange(step), SIZE + 1, step)
    asked = parts = 0
    async with bench(memory_path, chance, is_slow=True) as rig:
        # Few files at once, so that each has several connections.
        for first in range(0, len(places), 4):
            blobs = {}
            for place in places[first : first + 4]:
                # The first answers are whole, so that the cut hits another connection than the first.
                whole = [Twist(kind="cut", amount=SIZE)] * chance.randrange(8)
                kind: Kind = chance.choice(("cut", "reset"))
                amount = place if not whole else place % (1 << 12)
                blobs[f"cut-{place}"] = Blob(body=body, twists=[*whole, Twist(kind=kind, amount=amount)])
            stored, failed = await rig.fetch(blobs)
            assert failed == {}
            assert all(stored[name].size == SIZE for name in blobs)
            asked += sum(len(blob.asked) for blob in blobs.values())
            parts += sum(b"if-match" in head.lower() for blob in blobs.values() for head in blob.asked)
    assert parts > 4 * len(places)
    figure(
        "64 KiB body through several connections, one of them cut or reset at byte k",
        f"{len(places):,} places, {asked:,} requests, all whole and equal",
    )


@pytest.mark.usefixtures("narrow")
async def test_several_connections_that_lie_give_the_right_file_or_none(
    memory_path: Path, chance: random.Random, figure: Figure
) -> None:
    """What a single connection must refuse is refused from any of several, too."""
    count = pick(4_000, 200)
    stored_files = 0
    async with bench(memory_path, chance, is_slow=True) as rig:
        for _ in range(0, count, 4):
            blobs = {}
            for number in range(4):
                body, other = chance.randbytes(SIZE), chance.randbytes(SIZE)
                whole = [Twist(kind="cut", amount=SIZE)] * chance.randrange(8)
                twists = [
                    Twist(kind=chance.choice(KINDS), amount=chance.randrange(1, 1 << 12))
                    for _ in range(chance.randrange(1, 4))
                ]
                blobs[f"file-{number}"] = Blob(body=body, other=other, twists=[*whole, *twists])
            # `fetch` compares what is stored: it is one of the two bodies, and no mixture.
            stored, _failed = await rig.fetch(blobs)
            stored_files += len(stored)
    assert stored_files > count // 2
    figure("several connections, some of which lie", f"{count:,} files, {stored_files:,} stored, all right")


async def test_a_resumed_rest_of_any_cuts_and_pieces_is_the_same_file(
    memory_path: Path, chance: random.Random, figure: Figure
) -> None:
    """Several cuts in a row, each somewhere in what is left."""
    count = pick(2_000, 100)
    cuts = 0
    async with bench(memory_path, chance) as rig:
        for _ in range(0, count, 50):
            blobs = {}
            for number in range(50):
                body = chance.randbytes(chance.choice((0, 1, 2, 1000, 40_000, 300_000)))
                # Four failures without a byte in a row are borne; these all bring some.
                twists = [
                    Twist(kind=chance.choice(("cut", "reset")), amount=chance.randrange(1, max(2, len(body))))
                    for _ in range(chance.randrange(5))
                ]
                cuts += len(twists)
                blobs[f"file-{number}"] = Blob(body=body, twists=twists, has_etag=chance.random() < 0.8)
            stored, failed = await rig.fetch(blobs)
            assert failed == {}
            assert len(stored) == 50
    figure("bodies cut several times, in pieces of chance", f"{count:,} files, {cuts:,} cuts, all equal")


async def test_no_lie_of_the_store_becomes_a_file(memory_path: Path, chance: random.Random, figure: Figure) -> None:
    """Fault A20 to A23: what comes out is the right file, or another whole one of the server's, or a typed error."""
    rounds = pick(4_000, 200)
    seen: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    async with bench(memory_path, chance) as rig:
        for _ in range(0, rounds, 40):
            blobs = {}
            for number in range(40):
                size = chance.choice((1, 2, 100, 5_000, 70_000))
                body, other = chance.randbytes(size), chance.randbytes(size)
                twists = []
                for _ in range(chance.randrange(1, 5)):
                    kind = chance.choice(KINDS)
                    seen[kind] += 1
                    amount = chance.choice((-1, 1)) if kind == "wrong-length" else chance.randrange(size)
                    twists.append(Twist(kind=kind, amount=amount))
                blobs[f"file-{number}"] = Blob(body=body, other=other, twists=twists, has_etag=chance.random() < 0.9)
            stored, failed = await rig.fetch(blobs)
            codes.update(error.code for error in failed.values())
            codes["stored"] += len(stored)
            for name, error in failed.items():
                assert error.message.isprintable()
                assert "Signature" not in error.message
                # Given up only for wrong content three times, or a line that brought nothing five times.
                assert len(blobs[name].asked) >= 3 or not error.transient
    assert set(seen) == set(KINDS)
    assert codes["stored"] > rounds // 2
    figure(
        "answers of the store that lie or break",
        f"{rounds:,} files: {codes['stored']:,} right, {sum(codes.values()) - codes['stored']:,} refused, 0 wrong",
    )


@pytest.mark.parametrize("kind", sorted(LIES))
async def test_a_body_that_is_wrong_each_time_is_never_stored(
    memory_path: Path, chance: random.Random, kind: Kind
) -> None:
    """faults.md A20, A21, A22: also where the Content-Length agrees with the wrong body, or there is none."""
    body = chance.randbytes(3000)
    async with bench(memory_path, chance) as rig:
        twists = [Twist(kind=kind, amount=chance.randrange(1, 2999)) for _ in range(20)]
        blob = Blob(body=body, twists=twists)
        stored, failed = await rig.fetch({"a.csv": blob})

    assert stored == {}
    # Without a length, or cut into a rest that is resumed, a short one is told by its size as well.
    assert failed["a.csv"].code == "F-SIZE"
    assert len(blob.asked) == 3
    assert not any(b"gzip" in head.lower().partition(b"accept-encoding:")[2] for head in blob.asked)
