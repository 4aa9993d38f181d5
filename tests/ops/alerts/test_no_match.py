"""Names in `[[account]] requests` that match nothing, and accounts in which nothing is visible, are never green."""

from __future__ import annotations

import pytest

from dcsync.core.alerts import Alert
from dcsync.errors import ExitStatus
from dcsync.ops.alerts import visible
from dcsync.sandbox import Fault
from tests.ops.alerts.test_data_requests import count_checks
from tests.rigs.listener import DAY, HOUR, Listener
from tests.rigs.mirror import Mirror, add_extract, status_of, tables
from tests.rigs.notified import NotificationServer


def name_requests(mirror: Mirror, *names: str) -> None:
    mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id, "requests": list(names)}]


async def the_alert(mirror: Mirror) -> Alert:
    (item,) = (await status_of(mirror)).accounts[0].alerts
    return item.alert


@pytest.mark.parametrize("name", ["Nihgtly", "night*", "00000000-0000-4000-8000-000000000000"])
async def test_a_name_that_matches_no_visible_data_request_is_an_alert(
    mirror: Mirror, listener: Listener, service: NotificationServer, name: str
) -> None:
    mirror.config["heartbeat"], mirror.environ["BEAT"] = {"url": "env:BEAT"}, service.address("http")
    request = mirror.world.add_request("Nightly", schedule="ONE_TIME")
    add_extract(mirror, tables(1), request=request)
    name_requests(mirror, "Nightly", name)

    outcome = await mirror.run()

    # What is named right is mirrored.
    assert len(outcome.published) == 1
    assert (outcome.exit_status, outcome.unmatched) == (ExitStatus.USAGE, [name])
    assert listener.kinds() == [("snapshot", ""), ("alert", "C-NOMATCH")]
    status = await status_of(mirror)
    assert (status.check, service.heartbeats) == (ExitStatus.USAGE, [])
    alert = await the_alert(mirror)
    assert alert.message == f"no visible data request matches '{name}' in [[account]] requests"
    assert alert.hint.endswith("Visible are 'Nightly'")

    name_requests(mirror, "Nightly")
    assert await listener.run() == [("recovered", "C-NOMATCH")]
    assert (await status_of(mirror)).check is ExitStatus.DONE
    assert len(service.heartbeats) == 1


async def test_each_name_is_in_the_alert_and_a_few_of_what_is_visible(mirror: Mirror) -> None:
    for number in range(7):
        add_extract(mirror, tables(1), request=mirror.world.add_request(f"R{number}", schedule="ONE_TIME"), days_ago=1)
    name_requests(mirror, "A", "B*")

    await mirror.run()

    alert = await the_alert(mirror)
    assert "matches 'A', 'B*' in" in alert.message
    assert alert.hint.endswith("Visible are 'R0', 'R1', 'R2', 'R3', 'R4' and 2 more (dcsync requests)")


async def test_a_data_request_without_a_job_is_visible_too(mirror: Mirror, listener: Listener) -> None:
    """The list is read once for a new name, and then once a day."""
    add_extract(mirror, tables(1), request=mirror.world.add_request("Nightly", schedule="ONE_TIME"))
    mirror.world.add_request("Weekly", schedule="ONE_TIME")
    name_requests(mirror, "Nightly", "Weekly")

    for checks in (1, 1, 1):
        assert ("alert", "C-NOMATCH") not in await listener.run()
        assert count_checks(mirror) == checks
    assert (await status_of(mirror)).check is ExitStatus.DONE

    name_requests(mirror, "Nightly", "Monthly")
    assert (await status_of(mirror)).check is ExitStatus.DONE
    assert await listener.run() == [("alert", "C-NOMATCH")]
    assert count_checks(mirror) == 2
    assert await listener.run() == []
    assert count_checks(mirror) == 2
    # It exists on the next day.
    mirror.world.add_request("Monthly", schedule="ONE_TIME")
    mirror.clock.advance(DAY)
    assert await listener.run() == [("recovered", "C-NOMATCH")]
    assert count_checks(mirror) == 3


