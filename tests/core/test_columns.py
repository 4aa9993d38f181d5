from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core.columns import distinct_names


@pytest.mark.parametrize(
    ("header", "names"),
    [
        (("id", "name"), ("id", "name")),
        (("id", "Id", "id"), ("id", "Id_2", "id_3")),
        (("", "a", ""), ("column_1", "a", "column_3")),
        (("column_1", ""), ("column_1", "column_2")),
        (("column_2", ""), ("column_2", "column_2_1")),
        (("a", "a", "a_2"), ("a", "a_3", "a_2")),
        (("_valid_from",), ("_valid_from_2",)),
        ((), ()),
    ],
)
def test_names_stay_where_they_can(header: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert distinct_names(header, reserved=["_Valid_From"]) == names


@given(st.lists(st.sampled_from(["", "a", "A", "a_2", "a_3", "column_1", "column_2", "_r", "_r_2"])))
def test_any_header_gets_distinct_names(header: list[str]) -> None:
    names = distinct_names(header, reserved=["_r"])

    assert len({name.casefold() for name in names} | {"_r"}) == len(header) + 1
    assert all(names)
    for position, name in enumerate(header):
        is_first = name and name.casefold() not in {"_r", *(other.casefold() for other in header[:position])}
        assert not is_first or names[position] == name
