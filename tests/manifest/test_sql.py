"""The file behind the manifest: private, durable, and never believed when it is damaged."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.core.ports import AccountFacts, KnownJob
from dcsync.errors import ManifestCorrupt, ManifestError
from dcsync.manifest import SqlManifest, open_manifest
from tests.fakes import JOB_ID, NOON, make_job
from tests.rigs.sqlite import ACME, backend_of, contents, fill, publish, raw, read

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


async def pragma(manifest: SqlManifest, name: str) -> Any:
    async with backend_of(manifest)._engine.connect() as connection:
        return await connection.scalar(sa.text(f"PRAGMA {name}"))


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
            assert other.execute("SELECT name FROM content").fetchall() == [("admin_users.csv",)]


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

    assert contents(tmp_path / name).keys() == {"manifest.sqlite", "manifest.sqlite-checked"}
    assert {found.name for found in (tmp_path / name).parent.iterdir()} == {name}


async def test_a_state_folder_that_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"cannot open the manifest .*: No such file"):
        async with open_manifest(tmp_path / "missing" / "manifest.sqlite"):
            pass


@pytest.mark.needs_root
def test_a_manifest_that_may_not_be_opened_says_for_whom(tmp_path: Path) -> None:
    opened = subprocess.run([sys.executable, "-c", OPEN_AS_NOBODY, tmp_path], check=True, capture_output=True)

    assert opened.stdout == b"cannot open the manifest manifest.sqlite: Permission denied (as uid 65534)\n"


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


# --- the rest of it ---------------------------------------------------------------------------------------------------


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
