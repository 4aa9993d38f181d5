"""The domain's values: what a job's status means, what is a delta, what is kept out of sight."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core.model import EXTRACT_LIFE_DAYS, JobPhase, SignedFile
from tests.fakes import NOON, make_job, make_request


@pytest.mark.parametrize(
    ("status", "completion_status", "phase"),
    [
        ("queued", None, JobPhase.PENDING),
        ("running", None, JobPhase.PENDING),
        ("Running", "success", JobPhase.PENDING),
        ("complete", "success", JobPhase.SUCCEEDED),
        ("COMPLETE", "Success", JobPhase.SUCCEEDED),
        ("complete", "failed", JobPhase.FAILED),
        ("complete", "cancelled", JobPhase.CANCELLED),
        ("complete", "canceled", JobPhase.CANCELLED),
        ("complete", None, JobPhase.UNKNOWN),
        ("complete", "partial", JobPhase.UNKNOWN),
        ("", "success", JobPhase.UNKNOWN),
        ("paused", "success", JobPhase.UNKNOWN),
    ],
)
def test_a_job_s_phase_is_told_by_both_its_statuses(
    status: str, completion_status: str | None, phase: JobPhase
) -> None:
    completed_at = None if phase is JobPhase.PENDING else NOON
    assert make_job(status=status, completion_status=completion_status, completed_at=completed_at).phase is phase


@pytest.mark.parametrize("status", ["queued", "running"])
def test_a_job_that_has_a_completion_time_does_not_run(status: str) -> None:
    assert make_job(status=status, completion_status=None).phase is JobPhase.UNKNOWN


def test_autodesk_deletes_an_extract_after_thirty_days() -> None:
    assert EXTRACT_LIFE_DAYS == 30


def test_a_job_is_dated_by_its_completion_or_else_its_creation() -> None:
    assert make_job().dated_at == NOON
    assert make_job(completed_at=None).dated_at == NOON - timedelta(hours=1)
    assert make_job(completed_at=None, created_at=None).dated_at is None


@given(st.text(), st.none() | st.text())
def test_only_a_complete_success_can_be_mirrored(status: str, completion_status: str | None) -> None:
    job = make_job(status=status, completion_status=completion_status)

    assert job.phase is not JobPhase.SUCCEEDED or (status.lower(), completion_status) == ("complete", "success")


@pytest.mark.parametrize(
    ("service_groups", "expected"),
    [
        ((), False),
        (("admin", "issues"), False),
        (("admin", "cdcissues"), True),
        (("CDCadmin",), True),
        (("acdc",), False),
    ],
)
@pytest.mark.parametrize("dates", [{"start_date": NOON}, {"end_date": NOON}, {"date_range": "YESTERDAY"}])
def test_a_request_for_the_changes_of_a_period_is_a_delta(
    service_groups: tuple[str, ...], expected: bool, dates: dict[str, Any]
) -> None:
    assert make_request(service_groups=service_groups, **dates).is_delta is expected


def test_a_group_of_changes_without_a_period_returns_all_rows() -> None:
    request = make_request(service_groups=("cdcissues",))

    assert not request.has_dates
    assert not request.is_delta


def test_a_signed_url_is_not_shown() -> None:
    signed = SignedFile(name="a.csv", size=7, url="https://s3/a?signature=s3cret")

    assert repr(signed) == "SignedFile(name='a.csv', size=7)"
    assert "s3cret" in signed.url


def test_a_value_cannot_be_changed() -> None:
    job = make_job()

    with pytest.raises(FrozenInstanceError):
        job.status = "running"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("one", "several", "projects"),
    [(None, (), set()), ("a", (), {"a"}), (None, ("a", "b"), {"a", "b"}), ("a", ("b",), {"a", "b"}), ("", (), set())],
)
def test_the_projects_are_named_in_either_field(one: str | None, several: tuple[str, ...], projects: set[str]) -> None:
    for entry in (make_request(project_id=one, project_ids=several), make_job(project_id=one, project_ids=several)):
        assert entry.projects == projects
