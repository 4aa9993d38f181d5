"""The alert rules and the dashboard: Prometheus accepts them, and they use metrics and codes that exist."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from dcsync.core.alerts import ALERT_KINDS, Alert, AlertCode
from dcsync.core.freshness import FreshnessState, RequestFreshness
from dcsync.core.model import RequestId
from dcsync.core.standing import StandingAlert
from dcsync.errors import ExitStatus
from dcsync.ops.metrics import render
from dcsync.ops.peers import Host
from tests.fakes import NOON
from tests.ops.test_metrics import figures, make_account, make_status

FOLDER: Final = Path(__file__).parent.parent / "monitoring"
RULES: Final = FOLDER / "dcsync.rules.yml"
DASHBOARD: Final = json.loads((FOLDER / "grafana-dashboard.json").read_text(encoding="utf-8"))
promtool = pytest.mark.needs_tool("promtool")


@cache
def rules() -> dict[str, dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    found = {rule["alert"]: rule for rule in group["rules"]}
    assert len(found) == len(group["rules"])
    return found


def metrics() -> set[str]:
    """Return the names of all metrics, as Prometheus has them."""
    request = RequestFreshness(
        request=RequestId("r"),
        description="Nightly",
        state=FreshnessState.OK,
        newest_folder="acme/x",
        newest_completed_at=NOON,
        next_expected_at=NOON,
        ends_at=NOON,
    )
    alert = Alert.of(AlertCode.L_LATE, account="acme", message="late")
    account = make_account(requests=(request,), alerts=(StandingAlert(alert=alert, since=NOON, notified_at=None),))
    host = Host(
        id=1, name="a", pid=1, role="daemon", version="1", is_alive=True, started_at=NOON, seen_at=NOON, doing="sync"
    )
    status = make_status(account, hosts=(host,), token_refresh_by=NOON + timedelta(days=1))
    return {f"dcsync_{key[0]}" for key in figures(render(status))}


def expressions() -> Iterator[tuple[str, str]]:
    """Yield the name and the expression of each rule and panel."""
    for name, rule in rules().items():
        yield name, rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


@promtool
def test_prometheus_accepts_the_rules_and_they_fire_when_they_should() -> None:
    subprocess.run(["promtool", "check", "rules", RULES], check=True, capture_output=True)

    tested = subprocess.run(
        ["promtool", "test", "rules", FOLDER / "dcsync.rules.test.yml"], check=False, capture_output=True, text=True
    )

    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_rule_has_a_test_that_sees_it_fire() -> None:
    tests = yaml.safe_load((FOLDER / "dcsync.rules.test.yml").read_text(encoding="utf-8"))["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case.get("exp_alerts")}
    silent = {case["alertname"] for case in tests[0]["alert_rule_test"]}

    assert fired == silent == set(rules())


@promtool
def test_prometheus_accepts_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    plain = [re.sub(r"\$(instance|account)", ".*", expr) for _, expr in expressions()]
    recorded = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(plain)]
    file = tmp_path / "panels.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": recorded}]}))

    checked = subprocess.run(["promtool", "check", "rules", file], check=False, capture_output=True, text=True)

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "$" not in "".join(plain)


def test_every_metric_in_use_exists_and_every_metric_is_in_use() -> None:
    used = {name for _, expr in expressions() for name in re.findall(r"\bdcsync_[a-z_]+", expr)}

    assert used - metrics() == set()
    # What no picture needs.
    assert metrics() - used == {
        "dcsync_api_calls_total",
        "dcsync_host_busy",
        "dcsync_host_seen_timestamp_seconds",
        "dcsync_last_poll_timestamp_seconds",
        "dcsync_newest_snapshot_timestamp_seconds",
        "dcsync_snapshots_total",
    }


def matches(rule: str, code: str) -> bool:
    """Return whether a rule looks at alerts with this code."""
    found = re.search(r'code(=~|!~|=)"([^"]*)"', rules()[rule]["expr"])
    if found is None:
        return False
    matched = re.fullmatch(found[2], code) is not None
    return not matched if found[1] == "!~" else matched


@pytest.mark.parametrize("code", ALERT_KINDS, ids=lambda code: code.value)
def test_each_alert_code_is_in_exactly_one_rule(code: AlertCode) -> None:
    in_rules = {rule for rule in rules() if matches(rule, code)}

    match ALERT_KINDS[code].exit_status, code:
        case _, AlertCode.L_LATE | AlertCode.L_ENDED | AlertCode.T_DEADLINE:
            expected = set()  # DcsyncExtractMissing, DcsyncScheduleEnded and DcsyncSignInExpires look at times
        case _, AlertCode.V_DAMAGED:
            expected = {"DcsyncDataDamaged"}
        case _, AlertCode.L_EXPIRING:
            expected = {"DcsyncDataExpires"}
        case ExitStatus.LOGIN_REQUIRED, _:
            expected = {"DcsyncSignInRequired"}
        case ExitStatus.DONE, _:
            expected = {"DcsyncNotice"}
        case _:
            expected = {"DcsyncAlert"}
    assert in_rules == expected


def test_the_dashboard_can_be_imported() -> None:
    """The parts that Grafana needs: a version, panels with different IDs that do not overlap, and one data source."""
    panels = DASHBOARD["panels"]

    assert DASHBOARD["schemaVersion"] >= 30
    assert len({panel["id"] for panel in panels}) == len(panels) > 8
    cells = [
        (column, row)
        for panel in panels
        for column in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for row in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(column for column, _ in cells) < 24
    sources = [panel["datasource"] for panel in panels]
    sources += [target["datasource"] for panel in panels for target in panel["targets"]]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) - {"datasource"} <= variables
