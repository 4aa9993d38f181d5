"""Whether each data request's data is up to date, as hooks, `status --check`, the heartbeat and the metrics say it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.app.status import read_status
from dcsync.core.freshness import FreshnessState, History, RequestFreshness, Sighting, request_freshness
from dcsync.core.lifecycle import JobState
from dcsync.core.model import JobId
from dcsync.core.ports import KnownJob, KnownRequest
from dcsync.errors import ExitStatus
from dcsync.ops.alerts.job_alerts import job_alerts
from dcsync.ops.alerts.request_alerts import request_alerts, with_red_alert
from dcsync.ops.freshness import FollowedRequest
from dcsync.ops.metrics import render
from dcsync.ops.status import Status
from dcsync.sandbox import Fault
from tests.fakes import NOON, make_job, make_request
from tests.ops.test_metrics import figures
from tests.rigs.listener import DAY, HOUR, NO_NETWORK, Listener, add_schedule
from tests.rigs.mirror import Mirror, add_extract, tables
from tests.rigs.notified import NotificationServer

S = FreshnessState


@pytest.fixture(autouse=True)
def _long_token(mirror: Mirror) -> None:
    """Weeks pass in these tests."""
    mirror.environ["TOKEN"] = mirror.sandbox.tokens.issue_access_token("tester", 90 * DAY)


async def status_of(mirror: Mirror) -> Status:
    return await read_status(mirror.configuration(), mirror.stores(), clock=mirror.clock)


async def requests_of(mirror: Mirror) -> dict[str, RequestFreshness]:
    (account,) = (await status_of(mirror)).accounts
    return {request.name: request for request in account.requests}


async def check(mirror: Mirror) -> tuple[ExitStatus, list[str]]:
    status = await status_of(mirror)
    return status.check, status.codes


def configure(mirror: Mirror, **keys: Any) -> None:
    mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id, **keys}]


def add_second(mirror: Mirror, name: str = "Weekly reports") -> str:
    """Add a second daily data request with today's extract."""
    slot = mirror.clock.now().replace(hour=4)
    request = mirror.world.add_request(name, created_at=slot - timedelta(days=30))
    add_today(mirror, request, hour=4)
    return request


def add_today(mirror: Mirror, request: str, *, hour: int = 2, **options: Any) -> str:
    """Add the extract of today's slot."""
    slot = mirror.clock.now().replace(hour=hour)
    values = {"completed_at": slot + timedelta(minutes=30), "files": tables(1), "with_archive": False, **options}
    return mirror.world.add_job(request, created_at=slot, **values)


async def next_day(mirror: Mirror, listener: Listener, *requests: str) -> list[tuple[str, str]]:
    """Let a day pass on which these data requests get their extract. Return the events, without the snapshots."""
    mirror.clock.advance(DAY)
    for request in requests:
        add_today(mirror, request, hour=mirror.world.requests[request].created_at.hour)
    return [event for event in await listener.run() if event[0] != "snapshot"]


async def test_a_healthy_data_request_does_not_hide_a_dead_one(
    mirror: Mirror, listener: Listener, service: NotificationServer
) -> None:
    mirror.environ["BEAT"] = service.address("http")
    mirror.config["heartbeat"] = {"url": "env:BEAT"}
    nightly, other = add_schedule(mirror), add_second(mirror)
    await mirror.run()
    assert await check(mirror) == (ExitStatus.DONE, [])
    assert len(service.heartbeats) == 1
    listener.events()

    for day in range(1, 4):
        assert await next_day(mirror, listener, other) == [("alert", "L-LATE")]
        assert await check(mirror) == (ExitStatus.INCOMPLETE, ["L-LATE"])
        found = await requests_of(mirror)
        assert (found["Weekly reports"].state, found["Weekly reports"].slots_missed) == (S.OK, 0)
        assert (found["Nightly"].state, found["Nightly"].slots_missed) == (S.LATE, day)
    assert len(service.heartbeats) == 1

    metrics = figures(render(await status_of(mirror)))
    assert metrics["request_slots_missed", "acme", nightly] == 3
    assert metrics["request_slots_missed", "acme", other] == 0
    assert metrics["request_state", "acme", nightly, "late"] == metrics["request_state", "acme", other, "ok"] == 1
    assert metrics["request_state", "acme", nightly, "ok"] == 0
    assert metrics["request_info", "acme", "Nightly", nightly] == 1
    age = (
        metrics["request_newest_snapshot_timestamp_seconds", "acme", other]
        - metrics["request_newest_snapshot_timestamp_seconds", "acme", nightly]
    )
    assert age == 3 * DAY + 2 * HOUR

    assert await next_day(mirror, listener, nightly, other) == [("recovered", "L-LATE")]
    assert await check(mirror) == (ExitStatus.DONE, [])
    assert len(service.heartbeats) == 2


