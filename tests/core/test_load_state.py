"""What the manifest remembers about the last attempt of a load."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from dcsync.core.load_state import LoadState, TableState, parse_state, state_text

AT = datetime(2026, 11, 22, 12, 30, tzinfo=UTC)


def test_a_state_comes_back() -> None:
    table = TableState(
        table="admin_users",
        account="acme",
        request="r",
        job="j",
        completed=AT,
        rows=3,
        loaded_at=AT,
        note="n",
        problem="p",
    )
    state = LoadState(
        target="duckdb:///x",
        attempts=2,
        tried_at=AT,
        done_at=AT,
        next_try_at=AT,
        problem="away",
        hint="wait",
        seen="abc",
        tables=(table, TableState(table="new")),
    )

    assert parse_state(state_text(state)) == state
    assert "seen" not in state.json()


@pytest.mark.parametrize("text", [None, "", "[]", "{", '{"tables": [1]}'])
def test_what_cannot_be_read_is_an_empty_state(text: str | None) -> None:
    assert parse_state(text) == LoadState()


def test_values_of_other_types_are_left_out() -> None:
    text = json.dumps({"target": 1, "failed_attempts": True, "tables": 3, "problem": []})

    assert parse_state(text) == LoadState()
