"""The file behind the manifest: private, durable, migrated once, and never believed when it is damaged."""

from __future__ import annotations

import asyncio
import gc
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.core.ports import AccountFacts, KnownJob
from dcsync.errors import ManifestCorrupt, ManifestError, ManifestNewer
from dcsync.manifest import SqlManifest, open_manifest, schema
from dcsync.manifest.migrate import REVISIONS
from dcsync.manifest.sqlite import SqliteBackend
from tests.fakes import JOB_ID, NOON, make_job, make_published, make_snapshot

ACME = AccountName("acme")
HEADER = b"SQLite format 3\0"

#: Makes a manifest, becomes nobody, and opens it again.
OPEN_AS_NOBODY = """
import asyncio, os, sys
from pathlib import Path
from dcsync.errors import ManifestError
from dcsync.manifest import open_manifest
async def main():
    async with open_manifest(Path("manifest.sqlite")):
        pass
    os.setuid(65534)
    try:
        async with open_manifest(Path("manifest.sqlite")):
            print("opened")
    except ManifestError as error:
        print(error)
os.chdir(sys.argv[1])
asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "manifest.sqlite"


#: A manifest that another version wrote has no seal of this one.
UNSEAL = "DELETE FROM meta WHERE key = 'seal'"


@contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """Another program's connection to the file."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=0)
    try:
        yield connection
    finally:
        connection.close()


def backend_of(manifest: SqlManifest) -> SqliteBackend:
    assert isinstance(manifest.backend, SqliteBackend)
    return manifest.backend


async def fill(path: Path, jobs: int = 1) -> None:
    """Make a manifest with so many published jobs."""
    async with open_manifest(path) as manifest:
        for number in range(jobs):
            await publish(manifest, f"job-{number}")


async def publish(manifest: SqlManifest, job: str) -> None:
    await manifest.record_poll(
        ACME, jobs=[KnownJob(job=make_job(id=JobId(job)), state=JobState.SEEN)], requests=[], at=NOON
    )
    await manifest.publish(ACME, make_published(job, folder=f"acme/{job}"), make_snapshot().files)


async def pragma(manifest: SqlManifest, name: str) -> Any:
    async with backend_of(manifest)._engine.connect() as connection:
        return await connection.scalar(sa.text(f"PRAGMA {name}"))


def contents(folder: Path) -> dict[str, bytes]:
    return {found.name: found.read_bytes() for found in folder.iterdir()}


def read(path: Path) -> bytes:
    return path.read_bytes()


def write(path: Path, body: bytes) -> None:
    path.write_bytes(body)


# --- how it is opened -------------------------------------------------------------------------------------------------


async def test_a_commit_is_on_the_disk_when_it_is_acknowledged(path: Path) -> None:
    async with open_manifest(path) as manifest:
        # Values by SQLite's documentation: 2 is FULL; with NORMAL (1) a power cut takes acknowledged commits.
        assert await pragma(manifest, "synchronous") == 2
        assert await pragma(manifest, "journal_mode") == "wal"
        assert await pragma(manifest, "foreign_keys") == 1
        assert await pragma(manifest, "busy_timeout") == 30_000


async def test_what_was_written_can_be_read_by_others_before_the_manifest_is_closed(path: Path) -> None:
    async with open_manifest(path) as manifest:
        await publish(manifest, JOB_ID)

        with raw(path) as other:
            assert other.execute("SELECT state, folder FROM job").fetchall() == [("published", f"acme/{JOB_ID}")]
            assert other.execute("SELECT name FROM file").fetchall() == [("admin_users.csv",)]


@pytest.mark.parametrize("again", ["read", "written"])
async def test_another_process_that_ends_does_not_take_the_log_away(path: Path, again: str) -> None:
    """A process that closes a file loses its locks on it: to look at the manifest once more must not open it itself."""
    look = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); print(c.execute(sys.argv[2]).fetchall()); c.close()"

    def other(query: str) -> str:
        argv = [sys.executable, "-c", look, str(path), query]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    async with open_manifest(path) as manifest:
        await manifest.set_instance("first")
        if again == "read":
            async with open_manifest(path, read_only=True) as status:
                assert await status.instance() == "first"
        else:
            async with open_manifest(path) as hooks:
                assert await hooks.instance() == "first"
        log = path.with_name("manifest.sqlite-wal").stat().st_ino
        other("SELECT count(*) FROM meta")

        assert path.with_name("manifest.sqlite-wal").stat().st_ino == log
        await manifest.set_instance("second")
        assert "second" in other("SELECT value FROM meta WHERE key = 'instance'")


