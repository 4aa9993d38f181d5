"""Damage that leaves SQLite's structure sound: a byte that changed within a value is noticed at the next start."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName
from dcsync.core.ports import AccountFacts
from dcsync.core.summary import Summary
from dcsync.core.table import TableFacts
from dcsync.errors import ManifestCorrupt
from dcsync.manifest import SnapshotRows, StoredValues, open_manifest
from tests.fakes import JOB_ID, NOON, make_record, make_stored

ACME = AccountName("acme")
FOLDER = "acme/request/2026/11/22/120000Z-9bd7c8a0"


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A manifest with one snapshot, closed."""
    async with open_manifest(tmp_path / "manifest.sqlite") as manifest:
        await manifest.set_instance("an instance")
        table = TableFacts(header=("id", "name"), rows=0, is_cut=False)
        files = [make_stored(table=table), make_stored("b.csv")]
        await SnapshotRows(manifest).restore(ACME, make_record(summary=Summary(files=2, size=16)), files=files)
        await manifest.learn(ACME, AccountFacts(bytes_per_second=0.1))
    return tmp_path / "manifest.sqlite"


def change(path: Path, *statements: str) -> None:
    """Change rows behind dcsync's back."""
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


async def opens(path: Path) -> None:
    async with open_manifest(path):
        pass


async def test_an_untouched_manifest_opens(path: Path) -> None:
    await opens(path)
    await opens(path)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE job SET state = 'pruned'",
        "UPDATE job SET folder = folder || 'x'",
        "UPDATE job SET document = replace(document, 'success', 'succesr')",
        "UPDATE job SET seconds = seconds + 1e-12",
        "UPDATE job SET completed_at = completed_at + 1",
        "UPDATE job SET digest = 'x'",
        "UPDATE job SET files = NULL",
        "UPDATE job SET files = replace(files, '2', '1')",
        "UPDATE job SET files = replace(files, 'fetched', 'linked')",
        "UPDATE job SET files = 'x'",
        "UPDATE job SET files = '[1]'",
        "UPDATE job SET holds_table = 0",
        "UPDATE content SET sha256 = replace(sha256, 'a', 'b')",
        "UPDATE content SET size = size + 1",
        "UPDATE content SET etag = 'x'",
        "UPDATE content SET inode = '5'",
        "UPDATE content SET digest = 'x' WHERE name = 'b.csv'",
        "UPDATE content SET id = 99 WHERE name = 'b.csv'",
        "DELETE FROM content WHERE name = 'b.csv'",
        "UPDATE request SET slug = slug || 'x'",
        "UPDATE request SET is_delta = 1",
        "UPDATE header SET names = replace(names, 'id', 'ix')",
        "UPDATE header SET is_cut = 1",
        "UPDATE job SET summary = replace(summary, '2', '3')",
        "UPDATE meta SET value = 'another' WHERE key = 'instance'",
        "UPDATE meta SET value = 'x' WHERE key = 'seal'",
        "UPDATE alembic_version SET version_num = '0003'",
        "UPDATE alembic_version SET version_num = '0099'",
        "DROP INDEX job_by_state",
        "ALTER TABLE job RENAME COLUMN strategy TO strategx",
        "ALTER TABLE run RENAME TO rum",
        "UPDATE account SET last_poll_at = 9000000000000000000",
    ],
)
async def test_a_change_behind_our_back_is_damage(path: Path, statement: str) -> None:
    change(path, statement)

    with pytest.raises(ManifestCorrupt):
        await opens(path)


async def test_a_row_of_an_earlier_time_is_damage(path: Path) -> None:
    """A disk that lost a write has a row that is sound in itself."""
    async with open_manifest(path) as manifest:
        with closing(sqlite3.connect(path)) as connection:
            before = connection.execute("SELECT * FROM content WHERE name = 'b.csv'").fetchone()
        record = make_record(summary=Summary(files=1, size=8))
        await SnapshotRows(manifest).restore(ACME, record, files=[make_stored("b.csv", etag='"new"')])
        await SnapshotRows(manifest).forget_unused()
    with closing(sqlite3.connect(path)) as connection:
        ((number,),) = connection.execute("SELECT id FROM content").fetchall()
        connection.execute("DELETE FROM content")
        marks = ", ".join("?" * len(before))
        connection.execute(f"INSERT INTO content VALUES ({marks})", (number, *before[1:]))  # noqa: S608 - marks
        connection.commit()

    with pytest.raises(ManifestCorrupt):
        await opens(path)


async def test_text_that_is_no_utf_8_is_damage(path: Path) -> None:
    change(path, "UPDATE account SET error = CAST(x'ff80' AS TEXT)")

    with pytest.raises(ManifestCorrupt):
        await opens(path)


async def test_a_note_may_be_written_by_anybody(path: Path) -> None:
    change(path, "INSERT INTO meta VALUES ('settings', '{}')")

    await opens(path)


async def test_every_write_keeps_the_seal(path: Path) -> None:
    async with open_manifest(path) as manifest:
        records = SnapshotRows(manifest)
        await records.note_replaced(ACME, JOB_ID, "b.csv", mtime_ns=5, inode=7)
        await StoredValues(manifest).save("a note", "x")
        await StoredValues(manifest).save("a note", None)
        await manifest.set_instance("another")
        await manifest.move(ACME, JOB_ID, JobState.PRUNED, at=NOON)
    await opens(path)
