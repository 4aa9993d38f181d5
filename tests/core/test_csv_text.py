"""Lines of a CSV file."""

from __future__ import annotations

import pytest

from dcsync.core.csv_text import csv_line


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (["a", None, ""], 'a,,""\n'),
        (['say "hi"', "x,y", "l\nm", "\r", " s "], '"say ""hi""","x,y","l\nm","\r", s \n'),
        ([None], "\n"),
        ([""], '""\n'),
        ([], "\n"),
    ],
)
def test_empty_fields_and_empty_strings_stay_apart(values: list[str | None], line: str) -> None:
    assert csv_line(values) == line
