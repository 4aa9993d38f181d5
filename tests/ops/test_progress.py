"""How far a run is."""

from __future__ import annotations

import pytest

from dcsync.core.model import AccountName, JobId
from dcsync.core.waits import WaitReason
from dcsync.ops.progress import RunProgress
from tests.fakes import FakeClock

ACME, OTHER = AccountName("acme"), AccountName("other")
ONE, TWO = JobId("1"), JobId("2")


def make_progress() -> tuple[RunProgress, FakeClock]:
    clock = FakeClock()
    return RunProgress(clock), clock


def test_the_snapshots_of_all_accounts_are_counted_until_the_last_account_ends() -> None:
    progress, _ = make_progress()
    places = [progress.place()]

    for account, jobs in ((ACME, 4), (ACME, 3), (OTHER, 2), (ACME, 2), (OTHER, 1), (OTHER, 0), (ACME, 1), (ACME, 0)):
        progress.jobs_left(account, jobs)
        places.append(progress.place())
    progress.jobs_left(ACME, 1)

    assert places == [None, (1, 4), (2, 4), (3, 6), (4, 6), (5, 6), (5, 6), (6, 6), None]
    assert progress.place() == (1, 1)


def test_an_account_that_starts_over_while_another_one_runs_counts_its_new_jobs() -> None:
    progress, _ = make_progress()

    for account, jobs in ((ACME, 1), (OTHER, 3), (ACME, 0), (ACME, 2)):
        progress.jobs_left(account, jobs)

    assert progress.place() == (2, 5)


def test_a_job_that_is_all_links_is_zero_of_zero() -> None:
    progress, clock = make_progress()

    progress.jobs_left(ACME, 1)
    progress.job_started(ACME, ONE, "acme/x", files=0, size=0)

    assert (progress.jobs[ONE].received, progress.jobs[ONE].size) == (0, 0)
    assert progress.jobs[ONE].seconds_left(clock.monotonic()) == 0
    assert progress.words() == "snapshot 1 of 1 (acme)"


def test_a_new_plan_counts_what_is_left_after_what_has_come() -> None:
    progress, _ = make_progress()

    progress.job_started(ACME, ONE, "acme/x", files=3, size=1000)
    progress.file_started(ONE, "a.csv", 300)
    progress.job_advanced(ONE, 300)
    progress.file_done(ONE, "a.csv")
    progress.job_started(ACME, ONE, "acme/x", files=2, size=5000)

    job = progress.jobs[ONE]
    assert (job.received, job.size, job.files_done, job.files) == (300, 5300, 1, 3)


def test_a_resumed_file_begins_at_what_is_there_and_has_no_rate_for_it() -> None:
    progress, clock = make_progress()
    progress.job_started(ACME, ONE, "acme/x", files=1, size=1000)
    progress.file_started(ONE, "a.csv", 1000)
    progress.file_resumed(ONE, "a.csv", 600)
    progress.file_started(ONE, "a.csv", 1000)  # a retry

    for _ in range(2):
        progress.job_advanced(ONE, 100)
        progress.file_advanced(ONE, "a.csv", 100)
        clock.advance(1)

    now = clock.monotonic()
    for transfer in (progress.jobs[ONE], progress.files[ONE, "a.csv"]):
        assert (transfer.received, transfer.size) == (800, 1000)
        assert transfer.rate.per_s(now) == 100
        assert transfer.seconds_left(now) == 2
    assert progress.received == 200


def test_an_unchanged_file_is_not_to_be_downloaded() -> None:
    progress, _ = make_progress()

    progress.job_started(ACME, ONE, "acme/x", files=2, size=1000)
    progress.file_started(ONE, "a.csv", 700)
    progress.file_unchanged(ONE, "a.csv")
    progress.file_done(ONE, "a.csv")
    progress.file_unchanged(ONE, "unknown.csv")

    assert (progress.jobs[ONE].received, progress.jobs[ONE].size) == (0, 300)
    assert progress.files == {}


