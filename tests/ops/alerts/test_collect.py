"""The alerts of an account, from the manifest alone: when each stands, what resolves it, and that all readers agree."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from dcsync.app.status import read_status
from dcsync.core.alerts import StandingAlert
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.manifest import Notes
from dcsync.ops.metrics import render
from dcsync.sandbox import Fault
from tests.rigs.mirror import Mirror, add_extract, tables

ACME = AccountName("acme")


async def standing(mirror: Mirror) -> tuple[StandingAlert, ...]:
    (account,) = (await read_status(mirror.configuration(), clock=mirror.clock)).accounts
    return account.alerts


async def codes(mirror: Mirror) -> list[str]:
    return [item.alert.code for item in await standing(mirror)]


async def test_an_error_of_the_last_run_stands_until_a_run_ends_without_it(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    mirror.environ["TOKEN"] = "wrong"
    await mirror.sync()
    assert await codes(mirror) == ["T-LOGIN"]

    mirror.environ["TOKEN"] = mirror.sandbox.tokens.issue_access_token("tester")
    await mirror.sync()
    assert await codes(mirror) == []


async def test_a_failed_job_stands_with_its_id_until_it_is_mirrored(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/data-listing", times=None))
    await mirror.sync()

    (item,) = await standing(mirror)
    assert (item.alert.code, item.alert.subject, item.alert.may_pass) == ("L-MISSING", job, True)
    assert item.json()["scope"] == "job"

    mirror.sandbox.faults.clear()
    mirror.clock.advance(7 * 3600)
    await mirror.sync()
    assert await codes(mirror) == []


async def test_a_loss_stands_without_a_run_that_could_resolve_it(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    await mirror.sync()
    async with mirror.opened() as context:
        await context.manifest.move(ACME, JobId(job), JobState.EXPIRED, at=mirror.clock.now(), reason="it is gone")

    (item,) = await standing(mirror)
    assert (item.alert.code, item.alert.is_final) == ("L-LOST", True)
    assert (await read_status(mirror.configuration(), clock=mirror.clock)).check == 0


async def test_an_extract_that_nears_its_end_is_known_by_the_clock_alone(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/data-listing", times=None))
    await mirror.sync()
    assert "L-EXPIRING" not in await codes(mirror)

    mirror.clock.advance(20 * 86400)
    assert "L-EXPIRING" in await codes(mirror)


async def test_a_table_that_looks_wrong_stands_until_a_later_snapshot_has_none(mirror: Mirror) -> None:
    bodies = [b"id,name\n1,a\n", b"id\n1\n", b"id\n1\n2\n"]
    found = []
    for number, body in enumerate(bodies):
        add_extract(mirror, {"a.csv": body}, days_ago=len(bodies) - 1 - number)
        await mirror.sync()
        found.append(await codes(mirror))

    assert found == [[], ["L-COLUMNS"], []]


async def test_a_late_extract_is_judged_as_of_the_last_poll(mirror: Mirror) -> None:
    """While nobody polls, the clock does not blame Autodesk for what may have come."""
    midnight = mirror.clock.now().replace(hour=0)
    request = mirror.world.add_request("Nightly", created_at=midnight - timedelta(days=60) + timedelta(hours=2))
    for number in reversed(range(3)):
        slot = midnight + timedelta(hours=2) - timedelta(days=number)
        completed = slot + timedelta(minutes=30)
        mirror.world.add_job(request, created_at=slot, completed_at=completed, files=tables(1), with_archive=False)
    await mirror.sync()

    mirror.clock.advance(2 * 86400)
    assert await codes(mirror) == []
    await mirror.sync()
    assert await codes(mirror) == ["L-LATE"]


async def test_since_is_when_a_run_first_recorded_it(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/data-listing", times=None))
    began = mirror.clock.now()
    await mirror.run()
    mirror.clock.advance(3600)

    (item,) = await standing(mirror)
    assert item.since == began


async def test_all_readers_show_the_same_alerts(mirror: Mirror) -> None:
    mirror.config["hook"] = [{"on": ["failure", "alert"], "run": ["/bin/sh", "-c", f"cat >> {mirror.folder}/heard"]}]
    add_extract(mirror, {"a.csv": b"id,name\n1,a\n"}, days_ago=2)
    await mirror.run()
    add_extract(mirror, {"a.csv": b"id\n1\n"}, days_ago=1)
    await mirror.run()
    mirror.environ["TOKEN"] = "wrong"
    await mirror.run()

    status = await read_status(mirror.configuration(), clock=mirror.clock)
    expected = ["L-COLUMNS", "T-LOGIN"]
    accounts: Any = status.json()["accounts"]
    (account,) = accounts
    assert status.codes == expected
    assert sorted(item["code"] for item in account["alerts"]) == expected
    assert sorted(item["code"] for item in account["attention"]) == expected
    families = text_string_to_metric_families(render(status).decode())
    samples = next(family.samples for family in families if family.name == "dcsync_attention")
    assert sorted(sample.labels["code"] for sample in samples) == expected
    page = (mirror.root / "index.html").read_text()
    assert "2 alerts" in page
    assert all(f"<code>{code}</code>" in page for code in expected)
    heard = [json.loads(line) for line in (mirror.folder / "heard").read_text().splitlines()]
    assert sorted(event["code"] for event in heard) == expected
    async with mirror.opened() as context:
        recorded = await Notes(context.manifest).standing([ACME])
    assert sorted(item.alert.code for item in recorded) == expected
