"""Alerts about data requests: late, slow, failed, inactive, or no longer visible."""

from __future__ import annotations

from datetime import datetime, timedelta

from dcsync.app.from_config import account_settings
from dcsync.sandbox import Fault
from tests.rigs.listener import DAY, HOUR, NO_NETWORK, Listener, add_schedule, make_dispatcher, pass_days
from tests.rigs.mirror import Mirror, add_extract, status_of, tables


def count_checks(mirror: Mirror) -> int:
    """Return how often the data requests were listed."""
    return sum(call.path.endswith("/requests") for call in mirror.sandbox.calls if call.server == "api")


async def test_a_missing_extract_is_late(mirror: Mirror, listener: Listener) -> None:
    add_schedule(mirror)
    await mirror.run()
    listener.events()
    mirror.clock.advance(14 * HOUR + 60)  # 02:01 of the next day
    assert await listener.run() == []
    mirror.clock.advance(3.5 * HOUR)

    await mirror.run()

    (event,) = listener.events()
    assert (event["event"], event["code"]) == ("alert", "L-LATE")
    assert event["message"] == (
        "Autodesk's extract of 2026-11-23 02:00Z (Nightly) is 3 h overdue: Autodesk has started no job for it"
    )
    mirror.clock.advance(HOUR)
    assert await listener.run() == []


async def test_no_extract_is_late_while_nothing_can_be_fetched(mirror: Mirror, listener: Listener) -> None:
    add_schedule(mirror)
    await mirror.run()
    listener.events()
    # While nothing can be fetched, nothing is said to be late.
    mirror.sandbox.faults.add(NO_NETWORK)
    mirror.clock.advance(20 * HOUR)
    assert await listener.run() == []
    mirror.clock.advance(HOUR)
    assert await listener.run() == [("failure", "A-SERVER")]
    mirror.sandbox.faults.clear()
    assert await listener.run() == [("alert", "L-LATE"), ("recovered", "A-SERVER")]
    # And what is late has not come because nobody can look.
    mirror.environ["TOKEN"], token = "wrong", mirror.environ["TOKEN"]
    assert await listener.run() == [("alert", "T-LOGIN")]
    mirror.environ["TOKEN"] = token
    assert await listener.run() == [("recovered", "T-LOGIN")]


async def test_a_late_extract_is_resolved_when_it_arrives(mirror: Mirror, listener: Listener) -> None:
    request = add_schedule(mirror)
    await mirror.run()
    mirror.clock.advance(20 * HOUR)
    await mirror.run()
    listener.events()
    mirror.world.add_job(request, completed_at=mirror.clock.now(), files=tables(1, seed=9), with_archive=False)

    assert await listener.run() == [("snapshot", ""), ("recovered", "L-LATE")]


async def test_an_extract_whose_job_still_runs_is_slow(mirror: Mirror, listener: Listener) -> None:
    request = add_schedule(mirror)
    await mirror.run()
    listener.events()
    slot = mirror.clock.now() + timedelta(hours=14)
    mirror.world.add_job(request, created_at=slot, status="running")
    mirror.clock.advance(18 * HOUR)

    await mirror.run()

    (event,) = listener.events()
    assert event["code"] == "L-SLOW"
    assert event["message"].endswith("is 4 h overdue: its job is still running")


async def test_ten_missed_days_are_one_alert_that_no_new_slot_resolves(mirror: Mirror, listener: Listener) -> None:
    mirror.environ["TOKEN"] = mirror.sandbox.tokens.issue_access_token("tester", 20 * DAY)
    request = add_schedule(mirror)
    await mirror.run()
    listener.events()
    events, messages = [], []
    for _ in range(10):
        mirror.clock.advance(DAY)
        await mirror.run()
        for event in listener.events():
            events.append((event["event"], event["code"]))
            messages.append((event["message"], event.get("slots_missed")))

    # One each day: it begins, and is repeated while it lasts.
    assert events == [("alert", "L-LATE")] * 10
    oldest = "of 2026-11-23 02:00Z"
    assert messages[0] == (
        f"Autodesk's extract {oldest} (Nightly) is 10 h overdue: Autodesk has started no job for it",
        1,
    )
    text = f"10 extracts of Nightly are missing. The oldest, {oldest}, is 9 days overdue: Autodesk has started no job"
    assert messages[-1] == (f"{text} for it", 10)

    mirror.world.add_job(request, completed_at=mirror.clock.now(), files=tables(1, seed=9), with_archive=False)
    assert await listener.run() == [("snapshot", ""), ("recovered", "L-LATE")]


async def test_a_failed_extract_is_an_alert_until_one_succeeds(mirror: Mirror, listener: Listener) -> None:
    request = mirror.world.add_request("Nightly")
    add_extract(mirror, tables(1), request=request, days_ago=1)
    await listener.run()
    mirror.clock.advance(60)
    mirror.world.add_job(request, completed_at=mirror.clock.now(), completion="failed")

    assert await listener.run() == [("failure", "L-FAILED")]
    assert await listener.run() == []

    mirror.clock.advance(1800)
    add_extract(mirror, tables(1, seed=1), request=request)
    assert await listener.run() == [("snapshot", ""), ("recovered", "L-FAILED")]


