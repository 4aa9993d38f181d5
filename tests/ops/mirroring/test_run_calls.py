"""What a run costs: API calls, pauses, and a dry run that downloads nothing."""

from __future__ import annotations

from pathlib import Path

from dcsync.errors import (
    ExitStatus,
)
from dcsync.sandbox import Fault
from tests.rigs.mirror import (
    Mirror,
    add_extract,
    mirroring,
    tables,
)


async def test_n_files_cost_n_signing_calls_a_listing_and_the_poll(mirror: Mirror) -> None:
    add_extract(mirror, tables(25))

    outcome = await mirror.sync_one()

    assert mirror.sandbox.count("api", path_contains="/data/") == 25
    assert mirror.sandbox.count("api", path_contains="/data-listing") == 1
    assert mirror.sandbox.count("storage") == 25
    # And one for the jobs and one for the request's description.
    assert mirror.sandbox.count("api") == 25 + 1 + 2
    assert outcome.calls == mirror.sandbox.count("api")


async def test_a_poll_that_finds_nothing_costs_one_call(mirror: Mirror) -> None:
    for day in range(60):
        add_extract(mirror, {"a.csv": b"a\n"}, days_ago=29 - day / 3)
    await mirror.sync()
    before = mirror.sandbox.count()

    outcome = await mirror.sync_one()

    assert mirror.sandbox.count() - before == 1
    assert outcome.calls == 1
    assert outcome.exit_status is ExitStatus.DONE


async def test_a_dry_run_writes_nothing_and_downloads_nothing(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(3))

    outcome = await mirror.sync_one(dry_run=True)

    (planned,) = outcome.planned
    assert planned.job == job
    assert planned.choice.price.calls == 3
    assert planned.choice.price.size == sum(map(len, tables(3).values()))
    assert mirror.sandbox.count("api", path_contains="/data/") == 0
    assert list(mirror.root.iterdir()) == []
    assert not (mirror.state / "manifest.sqlite").exists()


async def test_a_dry_run_goes_on_after_a_job_that_cannot_be_planned_and_records_nothing(mirror: Mirror) -> None:
    jobs = [add_extract(mirror, tables(4, seed=day), days_ago=3 - day) for day in range(3)]
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/data-listing"))

    outcome = await mirror.sync_one(dry_run=True)

    assert [planned.job for planned in outcome.planned] == jobs[1:]
    assert [(failed.job, failed.code, failed.next_try_at) for failed in outcome.failed] == [
        (jobs[0], "L-MISSING", None)
    ]
    assert outcome.exit_status is ExitStatus.INCOMPLETE
    assert list(mirror.root.iterdir()) == []
    assert not (mirror.state / "manifest.sqlite").exists()


async def test_a_dry_run_stops_at_what_stops_an_account(mirror: Mirror) -> None:
    for day in range(3):
        add_extract(mirror, tables(4, seed=day), days_ago=3 - day)
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=503, match="/data-listing", times=None))
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=503, match="/jobs", times=None, skip=1))

    outcome = await mirror.sync_one(dry_run=True)

    assert outcome.error is not None
    assert outcome.error.code == "A-SERVER"
    assert (outcome.planned, len(outcome.failed)) == ([], 1)


async def test_a_dry_run_knows_what_is_mirrored_already(mirror: Mirror) -> None:
    add_extract(mirror, tables(1), days_ago=1)
    await mirror.sync()
    job = add_extract(mirror, tables(1))

    outcome = await mirror.sync_one(dry_run=True)

    assert [planned.job for planned in outcome.planned] == [job]
    assert outcome.planned[0].plan.fetches[0].unless is not None
    assert len(mirror.snapshots()) == 1


async def test_the_quota_is_kept_though_the_extract_needs_more(tmp_path: Path) -> None:
    # The clock jumps a minute while a download that has its URL already is on its way.
    async with mirroring(tmp_path, url_lifetime_s=1000.0) as mirror:
        mirror.config["api"] = {"requests_per_minute": 20}
        add_extract(mirror, tables(50))

        await mirror.sync()

        # 19 may be used in any minute: 53 calls begin in three minutes, two pauses apart.
        assert mirror.sandbox.count("api") == 53
        assert 120 <= mirror.clock.monotonic() - 1000 <= 190


async def test_a_429_pauses_every_call_for_as_long_as_it_asks(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(5))
    mirror.sandbox.faults.add(
        Fault(server="api", kind="status", status=429, headers={"Retry-After": "37"}, match="/data/", skip=2)
    )

    await mirror.sync()

    mirror.assert_identical(job)
    assert 37 <= max(mirror.clock.slept) <= 39


async def test_each_of_three_accounts_counts_its_own_calls_while_they_run_side_by_side(mirror: Mirror) -> None:
    """Retries count, and so do the calls of a job that fails."""
    add_extract(mirror, tables(4), days_ago=1)
    add_extract(mirror, tables(4, seed=1), request=mirror.world.add_request("Weekly"))
    hub = mirror.world.hub_id
    mirror.config["account"] = [
        {"name": "all", "id": hub},
        {"name": "one-table", "id": hub, "include": ["admin_table_000.csv"]},
        {"name": "weekly", "id": hub, "requests": ["Weekly"]},
    ]
    mirror.config["mirror"] = {"strategy": "files"}
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=503, match="/data-listing", times=2))
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/data-listing", skip=3))

    outcomes = await mirror.sync()
    first = [outcome.calls for outcome in outcomes]

    assert sum(len(outcome.failed) for outcome in outcomes) == 1
    assert sum(first) == mirror.sandbox.count("api")
    # Of five listings in all two are asked for again, and one brings no files: which one, is chance. If it is the only
    # one of its account, that account makes three calls: jobs, data requests, listing.
    assert min(first) >= 3
    again = await mirror.sync()
    assert [outcome.calls for outcome in again] == [1, 1, 1]


async def test_the_daily_look_at_the_requests_counts_for_its_account(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    first = await mirror.run()
    mirror.clock.advance(25 * 3600)

    later = await mirror.run()

    assert first.calls + later.calls == mirror.sandbox.count("api")
    # The poll and the look.
    assert later.calls == 2
