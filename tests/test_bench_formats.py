"""The comparison of formats for the row history: all of them give the answers of the CSV files."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.formats import FORMATS, WORKS, Rows

DAYS = 6
#: The others need packages that only the comparison uses.
INSTALLED = ("parquet", "validity")


@pytest.fixture(scope="module")
def csvs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, rows = tmp_path_factory.mktemp("csvs"), Rows(2000)
    paths = []
    for day in range(DAYS):
        if day:
            rows.advance(day)
        paths.append(folder / f"{day}.csv")
        rows.write(paths[-1])
    return paths


@pytest.mark.parametrize("name", INSTALLED)
def test_a_format_gives_the_answers_of_the_csv_files(name: str, csvs: list[Path], tmp_path: Path) -> None:
    answers = []
    for each in ("csv", name):
        for day, csv in enumerate(csvs):
            # Each step has a connection of its own, as in the comparison.
            form = FORMATS[each](tmp_path / each)
            WORKS["step"](form, day, csv)
        form = FORMATS[each](tmp_path / each)
        works = [("every", DAYS), ("per_day", DAYS), ("current", 0), *(("changes", day) for day in range(1, DAYS))]
        answers.append([WORKS[work](form, day, csvs[0]) for work, day in works])
    assert answers[0] == answers[1]


def test_a_day_that_differs_from_its_csv_file_is_noticed(csvs: list[Path], tmp_path: Path) -> None:
    form = FORMATS["validity"](tmp_path)
    WORKS["step"](form, 0, csvs[0])
    with pytest.raises(AssertionError):
        WORKS["except"](form, 0, csvs[1])