async def test_a_job_that_cannot_be_mirrored_does_not_resolve_a_missed_slot(mirror: Mirror, listener: Listener) -> None:
    nightly = add_schedule(mirror)
    await mirror.run()
    listener.events()
    assert await next_day(mirror, listener) == [("alert", "L-LATE")]

    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/data-listing", times=None))
    found = await next_day(mirror, listener, nightly)
    assert ("recovered", "L-LATE") not in found
    assert (await check(mirror))[1] == ["L-LATE", "L-MISSING"]

    mirror.sandbox.faults.clear()
    mirror.clock.advance(7 * HOUR)
    assert ("recovered", "L-LATE") in await listener.run()
    assert await check(mirror) == (ExitStatus.DONE, [])


async def test_a_job_that_failed_at_autodesk_satisfies_no_slot(mirror: Mirror, listener: Listener) -> None:
    nightly = add_schedule(mirror)
    await mirror.run()
    listener.events()
    mirror.clock.advance(DAY)
    add_today(mirror, nightly, completion="failed", files=None)
    assert await listener.run() == [("failure", "L-FAILED")]
    mirror.clock.advance(8 * HOUR)
    assert await listener.run() == []
    assert (await requests_of(mirror))["Nightly"].slots_missed == 1

    # The next day has no job at all: two are missing.
    mirror.clock.advance(16 * HOUR)
    assert await listener.run() == [("failure", "L-FAILED"), ("alert", "L-LATE")]
    assert (await requests_of(mirror))["Nightly"].slots_missed == 2

    assert await next_day(mirror, listener, nightly) == [("recovered", "L-FAILED"), ("recovered", "L-LATE")]


async def test_an_extract_that_was_cancelled_at_autodesk_is_missing_like_any_other(
    mirror: Mirror, listener: Listener
) -> None:
    nightly = add_schedule(mirror)
    await mirror.run()
    listener.events()
    mirror.clock.advance(DAY)
    add_today(mirror, nightly, completion="cancelled", files=None)

    assert await listener.run() == [("alert", "L-LATE")]
    status = await status_of(mirror)
    assert status.check is ExitStatus.INCOMPLETE
    assert status.accounts[0].alerts[0].alert.message.endswith("its job was cancelled at Autodesk")

    assert await next_day(mirror, listener, nightly) == [("recovered", "L-LATE")]


