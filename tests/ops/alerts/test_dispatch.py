"""What follows a run: who hears what, once, and that it never fails the run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import stamina

from dcsync.app.from_config import account_settings, alert_settings
from dcsync.app.sync import follow_up, open_dispatcher
from dcsync.auth.token_store import TokenPair, TokenStore
from dcsync.errors import SecretUnavailable
from dcsync.manifest import Notes
from dcsync.ops.alerts.dispatch import AlertDispatcher
from dcsync.ops.context import SyncContext
from dcsync.ops.mirroring.run import Wanted, sync
from dcsync.sandbox import Fault
from tests.rigs.mirror import Mirror, add_extract, tables

EVERYTHING = ["snapshot", "failure", "alert", "recovered"]
HOUR, DAY = 3600, 86400
#: At each poll: the network is gone.
NO_NETWORK = Fault(server="api", kind="status", status=503, times=None)


class Listener:
    """A hook that writes down each event it is given."""

    def __init__(self, mirror: Mirror, *, on: Sequence[str] = EVERYTHING) -> None:
        self._mirror = mirror
        self._place = mirror.folder / "heard.jsonl"
        self._read = 0
        mirror.config["hook"] = [{"on": list(on), "run": ["/bin/sh", "-c", f"cat >> {self._place}"]}]

    def events(self) -> list[dict[str, Any]]:
        """Return what came since the last time."""
        lines = self._place.read_text().splitlines() if self._place.exists() else []
        new, self._read = lines[self._read :], len(lines)
        return [json.loads(line) for line in new]

    def heard(self) -> list[tuple[str, str]]:
        """Return event and code of what came since the last time."""
        return [(event["event"], event["code"]) for event in self.events()]

    async def after_a_run(self, **options: Any) -> list[tuple[str, str]]:
        await self._mirror.run(**options)
        return self.heard()


@pytest.fixture(autouse=True)
def _retries_without_waits() -> Iterator[None]:
    with stamina.set_testing(True, attempts=100):
        yield


@pytest.fixture
def listener(mirror: Mirror) -> Listener:
    return Listener(mirror)


async def run_killed_before_it_told(mirror: Mirror) -> None:
    config = mirror.configuration()
    async with mirror.opened(config=config) as context:
        await open_dispatcher(config, context, environ=mirror.environ)
        await sync(context, account_settings(config))


def schedule(mirror: Mirror, *, days: int = 3, at: timedelta = timedelta(hours=2)) -> str:
    """Let the world have a daily request with an extract on each of the last days, this one's included."""
    midnight = mirror.clock.now().replace(hour=0)
    request = mirror.world.add_request("Nightly", created_at=midnight - timedelta(days=60) + at)
    for number in reversed(range(days)):
        slot = midnight + at - timedelta(days=number)
        mirror.world.add_job(
            request,
            created_at=slot,
            completed_at=slot + timedelta(minutes=30),
            files=tables(1, seed=number),
            with_archive=False,
        )
    return request


# --- snapshots --------------------------------------------------------------------------------------------------------


async def test_a_new_snapshot_is_told_once_with_where_it_is(mirror: Mirror, listener: Listener) -> None:
    job = add_extract(mirror, tables(2))

    await mirror.run()

    (event,) = listener.events()
    folder = mirror.snapshot_of(job)
    assert event == {
        "event": "snapshot",
        "account": "acme",
        "at": "2026-11-22T12:00:00.000Z",
        "code": "",
        "message": f"new snapshot {folder.relative_to(mirror.root)}",
        "hint": "",
        "job": job,
        "request": next(iter(mirror.world.requests)),
        "description": "My Company Data Extract",
        "folder": str(folder),
        "completed_at": "2026-11-22T12:00:00.000Z",
        "published_at": "2026-11-22T12:00:00.000Z",
        "fetched_bytes": 2001,
        "linked_bytes": 0,
    }
    mirror.clock.advance(HOUR)
    assert await listener.after_a_run() == []


async def test_a_snapshot_of_a_run_that_was_killed_before_it_told_is_told_by_the_next(
    mirror: Mirror, listener: Listener
) -> None:
    jobs = [add_extract(mirror, tables(1, seed=day), days_ago=2 - day) for day in range(2)]
    mirror.clock.advance(1)
    await mirror.run()
    assert [event["job"] for event in listener.events()] == jobs

    third = add_extract(mirror, tables(1, seed=3))
    mirror.clock.advance(1)
    await run_killed_before_it_told(mirror)
    mirror.clock.advance(1)
    await mirror.run()

    assert [event["job"] for event in listener.events()] == [third]
    assert await listener.after_a_run() == []


