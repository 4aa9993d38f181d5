"""The schema of the manifest file: migrated once, and read without a change."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from dcsync.core.lifecycle import JobState
from dcsync.core.model import JobId
from dcsync.core.ports import AccountFacts
from dcsync.errors import ManifestError, ManifestMissing, ManifestNewer
from dcsync.manifest import open_manifest, schema
from dcsync.manifest.revisions import REVISIONS
from tests.fakes import NOON, make_job, make_snapshot
from tests.rigs.sqlite import ACME, contents, downgrade, fill, raw, read

#: A manifest that another version wrote has no seal of this one.
UNSEAL = "DELETE FROM meta WHERE key = 'seal'"


# --- schema -----------------------------------------------------------------------------------------------------------


async def test_the_migrations_give_the_schema_that_the_code_has(path: Path) -> None:
    await fill(path)

    engine = sa.create_engine(f"sqlite:///{path}")
    try:
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, schema.metadata) == []
            inspected = sa.inspect(connection)
            # What alembic's comparison leaves out.
            for table in schema.metadata.tables.values():
                key = inspected.get_pk_constraint(table.name)["constrained_columns"]
                assert key == [column.name for column in table.primary_key]
                nullable = {column["name"]: column["nullable"] for column in inspected.get_columns(table.name)}
                assert nullable == {column.name: column.nullable for column in table.columns}
            assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == REVISIONS[-1]
    finally:
        engine.dispose()


async def test_opening_again_does_not_migrate_again(path: Path) -> None:
    await fill(path)
    with raw(path) as other:
        before = other.execute("PRAGMA schema_version").fetchone()

    async with open_manifest(path) as manifest:
        assert await manifest.knows_snapshots()

    with raw(path) as other:
        assert other.execute("PRAGMA schema_version").fetchone() == before
        assert other.execute("SELECT version_num FROM alembic_version").fetchall() == [(REVISIONS[-1],)]


async def test_a_manifest_of_the_first_version_is_brought_up_to_date_with_all_it_holds(path: Path) -> None:
    await fill(path)
    downgrade(path, "0001")

    async with open_manifest(path) as manifest:
        snapshot = await manifest.snapshot_before(ACME, make_job().request_id, None)

    assert snapshot is not None
    assert snapshot.files == make_snapshot().files


async def test_a_migration_that_fails_leaves_the_manifest_at_its_old_version(path: Path) -> None:
    await fill(path)
    downgrade(path, "0007")
    with raw(path) as other:
        # The column is there already: adding it fails.
        other.execute("UPDATE alembic_version SET version_num = '0001'")
        other.execute(UNSEAL)

    with pytest.raises(ManifestError, match="duplicate column"):
        async with open_manifest(path):
            pass

    with raw(path) as other:
        assert other.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]
        assert other.execute("SELECT count(*) FROM file").fetchall() == [(1,)]


@pytest.mark.parametrize("read_only", [True, False])
async def test_a_manifest_of_a_newer_version_is_refused_and_untouched(path: Path, read_only: bool) -> None:
    await fill(path)
    with raw(path) as other:
        other.execute("UPDATE alembic_version SET version_num = '9999'")
        other.execute(UNSEAL)
    before = read(path)

    with pytest.raises(ManifestNewer, match=f"schema 9999; this dcsync supports schemas up to {REVISIONS[-1]}"):
        async with open_manifest(path, read_only=read_only):
            pass

    assert read(path) == before


# --- read only --------------------------------------------------------------------------------------------------------


async def test_opened_to_be_read_it_can_be_read_and_not_changed(path: Path) -> None:
    await fill(path)
    before = read(path)

    async with open_manifest(path, read_only=True) as manifest:
        assert (await manifest.jobs(ACME)).keys() == {"job-0"}
        with pytest.raises(ManifestError, match="readonly"):
            await manifest.learn(ACME, AccountFacts(error="x"))
        assert await manifest.facts(ACME) == AccountFacts(last_poll_at=NOON)

    assert read(path) == before


async def test_opened_to_be_read_an_older_one_is_not_migrated(path: Path) -> None:
    await fill(path)
    downgrade(path, "0007")
    with raw(path) as other:
        other.execute("ALTER TABLE file DROP COLUMN packed")
        other.execute("UPDATE alembic_version SET version_num = '0001'")
        other.execute(UNSEAL)
    before = read(path)

    async with open_manifest(path, read_only=True) as manifest:
        assert (await manifest.jobs(ACME)).keys() == {"job-0"}

    assert read(path) == before


@pytest.mark.parametrize("revision", REVISIONS[2:])
async def test_opened_to_be_read_an_older_one_tells_of_jobs_and_requests(path: Path, revision: str) -> None:
    await fill(path)
    downgrade(path, revision)

    async with open_manifest(path, read_only=True) as manifest:
        assert (await manifest.jobs(ACME)).keys() == {"job-0"}
        assert await manifest.requests(ACME) == {}


async def test_opened_to_be_read_a_missing_one_is_not_made(path: Path) -> None:
    with pytest.raises(ManifestMissing, match="does not exist yet"):
        async with open_manifest(path, read_only=True):
            pass

    assert contents(path.parent) == {}


async def test_it_can_be_read_while_somebody_else_writes(path: Path) -> None:
    await fill(path)
    with raw(path) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE job SET state = 'pruned'")

        async with open_manifest(path, read_only=True) as manifest:
            assert (await manifest.jobs(ACME))[JobId("job-0")].state is JobState.PUBLISHED

        writer.execute("ROLLBACK")