@given(
    jobs=st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from(["success", "failed", "cancelled", None]),
            st.sampled_from(JobState),
            st.sampled_from([None, "L-MISSING", "F-SPACE", "C-NOTABLES"]),
        ),
        max_size=3,
    ),
    schedule=st.sampled_from(["DAY", "ONE_TIME"]),
    age=st.integers(0, 40),
    end=st.integers(1, 9) | st.none(),
)
def test_a_data_request_with_a_missed_slot_is_never_green(
    jobs: list[tuple[int, str | None, JobState, str | None]], schedule: str, age: int, end: int | None
) -> None:
    first = NOON.replace(hour=2)
    now = first + timedelta(days=age, hours=9)
    request = make_request(
        schedule_interval=schedule,
        recurring_interval=1,
        effective_from=first,
        effective_to=None if end is None else first + timedelta(days=end),
    )
    known = [
        KnownJob(
            job=make_job(
                id=JobId(f"job-{number}"),
                created_at=first + timedelta(days=day),
                completed_at=first + timedelta(days=day, minutes=30),
                completion_status=completion,
            ),
            state=state,
            reason_code=code,
            folder="f" if state is JobState.PUBLISHED else None,
        )
        for number, (day, completion, state, code) in enumerate(jobs)
    ]
    seen = KnownRequest(id=request.id, description="Nightly", slug="nightly", is_delta=False)
    sighting = Sighting(request=seen, document=request, polled_at=now)
    history = History(jobs=known, since=first - timedelta(hours=1))
    freshness = request_freshness(sighting, history, now)
    followed = [FollowedRequest(sighting=sighting, history=history, freshness=freshness)]

    found = job_alerts("acme", known, now, hints={}, listed={})
    found += request_alerts("acme", followed, with_red_alert(found, known), now)

    if freshness.slots_missed:
        assert {alert.kind.exit_status for alert in found} - {ExitStatus.DONE}


async def test_a_schedule_without_extracts_for_months_is_late_from_the_next_missed_time_on(
    mirror: Mirror, listener: Listener
) -> None:
    """All its jobs are older than anything that Autodesk still has. It is to go on."""
    past = mirror.clock.now().replace(hour=2) - timedelta(days=31)
    request = mirror.world.add_request("Nightly", created_at=past)
    mirror.world.add_job(request, created_at=past, completed_at=past, files=tables(1))
    await mirror.run()
    # The list shows it on the next day.
    await next_day(mirror, listener)

    assert ("alert", "L-LATE") in await next_day(mirror, listener)
    assert (await check(mirror))[0] is ExitStatus.INCOMPLETE


async def test_a_data_request_that_can_never_be_read_is_a_warning_and_then_gone(
    mirror: Mirror, listener: Listener
) -> None:
    nightly = add_schedule(mirror)
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=403, match="/requests", times=None))
    await mirror.run()
    assert await check(mirror) == (ExitStatus.DONE, [])
    listener.events()

    assert await next_day(mirror, listener, nightly) == [("alert", "L-SCHEDULE")]
    assert await check(mirror) == (ExitStatus.DONE, ["L-SCHEDULE"])

    mirror.sandbox.faults.clear()
    entry = mirror.world.requests.pop(nightly)
    assert await next_day(mirror, listener) == [("alert", "L-GONE")]
    assert (await check(mirror))[0] is ExitStatus.INCOMPLETE

    mirror.world.requests[nightly] = entry
    assert await next_day(mirror, listener, nightly) == [("recovered", "L-GONE")]


async def test_while_the_job_list_cannot_be_read_lateness_stays_as_it_was(mirror: Mirror, listener: Listener) -> None:
    add_schedule(mirror)
    await mirror.run()
    listener.events()
    mirror.sandbox.faults.add(NO_NETWORK)
    assert await next_day(mirror, listener) == []
    assert (await requests_of(mirror))["Nightly"].state is S.UNKNOWN
    mirror.clock.advance(HOUR)
    assert await listener.run() == [("failure", "A-SERVER")]

    mirror.sandbox.faults.clear()
    assert await listener.run() == [("alert", "L-LATE"), ("recovered", "A-SERVER")]
    mirror.sandbox.faults.add(NO_NETWORK)
    for _ in range(3):
        assert ("recovered", "L-LATE") not in await next_day(mirror, listener)
    found = (await requests_of(mirror))["Nightly"]
    assert (found.state, found.slots_missed) == (S.LATE, 1)


