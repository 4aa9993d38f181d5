"""What looks wrong beside the snapshots before."""

from __future__ import annotations

import pytest

from dcsync.core.anomaly import CODES, TableWarning, table_warnings, worst_first
from dcsync.core.table import TableFacts, TableKind


def table(rows: int | None, *columns: str) -> dict[str, TableFacts | None]:
    return {"t.csv": TableFacts(header=columns or ("id",), rows=rows)}


def test_the_first_snapshot_has_nothing_to_be_held_against() -> None:
    assert table_warnings(table(0), []) == ()


def test_a_lost_column_is_named() -> None:
    assert table_warnings(table(5, "id"), [table(5, "id", "name", "mail")]) == (
        TableWarning(code="L-COLUMNS", table="t.csv", message="lost 2 of its 3 columns: 'name', 'mail'"),
    )


def test_of_many_lost_columns_the_first_are_named() -> None:
    before = [f"c{number}" for number in range(9)]

    (warning,) = table_warnings(table(5, "c0"), [table(5, *before)])

    assert warning.message == "lost 8 of its 9 columns: 'c1', 'c2', 'c3', 'c4', 'c5' and 3 more"


@pytest.mark.parametrize(("lost", "more"), [(5, ""), (6, " and 1 more")])
def test_up_to_five_lost_columns_are_named(lost: int, more: str) -> None:
    before = [f"c{number}" for number in range(lost + 1)]

    (warning,) = table_warnings(table(5, "c0"), [table(5, *before)])

    assert warning.message == f"lost {lost} of its {lost + 1} columns: 'c1', 'c2', 'c3', 'c4', 'c5'{more}"


def test_new_and_reordered_columns_are_no_loss() -> None:
    assert table_warnings(table(5, "b", "a", "c"), [table(5, "a", "b")]) == ()


def test_columns_are_held_against_the_newest_snapshot_only_so_that_a_loss_is_said_once() -> None:
    assert table_warnings(table(5, "id"), [table(5, "id"), table(5, "id", "name")]) == ()


@pytest.mark.parametrize(("rows", "warns"), [(50, False), (49, True), (0, True), (None, False)])
def test_more_than_half_of_the_rows_gone_is_a_warning(rows: int | None, warns: bool) -> None:
    assert bool(table_warnings(table(rows), [table(100)])) is warns


def test_rows_are_held_against_the_median_so_that_one_bad_day_does_not_count() -> None:
    before = [table(rows) for rows in (1, 1000, 1010, 1020, 990, 980, 1005)]

    (warning,) = table_warnings(table(400), before)

    assert warning == TableWarning(
        code="L-ROWS",
        table="t.csv",
        message="has 400 rows, down from 1,000, the median of the last 7 snapshots",
    )


def test_only_the_last_seven_count() -> None:
    assert table_warnings(table(10), [table(10)] * 7 + [table(1000)] * 20) == ()


def test_a_table_without_known_rows_before_is_not_judged() -> None:
    assert table_warnings(table(0), [table(None), {}, {"t.csv": None}]) == ()
    assert table_warnings({"t.csv": None}, [table(100)]) == ()


def test_against_one_snapshot_it_says_so() -> None:
    (warning,) = table_warnings(table(1), [table(100)])

    assert warning.message == "has 1 row, down from 100 in the previous snapshot"
    (warning,) = table_warnings(table(1), [table(100), table(200)])
    assert warning.message == "has 1 row, down from 150, the median of the last 2 snapshots"


def test_a_table_that_is_gone_with_its_rows_is_a_loss() -> None:
    assert table_warnings({}, [table(1234)]) == (
        TableWarning(code="L-TABLE", table="t.csv", message="is missing; the previous snapshot had 1,234 rows"),
    )
    assert table_warnings({}, [table(1234), table(99)]) == table_warnings({}, [table(1234)])
    # It is said once.
    assert table_warnings({}, [{}, table(1234)]) == ()


@pytest.mark.parametrize("before", [{"t.csv": None}, table(0), table(None)])
def test_a_table_without_rows_may_go(before: dict[str, TableFacts | None]) -> None:
    assert table_warnings({}, [before]) == ()


def test_a_table_that_the_configuration_leaves_out_is_not_missed() -> None:
    assert table_warnings({}, [table(1234)], left_out={"t.csv"}) == ()


@pytest.mark.parametrize("kind", [TableKind.WINDOW, TableKind.DELTA])
def test_windows_and_deltas_may_have_any_number_of_rows_but_not_fewer_columns(kind: TableKind) -> None:
    kinds = {"t.csv": kind, "u.csv": kind}

    assert table_warnings(table(1), [{**table(1000), "u.csv": table(500)["t.csv"]}], kinds=kinds) == ()
    assert table_warnings(table(1, "a"), [table(1000, "a", "b")], kinds=kinds)[0].code == "L-COLUMNS"


@pytest.mark.parametrize("kind", [TableKind.FULL, None])
def test_full_tables_and_those_of_an_unknown_kind_are_counted(kind: TableKind | None) -> None:
    assert table_warnings(table(1), [table(1000)], kinds={"t.csv": kind})[0].code == "L-ROWS"


def test_a_window_that_was_never_left_out_is_missed_and_a_delta_never_is() -> None:
    week = [table(rows) for rows in (0, 5, 4, 3, 2, 1, 0)]

    assert table_warnings({}, week[1:], kinds={"t.csv": TableKind.WINDOW}) == ()
    assert table_warnings({}, [*week[1:], {}, *week], kinds={"t.csv": TableKind.WINDOW}) == ()
    assert table_warnings({}, week, kinds={"t.csv": TableKind.WINDOW}) == (
        TableWarning(code="L-TABLE", table="t.csv", message="is missing; each of the last 7 snapshots had it"),
    )
    assert table_warnings({}, week, kinds={"t.csv": TableKind.DELTA}) == ()


@pytest.mark.parametrize(("usual", "warns"), [(99, False), (100, True)])
def test_a_small_table_may_lose_any_number_of_rows(usual: int, warns: bool) -> None:
    assert bool(table_warnings(table(0), [table(usual)])) is warns


def test_the_worst_come_first_gone_then_shrunk_then_changed() -> None:
    def all_of(**rows: int) -> dict[str, TableFacts | None]:
        return {
            f"{name}.csv": TableFacts(header=("id", "x") if name < "d" else ("id",), rows=rows[name]) for name in rows
        }

    now = {"a.csv": TableFacts(header=("id",), rows=900), **all_of(d=10, e=0, f=490)}
    before = all_of(a=900, d=100, e=900, f=1000, z=1)

    warnings = table_warnings(now, [before])

    assert [(warning.code, warning.table) for warning in warnings] == [
        ("L-TABLE", "z.csv"),
        ("L-ROWS", "e.csv"),
        ("L-ROWS", "f.csv"),
        ("L-ROWS", "d.csv"),
        ("L-COLUMNS", "a.csv"),
    ]
    assert {warning.code for warning in warnings} == CODES
    strange = TableWarning(code="L-LATER", table="q.csv", message="")
    assert worst_first([*warnings[::-1], strange]) == (
        strange,
        warnings[0],
        *(warnings[number] for number in (3, 2, 1)),
        warnings[4],
    )
