"""Standing alerts: recorded with the hooks and values that follow, all or nothing, and kept across a restart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dcsync.core.alerts import Alert, AlertCode
from dcsync.core.standing import StandingAlert
from dcsync.errors import ManifestError
from dcsync.manifest import HookRuns, SqlManifest, StandingAlerts, StoredValues, open_manifest
from dcsync.manifest.alerts import has_same_rows
from tests.fakes import NOON, make_event

LOAD = ("/bin/load", "--all")
DAY = timedelta(days=1)
X, Y = AlertCode.L_LATE, AlertCode.L_SLOW


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "manifest.sqlite"


@pytest.fixture
async def manifest(path: Path) -> AsyncIterator[SqlManifest]:
    async with open_manifest(path) as opened:
        yield opened


@pytest.fixture
def alerts(manifest: SqlManifest) -> StandingAlerts:
    return StandingAlerts(manifest)


def make_standing(code: AlertCode = X, *, account: str = "acme", **changes: Any) -> StandingAlert:
    values: dict[str, Any] = {"since": NOON, "notified_at": None, **changes}
    alert = Alert.of(code, account=account, message=f"{code} stands", hint="do", subject=values.pop("subject", ""))
    return StandingAlert(alert=alert, **values)


async def test_alerts_come_back_oldest_first_with_their_history(alerts: StandingAlerts) -> None:
    young = make_standing(Y, since=NOON + timedelta(microseconds=1), notified_at=NOON + DAY)
    old = make_standing(X, subject="job")

    await alerts.settle(["acme"], standing=[young, old], hooks=[], values={})

    assert await alerts.load(["acme"]) == (old, young)


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [({}, True), ({"since": NOON + DAY}, False), ({"notified_at": NOON}, False), ({"subject": "job"}, False)],
)
async def test_alerts_that_came_back_are_the_same_until_something_changes(
    alerts: StandingAlerts, changes: dict[str, Any], is_same: bool
) -> None:
    other = make_standing(Y, notified_at=NOON + DAY)
    await alerts.settle(["acme"], standing=[make_standing(), other], hooks=[], values={})
    loaded = await alerts.load(["acme"])

    assert has_same_rows(loaded, [other, make_standing(**changes)]) is is_same
    assert not has_same_rows(loaded, [other])


async def test_only_the_alerts_of_the_given_accounts_are_replaced(alerts: StandingAlerts) -> None:
    await alerts.settle(
        ["acme", "beta"], standing=[make_standing(), make_standing(account="beta")], hooks=[], values={}
    )

    await alerts.settle(["acme"], standing=[make_standing(Y)], hooks=[], values={})

    assert [item.alert.code for item in await alerts.load(["acme"])] == [Y]
    assert [item.alert.code for item in await alerts.load(["beta"])] == [X]
    assert await alerts.load(["gamma"]) == ()
    assert len(await alerts.load(["acme", "beta"])) == 2


async def test_alerts_hooks_and_values_are_written_in_one_transaction(
    manifest: SqlManifest, alerts: StandingAlerts
) -> None:
    await alerts.settle(["acme"], standing=[make_standing()], hooks=[], values={"k": "before"})
    twice = [make_standing(Y), make_standing(Y)]

    with pytest.raises(ManifestError):
        await alerts.settle(["acme"], standing=twice, hooks=[(LOAD, make_event())], values={"k": "after"})

    assert [item.alert.code for item in await alerts.load(["acme"])] == [X]
    assert await StoredValues(manifest).load("k") == "before"
    assert await HookRuns(manifest).latest() == ()


async def test_nothing_is_written_after_another_host_changed_the_value(
    manifest: SqlManifest, alerts: StandingAlerts
) -> None:
    settle = {"standing": [make_standing()], "hooks": [(LOAD, make_event())], "values": {"version": "2"}}
    await StoredValues(manifest).save("version", "1")

    assert not await alerts.settle(["acme"], **settle, unless=("version", None))  # type: ignore[arg-type]
    assert await alerts.load(["acme"]) == ()
    assert await HookRuns(manifest).latest() == ()
    assert await StoredValues(manifest).load("version") == "1"

    assert await alerts.settle(["acme"], **settle, unless=("version", "1"))  # type: ignore[arg-type]
    assert len(await alerts.load(["acme"])) == len(await HookRuns(manifest).latest()) == 1


async def test_alerts_hooks_and_values_survive_a_restart(path: Path) -> None:
    async with open_manifest(path) as before:
        await StandingAlerts(before).settle(
            ["acme"], standing=[make_standing()], hooks=[(LOAD, make_event())], values={"k": "v"}
        )

    async with open_manifest(path) as after:
        assert len(await StandingAlerts(after).load(["acme"])) == 1
        assert len(await HookRuns(after).due(NOON)) == 1
        assert await StoredValues(after).load("k") == "v"
