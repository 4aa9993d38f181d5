"""The manifest made anew from the tree: row for row, whatever became of the old one."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dcsync.app.from_config import account_settings
from dcsync.app.rebuild import rebuild_manifest
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.core.retention import KeepPolicy
from dcsync.errors import ManifestCorrupt, MirrorForeign, MirrorNotMounted
from dcsync.manifest import StoredValues
from dcsync.ops.integrity.prune import prune
from dcsync.ops.integrity.rebuild import REBUILDING, RebuildReport
from tests.rigs.mirror import Mirror, add_extract, tables

ACME = AccountName("acme")
RANDOM_WAYS = 30


def manifest_file(mirror: Mirror) -> Path:
    return mirror.state / "manifest.sqlite"


def drop_manifest(mirror: Mirror) -> None:
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()


def rows(mirror: Mirror) -> dict[str, list[dict[str, Any]]]:
    """Return all that the tree can give back: every row but the API's description of a request."""
    with closing(sqlite3.connect(manifest_file(mirror))) as connection:
        connection.row_factory = sqlite3.Row
        found = {
            table: [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3")]  # noqa: S608 - our tables
            for table in ("job", "file", "request")
        }
    for row in found["request"]:
        # It holds the address to call back, which is nobody's business who reads the mirror.
        del row["document"], row["digest"]
    return found


async def fill(mirror: Mirror) -> None:
    """Make a mirror of two requests and a delta one, over three days, with names that have to be escaped."""
    first = mirror.world.add_request("My Company Data Extract")
    second = mirror.world.add_request("Größe: <2>")
    delta = mirror.world.add_request("Changes", service_groups=("cdcadmin",), date_range="YESTERDAY")
    for day in range(3):
        add_extract(mirror, {**tables(3), "con.csv": b"x" * day, "a:b.csv": b""}, request=first, days_ago=3 - day)
        add_extract(mirror, tables(4, seed=day), request=second, days_ago=2.7 - day, with_archive=True)
        mirror.clock.advance(0.123456)
    add_extract(mirror, {"cdc.csv": b"1"}, request=delta, days_ago=0.5)
    await mirror.sync()
    assert len(mirror.snapshots()) == 7


async def reopen(mirror: Mirror) -> None:
    """Start once, and read all there is, as a run would."""
    async with mirror.opened() as context:
        for account in await context.manifest.accounts():
            await context.manifest.facts(account)
            await context.manifest.jobs(account)
            await context.manifest.requests(account)


# --- the manifest is lost or damaged ----------------------------------------------------------------------------------


async def test_a_lost_manifest_is_made_anew_row_for_row(mirror: Mirror) -> None:
    await fill(mirror)
    before = rows(mirror)
    assert len(before["job"]) == 7
    assert len(before["file"]) > 25
    drop_manifest(mirror)
    mirror.clock.advance(3600)

    await reopen(mirror)

    assert rows(mirror) == before


def flip(body: bytearray, chance: random.Random, bits: int) -> None:
    for _ in range(bits):
        body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)


def overwrite(body: bytearray, chance: random.Random, piece: bytes) -> None:
    start = chance.randrange(len(body))
    body[start : start + len(piece)] = piece[: len(body) - start]


def truncate(body: bytearray, chance: random.Random) -> None:
    del body[chance.randrange(len(body)) :]


def swap_pages(body: bytearray, chance: random.Random) -> None:
    pages = len(body) // 4096
    one, other = (4096 * page for page in chance.sample(range(pages), 2))
    body[one : one + 4096], body[other : other + 4096] = body[other : other + 4096], body[one : one + 4096]