def test_bytes_that_come_once_more_are_in_the_rate_and_not_in_what_is_there() -> None:
    progress, clock = make_progress()
    progress.job_started(ACME, ONE, "acme/x", files=1, size=1000)
    progress.file_started(ONE, "a.csv", 1000)

    for size in (1000, -1000, 500):
        progress.job_advanced(ONE, size)
        progress.file_advanced(ONE, "a.csv", size)
        clock.advance(1)

    assert (progress.jobs[ONE].received, progress.files[ONE, "a.csv"].received) == (500, 500)
    assert progress.received == 1500
    assert progress.jobs[ONE].rate.per_s(clock.monotonic()) == 500


def test_a_line_that_has_stopped_has_no_rate_and_no_end() -> None:
    progress, clock = make_progress()
    progress.job_started(ACME, ONE, "acme/x", files=1, size=1000)
    assert progress.jobs[ONE].rate.per_s(clock.monotonic()) is None
    clock.advance(1)
    progress.job_advanced(ONE, 10)

    clock.advance(20)

    assert progress.jobs[ONE].rate.per_s(clock.monotonic()) == 0
    assert progress.jobs[ONE].seconds_left(clock.monotonic()) is None
    progress.job_advanced(ONE, 150)
    assert progress.jobs[ONE].rate.per_s(clock.monotonic()) == 10


def test_a_wait_counts_down_and_the_longest_of_its_kind_counts() -> None:
    progress, clock = make_progress()

    progress.waiting(WaitReason.STORAGE, 3)
    progress.waiting(WaitReason.RATE_LIMIT, 42)
    progress.waiting(WaitReason.RATE_LIMIT, 7)
    clock.advance(5)

    assert progress.waits() == {WaitReason.RATE_LIMIT: 37}
    assert progress.words() == "waiting 37 s for the rate limit"
    progress.jobs_left(ACME, 1)
    assert progress.words() == "snapshot 1 of 1; waiting 37 s for the rate limit"
    progress.jobs_left(ACME, 0)
    assert progress.waits() == {}


def test_words_have_the_snapshot_the_accounts_the_bytes_and_the_wait() -> None:
    progress, _ = make_progress()
    progress.jobs_left(ACME, 6)
    progress.jobs_left(ACME, 4)
    progress.job_started(ACME, ONE, "acme/x", files=1, size=2 << 30)
    progress.job_advanced(ONE, 1 << 30)
    progress.waiting(WaitReason.API, 9)

    assert progress.words() == "snapshot 3 of 6 (acme), 1.0/2.0 GiB; waiting 9 s to call the API again"


def test_jobs_without_a_run_are_counted_as_they_are() -> None:
    """Several hosts share the jobs, so no host knows how many there are."""
    progress, _ = make_progress()
    progress.job_started(ACME, ONE, "acme/x", files=1, size=100)
    progress.job_started(OTHER, TWO, "other/x", files=1, size=100)
    progress.job_advanced(TWO, 50)

    assert progress.words() == "2 extracts (acme, other), 50/200 B"
    progress.job_done(TWO)
    assert progress.words() == "1 extract (acme), 0/100 B"


def test_a_job_that_ends_takes_its_files_along_and_late_events_are_ignored() -> None:
    progress, _ = make_progress()
    progress.job_started(ACME, ONE, "acme/x", files=2, size=100)
    progress.file_started(ONE, "a.csv", 50)
    progress.file_started(TWO, "b.csv", 50)

    progress.job_done(ONE)
    progress.job_done(ONE)
    progress.file_advanced(ONE, "a.csv", 1)
    progress.file_resumed(ONE, "a.csv", 1)
    progress.file_done(ONE, "a.csv")
    progress.job_advanced(ONE, 1)

    assert (list(progress.jobs), list(progress.files)) == ([], [(TWO, "b.csv")])


@pytest.mark.parametrize("size", [300, 1000])
def test_a_file_from_the_zip_that_is_fetched_by_its_own_url_starts_anew_with_its_own_size(size: int) -> None:
    progress, _ = make_progress()
    progress.file_started(ONE, "a.csv", 300)
    progress.file_advanced(ONE, "a.csv", 100)

    progress.file_started(ONE, "a.csv", size)

    assert progress.files[ONE, "a.csv"].received == (100 if size == 300 else 0)
