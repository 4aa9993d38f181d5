"""Dispatch after a run: what is sent, when, and that it never fails the run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from dcsync.api.client import DataConnector
from dcsync.app.alerts import alert_settings
from dcsync.app.from_config import account_settings
from dcsync.app.sync import follow_up, open_dispatcher
from dcsync.auth.token_store import TokenPair, TokenStore
from dcsync.core.alerts import ALERT_KINDS, Alert, AlertCode, Severity
from dcsync.core.events import EventKind
from dcsync.errors import SecretUnavailable
from dcsync.manifest import SqlManifest
from dcsync.ops.alerts.collect import RunFacts
from dcsync.ops.alerts.dispatch import AlertDispatcher
from dcsync.ops.context import AccountSettings
from dcsync.ops.mirroring.outcome import Wanted
from dcsync.ops.mirroring.run import sync
from dcsync.sandbox import Fault
from tests.rigs.listener import DAY, HOUR, NO_NETWORK, Listener
from tests.rigs.mirror import Mirror, add_extract, status_of, tables


async def test_an_alert_is_sent_at_once_then_once_a_day_and_when_it_is_resolved(
    mirror: Mirror, listener: Listener
) -> None:
    token, mirror.environ["TOKEN"] = mirror.environ["TOKEN"], "wrong"

    assert await listener.run() == [("alert", "T-LOGIN")]
    for _ in range(3):
        mirror.clock.advance(HOUR)
        assert await listener.run() == []
    mirror.clock.advance(21 * HOUR)
    assert await listener.run() == [("alert", "T-LOGIN")]
    mirror.environ["TOKEN"] = token
    assert await listener.run() == [("recovered", "T-LOGIN")]
    assert await listener.run() == []


async def test_a_network_failure_is_sent_after_an_hour_and_not_if_it_ends_sooner(
    mirror: Mirror, listener: Listener
) -> None:
    mirror.sandbox.faults.add(NO_NETWORK)
    assert await listener.run() == []
    mirror.sandbox.faults.clear()
    assert await listener.run() == []

    mirror.sandbox.faults.add(NO_NETWORK)
    assert await listener.run() == []
    mirror.clock.advance(HOUR)
    assert await listener.run() == [("failure", "A-SERVER")]
    mirror.sandbox.faults.clear()
    assert await listener.run() == [("recovered", "A-SERVER")]


async def test_a_job_that_fails_for_hours_is_sent_although_most_runs_do_not_try_it(
    mirror: Mirror, listener: Listener
) -> None:
    job = add_extract(mirror, tables(1))
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/data-listing", times=None))
    sent = []
    for _ in range(12):
        await mirror.run()
        sent += listener.events()
        mirror.clock.advance(HOUR / 4)

    assert [(event["event"], event["code"], event["subject"]) for event in sent] == [("failure", "L-MISSING", job)]
    assert sent[0]["message"].startswith(f"job {job} cannot be mirrored: ")
    assert sent[0]["hint"]

    # What stops the account says nothing of the job.
    mirror.environ["TOKEN"], token = "wrong", mirror.environ["TOKEN"]
    assert await listener.run() == [("alert", "T-LOGIN")]
    mirror.environ["TOKEN"] = token
    # Nor does a run that is for another one.
    assert await listener.run(wanted=Wanted(jobs=("another",))) == [("recovered", "T-LOGIN")]

    mirror.sandbox.faults.clear()
    mirror.clock.advance(6 * HOUR)
    assert await listener.run() == [("snapshot", ""), ("recovered", "L-MISSING")]


async def test_a_loss_is_sent_when_it_is_noticed(mirror: Mirror, listener: Listener) -> None:
    request = mirror.world.add_request("Once", schedule="ONE_TIME")
    job = add_extract(mirror, tables(1), request=request, days_ago=2)
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/data-listing", times=None))

    await mirror.run()

    (event,) = listener.events()
    assert (event["event"], event["code"], event["job"]) == ("failure", "L-MISSING", job)
    assert event["message"].startswith(f"job {job} is quarantined: ")
    assert event["hint"]
    # dcsync tries it once a day, and reminds of it.
    mirror.clock.advance(DAY)
    assert await listener.run() == [("failure", "L-MISSING")]


async def test_an_extract_that_autodesk_will_delete_is_an_alert_until_it_is_mirrored(
    mirror: Mirror, listener: Listener
) -> None:
    job = add_extract(mirror, tables(1), days_ago=21)
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=503, match="/data-listing", times=None))

    await mirror.run()
    assert [(event["code"], event["subject"]) for event in listener.events()] == [("L-EXPIRING", job)]
    mirror.sandbox.faults.clear()
    mirror.clock.advance(HOUR)

    assert await listener.run() == [("snapshot", ""), ("recovered", "L-EXPIRING")]


async def test_extracts_that_the_configuration_excludes_send_nothing(mirror: Mirror, listener: Listener) -> None:
    add_extract(mirror, tables(1), days_ago=25)
    mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id, "start": "2026-11-01"}]
    assert await listener.run() == []

    mirror.world.add_request("Another", schedule="ONE_TIME")
    mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id, "requests": ["Another"]}]
    assert await listener.run() == []


async def test_a_damaged_manifest_does_not_fail_the_follow_up(mirror: Mirror, listener: Listener) -> None:
    add_extract(mirror, tables(1))
    config = mirror.configuration()
    async with mirror.opened(config=config) as context:
        dispatcher = await open_dispatcher(config, mirror.stores(config), context, environ=mirror.environ)
        (outcome,) = await sync(context, account_settings(config))
        for path in mirror.state.glob("manifest.sqlite*"):
            path.write_bytes(b"no database" * 1000)

        await dispatcher.check_requests(context.api, outcome.account)
        await dispatcher.after_run(outcome)
        assert await dispatcher.run_hooks() is None
        assert await follow_up(config, context, dispatcher, [outcome]) is None

    assert listener.kinds() == []
    await mirror.run()
    assert len(mirror.snapshots()) == 1


class _Broken(AlertDispatcher):
    """Cannot collect the alerts of the first account."""

    async def _collect(
        self, manifest: SqlManifest, account: AccountSettings, token: Alert | None, run: RunFacts
    ) -> Sequence[Alert]:
        if account.name == "acme":
            raise KeyError
        return await super()._collect(manifest, account, token, run)

    async def check_requests(self, api: DataConnector, account: AccountSettings) -> Sequence[str]:
        if account.name == "acme":
            raise KeyError
        return await super().check_requests(api, account)


async def test_alerts_that_cannot_be_sent_are_an_alert_and_the_other_accounts_have_theirs(
    mirror: Mirror, listener: Listener
) -> None:
    mirror.config["account"] = [{"name": name, "id": mirror.world.hub_id} for name in ("acme", "other")]
    add_extract(mirror, tables(1))
    config = mirror.configuration()
    async with mirror.opened(config=config) as context:
        settings = alert_settings(config, mirror.stores(config), environ=mirror.environ)
        dispatcher = _Broken(manifest=context.manifest, clock=context.clock, settings=settings)
        await dispatcher.begin(account_settings(config))
        outcomes = await sync(context, account_settings(config))

        assert await follow_up(config, context, dispatcher, outcomes) is not None

    assert [event["account"] for event in listener.events() if event["event"] == "snapshot"] == ["other"]
    found = {
        str(account.name): [item.alert for item in account.alerts] for account in (await status_of(mirror)).accounts
    }
    assert {(alert.code, alert.subject) for alert in found["acme"]} == {("D-ALERTS", ""), ("D-ALERTS", "requests")}
    assert found["other"] == []
    assert (mirror.root / "index.html").is_file()

    del mirror.config["account"]
    await listener.run()
    assert (await status_of(mirror)).codes == []


async def test_missing_secrets_are_reported_before_the_first_event(mirror: Mirror) -> None:
    mirror.config["heartbeat"] = {"url": "env:MISSING"}

    with pytest.raises(SecretUnavailable, match="the environment variable MISSING is not set"):
        alert_settings(mirror.configuration(), mirror.stores(), environ=mirror.environ)


@pytest.mark.parametrize(("days", "sent"), [(9, []), (11, [("alert", "T-DEADLINE")])])
async def test_a_refresh_token_is_an_alert_before_it_expires(
    mirror: Mirror, listener: Listener, days: int, sent: list[tuple[str, str]]
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

    assert await listener.run() == sent


async def test_a_lost_column_is_sent_with_its_snapshot(mirror: Mirror, listener: Listener) -> None:
    add_extract(mirror, {"a.csv": b"id,name\n1,x\n"}, days_ago=1)
    await listener.run()
    mirror.clock.advance(60)
    job = add_extract(mirror, {"a.csv": b"id\n1\n"})

    await mirror.run()

    snapshot, event = listener.events()
    assert snapshot["event"] == "snapshot"
    assert (event["event"], event["code"]) == ("alert", "L-COLUMNS")
    assert event["job"] == job
    assert "a.csv" in event["message"]
    assert f"dcsync diff previous {job}" in event["hint"]
    assert await listener.run() == []


async def test_the_level_of_an_alert_in_the_log_is_its_severity(mirror: Mirror, listener: Listener) -> None:
    """In the journal, `-p err` shows the critical ones."""
    token, mirror.environ["TOKEN"] = mirror.environ["TOKEN"], "wrong"
    add_extract(mirror, {"a.csv": b"id,name\n1,x\n"}, days_ago=1)

    with capture_logs() as lines:
        await listener.run()
        mirror.environ["TOKEN"] = token
        await listener.run()
        mirror.clock.advance(60)
        add_extract(mirror, {"a.csv": b"id\n1\n"})
        await listener.run()

    told = [(line["event"], line["code"], line["log_level"]) for line in lines if line["event"] in set(EventKind)]
    assert told == [("alert", "T-LOGIN", "error"), ("recovered", "T-LOGIN", "info"), ("alert", "L-COLUMNS", "warning")]
    assert ALERT_KINDS[AlertCode.T_LOGIN].severity is Severity.CRITICAL
    assert ALERT_KINDS[AlertCode.L_COLUMNS].severity is Severity.WARNING
