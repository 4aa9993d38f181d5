"""Delta tables are compared with the next full extract of the same table, in a whole mirror."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import AbstractContextManager
from datetime import timedelta

import pytest

from dcsync.app.from_config import account_settings
from dcsync.core.row_history import Check
from dcsync.core.row_history_json import parse_state
from dcsync.ops.history import build as builds
from dcsync.ops.history.catch_up import verify
from dcsync.rows import CsvTable, open_table
from tests.rigs.histories import ALL, add_day, alerts, build, rows_in
from tests.rigs.mirror import TODAY, Mirror

DELTA, FULL = "cdcissues_issues", "issues_issues"
FIRST = b"adsk_row_id,id,title,deleted_at\na,1,x,\nb,2,y,\nc,3,z,\n"
SECOND = b"adsk_row_id,id,title,deleted_at\nb,2,,\nc,3,z,2026-11-28\nd,4,w,\n"
SAME = b'title,id,adsk_row_id,more\nx,1,a,q\n"",2,b,q\nw,4,d,q\n'


class Extracts:
    """A data request for changed rows and one for all rows, and their extracts."""

    def __init__(self, mirror: Mirror, full_name: str = FULL, project: str | None = None) -> None:
        self.mirror = mirror
        self.delta_request = mirror.world.add_request("Changes", service_groups=("cdcissues",), date_range="YESTERDAY")
        group = full_name.partition("_")[0]
        self.full_request = mirror.world.add_request("Full", service_groups=(group,), project_id=project)
        self.full_name = full_name

    async def delta(self, body: bytes, days_ago: float) -> str:
        return await add_day(self.mirror, {f"{DELTA}.csv": body}, request=self.delta_request, days_ago=days_ago)

    async def full(self, body: bytes, days_ago: float) -> str:
        files = {f"{self.full_name}.csv": body}
        return await add_day(self.mirror, files, request=self.full_request, days_ago=days_ago)

    async def checked(self) -> Check | None:
        """Build, and return the comparison."""
        await build(self.mirror)
        (path,) = self.mirror.root.glob(f"acme/changes-*/history/{DELTA}.parquet")
        state = parse_state(json.loads((path.parent / "history.json").read_bytes()), self.delta_request)
        return state.tables[DELTA].checked


def counts(check: Check | None) -> tuple[int, int, int, int] | None:
    return None if check is None else (check.equal, check.missing, check.extra, check.different)


@pytest.mark.parametrize("full_name", [FULL, DELTA])
async def test_a_delta_history_has_the_rows_of_the_next_full_extract(mirror: Mirror, full_name: str) -> None:
    extracts = Extracts(mirror, full_name)
    await extracts.delta(FIRST, 4)
    step = await extracts.delta(SECOND, 3)
    assert await extracts.checked() is None
    job = await extracts.full(SAME, 2)
    check = await extracts.checked()

    assert counts(check) == (3, 0, 0, 0)
    assert check is not None
    assert (check.job, check.step, check.time) == (job, step, TODAY - timedelta(days=2))
    assert (mirror.root / check.path).read_bytes() == SAME
    (path,) = mirror.root.glob(f"acme/changes-*/history/{DELTA}.parquet")
    assert [row[0] for row in rows_in(path.parent, DELTA)] == ["a", "b", "d"]
    assert [row[0] for row in rows_in(path.parent, DELTA, TODAY - timedelta(days=4))] == ["a", "b", "c"]


async def test_a_difference_is_recorded_and_ends_with_an_equal_full_extract(mirror: Mirror) -> None:
    extracts = Extracts(mirror)
    await extracts.delta(FIRST, 4)
    # b differs, c is only in the delta table, and d and e only in the full one.
    job = await extracts.full(b"adsk_row_id,id,title\na,1,x\nb,2,\nd,4,w\ne,5,v\n", 3)
    assert counts(await extracts.checked()) == (1, 2, 1, 1)
    assert await alerts(mirror) == []
    async with mirror.opened() as context:
        shown = [found.checked for found in await verify(context, account_settings(mirror.configuration()), ALL)]
    assert [check[DELTA].job for check in shown if check] == [job]

    # A later delta extract does not change what was compared.
    await extracts.delta(SECOND, 2)
    assert counts(await extracts.checked()) == (1, 2, 1, 1)
    await extracts.full(SAME, 1)
    assert counts(await extracts.checked()) == (3, 0, 0, 0)


@pytest.mark.parametrize(
    ("full", "expected"),
    [
        (b"id,title\n1,x\n2,y\n3,z\n", (3, 0, 0, 0)),
        (b"id,title,deleted_at\n1,x,\n2,y,\n3,z,\n9,u,2026-11-01\n", (3, 0, 0, 0)),
        (b"id,title\n1,x\n1,x\n", None),
        (b"title\nx\n", None),
        (b"id,title\n1\n", None),
    ],
)
async def test_rows_are_paired_by_a_column_that_is_unique_in_both(
    mirror: Mirror, full: bytes, expected: tuple[int, int, int, int] | None
) -> None:
    extracts = Extracts(mirror)
    await extracts.delta(FIRST, 2)
    await extracts.full(full, 1)

    assert counts(await extracts.checked()) == expected


@pytest.mark.parametrize("full", [b"title\nx\n", b"id,title\n1\n"])
async def test_a_full_extract_that_cannot_be_compared_is_tried_once(
    mirror: Mirror, full: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    opened = open_table

    def counting(path: str, *, below: int, reserved: Collection[str] = ()) -> AbstractContextManager[CsvTable]:
        # Only a comparison leaves out the names that a history has.
        tried.extend([path] * bool(reserved))
        return opened(path, below=below, reserved=reserved)

    monkeypatch.setattr(builds, "open_table", counting)
    extracts = Extracts(mirror)
    await extracts.delta(FIRST, 3)
    await extracts.full(full, 2)
    for _ in range(2):
        assert await extracts.checked() is None
        assert len(tried) == 1
    await build(mirror, retries=True)
    assert len(tried) == 2
    await extracts.full(SAME, 1)
    assert await extracts.checked() is not None


async def test_an_extract_of_other_projects_is_not_compared(mirror: Mirror) -> None:
    extracts = Extracts(mirror, project="6c1d5a50-0000-4000-8000-000000000001")
    await extracts.delta(FIRST, 2)
    await extracts.full(SAME, 1)

    assert await extracts.checked() is None
