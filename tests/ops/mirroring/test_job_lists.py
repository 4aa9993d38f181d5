"""Job lists are read newest first, until nothing on the next pages can be new."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountId, AccountName, Job, JobId
from dcsync.core.ports import KnownJob
from dcsync.core.wire import BadEntry
from dcsync.errors import AccessRefused, ApiError, ApiFault, ApiUnreachable, BadAnswer, NotFound, RateLimited
from dcsync.ops.context import AccountSettings
from dcsync.ops.mirroring import job_lists
from dcsync.ops.mirroring.job_lists import JobLists, read_job_lists
from tests.fakes import NOON, make_job
from tests.rigs.canned import CannedApi, Page

DOWN = ApiFault("no answer")
DAY = timedelta(days=1)
#: Autodesk keeps an extract for 30 days, and its job may have been created a day before.
LIST_DAYS = 31


def make(name: str, age: timedelta = timedelta(), **changes: Any) -> Job:
    """Return a job that was created and completed that long ago."""
    made = NOON - age
    return make_job(**{"id": JobId(name), "created_at": made, "completed_at": made, **changes})


def pending(name: str, age: timedelta = timedelta(), **changes: Any) -> Job:
    return make(name, age, **{"status": "running", "completion_status": None, "completed_at": None, **changes})


def known(*jobs: Job, state: JobState = JobState.PUBLISHED) -> dict[JobId, KnownJob]:
    return {job.id: KnownJob(job=job, state=state) for job in jobs}


async def read(
    api: CannedApi, *projects: str, known: dict[JobId, KnownJob] | None = None, endless: tuple[str | None, ...] = ()
) -> JobLists:
    account = AccountSettings(name=AccountName("acme"), id=AccountId("a1"), projects=projects)
    return await read_job_lists(api, account, known or {}, NOON, endless=endless)


# --- where a list ends ------------------------------------------------------------------------------------------------


async def test_a_page_of_known_jobs_is_the_last_one() -> None:
    old, older = make("old", DAY), make("older", 2 * DAY)
    api = CannedApi([[make("new"), old], [older], [make("never read", 3 * DAY)]])

    lists = await read(api, known=known(old, older))

    assert api.asked == ["page 1", "page 2"]
    assert list(lists.jobs) == ["new", "old", "older"]
    assert (lists.read, lists.unread, lists.endless, lists.unusable) == ([None], {}, [], [])


@pytest.mark.parametrize(
    ("state", "job", "pages"),
    [
        (JobState.PUBLISHED, make("a", DAY), 1),
        (JobState.WAITING, pending("a", DAY), 2),  # its status may have changed
        (JobState.EMPTY, make("a", DAY, completion_status="success"), 2),  # it had failed, and now it succeeded
        (JobState.EMPTY, make("a", DAY, completion_status="failed"), 1),
    ],
)
async def test_a_known_job_of_which_the_list_may_have_news_does_not_end_it(
    state: JobState, job: Job, pages: int
) -> None:
    api = CannedApi([[job], [make("b", 2 * DAY)]])

    await read(api, known=known(make("b", 2 * DAY)) | known(job, state=state))

    assert len(api.asked) == pages


@pytest.mark.parametrize(
    ("age", "pages"),
    [(LIST_DAYS * DAY, 3), (LIST_DAYS * DAY + timedelta(microseconds=1), 2)],
)
async def test_a_list_is_not_read_beyond_what_can_still_have_an_extract(age: timedelta, pages: int) -> None:
    """A job that was created a day before the 30 days may have been completed within them."""
    api = CannedApi([[make("new")], [make("x"), make("old", age, completed_at=NOON)], [make("older", 99 * DAY)]])

    await read(api)

    assert len(api.asked) == pages


async def test_a_page_of_jobs_that_were_always_too_old_is_the_last_one() -> None:
    # Created within the 31 days, and more than 30 days ago.
    old = [make("a", 30 * DAY), make("b", 30 * DAY + timedelta(hours=1))]
    api = CannedApi([old, [make("c", 30 * DAY + timedelta(hours=2))]])

    await read(api)

    assert api.asked == ["page 1"]


@pytest.mark.parametrize(
    "page",
    [
        [make("older", 31 * DAY), make("old", 30 * DAY)],  # oldest first: the newest jobs follow
        [make("same", 30 * DAY), make("as the first", 30 * DAY)],
        [make("dated", 30 * DAY), make("b", 40 * DAY, created_at=None), make("c", 41 * DAY)],
        [make("a", 40 * DAY, created_at=None)],
    ],
    ids=["oldest first", "all of one time", "one without a date", "alone and without a date"],
)
async def test_old_jobs_end_only_a_list_that_is_in_order(page: Page) -> None:
    api = CannedApi([page, [make("new")], []])

    lists = await read(api)

    assert "new" in lists.jobs


async def test_one_old_job_alone_on_its_page_ends_the_list() -> None:
    api = CannedApi([[make("a", 32 * DAY, completed_at=NOON)], [make("b", 33 * DAY)]])

    await read(api)

    assert api.asked == ["page 1"]


@pytest.mark.parametrize("second", [timedelta(), 10 * DAY, 40 * DAY])
async def test_the_last_of_a_page_says_how_old_it_is(second: timedelta) -> None:
    page = [make("a"), make("b", second), make("c", 40 * DAY)]
    api = CannedApi([page, [make("d", 41 * DAY)]])

    await read(api)

    assert api.asked == ["page 1"]


# --- jobs that wait ---------------------------------------------------------------------------------------------------


def list_to_search(*jobs: Job) -> CannedApi:
    """Return an API whose first page has only known jobs of the last two days. `jobs` are on the second page."""
    return CannedApi([[make("x"), make("y", 2 * DAY)], list(jobs), [make("z", 9 * DAY)], [make("zz", 10 * DAY)]])


SEEN = known(make("x"), make("y", 2 * DAY), make("z", 9 * DAY), make("zz", 10 * DAY))


@pytest.mark.parametrize(
    ("waiting", "is_found"),
    [
        (pending("w", 3 * DAY), True),
        (pending("w", DAY), False),  # it would be on the first page
        (pending("w", 2 * DAY), True),  # created at the same time as the last one on the first page
        (pending("w", created_at=None), True),  # it may be anywhere
        (pending("w", LIST_DAYS * DAY), False),  # it can no longer bring an extract
        (pending("w", LIST_DAYS * DAY - timedelta(microseconds=1)), True),
    ],
)
async def test_a_list_is_read_as_far_as_a_waiting_job_may_be(waiting: Job, *, is_found: bool) -> None:
    api = list_to_search(make("w", 3 * DAY))

    lists = await read(api, known=SEEN | known(waiting, state=JobState.WAITING))

    assert ("w" in lists.jobs) is is_found


@pytest.mark.parametrize("created_at", [NOON - 3 * DAY, None])
async def test_a_list_is_read_no_further_than_to_the_waiting_job(created_at: datetime | None) -> None:
    waiting = known(pending("w", created_at=created_at), state=JobState.WAITING)
    api = list_to_search(make("p", 3 * DAY), make("w", 4 * DAY))

    await read(api, known=SEEN | known(make("p", 3 * DAY)) | waiting)

    # The page with the waiting job has news, so one more page is read.
    assert api.asked == ["page 1", "page 2", "page 3"]


async def test_a_waiting_job_that_no_page_has_is_looked_for_until_its_date() -> None:
    waiting = known(pending("w", 5 * DAY), state=JobState.WAITING)
    api = list_to_search(make("p", 4 * DAY))

    lists = await read(api, known=SEEN | known(make("p", 4 * DAY)) | waiting)

    assert api.asked == ["page 1", "page 2", "page 3"]
    assert "w" not in lists.jobs


async def test_a_page_out_of_order_does_not_say_that_a_waiting_job_is_no_longer_listed() -> None:
    waiting = known(pending("w", DAY), state=JobState.WAITING)
    mixed = [make("y", 2 * DAY), make("x")]
    api = CannedApi([mixed, [make("w", DAY)]])

    lists = await read(api, known=SEEN | waiting)

    assert "w" in lists.jobs


@pytest.mark.parametrize(("project", "pages"), [("ONE", 2), ("TWO", 1), (None, 1)])
async def test_a_waiting_job_is_looked_for_only_in_the_list_of_its_project(project: str | None, pages: int) -> None:
    waiting = known(pending("w", 3 * DAY, project_id=project), state=JobState.WAITING)
    api = CannedApi(projects={"ONE": [[make("x")], [make("y", 4 * DAY)]]})

    await read(api, "ONE", known=known(make("x"), make("y", 4 * DAY)) | waiting)

    assert len(api.asked) == pages


async def test_a_waiting_job_of_several_projects_is_looked_for_in_the_list_of_each() -> None:
    waiting = known(pending("w", 3 * DAY, project_ids=("TWO", "ONE")), state=JobState.WAITING)
    api = CannedApi(projects={"ONE": [[make("x")], [make("y", 4 * DAY)]]})

    await read(api, "ONE", known=known(make("x"), make("y", 4 * DAY)) | waiting)

    assert len(api.asked) == 2


async def test_the_list_of_the_whole_account_has_the_jobs_of_all_projects() -> None:
    waiting = known(pending("w", 3 * DAY, project_id="ONE"), state=JobState.WAITING)
    api = list_to_search(make("w", 3 * DAY))

    lists = await read(api, known=SEEN | waiting)

    assert "w" in lists.jobs


# --- lists without an end ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("endless", "most"), [((), 200), ((None,), 10), (("ONE",), 200)])
async def test_a_list_without_an_end_is_left_after_fewer_pages_the_next_time(
    endless: tuple[str | None, ...], most: int
) -> None:
    api = CannedApi([[make(f"{number}")] for number in range(300)])

    lists = await read(api, endless=endless)

    assert (len(api.asked), lists.endless) == (most, [None])
    assert len(lists.jobs) == most


async def test_entries_that_cannot_be_used_are_kept_from_all_lists() -> None:
    bad = [BadEntry(problem="no id"), BadEntry(problem="no date")]
    api = CannedApi(projects={"ONE": [[bad[0], make("a")]], "TWO": [[make("b"), bad[1]]]})

    lists = await read(api, "ONE", "TWO")

    assert lists.unusable == bad
    assert list(lists.jobs) == ["a", "b"]


# --- projects ---------------------------------------------------------------------------------------------------------


def projects(*names: str, **errors: ApiError) -> CannedApi:
    """Return an API with a job in each project. Those with an error answer nothing but this error."""
    failing: dict[str, Any] = {}
    for name, error in errors.items():
        failing |= {f"page 1 of {name}": error, f"probe {name}": error}
    return CannedApi(projects={name: [[make(f"job of {name}")]] for name in names}, failing=failing)


async def test_each_project_is_read_once_and_in_the_order_of_the_configuration() -> None:
    api = projects("TWO", "ONE")

    lists = await read(api, "TWO", "ONE", "TWO")

    assert api.asked == ["page 1 of TWO", "page 1 of ONE"]
    assert lists.read == ["TWO", "ONE"]


@pytest.mark.parametrize("error", [AccessRefused("no"), NotFound("no"), BadAnswer("no", status=200), DOWN])
async def test_a_project_that_cannot_be_read_stops_no_other_one(error: ApiError) -> None:
    lists = await read(projects("ONE", "TWO", "THREE", TWO=error), "ONE", "TWO", "THREE")

    assert (lists.read, lists.unread) == (["ONE", "THREE"], {"TWO": error})
    assert list(lists.jobs) == ["job of ONE", "job of THREE"]


async def test_the_pages_before_the_error_of_a_project_do_not_count() -> None:
    entries: list[Page] = [[make("a"), BadEntry(problem="no id")], [make("b")]]
    api = CannedApi(projects={"ONE": entries, "TWO": [[make("c")]]}, failing={"page 2 of ONE": DOWN})

    lists = await read(api, "ONE", "TWO")

    assert (list(lists.jobs), lists.unusable, lists.read) == (["c"], [], ["TWO"])


@pytest.mark.parametrize("error", [AccessRefused("no"), DOWN, BadAnswer("html", status=200)])
async def test_the_error_of_the_list_of_the_whole_account_is_raised(error: ApiError) -> None:
    with pytest.raises(type(error)):
        await read(CannedApi(failing={"page 1": error}))


async def test_a_project_that_cannot_be_read_is_logged() -> None:
    with capture_logs() as lines:
        await read(projects("ONE", "TWO", TWO=AccessRefused("no")), "ONE", "TWO")

    (line,) = lines
    assert (line["log_level"], line["project"], line["code"], line["error"]) == ("warning", "TWO", "A-DENIED", "no")


async def test_if_no_project_can_be_read_the_first_error_is_raised() -> None:
    api = projects("ONE", "TWO", ONE=AccessRefused("first"), TWO=NotFound("second"))

    with pytest.raises(AccessRefused, match="first"):
        await read(api, "ONE", "TWO", "ONE")


async def test_a_rate_limit_ends_the_poll_at_once() -> None:
    api = projects("ONE", "TWO", ONE=RateLimited("wait"))

    with pytest.raises(RateLimited):
        await read(api, "ONE", "TWO")

    assert api.asked == ["page 1 of ONE"]


FIVE = ("ONE", "TWO", "THREE", "FOUR", "FIVE")


@pytest.mark.parametrize("error", [DOWN, ApiUnreachable("no route")])
async def test_two_silent_projects_in_a_row_and_three_silent_others_are_an_outage(error: ApiError) -> None:
    names = (*FIVE, "SIX")
    api = projects(*names, **dict.fromkeys(FIVE, error))

    with pytest.raises(type(error)):
        await read(api, *names)

    # The sixth would have answered: an outage is not met project by project.
    assert api.asked == ["page 1 of ONE", "page 1 of TWO", "probe THREE", "probe FOUR", "probe FIVE"]


@pytest.mark.parametrize("error", [None, AccessRefused("no")])
async def test_one_other_project_that_is_answered_is_no_outage(error: ApiError | None) -> None:
    errors = dict.fromkeys(("ONE", "TWO", "THREE"), DOWN) | ({} if error is None else {"FOUR": error})
    api = projects(*FIVE, **errors)

    lists = await read(api, *FIVE)

    assert lists.unread == errors
    assert api.asked[:4] == ["page 1 of ONE", "page 1 of TWO", "probe THREE", "probe FOUR"]
    assert "probe FIVE" not in api.asked


async def test_a_project_that_answers_with_html_does_not_make_two_silent_ones_an_outage() -> None:
    """A sign-in page is no answer of the API. The project after it may have one."""
    errors: dict[str, ApiError] = {"ONE": DOWN, "TWO": DOWN, "THREE": BadAnswer("html", status=200)}
    api = projects(*FIVE, **errors)

    lists = await read(api, *FIVE)

    assert lists.read == ["FOUR", "FIVE"]


async def test_projects_that_were_not_asked_yet_are_asked_first() -> None:
    api = projects(*FIVE, THREE=DOWN, FOUR=DOWN)

    lists = await read(api, *FIVE)

    assert api.asked[4] == "probe FIVE"
    assert lists.read == ["ONE", "TWO", "FIVE"]


async def test_the_last_two_projects_are_no_outage_if_the_first_one_still_answers() -> None:
    api = projects("ONE", "TWO", "THREE", TWO=DOWN, THREE=DOWN)

    lists = await read(api, "ONE", "TWO", "THREE")

    assert api.asked[3:] == ["probe ONE"]
    assert lists.read == ["ONE"]


@pytest.mark.parametrize("between", [None, AccessRefused("no")], ids=["read", "refused"])
async def test_silent_projects_that_are_not_in_a_row_are_no_outage(between: ApiError | None) -> None:
    errors = {"ONE": DOWN, "THREE": DOWN} | ({} if between is None else {"TWO": between})
    api = projects("ONE", "TWO", "THREE", "FOUR", **errors)

    lists = await read(api, "ONE", "TWO", "THREE", "FOUR")

    assert not [call for call in api.asked if call.startswith("probe")]
    assert "FOUR" in lists.read


async def test_silent_projects_after_a_refused_one_count_from_the_first() -> None:
    api = projects(*FIVE, ONE=AccessRefused("no"), TWO=DOWN, THREE=DOWN)

    await read(api, *FIVE)

    assert api.asked[3] == "probe FOUR"


async def test_refused_projects_in_a_row_are_no_outage() -> None:
    api = projects("ONE", "TWO", "THREE", ONE=NotFound("no"), TWO=AccessRefused("no"))

    lists = await read(api, "ONE", "TWO", "THREE")

    assert api.asked == ["page 1 of ONE", "page 1 of TWO", "page 1 of THREE"]
    assert lists.read == ["THREE"]


def test_a_list_that_was_left_once_shows_at_least_its_newest_pages() -> None:
    assert 0 < job_lists.MOST_PAGES_AGAIN < job_lists.MOST_PAGES