async def test_nobody_else_can_read_the_manifest(path: Path) -> None:
    async with open_manifest(path) as manifest:
        await publish(manifest, JOB_ID)

        modes = {found.name: stat.S_IMODE(found.stat().st_mode) for found in path.parent.iterdir()}

    assert modes == dict.fromkeys(("manifest.sqlite", "manifest.sqlite-wal", "manifest.sqlite-shm"), 0o600)


@pytest.mark.parametrize("name", ["with space", "a&b=c;d+e", "ü", "50%20off", "why?", "a#b", "no\udcfftext"])
async def test_any_name_of_a_folder_will_do(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()

    await fill(tmp_path / name / "manifest.sqlite")

    assert contents(tmp_path / name).keys() == {"manifest.sqlite"}
    assert {found.name for found in (tmp_path / name).parent.iterdir()} == {name}


async def test_a_state_folder_that_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"cannot open the manifest .*: No such file"):
        async with open_manifest(tmp_path / "missing" / "manifest.sqlite"):
            pass


@pytest.mark.needs_root
def test_a_manifest_that_may_not_be_opened_says_for_whom(tmp_path: Path) -> None:
    opened = subprocess.run([sys.executable, "-c", OPEN_AS_NOBODY, tmp_path], check=True, capture_output=True)

    assert opened.stdout == b"cannot open the manifest manifest.sqlite: Permission denied (as uid 65534)\n"


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


def downgrade(path: Path, revision: str) -> None:
    """Take a manifest back to what an older version wrote, by the migrations' own way back."""
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
    engine.dispose()


async def test_a_manifest_of_the_first_version_is_brought_up_to_date_with_all_it_holds(path: Path) -> None:
    await fill(path)
    downgrade(path, "0001")

    async with open_manifest(path) as manifest:
        snapshot = await manifest.snapshot_before(ACME, make_job().request_id, None)

    assert snapshot is not None
    assert snapshot.files == make_snapshot().files


async def test_a_migration_that_fails_leaves_the_manifest_at_its_old_version(path: Path) -> None:
    await fill(path)
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
    with pytest.raises(ManifestError, match="cannot open the manifest"):
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


# --- damage -----------------------------------------------------------------------------------------------------------


async def test_no_page_of_it_can_be_garbage_without_being_noticed(path: Path) -> None:
    await fill(path, jobs=3)
    body = read(path)
    size = int.from_bytes(body[16:18], "big")
    assert len(body) // size > 10

    for page in range(len(body) // size):
        garbage = bytes((7 * index + page) % 251 for index in range(size))
        write(path, body[: page * size] + garbage + body[(page + 1) * size :])

        with pytest.raises(ManifestCorrupt, match="is damaged") as caught:
            async with open_manifest(path):
                pass

        assert "dcsync rebuild" in caught.value.advice


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda body: b"not a database" * 100, id="another file"),
        pytest.param(lambda body: HEADER + b"\0" * (len(body) - 16), id="zeros after the header"),
        pytest.param(lambda body: body[: len(body) // 2], id="half of it"),
        pytest.param(lambda body: body[:4096], id="one page of it"),
    ],
)
@pytest.mark.parametrize("read_only", [True, False])
async def test_a_damaged_manifest_is_refused_and_left_as_it_is(path: Path, damage: Any, read_only: bool) -> None:
    await fill(path, jobs=3)
    damaged = damage(read(path))
    write(path, damaged)

    with pytest.raises(ManifestCorrupt):
        async with open_manifest(path, read_only=read_only):
            pass

    assert read(path) == damaged


