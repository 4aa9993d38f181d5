"""The steps of row histories: what is recorded, and which snapshots come next."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dcsync.core.model import JobId
from dcsync.core.row_history import (
    NO_ROWS,
    Check,
    Extract,
    Omission,
    RequestState,
    Step,
    TableHistory,
    Wait,
    can_restart,
    gone_steps,
    is_continued,
    is_of_other_table,
    merged_columns,
    plan,
    steps_after,
    table_name,
)
from dcsync.core.row_history_json import check_json, parse_state, parse_table, state_json, table_json
from dcsync.core.table import TableKind
from dcsync.core.wire import WireError

BEGIN = datetime(2026, 11, 1, 4, tzinfo=UTC)


def make_step(day: int, **fields: Any) -> Step:
    values: dict[str, Any] = {
        "job": JobId(f"job-{day}"),
        "time": BEGIN + timedelta(days=day),
        "sha256": f"sha-{day}",
        "rows": day,
        "digest": "00",
        "columns": ("id", "name"),
    }
    return Step(**{**values, **fields})


def make_extract(day: int, **fields: Any) -> Extract:
    values: dict[str, Any] = {
        "job": JobId(f"job-{day}"),
        "time": BEGIN + timedelta(days=day),
        "folder": f"acme/r/{day}",
        "name": "admin_users.csv",
        "size": 10,
        "sha256": f"sha-{day}",
        "rows": day,
        "kind": TableKind.FULL,
    }
    return Extract(**{**values, **fields})


def make_history(*days: int, **fields: Any) -> TableHistory:
    return TableHistory(kind=TableKind.FULL, steps=tuple(map(make_step, days)), **fields)


def jobs(extracts: tuple[Extract, ...]) -> list[str]:
    return [extract.job for extract in extracts]


# --- plan -------------------------------------------------------------------------------------------------------------


def test_the_first_plan_has_every_snapshot_oldest_first() -> None:
    planned = plan(make_history(), [make_extract(3), make_extract(1), make_extract(2)])

    assert (jobs(planned.steps), planned.restarts, planned.late) == (["job-1", "job-2", "job-3"], False, ())


def test_later_snapshots_are_the_next_steps() -> None:
    planned = plan(make_history(1, 2), [make_extract(day) for day in range(1, 5)])

    assert jobs(planned.steps) == ["job-3", "job-4"]


def test_a_snapshot_that_comes_late_begins_the_history_again() -> None:
    left_out = Omission(job=JobId("job-0"), reason="damaged")
    planned = plan(make_history(1, 3, omitted=(left_out,)), [make_extract(day) for day in range(4)])

    assert (jobs(planned.steps), planned.restarts) == (["job-1", "job-2", "job-3"], True)


@pytest.mark.parametrize(
    "there", [[make_extract(2), make_extract(3)], [make_extract(1, sha256="other"), *map(make_extract, (2, 3))]]
)
def test_a_late_snapshot_is_left_out_without_the_others(there: list[Extract]) -> None:
    planned = plan(make_history(1, 3), [*there, make_extract(4)])

    assert (jobs(planned.steps), jobs(planned.late), planned.restarts) == (["job-4"], ["job-2"], False)


# --- steps ------------------------------------------------------------------------------------------------------------


def test_what_a_history_waited_for_is_left_out_when_a_later_snapshot_follows() -> None:
    waiting = make_history(1).with_wait(make_extract(2), "line 2: bad")

    assert waiting.waits == Wait(
        job=JobId("job-2"), path="acme/r/2/admin_users.csv", sha256="sha-2", reason="line 2: bad"
    )
    assert waiting.with_step(make_step(2)) == make_history(1, 2)
    assert waiting.with_step(make_step(3)).omitted == (Omission(job=JobId("job-2"), reason="line 2: bad"),)
    assert waiting.with_step(make_step(3)).jobs == {"job-1", "job-2", "job-3"}


def test_columns_are_told_apart_as_sql_does() -> None:
    assert merged_columns(("id", "Name"), ("NAME", "city", "id")) == (("id", "Name", "city"), ("Name", "city", "id"))
    history = TableHistory(kind=TableKind.FULL, steps=(make_step(1), make_step(2, columns=("ID", "city"))))
    assert history.columns == ("id", "name", "city")


@pytest.mark.parametrize(("path", "name"), [("a.csv", "a"), ("A.CSV", "A"), ("b/c.csv", "b.c"), ("d", "d")])
def test_a_history_has_the_name_of_its_table(path: str, name: str) -> None:
    assert table_name(path) == name


# --- rows that no snapshot has ----------------------------------------------------------------------------------------


def test_steps_are_gone_without_their_tables() -> None:
    history = make_history(1, 2, 3)
    there = [make_extract(1), make_extract(2, sha256="other")]

    assert gone_steps(history.steps, there) == history.steps[1:]
    assert not can_restart(history, there)
    assert can_restart(history, [make_extract(day) for day in (1, 2, 3)])
    assert not can_restart(make_history(lost=("acme/r/1/a.csv",)), [])


def test_an_older_file_lacks_the_steps_that_changed_rows() -> None:
    listed = TableHistory(kind=TableKind.FULL, steps=(make_step(1), make_step(2, added=1), make_step(3)))
    older = replace(listed, steps=listed.steps[:1])

    assert steps_after(listed, older) == (listed.steps[1],)
    assert steps_after(listed, listed) == ()
    assert steps_after(replace(listed, steps=(make_step(1), make_step(2, removed=1))), older)[0].removed == 1


def test_a_file_of_another_table_has_another_step_to_the_same_job() -> None:
    assert not is_of_other_table(make_history(1, 2), make_history(2, 3))
    assert is_of_other_table(make_history(1, 2), TableHistory(kind=TableKind.FULL, steps=(make_step(2, sha256="x"),)))


def test_a_record_continues_a_file_with_steps_that_changed_no_row() -> None:
    listed = TableHistory(kind=TableKind.WINDOW, steps=(make_step(1, fingerprint="f"), make_step(2)))
    found = TableHistory(kind=TableKind.WINDOW, steps=(make_step(1),))

    assert is_continued(listed, found)
    assert not is_continued(replace(listed, kind=TableKind.FULL), found)
    assert not is_continued(replace(listed, steps=(make_step(1), make_step(2, added=1))), found)
    assert not is_continued(replace(listed, steps=(make_step(1), make_step(2, removed=1))), found)
    assert not is_continued(listed, replace(found, steps=(make_step(3),)))


def test_a_history_is_sealed_with_a_hash_and_a_window_table_with_fingerprints() -> None:
    full = make_history(1)
    window = replace(full, kind=TableKind.WINDOW, sha256="x")

    assert [full.is_sealed, replace(full, sha256="x").is_sealed, window.is_sealed] == [False, True, False]
    assert replace(window, steps=(make_step(1, fingerprint="f"),)).is_sealed


# --- JSON -------------------------------------------------------------------------------------------------------------


CHECK = Check(
    job=JobId("full"), time=BEGIN, path="acme/f/a.csv", step=JobId("job-1"), equal=4, missing=3, extra=2, different=1
)


def test_a_comparison_is_equal_if_no_row_differs() -> None:
    same = replace(CHECK, missing=0, extra=0, different=0)

    assert same.is_equal
    for other in (replace(same, missing=1), replace(same, extra=1), replace(same, different=1)):
        assert not other.is_equal


def test_a_comparison_survives_json() -> None:
    history = make_history(1, checked=CHECK)

    assert parse_table(table_json(history)) == history
    assert history.with_step(make_step(2)).checked == CHECK


def test_the_state_survives_json() -> None:
    history = make_history(1, 2, omitted=(Omission(job=JobId("x"), reason="late"),), file=(10, 20))
    history = history.with_step(make_step(4, added=3, removed=2)).with_wait(make_extract(5), "line 2: bad")
    state = RequestState(tables={"a": history, "b": make_history()}, wanted=("*",), jobs=(JobId("job-1"),))

    assert parse_state(state_json("r", state), "r") == state


def test_fingerprints_and_what_is_lost_survive_json() -> None:
    steps = (make_step(1, added=1, fingerprint="f"), make_step(2, fingerprint=NO_ROWS))
    history = TableHistory(kind=TableKind.WINDOW, steps=steps, sha256="x", lost=("acme/r/1/a.csv",))
    history = replace(history, tried=(JobId("a"), JobId("b")))

    assert parse_table(table_json(history)) == history
    # An older version wrote no fingerprints.
    older = replace(history, steps=(replace(steps[0], fingerprint=None), steps[1]))
    assert parse_table(table_json(older)) == older


def test_a_step_without_a_change_is_short() -> None:
    same = make_step(2, sha256="sha-1", rows=1)
    steps = table_json(TableHistory(kind=TableKind.FULL, steps=(make_step(1), same)))["steps"]

    assert isinstance(steps, list)
    assert steps[1] == {"job": "job-2", "time": "2026-11-03T04:00:00.000000Z"}


GOOD: dict[str, Any] = {
    "format": 1,
    "kind": "full",
    "steps": [{"job": "j", "time": "2026-11-01T00:00:00Z", "sha256": "s", "rows": 1, "digest": "d", "columns": ["a"]}],
}


@pytest.mark.parametrize(
    "change",
    [
        {"format": 0},
        {"format": None},
        {"kind": "other"},
        {"steps": "x"},
        {"checked": []},
        {"checked": {"job": "full", "path": "a.csv", "step": "job-1", "equal": 1}},
        {"checked": {**check_json(CHECK), "time": None}},
        {"checked": {**check_json(CHECK), "extra": "1"}},
        {"steps": None},
        {"steps": [1]},
        {"steps": [{**GOOD["steps"][0], "time": "yesterday"}]},
        {"steps": [{**GOOD["steps"][0], "rows": True}]},
        {"steps": [{**GOOD["steps"][0], "rows": "1"}]},
        {"steps": [{**GOOD["steps"][0], "sha256": None}]},
        {"omitted": [{"job": 1, "reason": "r"}]},
        {"waits": {"job": "j"}},
        {"file": [1]},
        {"sha256": 1},
        {"lost": 1},
        {"tried": ["a"]},
    ],
)
def test_a_damaged_history_is_refused(change: dict[str, Any]) -> None:
    parse_table(GOOD)
    with pytest.raises(WireError):
        parse_table({**GOOD, **change})


@pytest.mark.parametrize("value", [None, [], {}, {"format": 2}, {"format": 1, "request": "other"}])
def test_a_state_of_another_format_or_request_is_refused(value: Any) -> None:
    with pytest.raises(WireError):
        parse_state(value, "r")
