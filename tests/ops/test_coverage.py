"""Days that no extract has: when they raise an alert, what resolves it, and what `status` says."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest

from dcsync.app.rebuild import rebuild_manifest
from dcsync.app.status import read_status
from dcsync.core.alerts import Alert
from dcsync.core.coverage import Days
from dcsync.core.model import AccountName, JobId
from dcsync.errors import ExitStatus
from dcsync.ops.status import Status
from tests.rigs.halfway import downgrade
from tests.rigs.listener import Listener
from tests.rigs.mirror import Mirror, add_extract

#: Apprise imports it on Python versions that still have it.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
ACTIVITIES = {"activities_docs.csv": b"id\n1\n"}


def add_weekly(mirror: Mirror, **changes: Any) -> str:
    """Add a weekly data request for everything, whose last slot was yesterday."""
    began = mirror.clock.now() - timedelta(days=15)
    values = {"service_groups": ("all",), "schedule": "WEEK", "created_at": began, **changes}
    return mirror.world.add_request("Everything", **values)


async def status(mirror: Mirror) -> Status:
    return await read_status(mirror.configuration(), mirror.stores(), clock=mirror.clock)


async def gap(mirror: Mirror) -> Alert | None:
    (account,) = (await status(mirror)).accounts
    return next((item.alert for item in account.alerts if item.alert.code == "L-GAP"), None)


def day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"


async def test_a_weekly_request_with_the_default_range_is_told_that_it_gets_one_day_in_seven(mirror: Mirror) -> None:
    listener = Listener(mirror)
    request = add_weekly(mirror)
    for days_ago in (8, 1):
        add_extract(mirror, ACTIVITIES, request=request, days_ago=days_ago)

    events = await listener.run()

    assert ("alert", "L-GAP") in events
    assert (await status(mirror)).check is ExitStatus.INCOMPLETE
    found, now = await gap(mirror), mirror.clock.now()
    assert found is not None
    first, last = day(now - timedelta(days=8)), day(now - timedelta(days=1))
    assert found.message == f"no extract of Everything has the activities of 7 days from {first} to {last}"
    assert "date range in Autodesk's Data Connector to PAST_7_DAYS, and run dcsync requests backfill" in found.hint
    document: Any = (await status(mirror)).json()
    assert document["accounts"][0]["requests"][0]["coverage"]["gaps"] == [
        f"{first}/{day(now - timedelta(days=3))}",
        f"{last}/{last}",
    ]


async def test_a_gap_is_resolved_when_a_later_window_has_its_days(mirror: Mirror) -> None:
    listener = Listener(mirror)
    request = add_weekly(mirror)
    for days_ago in (8, 1):
        add_extract(mirror, ACTIVITIES, request=request, days_ago=days_ago)
    await listener.run()
    now = mirror.clock.now()

    # As the hint says: a wider range from now on, and one extract for the past.
    mirror.world.requests[request].date_range = "PAST_7_DAYS"
    once = mirror.world.add_request(
        "Missing days",
        service_groups=("activities",),
        schedule="ONE_TIME",
        start_date=now - timedelta(days=8),
        end_date=now - timedelta(days=1),
    )
    add_extract(mirror, ACTIVITIES, request=once)
    # The list of data requests is read once a day.
    mirror.clock.advance(25 * 3600)
    events = await listener.run()

    assert ("recovered", "L-GAP") in events
    assert await gap(mirror) is None


async def sync_weekly_then_change(mirror: Mirror, request: str, **changes: Any) -> None:
    """Mirror two weekly extracts, change their data request, and read it again."""
    listener = Listener(mirror)
    for days_ago in (8, 1):
        add_extract(mirror, ACTIVITIES, request=request, days_ago=days_ago)
    await listener.run()
    for name, value in changes.items():
        setattr(mirror.world.requests[request], name, value)
    # The list of data requests is read once a day.
    mirror.clock.advance(25 * 3600)
    await listener.run()


async def test_a_wider_date_range_does_not_fill_the_gaps_of_the_past(mirror: Mirror) -> None:
    request, now = add_weekly(mirror), mirror.clock.now()

    await sync_weekly_then_change(mirror, request, date_range="PAST_7_DAYS")

    found = await gap(mirror)
    assert found is not None
    assert found.data["gaps"] == [f"{day(now - timedelta(days=8))}/{day(now - timedelta(days=3))}"]


async def test_a_rebuild_restores_the_days_of_each_extract(mirror: Mirror) -> None:
    request = add_weekly(mirror)
    for days_ago in (8, 1):
        add_extract(mirror, ACTIVITIES, request=request, days_ago=days_ago)
    await mirror.sync()
    before = await recorded_windows(mirror)
    assert sorted(before.values()) == [
        Days(first=moment.date(), last=moment.date())
        for moment in (mirror.clock.now() - timedelta(days=days_ago) for days_ago in (9, 2))
    ]

    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()
    await rebuild_manifest(mirror.configuration(), mirror.stores(), clock=mirror.clock)

    assert await recorded_windows(mirror) == before


async def recorded_windows(mirror: Mirror) -> Mapping[JobId, Days]:
    async with mirror.opened() as context:
        return await context.manifest.history.recorded_windows(AccountName("acme"))


async def test_a_shorter_date_range_makes_no_gaps_in_the_past(mirror: Mirror) -> None:
    request = add_weekly(mirror, date_range="PAST_7_DAYS")

    await sync_weekly_then_change(mirror, request, date_range="YESTERDAY", schedule="DAY")

    assert await gap(mirror) is None


async def test_a_request_for_today_never_has_a_whole_day(mirror: Mirror) -> None:
    request, now = add_weekly(mirror, schedule="DAY", date_range="TODAY"), mirror.clock.now()
    for days_ago in (2, 1, 0):
        add_extract(mirror, ACTIVITIES, request=request, days_ago=days_ago)
    await mirror.sync()

    found = await gap(mirror)

    assert found is not None
    assert found.data["gaps"] == [f"{day(now - timedelta(days=2))}/{day(now - timedelta(days=1))}"]
    assert "date range in Autodesk's Data Connector to YESTERDAY, and run dcsync requests backfill" in found.hint


async def test_a_missed_day_is_a_gap_of_one_day(mirror: Mirror) -> None:
    request = add_weekly(mirror, schedule="DAY")
    for days_ago in (3, 1, 0):
        add_extract(mirror, ACTIVITIES, request=request, days_ago=days_ago)
    await mirror.sync()

    found = await gap(mirror)

    assert found is not None
    assert (
        found.message == f"no extract of Everything has the activities of {day(mirror.clock.now() - timedelta(days=3))}"
    )
    assert found.hint == "run dcsync requests backfill activities --from 2026-11 --to 2026-11"


async def test_days_that_autodesk_no_longer_serves_are_shown_but_no_alert(mirror: Mirror) -> None:
    request = add_weekly(mirror, schedule="ONE_TIME")
    for days_ago in (5, 0):
        add_extract(mirror, ACTIVITIES, request=request, days_ago=days_ago)
    await mirror.sync()
    assert await gap(mirror) is not None

    mirror.clock.advance(370 * 86400)

    assert await gap(mirror) is None
    document: Any = (await status(mirror)).json()
    assert len(document["accounts"][0]["requests"][0]["coverage"]["gaps"]) == 1


@pytest.mark.parametrize("files", [{"admin_users.csv": b"id\n1\n"}, {"schedule_activities.csv": b"id\n1\n"}])
async def test_full_tables_have_no_coverage(mirror: Mirror, files: dict[str, bytes]) -> None:
    request = add_weekly(mirror)
    for days_ago in (8, 1):
        add_extract(mirror, files, request=request, days_ago=days_ago)
    await mirror.sync()

    document: Any = (await status(mirror)).json()

    assert await gap(mirror) is None
    assert document["accounts"][0]["requests"][0]["coverage"] == {"covered": [], "gaps": []}


async def test_a_retired_request_raises_no_alert(mirror: Mirror) -> None:
    request = add_weekly(mirror)
    for days_ago in (8, 1):
        add_extract(mirror, ACTIVITIES, request=request, days_ago=days_ago)
    await mirror.sync()
    mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id, "retired": [request]}]

    assert await gap(mirror) is None


async def test_a_manifest_of_version_0_2_is_read_by_the_names_of_its_tables(mirror: Mirror) -> None:
    request = add_weekly(mirror)
    for days_ago in (8, 1):
        add_extract(mirror, ACTIVITIES, request=request, days_ago=days_ago)
    await mirror.sync()
    downgrade(mirror.state / "manifest.sqlite", "0006")

    assert await gap(mirror) is not None
