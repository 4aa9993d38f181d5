"""The alerts of an account, from the manifest alone: when each stands, what resolves it, and that all readers agree."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dcsync.app.status import read_status
from dcsync.auth.token_store import TokenPair, TokenStore
from dcsync.core.alert_codes import AlertCode
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, DataRequest, JobId
from dcsync.core.standing import StandingAlert
from dcsync.errors import ExitStatus
from dcsync.manifest import StandingAlerts
from dcsync.manifest.broken import BrokenPart, BrokenParts
from dcsync.ops.metrics import render
from dcsync.sandbox import Fault
from tests.rigs.listener import DAY, HOUR, Listener, add_schedule, make_dispatcher, pass_days
from tests.rigs.mirror import Mirror, add_extract, sidecar, tables
from tests.rigs.notified import NotificationServer

#: The e-mail plugin of apprise imports it on Python versions that still have it.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
ACME = AccountName("acme")


async def standing(mirror: Mirror) -> tuple[StandingAlert, ...]:
    (account,) = (await read_status(mirror.configuration(), mirror.stores(), clock=mirror.clock)).accounts
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
    assert (await read_status(mirror.configuration(), mirror.stores(), clock=mirror.clock)).check == 0


async def test_an_extract_that_nears_its_end_is_known_by_the_clock_alone(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/data-listing", times=None))
    await mirror.sync()
    assert "L-EXPIRING" not in await codes(mirror)

    mirror.clock.advance(20 * 86400)
    assert "L-EXPIRING" in await codes(mirror)


ROWS = b"id,name\n" + b"1,a\n" * 100


@pytest.mark.parametrize(
    ("code", "bodies"),
    [
        ("L-COLUMNS", [{"a.csv": ROWS}, {"a.csv": b"id\n" + b"1\n" * 100}, {"a.csv": b"id\n" + b"1\n" * 99}]),
        ("L-ROWS", [{"a.csv": ROWS}, {"a.csv": b"id,name\n1,a\n"}, {"a.csv": ROWS}]),
        ("L-TABLE", [{"a.csv": ROWS, "b.csv": ROWS}, {"a.csv": ROWS}, {"a.csv": ROWS + b"2,b\n"}]),
    ],
)
async def test_a_table_warning_stands_until_a_later_snapshot_has_none(
    mirror: Mirror, code: str, bodies: list[dict[str, bytes]]
) -> None:
    found = []
    for number, files in enumerate(bodies):
        add_extract(mirror, files, days_ago=len(bodies) - 1 - number)
        await mirror.sync()
        status = await read_status(mirror.configuration(), mirror.stores(), clock=mirror.clock)
        found.append(status.codes)
        # A quiet weekend looks the same: monitors stay green.
        assert status.check is ExitStatus.DONE

    assert found == [[], [code], []]


async def test_a_table_that_is_gone_comes_before_one_that_shrank_in_a_single_alert(mirror: Mirror) -> None:
    add_extract(mirror, {"a.csv": ROWS, "b.csv": ROWS, "c.csv": ROWS}, days_ago=1)
    add_extract(mirror, {"a.csv": b"id\n", "b.csv": b"id,name\n"})
    await mirror.sync()

    (item,) = await standing(mirror)

    assert item.alert.code == "L-TABLE"
    assert item.alert.message == "c.csv is missing; the previous snapshot had 100 rows, and 3 more tables look wrong"


async def test_quiet_windows_and_small_tables_are_no_alert(mirror: Mirror) -> None:
    """Seen with every weekend of the activities tables, and with tables of a few rows."""
    request = mirror.world.add_request("All", service_groups=("all",), schedule="ONE_TIME")
    small = b"id,name\n" + b"1,a\n" * 99
    add_extract(mirror, {"activities_docs.csv": ROWS, "forms_log.csv": small}, request=request, days_ago=1)
    add_extract(mirror, {"activities_docs.csv": b"id,name\n", "forms_log.csv": b"id,name\n"}, request=request)
    await mirror.sync()

    assert await codes(mirror) == []
    (kinds,) = {
        tuple((entry["name"], entry["kind"]) for entry in sidecar(snapshot)["files"]) for snapshot in mirror.snapshots()
    }
    assert kinds == (("activities_docs.csv", "window"), ("forms_log.csv", "full"))


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


async def test_a_rebuild_restores_the_data_request_so_that_a_late_extract_is_seen_at_once(mirror: Mirror) -> None:
    """The list of data requests is read once a day only. After a rebuild, that was a day without any lateness."""
    add_schedule(mirror)
    await mirror.sync()
    before = await documents(mirror)
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()
    # Autodesk does not say it again.
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=503, match="/requests", times=None))

    mirror.clock.advance(20 * HOUR)
    await mirror.sync()

    assert await codes(mirror) == ["L-LATE"]
    # Without what concerns its users only.
    users = {"created_by": None, "created_by_email": None, "updated_by": None, "updated_at": None, "send_email": None}
    stripped: Any = {**users, "account_id": None, "last_queued_at": None}
    assert await documents(mirror) == [replace(known, **stripped) for known in before]


async def test_a_mirror_without_described_data_requests_lists_them_at_its_first_run(mirror: Mirror) -> None:
    """As after a rebuild from snapshots of version 0.2, which do not say how their data request was."""
    add_schedule(mirror)
    await mirror.sync()
    for snapshot in mirror.snapshots():
        strip_sidecar(snapshot)
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()

    mirror.clock.advance(20 * HOUR)
    await mirror.run()

    assert await codes(mirror) == ["L-LATE"]


async def documents(mirror: Mirror) -> list[DataRequest]:
    async with mirror.opened() as context:
        requests = (await context.manifest.requests(ACME)).values()
        return [request.document for request in requests if request.document is not None]


def strip_sidecar(snapshot: Path) -> None:
    """Take the keys away that version 0.2 did not write."""
    path = snapshot / "_dcsync.json"
    document = json.loads(path.read_text())
    document["request"] = {key: document["request"][key] for key in ("id", "description", "delta")}
    path.chmod(0o644)
    path.write_text(json.dumps(document))
    sums = snapshot / "SHA256SUMS"
    sums.chmod(0o644)
    lines = [line for line in sums.read_text().splitlines() if not line.endswith("_dcsync.json")]
    sums.write_text("\n".join([*lines, f"{hashlib.sha256(path.read_bytes()).hexdigest()}  _dcsync.json", ""]))


async def test_a_late_extract_stands_until_it_arrives(mirror: Mirror) -> None:
    request = add_schedule(mirror)
    await mirror.sync()
    mirror.clock.advance(20 * HOUR)
    await mirror.sync()
    assert await codes(mirror) == ["L-LATE"]

    mirror.world.add_job(request, completed_at=mirror.clock.now(), files=tables(1, seed=9), with_archive=False)
    await mirror.sync()
    assert await codes(mirror) == []


async def test_a_slow_extract_stands_until_its_job_ends(mirror: Mirror) -> None:
    request = add_schedule(mirror)
    await mirror.sync()
    slot = mirror.clock.now() + timedelta(hours=14)
    job = mirror.world.add_job(request, created_at=slot, status="running")
    mirror.clock.advance(18 * HOUR)
    await mirror.sync()
    assert await codes(mirror) == ["L-SLOW"]

    del mirror.world.jobs[job]
    mirror.world.add_job(
        request, created_at=slot, completed_at=mirror.clock.now(), files=tables(1, seed=9), with_archive=False
    )
    await mirror.sync()
    assert await codes(mirror) == []


async def test_a_failed_extract_stands_until_a_later_extract_succeeds(mirror: Mirror) -> None:
    request = mirror.world.add_request("Nightly")
    add_extract(mirror, tables(1), request=request, days_ago=1)
    mirror.world.add_job(request, completed_at=mirror.clock.now(), completion="failed")
    await mirror.sync()
    assert await codes(mirror) == ["L-FAILED"]

    mirror.clock.advance(HOUR)
    add_extract(mirror, tables(1, seed=1), request=request)
    await mirror.sync()
    assert await codes(mirror) == []


async def test_an_inactive_data_request_stands_until_it_is_active_again(mirror: Mirror, listener: Listener) -> None:
    request = add_schedule(mirror)
    await mirror.run()
    await pass_days(mirror, listener, request)
    mirror.world.requests[request].is_active = False
    mirror.clock.advance(DAY)
    await mirror.run()
    assert await codes(mirror) == ["L-INACTIVE"]

    mirror.world.requests[request].is_active = True
    await pass_days(mirror, listener, request)
    assert await codes(mirror) == []


async def test_an_invisible_data_request_stands_until_it_is_visible_again(mirror: Mirror, listener: Listener) -> None:
    request = add_schedule(mirror)
    await mirror.run()
    await pass_days(mirror, listener, request)
    entry = mirror.world.requests.pop(request)
    mirror.clock.advance(DAY)
    await mirror.run()
    assert await codes(mirror) == ["L-GONE"]

    mirror.world.requests[request] = entry
    await pass_days(mirror, listener, request)
    assert await codes(mirror) == []


async def test_a_failed_hook_stands_until_a_rerun_succeeds(mirror: Mirror) -> None:
    ready = mirror.folder / "ready"
    mirror.config["hook"] = [{"on": ["snapshot"], "run": ["/usr/bin/env", "test", "-e", str(ready)]}]
    job = add_extract(mirror, tables(1))
    for wait in (0, 60, 600):
        mirror.clock.advance(wait)
        await mirror.run()
    assert await codes(mirror) == ["H-FAILED"]

    ready.touch()
    async with mirror.opened() as context:
        dispatcher = await make_dispatcher(mirror, context)
        await dispatcher.rerun(job)
        await dispatcher.run_hooks()
    assert await codes(mirror) == []


async def test_the_end_of_a_refresh_token_stands_until_the_token_is_renewed(mirror: Mirror) -> None:
    mirror.config["auth"] = {"method": "login", "client_id": "sandbox", "client_secret": "sandbox-secret"}
    mirror.state.mkdir(exist_ok=True)
    now = mirror.clock.now()
    pair = TokenPair(
        refresh_token="r",
        access_token="a",
        expires_at=now + timedelta(minutes=50),
        renew_at=now + timedelta(minutes=50),
        issued_at=now - timedelta(days=11),
    )
    TokenStore(mirror.state).save(pair)
    assert await codes(mirror) == ["T-DEADLINE"]

    TokenStore(mirror.state).save(replace(pair, issued_at=now))
    assert await codes(mirror) == []


async def test_since_is_when_a_run_first_recorded_it(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/data-listing", times=None))
    began = mirror.clock.now()
    await mirror.run()
    mirror.clock.advance(3600)

    (item,) = await standing(mirror)
    assert item.since == began


async def test_all_readers_show_the_same_alerts(mirror: Mirror, service: NotificationServer) -> None:
    mirror.environ |= {"NOTIFY": service.address(), "HEARTBEAT": service.address("http")}
    mirror.config |= {
        "hook": [{"on": ["failure", "alert"], "run": ["/bin/sh", "-c", f"cat >> {mirror.folder}/heard"]}],
        "notify": {"urls": ["env:NOTIFY"], "on": ["failure", "alert"]},
        "heartbeat": {"url": "env:HEARTBEAT"},
    }
    heartbeats = []
    for days_ago, body in ((2, b"id,name\n1,a\n"), (1, b"id\n1\n")):
        add_extract(mirror, {"a.csv": body}, days_ago=days_ago)
        await mirror.run()
        heartbeats.append(len(service.heartbeats))
    mirror.environ["TOKEN"] = "wrong"
    await mirror.run()
    heartbeats.append(len(service.heartbeats))

    status = await read_status(mirror.configuration(), mirror.stores(), clock=mirror.clock)
    expected = ["L-COLUMNS", "T-LOGIN"]
    accounts: Any = status.json()["accounts"]
    (account,) = accounts
    assert status.codes == expected
    assert status.check is ExitStatus.LOGIN_REQUIRED
    assert sorted(item["code"] for item in account["alerts"]) == expected
    assert sorted(item["code"] for item in account["attention"]) == expected
    families = text_string_to_metric_families(render(status).decode())
    samples = next(family.samples for family in families if family.name == "dcsync_attention")
    assert sorted(sample.labels["code"] for sample in samples) == expected
    page = (mirror.root / "index.html").read_text()
    assert "2 alerts" in page
    assert all(f"<code>{code}</code>" in page for code in expected)
    events = [json.loads(line) for line in (mirror.folder / "heard").read_text().splitlines()]
    assert sorted(event["code"] for event in events) == expected
    notified = "".join(message["message"] for message in service.messages)
    assert [f"[{code}]" in notified for code in expected] == [True, True]
    # The table warning does not stop the heartbeat. The sign-in does.
    assert heartbeats == [1, 2, 2]
    async with mirror.opened() as context:
        recorded = await StandingAlerts(context.manifest).load([ACME])
    assert sorted(item.alert.code for item in recorded) == expected


async def test_a_broken_part_shows_its_newest_hint_before_the_next_run(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    part = BrokenPart(code=AlertCode.R_LOAD, subject="main", message="the load failed", hint="next try at 21:47")
    async with mirror.opened() as context:
        await BrokenParts(context.manifest, None).replace([AlertCode.R_LOAD], [part])
    await mirror.run()
    assert [item.alert.hint for item in await standing(mirror)] == ["next try at 21:47"]

    async with mirror.opened() as context:
        later = replace(part, hint="next try at 22:47")
        await BrokenParts(context.manifest, None).replace([AlertCode.R_LOAD], [later])

    assert [item.alert.hint for item in await standing(mirror)] == ["next try at 22:47"]
