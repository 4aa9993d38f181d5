"""The mirrors that earlier versions made, in the hands of this version: each opens, proves, grows and is rebuilt.

`data/mirror-….tar.xz` hold the mirror and the state folder: three requests (one of them a delta), six snapshots with
hard links between them, one of which was pruned, one failed job, one run that stopped, alerts, and finished hook runs.
No file of a release's mirror is ever changed in the repository: a new version gets a new file.
"""

from __future__ import annotations

import hashlib
import sqlite3
import tarfile
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dcsync.app.from_config import account_settings
from dcsync.app.mirror import open_mirror_unlocked, read_mirror
from dcsync.app.rebuild import rebuild_manifest
from dcsync.app.status import read_status
from dcsync.core.diff import Fate
from dcsync.core.model import AccountName
from dcsync.manifest import HookRuns, StandingAlerts
from dcsync.ops.diff import compare
from dcsync.ops.integrity.verify import verify
from tests.rigs.mirror import Mirror, add_extract, assert_proved_by_sums, mirroring, sidecar, tables
from tests.rigs.sqlite import FILE_VIEW

ACME = AccountName("acme")
DATA = Path(__file__).parent / "data"
VERSIONS = ("0.1", "0.2")
#: The jobs and the snapshots in it: the first job's snapshot was pruned, two jobs brought none.
SNAPSHOTS = 5
PUBLISHED = 6
JOBS = 8


def add_its_past(mirror: Mirror) -> list[str]:
    """Give the sandbox what the account had when the mirror was made; the ids follow from the order."""
    first = mirror.world.add_request("My Company Data Extract")
    second = mirror.world.add_request("Größe: <2>")
    delta = mirror.world.add_request("Changes", service_groups=("cdcadmin",))
    jobs = []
    for day in range(3):
        files = {**tables(4), "con.csv": b"id\n" + b"1\n" * (10 + day), "a:b.csv": b""}
        jobs.append(add_extract(mirror, files, request=first, days_ago=3.5 - day, with_archive=True))
        if day:
            jobs.append(add_extract(mirror, tables(2, seed=day), request=second, days_ago=3.2 - day))
    jobs.append(add_extract(mirror, {"cdc.csv": b"id\n1\n"}, request=delta, days_ago=0.5))
    jobs.append(add_extract(mirror, {"gone.csv": b"id\n1\n"}, request=second, days_ago=0.4))
    jobs.append(add_extract(mirror, {"torn.csv": b"id\n1\n" * 100}, request=second, days_ago=0.3))
    return jobs


def bodies(mirror: Mirror) -> dict[str, tuple[int, str]]:
    """Return mode and hash of every file in a snapshot."""
    return {
        str(path.relative_to(mirror.root)): (path.stat().st_mode, hashlib.sha256(path.read_bytes()).hexdigest())
        for snapshot in mirror.snapshots()
        for path in snapshot.rglob("*")
        if path.is_file()
    }


def rows(mirror: Mirror) -> dict[str, list[dict[str, Any]]]:
    """Return the rows that the tree can give back."""
    with closing(sqlite3.connect(mirror.state / "manifest.sqlite")) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute(FILE_VIEW)
        found = {
            "job": "SELECT * FROM job WHERE state IN ('published', 'pruned') ORDER BY account, id",
            "file": "SELECT * FROM file ORDER BY account, job, name",
            "request": "SELECT account, id, slug, description, is_delta, first_seen_at FROM request ORDER BY id",
        }
        return {table: [dict(row) for row in connection.execute(query)] for table, query in found.items()}


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """The version that made the mirror."""
    made_by: str = request.param
    return made_by


@pytest.fixture
async def older(tmp_path: Path, version: str) -> AsyncIterator[Mirror]:
    """The older mirror on the disk, and a sandbox that knows its jobs, an hour after its last run."""
    async with mirroring(tmp_path) as mirror:
        with tarfile.open(DATA / f"mirror-{version}.tar.xz") as packed:
            packed.extractall(tmp_path, filter="tar")
        jobs = add_its_past(mirror)
        assert len(jobs) == JOBS
        mirror.clock.advance(2 * 3600)
        yield mirror


def test_every_release_is_there() -> None:
    assert sorted(path.name for path in DATA.glob("mirror-*")) == [f"mirror-{made_by}.tar.xz" for made_by in VERSIONS]


async def test_the_fixture_is_what_it_says(older: Mirror, version: str) -> None:
    assert len(older.snapshots()) == SNAPSHOTS
    assert {sidecar(path)["dcsync"] for path in older.snapshots()} == {f"{version}.0"}
    assert {sidecar(path)["job"]["id"] for path in older.snapshots()} < older.world.jobs.keys()
    assert any(path.stat().st_nlink > 1 for path in older.root.rglob("*.csv"))
    assert (older.root / ".dcsync" / "pruned.jsonl").read_text().count("\n") == 1
    assert oct(next(older.root.rglob("*.csv")).stat().st_mode & 0o777) == oct(0o444)


