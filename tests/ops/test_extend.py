"""Schedules are extended before they end, once, and what prevents it is an alert with the command."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial

import pytest

from dcsync.api.client import DataConnector
from dcsync.app.api import open_unattended
from dcsync.app.from_config import account_settings
from dcsync.core.alerts import Alert
from dcsync.errors import ReadOnlySignIn
from dcsync.ops.extend import extend_schedules
from dcsync.sandbox import Fault
from tests.rigs.listener import DAY, add_schedule
from tests.rigs.mirror import Mirror, status_of

YEAR = timedelta(days=365)
SCOPES = frozenset({"data:read", "data:create", "data:write"})


@pytest.fixture(autouse=True)
def may_change(mirror: Mirror) -> None:
    token = mirror.sandbox.tokens.issue_access_token("tester", 400 * DAY, scopes=SCOPES)
    mirror.environ["TOKEN"] = token


async def ending(mirror: Mirror, *, days: float = 5) -> tuple[str, datetime]:
    """Mirror a data request whose schedule ends soon, and return its ID and its end."""
    request = add_schedule(mirror)
    end = mirror.clock.now() + timedelta(days=days)
    mirror.world.requests[request].ends_at = end
    await mirror.run()
    return request, end


async def extend(mirror: Mirror, by: timedelta | None = YEAR) -> bool:
    config = mirror.configuration()
    opening = partial(open_unattended, config, mirror.stores(), environ=mirror.environ, clock=mirror.clock)
    async with mirror.opened() as context:
        return await extend_schedules(
            context.manifest, account_settings(config)[0], by, clock=mirror.clock, opening=opening
        )


async def alerts(mirror: Mirror) -> dict[str, Alert]:
    (account,) = (await status_of(mirror)).accounts
    return {item.alert.code: item.alert for item in account.alerts}


def patches(mirror: Mirror) -> int:
    return sum(call.method == "PATCH" for call in mirror.sandbox.calls)


async def test_a_schedule_that_ends_in_5_days_is_extended_once(mirror: Mirror) -> None:
    request, end = await ending(mirror)
    assert "L-ENDS" in await alerts(mirror)

    assert await extend(mirror)

    assert mirror.world.requests[request].ends_at == end + YEAR
    assert await alerts(mirror) == {}
    for _ in range(3):
        mirror.clock.advance(DAY)
        assert not await extend(mirror)
    assert (patches(mirror), mirror.world.requests[request].ends_at) == (1, end + YEAR)


async def test_it_is_extended_before_the_alert_begins(mirror: Mirror) -> None:
    request, end = await ending(mirror, days=15)
    assert await alerts(mirror) == {}

    await extend(mirror)

    assert mirror.world.requests[request].ends_at == end + YEAR


async def test_it_is_off_by_default(mirror: Mirror) -> None:
    request, end = await ending(mirror)

    assert mirror.configuration().requests.extend is None
    assert not await extend(mirror, mirror.configuration().requests.extend)

    assert mirror.world.requests[request].ends_at == end
    assert "L-ENDS" in await alerts(mirror)


async def test_what_was_extended_by_hand_is_left_alone(mirror: Mirror) -> None:
    """The list of data requests is read once a day, so the mirror does not know it yet."""
    request, end = await ending(mirror)
    mirror.world.requests[request].ends_at = end + timedelta(days=90)

    assert await extend(mirror)

    assert patches(mirror) == 0
    assert await alerts(mirror) == {}


@pytest.mark.parametrize("days", [15.1, -1])
async def test_a_schedule_that_ends_later_or_has_ended_is_not_changed(mirror: Mirror, days: float) -> None:
    await ending(mirror, days=days)

    assert not await extend(mirror)
    assert patches(mirror) == 0


@pytest.mark.parametrize("keys", [{"retired": ["Nightly"]}, {"requests": ["Weekly"]}])
async def test_a_data_request_that_is_over_or_not_mirrored_is_not_changed(
    mirror: Mirror, keys: dict[str, list[str]]
) -> None:
    mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id, **keys}]
    await ending(mirror)

    assert not await extend(mirror)
    assert patches(mirror) == 0


async def test_a_token_that_only_reads_is_an_alert_and_is_tried_once_a_day(mirror: Mirror) -> None:
    request, _ = await ending(mirror)
    mirror.environ["TOKEN"] = mirror.sandbox.tokens.issue_access_token("tester", 400 * DAY)

    assert await extend(mirror)
    assert not await extend(mirror)

    found = (await alerts(mirror))["L-ENDS"]
    assert "its automatic extension failed" in found.message
    assert "lacks the scope data:write" in found.message
    assert f"dcsync requests extend {request}" in found.hint
    assert found.subject == request
    assert patches(mirror) <= 1
    mirror.clock.advance(DAY)
    assert await extend(mirror)
    assert patches(mirror) <= 2


async def test_a_refusal_stands_until_the_schedule_is_extended(mirror: Mirror) -> None:
    request, end = await ending(mirror)
    fault = mirror.sandbox.faults.add(Fault(server="api", kind="status", match=f"/{request}$", status=400, times=None))

    await extend(mirror)

    assert "returned 400" in (await alerts(mirror))["L-ENDS"].message
    mirror.sandbox.faults.remove(fault)
    # Somebody runs the command of the alert.
    mirror.world.requests[request].ends_at = end + YEAR
    mirror.clock.advance(DAY + 3600)
    await mirror.run()
    # Also without a daemon, which alone extends schedules.
    assert "L-ENDS" not in await alerts(mirror)


async def test_one_that_fails_stops_no_other(mirror: Mirror) -> None:
    first, _ = await ending(mirror)
    end = mirror.clock.now() + timedelta(days=3)
    second = mirror.world.add_request("Weekly", created_at=mirror.clock.now() - timedelta(hours=10))
    mirror.world.requests[second].ends_at = end
    mirror.clock.advance(DAY)
    await mirror.run()
    mirror.sandbox.faults.add(Fault(server="api", kind="status", match=f"/{first}$", status=403, times=None))

    await extend(mirror)

    assert mirror.world.requests[second].ends_at == end + YEAR
    assert (await alerts(mirror))["L-ENDS"].subject == first


async def test_a_lost_answer_extends_it_once(mirror: Mirror) -> None:
    request, end = await ending(mirror)
    mirror.sandbox.faults.add(Fault(server="api", kind="lose-after-commit", match=f"/{request}$", skip=1))

    await extend(mirror)

    assert mirror.world.requests[request].ends_at == end + YEAR


async def test_a_sign_in_in_a_browser_only_reads(mirror: Mirror) -> None:
    request, _ = await ending(mirror)
    mirror.config["auth"] = {"method": "login", "client_id": "sandbox"}
    config, stores = mirror.configuration(), mirror.stores()

    with pytest.raises(ReadOnlySignIn, match="only reads"):
        async with open_unattended(config, stores, environ=mirror.environ, clock=mirror.clock):
            raise AssertionError

    @asynccontextmanager
    async def opening() -> AsyncIterator[DataConnector]:
        async with open_unattended(config, stores, environ=mirror.environ, clock=mirror.clock) as api:
            yield api

    del mirror.config["auth"]
    async with mirror.opened() as context:
        (account,) = account_settings(mirror.configuration())
        await extend_schedules(context.manifest, account, YEAR, clock=mirror.clock, opening=opening)
    found = (await alerts(mirror))["L-ENDS"]
    assert "only reads" in found.message
    assert f"dcsync requests extend {request}" in found.hint