async def test_a_snapshot_whose_hook_was_noted_before_the_kill_is_told_once(mirror: Mirror, listener: Listener) -> None:
    add_extract(mirror, tables(1))
    config = mirror.configuration()
    async with mirror.opened(config=config) as context:
        dispatcher = await open_dispatcher(config, context, environ=mirror.environ, runs_hooks=False)
        (outcome,) = await sync(context, account_settings(config))
        await dispatcher.after_run(outcome)
    assert listener.heard() == []

    assert await listener.after_a_run() == [("snapshot", "")]
    assert await listener.after_a_run() == []


async def test_a_mirror_that_exists_is_no_news_to_one_who_begins_to_listen(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    await mirror.sync()
    listener = Listener(mirror)

    assert await listener.after_a_run() == []
    mirror.clock.advance(1)
    new = add_extract(mirror, tables(1, seed=1))
    await mirror.run()

    assert [event["job"] for event in listener.events()] == [new]


async def test_a_tree_that_is_adopted_after_its_manifest_was_lost_is_no_news(
    mirror: Mirror, listener: Listener
) -> None:
    for day in range(3):
        add_extract(mirror, tables(1, seed=day), days_ago=3 - day)
    await mirror.run()
    assert len(listener.events()) == 3
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()
    mirror.clock.advance(1)

    assert await listener.after_a_run() == []


async def test_a_snapshot_that_is_adopted_beside_those_that_are_known_is_told(
    mirror: Mirror, listener: Listener, tmp_path: Path
) -> None:
    add_extract(mirror, tables(1), days_ago=1)
    await mirror.run()
    listener.events()
    # As after a kill between the rename and the commit.
    mirror.clock.advance(60)
    job = add_extract(mirror, tables(1, seed=1))
    await mirror.sync()
    folder, aside = mirror.snapshot_of(job), tmp_path / "aside"
    folder.rename(aside)
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/data-listing", times=None))
    mirror.clock.advance(60)
    await mirror.run()
    aside.rename(folder)
    mirror.clock.advance(60)

    assert await listener.after_a_run() == [("snapshot", "")]
    assert await listener.after_a_run() == []


async def test_a_snapshot_is_told_also_when_the_clock_was_set_back(mirror: Mirror, listener: Listener) -> None:
    now = mirror.clock.now()
    mirror.clock.set_wall(now + timedelta(days=5))
    first = add_extract(mirror, tables(1))
    await mirror.run()
    mirror.clock.set_wall(now)
    second = add_extract(mirror, tables(1, seed=1))
    await mirror.run()
    third = add_extract(mirror, tables(1, seed=2))
    await mirror.run()

    assert [event["job"] for event in listener.events()] == [first, second, third]
    mirror.clock.set_wall(now + timedelta(days=6))
    assert await listener.after_a_run() == []


async def test_a_hook_hears_only_what_it_is_for(mirror: Mirror) -> None:
    listener = Listener(mirror, on=["alert"])
    add_extract(mirror, tables(1))
    assert await listener.after_a_run() == []

    mirror.environ["TOKEN"] = "wrong"
    assert await listener.after_a_run() == [("alert", "T-LOGIN")]


# --- what stops an account --------------------------------------------------------------------------------------------


async def test_that_a_person_is_needed_is_told_at_once_once_a_day_and_when_it_is_over(
    mirror: Mirror, listener: Listener
) -> None:
    token, mirror.environ["TOKEN"] = mirror.environ["TOKEN"], "wrong"

    assert await listener.after_a_run() == [("alert", "T-LOGIN")]
    for _ in range(3):
        mirror.clock.advance(HOUR)
        assert await listener.after_a_run() == []
    mirror.clock.advance(21 * HOUR)
    assert await listener.after_a_run() == [("alert", "T-LOGIN")]
    mirror.environ["TOKEN"] = token
    assert await listener.after_a_run() == [("recovered", "T-LOGIN")]
    assert await listener.after_a_run() == []


async def test_a_network_that_is_gone_for_a_while_is_told_and_one_that_comes_back_soon_is_not(
    mirror: Mirror, listener: Listener
) -> None:
    mirror.sandbox.faults.add(NO_NETWORK)
    assert await listener.after_a_run() == []
    mirror.sandbox.faults.clear()
    assert await listener.after_a_run() == []

    mirror.sandbox.faults.add(NO_NETWORK)
    assert await listener.after_a_run() == []
    mirror.clock.advance(HOUR)
    assert await listener.after_a_run() == [("failure", "A-SERVER")]
    mirror.sandbox.faults.clear()
    assert await listener.after_a_run() == [("recovered", "A-SERVER")]


# --- jobs that fail ---------------------------------------------------------------------------------------------------


async def test_a_job_that_fails_for_hours_is_told_though_most_runs_do_not_try_it(
    mirror: Mirror, listener: Listener
) -> None:
    job = add_extract(mirror, tables(1))
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/data-listing", times=None))
    told = []
    for _ in range(12):
        await mirror.run()
        told += listener.events()
        mirror.clock.advance(HOUR / 4)

    assert [(event["event"], event["code"], event["subject"]) for event in told] == [("failure", "L-MISSING", job)]
    assert told[0]["message"].startswith(f"job {job} cannot be mirrored: ")
    assert told[0]["hint"]

    # What stops the account says nothing of the job.
    mirror.environ["TOKEN"], token = "wrong", mirror.environ["TOKEN"]
    assert await listener.after_a_run() == [("alert", "T-LOGIN")]
    mirror.environ["TOKEN"] = token
    # Nor does a run that is for another one.
    assert await listener.after_a_run(wanted=Wanted(jobs=("another",))) == [("recovered", "T-LOGIN")]

    mirror.sandbox.faults.clear()
    mirror.clock.advance(6 * HOUR)
    assert await listener.after_a_run() == [("snapshot", ""), ("recovered", "L-MISSING")]


async def test_a_loss_is_told_when_it_is_noticed(mirror: Mirror, listener: Listener) -> None:
    job = add_extract(mirror, tables(1), days_ago=2)
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/data-listing", times=None))

    await mirror.run()

    (event,) = listener.events()
    assert (event["event"], event["code"], event["job"]) == ("failure", "L-MISSING", job)
    assert event["message"].startswith(f"job {job} is quarantined: ")
    assert event["hint"]
    mirror.clock.advance(DAY)
    assert await listener.after_a_run() == []


async def test_an_extract_that_will_be_deleted_upstream_is_told_until_it_is_mirrored(
    mirror: Mirror, listener: Listener
) -> None:
    job = add_extract(mirror, tables(1), days_ago=21)
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=503, match="/data-listing", times=None))

    await mirror.run()
    assert [(event["code"], event["subject"]) for event in listener.events()] == [("L-EXPIRING", job)]
    mirror.sandbox.faults.clear()
    mirror.clock.advance(HOUR)

    assert await listener.after_a_run() == [("snapshot", ""), ("recovered", "L-EXPIRING")]