def zero_page(body: bytearray, chance: random.Random) -> None:
    start = 4096 * chance.randrange(len(body) // 4096)
    body[start : start + 4096] = bytes(4096)


WAYS: list[Callable[[bytearray, random.Random], None]] = [
    lambda body, chance: flip(body, chance, 1),
    lambda body, chance: flip(body, chance, 1),
    lambda body, chance: flip(body, chance, chance.randrange(2, 50)),
    lambda body, chance: overwrite(body, chance, chance.randbytes(chance.randrange(1, 9000))),
    lambda body, chance: overwrite(body, chance, bytes(chance.randrange(1, 9000))),
    truncate,
    truncate,
    swap_pages,
    zero_page,
    lambda body, chance: overwrite(body, chance, b"published" * 100),
]


@pytest.mark.timeout(300)
async def test_a_manifest_damaged_in_random_ways_rebuilds_to_the_same_rows(mirror: Mirror, tmp_path: Path) -> None:
    """docs/project/faults.md M3. Damage that hits no row causes no rebuild. The rows after a start are what counts."""
    await fill(mirror)
    before, sound = rows(mirror), manifest_file(mirror).read_bytes()
    wrong, noticed = [], 0
    for number in range(RANDOM_WAYS):
        chance = random.Random(number)
        body = bytearray(sound)
        WAYS[number % len(WAYS)](body, chance)
        drop_manifest(mirror)
        manifest_file(mirror).write_bytes(body)
        if number % 7 == 0:
            (mirror.state / "manifest.sqlite-wal").write_bytes(chance.randbytes(5000))
            (mirror.state / "manifest.sqlite-shm").write_bytes(chance.randbytes(32768))
        try:
            await reopen(mirror)
            await reopen(mirror)
        except Exception as error:  # noqa: BLE001 - all of them are shown at the end
            wrong.append(f"{number}: {type(error).__name__}: {error}")
            continue
        if rows(mirror) != before:
            wrong.append(f"{number}: other rows")
        noticed += any(mirror.state.glob("manifest.sqlite.damaged-*"))

    assert wrong == []
    assert noticed > RANDOM_WAYS / 2


async def test_the_damaged_manifest_is_set_aside_under_a_dated_name_and_kept(mirror: Mirror) -> None:
    await fill(mirror)
    manifest_file(mirror).write_bytes(b"no database at all" * 1000)

    await reopen(mirror)

    (aside,) = mirror.state.glob("manifest.sqlite.*")
    assert aside.name == "manifest.sqlite.damaged-20261122T120000Z"
    assert aside.read_bytes() == b"no database at all" * 1000


async def test_a_second_damage_in_the_same_second_overwrites_no_older_one(mirror: Mirror) -> None:
    await fill(mirror)
    for number in range(2):
        manifest_file(mirror).write_bytes(b"no database: %d" % number * 1000)
        await reopen(mirror)

    assert len(list(mirror.state.glob("manifest.sqlite.damaged-*"))) == 2


async def test_a_run_after_the_damage_goes_on_without_a_download(mirror: Mirror) -> None:
    await fill(mirror)
    before = mirror.sandbox.count("storage")
    manifest_file(mirror).write_bytes(manifest_file(mirror).read_bytes()[:5000])

    outcome = await mirror.sync_one()

    assert (outcome.published, outcome.failed, outcome.error) == ([], [], None)
    assert mirror.sandbox.count("storage") == before


async def test_without_the_tree_a_damaged_manifest_stays_where_it_is(mirror: Mirror) -> None:
    await fill(mirror)
    damaged = b"no database at all" * 1000
    manifest_file(mirror).write_bytes(damaged)
    mirror.root.rename(mirror.folder / "the disk")
    mirror.root.mkdir()

    with pytest.raises(MirrorNotMounted):
        await reopen(mirror)

    assert manifest_file(mirror).read_bytes() == damaged
    assert list(mirror.root.iterdir()) == []


async def test_on_another_mirror_s_disk_a_damaged_manifest_stays_where_it_is(mirror: Mirror) -> None:
    await fill(mirror)
    (mirror.state / "instance").write_text("another\n")
    damaged = b"no database at all" * 1000
    manifest_file(mirror).write_bytes(damaged)

    with pytest.raises(MirrorForeign):
        await reopen(mirror)

    assert manifest_file(mirror).read_bytes() == damaged


async def test_a_dry_run_sets_nothing_aside(mirror: Mirror) -> None:
    await fill(mirror)
    manifest_file(mirror).write_bytes(b"no database at all" * 1000)

    with pytest.raises(ManifestCorrupt, match="is damaged") as caught:
        await mirror.sync(dry_run=True)

    assert "dcsync rebuild" in caught.value.advice
    assert list(mirror.state.glob("manifest.sqlite.*")) == []


# --- what the tree has ------------------------------------------------------------------------------------------------


async def rebuild(mirror: Mirror) -> RebuildReport:
    return await rebuild_manifest(mirror.configuration(), mirror.stores(), clock=mirror.clock)


async def test_a_sound_manifest_is_made_anew_when_asked_for(mirror: Mirror) -> None:
    await fill(mirror)
    before = rows(mirror)
    mirror.clock.advance(86400)

    report = await rebuild(mirror)

    assert rows(mirror) == before
    assert len(report.snapshots) == 7
    assert report.refused == []
    assert report.set_aside is not None
    assert str(manifest_file(mirror)) + ".replaced-20261123T120000Z" == report.set_aside
    assert len(list(mirror.state.glob("*.replaced-*"))) == 1


async def test_each_inode_is_read_once_however_many_snapshots_share_it(mirror: Mirror) -> None:
    for day in range(4):
        add_extract(mirror, {"big.csv": b"x" * 100_000, "new.csv": b"%d" % day}, days_ago=4 - day)
    await mirror.sync()

    report = await rebuild(mirror)

    assert report.read_bytes == 100_000 + 4


async def test_without_sidecars_rows_are_made_from_names_and_hashes(mirror: Mirror) -> None:
    """docs/project/faults.md M2."""
    await fill(mirror)
    before = rows(mirror)
    for path in mirror.root.glob("acme/**/_dcsync.json"):
        path.unlink()

    report = await rebuild(mirror)

    after = rows(mirror)
    assert {row["strategy"] for row in after["job"]} == {"adopted"}
    assert {(row["folder"], row["completed_at"], row["state"]) for row in after["job"]} == {
        (row["folder"], row["completed_at"] // 1_000_000 * 1_000_000, row["state"]) for row in before["job"]
    }
    facts = ("name", "size", "crc32", "sha256", "mtime_ns", "inode")
    assert sorted([row[key] for key in facts] for row in after["file"]) == sorted(
        [row[key] for key in facts] for row in before["file"]
    )
    assert {rebuilt.source.value for rebuilt in report.snapshots} == {"names"}


async def test_what_was_rebuilt_without_sidecars_is_known_again_by_the_next_sync_and_not_fetched(
    mirror: Mirror,
) -> None:
    await fill(mirror)
    before = {(row["id"], row["folder"], row["request"]) for row in rows(mirror)["job"]}
    requests = {row["id"] for row in rows(mirror)["request"]}
    for path in mirror.root.glob("acme/**/_dcsync.json"):
        path.unlink()
    drop_manifest(mirror)
    sent = mirror.sandbox.count("storage")

    outcome = await mirror.sync_one()

    assert (outcome.failed, outcome.error) == ([], None)
    assert mirror.sandbox.count("storage") == sent
    assert {(row["id"], row["folder"], row["request"]) for row in rows(mirror)["job"]} == before
    assert {row["id"] for row in rows(mirror)["request"]} == requests
    # And tomorrow links to them.
    add_extract(mirror, tables(4, seed=2), request=list(mirror.world.requests)[1], with_archive=True)
    assert (await mirror.sync_one()).published[0].transfer.linked_bytes > 4000


@pytest.mark.parametrize("lost", ["_dcsync.json", "SHA256SUMS"])
async def test_one_sidecar_that_is_lost_takes_its_request_from_its_neighbours(mirror: Mirror, lost: str) -> None:
    jobs = [add_extract(mirror, tables(2, seed=day), days_ago=3 - day) for day in range(3)]
    await mirror.sync()
    folder = mirror.snapshot_of(jobs[1])
    (folder / lost).unlink()
    (folder / "_dcsync.json").unlink(missing_ok=True)

    await rebuild(mirror)

    async with mirror.opened() as context:
        known = await context.manifest.jobs(ACME)
        assert set(known) == {jobs[0], jobs[1][:8], jobs[2]}
        assert len(await context.manifest.requests(ACME)) == 1


async def test_a_sidecar_that_was_changed_is_outvoted_by_the_sums_and_the_file(mirror: Mirror) -> None:
    job = add_extract(mirror, {"a.csv": b"content"})
    await mirror.sync()
    before = rows(mirror)["file"]
    path = mirror.snapshot_of(job) / "_dcsync.json"
    body = path.read_text()
    path.chmod(0o644)
    path.write_text(body.replace(before[0]["sha256"], "0" * 64))

    report = await rebuild(mirror)

    assert [row["sha256"] for row in rows(mirror)["file"]] == [before[0]["sha256"]]
    assert report.snapshots[0].damaged == ()


async def test_damage_in_a_file_is_said_and_its_row_is_what_was_published(mirror: Mirror) -> None:
    job = add_extract(mirror, {"a.csv": b"content", "b.csv": b"more"})
    await mirror.sync()
    before = {row["name"]: row["sha256"] for row in rows(mirror)["file"]}
    path = mirror.snapshot_of(job) / "a.csv"
    path.chmod(0o644)
    path.write_bytes(b"CONTENT")
    (mirror.snapshot_of(job) / "b.csv").unlink()

    report = await rebuild(mirror)

    assert report.snapshots[0].damaged == ("a.csv: content differs from the recorded SHA-256", "b.csv: missing")
    assert {row["name"]: row["sha256"] for row in rows(mirror)["file"]} == before
    assert {row["inode"] for row in rows(mirror)["file"]} == {None}


async def test_a_copy_of_a_snapshot_elsewhere_in_the_tree_is_refused(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    await mirror.sync()
    shutil.copytree(mirror.snapshot_of(job), mirror.root / "zzz-copy")

    report = await rebuild(mirror)

    assert [rebuilt.job for rebuilt in report.snapshots] == [job]
    assert [folder for folder, _ in report.refused] == ["zzz-copy"]


async def test_a_copy_is_refused_also_when_the_snapshot_was_taken_in_before_a_rebuild_was_cut_short(
    mirror: Mirror,
) -> None:
    job = add_extract(mirror, tables(1))
    await mirror.sync()
    before = rows(mirror)
    shutil.copytree(mirror.snapshot_of(job), mirror.root / "zzz-copy")
    async with mirror.opened() as context:
        await StoredValues(context.manifest).save(REBUILDING, "yes")

    # Goes on with it.
    await mirror.sync()

    assert rows(mirror)["job"] == before["job"]
    assert rows(mirror)["file"] == before["file"]


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ('"etag": ', '"etag": "\\ud800", "was": ', "invalid Unicode"),
        ('"name": "admin_table_001.csv"', '"name": "ADMIN_TABLE_000.csv"', "a file name twice"),
    ],
)
async def test_a_sidecar_that_no_row_can_hold_stops_nothing(
    mirror: Mirror, before: str, after: str, reason: str
) -> None:
    sound = add_extract(mirror, tables(2), days_ago=1)
    job = add_extract(mirror, tables(2, seed=1))
    await mirror.sync()
    path = mirror.snapshot_of(job) / "_dcsync.json"
    path.chmod(0o644)
    path.write_text(path.read_text().replace(before, after))

    report = await rebuild(mirror)

    assert [rebuilt.job for rebuilt in report.snapshots] == [sound]
    assert reason in report.refused[0][1]
    await reopen(mirror)


async def test_a_folder_of_the_operator_s_is_not_taken_for_a_snapshot(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"layout": "{account}/{request}/{job}"}
    job = add_extract(mirror, tables(1))
    await mirror.sync()
    (mirror.root / "acme/notes/mine").mkdir(parents=True)
    (mirror.root / "acme/notes/mine/todo.txt").write_text("buy a disk")

    report = await rebuild(mirror)

    assert [rebuilt.job for rebuilt in report.snapshots] == [job]
    assert report.refused == []


async def test_a_latest_of_hard_links_is_not_taken_for_a_snapshot(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"latest": "hardlinks"}
    add_extract(mirror, tables(2))
    await mirror.sync()
    before = rows(mirror)

    report = await rebuild(mirror)

    assert rows(mirror) == before
    assert report.refused == []


async def test_what_was_pruned_is_known_again_and_not_fetched(mirror: Mirror) -> None:
    for day in range(3):
        add_extract(mirror, tables(1, seed=day), days_ago=3 - day)
    await mirror.sync()
    async with mirror.opened() as context:
        await prune(context, account_settings(mirror.configuration()), KeepPolicy(last=2))
    before = rows(mirror)
    drop_manifest(mirror)

    outcome = await mirror.sync_one()

    assert outcome.published == []
    after = rows(mirror)
    assert after == before
    assert sorted(row["state"] for row in after["job"]) == ["pruned", "published", "published"]


async def test_a_rebuild_that_was_cut_short_goes_on_at_the_next_start(mirror: Mirror) -> None:
    await fill(mirror)
    before = rows(mirror)
    async with mirror.opened() as context:
        await StoredValues(context.manifest).save(REBUILDING, "yes")
    with closing(sqlite3.connect(manifest_file(mirror))) as connection:
        # As after a kill: the first ones are in, the others are not.
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("DELETE FROM job WHERE id IN (SELECT id FROM job ORDER BY completed_at DESC LIMIT 4)")
        connection.commit()

    await reopen(mirror)

    assert rows(mirror) == before
    async with mirror.opened() as context:
        assert await StoredValues(context.manifest).load(REBUILDING) is None


async def test_a_snapshot_of_an_older_version_s_sidecar_is_adopted(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(2))
    await mirror.sync()
    path = mirror.snapshot_of(job) / "_dcsync.json"
    path.chmod(0o644)
    document = path.read_text()
    start = document.index(',\n "record"')
    path.write_text(document[:start] + "\n}\n")
    (path.parent / "SHA256SUMS").unlink()

    await rebuild(mirror)

    async with mirror.opened() as context:
        known = (await context.manifest.jobs(ACME))[JobId(job)]
        assert known.state is JobState.PUBLISHED
        assert known.folder == str(path.parent.relative_to(mirror.root))
        assert len(await context.manifest.requests(ACME)) == 1


async def test_what_a_nas_and_desktops_left_is_neither_a_file_nor_a_snapshot(mirror: Mirror) -> None:
    await fill(mirror)
    folders = mirror.snapshots()
    for folder in folders:
        (folder / ".DS_Store").write_bytes(b"x")
        (folder / "@eaDir" / "_dcsync.json").mkdir(parents=True)
    # Nothing says which files this one had.
    (folders[0] / "_dcsync.json").unlink()
    (folders[0] / "SHA256SUMS").unlink()
    (mirror.root / "acme/@eaDir/_dcsync.json").mkdir(parents=True)
    for place in ("#recycle", "acme/.snapshot/daily"):
        shutil.copytree(folders[-1], mirror.root / place / "acme" / folders[-1].name)
    drop_manifest(mirror)

    report = await rebuild(mirror)

    assert report.refused == []
    assert {mirror.root / rebuilt.folder for rebuilt in report.snapshots} == set(folders)
    assert sorted(rebuilt.files for rebuilt in report.snapshots) == [1, 5, 5, 5, 5, 5, 5]
