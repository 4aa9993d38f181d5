from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dcsync.core.delta_check import full_extracts, full_names, has_same_projects, step_at
from dcsync.core.model import JobId
from dcsync.core.row_history import Check, Extract, TableHistory, Wait
from dcsync.core.table import TableKind
from tests.core.test_row_history import BEGIN, make_extract, make_history
from tests.fakes import make_request

NAME = "cdcissues_issues"


def make_full(day: int, name: str = "issues_issues.csv") -> Extract:
    return make_extract(day, job=JobId(f"full-{day}"), name=name)


def make_delta(*days: int, **fields: Any) -> TableHistory:
    return replace(make_history(*days), kind=TableKind.DELTA, **fields)


def found(history: TableHistory, *fulls: Extract) -> list[str]:
    by_name: dict[str, list[Extract]] = {}
    for full in fulls:
        by_name.setdefault(full.name, []).append(full)
    return [full.job for full in full_extracts(NAME, history, by_name)]


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("cdcissues_issues", ("cdcissues_issues.csv", "issues_issues.csv")),
        ("CdcV2Admin_Users", ("cdcv2admin_users.csv", "admin_users.csv")),
        ("issues_cdc", ("issues_cdc.csv",)),
    ],
)
def test_a_full_table_is_found_by_the_name_of_the_delta_table(name: str, names: tuple[str, ...]) -> None:
    assert full_names(name) == names


def test_the_newest_full_extract_that_is_not_before_the_first_step_comes_first() -> None:
    fulls = [make_full(1), make_full(3), make_full(4, "cdcissues_issues.csv"), make_full(5, "issues_other.csv")]

    assert found(make_delta(2, 6), *fulls) == ["full-4", "full-3"]


def test_a_full_extract_is_compared_once_with_the_same_step() -> None:
    check = Check(
        job=JobId("full-4"), time=BEGIN, path="", step=JobId("job-2"), equal=0, missing=0, extra=0, different=0
    )
    fulls = [make_full(1), make_full(3), make_full(4)]

    assert found(make_delta(2, 6, checked=check), *fulls) == []
    assert found(make_delta(2, 6, checked=check), *fulls, make_full(5)) == ["full-5"]
    assert found(make_delta(2, 3, checked=check), *fulls) == ["full-4", "full-3"]


def test_a_full_extract_that_could_not_be_compared_is_tried_once_with_the_same_step() -> None:
    tried = make_delta(2, 6, tried=(JobId("full-4"), JobId("job-2")))

    assert found(tried, make_full(3), make_full(4)) == []
    assert found(tried, make_full(3), make_full(4), make_full(5)) == ["full-5"]
    assert found(make_delta(2, 3, tried=tried.tried), make_full(3), make_full(4)) == ["full-4", "full-3"]
    again = full_extracts(NAME, tried, {"issues_issues.csv": [make_full(4)]}, retries=True)
    assert [full.job for full in again] == ["full-4"]


def test_other_tables_and_a_table_that_waits_are_not_compared() -> None:
    wait = Wait(job=JobId("x"), path="", sha256="", reason="")

    assert found(make_history(2), make_full(3)) == []
    assert found(make_delta(2, waits=wait), make_full(3)) == []


def test_the_step_at_a_time_is_the_last_one_until_then() -> None:
    history = make_delta(2, 4)
    steps = [step_at(history, BEGIN + timedelta(days=day)) for day in (1, 2, 3, 4, 5)]

    assert [step and step.job for step in steps] == [None, "job-2", "job-2", "job-4", "job-4"]


def test_data_requests_are_for_the_same_projects_if_they_name_the_same() -> None:
    everything, tower = make_request(), make_request(project_id="a", project_ids=("a", "b"))

    assert has_same_projects(everything, make_request(description="other"))
    assert has_same_projects(tower, make_request(project_ids=("b", "a")))
    assert not has_same_projects(tower, everything)
    assert not has_same_projects(everything, make_request(project_status="active"))
    assert not has_same_projects(everything, None)
    assert not has_same_projects(None, everything)