async def test_of_what_the_configuration_leaves_out_nothing_is_told(mirror: Mirror, listener: Listener) -> None:
    add_extract(mirror, tables(1), days_ago=25)
    mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id, "start": "2026-11-01"}]
    assert await listener.after_a_run() == []

    mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id, "requests": ["no such"]}]
    assert await listener.after_a_run() == []


# --- extracts that do not come ----------------------------------------------------------------------------------------


async def test_an_extract_that_is_not_there_is_late_upstream(mirror: Mirror, listener: Listener) -> None:
    schedule(mirror)
    await mirror.run()
    listener.events()
    mirror.clock.advance(14 * HOUR + 60)  # 02:01 of the next day
    assert await listener.after_a_run() == []
    mirror.clock.advance(3.5 * HOUR)

    await mirror.run()

    (event,) = listener.events()
    assert (event["event"], event["code"]) == ("alert", "L-LATE")
    assert event["message"] == (
        "Autodesk's extract of 2026-11-23 02:00Z (Nightly) is 3 h overdue: there is no job for it"
    )
    mirror.clock.advance(HOUR)
    assert await listener.after_a_run() == []


async def test_that_nothing_can_be_fetched_is_another_matter_than_an_extract_that_is_late(
    mirror: Mirror, listener: Listener
) -> None:
    schedule(mirror)
    await mirror.run()
    listener.events()
    # While nothing can be fetched, nothing is said to be late.
    mirror.sandbox.faults.add(NO_NETWORK)
    mirror.clock.advance(20 * HOUR)
    assert await listener.after_a_run() == []
    mirror.clock.advance(HOUR)
    assert await listener.after_a_run() == [("failure", "A-SERVER")]
    mirror.sandbox.faults.clear()
    assert await listener.after_a_run() == [("alert", "L-LATE"), ("recovered", "A-SERVER")]
    # And what is late has not come because nobody can look.
    mirror.environ["TOKEN"], token = "wrong", mirror.environ["TOKEN"]
    assert await listener.after_a_run() == [("alert", "T-LOGIN")]
    mirror.environ["TOKEN"] = token
    assert await listener.after_a_run() == [("recovered", "T-LOGIN")]


