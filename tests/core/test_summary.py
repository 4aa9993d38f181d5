"""What is kept of a snapshot can be read back, and what is odd in it harms nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core import summary
from dcsync.core.anomaly import TableWarning
from dcsync.core.coverage import Days
from dcsync.core.model import Json
from dcsync.core.summary import Summary
from dcsync.core.table import ColumnChange

TEXT = st.text(st.characters(codec=None), max_size=10)
TEXTS = st.lists(TEXT, max_size=3).map(tuple)
NUMBER = st.integers(0, 1 << 60)
SUMMARIES = st.builds(
    Summary,
    files=NUMBER,
    size=NUMBER,
    rows=st.none() | NUMBER,
    added=NUMBER,
    removed=NUMBER,
    changed=NUMBER,
    columns=st.lists(
        st.builds(ColumnChange, table=TEXT, added=TEXTS, removed=TEXTS, reordered=st.booleans()), max_size=3
    ).map(tuple),
    warnings=st.lists(st.builds(TableWarning, code=TEXT, table=TEXT, message=TEXT), max_size=3).map(tuple),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["table", "code", "message"]), inner),
    max_leaves=6,
)


@given(SUMMARIES)
def test_what_was_kept_is_read_back_the_same(kept: Summary) -> None:
    assert summary.parse(summary.render(kept)) == kept


@given(st.dictionaries(st.sampled_from(["files", "size", "rows", "columns", "warnings"]), JSON) | JSON)
def test_anything_at_all_is_read_without_an_error(value: object) -> None:
    assert summary.parse(json.dumps(value)).files >= 0


def test_what_is_odd_is_left_out() -> None:
    document = {
        "files": True,
        "size": -1,
        "rows": "5",
        "columns": [1, {"table": 2}, {"table": "t", "added": "abc", "removed": [1, "x"], "reordered": 1}],
        "warnings": [{"code": "L-ROWS", "table": "t"}, "w", {"code": "c", "table": "t", "message": "m"}],
    }

    assert summary.parse(json.dumps(document)) == Summary(
        files=0,
        size=0,
        columns=(ColumnChange(table="t", removed=("x",)),),
        warnings=(TableWarning(code="c", table="t", message="m"),),
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0),
        (1, 1),
        ((1 << 63) - 1, (1 << 63) - 1),
        (1 << 63, None),
        (-1, None),
        (True, None),
        (False, None),
        (1.0, None),
        ("1", None),
        (None, None),
    ],
)
def test_a_count_is_a_whole_number_that_a_column_can_hold(value: Json, expected: int | None) -> None:
    assert summary.whole(value) == expected


def test_a_count_that_is_odd_or_missing_is_none() -> None:
    assert summary.parse("{}") == Summary(files=0, size=0)
    assert summary.parse("[]") == Summary(files=0, size=0)
    odd = dict.fromkeys(["files", "size", "rows", "added", "removed", "changed", "columns", "warnings"], "x")
    assert summary.parse(json.dumps(odd)) == Summary(files=0, size=0)


def test_a_summary_has_these_keys() -> None:
    """Written by hand: scripts read them from `--json`, and the manifest of an older version has them."""
    made = Summary(
        files=1,
        size=2,
        rows=3,
        added=4,
        removed=5,
        changed=6,
        columns=(ColumnChange(table="t", added=("a",), removed=("b",), reordered=True),),
        warnings=(TableWarning(code="c", table="t", message="m"),),
    )

    window = Days(first=date(2026, 11, 15), last=date(2026, 11, 21))
    with_window = summary.summary_json(replace(made, window=window))
    assert with_window == {**summary.summary_json(made), "window": "2026-11-15/2026-11-21"}
    assert summary.parse_summary(with_window) == replace(made, window=window)
    assert summary.summary_json(made) == {
        "files": 1,
        "size": 2,
        "rows": 3,
        "added": 4,
        "removed": 5,
        "changed": 6,
        "columns": [{"table": "t", "added": ["a"], "removed": ["b"], "reordered": True}],
        "warnings": [{"code": "c", "table": "t", "message": "m"}],
    }


@pytest.mark.parametrize(("value", "expected"), [(["a", 1, "b"], ("a", "b")), ("ab", ()), (7, ()), ({"a": "b"}, ())])
def test_texts_are_those_of_a_list(value: Json, expected: tuple[str, ...]) -> None:
    assert summary.texts(value) == expected


@pytest.mark.parametrize("missing", ["code", "table", "message"])
def test_a_warning_without_one_of_its_texts_is_left_out(missing: str) -> None:
    entry: dict[str, Json] = {"code": "c", "table": "t", "message": "m"}

    assert summary.parse_warnings([{**entry, missing: 1}, entry]) == (TableWarning(code="c", table="t", message="m"),)
