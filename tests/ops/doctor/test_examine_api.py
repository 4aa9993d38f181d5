"""What `doctor` finds at the API: permissions, data requests, the clock and the rate limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dcsync.core.model import AccountId, AccountName, DataRequest, Hub, RequestId
from dcsync.errors import ApiUnreachable, ExitStatus
from dcsync.ops.context import AccountSettings
from dcsync.ops.doctor import api as check_api
from dcsync.ops.doctor.data_requests import requests_of
from dcsync.ops.doctor.examine import Level
from dcsync.sandbox import Fault, World
from dcsync.sandbox.refusals import KINDS, REQUEST_ID
from tests.fakes import make_request
from tests.rigs.examined import (
    ACCOUNT_CHECKS,
    FOREIGN,
    chain,
    examine,
    make_state,
    status,
)
from tests.rigs.mirror import TODAY, Mirror, mirroring

# --- the API ----------------------------------------------------------------------------------------------------------


async def test_an_api_that_cannot_be_reached_fails_at_once_and_is_not_asked(mirror: Mirror) -> None:
    mirror.config["api"] = {"base_url": "http://127.0.0.1:9"}

    checks = await examine(mirror)

    assert "no connection to 127.0.0.1:9 (Connection refused)" in checks["network"].message
    assert [checks[name].level for name in ("api", "clock", *ACCOUNT_CHECKS, "quota")] == [Level.SKIP] * 6
    assert mirror.clock.slept == []
    assert status(checks) == 3


async def test_an_api_that_fails_leaves_the_rest_out(mirror: Mirror) -> None:
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=503, times=None))

    checks = await examine(mirror)

    assert checks["api"].level is Level.FAIL
    assert "returned 503" in checks["api"].message
    assert {checks[name].level for name in ACCOUNT_CHECKS} == {Level.SKIP}
    assert checks["clock"].level is Level.OK


async def test_a_token_that_is_not_accepted_needs_a_login(mirror: Mirror) -> None:
    mirror.environ["TOKEN"] = "wrong"

    checks = await examine(mirror)

    assert checks["api"].level is Level.FAIL
    assert checks["clock"].level is Level.OK
    assert {checks[name].level for name in ACCOUNT_CHECKS} == {Level.SKIP}
    assert status(checks) == 12


async def test_an_account_without_permission_says_which_role_is_missing(mirror: Mirror) -> None:
    mirror.config["account"] = [{"name": "acme", "id": FOREIGN}]

    checks = await examine(mirror)

    assert checks["account.acme"].level is Level.FAIL
    assert f"{FOREIGN} is not among the 1 hub" in checks["account.acme"].message
    assert checks["permission.acme"].level is Level.FAIL
    for name in ("account.acme", "permission.acme"):
        assert "Executive or Project Administrator role" in checks[name].advice
    assert checks["requests.acme"].message == "needs permission.acme"
    assert status(checks) == 13


async def test_an_account_that_fails_does_not_hide_the_next(mirror: Mirror) -> None:
    mirror.config["account"] = [{"name": "foreign", "id": FOREIGN}, {"name": "acme", "id": mirror.world.hub_id}]

    checks = await examine(mirror)

    assert checks["permission.foreign"].level is Level.FAIL
    assert checks["permission.acme"].level is Level.OK


async def test_hubs_that_may_not_be_seen_do_not_hide_the_accounts(mirror: Mirror) -> None:
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=403, match="/hubs"))

    checks = await examine(mirror)

    assert checks["api"].level is Level.FAIL
    assert checks["account.acme"].level is Level.SKIP
    assert checks["permission.acme"].level is Level.OK
    assert status(checks) == 13


def test_a_hub_that_is_not_seen_is_no_failure_where_its_jobs_are() -> None:
    account = AccountSettings(name=AccountName("acme"), id=AccountId("abcdef00-0000-4000-8000-000000000000"))
    hub = Hub(id="b.ABCDEF00-0000-4000-8000-000000000000", name="ACME\nInc", region="EMEA")

    assert check_api.visible(account, [hub], allowed=True).message == "ACME\\nInc (EMEA) is visible"
    assert check_api.visible(account, [], allowed=True).level is Level.WARN
    assert check_api.visible(account, [], allowed=False).exit_status is ExitStatus.PERMISSION_DENIED
    assert check_api.visible(account, None, allowed=True).level is Level.SKIP


async def test_a_project_administrator_s_projects_are_named_to_the_api(mirror: Mirror) -> None:
    mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id, "projects": ["one", "two"]}]

    checks = await examine(mirror)

    calls = [call for call in mirror.sandbox.calls if call.path.endswith("/jobs")]
    assert [call.query["projectId"] for call in calls] == ["one", "two"]
    assert checks["permission.acme"].message == "jobs of 2 projects can be read"


async def test_a_refused_project_is_named_and_the_data_requests_of_the_others_are_checked(mirror: Mirror) -> None:
    mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id, "projects": ["one", "two", "three"]}]
    mirror.world.add_request("Mine", schedule="ONE_TIME", project_id="two")
    for project in ("one", "three"):
        mirror.sandbox.faults.add(
            Fault(server="api", kind="status", status=403, match=f"projectId(%5D)?={project}", times=None)
        )

    checks = await examine(mirror)

    lines = checks["permission.acme"].message.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["project one", "project three"]
    assert (checks["requests.acme"].level, checks["requests.acme"].message) == (Level.OK, "1 data request visible")
    assert status(checks) == 13


async def test_no_requests_to_be_seen_is_warned_of_with_the_reason(mirror: Mirror) -> None:
    check = (await examine(mirror))["requests.acme"]

    assert check.level is Level.WARN
    assert "only data requests that the user itself created" in check.advice


async def test_requests_that_may_not_be_read_are_no_failure(mirror: Mirror) -> None:
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=403, match="/requests", body=b"no"))

    checks = await examine(mirror)

    assert checks["requests.acme"].level is Level.WARN
    assert "cannot be read" in checks["requests.acme"].message
    assert status(checks) == 0


def requests(*active: bool | None) -> list[DataRequest]:
    return [
        make_request(id=RequestId(f"request-{index}"), description=f"Request {index}", is_active=is_active)
        for index, is_active in enumerate(active)
    ]


@pytest.mark.parametrize(
    ("found", "wanted", "level", "said"),
    [
        (requests(True), (), "ok", "1 data request visible"),
        (requests(True, None), (), "ok", "2 data requests visible"),
        (requests(True, False), (), "warn", "2 data requests visible; 1 inactive: Request 1"),
        (requests(True, False), ("Request 0",), "ok", "2 data requests visible, 1 of them mirrored"),
        (requests(True, False), ("request-1",), "warn", "1 of them mirrored; 1 inactive: Request 1"),
        (requests(True), ("Nightly*",), "warn", "none of them in requests = [Nightly*]"),
        (requests(*[False] * 7), (), "warn", "7 inactive: Request 0, Request 1, Request 2, Request 3, Request 4, …"),
    ],
)
def test_requests_are_judged_by_what_comes_of_them(
    found: list[DataRequest], wanted: tuple[str, ...], level: str, said: str
) -> None:
    account = AccountSettings(name=AccountName("acme"), id=AccountId(FOREIGN), requests=wanted)

    check = requests_of(account, found, TODAY)

    assert check.level.value == level
    assert said in check.message


def test_a_retired_data_request_may_be_inactive() -> None:
    account = AccountSettings(name=AccountName("acme"), id=AccountId(FOREIGN), retired=("Request 1", "request-2"))

    assert requests_of(account, requests(True, False, False), TODAY).level.value == "ok"
    assert "; 1 inactive: Request 3" in requests_of(account, requests(True, False, False, False), TODAY).message


@pytest.mark.parametrize(
    ("skew", "level", "said"),
    [
        (0.4, "ok", "within 1 s"),
        (-20.0, "ok", "within 20 s"),
        (21.0, "warn", "21 s ahead of"),
        (-120.0, "warn", "120 s behind"),
        (121.0, "fail", "121 s ahead of"),
        (None, "skip", "no answer"),
    ],
)
def test_the_clock_is_judged(skew: float | None, level: str, said: str) -> None:
    check = check_api.clock(skew)

    assert check.level.value == level
    assert said in check.message


async def test_a_clock_that_is_wrong_is_told_from_the_answer_s_date(tmp_path: Path) -> None:
    world = World(now=(TODAY - timedelta(minutes=5)).timestamp)
    async with mirroring(tmp_path, world) as mirror:
        checks = await examine(mirror)

    assert checks["clock"].level is Level.FAIL
    assert "300 s ahead of the API's" in checks["clock"].message
    assert "NTP" in checks["clock"].advice
    assert status(checks) == 3


async def test_a_quota_that_is_used_up_is_warned_of(mirror: Mirror) -> None:
    mirror.config["api"] = {"requests_per_minute": 1}

    check = (await examine(mirror))["quota"]

    assert check.level is Level.WARN
    assert check.message == "0 of 1 calls left in this minute"


async def test_its_calls_count(mirror: Mirror) -> None:
    check = (await examine(mirror))["quota"]

    assert check.message == "54 of 57 calls left in this minute"
    assert mirror.sandbox.count("api") == 3


async def test_an_answer_that_does_not_come_is_not_waited_for_for_ever() -> None:
    waiting: Callable[[], asyncio.Future[None]] = asyncio.get_running_loop().create_future

    with pytest.raises(ApiUnreachable, match="no answer from the API within"):
        await check_api.patient(waiting(), patience_s=0.01)


async def test_the_access_token_and_secrets_are_in_no_finding(mirror: Mirror) -> None:
    chain(mirror)
    make_state(mirror)
    mirror.config["auth"] = {**mirror.config["auth"], "refresh_token": mirror.environ["SEED"]}

    checks = await examine(mirror)

    said = " ".join(f"{check.message} {check.advice}" for check in checks.values())
    assert checks["api"].level is Level.OK
    assert "client_secret (in the configuration)" in said
    for secret in ("sandbox-secret", mirror.environ["SEED"]):
        assert secret not in said


# --- the words of the server ------------------------------------------------------------------------------------------


async def test_hubs_that_autodesk_could_not_list_are_a_warning(mirror: Mirror) -> None:
    mirror.sandbox.faults.add(Fault(server="api", kind="warn", match="hubs", body=b"EMEA is down"))

    checks = await examine(mirror)

    assert checks["api"].level is Level.WARN
    assert "this user can see 1 hub\nAutodesk could not list all hubs: " in checks["api"].message
    assert "EMEA is down" in checks["api"].message
    assert checks["account.acme"].level is Level.OK


@pytest.mark.parametrize("kind", KINDS)
async def test_a_missing_permission_is_explained_by_autodesk(mirror: Mirror, kind: Any) -> None:
    mirror.sandbox.faults.add(Fault(server="api", kind=kind, match="/jobs", status=403, body=b"you lack Insight"))

    check = (await examine(mirror))["permission.acme"]

    assert "you lack Insight" in check.message
    assert REQUEST_ID in check.message


async def test_a_refused_token_is_explained_by_autodesk(mirror: Mirror) -> None:
    chain(mirror)
    make_state(mirror)
    refusal = Fault(server="token", kind="refuse-developer-message", status=403, body=b"no access to the API product")
    mirror.sandbox.faults.add(refusal)

    check = (await examine(mirror))["api"]

    assert "no access to the API product: SANDBOX-42" in check.message
    assert REQUEST_ID in check.message
