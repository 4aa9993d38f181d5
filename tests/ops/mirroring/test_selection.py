"""A snapshot without any table is never published: not by the configuration's fault, and not by Autodesk's."""

from __future__ import annotations

from typing import Any

import pytest

from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName
from dcsync.errors import ExitStatus
from dcsync.manifest import StandingAlerts
from dcsync.ops.mirroring.outcome import Wanted
from dcsync.sandbox import Fault
from tests.rigs.mirror import ARCHIVE, Mirror, add_extract, tables
from tests.rigs.zips import make_zip

HOUR = 3600


def select(mirror: Mirror, **selection: Any) -> None:
    mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id, **selection}]


async def standing(mirror: Mirror) -> list[tuple[str, str]]:
    async with mirror.opened() as context:
        return [
            (item.alert.code, item.alert.message)
            for item in await StandingAlerts(context.manifest).load([AccountName("acme")])
        ]


@pytest.mark.parametrize("with_archive", [True, False])
@pytest.mark.parametrize("selection", [{"include": ["adm_*"]}, {"exclude": ["*.csv"]}])
async def test_a_selection_without_tables_publishes_nothing_and_its_correction_does_at_once(
    mirror: Mirror, with_archive: bool, selection: dict[str, Any]
) -> None:
    jobs = [
        add_extract(mirror, {"README.html": b"<p>", **tables(3, seed=day)}, days_ago=3 - day, with_archive=with_archive)
        for day in range(3)
    ]
    select(mirror, **selection)

    outcome = await mirror.run()

    assert outcome.exit_status is ExitStatus.INCOMPLETE
    assert [(failed.job, failed.code) for failed in outcome.failed] == [(job, "C-NOTABLES") for job in jobs]
    assert mirror.visible() == [mirror.root / "index.html", mirror.root / "views.sql"]
    # One alert, however many extracts.
    message = f"include and exclude in [[account]] leave no table of 3 extracts (first: job {min(jobs)})"
    assert await standing(mirror) == [("C-NOTABLES", message)]

    select(mirror)
    outcome = await mirror.run()

    assert [published.job for published in outcome.published] == jobs
    for job in jobs:
        mirror.assert_identical(job)
    assert await standing(mirror) == []


async def test_a_selection_without_tables_never_quarantines_and_waits_while_it_is_the_same(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(2))
    select(mirror, include=["adm_*"])
    for _ in range(5):
        assert [failed.code for failed in (await mirror.sync_one()).failed] == ["C-NOTABLES"]
        mirror.clock.advance(7 * HOUR)
    assert await mirror.states() == {job: JobState.FAILED}
    await mirror.sync()
    listings = mirror.sandbox.count("api", path_contains="/data-listing")

    outcome = await mirror.sync_one()

    # No call is wasted on a question whose answer is known.
    assert (outcome.due_later, outcome.failed) == (1, [])
    assert mirror.sandbox.count("api", path_contains="/data-listing") == listings
    select(mirror, include=["admin_*"])
    assert [published.job for published in (await mirror.sync_one()).published] == [job]


async def test_another_wrong_selection_is_tried_at_once_too(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(2))
    for wrong in ("adm_*", "admn_*"):
        select(mirror, include=[wrong])
        assert [failed.job for failed in (await mirror.sync_one()).failed] == [job]
    assert (await mirror.sync_one()).due_later == 1


async def test_a_dry_run_says_so_and_records_nothing(mirror: Mirror) -> None:
    add_extract(mirror, tables(2), with_archive=True)
    select(mirror, include=["adm_*"])

    outcome = await mirror.sync_one(dry_run=True)

    assert [(failed.code, failed.next_try_at) for failed in outcome.failed] == [("C-NOTABLES", None)]


async def test_the_archive_alone_may_be_selected(mirror: Mirror) -> None:
    """It has every table."""
    job = add_extract(mirror, tables(2), with_archive=True)
    select(mirror, include=[ARCHIVE])
    mirror.config["mirror"] = {"keep_archive": True}

    await mirror.sync()

    assert (mirror.snapshot_of(job) / ARCHIVE).is_file()


@pytest.mark.parametrize(
    "files",
    [
        {"README.html": b"<p>"},
        {"README.html": b"<p>", "schemas/admin.csv": b"column\n"},
        {"README.html": b"<p>", ARCHIVE: make_zip({"README.html": b"<p>", "schemas/admin.json": b"{}"})},
        {ARCHIVE: make_zip({"schemas/admin.csv": b"column\n"})},
    ],
)
async def test_an_extract_of_documents_alone_is_empty_for_a_day_and_given_up_then(
    mirror: Mirror, files: dict[str, bytes]
) -> None:
    job = add_extract(mirror, files)

    outcome = await mirror.run()

    assert [failed.code for failed in outcome.failed] == ["L-EMPTY"]
    assert [code for code, _ in await standing(mirror)] == ["L-EMPTY"]
    for _ in range(3):
        mirror.clock.advance(6.5 * HOUR)
        await mirror.sync()
        assert await mirror.states() == {job: JobState.FAILED}
    mirror.clock.advance(6.5 * HOUR)
    await mirror.sync()
    assert await mirror.states() == {job: JobState.QUARANTINED}
    assert mirror.snapshots() == []


async def test_an_empty_listing_that_fills_is_mirrored(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(2))
    mirror.sandbox.faults.add(Fault(server="api", kind="json", body=b"[]", match="/data-listing"))
    assert [failed.code for failed in (await mirror.sync_one()).failed] == ["L-EMPTY"]

    await mirror.sync(wanted=Wanted(jobs=(job,)))

    mirror.assert_identical(job)


async def test_an_archive_alone_that_autodesk_does_not_have_is_empty_and_says_why(mirror: Mirror) -> None:
    add_extract(mirror, {ARCHIVE: make_zip(tables(2))})
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="extract.zip", times=None))

    (failed,) = (await mirror.sync_one()).failed

    assert failed.code == "L-EMPTY"
    assert "has no table, and its ZIP is missing: Autodesk does not have it" in failed.message


async def test_an_archive_alone_that_does_not_come_is_never_given_up(mirror: Mirror) -> None:
    job = add_extract(mirror, {ARCHIVE: make_zip(tables(2))})
    mirror.sandbox.faults.add(Fault(server="storage", kind="reset", match="extract.zip", times=None))
    for _ in range(4):
        assert [failed.code for failed in (await mirror.sync_one()).failed] == ["S-NETWORK"]
        mirror.clock.advance(7 * HOUR)
    mirror.sandbox.faults.clear()

    await mirror.sync()

    assert len(list(mirror.snapshot_of(job).glob("*.csv"))) == 2