async def test_a_late_extract_that_comes_is_over(mirror: Mirror, listener: Listener) -> None:
    request = schedule(mirror)
    await mirror.run()
    mirror.clock.advance(20 * HOUR)
    await mirror.run()
    listener.events()
    mirror.world.add_job(request, completed_at=mirror.clock.now(), files=tables(1, seed=9), with_archive=False)

    assert await listener.after_a_run() == [("snapshot", ""), ("recovered", "L-LATE")]


async def test_an_extract_whose_job_still_runs_is_slow(mirror: Mirror, listener: Listener) -> None:
    request = schedule(mirror)
    await mirror.run()
    listener.events()
    slot = mirror.clock.now() + timedelta(hours=14)
    mirror.world.add_job(request, created_at=slot, status="running")
    mirror.clock.advance(18 * HOUR)

    await mirror.run()

    (event,) = listener.events()
    assert event["code"] == "L-SLOW"
    assert event["message"].endswith("is 4 h overdue: its job is still running")


async def test_days_late_is_said_in_days(mirror: Mirror, listener: Listener) -> None:
    schedule(mirror)
    await mirror.run()
    listener.events()
    mirror.world.requests[next(iter(mirror.world.requests))].schedule = "ONE_TIME"
    mirror.clock.advance(3 * DAY - 5 * HOUR)
    # What is late is the newest that should be there.
    mirror.world.requests[next(iter(mirror.world.requests))].schedule = "DAY"
    await mirror.run()

    assert "of 2026-11-25 02:00Z (Nightly) is 4 h overdue" in listener.events()[0]["message"]


# --- requests that end ------------------------------------------------------------------------------------------------


async def days_pass(mirror: Mirror, listener: Listener, request: str, days: int = 1) -> None:
    """Let days pass on which the extracts come."""
    for _ in range(days):
        mirror.clock.advance(DAY)
        slot = mirror.clock.now().replace(hour=2)
        mirror.world.add_job(
            request, created_at=slot, completed_at=slot + timedelta(minutes=30), files=tables(1), with_archive=False
        )
        await mirror.run()
    listener.events()


async def test_a_request_that_was_set_inactive_is_told_and_is_not_late(mirror: Mirror, listener: Listener) -> None:
    request = schedule(mirror)
    await mirror.run()
    await days_pass(mirror, listener, request)
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
    assert ("recovered", "L-INACTIVE") in await listener.after_a_run()


async def test_a_request_that_ran_once_and_is_inactive_is_as_it_should_be(mirror: Mirror, listener: Listener) -> None:
    request = mirror.world.add_request("Once", schedule="ONE_TIME")
    add_extract(mirror, tables(1), request=request)
    await mirror.run()
    listener.events()
    mirror.world.requests[request].is_active = False

    for _ in range(3):
        mirror.clock.advance(DAY)
        assert await listener.after_a_run() == []


async def test_a_request_that_is_not_visible_any_more_is_told_and_is_not_late(
    mirror: Mirror, listener: Listener
) -> None:
    request = schedule(mirror)
    await mirror.run()
    await days_pass(mirror, listener, request)
    entry = mirror.world.requests.pop(request)
    mirror.clock.advance(DAY)

    await mirror.run()
    (event,) = listener.events()
    assert (event["code"], event["subject"]) == ("L-GONE", request)
    assert "is no longer visible: it was deleted, or the permission was removed" in event["message"]

    mirror.world.requests[request] = entry
    mirror.clock.advance(DAY)
    assert ("recovered", "L-GONE") in await listener.after_a_run()


def looks(mirror: Mirror) -> int:
    """Return how often the list of requests was asked for."""
    return sum(call.path.endswith("/requests") for call in mirror.sandbox.calls if call.server == "api")


