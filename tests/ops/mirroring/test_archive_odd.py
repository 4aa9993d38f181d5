"""ZIPs that are damaged, malicious or no ZIP at all: the listed files are downloaded one by one."""

from __future__ import annotations

import io
import random
import zipfile
from typing import Any

import pytest

from dcsync.sandbox import Fault
from tests.rigs.archive import MIB, STRATEGIES, add_with, assert_zip_kept, sync_until_it_gives_up, whys
from tests.rigs.mirror import ARCHIVE, Mirror, add_extract, assert_proved_by_sums, sidecar, tables
from tests.rigs.zips import directory_of, make_zip, patch_central


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
