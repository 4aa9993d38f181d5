"""docs/reference/hooks.md lists the keys of every event: those that a hook really reads, no more, no fewer."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from dcsync.core.events import EventKind
from dcsync.core.model import ARCHIVE_NAME
from tests.rigs.listener import HOUR, Listener, add_schedule
from tests.rigs.mirror import Mirror, add_extract
from tests.rigs.zips import make_zip, patch_central

PAGE: Final = (Path(__file__).parents[3] / "docs/reference/hooks.md").read_text(encoding="utf-8")
ROWS: Final = b"id,name\n" + b"1,a\n" * 100


def rows(heading: str) -> list[list[str]]:
    """Return the code spans of each row of a section's table."""
    section = PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return [re.findall(r"`([^`]+)`", " | ".join(cells[:-1])) for cells in lines]


def documented(event: str, code: str) -> set[str]:
    """Return the keys that an event of this code has according to the page."""
    keys = {key for (key,) in rows("Keys of every event")}
    if event == EventKind.SNAPSHOT:
        return keys | {key for (key,) in rows("More keys of `snapshot`")}
    keys |= {key for (key,) in rows("More keys of `failure`, `alert` and `recovered`")}
    if event == EventKind.RECOVERED:
        return keys
    return keys | {key for *codes, key in rows("More keys of some codes") if code in codes}


def assert_documented(events: list[dict[str, Any]], *expected: tuple[str, str]) -> None:
    assert {(event["event"], event["code"]) for event in events} >= set(expected)
    for event in events:
        assert set(event) == documented(event["event"], event["code"]), event["code"]


def test_every_event_is_documented() -> None:
    assert [name for (name,) in rows("Events")] == [kind.value for kind in EventKind]


async def test_snapshots_tables_that_look_wrong_and_a_recovery(mirror: Mirror, listener: Listener) -> None:
    await mirror.run()
    for days_ago, files in enumerate([{"a.csv": ROWS}, {"a.csv": b"id\n" + b"1\n" * 99}, {"a.csv": ROWS}]):
        add_extract(mirror, files, days_ago=2 - days_ago)
        await mirror.run()

    assert_documented(listener.events(), ("snapshot", ""), ("alert", "L-COLUMNS"), ("recovered", "L-COLUMNS"))


async def test_a_late_extract(mirror: Mirror, listener: Listener) -> None:
    add_schedule(mirror)
    await mirror.run()
    mirror.clock.advance(20 * HOUR)
    await mirror.run()

    assert_documented(listener.events(), ("alert", "L-LATE"))


async def test_a_gap_and_a_failed_sign_in(mirror: Mirror, listener: Listener) -> None:
    began = mirror.clock.now() - timedelta(days=15)
    request = mirror.world.add_request("Everything", service_groups=("all",), schedule="WEEK", created_at=began)
    for days_ago in (8, 1):
        add_extract(mirror, {"activities_docs.csv": b"id\n1\n"}, request=request, days_ago=days_ago)
    await mirror.run()
    mirror.environ["TOKEN"] = "wrong"
    await mirror.run()

    assert_documented(listener.events(), ("alert", "L-GAP"), ("alert", "T-LOGIN"))


async def test_a_zip_with_a_file_that_cannot_be_extracted(mirror: Mirror, listener: Listener) -> None:
    await mirror.run()
    archive = patch_central(make_zip({"a.csv": ROWS, "schemas/a.json": b"{}"}), 1, method=12)
    add_extract(mirror, {"a.csv": ROWS, ARCHIVE_NAME: archive})
    await mirror.run()

    assert_documented(listener.events(), ("alert", "L-ZIP"))