async def test_a_data_request_that_is_gone_is_gone_and_not_a_wrong_name(mirror: Mirror, listener: Listener) -> None:
    request = mirror.world.add_request("Nightly", schedule="ONE_TIME")
    add_extract(mirror, tables(1), request=request, days_ago=1)
    add_extract(mirror, tables(1), request=mirror.world.add_request("Other", schedule="ONE_TIME"), days_ago=1)
    name_requests(mirror, request)
    await mirror.run()
    listener.events()
    mirror.world.requests.pop(request)

    for _ in range(2):
        mirror.clock.advance(DAY)
        await mirror.run()

    assert "C-NOMATCH" not in {code for _, code in listener.kinds()}


async def test_a_refused_list_leaves_what_the_jobs_have_shown(mirror: Mirror, listener: Listener) -> None:
    add_extract(mirror, tables(1), request=mirror.world.add_request("Nightly", schedule="ONE_TIME"))
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=403, match="/requests?", times=None))
    name_requests(mirror, "Nightly", "Nihgtly")

    await mirror.run()
    mirror.clock.advance(HOUR)
    await mirror.run()

    assert count_checks(mirror) == 1
    assert (await the_alert(mirror)).code == "C-NOMATCH"


async def test_names_in_an_account_in_which_nothing_is_visible_are_an_alert(mirror: Mirror, listener: Listener) -> None:
    name_requests(mirror, "Nightly")

    outcome = await mirror.run()

    assert outcome.exit_status is ExitStatus.DONE
    assert listener.kinds() == [("alert", "L-NONE")]
    assert (await status_of(mirror)).check is ExitStatus.INCOMPLETE
    # One call a day, beside the polls.
    assert mirror.sandbox.count("api") == 2
    mirror.clock.advance(HOUR)
    await mirror.run()
    assert mirror.sandbox.count("api") == 3

    add_extract(mirror, tables(1), request=mirror.world.add_request("Nightly", schedule="ONE_TIME"))
    assert await listener.run() == [("snapshot", ""), ("recovered", "L-NONE")]
    assert (await status_of(mirror)).check is ExitStatus.DONE


async def test_an_account_in_which_nothing_is_there_is_an_alert_after_a_day(mirror: Mirror, listener: Listener) -> None:
    mirror.environ["TOKEN"] = mirror.sandbox.tokens.issue_access_token("tester", 9 * DAY)
    await mirror.run()
    assert (await status_of(mirror)).check is ExitStatus.DONE
    assert mirror.sandbox.count("api") == 1

    mirror.clock.advance(DAY)
    assert await listener.run() == [("alert", "L-NONE")]
    assert (await the_alert(mirror)).message == "no data request is visible to the signed-in user"
    assert mirror.sandbox.count("api") == 3

    # It has no job yet.
    mirror.world.add_request("Nightly", created_at=mirror.clock.now())
    mirror.clock.advance(DAY)
    assert await listener.run() == [("recovered", "L-NONE")]
    (request,) = (await status_of(mirror)).accounts[0].requests
    assert request.name == "Nightly"


async def test_a_list_that_failed_or_was_killed_says_nothing_about_the_names(
    mirror: Mirror, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_extract(mirror, tables(1), request=mirror.world.add_request("Nightly", schedule="ONE_TIME"))
    await mirror.run()
    mirror.world.add_request("Weekly", schedule="ONE_TIME")
    name_requests(mirror, "Nightly", "Weekly")
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=503, match="/requests", times=None))

    await mirror.run()
    assert (await status_of(mirror)).check is ExitStatus.DONE
    tries = count_checks(mirror)
    await mirror.run()
    assert count_checks(mirror) == tries
    mirror.clock.advance(HOUR)
    mirror.sandbox.faults.clear()

    with monkeypatch.context() as patch:
        patch.setattr(visible, "_list_requests", _killed)
        with pytest.raises(KeyboardInterrupt):
            await mirror.run()
    assert (await status_of(mirror)).check is ExitStatus.DONE
    await mirror.run()
    assert (await status_of(mirror)).check is ExitStatus.DONE
    assert "C-NOMATCH" not in {code for _, code in listener.kinds()}


async def _killed(*_: object) -> None:
    raise KeyboardInterrupt


async def test_where_the_list_is_refused_and_nothing_is_known_nothing_is_said(mirror: Mirror) -> None:
    name_requests(mirror, "Nightly")
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=403, match="/requests", times=None))

    await mirror.run()

    assert (await status_of(mirror)).check is ExitStatus.DONE