async def test_the_requests_are_looked_at_once_a_day_with_one_call_and_not_at_first(mirror: Mirror) -> None:
    schedule(mirror)
    counts = []
    for _ in range(9):
        before = mirror.sandbox.count("api")
        await mirror.run()
        counts.append((looks(mirror), mirror.sandbox.count("api") - before))
        mirror.clock.advance(6 * HOUR)

    assert [count for count, _ in counts] == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    # The poll itself is the other one.
    assert [calls for _, calls in counts[1:]] == [1, 1, 1, 2, 1, 1, 1, 2]


async def test_a_look_that_is_refused_is_not_made_at_each_poll(mirror: Mirror) -> None:
    schedule(mirror)
    await mirror.run()
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=403, match="/requests", times=None))
    mirror.clock.advance(DAY)

    for _ in range(5):
        assert (await mirror.run()).error is None
        mirror.clock.advance(HOUR)

    assert looks(mirror) == 1


async def test_where_projects_are_listed_their_requests_are_looked_at(mirror: Mirror, listener: Listener) -> None:
    project = "3b1e7c0a-0000-4000-8000-000000000001"
    request = mirror.world.add_request("Tower", project_id=project, schedule="ONE_TIME")
    add_extract(mirror, tables(1), request=request)
    mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id, "projects": [project]}]
    await mirror.run()
    listener.events()
    mirror.clock.advance(DAY)

    assert await listener.after_a_run() == []
    (look,) = [call for call in mirror.sandbox.calls if call.path.endswith("/requests")]
    assert look.query.get("projectId") == project


# --- hooks that fail --------------------------------------------------------------------------------------------------


async def test_a_hook_that_fails_for_good_is_told_to_the_others_until_it_is_made_good(
    mirror: Mirror, listener: Listener
) -> None:
    ready = mirror.folder / "ready"
    load = ["/usr/bin/env", "test", "-e", str(ready)]
    mirror.config["notify"] = {"on": EVERYTHING}
    mirror.config["hook"].append({"on": ["snapshot"], "run": load})
    job = add_extract(mirror, tables(1))
    for wait in (0, 60, 600):
        mirror.clock.advance(wait)
        await mirror.run()
    await mirror.run()

    async with mirror.opened() as context:
        dispatcher = await tell(mirror, context)
        assert await standing(context, "H-FAILED") == [
            (f"the hook /usr/bin/env failed for snapshot {job}: exit status 1", "/usr/bin/env")
        ]
        # It is no reason to run hooks, or it would never end.
        assert listener.heard() == [("snapshot", "")]
        mirror.clock.advance(3 * DAY)
        ready.touch()
        assert await dispatcher.rerun(job) == 2
        await dispatcher.run_hooks()
    await mirror.run()

    async with mirror.opened() as context:
        assert await standing(context, "H-FAILED") == []


async def test_a_hook_that_is_not_configured_any_more_is_nobody_s_concern(mirror: Mirror) -> None:
    mirror.config["hook"] = [{"on": ["snapshot"], "run": ["/bin/false"]}]
    add_extract(mirror, tables(1))
    for wait in (0, 60, 600, 0):
        mirror.clock.advance(wait)
        await mirror.run()
    async with mirror.opened() as context:
        assert len(await standing(context, "H-FAILED")) == 1

    mirror.config["hook"] = []
    await mirror.run()

    async with mirror.opened() as context:
        assert await standing(context, "H-FAILED") == []


async def test_a_rerun_of_what_is_no_snapshot_runs_nothing(mirror: Mirror, listener: Listener) -> None:
    async with mirror.opened() as context:
        assert await (await tell(mirror, context)).rerun("no such job") == 0


async def test_runs_of_hooks_are_forgotten_after_a_season(mirror: Mirror, listener: Listener) -> None:
    add_extract(mirror, tables(1))
    await mirror.run()
    mirror.clock.advance(91 * DAY)

    async with mirror.opened() as context:
        dispatcher = await tell(mirror, context)
        assert await dispatcher.hook_runs(job=None, limit=10) == ()


async def tell(mirror: Mirror, context: SyncContext) -> AlertDispatcher:
    return await open_dispatcher(mirror.configuration(), context, environ=mirror.environ)


async def standing(context: SyncContext, code: str) -> list[tuple[str, str]]:
    """Return message and subject of what stands with that code."""
    found = await Notes(context.manifest).standing(["acme"])
    return [(item.alert.message, item.alert.subject) for item in found if item.alert.code == code]


