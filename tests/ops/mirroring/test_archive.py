"""The archive way: few calls, few bytes, and a right snapshot whatever the archive is like."""

from __future__ import annotations

import asyncio
import io
import random
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dcsync.core.cost import Method
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.errors import ExitStatus
from dcsync.manifest import StandingAlerts
from dcsync.ops.context import NullObserver
from dcsync.sandbox import Fault
from tests.rigs.mirror import ARCHIVE, Mirror, add_extract, assert_proved_by_sums, mirroring, sidecar, tables
from tests.rigs.zips import directory_of, make_zip, patch_central

MIB = 1 << 20
STRATEGIES = ("auto", "files", "zip")


def calls(mirror: Mirror) -> int:
    return mirror.sandbox.count("api")


def hows(snapshot: Path) -> dict[str, str]:
    return {entry["name"]: entry["how"] for entry in sidecar(snapshot)["files"]}


def whys(snapshot: Path) -> dict[str, str]:
    return {entry["name"]: entry["why"] for entry in sidecar(snapshot)["files"]}


def add_with(mirror: Mirror, files: Mapping[str, bytes], archive: bytes, **options: Any) -> str:
    """Add an extract whose archive is these bytes, whatever they are."""
    return add_extract(mirror, {**files, ARCHIVE: archive}, **options)


# --- what it costs ----------------------------------------------------------------------------------------------------


async def test_a_first_extract_of_260_files_takes_four_calls(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(259), with_archive=True)

    outcome = await mirror.sync_one()

    assert len(mirror.world.extract(job)) == 260
    # The jobs, the request, the listing, and one signed URL.
    assert calls(mirror) == 4
    assert mirror.fetched_bytes() <= mirror.world.extract(job)[ARCHIVE].size + (1 << 17)
    assert outcome.published[0].transfer.strategy == "zip"
    mirror.assert_identical(job)
    assert_proved_by_sums(mirror.snapshot_of(job))


async def test_the_next_day_takes_three_calls_and_only_what_changed(mirror: Mirror) -> None:
    request = mirror.world.add_request("Full", tables=60)
    mirror.world.add_job(request, completed_at=mirror.clock.now(), day=0)
    await mirror.sync()
    calls_before, bytes_before = calls(mirror), mirror.fetched_bytes()
    mirror.clock.advance(86400)
    job = mirror.world.add_job(request, completed_at=mirror.clock.now(), day=1)

    await mirror.sync()

    mirror.assert_identical(job)
    assert calls(mirror) - calls_before == 3
    snapshot = mirror.snapshot_of(job)
    how = list(hows(snapshot).values())
    assert how.count("fetched") < 0.4 * len(how)
    assert mirror.fetched_bytes() - bytes_before < 0.5 * mirror.world.extract(job)[ARCHIVE].size
    reasons = set(whys(snapshot).values())
    assert "CRC32 and sizes equal those in the previous snapshot" in reasons
    assert any("size changed" in reason or "CRC32 changed" in reason for reason in reasons)


async def test_an_unchanged_day_takes_three_calls_and_the_directory(mirror: Mirror) -> None:
    yesterday = add_extract(mirror, tables(80, size=9000), days_ago=1, with_archive=True)
    await mirror.sync()
    calls_before, bytes_before = calls(mirror), mirror.fetched_bytes()
    job = add_extract(mirror, tables(80, size=9000), with_archive=True)

    await mirror.sync()

    assert calls(mirror) - calls_before == 3
    assert mirror.fetched_bytes() - bytes_before <= 100_000
    mirror.assert_identical(job)
    before, after = mirror.snapshot_of(yesterday), mirror.snapshot_of(job)
    for name in [*tables(80), "schemas/admin.json"]:
        assert (before / name).stat().st_ino == (after / name).stat().st_ino


async def test_strategy_files_takes_only_the_unlisted_files_from_the_archive_for_one_call_more(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"strategy": "files"}
    job = add_extract(mirror, tables(5), with_archive=True)

    await mirror.sync()

    mirror.assert_identical(job)
    snapshot = mirror.snapshot_of(job)
    assert (snapshot / "schemas/admin.json").is_file()
    assert mirror.sandbox.count("api", path_contains=ARCHIVE) == 1
    assert mirror.sandbox.count("api", path_contains="/data/") == 5 + 1
    assert sidecar(snapshot)["strategy"]["name"] == "files"
    assert sidecar(snapshot)["strategy"]["reason"] == "files: configured (mirror.strategy)"


async def test_strategy_files_does_not_compare_by_the_archive(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"strategy": "files"}
    add_extract(mirror, tables(5), days_ago=1, with_archive=True)
    await mirror.sync()
    before = mirror.sandbox.count("api", path_contains="/data/admin")
    job = add_extract(mirror, tables(5), with_archive=True)

    await mirror.sync()

    mirror.assert_identical(job)
    assert mirror.sandbox.count("api", path_contains="/data/admin") - before == 5
    assert set(hows(mirror.snapshot_of(job)).values()) == {"linked"}


async def test_strategy_archive_uses_it_for_a_single_file(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"strategy": "zip"}
    job = add_extract(mirror, {"a.csv": b"id\n" * 1000}, with_archive=True)

    await mirror.sync()

    mirror.assert_identical(job)
    assert sidecar(mirror.snapshot_of(job))["strategy"]["name"] == "zip"
    assert mirror.sandbox.count("api", path_contains="/a.csv") == 0


