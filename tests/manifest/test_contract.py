"""What every manifest promises about accounts, polls, jobs and concurrency: one suite for each database."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dcsync.core.lifecycle import OPEN, JobState, may_go
from dcsync.core.model import AccountName, JobId
from dcsync.core.ports import AccountFacts, KnownJob
from dcsync.errors import DcsyncError, IllegalTransition, ManifestCorrupt
from dcsync.manifest import SqlManifest
from dcsync.manifest.schema import job as job_table
from tests.fakes import (
    JOB_ID,
    NOON,
    REQUEST_ID,
    FakeClock,
    make_job,
    make_request,
    make_stored,
)
from tests.rigs.counted import counting_statements
from tests.rigs.manifests import (
    ACME,
    BETA,
    LATER,
    Opener,
    S,
    files_of,
    know,
    make_known_request,
    make_publication,
    state_of,
)

# --- a new one --------------------------------------------------------------------------------------------------------


async def test_a_new_manifest_knows_nothing(manifest: SqlManifest) -> None:
    assert await manifest.facts(ACME) == AccountFacts()
    assert await manifest.jobs(ACME) == {}
    assert await manifest.requests(ACME) == {}
    assert await manifest.snapshot_before(ACME, REQUEST_ID, None) is None
    assert await manifest.newest_snapshot(ACME, REQUEST_ID) is None
    assert await manifest.published_folders(ACME) == {}
    assert await manifest.newest_folder(ACME) is None
    assert await manifest.one_of_each_request(ACME) == []
    assert await manifest.folder_taken_by("acme/x/2026") is None


FULL_FACTS = AccountFacts(
    last_poll_at=NOON,
    last_success_at=LATER,
    conditional_works=False,
    etag_is_md5=True,
    bytes_per_second=1234567.875,
    error_code="A-NETWORK",
    error="no answer: \u201cé\u201d",
)


# --- accounts ---------------------------------------------------------------------------------------------------------


async def test_what_was_learnt_is_known_to_the_microsecond(manifest: SqlManifest) -> None:
    await manifest.learn(ACME, FULL_FACTS)

    assert await manifest.facts(ACME) == FULL_FACTS
    assert await manifest.facts(BETA) == AccountFacts()


async def test_what_is_learnt_later_replaces_all_of_it(manifest: SqlManifest) -> None:
    await manifest.learn(ACME, FULL_FACTS)

    await manifest.learn(ACME, AccountFacts(conditional_works=True))

    assert await manifest.facts(ACME) == AccountFacts(conditional_works=True)


# --- polls ------------------------------------------------------------------------------------------------------------


async def test_a_poll_stores_jobs_and_requests_and_when_it_was(manifest: SqlManifest) -> None:
    job = make_job(progress=100, project_ids=("p1", "p2"), extra={"new": [1, {"x": None}]})
    waiting = make_job(id=JobId("waiting"), status="running", completion_status=None, completed_at=None)
    request = make_known_request()

    await manifest.record_poll(
        ACME,
        jobs=[KnownJob(job=job, state=S.SEEN), KnownJob(job=waiting, state=S.WAITING, reason="not complete")],
        requests=[(request, make_request())],
        at=LATER,
    )

    assert await manifest.jobs(ACME) == {
        JOB_ID: KnownJob(job=job, state=S.SEEN, first_seen_at=LATER),
        "waiting": KnownJob(job=waiting, state=S.WAITING, reason="not complete", first_seen_at=LATER),
    }
    assert await manifest.requests(ACME) == {REQUEST_ID: request}
    assert (await manifest.facts(ACME)).last_poll_at == LATER
    assert await manifest.jobs(BETA) == {}
    assert await manifest.requests(BETA) == {}


async def test_a_later_poll_brings_what_is_new_and_keeps_what_was_fixed_at_first_sight(manifest: SqlManifest) -> None:
    running = make_job(status="running", completion_status=None, completed_at=None)
    await manifest.record_poll(
        ACME,
        jobs=[KnownJob(job=running, state=S.WAITING)],
        requests=[(make_known_request(), make_request())],
        at=NOON,
    )

    changes = make_request(service_groups=("cdcissues",), date_range="YESTERDAY")
    renamed = make_known_request(description="Renamed", slug="renamed", is_delta=True)
    await manifest.record_poll(
        ACME, jobs=[KnownJob(job=make_job(), state=S.SEEN)], requests=[(renamed, changes)], at=LATER
    )

    assert await manifest.jobs(ACME) == {JOB_ID: KnownJob(job=make_job(), state=S.SEEN, first_seen_at=NOON)}
    assert await manifest.requests(ACME) == {REQUEST_ID: replace(renamed, slug="my-extract")}
    assert (await manifest.facts(ACME)).last_poll_at == LATER


async def test_a_request_that_could_not_be_read_is_known_as_such_until_it_can(manifest: SqlManifest) -> None:
    unread = make_known_request(description="", slug="request-1", is_described=False)
    await manifest.record_poll(ACME, jobs=[], requests=[(unread, None)], at=NOON)
    assert await manifest.requests(ACME) == {REQUEST_ID: unread}

    # An empty description is one. Its folder may get another name until it is described.
    read = make_known_request(description="", slug="later")
    await manifest.record_poll(ACME, jobs=[], requests=[(read, make_request(description=""))], at=LATER)

    assert await manifest.requests(ACME) == {REQUEST_ID: read}


async def test_a_poll_does_not_forget_the_tries_of_a_job(manifest: SqlManifest) -> None:
    await know(manifest)
    await manifest.move(ACME, JOB_ID, S.FAILED, at=NOON, attempts=2, next_try_at=LATER, reason_code="F-SPACE")

    await know(manifest, state=S.FAILED)

    known = (await manifest.jobs(ACME))[JOB_ID]
    assert (known.attempts, known.next_try_at, known.reason_code) == (2, LATER, "F-SPACE")


async def test_a_poll_with_one_wrong_entry_changes_nothing_at_all(manifest: SqlManifest) -> None:
    await know(manifest, "a", state=S.PRUNED)
    facts = await manifest.facts(ACME)
    jobs = await manifest.jobs(ACME)

    with pytest.raises(IllegalTransition, match="a cannot go from pruned to staging"):
        await manifest.record_poll(
            ACME,
            jobs=[
                KnownJob(job=make_job(id=JobId("new")), state=S.SEEN),
                KnownJob(job=make_job(id=JobId("a")), state=S.STAGING),
            ],
            requests=[(make_known_request(), None)],
            at=LATER,
        )

    assert await manifest.jobs(ACME) == jobs
    assert await manifest.requests(ACME) == {}
    assert await manifest.facts(ACME) == facts


async def test_one_job_and_those_in_some_states_are_as_they_are_among_all(manifest: SqlManifest) -> None:
    for number, state in enumerate(S):
        await know(manifest, f"job-{number}", state=state)
    await know(manifest, "job-0", state=S.FAILED, account=BETA)
    jobs = await manifest.jobs(ACME)

    assert len(jobs) == len(S)
    for job, known in jobs.items():
        assert await manifest.job(ACME, job) == known
        assert await manifest.jobs(ACME, states={known.state}) == {job: known}
    assert await manifest.jobs(ACME, states=OPEN) == {job: one for job, one in jobs.items() if one.state in OPEN}
    assert await manifest.jobs(ACME, states=()) == {}
    assert await manifest.job(ACME, JobId("nobody's")) is None
    assert await manifest.job(BETA, JobId("job-1")) is None


async def test_a_poll_keeps_what_else_is_known_of_the_account(manifest: SqlManifest) -> None:
    await manifest.learn(ACME, FULL_FACTS)

    await manifest.record_poll(ACME, jobs=[], requests=[], at=LATER)

    assert await manifest.facts(ACME) == replace(FULL_FACTS, last_poll_at=LATER)


async def test_two_accounts_may_know_the_same_job(manifest: SqlManifest) -> None:
    await know(manifest)
    await know(manifest, account=BETA, state=S.EMPTY)

    await manifest.move(ACME, JOB_ID, S.LISTED, at=NOON)

    assert await state_of(manifest) is S.LISTED
    assert (await manifest.jobs(BETA))[JOB_ID].state is S.EMPTY


# --- moving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("current", list(JobState))
async def test_a_job_goes_where_the_table_leads_and_nowhere_else(manifest: SqlManifest, current: JobState) -> None:
    await know(manifest, *[new.value for new in JobState], state=current)

    went = set()
    for new in JobState:
        with contextlib.suppress(IllegalTransition):
            await manifest.move(ACME, JobId(new.value), new, at=LATER)
            went.add(new)

    assert went == {new for new in JobState if may_go(current, new)}
    for job, known in (await manifest.jobs(ACME)).items():
        assert known.state is (JobState(job) if JobState(job) in went else current)


async def test_an_illegal_move_changes_nothing(manifest: SqlManifest) -> None:
    await know(manifest, state=S.EMPTY)
    before = await manifest.jobs(ACME)

    with pytest.raises(IllegalTransition):
        await manifest.move(
            ACME, JOB_ID, S.PUBLISHED, at=LATER, attempts=7, next_try_at=LATER, reason="x", folder="acme/x"
        )

    assert await manifest.jobs(ACME) == before
    assert await manifest.folder_taken_by("acme/x") is None


@pytest.mark.parametrize(("account", "job"), [(ACME, "unknown"), (BETA, JOB_ID)])
async def test_a_job_that_is_not_known_cannot_be_moved_or_published(
    manifest: SqlManifest, account: AccountName, job: str
) -> None:
    await know(manifest)

    with pytest.raises(IllegalTransition, match="is not in the manifest"):
        await manifest.move(account, JobId(job), S.LISTED, at=NOON)
    with pytest.raises(IllegalTransition, match="is not in the manifest"):
        await manifest.publish(account, *make_publication(JobId(job)))

    assert await state_of(manifest) is S.SEEN


async def test_a_move_says_why_and_when_it_is_tried_again(manifest: SqlManifest) -> None:
    await know(manifest)

    await manifest.move(
        ACME, JOB_ID, S.FAILED, at=NOON, attempts=2, next_try_at=LATER, reason_code="F-SPACE", reason="disk full"
    )

    assert (await manifest.jobs(ACME))[JOB_ID] == KnownJob(
        job=make_job(),
        state=S.FAILED,
        attempts=2,
        next_try_at=LATER,
        reason_code="F-SPACE",
        reason="disk full",
        first_seen_at=NOON,
    )


async def test_a_move_clears_the_old_reason_and_keeps_tries_and_folder(manifest: SqlManifest) -> None:
    await know(manifest)
    await manifest.move(
        ACME, JOB_ID, S.FAILED, at=NOON, attempts=2, next_try_at=LATER, reason_code="X", reason="x", folder="acme/x"
    )

    await manifest.move(ACME, JOB_ID, S.LISTED, at=LATER)

    known = (await manifest.jobs(ACME))[JOB_ID]
    assert (known.attempts, known.folder) == (2, "acme/x")
    assert (known.next_try_at, known.reason_code, known.reason) == (None, None, None)


async def test_a_folder_is_taken_from_its_move_on_and_by_one_job_only(manifest: SqlManifest) -> None:
    await know(manifest, "a", "b")
    await manifest.move(ACME, JobId("a"), S.LISTED, at=NOON, folder="acme/x")

    assert await manifest.folder_taken_by("acme/x") == "a"
    with pytest.raises(DcsyncError):
        await manifest.move(ACME, JobId("b"), S.LISTED, at=NOON, folder="acme/x")

    assert await state_of(manifest, "b") is S.SEEN
    assert (await manifest.jobs(ACME))[JobId("b")].folder is None


# --- durability, cancelling, concurrency ------------------------------------------------------------------------------


async def test_what_was_acknowledged_is_there_for_the_next_one_who_opens_it(opener: Opener, tmp_path: Path) -> None:
    async with opener(tmp_path) as manifest:
        await know(manifest)
        await manifest.publish(ACME, *make_publication())
        await manifest.learn(ACME, FULL_FACTS)
        jobs = await manifest.jobs(ACME)

    async with opener(tmp_path) as manifest:
        assert await manifest.jobs(ACME) == jobs
        assert await manifest.facts(ACME) == FULL_FACTS
        assert await files_of(manifest) == (make_stored(),)


async def cancel_after(turns: int, work: Coroutine[Any, Any, None]) -> None:
    clock = FakeClock()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        for _ in range(turns):
            await clock.sleep(0)
        task.cancel()


@pytest.mark.timeout(300)  # each turn of the loop before the disk has answered is one: on a slow disk there are many
async def test_cancelling_at_any_moment_leaves_a_publish_whole_or_not_begun(manifest: SqlManifest) -> None:
    files = tuple(make_stored(f"{number:04}.csv") for number in range(1100))
    await know(manifest)
    before = (await manifest.jobs(ACME))[JOB_ID]

    turns = 0
    while (known := (await manifest.jobs(ACME))[JOB_ID]).state is not S.PUBLISHED:
        assert known == before
        await cancel_after(turns, manifest.publish(ACME, *make_publication(files=files)))
        # What a cancelled statement leaves in a reference cycle would hold the lock.
        gc.collect()
        turns += 1 + turns // 2

    assert turns > 10
    assert await files_of(manifest) == files


async def test_many_write_at_once_and_all_of_it_is_there(manifest: SqlManifest) -> None:
    jobs = [str(number) for number in range(40)]
    await know(manifest, *jobs)

    async with asyncio.TaskGroup() as group:
        for job in jobs:
            group.create_task(manifest.publish(ACME, *make_publication(JobId(job), f"acme/{job}")))
            group.create_task(manifest.jobs(ACME))

    assert await manifest.published_folders(ACME) == {job: f"acme/{job}" for job in jobs}


async def test_every_row_is_checked_while_others_write(manifest: SqlManifest) -> None:
    await know(manifest, "one", "two")
    await manifest.publish(ACME, *make_publication(JobId("one"), "acme/one"))
    await manifest.check_rows()
    async with manifest.writing() as connection:
        await connection.execute(sa.update(job_table).where(job_table.c.id == "one").values(attempts=7))
        # What is not committed is not seen.
        await manifest.check_rows()

    with pytest.raises(ManifestCorrupt, match="a row of job"):
        await manifest.check_rows()


async def test_the_document_decides_whether_a_request_is_a_delta(manifest: SqlManifest) -> None:
    document = make_request(service_groups=("cdcissues",))
    # As version 0.1 recorded it, which did not look at the dates.
    await manifest.record_poll(ACME, jobs=[], requests=[(make_known_request(is_delta=True), document)], at=NOON)

    (known,) = (await manifest.requests(ACME)).values()

    assert not known.is_delta
    assert known.document == document


# --- the cost ---------------------------------------------------------------------------------------------------------


async def test_a_poll_of_hundreds_of_jobs_takes_the_statements_of_a_few(manifest: SqlManifest) -> None:
    jobs = [KnownJob(job=make_job(id=JobId(f"job-{number}")), state=S.SEEN) for number in range(600)]

    with counting_statements() as texts:
        await manifest.record_poll(ACME, jobs=jobs, requests=[], at=NOON)

    # A statement has at most 500 values, so there are two for each step.
    assert len(texts) <= 12
    assert {known.first_seen_at for known in (await manifest.jobs(ACME)).values()} == {NOON}


async def test_a_poll_with_an_illegal_change_records_no_job(manifest: SqlManifest) -> None:
    await know(manifest, "old", state=S.PUBLISHED)
    new, illegal = (KnownJob(job=make_job(id=JobId(name)), state=S.WAITING) for name in ("new", "old"))

    with pytest.raises(IllegalTransition):
        await manifest.record_poll(ACME, jobs=[new, illegal], requests=[], at=NOON)

    assert [*await manifest.jobs(ACME)] == ["old"]


async def test_reads_at_one_moment_do_not_see_what_is_written_meanwhile(manifest: SqlManifest) -> None:
    await know(manifest, "a")
    async with manifest.at_one_moment() as moment:
        before = await moment.jobs(ACME)
        await know(manifest, "b")

        assert await moment.jobs(ACME) == before
    assert [*await manifest.jobs(ACME)] == ["a", "b"]


async def test_a_connection_asks_for_the_schema_once(manifest: SqlManifest) -> None:
    async with manifest.at_one_moment() as moment:
        await moment.is_current()
        with counting_statements() as texts:
            assert await moment.is_current()

    assert texts == []
