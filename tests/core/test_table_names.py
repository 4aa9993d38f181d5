"""The table that a word means."""

from __future__ import annotations

import pytest

from dcsync.core.table_names import matching, similar, stem

NAMES = ["admin_users.csv", "Admin_Users.csv", "issues_issues.csv", "sub/photos.CSV", "plain"]


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("admin_users.csv", ["admin_users.csv"]),
        ("admin_users", ["admin_users.csv"]),
        ("ADMIN_USERS", ["Admin_Users.csv", "admin_users.csv"]),
        ("photos", ["sub/photos.CSV"]),
        ("issues_*.csv", ["issues_issues.csv"]),
        ("*", sorted(NAMES)),
        ("plain", ["plain"]),
        ("users", []),
    ],
)
def test_a_name_is_found_with_and_without_its_ending_and_by_a_glob(word: str, found: list[str]) -> None:
    assert matching(word, NAMES) == found


def test_the_closest_match_counts() -> None:
    assert matching("a", ["a", "a.csv"]) == ["a"]
    assert matching("B[1]", ["b[1].csv", "x/b[1].csv", "b1.csv"]) == ["b[1].csv"]


def test_at_most_three_names_are_suggested() -> None:
    names = [f"issues_issue{number}.csv" for number in range(5)]

    assert len(similar("issues_issue", names)) == 3
    assert len(similar("sue", names)) == 3


def test_a_mistyped_name_gets_suggestions() -> None:
    assert similar("issue_isues.csv", NAMES) == ["issues_issues"]
    assert similar("issues", NAMES) == ["issues_issues"]
    assert similar("photo", NAMES) == ["sub/photos"]
    assert similar("zzz", NAMES) == []
    assert similar("", NAMES) == []


def test_the_ending_is_cut_in_any_case() -> None:
    assert [stem(name) for name in ("a.csv", "b.CSV", "c")] == ["a", "b", "c"]
