"""An outage is told from jobs and projects that do not work, and no part of it is met again and again."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import cast

import pytest

from dcsync.app.from_config import account_settings
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName
from dcsync.errors import (
    AccessRefused,
    ApiError,
    ApiFault,
    ApiUnreachable,
    BadAnswer,
    DcsyncError,
    DiskDenied,
    DiskFull,
    RateLimited,
    SizeMismatch,
)
from dcsync.mirror.root import MirrorRoot
from dcsync.ops.mirroring.outage import OutageWatch
from dcsync.ops.mirroring.run import mirror_job, poll_account
from dcsync.ops.observed import Observations
from dcsync.sandbox import Fault
from tests.rigs.canned import CannedApi
from tests.rigs.mirror import Mirror, add_extract, tables
from tests.rigs.outcomes import published
from tests.rigs.publishing import Workbench

ONE, TWO, THREE = (f"{number}0000000-0000-4000-8000-000000000000" for number in (1, 2, 3))


@pytest.fixture
def projects(mirror: Mirror) -> dict[str, str]:
    """A data request in each of three projects, all configured. Returns their jobs."""
    configure(mirror, ONE, TWO, THREE)
    jobs = {}
    for number, project in enumerate((ONE, TWO, THREE)):
        request = mirror.world.add_request(f"Project {number}", schedule="ONE_TIME", project_id=project)
        jobs[project] = add_extract(mirror, tables(1, seed=number), request=request)
    return jobs


def configure(mirror: Mirror, *projects: str) -> None:
    mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id, "projects": list(projects)}]


def fail(mirror: Mirror, match: str = "", status: int = 500, skip: int = 0, body: bytes = b"") -> None:
    mirror.sandbox.faults.add(
        Fault(server="api", kind="status", status=status, match=match, times=None, skip=skip, body=body)
    )


def add_jobs(mirror: Mirror, count: int, *, request: str | None = None) -> list[str]:
    """Add jobs, oldest first."""
    return [add_extract(mirror, tables(1, seed=day), request=request, days_ago=count - day) for day in range(count)]


async def test_two_broken_jobs_are_no_outage_if_the_first_project_is_broken_too(
    mirror: Mirror, projects: dict[str, str]
) -> None:
    """It was the project whose list dcsync asked for, and the account stopped."""
    request = next(entry for entry in mirror.world.requests.values() if entry.project_id == TWO).id
    broken = add_jobs(mirror, 2, request=request)
    fail(mirror, f"projectId={ONE}")
    for job in broken:
        fail(mirror, job)

    outcome = await mirror.sync_one()

    assert outcome.error is None
    assert [failed.job for failed in outcome.failed] == broken
    assert sorted(published(outcome)) == sorted([projects[TWO], projects[THREE]])


@pytest.mark.parametrize("broken", [(ONE, TWO), (TWO, THREE)])
async def test_two_broken_projects_in_a_row_stop_no_other(
    mirror: Mirror, projects: dict[str, str], broken: tuple[str, str]
) -> None:
    """They stopped the account for good."""
    for project in broken:
        fail(mirror, f"projectId={project}")

    outcome = await mirror.sync_one()

    assert outcome.error is None
    assert {part.subject for part in outcome.broken if part.code == "L-PROJECT"} == set(broken)
    assert published(outcome) == [job for project, job in projects.items() if project not in broken]


async def test_a_broken_project_that_is_configured_twice_stops_no_other(
    mirror: Mirror, projects: dict[str, str]
) -> None:
    configure(mirror, ONE, ONE, TWO)
    fail(mirror, f"projectId={ONE}")

    outcome = await mirror.sync_one()

    assert (outcome.error, published(outcome)) == (None, [projects[TWO]])


async def test_a_sign_in_page_instead_of_the_api_is_not_met_job_by_job(mirror: Mirror) -> None:
    jobs = add_jobs(mirror, 4)
    # After the list and the data request were read.
    fail(mirror, status=200, body=b"<html>Sign in", skip=2)

    outcome = await mirror.sync_one()

    assert isinstance(outcome.error, BadAnswer)
    assert [failed.job for failed in outcome.failed] == jobs[:1]


async def test_two_jobs_that_answer_with_html_are_no_outage(mirror: Mirror) -> None:
    jobs = add_jobs(mirror, 3)
    for job in jobs[:2]:
        fail(mirror, job, status=200, body=b"<html>Error")

    outcome = await mirror.sync_one()

    assert (outcome.error, published(outcome)) == (None, jobs[2:])
    # The jobs have a back-off of their own from now on.
    calls = mirror.sandbox.count("api", path_contains=jobs[0])
    mirror.clock.advance(3600)
    await mirror.sync_one()
    assert mirror.sandbox.count("api", path_contains=jobs[0]) == calls + 1


async def test_a_rate_limit_that_the_check_meets_ends_the_run(mirror: Mirror) -> None:
    jobs = add_jobs(mirror, 3)
    for job in jobs[:2]:
        fail(mirror, job)
    fail(mirror, r"/jobs\?", status=429, skip=1)

    outcome = await mirror.sync_one()

    assert isinstance(outcome.error, RateLimited)
    assert [failed.job for failed in outcome.failed] == jobs[:1]


async def test_on_several_hosts_an_outage_fails_one_job_as_on_one_host(mirror: Mirror) -> None:
    """Each job has a run of its own there, and each was marked as failed."""
    jobs = add_jobs(mirror, 4)
    (account,) = account_settings(mirror.configuration())
    async with mirror.opened() as context:
        _, due = await poll_account(context, account)
        assert [known.job.id for known in due] == jobs
        fail(mirror, status=503)
        outcomes = [await mirror_job(context, account, known.job.id) for known in due]

    assert [isinstance(outcome.error, ApiFault) for outcome in outcomes] == [False, True, True, True]
    assert [outcome.failed != [] for outcome in outcomes] == [True, False, False, False]
    assert list((await mirror.states()).values()).count(JobState.FAILED) == 1


async def test_an_outage_is_not_met_data_request_by_data_request(mirror: Mirror) -> None:
    """Each of them waited for a minute."""
    jobs = []
    for number in range(8):
        request = mirror.world.add_request(f"Request {number}", schedule="ONE_TIME")
        jobs.append(add_extract(mirror, tables(1, seed=number), request=request))
    # After the list of the jobs was read.
    fail(mirror, status=503, skip=1)
    began = mirror.clock.now()

    outcome = await mirror.sync_one()

    assert (published(outcome), len(outcome.broken)) == ([], 8)
    assert mirror.clock.now() - began < timedelta(minutes=3)
    mirror.sandbox.faults.clear()
    mirror.clock.advance(60)
    assert sorted(published(await mirror.sync_one())) == sorted(jobs)


# --- when the list is asked for ---------------------------------------------------------------------------------------

DOWN = ApiFault("no answer")
SILENT: list[ApiError] = [DOWN, ApiUnreachable("no route"), BadAnswer("html", status=200)]


class Unwritable:
    """A root that refuses every write."""

    def check_writable(self) -> None:
        message = "read-only"
        raise DiskDenied(message)


def watch(
    bench: Workbench,
    *,
    projects: tuple[str, ...] = (),
    is_writable: bool = True,
    dry_run: bool = False,
    **failing: DcsyncError,
) -> tuple[OutageWatch, CannedApi]:
    """Return a watch, and the API that it asks: `probe` names the error of its list."""
    api = CannedApi(failing=dict(failing))
    root = bench.context.root if is_writable else cast("MirrorRoot", Unwritable())
    context, account = replace(bench.context, api=api, root=root), replace(bench.account, projects=projects)
    return OutageWatch(context, account, dry_run=dry_run), api


@pytest.mark.parametrize("error", SILENT)
async def test_the_list_is_asked_for_after_every_second_silent_job(bench: Workbench, error: ApiError) -> None:
    watched, api = watch(bench)
    asked = []

    for _ in range(4):
        await watched.check(error)
        asked.append(len(api.asked))

    assert asked == [0, 1, 1, 2]
    assert api.asked == ["probe", "probe"]


@pytest.mark.parametrize("error", [*SILENT, RateLimited("wait")])
async def test_the_error_of_the_list_is_raised(bench: Workbench, error: ApiError) -> None:
    watched, _ = watch(bench, probe=error)
    await watched.check(DOWN)

    with pytest.raises(type(error)):
        await watched.check(DOWN)


async def test_a_refused_list_is_an_answer(bench: Workbench) -> None:
    watched, api = watch(bench, probe=AccessRefused("no"))

    await watched.check(DOWN)
    await watched.check(DOWN)

    assert api.asked == ["probe"]


@pytest.mark.parametrize("between", [None, AccessRefused("no"), SizeMismatch("short")])
async def test_jobs_count_only_in_a_row(bench: Workbench, between: DcsyncError | None) -> None:
    watched, api = watch(bench, probe=DOWN)

    for _ in range(3):
        await watched.check(DOWN)
        if between is None:
            watched.note_success()
        else:
            await watched.check(between)

    assert api.asked == []


async def test_the_jobs_of_another_account_do_not_count(bench: Workbench) -> None:
    watched, api = watch(bench, probe=DOWN)
    other = OutageWatch(bench.context, replace(bench.account, name=AccountName("other")), dry_run=False)

    await other.check(DOWN)
    await watched.check(DOWN)
    other.note_success()

    assert api.asked == []
    with pytest.raises(ApiFault):
        await watched.check(DOWN)


@pytest.mark.parametrize(
    ("unread", "asked"), [((), "probe ONE"), (("ONE",), "probe TWO"), (("ONE", "TWO"), "probe ONE")]
)
async def test_the_first_project_that_could_be_read_is_asked_for(
    bench: Workbench, unread: tuple[str, ...], asked: str
) -> None:
    await Observations(bench.context.manifest, bench.account.name).save_unread_since(dict.fromkeys(unread))
    watched, api = watch(bench, projects=("ONE", "TWO"))

    await watched.check(DOWN)
    await watched.check(DOWN)

    assert api.asked == [asked]


@pytest.mark.parametrize(
    ("error", "is_writable", "dry_run", "is_raised"),
    [
        (DiskFull("full"), False, False, True),
        (DiskFull("full"), True, False, False),
        (DiskFull("full"), False, True, False),
        (SizeMismatch("short"), False, False, False),
    ],
)
async def test_only_a_mirror_that_takes_no_file_at_all_stops_the_account(
    bench: Workbench, error: DcsyncError, *, is_writable: bool, dry_run: bool, is_raised: bool
) -> None:
    watched, _ = watch(bench, is_writable=is_writable, dry_run=dry_run)

    with pytest.raises(DiskDenied) if is_raised else nullcontext():
        await watched.check(error)