@pytest.mark.parametrize("count", [1, 2])
async def test_few_files_take_one_call_through_the_archive_too(mirror: Mirror, count: int) -> None:
    job = add_extract(mirror, tables(count), with_archive=True)

    await mirror.sync()

    mirror.assert_identical(job)
    assert (mirror.snapshot_of(job) / "schemas/admin.json").is_file()
    assert mirror.sandbox.count("api", path_contains="/data/") == 1


async def test_a_dry_run_tells_the_price_of_all_three_ways(mirror: Mirror) -> None:
    add_extract(mirror, tables(70, size=5000), with_archive=True)

    (planned,) = (await mirror.sync_one(dry_run=True)).planned

    assert planned.prices.keys() == set(Method)
    assert planned.prices[Method.FILES].calls == 70 + 1  # and one for the schemas, which only the archive has
    assert planned.prices[Method.WHOLE].calls == 1
    # 57 calls go at once, one of which was the listing, one the poll, ...: the rest waits for the next minute.
    assert planned.prices[Method.FILES].seconds >= 60
    assert planned.price.method is not Method.FILES
    assert len(planned.plan.extracts) == 71
    assert mirror.visible() == []


async def test_the_sidecar_says_what_was_weighed(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(70), with_archive=True)

    await mirror.sync()

    strategy = sidecar(mirror.snapshot_of(job))["strategy"]
    assert strategy["name"] == "zip"
    assert [price["way"] for price in strategy["prices"]] == ["files", "ranges", "whole"]
    assert strategy["reason"].split(":")[0] in {"ranges", "whole"}
    assert strategy["calls"] == 2


async def test_the_line_s_speed_is_learnt(mirror: Mirror) -> None:
    class Slow(NullObserver):
        def file_advanced(self, job: JobId, name: str, size: int) -> None:
            mirror.clock.advance(0.5)

    add_extract(mirror, {f"{n}.csv": random.Random(n).randbytes(MIB) for n in range(4)}, with_archive=True)

    await mirror.sync(observer=Slow())

    async with mirror.opened() as context:
        facts = await context.manifest.facts(AccountName("acme"))
    assert facts.bytes_per_second is not None
    assert 0.1 * MIB < facts.bytes_per_second < 8 * MIB


# --- what comes out ---------------------------------------------------------------------------------------------------


async def test_members_that_the_listing_lacks_stand_below_their_own_path(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(4), with_archive=True)

    await mirror.sync()

    snapshot = mirror.snapshot_of(job)
    assert (snapshot / "schemas/admin.json").is_file()
    assert (snapshot / "schemas/admin.json").stat().st_mode & 0o777 == 0o444
    assert (snapshot / "schemas").stat().st_mode & 0o777 == 0o755
    assert_proved_by_sums(snapshot)
    assert list((mirror.root / ".dcsync/staging").iterdir()) == []


async def test_latest_as_hard_links_has_the_folders_too(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"latest": "hardlinks"}
    add_extract(mirror, tables(4), with_archive=True)

    await mirror.sync()

    (latest,) = mirror.root.glob("acme/*/latest")
    assert (latest / "schemas/admin.json").is_file()


async def test_hostile_members_lead_nowhere(mirror: Mirror) -> None:
    files = tables(3)
    further = {
        "../../outside.csv": b"1",
        "/etc/passwd": b"2",
        "schemas/../../x": b"3",
        "schemas//x": b"4",
        "a/b/c/d/e/f/g/h/i": b"5",
        "schemas/CON.txt": b"6",
        "schemas/ok.json": b"7",
        "SHA256SUMS": b"8",
        "admin_table_000.csv/inside": b"9",
        "SCHEMAS/OK.json": b"10",
        "c:\\temp\\x": b"11",
    }
    job = add_with(mirror, files, make_zip({**files, **further}))

    await mirror.sync()

    document = sidecar(mirror.snapshot_of(job))
    skipped = {entry["original"] for entry in document["skipped"]} - {ARCHIVE}
    assert skipped == {"../../outside.csv", "/etc/passwd", "schemas/../../x", "schemas//x", "a/b/c/d/e/f/g/h/i"}
    names = {entry["original"]: entry["name"] for entry in document["files"]}
    assert names["schemas/CON.txt"] == "schemas/%43ON.txt"
    assert names["schemas/ok.json"].startswith("schemas%2Fok~") or names["schemas/ok.json"] == "schemas/ok.json"
    assert len({name.casefold() for name in names.values()}) == len(names)
    assert (mirror.snapshot_of(job) / names["admin_table_000.csv/inside"]).read_bytes() == b"9"
    mirror.assert_identical(job)
    assert_proved_by_sums(mirror.snapshot_of(job))
    assert {path.name for path in mirror.folder.iterdir()} == {"mirror", "state"}


async def test_a_kept_archive_is_fetched_once_and_read_where_it_lies(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"keep_archive": True}
    job = add_extract(mirror, tables(20, size=3000), with_archive=True)

    await mirror.sync()

    snapshot = mirror.snapshot_of(job)
    mirror.assert_identical(job)
    archive = mirror.world.extract(job)[ARCHIVE]
    assert (snapshot / ARCHIVE).read_bytes() == archive.read(0, archive.size)
    assert mirror.fetched_bytes() == archive.size
    assert mirror.sandbox.count("api", path_contains="/data/") == 1
    assert_proved_by_sums(snapshot)