# --- that it never fails the run --------------------------------------------------------------------------------------


async def test_a_manifest_that_breaks_never_raises_out_of_what_follows(mirror: Mirror, listener: Listener) -> None:
    add_extract(mirror, tables(1))
    config = mirror.configuration()
    async with mirror.opened(config=config) as context:
        dispatcher = await open_dispatcher(config, context, environ=mirror.environ)
        (outcome,) = await sync(context, account_settings(config))
        for path in mirror.state.glob("manifest.sqlite*"):
            path.write_bytes(b"no database" * 1000)

        await dispatcher.check_requests(context.api, outcome.account)
        await dispatcher.after_run(outcome)
        assert await dispatcher.run_hooks() is None
        assert await follow_up(config, context, dispatcher, [outcome]) is None

    assert listener.heard() == []
    await mirror.run()
    assert len(mirror.snapshots()) == 1


async def test_secrets_that_are_not_there_are_said_before_there_is_news(mirror: Mirror) -> None:
    mirror.config["heartbeat"] = {"url": "env:MISSING"}

    with pytest.raises(SecretUnavailable, match="the environment variable MISSING is not set"):
        alert_settings(mirror.configuration(), environ=mirror.environ)


async def test_expectations_are_of_the_requests_that_have_a_schedule(mirror: Mirror) -> None:
    request = schedule(mirror)
    add_extract(mirror, tables(1), request=mirror.world.add_request("Once", schedule="ONE_TIME"))
    await mirror.run()

    async with mirror.opened() as context:
        dispatcher = await tell(mirror, context)
        (found,) = await dispatcher.expectations(account_settings(mirror.configuration())[0].name)

    assert (found[0].id, found[1].queued_at) == (request, datetime.fromisoformat("2026-11-23T02:00:00+00:00"))


@pytest.mark.parametrize(("days", "told"), [(9, []), (11, [("alert", "T-DEADLINE")])])
async def test_a_refresh_token_that_nears_its_end_is_told_before_it_ends(
    mirror: Mirror, listener: Listener, days: int, told: list[tuple[str, str]]
) -> None:
    mirror.config["auth"] = {"method": "login", "client_id": "sandbox", "client_secret": "sandbox-secret"}
    mirror.state.mkdir(exist_ok=True)
    issued_at = mirror.clock.now() - timedelta(days=days)
    # A server that gives no new refresh token: its age goes on.
    fresh = mirror.clock.now() + timedelta(minutes=50)
    pair = TokenPair(
        refresh_token=mirror.sandbox.tokens.issue_refresh_token("anna"),
        access_token=mirror.sandbox.tokens.issue_access_token("anna"),
        expires_at=fresh,
        renew_at=fresh,
        issued_at=issued_at,
    )
    TokenStore(mirror.state).save(pair)

    assert await listener.after_a_run() == told


async def test_a_table_that_loses_a_column_is_told_with_its_snapshot(mirror: Mirror, listener: Listener) -> None:
    add_extract(mirror, {"a.csv": b"id,name\n1,x\n"}, days_ago=1)
    await listener.after_a_run()
    mirror.clock.advance(60)
    job = add_extract(mirror, {"a.csv": b"id\n1\n"})

    await mirror.run()

    snapshot, event = listener.events()
    assert snapshot["event"] == "snapshot"
    assert (event["event"], event["code"]) == ("alert", "L-COLUMNS")
    assert event["job"] == job
    assert "a.csv" in event["message"]
    assert f"dcsync diff previous {job}" in event["hint"]
    assert await listener.after_a_run() == []


async def test_an_extract_that_failed_upstream_is_told_until_one_succeeds(mirror: Mirror, listener: Listener) -> None:
    request = mirror.world.add_request("Nightly")
    add_extract(mirror, tables(1), request=request, days_ago=1)
    await listener.after_a_run()
    mirror.clock.advance(60)
    mirror.world.add_job(request, completed_at=mirror.clock.now(), completion="failed")

    assert await listener.after_a_run() == [("failure", "L-FAILED")]
    assert await listener.after_a_run() == []

    mirror.clock.advance(1800)
    add_extract(mirror, tables(1, seed=1), request=request)
    assert await listener.after_a_run() == [("snapshot", ""), ("recovered", "L-FAILED")]
