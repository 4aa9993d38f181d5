"""docs/reference/json.md lists the JSON keys that the code writes: no more, no fewer."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dcsync.core.model import JobId
from dcsync.core.row_history import RequestState, TableHistory
from dcsync.core.row_history_json import state_json
from dcsync.core.table import TableKind
from tests.cli.conftest import Dcsync
from tests.rigs.json_page import documented, written
from tests.rigs.served import TOKEN, Served


@pytest.fixture
def sidecars(side: Served, dcsync: Dcsync) -> list[Any]:
    """Return `_dcsync.json` of two snapshots. The first is reduced. The second one lost a column, rows and a table."""
    world, now = side.sandbox.world, datetime.now(UTC)
    request = world.add_request("Nightly")
    rows = b"".join(b"%d,x\n" % number for number in range(100))
    first = {"a.csv": b"id,name\n" + rows, "b.csv": b"id\n1\n", "activities_c.csv": b"id\n1\n"}
    second = {"a.csv": b"id\n1\n", "b.csv": b"id\n1\n"}
    world.add_job(request, completed_at=now - timedelta(days=1), files=first, with_archive=True)
    world.add_job(request, completed_at=now - timedelta(hours=1), files=second, with_archive=True)
    keys = '[history]\ntables = ["*"]\n\n[keep]\nlast = 1\nproved_windows = true\n'
    side.config.write_text(f"{side.config.read_text()}\n{keys}")
    assert dcsync("sync").status == 0
    assert "1 reduced" in dcsync("prune").out
    return [json.loads(path.read_text()) for path in sorted(side.root.rglob("*/_dcsync.json"))]


def test_the_metadata_file_has_the_documented_keys(sidecars: list[Any]) -> None:
    assert {path for document in sidecars for path in written(document)} == documented("`_dcsync.json`")


def test_status_has_the_documented_keys(side: Served, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch) -> None:
    world = side.sandbox.world
    world.add_job(world.add_request("Nightly"), completed_at=datetime.now(UTC), files={"a.csv": b"id\n1\n"})
    dcsync("sync")
    monkeypatch.setenv(TOKEN, "not a token")
    dcsync("sync")

    document = dcsync("status", "--json").json

    # A single host lists no hosts, and every account is in the configuration (see test_status.py).
    missing = ("hosts[].", "not_configured[].", "loads[].")
    empty = {path for path in documented("`dcsync status --json`") if path.startswith(missing)}
    assert set(written(document)) == documented("`dcsync status --json`") - empty


def test_doctor_has_the_documented_keys(side: Served, dcsync: Dcsync) -> None:
    assert set(written(dcsync("doctor", "--json").json)) == documented("`dcsync doctor --json`")


def keys_of(*documents: Any) -> set[str]:
    return {path for document in documents for path in written(document)}


ROWS = b"id,name\n" + b"1,x\n" * 100


def add_extracts(side: Served) -> str:
    """Add three extracts. The last one lost a column, rows and a table. Return the data request."""
    request = side.sandbox.world.add_request("Nightly")
    for days, files in (
        (3, {"a.csv": ROWS, "b.csv": b"id\n1\n"}),
        (2, {"a.csv": ROWS + b"2,y\n", "b.csv": b"id\n1\n"}),
        (1, {"a.csv": b"id\n1\n"}),
    ):
        completed = datetime.now(UTC) - timedelta(days=days)
        side.sandbox.world.add_job(request, completed_at=completed, files=files, with_archive=True)
    return request


def test_sync_has_the_documented_keys(side: Served, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch) -> None:
    request = add_extracts(side)
    planned = dcsync("sync", "--dry-run", "--json").json
    published = dcsync("sync", "--json").json
    skipped = dcsync("sync", "--json", "--job", published["accounts"][0]["published"][0]["job"]).json
    side.sandbox.world.add_job(request, completed_at=datetime.now(UTC), files={"README.html": b"x"})
    failed = dcsync("sync", "--json").json
    monkeypatch.setenv(TOKEN, "not a token")
    refused = dcsync("sync", "--json").json

    # A project or data request that cannot be read (see test_sync.py).
    broken = {f"accounts[].broken[].{key}" for key in ("code", "subject", "message")}
    assert keys_of(planned, published, skipped, failed, refused) == documented("`dcsync sync --json`") - broken


def test_what_reads_and_prunes_the_mirror_has_the_documented_keys(side: Served, dcsync: Dcsync) -> None:
    side.config.write_text(
        side.config.read_text() + '\n[[hook]]\non = ["snapshot"]\nrun = ["true"]\n\n[keep]\nlast = 1\n'
    )
    add_extracts(side)
    dcsync("sync")
    next(side.root.rglob("*/b.csv")).unlink()
    (side.root / "acme/nightly/2026/11/01/010101Z-deadbeef").mkdir(parents=True)

    for command in (["diff"], ["verify"], ["hooks", "list"], ["accounts"], ["prune", "--dry-run"], ["rebuild"]):
        name = " ".join(word for word in command if not word.startswith("--"))
        assert keys_of(dcsync(*command, "--json").json) == documented(f"`dcsync {name} --json`"), name


def test_config_and_explain_have_the_documented_keys(side: Served, dcsync: Dcsync) -> None:
    shown, explained = dcsync("config", "show", "--json").json, dcsync("explain", "--json").json
    side.config.write_text(side.config.read_text() + "\n[poll]\ninterval = 1\n")

    assert keys_of(shown) == documented("`dcsync config show --json`")
    assert keys_of(dcsync("config", "check", "--json").json) == documented("`dcsync config check --json`")
    assert keys_of(explained) == documented("`dcsync explain --json`")


def test_history_has_the_documented_keys(side: Served, dcsync: Dcsync) -> None:
    side.config.write_text(side.config.read_text() + '\n[history]\ntables = ["*"]\n')
    world = side.sandbox.world
    world.add_job(world.add_request("Nightly"), completed_at=datetime.now(UTC), files={"a.csv": b"id\n1\n"})
    add_delta(side)
    dcsync("sync")
    assert set(written(dcsync("history", "--json").json)) == documented("`dcsync history --json`")

    (path,) = side.root.glob("acme/*/history/a.parquet")
    path.write_bytes(b"x")
    assert set(written(dcsync("history", "--verify", "--json").json)) == documented("`dcsync history --verify --json`")


def add_delta(side: Served) -> None:
    """Add a delta table, and a full extract with which its history is compared."""
    world, now = side.sandbox.world, datetime.now(UTC)
    delta = world.add_request("Changes", service_groups=("cdcissues",), date_range="YESTERDAY")
    full = world.add_request("Full", service_groups=("issues",))
    for request, name, hours in ((delta, "cdcissues_TABLE.csv", 2), (full, "issues_TABLE.csv", 1)):
        files = {name: b"adsk_row_id\n1\n"}
        world.add_job(request, completed_at=now - timedelta(hours=hours), files=files, with_archive=False)


def test_history_json_has_the_documented_keys(side: Served, dcsync: Dcsync) -> None:
    side.config.write_text(side.config.read_text() + '\n[history]\ntables = ["*"]\n')
    world, now = side.sandbox.world, datetime.now(UTC)
    request = world.add_request("Nightly")
    for day, body in enumerate([b"id\n1\n", b"id\n1,2\n", b"id\n2\n", b"id\n1,2\n"]):
        world.add_job(request, completed_at=now - timedelta(days=4 - day), files={"TABLE.csv": body})
    window = {"activities_TABLE.csv": b"id\n1\n"}
    world.add_job(world.add_request("Window"), completed_at=now - timedelta(days=1), files=window)
    add_delta(side)
    dcsync("sync")

    bodies = [path.read_text() for path in side.root.glob("acme/*/history/history.json")]
    lost = TableHistory(kind=TableKind.WINDOW, lost=("a.csv",), tried=(JobId("a"), JobId("b")))
    bodies.append(json.dumps(state_json("r", RequestState(tables={"TABLE": lost}))))
    found = [json.loads(re.sub('"[a-z]+_TABLE":', '"TABLE":', body)) for body in bodies]
    assert {key for each in found for key in written(each)} == documented("`history.json`")
