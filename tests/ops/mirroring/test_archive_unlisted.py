"""Files that only the ZIP has: they are extracted, or the ZIP itself is kept."""

from __future__ import annotations

import random

import pytest

from dcsync.core.model import AccountName, JobId
from dcsync.errors import ExitStatus
from dcsync.manifest import StandingAlerts
from dcsync.ops.context import NullObserver
from dcsync.sandbox import Fault
from tests.rigs.archive import MIB, STRATEGIES, add_with, assert_zip_kept, calls, hows, sync_until_it_gives_up
from tests.rigs.mirror import ARCHIVE, Mirror, add_extract, assert_proved_by_sums, sidecar, tables
from tests.rigs.zips import directory_of, make_zip, patch_central


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
    assert planned.choice.price.calls == 1


@pytest.fixture(scope="module")  # and not of the session: the tests of a module run in one worker, which makes it once
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
