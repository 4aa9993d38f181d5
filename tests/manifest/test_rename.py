"""An account gets another name: every row follows, in a file and in PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa

from dcsync.cluster.database import parse_database
from dcsync.cluster.manifest import open_shared_manifest
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.core.ports import KnownJob
from dcsync.manifest import SqlManifest, StoredValues, open_manifest
from dcsync.manifest import checksums as seal
from dcsync.manifest.damage import KnownDamage, known_damage, record_damage
from dcsync.manifest.rename import RENAMING, rename_account
from dcsync.manifest.schema import metadata
from tests.fakes import NOON, make_job
from tests.manifest.test_copy import ACME, fill

NEW = AccountName("new")


@pytest.fixture(params=["file", "shared"])
async def manifest(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlManifest]:
    async with AsyncExitStack() as stack:
        if request.param == "file":
            yield await stack.enter_async_context(open_manifest(tmp_path / "manifest.sqlite"))
        else:
            database = parse_database(request.getfixturevalue("database"))
            yield await stack.enter_async_context(open_shared_manifest(database))


async def rows(manifest: SqlManifest, account: str) -> dict[str, int]:
    """Return how many rows each table has of an account."""
    found = {}
    async with manifest.reading() as connection:
        for table in metadata.sorted_tables:
            column = table.c.name if table.name == "account" else table.c.get("account")
            if column is not None:
                query = sa.select(sa.func.count()).select_from(table).where(column == account)
                found[table.name] = await connection.scalar(query) or 0
        assert await connection.run_sync(seal.broken_row) is None
    return found


async def test_every_row_follows_and_no_digest_breaks(manifest: SqlManifest) -> None:
    await fill(manifest)
    await StoredValues(manifest).save("listings:acme", "{}")
    await StoredValues(manifest).save("latest:acme:r", "acme/r/latest")
    await StoredValues(manifest).save("listings:acme2", "other")
    before, snapshot = await rows(manifest, "acme"), await manifest.history.snapshot(ACME, JobId("job-0"))
    assert snapshot is not None
    # A poll under the new name has begun.
    await manifest.record_poll(
        NEW, jobs=[KnownJob(job=make_job(id=JobId("job-0")), state=JobState.SEEN)], requests=[], at=NOON
    )
    await StoredValues(manifest).save("listings:new", "begun")

    await rename_account(manifest, ACME, NEW, folders={"acme/0": "new/0"})

    assert await rows(manifest, "new") == before
    assert set((await rows(manifest, "acme")).values()) == {0}
    moved = await manifest.history.snapshot(NEW, JobId("job-0"))
    assert moved is not None
    assert (moved.folder, moved.files) == ("new/0", snapshot.files)
    values = StoredValues(manifest)
    assert await values.load("listings:new") == "{}"
    assert await values.load("listings:acme2") == "other"
    assert [await values.load(key) for key in ("listings:acme", "latest:acme:r", "latest:new:r")] == [None] * 3


async def test_known_damage_names_the_moved_folders_and_the_renames_are_recorded_with_the_rows(
    manifest: SqlManifest,
) -> None:
    await fill(manifest)
    await StoredValues(manifest).save(RENAMING, '[["acme", "new"]]')
    paths = {"acme/0": "new/0", "acme/0/a.csv": "new/0/a.csv", "acme/00/a.csv": "acme/00/a.csv"}
    damage = [KnownDamage(path=path, key=key, job=None) for path in paths for key in (path, None)]
    await record_damage(manifest, ACME, damage, was_read=lambda _: True)

    await rename_account(manifest, ACME, NEW, folders={"acme/0": "new/0"})

    assert await known_damage(manifest, ACME) == ()
    assert await known_damage(manifest, NEW) == tuple(
        KnownDamage(path=path, key=key, job=None) for path in paths.values() for key in (path, None)
    )
    assert await StoredValues(manifest).load(RENAMING) is None


async def test_a_folder_that_does_not_move_stays_recorded(manifest: SqlManifest) -> None:
    await fill(manifest)

    await rename_account(manifest, ACME, NEW, folders={})

    assert await manifest.published_folders(NEW) == {"job-0": "acme/0"}