async def test_the_end_of_a_schedule_is_a_warning_first_and_then_red_until_it_is_extended(
    mirror: Mirror, listener: Listener, service: NotificationServer
) -> None:
    mirror.environ["BEAT"] = service.address("http")
    mirror.config["heartbeat"] = {"url": "env:BEAT"}
    nightly, other = add_schedule(mirror), add_second(mirror)
    end = mirror.clock.now() + timedelta(days=16)
    mirror.world.requests[nightly].ends_at = end
    await mirror.run()
    listener.events()
    seen = [(await next_day(mirror, listener, nightly, other), await check(mirror)) for _ in range(16)]

    warned = ([("alert", "L-ENDS")], (ExitStatus.DONE, ["L-ENDS"]))
    assert seen[:-1] == [([], (ExitStatus.DONE, [])), *[warned] * 14]
    assert seen[-1] == ([("alert", "L-ENDED")], (ExitStatus.INCOMPLETE, ["L-ENDED"]))
    beats = len(service.heartbeats)
    for _ in range(3):
        assert await next_day(mirror, listener, other) == [("alert", "L-ENDED")]
    found = (await requests_of(mirror))["Nightly"]
    assert (found.state, found.ends_at, found.next_expected_at) == (S.ENDED, end, None)
    assert (
        figures(render(await status_of(mirror)))["request_ends_timestamp_seconds", "acme", nightly] == end.timestamp()
    )

    # The owner moves the end. Today's extract comes with it.
    mirror.world.requests[nightly].ends_at = end + timedelta(days=365)
    assert ("recovered", "L-ENDED") in await next_day(mirror, listener, nightly, other)
    assert await check(mirror) == (ExitStatus.DONE, [])
    assert len(service.heartbeats) == beats + 1


async def test_a_new_start_of_the_schedule_resolves_no_missed_slot(mirror: Mirror, listener: Listener) -> None:
    nightly, other = add_schedule(mirror), add_second(mirror)
    await mirror.run()
    listener.events()
    for _ in range(2):
        await next_day(mirror, listener, other)
    entry = mirror.world.requests[nightly]

    # The owner gives the schedule a new start, which lies ahead. The list of data requests shows it a day later.
    entry.created_at += timedelta(days=70)
    for _ in range(2):
        assert ("recovered", "L-LATE") not in await next_day(mirror, listener, other)
    found = (await requests_of(mirror))["Nightly"]

    assert (found.state, found.slots_missed) == (S.LATE, 1)
    assert await check(mirror) == (ExitStatus.INCOMPLETE, ["L-LATE"])
    # An extract that the owner starts by hand is newer than the missed one.
    add_today(mirror, nightly)
    assert await listener.run() == [("snapshot", ""), ("recovered", "L-LATE")]
    assert await check(mirror) == (ExitStatus.DONE, [])


@pytest.mark.parametrize("name", ["Nightly", "Night*", None])
async def test_a_retired_data_request_raises_no_alert_about_its_schedule(
    mirror: Mirror, listener: Listener, name: str | None
) -> None:
    nightly = add_schedule(mirror)
    mirror.world.requests[nightly].ends_at = mirror.clock.now() + timedelta(hours=1)
    await mirror.run()
    listener.events()
    assert ("alert", "L-ENDED") in await next_day(mirror, listener)

    configure(mirror, retired=[name or nightly])
    assert await listener.run() == [("recovered", "L-ENDED")]
    assert await check(mirror) == (ExitStatus.DONE, [])
    assert (await requests_of(mirror))["Nightly"].state is S.RETIRED
    # Whatever becomes of it.
    mirror.world.requests[nightly].is_active = False
    add_today(mirror, nightly, hour=3, completion="failed", files=None)
    assert await next_day(mirror, listener) == []
    del mirror.world.requests[nightly]
    assert await next_day(mirror, listener) == []


async def test_a_mirrored_data_request_that_runs_once_is_done(mirror: Mirror, listener: Listener) -> None:
    once = mirror.world.add_request("Once", schedule="ONE_TIME")
    mirror.world.requests[once].ends_at = mirror.clock.now() + timedelta(days=1)
    add_extract(mirror, tables(1), request=once)
    await mirror.run()
    listener.events()

    for _ in range(3):
        assert await next_day(mirror, listener) == []
    del mirror.world.requests[once]
    for _ in range(2):
        assert await next_day(mirror, listener) == []
    assert await check(mirror) == (ExitStatus.DONE, [])
    assert (await requests_of(mirror))["Once"].state is S.DONE