async def test_an_inactive_data_request_is_an_alert_and_is_not_late(mirror: Mirror, listener: Listener) -> None:
    request = add_schedule(mirror)
    await mirror.run()
    await pass_days(mirror, listener, request)
    mirror.world.requests[request].is_active = False
    mirror.clock.advance(DAY)

    await mirror.run()
    (event,) = listener.events()
    assert (event["event"], event["code"], event["subject"]) == ("alert", "L-INACTIVE", request)
    assert event["message"] == "the data request Nightly was set inactive: it produces no more extracts"

    mirror.world.requests[request].is_active = True
    mirror.world.add_job(request, completed_at=mirror.clock.now(), files=tables(1), with_archive=False)
    mirror.clock.advance(DAY - HOUR)
    await mirror.run()
    mirror.clock.advance(HOUR)
    assert ("recovered", "L-INACTIVE") in await listener.run()


async def test_an_inactive_data_request_that_runs_once_is_not_an_alert(mirror: Mirror, listener: Listener) -> None:
    request = mirror.world.add_request("Once", schedule="ONE_TIME")
    add_extract(mirror, tables(1), request=request)
    await mirror.run()
    listener.events()
    mirror.world.requests[request].is_active = False

    for _ in range(3):
        mirror.clock.advance(DAY)
        assert await listener.run() == []


async def test_a_data_request_that_is_no_longer_visible_is_an_alert_and_is_not_late(
    mirror: Mirror, listener: Listener
) -> None:
    request = add_schedule(mirror)
    await mirror.run()
    await pass_days(mirror, listener, request)
    entry = mirror.world.requests.pop(request)
    mirror.clock.advance(DAY)

    await mirror.run()
    (event,) = listener.events()
    assert (event["code"], event["subject"]) == ("L-GONE", request)
    assert "is no longer visible: it was deleted, or the permission was removed" in event["message"]

    mirror.world.requests[request] = entry
    mirror.clock.advance(DAY)
    assert ("recovered", "L-GONE") in await listener.run()


async def test_data_requests_are_checked_once_a_day_with_one_call_and_not_at_first(mirror: Mirror) -> None:
    add_schedule(mirror)
    counts = []
    for _ in range(9):
        before = mirror.sandbox.count("api")
        await mirror.run()
        counts.append((count_checks(mirror), mirror.sandbox.count("api") - before))
        mirror.clock.advance(6 * HOUR)

    assert [count for count, _ in counts] == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    # The poll itself is the other one.
    assert [calls for _, calls in counts[1:]] == [1, 1, 1, 2, 1, 1, 1, 2]


async def test_a_refused_check_is_not_repeated_at_each_poll(mirror: Mirror) -> None:
    add_schedule(mirror)
    await mirror.run()
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=403, match="/requests", times=None))
    mirror.clock.advance(DAY)

    for _ in range(5):
        assert (await mirror.run()).error is None
        mirror.clock.advance(HOUR)

    assert count_checks(mirror) == 1


async def test_a_list_that_fails_twice_in_a_row_is_an_alert_until_it_can_be_read(
    mirror: Mirror, listener: Listener
) -> None:
    """Changed schedules would not be noticed, and only the log said so."""
    add_schedule(mirror)
    await mirror.run()
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=500, match="/requests", times=None))
    mirror.clock.advance(DAY / 2)
    listener.events()
    codes = []
    for _ in range(16):
        await mirror.run()
        codes.append("L-LIST" in (await status_of(mirror)).codes)
        mirror.clock.advance(HOUR)

    assert codes[0] is False
    assert codes[-1] is True
    # One failure is none yet.
    assert codes.index(True) >= 12
    assert [code for _, code in listener.kinds() if code == "L-LIST"] == ["L-LIST"]
    mirror.sandbox.faults.clear()
    mirror.clock.advance(HOUR)
    assert ("recovered", "L-LIST") in await listener.run()


async def test_the_data_requests_of_configured_projects_are_checked(mirror: Mirror, listener: Listener) -> None:
    project = "3b1e7c0a-0000-4000-8000-000000000001"
    request = mirror.world.add_request("Tower", project_id=project, schedule="ONE_TIME")
    add_extract(mirror, tables(1), request=request)
    mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id, "projects": [project]}]
    await mirror.run()
    listener.events()
    mirror.clock.advance(DAY)

    assert await listener.run() == []
    (check,) = [call for call in mirror.sandbox.calls if call.path.endswith("/requests")]
    # As Autodesk documents it: the list of data requests has no parameter `projectId`.
    assert (check.query.get("filter[projectId]"), check.query.get("projectId")) == (project, None)


async def test_expectations_cover_the_data_requests_with_a_schedule(mirror: Mirror) -> None:
    request = add_schedule(mirror)
    add_extract(mirror, tables(1), request=mirror.world.add_request("Once", schedule="ONE_TIME"))
    await mirror.run()

    async with mirror.opened() as context:
        dispatcher = await make_dispatcher(mirror, context)
        (found,) = await dispatcher.expectations(account_settings(mirror.configuration())[0].name)

    assert (found[0].id, found[1].queued_at) == (request, datetime.fromisoformat("2026-11-23T02:00:00+00:00"))
