"""The status line of the daemon, and its line in the log for each run."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountId, AccountName, JobId
from dcsync.core.snapshot import Transfer
from dcsync.core.waits import WaitReason
from dcsync.daemon.progress import Progress, log_run
from dcsync.errors import AccessRefused
from dcsync.ops.context import AccountSettings
from dcsync.ops.mirroring.job import Published
from dcsync.ops.mirroring.outcome import AccountOutcome, Failed
from tests.fakes import FakeClock

ACME, JOB = AccountName("acme"), JobId("1")


def make_outcome(**changes: Any) -> AccountOutcome:
    return AccountOutcome(account=AccountSettings(name=ACME, id=AccountId("1")), **changes)


PUBLISHED = Published(
    job=JOB, folder="acme/x", files=3, transfer=Transfer(strategy="zip", fetched_bytes=70, linked_bytes=30)
)
FAILED = Failed(job=JOB, state=JobState.FAILED, code="S-REFUSED", message="no", hint="", next_try_at=None)


@pytest.mark.parametrize(
    ("outcome", "level", "facts"),
    [
        (make_outcome(calls=1, waiting=2), "debug", {"published": 0, "failed": 0, "waiting": 2, "calls": 1}),
        (
            make_outcome(published=[PUBLISHED, PUBLISHED], due_later=4),
            "info",
            {"published": 2, "files": 6, "fetched_bytes": 140, "linked_bytes": 60, "later": 4},
        ),
        (make_outcome(failed=[FAILED]), "info", {"failed": 1}),
        (make_outcome(error=AccessRefused("not you", status=403)), "warning", {"code": "A-DENIED", "error": "not you"}),
    ],
    ids=["nothing new", "published", "failed", "stopped"],
)
def test_a_run_is_one_line_whose_level_says_whether_to_read_it(
    outcome: AccountOutcome, level: str, facts: dict[str, object]
) -> None:
    with capture_logs() as lines:
        log_run(outcome)

    (line,) = lines
    assert (line["event"], line["log_level"], line["account"]) == ("run ended", level, "acme")
    assert {key: line[key] for key in facts} == facts


def test_the_status_line_says_what_runs_and_what_it_waits_for() -> None:
    progress = Progress(FakeClock())
    lines = [progress.describe()]

    progress.begin("polling acme")
    lines.append(progress.describe())
    progress.waiting(WaitReason.API, 30)
    lines.append(progress.describe())
    progress.jobs_left(ACME, 2)
    lines.append(progress.describe())
    progress.jobs_left(ACME, 0)
    progress.end("polling acme")
    progress.begin("verifying")
    progress.snapshot("acme/x", 3, 40)
    progress.read(10)
    lines.append(progress.describe())
    progress.end("verifying")
    lines.append(progress.describe())

    assert lines == [
        "",
        "polling acme",
        "polling acme; waiting 30 s to call the API again",
        "mirroring snapshot 1 of 2; waiting 30 s to call the API again",
        "verifying (snapshot 3 of 40)",
        "",
    ]


@pytest.mark.parametrize(
    "event",
    [
        lambda progress: progress.jobs_left(ACME, 1),
        lambda progress: progress.job_started(ACME, JOB, "x", files=1, size=1),
        lambda progress: progress.waiting(WaitReason.STORAGE, 1),
    ],
)
def test_each_new_snapshot_and_wait_shows_at_once(event: Any) -> None:
    progress = Progress(FakeClock())

    event(progress)

    assert progress.has_changed.is_set()
