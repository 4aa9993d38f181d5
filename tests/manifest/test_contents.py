"""Each distinct file is stored once, however many snapshots have it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from dcsync.core.lifecycle import JobState
from dcsync.core.model import How, JobId, StoredFile
from dcsync.core.table import TableFacts
from dcsync.errors import ManifestCorrupt, ManifestError
from dcsync.manifest import SnapshotRows, SqlManifest, open_manifest
from tests.fakes import NOON, make_stored
from tests.rigs.manifests import ACME, BETA, know, make_publication
from tests.rigs.sqlite import raw

FILES = tuple(
    make_stored(
        f"table_{number}.csv", table=TableFacts(header=("id",), rows=number), mtime_ns=1 << 62, inode=(1 << 64) - number
    )
    for number in range(1, 700)
)


async def publish(manifest: SqlManifest, job: str, *files: StoredFile, account: str = ACME) -> None:
    await know(manifest, job, account=type(ACME)(account))
    record, _ = make_publication(JobId(job), f"{account}/{job}")
    await manifest.publish(type(ACME)(account), record, files)


async def count(manifest: SqlManifest) -> int:
    async with manifest.reading() as connection:
        return int(await connection.scalar(sa.text("SELECT count(*) FROM content")) or 0)


async def files_of(manifest: SqlManifest, job: str) -> tuple[StoredFile, ...]:
    snapshot = await manifest.history.snapshot(ACME, JobId(job))
    assert snapshot is not None
    return snapshot.files


async def test_a_file_of_many_snapshots_is_stored_once_and_each_knows_how_it_came(manifest: SqlManifest) -> None:
    linked = tuple(replace(stored, how=How.LINKED) for stored in FILES)
    await publish(manifest, "one", *FILES)
    for job in ("two", "three"):
        await publish(manifest, job, *linked)
    await publish(manifest, "four", *linked[:-1], FILES[-1])

    assert await count(manifest) == len(FILES)
    assert await files_of(manifest, "one") == tuple(sorted(FILES, key=lambda stored: stored.name))
    assert await files_of(manifest, "three") == tuple(sorted(linked, key=lambda stored: stored.name))
    assert {stored.name for stored in await files_of(manifest, "four") if stored.how is How.FETCHED} == {FILES[-1].name}


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other.csv", "original": "table_1.csv"},
        {"original": "Table_1.csv"},
        {"size": 1},
        {"crc32": 1},
        {"md5": "0" * 32},
        {"sha256": "0" * 64},
        {"etag": '"x"'},
        {"packed": 1},
        {"mtime_ns": None},
        {"inode": None},
        {"table": None},
        {"table": TableFacts(header=("id", "name"), rows=1)},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_a_file_that_differs_in_anything_is_another(manifest: SqlManifest, change: dict[str, object]) -> None:
    changed = replace(FILES[0], **change)  # type: ignore[arg-type]
    await publish(manifest, "one", FILES[0])
    await publish(manifest, "two", changed)

    assert await count(manifest) == 2
    assert await files_of(manifest, "one") == (FILES[0],)
    assert await files_of(manifest, "two") == (changed,)


async def test_contents_that_no_snapshot_has_are_dropped(manifest: SqlManifest) -> None:
    await publish(manifest, "one", *FILES)
    await publish(manifest, "two", *FILES[:3])
    await publish(manifest, "there", FILES[5], account=BETA)
    await manifest.move(ACME, JobId("one"), JobState.PRUNED, at=NOON)
    assert await count(manifest) == len(FILES)

    await SnapshotRows(manifest).forget_unused()

    assert await count(manifest) == 4
    assert await files_of(manifest, "two") == FILES[:3]


async def test_a_replaced_file_is_another_in_its_snapshot_alone(manifest: SqlManifest) -> None:
    await publish(manifest, "one", *FILES[:2])
    await publish(manifest, "two", *FILES[:2])

    await SnapshotRows(manifest).note_replaced(ACME, JobId("two"), FILES[0].name, mtime_ns=7, inode=8)

    assert await files_of(manifest, "one") == FILES[:2]
    assert await files_of(manifest, "two") == (replace(FILES[0], mtime_ns=7, inode=8), FILES[1])


async def test_two_names_that_a_file_system_treats_as_equal_are_refused(manifest: SqlManifest) -> None:
    with pytest.raises(ManifestError, match="two files of one name"):
        await publish(manifest, "one", make_stored("a.csv"), make_stored("A.csv"))


async def test_an_etag_with_a_nul_is_the_same_at_each_start(manifest: SqlManifest) -> None:
    """PostgreSQL's text cannot contain it."""
    for job in ("one", "two"):
        await publish(manifest, job, make_stored(etag='"\0"'))

    assert await count(manifest) == 1


async def test_a_file_that_is_missing_in_the_manifest_is_damage(path: Path) -> None:
    async with open_manifest(path) as manifest:
        await publish(manifest, "one", *FILES[:2])
        with raw(path) as other:
            other.execute("DELETE FROM content WHERE id = 1")

        with pytest.raises(ManifestCorrupt, match="is damaged: a file of a snapshot is missing"):
            await files_of(manifest, "one")