async def test_what_the_archive_links_may_be_of_a_snapshot_that_came_file_by_file(mirror: Mirror) -> None:
    add_extract(mirror, tables(6), days_ago=1)
    await mirror.sync()
    job = add_extract(mirror, tables(6), with_archive=True)

    await mirror.sync()

    how = hows(mirror.snapshot_of(job))
    assert {how[name] for name in tables(6)} == {"linked"}
    mirror.assert_identical(job)


async def test_the_archive_s_word_is_not_taken_when_it_is_not_to_be_trusted(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"trust_crc": False}
    add_extract(mirror, tables(6), days_ago=1, with_archive=True)
    await mirror.sync()
    job = add_extract(mirror, tables(6), with_archive=True)

    await mirror.sync()

    assert set(hows(mirror.snapshot_of(job)).values()) == {"fetched"}
    mirror.assert_identical(job)


async def test_what_was_extracted_and_turned_out_unchanged_takes_no_room(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"trust_crc": False}
    old = {**tables(6), "empty.csv": b""}
    yesterday = add_extract(mirror, old, days_ago=1, with_archive=True)
    await mirror.sync()
    job = add_extract(mirror, {**old, "admin_table_002.csv": b"changed"}, with_archive=True)

    await mirror.sync()

    before, after = mirror.snapshot_of(yesterday), mirror.snapshot_of(job)
    shared = {name for name in hows(after) if (before / name).samefile(after / name)}
    assert shared == hows(after).keys() - {"admin_table_002.csv", "empty.csv"}
    mirror.assert_identical(job)
    assert_proved_by_sums(after)
    # Its record is that of the shared file: the next day links to it without hashing.
    mirror.config["mirror"] = {"trust_crc": True}
    tomorrow = add_extract(mirror, {**old, "admin_table_002.csv": b"changed"}, with_archive=True, days_ago=-0.1)
    await mirror.sync()
    assert (after / "admin_table_001.csv").samefile(mirror.snapshot_of(tomorrow) / "admin_table_001.csv")


async def test_a_file_before_that_was_edited_or_removed_is_not_linked(mirror: Mirror) -> None:
    yesterday = add_extract(mirror, tables(6), days_ago=1, with_archive=True)
    await mirror.sync()
    edited, removed = (mirror.snapshot_of(yesterday) / f"admin_table_00{n}.csv" for n in (1, 2))
    edited.chmod(0o644)
    edited.write_bytes(b"x" * edited.stat().st_size)
    removed.unlink()
    job = add_extract(mirror, tables(6), with_archive=True)

    await mirror.sync()

    mirror.assert_identical(job)
    how = hows(mirror.snapshot_of(job))
    assert {name for name, value in how.items() if value == "fetched"} == {edited.name, removed.name}


def spoil(path: Path) -> None:
    """Change a file in this snapshot and in no other: an editor that writes aside and renames does so."""
    body = b"x" * path.stat().st_size
    path.unlink()
    path.write_bytes(body)


async def test_a_file_that_is_damaged_in_the_snapshot_before_is_linked_from_an_older_one(mirror: Mirror) -> None:
    days = []
    for day in (3, 2, 1):
        days.append(add_extract(mirror, tables(6), days_ago=day, with_archive=True))
        await mirror.sync()
    oldest, middle, before = (mirror.snapshot_of(job) for job in days)
    once, twice, gone = (f"admin_table_00{n}.csv" for n in (1, 2, 3))
    for path in (before / once, before / twice, middle / twice):
        spoil(path)
    (before / gone).unlink()
    size = mirror.fetched_bytes()
    job = add_extract(mirror, tables(6), with_archive=True)

    await mirror.sync()

    mirror.assert_identical(job)
    snapshot = mirror.snapshot_of(job)
    assert set(hows(snapshot).values()) == {"linked"}
    for name, source in ((once, middle), (twice, oldest), (gone, oldest)):
        assert (snapshot / name).samefile(source / name)
    # The directory, and nothing of what it says.
    assert mirror.fetched_bytes() - size <= mirror.world.extract(job)[ARCHIVE].size


async def test_a_file_that_no_snapshot_has_any_more_is_fetched(mirror: Mirror) -> None:
    for day in range(10):
        add_extract(mirror, tables(6), days_ago=20 - day, with_archive=True)
    await mirror.sync()
    for snapshot in mirror.snapshots()[1:]:
        spoil(snapshot / "admin_table_001.csv")
    (mirror.snapshots()[0] / "admin_table_001.csv").unlink()
    job = add_extract(mirror, tables(6), with_archive=True)

    await mirror.sync()

    mirror.assert_identical(job)
    assert hows(mirror.snapshot_of(job))["admin_table_001.csv"] == "fetched"


