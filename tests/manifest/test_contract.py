"""What every manifest promises, whatever it is made of: one suite for each database."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dcsync.cluster.database import Database, parse_database
from dcsync.cluster.manifest import open_shared_manifest
from dcsync.core.completeness import holds_rows
from dcsync.core.lifecycle import OPEN, JobState, may_go
from dcsync.core.model import AccountName, How, JobId, RequestId, Snapshot, StoredFile
from dcsync.core.ports import AccountFacts, KnownJob, KnownRequest
from dcsync.core.snapshot import Record
from dcsync.errors import DcsyncError, IllegalTransition
from dcsync.manifest import SqlManifest, open_manifest
from dcsync.manifest.hollow import hollow_snapshots
from tests.fakes import (
    JOB_ID,
    NOON,
    REQUEST_ID,
    FakeClock,
    make_job,
    make_published,
    make_request,
    make_stored,
    make_transfer,
)
from tests.rigs.postgres import Postgres

ACME = AccountName("acme")
BETA = AccountName("beta")
LATER = NOON + timedelta(hours=1, microseconds=1)
S = JobState

Opener = Callable[[Path], AbstractAsyncContextManager[SqlManifest]]


def open_sqlite(folder: Path) -> AbstractAsyncContextManager[SqlManifest]:
    return open_manifest(folder / "manifest.sqlite")


@pytest.fixture(params=["sqlite", "postgresql"])
def opener(request: pytest.FixtureRequest) -> Opener:
    """Opens a manifest in a folder; the same folder gives the same manifest again."""
    if request.param == "sqlite":
        return open_sqlite
    server: Postgres = request.getfixturevalue("postgres_server")
    databases: dict[Path, Database] = {}

    def open_postgres(folder: Path) -> AbstractAsyncContextManager[SqlManifest]:
        return open_shared_manifest(databases.setdefault(folder, parse_database(server.fresh())))

    return open_postgres


@pytest.fixture
async def manifest(opener: Opener, tmp_path: Path) -> AsyncIterator[SqlManifest]:
    """An empty manifest."""
    async with opener(tmp_path) as opened:
        yield opened


def make_known_request(**changes: Any) -> KnownRequest:
    values: dict[str, Any] = {"id": REQUEST_ID, "description": "My extract", "slug": "my-extract", "is_delta": False}
    return KnownRequest(**{**values, **changes})


def make_publication(
    job: JobId = JOB_ID, folder: str = "acme/x/2026", *, files: Sequence[StoredFile] | None = None, **changes: Any
) -> tuple[Record, Sequence[StoredFile]]:
    """Return what publishing takes of a job that is `make_job` with these changes."""
    transfer = make_transfer(strategy="files", calls=3, fetched_bytes=8, linked_bytes=0, seconds=1.5)
    values = {"at": LATER, "transfer": transfer, **changes}
    return make_published(job, folder=folder, **values), (make_stored(),) if files is None else files


async def know(manifest: SqlManifest, *jobs: str, state: JobState = S.SEEN, account: AccountName = ACME) -> None:
    """Let the manifest know jobs in a state."""
    known = [KnownJob(job=make_job(id=JobId(job)), state=state) for job in jobs or (JOB_ID,)]
    await manifest.record_poll(account, jobs=known, requests=[], at=NOON)


async def state_of(manifest: SqlManifest, job: str = JOB_ID) -> JobState:
    return (await manifest.jobs(ACME))[JobId(job)].state


async def files_of(manifest: SqlManifest) -> tuple[StoredFile, ...] | None:
    snapshot = await manifest.snapshot_before(ACME, REQUEST_ID, None)
    return None if snapshot is None else snapshot.files


# --- a new one --------------------------------------------------------------------------------------------------------


async def test_a_new_manifest_knows_nothing(manifest: SqlManifest) -> None:
    assert await manifest.facts(ACME) == AccountFacts()
    assert await manifest.jobs(ACME) == {}
    assert await manifest.requests(ACME) == {}
    assert await manifest.snapshot_before(ACME, REQUEST_ID, None) is None
    assert await manifest.newest_snapshot(ACME, REQUEST_ID) is None
    assert await manifest.published_folders(ACME) == {}
    assert await manifest.folder_taken_by("acme/x/2026") is None


# --- accounts ---------------------------------------------------------------------------------------------------------

FULL_FACTS = AccountFacts(
    last_poll_at=NOON,
    last_success_at=LATER,
    conditional_works=False,
    etag_is_md5=True,
    bytes_per_second=1234567.875,
    error_code="A-NETWORK",
    error="no answer: \u201cé\u201d",
)


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


# --- publishing -------------------------------------------------------------------------------------------------------


async def test_a_published_snapshot_is_known_row_for_row(manifest: SqlManifest) -> None:
    await know(manifest)
    await manifest.move(ACME, JOB_ID, S.FAILED, at=NOON, attempts=2, next_try_at=LATER, reason_code="X", reason="x")
    files = (
        make_stored("admin_users.csv", b"id,name\n", mtime_ns=2**62 + 1, inode=2**64 - 1, packed=2**40),
        make_stored("bare.csv", b"", md5=None, etag=None, packed=None, mtime_ns=None, inode=None),
        make_stored("escaped%ED%A0%80.csv", b"x", original="escaped\ud800.csv", how=How.LINKED),
        make_stored("größe/Ω.csv", b"x" * 300, original="größe/Ω.csv", etag='W/"weak"', crc32=2**32 - 1, size=2**53),
        make_stored("quote'\".csv", b"'; DROP TABLE file; --"),
    )

    await manifest.publish(ACME, *make_publication(files=files))

    snapshot = await manifest.snapshot_before(ACME, REQUEST_ID, None)
    assert snapshot is not None
    assert (snapshot.job, snapshot.request, snapshot.folder) == (JOB_ID, REQUEST_ID, "acme/x/2026")
    assert snapshot.completed_at == make_job().completed_at
    assert {stored.name: stored for stored in snapshot.files} == {stored.name: stored for stored in files}
    assert len(snapshot.files) == len(files)
    assert (await manifest.jobs(ACME))[JOB_ID] == KnownJob(
        job=make_job(), state=S.PUBLISHED, folder="acme/x/2026", first_seen_at=NOON, published_at=LATER
    )
    assert await manifest.published_folders(ACME) == {JOB_ID: "acme/x/2026"}
    assert await manifest.newest_snapshot(ACME, REQUEST_ID) == "acme/x/2026"
    assert await manifest.folder_taken_by("acme/x/2026") == JOB_ID


async def test_a_snapshot_may_have_more_files_than_a_statement_has_room_for(manifest: SqlManifest) -> None:
    await know(manifest)
    files = tuple(make_stored(f"table_{number:05}.csv", b"%d" % number) for number in range(4001))

    await manifest.publish(ACME, *make_publication(files=files))

    assert await files_of(manifest) == files


async def test_publishing_again_replaces_the_files(manifest: SqlManifest) -> None:
    await know(manifest)
    await manifest.publish(ACME, *make_publication(files=(make_stored("a.csv"), make_stored("b.csv"))))

    await manifest.publish(ACME, *make_publication(files=(make_stored("b.csv", b"new"),)))

    assert await files_of(manifest) == (make_stored("b.csv", b"new"),)


@pytest.mark.parametrize(
    ("first", "second"),
    [("Forms.csv", "forms.csv"), ("é.csv", "e\u0301.csv"), ("straße.csv", "STRASSE.csv"), ("ﬁle.csv", "file.csv")],
)
async def test_two_names_that_a_file_system_takes_for_one_are_refused(
    manifest: SqlManifest, first: str, second: str
) -> None:
    await know(manifest)

    with pytest.raises(DcsyncError):
        await manifest.publish(ACME, *make_publication(files=(make_stored(first), make_stored(second))))

    assert await state_of(manifest) is S.SEEN
    assert await files_of(manifest) is None
    assert await manifest.folder_taken_by("acme/x/2026") is None


async def test_two_snapshots_may_have_the_same_names(manifest: SqlManifest) -> None:
    await know(manifest, "a", "b")

    await manifest.publish(ACME, *make_publication(JobId("a"), "acme/a"))
    await manifest.publish(ACME, *make_publication(JobId("b"), "acme/b"))

    assert await manifest.published_folders(ACME) == {"a": "acme/a", "b": "acme/b"}


async def test_a_job_that_cannot_be_published_is_not(manifest: SqlManifest) -> None:
    await know(manifest, state=S.WAITING)

    with pytest.raises(IllegalTransition):
        await manifest.publish(ACME, *make_publication())

    assert await manifest.published_folders(ACME) == {}
    assert await files_of(manifest) is None


async def test_a_folder_that_another_job_has_is_not_published_twice(manifest: SqlManifest) -> None:
    await know(manifest, "a", "b")
    await manifest.publish(ACME, *make_publication(JobId("a"), "acme/x"))

    with pytest.raises(DcsyncError):
        await manifest.publish(ACME, *make_publication(JobId("b"), "acme/x"))

    assert await manifest.published_folders(ACME) == {"a": "acme/x"}
    assert await state_of(manifest, "b") is S.SEEN


@pytest.mark.parametrize("state", [S.PRUNED, S.SEEN, S.EXPIRED])
async def test_a_snapshot_that_is_gone_is_not_linked_to_any_more(manifest: SqlManifest, state: JobState) -> None:
    await know(manifest)
    await manifest.publish(ACME, *make_publication())

    await manifest.move(ACME, JOB_ID, state, at=LATER)

    assert await manifest.snapshot_before(ACME, REQUEST_ID, None) is None
    assert await manifest.newest_snapshot(ACME, REQUEST_ID) is None
    assert await manifest.published_folders(ACME) == {}
    # Its folder's name stays its own: `folder` once set stays.
    assert await manifest.folder_taken_by("acme/x/2026") == JOB_ID


async def test_the_files_of_a_snapshot_that_came_back_are_those_of_the_second_time(manifest: SqlManifest) -> None:
    await know(manifest)
    await manifest.publish(ACME, *make_publication(files=(make_stored("old.csv"),)))
    await manifest.move(ACME, JOB_ID, S.SEEN, at=LATER)

    new = make_stored("new.csv")
    await manifest.publish(ACME, *make_publication(files=(new,)))

    assert await files_of(manifest) == (new,)


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("README.html",),
        ("README.html", "schemas/a.csv"),
        ("Schemas/A.CSV",),
        ("csv", "a.csv.html"),
        ("admin_users.csv",),
        ("README.html", "Gr\u00f6\u00dfe.CSV"),
        ("autodesk_data_extract.zip",),
    ],
)
async def test_a_snapshot_without_tables_is_hollow_and_never_the_newest(
    manifest: SqlManifest, names: tuple[str, ...]
) -> None:
    """The same decision as that of the plan, made by the database."""
    await know(manifest)
    files = tuple(make_stored(f"{number}.x", original=name) for number, name in enumerate(names))
    await manifest.publish(ACME, *make_publication(files=files))

    holds = holds_rows(names)
    assert await hollow_snapshots(manifest, ACME) == (frozenset() if holds else {JOB_ID})
    assert await hollow_snapshots(manifest, BETA) == frozenset()
    assert (await manifest.newest_snapshot(ACME, REQUEST_ID) is not None) is holds
    assert (await manifest.snapshot_before(ACME, REQUEST_ID, None) is not None) is holds


# --- the snapshot before ----------------------------------------------------------------------------------------------


async def publish_days(manifest: SqlManifest, *days: int, request: RequestId = REQUEST_ID) -> None:
    for day in days:
        job = JobId(f"{request[:2]}-{day}")
        completed_at = NOON + timedelta(days=day)
        known = KnownJob(job=make_job(id=job, request_id=request, completed_at=completed_at), state=S.SEEN)
        await manifest.record_poll(ACME, jobs=[known], requests=[], at=NOON)
        publication = make_publication(job, f"acme/{job}", request_id=request, completed_at=completed_at)
        await manifest.publish(ACME, *publication)


@pytest.mark.parametrize(
    ("day", "found"), [(0, None), (1, None), (2, "ce-1"), (3, "ce-2"), (4, "ce-3"), (9, "ce-3"), (None, "ce-3")]
)
async def test_the_snapshot_before_is_the_newest_that_is_older(
    manifest: SqlManifest, day: int | None, found: str | None
) -> None:
    await publish_days(manifest, 2, 3, 1)

    before = await manifest.snapshot_before(ACME, REQUEST_ID, None if day is None else NOON + timedelta(days=day))

    assert (None if before is None else before.job) == found


async def test_the_snapshot_before_is_of_the_same_request_and_account_and_published(manifest: SqlManifest) -> None:
    await publish_days(manifest, 1)
    await publish_days(manifest, 5, request=RequestId("another"))
    await know(manifest, "not-published")

    before = await manifest.snapshot_before(ACME, REQUEST_ID, NOON + timedelta(days=9))

    assert before is not None
    assert (before.job, before.folder) == ("ce-1", "acme/ce-1")
    assert await manifest.snapshot_before(BETA, REQUEST_ID, None) is None
    assert await manifest.newest_snapshot(ACME, RequestId("another")) == "acme/an-5"


async def test_a_microsecond_makes_a_snapshot_older(manifest: SqlManifest) -> None:
    await publish_days(manifest, 1)
    at = NOON + timedelta(days=1)

    assert await manifest.snapshot_before(ACME, REQUEST_ID, at) is None
    assert await manifest.snapshot_before(ACME, REQUEST_ID, at + timedelta(microseconds=1)) is not None


async def publish_file(manifest: SqlManifest, day: int, stored: StoredFile, request: RequestId = REQUEST_ID) -> None:
    await publish_days(manifest, day, request=request)
    job = JobId(f"{request[:2]}-{day}")
    publication = make_publication(
        job,
        f"acme/{job}",
        files=(make_stored("other.csv", b"1"), stored),
        request_id=request,
        completed_at=NOON + timedelta(days=day),
    )
    await manifest.publish(ACME, *publication)


async def test_copies_of_a_file_are_found_newest_first(manifest: SqlManifest) -> None:
    wanted = make_stored("schemas/a.csv", b"same", original="schemas/\ud800a.csv", inode=2**64 - 1, mtime_ns=5)
    for day in (3, 1, 4, 2):
        await publish_file(manifest, day, wanted)

    found = await manifest.copies(ACME, REQUEST_ID, wanted, limit=3)

    assert [copy.job for copy in found] == ["ce-4", "ce-3", "ce-2"]
    assert found[0] == Snapshot(
        job=JobId("ce-4"),
        request=REQUEST_ID,
        folder="acme/ce-4",
        completed_at=NOON + timedelta(days=4),
        files=(wanted,),
    )


async def test_what_differs_or_is_of_another_request_or_is_gone_is_no_copy(manifest: SqlManifest) -> None:
    wanted = make_stored("a.csv", b"same")
    await publish_file(manifest, 1, make_stored("a.csv", b"else"))
    await publish_file(manifest, 2, make_stored("a.csv", b"longer"))
    await publish_file(manifest, 3, make_stored("a.csv", b"same", original="A.csv"))
    await publish_file(manifest, 4, make_stored("b.csv", b"same"))
    await publish_file(manifest, 5, wanted, request=RequestId("another"))
    await publish_file(manifest, 6, wanted)
    await manifest.move(ACME, JobId("ce-6"), S.PRUNED, at=NOON)

    assert await manifest.copies(ACME, REQUEST_ID, wanted, limit=9) == []
    assert await manifest.copies(BETA, REQUEST_ID, wanted, limit=9) == []


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


async def test_the_document_decides_whether_a_request_is_a_delta(manifest: SqlManifest) -> None:
    document = make_request(service_groups=("cdcissues",))
    # As version 0.1 recorded it, which did not look at the dates.
    await manifest.record_poll(ACME, jobs=[], requests=[(make_known_request(is_delta=True), document)], at=NOON)

    (known,) = (await manifest.requests(ACME)).values()

    assert not known.is_delta
    assert known.document == document
