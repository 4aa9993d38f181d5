"""A poll returns what is new at Autodesk, what has grown old, and which data requests are not described yet."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountId, AccountName, Job, JobId, RequestId
from dcsync.core.ports import KnownJob, KnownRequest
from dcsync.core.wire import BadEntry
from dcsync.errors import AccessRefused, ApiFault
from dcsync.manifest import SqlManifest
from dcsync.ops.context import AccountSettings
from dcsync.ops.mirroring.poll import Poll, PollBefore, poll
from tests.fakes import NOON, REQUEST_ID, FakeClock, make_delta_request, make_job, make_request
from tests.rigs.canned import CannedApi

DAY = timedelta(days=1)
LIFE = 30 * DAY
DOWN = ApiFault("no answer")
A = JobId("a")


class KnownBefore(SqlManifest):
    """A manifest that knows these jobs and data requests, and stores nothing."""

    def __init__(self, jobs: Sequence[KnownJob], requests: Sequence[KnownRequest]) -> None:
        self._jobs = {known.job.id: known for known in jobs}
        self._requests = {request.id: request for request in requests}

    async def jobs(
        self, account: AccountName, *, states: Collection[JobState] | None = None
    ) -> Mapping[JobId, KnownJob]:
        assert states is None
        return self._jobs

    async def requests(self, account: AccountName) -> Mapping[RequestId, KnownRequest]:
        return self._requests


def make(age: timedelta = timedelta(), **changes: Any) -> Job:
    """Return a complete job of that age."""
    return make_job(**{"id": A, "created_at": NOON - age, "completed_at": NOON - age, **changes})


def pending(age: timedelta = timedelta(), **changes: Any) -> Job:
    return make(age, **{"status": "running", "completion_status": None, "completed_at": None, **changes})


def unknown(age: timedelta = timedelta(), **changes: Any) -> Job:
    return make(age, **{"status": "odd", **changes})


def make_known(job: Job, state: JobState, **changes: Any) -> KnownJob:
    return KnownJob(**{"job": job, "state": state, "first_seen_at": NOON - LIFE, **changes})


def make_seen(**changes: Any) -> KnownRequest:
    """Return a data request that the manifest knows and Autodesk has not described."""
    values = {
        "id": REQUEST_ID,
        "description": "",
        "slug": "ce9bc188",
        "is_delta": False,
        "is_described": False,
        "first_seen_at": NOON - timedelta(hours=1),
    }
    return KnownRequest(**{**values, **changes})


DESCRIBED = make_seen(description="My Extract", slug="my-extract-ce9bc188", is_described=True)


async def look(
    api: CannedApi,
    *known: KnownJob,
    requests: Sequence[KnownRequest] = (DESCRIBED,),
    before: PollBefore | None = None,
    names: tuple[str, ...] = (),
    projects: tuple[str, ...] = (),
) -> Poll:
    settings = AccountSettings(name=AccountName("acme"), id=AccountId("a1"), requests=names, projects=projects)
    manifest = KnownBefore(known, requests)
    return await poll(api, manifest, FakeClock(NOON), settings, before=before or PollBefore())


async def change(job: Job, known: KnownJob | None) -> KnownJob | None:
    """Return what a poll records of a job that the list shows."""
    found = await look(CannedApi([[job]]), *([] if known is None else [known]))
    assert found.jobs[job.id] == (found.changed[0] if found.changed else known)
    return found.changed[0] if found.changed else None


# --- states and reasons -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "state", "reason"),
    [
        (make(), JobState.SEEN, None),
        (pending(), JobState.WAITING, None),
        (unknown(), JobState.WAITING, None),
        (make(completion_status="failed"), JobState.EMPTY, "failed at Autodesk"),
        (make(completion_status="cancelled"), JobState.EMPTY, "cancelled at Autodesk"),
        (make(LIFE), JobState.TOO_OLD, "older than 30 days when dcsync first saw it"),
        (unknown(LIFE), JobState.TOO_OLD, "older than 30 days when dcsync first saw it"),
    ],
)
async def test_a_new_job_is_recorded_with_its_state_and_why(job: Job, state: JobState, reason: str | None) -> None:
    assert await change(job, None) == KnownJob(job=job, state=state, reason=reason)


@pytest.mark.parametrize("job", [pending(), unknown(LIFE), make()])
async def test_only_a_new_job_with_an_undocumented_status_is_logged(job: Job) -> None:
    with capture_logs() as lines:
        await change(unknown(), None)
        await change(job, None)

    assert [(line["job"], line["status"], line["completion"]) for line in lines] == [("a", "odd", "success")]


@pytest.mark.parametrize(
    ("before", "job", "state", "reason"),
    [
        (make_known(pending(DAY), JobState.WAITING), make(DAY), JobState.SEEN, None),
        (make_known(pending(DAY), JobState.WAITING), make(DAY, completion_status="failed"), JobState.EMPTY, "failed"),
        (make_known(pending(LIFE), JobState.WAITING), pending(LIFE), JobState.EMPTY, "still running"),
        (make_known(unknown(LIFE), JobState.WAITING), unknown(LIFE), JobState.EXPIRED, "has the status 'odd'"),
        (make_known(make(DAY), JobState.EMPTY, reason="failed at Autodesk"), make(DAY), JobState.SEEN, None),
    ],
)
async def test_a_job_that_changed_has_a_new_reason_and_no_code(
    before: KnownJob, job: Job, state: JobState, reason: str | None
) -> None:
    changed = await change(job, replace(before, reason_code="L-STATUS", attempts=2))

    assert changed is not None
    assert (changed.job, changed.state, changed.reason_code) == (job, state, None)
    assert (changed.reason or "").startswith(reason or "")
    assert (changed.reason is None) is (reason is None)
    assert (changed.attempts, changed.first_seen_at) == (2, before.first_seen_at)


async def test_a_quarantined_job_that_is_lost_keeps_why_it_was_not_mirrored() -> None:
    before = make_known(make(LIFE), JobState.QUARANTINED, reason_code="F-SIZE", reason="too short", attempts=3)

    assert await change(make(LIFE), before) == replace(before, state=JobState.EXPIRED)


@pytest.mark.parametrize(
    ("state", "before", "job", "is_change"),
    [
        (JobState.WAITING, pending(), pending(), False),
        (JobState.WAITING, pending(), pending(progress=50), False),
        (JobState.WAITING, unknown(), unknown(), False),
        (JobState.WAITING, unknown(), unknown(status="odder"), True),
        (JobState.WAITING, unknown(), pending(), True),
        (JobState.WAITING, pending(), unknown(), True),
        (JobState.PUBLISHED, make(), make(progress=100), False),
        (JobState.PUBLISHED, make(), unknown(), False),
    ],
)
async def test_a_job_whose_state_stays_is_recorded_only_if_an_alert_quotes_its_status(
    state: JobState, before: Job, job: Job, *, is_change: bool
) -> None:
    known = make_known(before, state, reason_code="L-STATUS", reason="why")

    assert await change(job, known) == (replace(known, job=job) if is_change else None)


@pytest.mark.parametrize(
    ("known", "state"),
    [
        (make_known(make(LIFE), JobState.QUARANTINED, reason="wrong"), JobState.EXPIRED),
        (make_known(pending(LIFE), JobState.WAITING), JobState.EMPTY),
        (make_known(make(LIFE), JobState.PUBLISHED), None),
        (make_known(make(LIFE - DAY), JobState.QUARANTINED), None),
    ],
)
async def test_a_job_that_no_page_shows_grows_older(known: KnownJob, state: JobState | None) -> None:
    found = await look(CannedApi([[make(id=JobId("b"))]]), known)

    assert [job.state for job in found.changed if job.job.id == A] == ([] if state is None else [state])
    assert found.jobs.keys() == {"a", "b"}


@pytest.mark.parametrize(
    ("first_seen_ago", "folder", "state"),
    [
        (timedelta(), None, JobState.TOO_OLD),
        (DAY, None, None),
        (timedelta(), "acme/x", None),
    ],
)
async def test_a_loss_of_version_0_2_that_was_too_old_is_no_loss(
    first_seen_ago: timedelta, folder: str | None, state: JobState | None
) -> None:
    known = make_known(make(LIFE), JobState.EXPIRED, first_seen_at=NOON - first_seen_ago, folder=folder)

    changed = await change(make(LIFE), known)

    assert (None if changed is None else changed.state) == state


# --- data requests ----------------------------------------------------------------------------------------------------


async def test_a_new_job_of_a_described_data_request_takes_no_call() -> None:
    api = CannedApi([[make()]])

    found = await look(api)

    assert api.asked == ["page 1"]
    assert (found.new_requests, dict(found.requests)) == ((), {REQUEST_ID: DESCRIBED})


async def test_a_new_data_request_is_read_and_returned_with_its_document() -> None:
    document = make_delta_request(description="Nightly")
    api = CannedApi([[make()]], requests=[document])

    found = await look(api, requests=())

    ((recorded, kept),) = found.new_requests
    assert (recorded.description, recorded.slug, recorded.is_delta) == ("Nightly", "nightly-ce9bc188", True)
    assert kept == recorded.document == document
    assert found.requests == {REQUEST_ID: recorded}
    assert found.unread_requests == {}


@pytest.mark.parametrize("job", [make(), make(completion_status="failed")])
async def test_a_data_request_that_is_refused_is_recorded_without_a_description(job: Job) -> None:
    found = await look(CannedApi([[job]], failing={f"request {REQUEST_ID}": AccessRefused("no")}), requests=())

    ((recorded, document),) = found.new_requests
    assert (recorded.is_described, document, found.unread_requests) == (False, None, {})


async def test_a_data_request_with_only_jobs_that_are_too_old_is_recorded_if_the_list_has_it() -> None:
    listed = CannedApi([[make(LIFE)]], requests=[make_request()])
    unlisted = CannedApi([[make(LIFE)]])

    assert [document for _, document in (await look(listed, requests=())).new_requests] == [make_request()]
    assert (await look(unlisted, requests=())).new_requests == ()
    assert listed.asked == unlisted.asked == ["page 1", "requests"]


async def test_one_job_that_can_be_mirrored_is_enough_for_a_call() -> None:
    jobs = [make(), make(LIFE, id=JobId("old"))]
    api = CannedApi([jobs], requests=[make_request()])

    await look(api, requests=())

    assert api.asked == ["page 1", f"request {REQUEST_ID}"]


@pytest.mark.parametrize(
    ("state", "age", "is_read"),
    [
        (JobState.SEEN, timedelta(hours=23), True),
        (JobState.FAILED, timedelta(hours=23), True),
        (JobState.SEEN, DAY, False),
        (JobState.PUBLISHED, timedelta(hours=23), False),
        (JobState.SEEN, None, True),
    ],
)
async def test_a_data_request_is_read_again_for_a_day_while_a_job_waits_for_it(
    state: JobState, age: timedelta | None, *, is_read: bool
) -> None:
    first_seen_at = None if age is None else NOON - age
    api = CannedApi([[make()]], requests=[make_request()])

    found = await look(api, make_known(make(), state), requests=[make_seen(first_seen_at=first_seen_at)])

    assert api.asked[1:] == ([f"request {REQUEST_ID}"] if is_read else [])
    assert [recorded.is_described for recorded, _ in found.new_requests] == [True] * is_read


@pytest.mark.parametrize(
    ("names", "unread", "is_read"),
    [
        (("My *",), {REQUEST_ID}, True),
        (("My *",), set(), False),
        ((REQUEST_ID,), {REQUEST_ID}, False),
        ((), {REQUEST_ID}, False),
    ],
)
async def test_after_a_day_it_is_read_again_only_if_its_description_decides(
    names: tuple[str, ...], unread: set[RequestId], *, is_read: bool
) -> None:
    api = CannedApi([[make()]], requests=[make_request()])
    long_known = make_seen(first_seen_at=NOON - 2 * DAY)

    await look(
        api,
        make_known(make(), JobState.SEEN),
        requests=[long_known],
        before=PollBefore(unread_requests=unread),
        names=names,
    )

    assert (f"request {REQUEST_ID}" in api.asked) is is_read


@pytest.mark.parametrize(
    ("folder", "slug"),
    [(None, "my-company-data-extract-ce9bc188"), ("acme/ce9bc188/2026", "ce9bc188")],
)
async def test_a_folder_keeps_the_name_that_it_has_when_the_description_comes(folder: str | None, slug: str) -> None:
    api = CannedApi([[make()]], requests=[make_request()])

    found = await look(api, make_known(make(), JobState.SEEN, folder=folder), requests=[make_seen()])

    assert [recorded.slug for recorded, _ in found.new_requests] == [slug]


# --- what could not be read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "first_seen", "waits"),
    [
        ((), timedelta(hours=23), True),
        ((), DAY, False),
        ((REQUEST_ID,), timedelta(hours=23), True),
        ((REQUEST_ID, "My *"), DAY, False),
        (("My *",), DAY, True),  # the pattern may match its description
        (("another",), timedelta(hours=1), False),  # a data request that is known by its ID
    ],
)
async def test_the_jobs_of_a_data_request_that_cannot_be_read_wait_as_long_as_it_may_help(
    names: tuple[str, ...], first_seen: timedelta, *, waits: bool
) -> None:
    api = CannedApi([[make()]], failing={f"request {REQUEST_ID}": DOWN})
    seen = [make_seen(first_seen_at=NOON - first_seen), replace(DESCRIBED, id=RequestId("another"))]

    found = await look(api, requests=seen, names=names)

    assert found.unread_requests == ({REQUEST_ID: DOWN} if waits else {})


async def test_entries_that_cannot_be_used_count_once_and_while_autodesk_may_have_their_extract() -> None:
    young, undated = BadEntry(problem="x", dated_at=NOON - LIFE + DAY), BadEntry(problem="x")
    old = BadEntry(problem="x", dated_at=NOON - LIFE)

    found = await look(CannedApi([[make(), young, undated, old], [make(id=JobId("b")), young]]))

    assert found.unusable == (young, undated)


async def test_projects_that_cannot_be_read_and_lists_without_an_end_are_returned() -> None:
    api = CannedApi(
        projects={"ONE": [[make(id=JobId(f"{number}"))] for number in range(11)], "TWO": []},
        failing={"page 1 of TWO": DOWN},
    )

    found = await look(api, before=PollBefore(endless=["ONE"]), projects=("ONE", "TWO"))

    assert (found.endless, found.unread_projects) == (("ONE",), {"TWO": DOWN})
    assert len(found.changed) == 10