# --- odd archives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "archive",
    [
        b"",
        b"not a zip",
        make_zip(tables(4))[:-30],
        make_zip(tables(4)) + b"trailing",
        b"leading" + make_zip(tables(4)),
        make_zip(tables(4))[:-2] + b"\x16\0" + make_zip({}),
    ],
    ids=["empty", "no zip", "truncated", "trailing", "leading", "two ends"],
)
async def test_what_is_no_archive_leaves_the_single_files(mirror: Mirror, archive: bytes) -> None:
    job = add_with(mirror, tables(4), archive)

    outcome = await mirror.sync_one()

    assert not outcome.failed
    mirror.assert_identical(job)
    assert sidecar(mirror.snapshot_of(job))["strategy"]["name"] == "files"
    assert mirror.sandbox.count("api", path_contains="/data/admin") == 4
    # Nobody knows what it holds, so it is kept.
    assert_zip_kept(mirror, job, "kept, because it cannot be compared with the other files: ")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", ["no-range", "wrong-range"])
async def test_a_store_that_gives_no_part_of_it_gives_the_whole(mirror: Mirror, kind: Any, strategy: str) -> None:
    mirror.config["mirror"] = {"strategy": strategy}
    job = add_extract(mirror, tables(4), with_archive=True)
    mirror.sandbox.faults.add(Fault(server="storage", kind=kind, match="extract.zip", times=None))

    outcome = await mirror.sync_one()

    assert not outcome.failed
    mirror.assert_identical(job)
    assert (mirror.snapshot_of(job) / "schemas/admin.json").is_file()
    # Nothing needs the ZIP itself any more.
    assert not (mirror.snapshot_of(job) / ARCHIVE).exists()


async def sync_until_it_gives_up(mirror: Mirror, code: str, observer: NullObserver | None = None) -> None:
    """Sync until the files that only the ZIP may have count as lost: not before the third attempt in a row."""
    for _ in range(2):
        assert [failed.code for failed in (await mirror.sync_one(observer=observer)).failed] == [code]
        assert mirror.visible() == []
        mirror.clock.advance(7 * 3600)
    outcome = await mirror.sync_one(observer=observer)
    assert not outcome.failed
    assert [warning.code for warning in outcome.published[0].warnings] == ["L-PARTIAL"]


async def test_a_store_without_the_archive_leaves_the_single_files_in_the_end(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(4), with_archive=True)
    mirror.sandbox.faults.add(Fault(server="storage", kind="status", status=404, match="extract.zip", times=None))

    await sync_until_it_gives_up(mirror, "S-SERVER")

    mirror.assert_identical(job)
    reasons = {entry["original"]: entry["reason"] for entry in sidecar(mirror.snapshot_of(job))["skipped"]}
    assert reasons[ARCHIVE].startswith("the download failed 3 times (")


async def test_an_archive_that_cannot_be_signed_leaves_the_single_files(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(4), with_archive=True)
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="extract.zip", times=None))

    await mirror.sync()

    mirror.assert_identical(job)


async def test_an_archive_of_another_size_than_listed_leaves_the_single_files(mirror: Mirror) -> None:
    files = tables(4)
    job = add_with(mirror, files, make_zip(files))
    listing = [{"name": name, "size": len(body)} for name, body in files.items()]
    mirror.world.jobs[job].listing = [*listing, {"name": ARCHIVE, "size": len(make_zip(files)) - 5}]

    await sync_until_it_gives_up(mirror, "S-CHANGED")

    mirror.assert_identical(job)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"flags": 1}, "refused in the ZIP: the content is encrypted"),
        ({"method": 12}, "refused in the ZIP: the compression method 12"),
        ({"attributes": 0o120777 << 16, "made_by": 0x0300}, "refused in the ZIP: not a regular file"),
        ({"crc32": 12345}, "damaged in the ZIP: the local header"),
        ({"size": 1234}, "1234 bytes in the ZIP, 1001 bytes in the data listing"),
        ({"packed": 300}, "damaged in the ZIP"),
    ],
)
async def test_a_member_that_is_not_right_comes_by_its_own_url(
    mirror: Mirror, fields: dict[str, int], why: str
) -> None:
    files = tables(5)
    names = list(files)
    job = add_with(mirror, files, patch_central(make_zip(files), 1, **fields))

    await mirror.sync()

    mirror.assert_identical(job)
    snapshot = mirror.snapshot_of(job)
    assert whys(snapshot)[names[1]].startswith(why)
    assert mirror.sandbox.count("api", path_contains=f"/data/{names[1]}") == 1
    assert mirror.sandbox.count("api", path_contains="/data/admin") == 1


async def test_a_member_whose_bytes_are_damaged_comes_by_its_own_url(mirror: Mirror) -> None:
    files = tables(5)
    archive = bytearray(make_zip(files))
    member = directory_of(bytes(archive)).by_name["admin_table_003.csv"]
    archive[member.stop - 20] ^= 0xFF
    job = add_with(mirror, files, bytes(archive))

    await mirror.sync()

    mirror.assert_identical(job)
    assert whys(mirror.snapshot_of(job))["admin_table_003.csv"].startswith("damaged in the ZIP")


async def test_members_that_overlap_come_by_their_own_urls(mirror: Mirror) -> None:
    files = tables(5)
    archive = make_zip(files, method=zipfile.ZIP_STORED)
    first = directory_of(archive).members[0]
    job = add_with(mirror, files, patch_central(archive, 1, offset=first.offset + 10))

    await mirror.sync()

    mirror.assert_identical(job)
    assert mirror.sandbox.count("api", path_contains="/data/admin") == 2


