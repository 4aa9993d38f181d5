"""docs/reference/json.md lists the JSON keys that the code writes: no more, no fewer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cli.conftest import Dcsync
from tests.rigs.served import TOKEN, Served

PAGE: Final = (Path(__file__).parents[2] / "docs/reference/json.md").read_text(encoding="utf-8")
#: Objects whose keys are not listed: job states are data, the record is for dcsync itself, and removed files have the
#: keys of the others.
_OPEN: Final = {"accounts[].jobs", "record", "reduced.files[]"}


def section(heading: str) -> str:
    return PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def documented(heading: str) -> set[str]:
    """Return the key paths in the first column of a section's table."""
    return set(re.findall(r"^\| `([^`]+)` \|", section(heading), re.MULTILINE))


def written(value: Any, path: str = "") -> Iterator[str]:
    """Yield the path of every key in a document. Elements of arrays share the path `key[]`."""
    if isinstance(value, list):
        for item in value:
            yield from written(item, f"{path}[]")
    elif isinstance(value, dict):
        for key, inner in value.items():
            if path in _OPEN:
                continue
            below = f"{path}.{key}" if path else key
            yield below
            yield from written(inner, below)


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
    assert dcsync("sync").status == 0
    side.config.write_text(side.config.read_text() + "\n[keep]\nlast = 1\n")
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
    empty = {
        path for path in documented("`dcsync status --json`") if path.startswith(("hosts[].", "not_configured[]."))
    }
    assert set(written(document)) == documented("`dcsync status --json`") - empty


def test_doctor_has_the_documented_keys(side: Served, dcsync: Dcsync) -> None:
    assert set(written(dcsync("doctor", "--json").json)) == documented("`dcsync doctor --json`")