async def test_status_shows_it_without_changing_anything(older: Mirror) -> None:
    before = (older.state / "manifest.sqlite").read_bytes()

    document: Any = (await read_status(older.configuration(), older.stores(), clock=older.clock)).json()

    (account,) = document["accounts"]
    assert account["jobs"]["published"] == SNAPSHOTS
    assert account["jobs"]["pruned"] == 1
    assert account["jobs"]["failed"] == 1
    assert {item["code"] for item in account["attention"]} >= {"A-SERVER", "L-MISSING"}
    assert (older.state / "manifest.sqlite").read_bytes() == before


async def test_verify_finds_no_problem(older: Mirror) -> None:
    async with open_mirror_unlocked(older.configuration(), older.stores(), clock=older.clock) as context:
        report = await verify(context, account_settings(older.configuration()))

    assert report.damage == []
    assert report.snapshots == SNAPSHOTS
    for snapshot in older.snapshots():
        assert_proved_by_sums(snapshot)


async def test_diff_compares_two_of_its_snapshots(older: Mirror) -> None:
    async with read_mirror(older.configuration(), older.stores()) as context:
        compared = await compare(context, [ACME], "previous", "latest", request="my-company-data-extract-911686f6")

    assert [(change.name, change.fate) for change in compared.diff.tables] == [("con.csv", Fate.CHANGED)]


async def test_what_it_was_told_and_what_hooks_ran_is_known(older: Mirror) -> None:
    async with older.opened() as context:
        ran = await HookRuns(context.manifest).latest(limit=100)
        standing = await StandingAlerts(context.manifest).load(["acme"])
        past = await context.manifest.history.snapshots(ACME)

    assert len(ran) == PUBLISHED
    assert {entry.exit_status for entry in ran} == {0}
    assert {entry.alert.code for entry in standing} == {"A-SERVER", "L-MISSING"}
    assert [entry.is_pruned for entry in past] == [True, *[False] * SNAPSHOTS]
    assert sum(entry.fetched_bytes for entry in past) == 2800 + 25 + 27 + 2001 + 2001 + 5


async def test_a_sync_goes_on_where_it_stopped_and_changes_no_published_byte(older: Mirror) -> None:
    before = bodies(older)
    first = next(iter(older.world.requests))
    files = {**tables(4), "con.csv": b"id\n" + b"1\n" * 50, "a:b.csv": b""}
    new = add_extract(older, files, request=first, days_ago=0.01, with_archive=True)

    outcome = await older.sync_one()

    assert outcome.error is None
    assert outcome.failed == []
    assert {published.job for published in outcome.published} >= {new}
    assert len(outcome.published) == 3
    assert bodies(older).items() >= before.items()
    older.assert_identical(new)
    changed = sidecar(older.snapshot_of(new))["changes"]["changed"]
    # The simulator of that version wrote other schema documents.
    assert [name for name in changed if not name.startswith("schemas/")] == ["con.csv"]
    latest = older.root / "acme" / "my-company-data-extract-911686f6" / "latest"
    assert latest.resolve() == older.snapshot_of(new)
    again = await older.sync_one()
    assert again.published == []
    async with open_mirror_unlocked(older.configuration(), older.stores(), clock=older.clock) as context:
        assert (await verify(context, account_settings(older.configuration()))).damage == []


async def test_unchanged_files_are_linked_to_its_files(older: Mirror) -> None:
    """Unpacked files have another inode than the manifest knows: their content is read, and then they are linked."""
    first = next(iter(older.world.requests))
    source = older.snapshot_of(list(older.world.jobs)[3]) / "admin_table_001.csv"
    files = {**tables(4), "con.csv": b"id\n" + b"1\n" * 50, "a:b.csv": b""}
    new = add_extract(older, files, request=first, days_ago=0.01, with_archive=True)

    await older.sync_one()

    assert source.samefile(older.snapshot_of(new) / "admin_table_001.csv")


async def test_a_rebuild_gives_the_same_rows(older: Mirror) -> None:
    async with older.opened():
        pass  # migrated, if this version has another schema
    before = rows(older)

    report = await rebuild_manifest(older.configuration(), older.stores(), clock=older.clock)

    assert report.is_whole
    assert len(report.snapshots) == SNAPSHOTS
    assert report.pruned == 1
    after = rows(older)
    for found in (before, after):
        for row in found["file"]:
            # Unpacking gives other inodes, and times without their last digits: only the rebuilt row knows these.
            del row["inode"], row["mtime_ns"]
        for row in found["job"]:
            # A digest covers them, and a rebuild may number the contents otherwise.
            del row["digest"], row["files"]
    assert after == before