def assert_zip_kept(mirror: Mirror, job: str, reason: str) -> None:
    """Check that the snapshot contains the ZIP itself, and that the record says why."""
    snapshot, archive = mirror.snapshot_of(job), mirror.world.extract(job)[ARCHIVE]
    assert (snapshot / ARCHIVE).read_bytes() == archive.read(0, archive.size)
    assert whys(snapshot)[ARCHIVE].startswith(reason)
    assert [warning["code"] for warning in sidecar(snapshot)["warnings"]] == ["L-ZIP"]
    assert_proved_by_sums(snapshot)


async def test_a_bomb_is_not_unpacked_and_the_archive_is_kept(mirror: Mirror) -> None:
    files = tables(4)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in files.items():
            archive.writestr(name, body)
        archive.writestr("schemas/bomb.json", b"\0" * (64 * MIB))
    job = add_with(mirror, files, bomb.getvalue())

    await mirror.sync()

    mirror.assert_identical(job)
    assert not (mirror.snapshot_of(job) / "schemas").exists()
    assert_zip_kept(mirror, job, "kept, because 1 entry cannot be extracted (first: schemas/bomb.json)")


async def test_many_members_that_together_unpack_to_too_much_are_not_unpacked(mirror: Mirror) -> None:
    files = tables(4)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in files.items():
            archive.writestr(name, body)
        for number in range(20):
            # Each by itself is below every limit.
            archive.writestr(f"schemas/{number}.json", random.Random(number).randbytes(25_000) + b"\0" * 4 * MIB)
    job = add_with(mirror, files, packed.getvalue())

    await mirror.sync()

    mirror.assert_identical(job)
    snapshot = mirror.snapshot_of(job)
    assert not (snapshot / "schemas").exists()
    reasons = {entry["original"]: entry["reason"] for entry in sidecar(snapshot)["skipped"]}
    assert "together with the other unlisted entries it unpacks to 84" in reasons["schemas/7.json"]
    assert_zip_kept(mirror, job, "kept, because 20 entries cannot be extracted")


# --- what only the ZIP has --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_listing_that_names_only_the_archive_brings_all_of_it(mirror: Mirror, strategy: str) -> None:
    mirror.config["mirror"] = {"strategy": strategy}
    extract = {**tables(3), "README.html": b"<p>", "schemas/admin.json": b"{}"}
    job = add_extract(mirror, {ARCHIVE: make_zip(extract)})

    outcome = await mirror.sync_one()

    assert outcome.exit_status is ExitStatus.DONE
    snapshot = mirror.snapshot_of(job)
    assert {str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if path.is_file()} == {
        *extract,
        "_dcsync.json",
        "SHA256SUMS",
    }
    assert all((snapshot / name).read_bytes() == body for name, body in extract.items())
    assert sidecar(snapshot)["warnings"] == []
    # The poll, the data request, the data listing, and one URL.
    assert calls(mirror) == 4


async def test_the_next_day_of_an_archive_alone_is_linked(mirror: Mirror) -> None:
    add_extract(mirror, {ARCHIVE: make_zip(tables(3))}, days_ago=1)
    await mirror.sync()
    job = add_extract(mirror, {ARCHIVE: make_zip({**tables(3), "new.csv": b"id\n1\n"})})

    await mirror.sync()

    assert hows(mirror.snapshot_of(job)) == {**dict.fromkeys(tables(3), "linked"), "new.csv": "fetched"}


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_dry_run_of_an_archive_alone_plans_all_of_it(mirror: Mirror, strategy: str) -> None:
    mirror.config["mirror"] = {"strategy": strategy}
    add_extract(mirror, {ARCHIVE: make_zip(tables(3))})

    (planned,) = (await mirror.sync_one(dry_run=True)).planned

    assert {extract.name for extract in planned.plan.extracts} == set(tables(3))
    assert planned.price.calls == 1


@pytest.fixture(scope="session")
def large_zip() -> tuple[bytes, int]:
    """Return a ZIP with a table of 70 MiB that compresses as tables do, and its size."""
    rows = "".join(f"{number},{number * 7919 % 100_003},open,2026-11-22\n" for number in range(50_000)).encode()
    table = b"id,number,state,day\n" + rows * (70 * MIB // len(rows) + 1)
    return make_zip({"admin_table_000.csv": b"id\n1\n", "large.csv": table, "schemas/large.json": b"{}"}), len(table)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("listed", [[], ["admin_table_000.csv"]], ids=["archive only", "one table listed"])
async def test_unlisted_files_beyond_64_mib_are_mirrored(
    mirror: Mirror, strategy: str, listed: list[str], large_zip: tuple[bytes, int]
) -> None:
    mirror.config["mirror"] = {"strategy": strategy}
    archive, size = large_zip
    job = add_extract(mirror, {**dict.fromkeys(listed, b"id\n1\n"), ARCHIVE: archive})

    await mirror.sync()

    snapshot = mirror.snapshot_of(job)
    assert (snapshot / "large.csv").stat().st_size == size
    assert set(hows(snapshot)) == {"admin_table_000.csv", "large.csv", "schemas/large.json"}
    assert_proved_by_sums(snapshot)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"method": 12}, "only in the ZIP, and refused: the compression method 12 is not supported (0 and 8 are)"),
        ({"flags": 1}, "only in the ZIP, and refused: the content is encrypted"),
        ({"crc32": 1}, "only in the ZIP; damaged in the ZIP: the local header"),
    ],
)
@pytest.mark.parametrize("listed", [True, False], ids=["tables listed", "archive only"])
async def test_a_file_of_the_archive_that_cannot_be_extracted_keeps_the_archive(
    mirror: Mirror, strategy: str, fields: dict[str, int], why: str, listed: bool
) -> None:
    mirror.config["mirror"] = {"strategy": strategy}
    files = tables(3)
    archive = patch_central(make_zip({**files, "schemas/a.json": b"{}"}), 3, **fields)
    job = add_with(mirror, files if listed else {}, archive)

    outcome = await mirror.sync_one()

    assert not outcome.failed
    snapshot = mirror.snapshot_of(job)
    reasons = {entry["original"]: entry["reason"] for entry in sidecar(snapshot)["skipped"]}
    assert reasons.keys() == {"schemas/a.json"}
    assert reasons["schemas/a.json"].startswith(why)
    assert_zip_kept(mirror, job, "kept, because 1 entry cannot be extracted (first: schemas/a.json)")
    assert set(hows(snapshot)) == {*files, ARCHIVE}