async def test_what_was_not_yet_in_the_file_is_in_its_log(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    async with open_manifest(path) as manifest:
        await publish(manifest, JOB_ID)
        # As after a kill: nobody closed it, and the -shm is lost.
        for name in ("manifest.sqlite", "manifest.sqlite-wal"):
            shutil.copy(path.with_name(name), copy / name)

    async with open_manifest(copy / "manifest.sqlite") as manifest:
        assert await manifest.published_folders(ACME) == {JOB_ID: f"acme/{JOB_ID}"}


async def test_no_message_holds_the_value_of_a_row(path: Path) -> None:
    async with open_manifest(path) as manifest:
        await publish(manifest, "a")
        await manifest.record_poll(
            ACME, jobs=[KnownJob(job=make_job(id=JobId("b")), state=JobState.SEEN)], requests=[], at=NOON
        )

        with pytest.raises(ManifestError) as caught:
            await manifest.move(ACME, JobId("b"), JobState.LISTED, at=NOON, folder="acme/a", reason="a secret")

    assert "job.folder" in str(caught.value)
    assert "acme/a" not in str(caught.value)
    assert "a secret" not in str(caught.value)


# --- two writers, and writers that are cancelled ----------------------------------------------------------------------


async def test_a_writer_waits_until_the_other_one_is_done(path: Path) -> None:
    await fill(path)
    facts = AccountFacts(error="written second")
    async with open_manifest(path) as manifest, asyncio.TaskGroup() as group:
        with raw(path) as other:
            other.execute("BEGIN IMMEDIATE")
            other.execute("UPDATE account SET error = 'written first'")
            writing = group.create_task(manifest.learn(ACME, facts))
            # The time is not waited for but given: one that does not wait is refused within it.
            _, waiting = await asyncio.wait({writing}, timeout=0.2)
            other.execute("COMMIT")
        await writing

        assert waiting == {writing}
        assert await manifest.facts(ACME) == facts


async def cancel_at(manifest: SqlManifest, statement: str, moment: str) -> bool:
    """Publish, and cancel that when the database is at a statement; say whether it came there and was cancelled."""
    reached = False

    def cancel(connection: object, cursor: object, executed: str, *rest: object) -> None:
        nonlocal reached
        if executed.startswith(statement) and not reached:
            reached = True
            publishing.cancel()

    sa.event.listen(backend_of(manifest)._engine.sync_engine, moment, cancel)
    async with asyncio.TaskGroup() as group:
        publishing = group.create_task(publish(manifest, JOB_ID))
    sa.event.remove(backend_of(manifest)._engine.sync_engine, moment, cancel)
    return reached and publishing.cancelled()


@pytest.mark.parametrize(
    "statement", ["BEGIN", "INSERT INTO job", "UPDATE job SET request", "DELETE FROM file", "INSERT INTO file"]
)
@pytest.mark.parametrize("moment", ["before_cursor_execute", "after_cursor_execute"])
async def test_a_write_that_is_cancelled_at_a_statement_is_rolled_back_whole(
    path: Path, statement: str, moment: str
) -> None:
    async with open_manifest(path) as manifest:
        await publish(manifest, "before")
        before = await manifest.jobs(ACME)

        assert await cancel_at(manifest, statement, moment)
        # What a cancelled statement leaves in a reference cycle would hold the lock.
        gc.collect()

        after = dict(await manifest.jobs(ACME))
        # The poll before it is a transaction of its own.
        polled = after.pop(JOB_ID, None)
        assert after == before
        assert polled is None or (polled.state, polled.folder) == (JobState.SEEN, None)
        assert (polled is None) == (statement in {"BEGIN", "INSERT INTO job"})
        with raw(path) as other:
            assert other.execute("SELECT job FROM file").fetchall() == [("before",)]


# --- the rest of it ---------------------------------------------------------------------------------------------------


async def test_closing_comes_to_its_end_however_often_it_is_cancelled(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """docs/project/faults.md D10: a second SIGTERM comes while the first one closes everything."""
    opened = asyncio.Event()

    async def hold() -> None:
        async with open_manifest(path):
            opened.set()
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        holding = group.create_task(hold())
        await opened.wait()
        while not holding.done():
            holding.cancel()
            await asyncio.sleep(0)  # noqa: TID251 - one turn of the loop

    assert holding.cancelled()
    assert caplog.records == []


async def test_a_manifest_belongs_to_one_mirror(path: Path) -> None:
    async with open_manifest(path) as manifest:
        assert await manifest.instance() is None
        await manifest.set_instance("first")
        await manifest.set_instance("second")

    async with open_manifest(path) as manifest:
        assert await manifest.instance() == "second"


async def test_a_manifest_knows_snapshots_only_while_one_is_published(path: Path) -> None:
    async with open_manifest(path) as manifest:
        assert not await manifest.knows_snapshots()
        await publish(manifest, JOB_ID)
        assert await manifest.knows_snapshots()
        await manifest.move(ACME, JOB_ID, JobState.PRUNED, at=NOON)
        assert not await manifest.knows_snapshots()


async def test_accounts_are_those_that_were_learnt_polled_or_published(path: Path) -> None:
    async with open_manifest(path) as manifest:
        await manifest.learn(AccountName("learnt"), AccountFacts())
        await manifest.record_poll(AccountName("polled"), jobs=[], requests=[], at=NOON)
        await publish(manifest, JOB_ID)

        assert await manifest.accounts() == ["acme", "learnt", "polled"]


async def test_a_run_is_a_row(path: Path) -> None:
    async with open_manifest(path) as manifest:
        for error in (None, "A-NETWORK"):
            await manifest.record_run(
                ACME,
                started_at=NOON,
                ended_at=NOON + timedelta(seconds=3),
                published=1,
                failed=2,
                calls=3,
                fetched_bytes=2**40,
                linked_bytes=5,
                error_code=error,
            )

    microseconds = int(NOON.timestamp()) * 1_000_000
    row = ("acme", microseconds, microseconds + 3_000_000, 1, 2, 3, 2**40, 5)
    with raw(path) as other:
        assert other.execute("SELECT * FROM run ORDER BY id").fetchall() == [
            (1, *row, None),
            (2, *row, "A-NETWORK"),
        ]


@pytest.mark.parametrize(
    ("moment", "microseconds"),
    [
        (datetime(1970, 1, 1, tzinfo=UTC), 0),
        (datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), -1),
        (datetime(2026, 11, 22, 12, 0, 0, 1, tzinfo=UTC), 1_795_348_800_000_001),
        (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), 253_402_300_799_999_999),
        (datetime(2026, 11, 22, 14, 0, tzinfo=timezone(timedelta(hours=2))), 1_795_348_800_000_000),
    ],
)
async def test_a_time_is_stored_as_microseconds_and_comes_back_in_utc(
    path: Path, moment: datetime, microseconds: int
) -> None:
    async with open_manifest(path) as manifest:
        await manifest.learn(ACME, AccountFacts(last_poll_at=moment))
        found = (await manifest.facts(ACME)).last_poll_at

        with raw(path) as other:
            assert other.execute("SELECT last_poll_at FROM account").fetchall() == [(microseconds,)]

    assert found == moment
    assert found is not None
    assert found.tzinfo is UTC


# --- cancelling -------------------------------------------------------------------------------------------------------

#: Takes a tenth of a second, so that cancelling meets it at work.
SLOW = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT max(i) FROM n"


@pytest.mark.parametrize("turns", range(8))
async def test_a_read_that_is_cancelled_again_while_it_closes_leaves_nothing_that_never_ends(
    path: Path, turns: int
) -> None:
    """Three times Ctrl-C: the loop waited for ever for a thread that had ended."""

    async def read() -> None:
        async with open_manifest(path) as manifest, manifest.reading() as connection:
            begun.set()
            await connection.execute(sa.text(SLOW))

    begun, before = asyncio.Event(), asyncio.all_tasks()
    task = asyncio.ensure_future(read())  # noqa: TID251 - it is cancelled, and awaited below
    await begun.wait()
    await asyncio.sleep(0.01)  # noqa: TID251 - the thread's work
    task.cancel()
    for _ in range(3):
        for _ in range(turns):
            await asyncio.sleep(0)  # noqa: TID251 - where in closing the next one comes
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    left = asyncio.all_tasks() - before
    for other in left:
        other.cancel()
    if left:
        _, endless = await asyncio.wait(left, timeout=10)
        assert endless == set()
