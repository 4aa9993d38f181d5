"""The manifest in a database: brought up by one host at a time, one writer at a time, and who may write of a job."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from dcsync.cluster.database import parse_database
from dcsync.cluster.fencing import Ticket, take
from dcsync.cluster.manifest import open_shared_manifest
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.core.ports import AccountFacts, KnownJob
from dcsync.errors import Fenced, ManifestCorrupt, ManifestError, ManifestNewer
from dcsync.manifest import SqlManifest, StoredValues, open_manifest, schema
from dcsync.manifest.revisions import REVISIONS, revision
from tests.fakes import JOB_ID, NOON, make_job
from tests.rigs.manifests import make_publication

ACME = AccountName("acme")


async def claimed(manifest: SqlManifest, job: JobId, ticket: Ticket | None = None) -> SqlManifest:
    """Take a job up and return the manifest as its holder writes to it."""
    async with manifest.writing() as connection:
        claim = await take(connection, ACME, job, ticket)
    return manifest.guarded(claim)


async def know(manifest: SqlManifest, job: JobId = JOB_ID) -> None:
    known = [KnownJob(job=make_job(id=job), state=JobState.SEEN)]
    await manifest.record_poll(ACME, jobs=known, requests=[], at=NOON)


async def test_the_migrations_make_the_tables_that_the_code_has(database: str) -> None:
    async with open_shared_manifest(parse_database(database)) as manifest, manifest.reading() as connection:
        found = await connection.run_sync(
            lambda sync: compare_metadata(
                MigrationContext.configure(
                    sync, opts={"include_name": lambda name, kind, _: kind != "table" or name in schema.metadata.tables}
                ),
                schema.metadata,
            )
        )
        assert await revision(connection) == REVISIONS[-1]

    assert found == []


async def test_eight_hosts_that_come_up_at_once_migrate_once(database: str) -> None:
    async def come_up(number: int) -> None:
        async with open_shared_manifest(parse_database(database), label=f"host {number}") as manifest:
            await manifest.learn(AccountName(f"account-{number}"), AccountFacts(last_poll_at=NOON))

    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(come_up(number))

    async with open_shared_manifest(parse_database(database), read_only=True) as manifest:
        assert await manifest.is_current()


async def test_a_host_that_opens_while_another_one_binds_the_manifest_finds_no_damage(database: str) -> None:
    """What the seal is over, and the seal, are looked at as they are at one moment."""
    place = parse_database(database)
    async with open_shared_manifest(place) as manifest:
        over = asyncio.Event()

        async def bind() -> None:
            number = 0
            while not over.is_set():
                number += 1
                await manifest.set_instance(f"instance-{number}")

        async with asyncio.TaskGroup() as group:
            group.create_task(bind())
            for number in range(30):
                async with open_shared_manifest(place, read_only=number % 2 == 0):
                    pass
            over.set()


async def test_a_newer_manifest_is_refused_and_left_alone(database: str) -> None:
    async with open_shared_manifest(parse_database(database)) as manifest, manifest.writing() as connection:
        await connection.execute(sa.text("DELETE FROM meta WHERE key = 'seal'"))
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '0099'"))

    with pytest.raises(ManifestNewer, match="0099"):
        async with open_shared_manifest(parse_database(database)):
            pass


async def test_looking_makes_no_tables(database: str) -> None:
    with pytest.raises(ManifestError, match="no manifest yet"):
        async with open_shared_manifest(parse_database(database), read_only=True):
            pass

    with pytest.raises(ManifestError, match="no manifest yet"):
        async with open_shared_manifest(parse_database(database), read_only=True):
            pass


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE meta SET value = 'another' WHERE key = 'instance'",
        "ALTER TABLE job ALTER COLUMN reason TYPE varchar",
        "ALTER TABLE run RENAME TO rum",
    ],
)
async def test_a_schema_or_instance_that_was_changed_behind_our_back_is_damage(database: str, statement: str) -> None:
    async with open_shared_manifest(parse_database(database)) as manifest:
        await manifest.set_instance("one")
        async with manifest.writing() as connection:
            await connection.execute(sa.text(statement))

    with pytest.raises(ManifestCorrupt, match="is damaged"):
        async with open_shared_manifest(parse_database(database)):
            pass


async def test_hosts_write_one_after_another_so_that_none_meets_the_other_s_row(database: str) -> None:
    """Each looks whether a row is there and then makes it: two at once would collide."""
    async with AsyncExitStack() as stack:
        hosts = [await stack.enter_async_context(open_shared_manifest(parse_database(database))) for _ in range(4)]

        async with asyncio.TaskGroup() as group:
            for number, host in enumerate(hosts):
                for job in range(5):
                    group.create_task(know(host, JobId(f"job-{job}")))
                group.create_task(StoredValues(host).save("key", str(number)))

        assert len(await hosts[0].jobs(ACME)) == 5


async def test_text_with_a_nul_is_kept_as_well_as_the_database_can(database: str) -> None:
    async with open_shared_manifest(parse_database(database)) as manifest:
        await manifest.learn(ACME, AccountFacts(error="a\0b"))

        assert (await manifest.facts(ACME)).error == "a\ufffdb"


# --- who may write of a job -------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgresql"])
def opening(request: pytest.FixtureRequest) -> AbstractAsyncContextManager[SqlManifest]:
    if request.param == "sqlite":
        return open_manifest(request.getfixturevalue("tmp_path") / "manifest.sqlite")
    return open_shared_manifest(parse_database(request.getfixturevalue("database")))


async def test_the_holder_of_a_job_writes_of_it_until_somebody_else_takes_it_up(
    opening: AbstractAsyncContextManager[SqlManifest],
) -> None:
    async with opening as manifest:
        await know(manifest)
        first = await claimed(manifest, JOB_ID)
        await first.move(ACME, JOB_ID, JobState.LISTED, at=NOON)
        second = await claimed(manifest, JOB_ID)

        for attempt in (first.move(ACME, JOB_ID, JobState.STAGING, at=NOON), first.publish(ACME, *make_publication())):
            with pytest.raises(Fenced):
                await attempt
        with pytest.raises(Fenced):
            await first.check_guard()

        assert (await manifest.jobs(ACME))[JOB_ID].state is JobState.LISTED
        await second.check_guard()
        await second.publish(ACME, *make_publication())
        assert (await manifest.jobs(ACME))[JOB_ID].state is JobState.PUBLISHED
        async with manifest.writing() as connection:
            # The staging of each attempt is known by its number.
            assert (await take(connection, ACME, JOB_ID, None)).number == 3


async def test_a_claim_is_of_one_job_and_holds_up_no_other(
    opening: AbstractAsyncContextManager[SqlManifest],
) -> None:
    async with opening as manifest:
        await know(manifest, JobId("a"))
        await know(manifest, JobId("b"))
        first = await claimed(manifest, JobId("a"))
        await claimed(manifest, JobId("b"))

        await first.move(ACME, JobId("a"), JobState.LISTED, at=NOON)


async def test_a_task_that_is_somebody_else_s_by_now_claims_nothing(database: str) -> None:
    """A host that was paused between taking a task from the queue and taking up its job."""
    async with open_shared_manifest(parse_database(database)) as manifest:
        await know(manifest)
        async with manifest.writing() as connection:
            worker = await connection.scalar(sa.text("SELECT worker_id FROM procrastinate_register_worker_v1()"))
            task = await connection.scalar(
                sa.text(
                    "INSERT INTO procrastinate_jobs (queue_name, task_name, status, worker_id) "
                    "VALUES ('mirror', 'dcsync:mirror', 'doing', :worker) RETURNING id"
                ),
                {"worker": worker},
            )
        ticket = Ticket(id=task, worker=worker, attempts=0)
        await claimed(manifest, JOB_ID, ticket)
        holder = await claimed(manifest, JOB_ID, ticket)

        for other in (
            Ticket(id=task, worker=worker + 1, attempts=0),
            Ticket(id=task, worker=worker, attempts=1),
            Ticket(id=task + 1, worker=worker, attempts=0),
        ):
            with pytest.raises(Fenced):
                await claimed(manifest, JOB_ID, other)

        await holder.check_guard()