async def test_an_archive_alone_of_which_nothing_can_be_extracted_is_kept(mirror: Mirror) -> None:
    archive = patch_central(patch_central(make_zip(tables(2)), 0, method=9), 1, method=9)
    job = add_extract(mirror, {ARCHIVE: archive})

    await mirror.sync()

    assert set(hows(mirror.snapshot_of(job))) == {ARCHIVE}
    assert_zip_kept(mirror, job, "kept, because 2 entries cannot be extracted")


async def test_damage_on_the_way_is_cured_by_another_download(mirror: Mirror) -> None:
    """An unlisted file has no URL of its own: the whole ZIP is downloaded, and not kept."""
    files = tables(4)
    archive = make_zip({**files, "schemas/a.json": random.Random(1).randbytes(5000)})
    bad = bytearray(archive)
    bad[directory_of(archive).by_name["schemas/a.json"].stop - 20] ^= 0xFF
    job = add_with(mirror, files, bytes(bad))

    class Curing(NullObserver):
        def file_done(self, job: JobId, name: str) -> None:
            # The same ETag would be that of other bytes, so the listed files come first.
            if name == list(files)[-1]:
                mirror.world.replace_file(job, ARCHIVE, archive)

    await mirror.sync(observer=Curing())

    mirror.assert_identical(job)
    snapshot = mirror.snapshot_of(job)
    assert (snapshot / "schemas/a.json").is_file()
    assert not (snapshot / ARCHIVE).exists()


async def test_an_archive_that_the_account_excludes_is_never_kept_and_the_files_are_missed(mirror: Mirror) -> None:
    mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id, "exclude": ["*.zip"]}]
    files = tables(3)
    job = add_with(mirror, files, patch_central(make_zip({**files, "schemas/a.json": b"{}"}), 3, method=12))

    await mirror.run()

    snapshot = mirror.snapshot_of(job)
    assert set(hows(snapshot)) == set(files)
    assert [warning["code"] for warning in sidecar(snapshot)["warnings"]] == ["L-PARTIAL"]
    async with mirror.opened() as context:
        (item,) = await StandingAlerts(context.manifest).load([AccountName("acme")])
    assert (item.alert.code, item.alert.subject) == ("L-PARTIAL", next(iter(mirror.world.requests)))
    assert item.alert.kind.exit_status is ExitStatus.INCOMPLETE


async def test_a_kept_archive_is_said_in_the_status_until_the_next_extract(mirror: Mirror) -> None:
    files = tables(3)
    add_with(mirror, files, patch_central(make_zip({**files, "schemas/a.json": b"{}"}), 3, method=12), days_ago=1)
    await mirror.run()

    async with mirror.opened() as context:
        (item,) = await StandingAlerts(context.manifest).load([AccountName("acme")])
    assert item.alert.code == "L-ZIP"
    assert item.alert.message.startswith("schemas/a.json (only in the ZIP, and refused: ")
    assert item.alert.message.endswith("The snapshot contains the ZIP itself")
    # The data is there, so monitors stay green.
    assert item.alert.kind.exit_status is ExitStatus.DONE
    add_with(mirror, files, make_zip({**files, "schemas/a.json": b"{}"}))
    await mirror.run()
    async with mirror.opened() as context:
        assert await StandingAlerts(context.manifest).load([AccountName("acme")]) == ()


async def test_a_kept_archive_that_does_not_come_is_given_up_after_three_attempts(mirror: Mirror) -> None:
    files = tables(3)
    job = add_with(mirror, files, patch_central(make_zip({**files, "schemas/a.json": b"{}"}), 3, method=12))

    class Cutting(NullObserver):
        def file_started(self, job: JobId, name: str, size: int) -> None:
            # The directory comes, and the file as such does not.
            if name == ARCHIVE:
                mirror.sandbox.faults.add(Fault(server="storage", kind="cut", amount=0, match="extract.zip"))

    await sync_until_it_gives_up(mirror, "S-NETWORK", observer=Cutting())

    mirror.assert_identical(job)
    assert not (mirror.snapshot_of(job) / ARCHIVE).exists()


