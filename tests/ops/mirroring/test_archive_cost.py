"""The calls and bytes that a download from the ZIP takes, and how dcsync chooses the method."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from dcsync.core.cost import Method
from dcsync.core.model import AccountName, JobId
from dcsync.ops.context import NullObserver
from tests.rigs.archive import MIB, calls, hows, whys
from tests.rigs.mirror import ARCHIVE, Mirror, add_extract, assert_proved_by_sums, mirroring, sidecar, tables


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
    strategy = sidecar(mirror.snapshot_of(job))["strategy"]
    assert strategy["name"] == "zip"
    assert {price["way"]: price["rejected"] for price in strategy["prices"]}["files"] == "configured"
    assert mirror.sandbox.count("api", path_contains="/a.csv") == 0


async def test_a_kept_archive_leaves_no_choice_and_the_sidecar_says_so(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"keep_archive": True}
    job = add_extract(mirror, tables(5), with_archive=True)

    await mirror.sync()

    assert (mirror.snapshot_of(job) / ARCHIVE).is_file()
    strategy = sidecar(mirror.snapshot_of(job))["strategy"]
    assert (strategy["method"], strategy["prices"]) == ("ranges", [])
    assert strategy["reason"] == "ranges: the snapshot keeps the ZIP, which was downloaded first"


async def test_a_few_changed_tables_are_not_the_whole_archive(mirror: Mirror) -> None:
    """A fast line: the whole ZIP would save a request, at six times the bytes."""
    noise = {f"{number:02}.csv": random.Random(number).randbytes(64 << 10) for number in range(30)}
    add_extract(mirror, noise, days_ago=1, with_archive=True)
    await mirror.sync()
    before = mirror.fetched_bytes()
    changed = {name: random.Random(name).randbytes(64 << 10) for name in list(noise)[::6]}
    job = add_extract(mirror, {**noise, **changed}, with_archive=True)

    await mirror.sync()

    mirror.assert_identical(job)
    strategy = sidecar(mirror.snapshot_of(job))["strategy"]
    assert strategy["method"] == "ranges"
    assert {price["way"]: price["rejected"] for price in strategy["prices"]}["whole"] == "more_bytes"
    assert mirror.fetched_bytes() - before < 0.3 * mirror.world.extract(job)[ARCHIVE].size


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

    prices = {price.method: price for price in planned.choice.prices}
    assert prices.keys() == set(Method)
    assert prices[Method.FILES].calls == 70 + 1  # and one for the schemas, which only the archive has
    assert prices[Method.WHOLE].calls == 1
    # 57 calls go at once, one of which was the listing, one the poll, ...: the rest waits for the next minute.
    assert prices[Method.FILES].seconds >= 60
    assert planned.choice.price.method is not Method.FILES
    assert len(planned.plan.extracts) == 70 + 2  # and the page and the JSON of the schema
    assert mirror.visible() == []


async def test_the_sidecar_says_what_was_weighed(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(70), with_archive=True)

    await mirror.sync()

    strategy = sidecar(mirror.snapshot_of(job))["strategy"]
    assert strategy["name"] == "zip"
    assert [price["way"] for price in strategy["prices"]] == ["files", "ranges", "whole"]
    assert strategy["reason"].startswith("ranges: 1 call, ")
    assert "; rejected: files: 71 calls, " in strategy["reason"]
    assert {price["way"]: price["rejected"] for price in strategy["prices"]} == {
        "files": "slower",
        "ranges": None,
        "whole": "equal",
    }
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