async def test_data_requests_that_were_over_long_before_the_first_run_raise_no_alert(
    mirror: Mirror, listener: Listener
) -> None:
    """An account with a history: a schedule that ended, and one whose last job failed, a year ago."""
    for name, completion in (("Ended", "success"), ("Failed", "failed")):
        past = mirror.clock.now() - timedelta(days=365)
        request = mirror.world.add_request(name, created_at=past)
        mirror.world.requests[request].ends_at = past + timedelta(days=9)
        mirror.world.add_job(request, created_at=past, completed_at=past, completion=completion, files=tables(1))
    await mirror.run()
    assert [event for event in listener.kinds() if event[1] in {"L-ENDED", "L-FAILED", "L-LATE"}] == []
    assert [event for event in await next_day(mirror, listener) if event[1] in {"L-ENDED", "L-FAILED", "L-LATE"}] == []


async def test_a_data_request_that_never_produced_a_job_is_late(mirror: Mirror, listener: Listener) -> None:
    nightly = add_schedule(mirror)
    await mirror.run()
    listener.events()
    now = mirror.clock.now()
    once = mirror.world.add_request("Once", schedule="ONE_TIME", created_at=now)
    mirror.world.add_request("Daily", created_at=now.replace(hour=3) - timedelta(days=5))
    # These never will, and raise no alert.
    mirror.world.add_request("Long ago", schedule="ONE_TIME", created_at=now - timedelta(days=90))
    ended = mirror.world.add_request("Ended", created_at=now - timedelta(days=90))
    mirror.world.requests[ended].ends_at = now - timedelta(days=9)

    assert await next_day(mirror, listener, nightly) == []
    found = await requests_of(mirror)
    assert {name: request.state for name, request in found.items()} == {"Daily": S.OK, "Nightly": S.OK, "Once": S.DUE}
    assert await next_day(mirror, listener, nightly) == [("alert", "L-LATE"), ("alert", "L-LATE")]
    assert (await check(mirror))[0] is ExitStatus.INCOMPLETE

    add_today(mirror, once, hour=11)
    assert [event for event in await listener.run() if event[0] != "snapshot"] == [("recovered", "L-LATE")]
    found = await requests_of(mirror)
    assert (found["Once"].state, found["Daily"].state) == (S.DONE, S.LATE)


async def test_sync_on_a_daily_timer_sees_a_moved_end_each_time(mirror: Mirror, listener: Listener) -> None:
    """The timer is some seconds early or late."""
    nightly = add_schedule(mirror)
    await mirror.run()
    seen = []
    for days in (-1, 365, -1, 365):
        mirror.world.requests[nightly].ends_at = mirror.clock.now() + timedelta(days=days)
        mirror.clock.advance(DAY - 30)
        add_today(mirror, nightly)
        await mirror.run()
        seen.append((await requests_of(mirror))["Nightly"].state)

    assert seen == [S.ENDED, S.OK, S.ENDED, S.OK]


async def test_a_list_of_data_requests_that_failed_is_read_again_after_an_hour(
    mirror: Mirror, listener: Listener
) -> None:
    nightly = add_schedule(mirror)
    mirror.world.requests[nightly].ends_at = mirror.clock.now() + timedelta(hours=1)
    await mirror.run()
    mirror.world.requests[nightly].ends_at = mirror.clock.now() + timedelta(days=365)
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=503, match="/requests", times=None))
    assert ("alert", "L-ENDED") in await next_day(mirror, listener, nightly)

    mirror.sandbox.faults.clear()
    mirror.clock.advance(HOUR - 60)
    assert await listener.run() == []
    mirror.clock.advance(60)
    assert await listener.run() == [("recovered", "L-ENDED")]