async def test_a_schema_as_long_as_its_table_is_a_file_of_its_own(mirror: Mirror) -> None:
    files = tables(4)
    schema = b"a" * len(files["admin_table_002.csv"])
    job = add_with(mirror, files, make_zip({**files, "schemas/admin_table_002.csv": schema}))

    await mirror.sync()

    mirror.assert_identical(job)
    assert (mirror.snapshot_of(job) / "schemas/admin_table_002.csv").read_bytes() == schema


async def test_names_that_the_listing_spells_otherwise_come_by_their_own_urls(mirror: Mirror) -> None:
    files = tables(4)
    packed = {f"extract/{name}" if index else name.upper(): body for index, (name, body) in enumerate(files.items())}
    job = add_with(mirror, files, make_zip(packed))

    await mirror.sync()

    mirror.assert_identical(job)
    assert {path.name for path in mirror.snapshot_of(job).iterdir()} == {*files, "SHA256SUMS", "_dcsync.json"}


# --- being cut short --------------------------------------------------------------------------------------------------


async def test_a_cut_range_goes_on_at_the_byte_it_was_cut_at(mirror: Mirror) -> None:
    files = {f"{n}.csv": random.Random(n).randbytes(MIB) for n in range(10)}
    job = add_extract(mirror, files, with_archive=True)
    size = mirror.world.extract(job)[ARCHIVE].size
    # The directory is the first answer; the second is a range.
    mirror.sandbox.faults.add(Fault(server="storage", kind="cut", amount=2 * MIB + MIB // 2, match="zip", skip=1))

    await mirror.sync()

    mirror.assert_identical(job)
    # What was on the line at the cut may be lost, no more.
    assert mirror.fetched_bytes() < size + MIB
    ranges = [call.headers["range"] for call in mirror.sandbox.calls if call.server == "storage"]
    assert len(ranges) >= 3
    assert all("if-match" in call.headers for call in mirror.sandbox.calls[-2:] if call.server == "storage")
    # And not a call more for it while the URL is fresh.
    assert mirror.sandbox.count("api", path_contains="/data/") == 1


async def test_a_large_member_comes_over_a_line_that_keeps_breaking(mirror: Mirror) -> None:
    """No single answer ever brings all of it."""
    files = {"large.csv": random.Random(1).randbytes(12 * MIB), **tables(4)}
    job = add_extract(mirror, files, with_archive=True)
    size = mirror.world.extract(job)[ARCHIVE].size
    mirror.sandbox.faults.add(Fault(server="storage", kind="cut", amount=4 * MIB, match="zip", skip=1, times=None))

    outcome = await mirror.sync_one()

    assert not outcome.failed
    mirror.assert_identical(job)
    assert mirror.fetched_bytes() < 2 * size
    assert mirror.sandbox.count("api", path_contains="/large.csv") == 0


# --- breaking off for good --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["reset", "cut"])
async def test_an_archive_of_which_nothing_comes_leaves_the_single_files_in_the_end(mirror: Mirror, kind: Any) -> None:
    files = tables(6)
    job = add_with(mirror, files, make_zip(files))
    mirror.sandbox.faults.add(Fault(server="storage", kind=kind, amount=100, match="extract.zip", times=None))

    await sync_until_it_gives_up(mirror, "S-NETWORK")

    mirror.assert_identical(job)
    # What an earlier attempt staged is not fetched again.
    assert mirror.sandbox.count("api", path_contains="/data/admin") == 6


@pytest.mark.parametrize("kind", ["reset", "cut"])
async def test_an_archive_whose_members_do_not_come_leaves_the_single_files(mirror: Mirror, kind: Any) -> None:
    files = tables(6)
    job = add_with(mirror, files, make_zip(files))
    mirror.sandbox.faults.add(Fault(server="storage", kind=kind, amount=100, match="extract.zip", skip=1, times=None))

    outcome = await mirror.sync_one()

    assert not outcome.failed
    mirror.assert_identical(job)
    assert mirror.sandbox.count("api", path_contains="/data/admin") == 6


async def test_a_dry_run_plans_what_a_run_would_do_without_the_archive(mirror: Mirror) -> None:
    add_extract(mirror, tables(6), with_archive=True)
    mirror.sandbox.faults.add(Fault(server="storage", kind="reset", match="extract.zip", times=None))

    outcome = await mirror.sync_one(dry_run=True)

    (planned,) = outcome.planned
    assert planned.prices.keys() == {Method.FILES}
    assert len(planned.plan.fetches) == 6


async def test_what_only_a_broken_archive_has_is_waited_for_and_the_rest_is_not(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(6), with_archive=True)
    fault = Fault(server="storage", kind="reset", match="extract.zip", skip=1, times=None)
    mirror.sandbox.faults.add(fault)

    first = await mirror.sync_one()

    assert [failed.code for failed in first.failed] == ["S-NETWORK"]
    assert mirror.visible() == []
    mirror.sandbox.faults.clear()
    mirror.clock.advance(7 * 3600)
    signed = mirror.sandbox.count("api", path_contains="/data/")
    await mirror.sync()
    mirror.assert_identical(job)
    assert (mirror.snapshot_of(job) / "schemas/admin.json").is_file()
    assert mirror.sandbox.count("api", path_contains="/data/") - signed == 1


@pytest.mark.parametrize("answered", [0, 1], ids=["at once", "after the directory"])
async def test_a_store_that_is_down_is_not_asked_for_every_file(mirror: Mirror, answered: int) -> None:
    add_extract(mirror, tables(50), with_archive=True)
    mirror.sandbox.faults.add(Fault(server="storage", kind="reset", skip=answered, times=None))

    outcome = await mirror.sync_one()

    assert [failed.code for failed in outcome.failed] == ["S-NETWORK"]
    # One call for the archive, five for one file.
    assert mirror.sandbox.count("api", path_contains="/data/") <= 6


@pytest.mark.parametrize("schemas", [{}, {"schemas/a.json": b"{}"}], ids=["all listed", "one not listed"])
async def test_a_store_that_stops_giving_ranges_gives_the_whole_archive(
    mirror: Mirror, schemas: dict[str, bytes]
) -> None:
    files = tables(6, size=50_000)
    job = add_with(mirror, files, make_zip({**files, **schemas}))
    # The directory is the first answer.
    mirror.sandbox.faults.add(Fault(server="storage", kind="no-range", match="zip", skip=1, times=None))

    outcome = await mirror.sync_one()

    assert not outcome.failed
    mirror.assert_identical(job)
    document = sidecar(mirror.snapshot_of(job))
    assert {entry["original"] for entry in document["files"]} == {*files, *schemas}
    assert mirror.sandbox.count("api", path_contains="/data/") == 2


async def test_a_url_that_grew_old_is_signed_again(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(6), with_archive=True)
    mirror.sandbox.faults.add(Fault(server="storage", kind="expired", match="zip", times=2))

    await mirror.sync()

    mirror.assert_identical(job)
    assert mirror.sandbox.count("api", path_contains="/data/") == 3


class Replacing(NullObserver):
    """Puts another archive in place as soon as something came out of the first."""

    def __init__(self, mirror: Mirror, files: Mapping[str, bytes], archive: bytes) -> None:
        self._mirror = mirror
        self._files = files
        self._archive = archive

    def job_started(self, account: object, job: JobId, label: str, *, files: int, size: int) -> None:
        for name, body in self._files.items():
            self._mirror.world.replace_file(job, name, body)
        self._mirror.world.replace_file(job, ARCHIVE, self._archive)


async def test_an_archive_that_changes_in_between_is_compared_member_by_member(mirror: Mirror) -> None:
    old = {f"{n}.csv": random.Random(n).randbytes(200_000) for n in range(5)}
    new = {**old, "3.csv": random.Random(99).randbytes(200_000)}
    job = add_with(mirror, old, make_zip(old, method=zipfile.ZIP_STORED))

    await mirror.sync(observer=Replacing(mirror, new, make_zip(new, method=zipfile.ZIP_STORED)))

    mirror.assert_identical(job)


class Cancelling(NullObserver):
    """Cancels after three files, as a signal does."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        self._done = 0

    def file_done(self, job: JobId, name: str) -> None:
        self._done += 1
        if self._done == 3:
            self._task.cancel()


async def test_a_cancelled_run_keeps_whole_members_and_the_next_one_takes_the_rest(mirror: Mirror) -> None:
    files = {f"{n}.csv": random.Random(n).randbytes(2 * MIB) for n in range(8)}
    job = add_extract(mirror, files, with_archive=True)
    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(asyncio.CancelledError):
        await mirror.sync(observer=Cancelling(task))
    task.uncancel()
    assert mirror.visible() == []
    before = mirror.fetched_bytes()

    await mirror.sync()

    mirror.assert_identical(job)
    # One member at least was whole; the directory, at the archive's end, is read again.
    assert mirror.fetched_bytes() - before < mirror.world.extract(job)[ARCHIVE].size - 2 * MIB + (1 << 17)
    assert "staged by an earlier run" in whys(mirror.snapshot_of(job)).values()


async def test_the_bars_are_told_true_totals(mirror: Mirror) -> None:
    files = {f"{n}.csv": random.Random(n).randbytes(MIB) for n in range(6)}
    job = add_extract(mirror, files, with_archive=True)
    mirror.sandbox.faults.add(Fault(server="storage", kind="cut", amount=MIB + 5000, match="zip", skip=1))

    class Counting(NullObserver):
        total = 0
        received = 0

        def job_started(self, account: object, job: JobId, label: str, *, files: int, size: int) -> None:
            self.total += size

        def file_advanced(self, job: JobId, name: str, size: int) -> None:
            self.received += size

    seen = Counting()
    await mirror.sync(observer=seen)

    mirror.assert_identical(job)
    assert seen.received == seen.total


async def test_a_backfill_under_the_real_quota_meets_no_429(tmp_path: Path) -> None:
    async with mirroring(tmp_path, url_lifetime_s=1000.0) as mirror:
        jobs = [
            add_extract(mirror, tables(40, size=200, seed=day), days_ago=20 - day, with_archive=True)
            for day in range(20)
        ]

        outcome = await mirror.sync_one()

        assert [published.job for published in outcome.published] == jobs
        assert calls(mirror) == 2 + 2 * 20
        assert mirror.sandbox.count("api", status=429) == 0


async def test_adoption_proves_files_in_folders_too(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(4), with_archive=True)
    await mirror.sync()
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()
    snapshot = mirror.snapshot_of(job)

    await mirror.sync()

    async with mirror.opened() as context:
        known = await context.manifest.jobs(AccountName("acme"))
    assert known[JobId(job)].state is JobState.PUBLISHED
    shutil.rmtree(snapshot / "schemas")
