"""What two globs have in common."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core.globs import overlap


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("*", "admin_users"),
        ("admin_*", "*_users"),
        ("admin_users", "ADMIN_Users"),
        ("a?c", "abc"),
        ("a[xyz]c", "ab*"),
        ("a*", "a"),
        ("**", ""),
        ("", ""),
        ("*b", "a*"),
    ],
)
def test_globs_that_a_name_can_match_both(one: str, other: str) -> None:
    assert overlap(one, other)
    assert overlap(other, one)


@pytest.mark.parametrize(
    ("one", "other"), [("a*", "b*"), ("ab", "abc"), ("", "a"), ("a?", "a"), ("*_users", "*_roles"), ("a[b]", "b*")]
)
def test_globs_that_no_name_matches_both(one: str, other: str) -> None:
    assert not overlap(one, other)
    assert not overlap(other, one)


@given(st.text("ab", max_size=4), st.text("ab*?", max_size=5), st.text("ab*?", max_size=5))
def test_a_name_that_matches_both_is_proof(name: str, one: str, other: str) -> None:
    if fnmatchcase(name, one) and fnmatchcase(name, other):
        assert overlap(one, other)
