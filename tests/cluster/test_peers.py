"""Two hosts and one job: whoever was frozen when, there is one snapshot, whole, recorded once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dcsync.app.from_config import account_settings
from dcsync.app.sync import open_sync
from dcsync.cluster.database import Database
from dcsync.cluster.fencing import Ticket
from dcsync.cluster.hosts import Hosts
from dcsync.cluster.peers import SeveralHosts
from dcsync.config import Config
from dcsync.core.lifecycle import OPEN, JobState
from dcsync.core.model import AccountName, JobId, StoredFile
from dcsync.core.snapshot import Record
from dcsync.errors import MirrorLocked
from dcsync.manifest import SqlManifest
from dcsync.manifest.backend import Backend, Guard
from dcsync.mirror import trash
from dcsync.mirror.root import open_root
from dcsync.mirror.staging import Staging
from dcsync.ops.context import AccountSettings, SyncContext
from dcsync.ops.mirroring.outcome import AccountOutcome
from dcsync.ops.mirroring.run import mirror_job, poll_account
from dcsync.ops.recovery import recover
from tests.rigs.mirror import Mirror, add_extract, assert_proved_by_sums, mirroring, tables

ACME = AccountName("acme")


class Freezing(SqlManifest):
    """A manifest whose host freezes where a test wants: before it renames, or between that and the commit."""

    def __init__(self, backend: Backend, at: dict[str, asyncio.Event], *, guard: Guard | None = None) -> None:
        super().__init__(backend, guard=guard)
        self._at = at

    def guarded(self, guard: Guard) -> SqlManifest:
        return Freezing(self.backend, self._at, guard=guard)

    async def check_guard(self) -> None:
        await super().check_guard()
        await self._freeze("rename")

    async def publish(
        self, account: AccountName, record: Record, files: Sequence[StoredFile], *, sidecar_sha256: str | None = None
    ) -> None:
        await self._freeze("commit")
        await super().publish(account, record, files, sidecar_sha256=sidecar_sha256)

    async def _freeze(self, where: str) -> None:
        if where in self._at:
            self._at["frozen"].set()
            await self._at[where].wait()


@dataclass(slots=True, kw_only=True)
class Pair:
    """Two hosts on one mirror."""

    mirror: Mirror
    account: AccountSettings
    one: SyncContext
    other: SyncContext

    async def mirror_frozen(self, where: str, job: str, meanwhile: Callable[[], Awaitable[object]]) -> AccountOutcome:
        """Let one host mirror a job and freeze; do something; let it wake and come to its end."""
        at = {where: asyncio.Event(), "frozen": asyncio.Event()}
        context = replace(self.one, manifest=Freezing(self.one.manifest.backend, at))
        async with asyncio.TaskGroup() as group:
            zombie = group.create_task(mirror_job(context, self.account, JobId(job)))
            await at["frozen"].wait()
            await meanwhile()
            at[where].set()
        return zombie.result()

    async def state(self, job: str) -> JobState:
        return (await self.one.manifest.jobs(ACME))[JobId(job)].state

    def assert_one_snapshot(self, job: str) -> None:
        assert len(self.mirror.snapshots()) == 1
        self.mirror.assert_identical(job)
        assert_proved_by_sums(self.mirror.snapshot_of(job))


def config_of(mirror: Mirror, database: str, number: int) -> Config:
    state = mirror.folder / f"state-{number}"
    mirror.config["state"] = {"dir": str(state), "manifest": database}
    return mirror.configuration()


@asynccontextmanager
async def paired(folder: Path, database: str) -> AsyncIterator[Pair]:
    async with mirroring(folder) as mirror, AsyncExitStack() as stack:
        configs = [config_of(mirror, database, number) for number in (1, 2)]
        one, other = [await stack.enter_async_context(mirror.opened(role="run", config=config)) for config in configs]
        yield Pair(mirror=mirror, account=account_settings(configs[0])[0], one=one, other=other)


@pytest.fixture
async def pair(tmp_path: Path, database: str) -> AsyncIterator[Pair]:
    async with paired(tmp_path, database) as ready:
        yield ready


async def poll(pair: Pair) -> None:
    await poll_account(pair.one, pair.account)


async def test_a_host_frozen_before_its_rename_publishes_nothing_when_it_wakes(pair: Pair) -> None:
    """Its staging was renamed away, so that nothing half emptied can appear."""
    job = add_extract(pair.mirror, tables(6))
    await poll(pair)

    outcome = await pair.mirror_frozen("rename", job, lambda: mirror_job(pair.other, pair.account, JobId(job)))

    pair.assert_one_snapshot(job)
    assert outcome.published == []
    assert await pair.state(job) is JobState.PUBLISHED
    # What was whole was moved over, and not fetched again.
    assert pair.mirror.sandbox.count("storage") == 6
    assert list((pair.mirror.root / ".dcsync/staging").iterdir()) == []


async def test_what_a_frozen_host_had_renamed_is_adopted_by_the_one_that_took_over(pair: Pair) -> None:
    job = add_extract(pair.mirror, tables(3))
    await poll(pair)
    taken: list[AccountOutcome] = []

    async def take_over() -> None:
        taken.append(await mirror_job(pair.other, pair.account, JobId(job)))

    outcome = await pair.mirror_frozen("commit", job, take_over)

    pair.assert_one_snapshot(job)
    assert outcome.published == []
    assert [published.transfer.strategy for published in taken[0].published] == ["adopted"]
    assert pair.mirror.sandbox.count("storage") == 3


async def test_a_frozen_host_brings_back_nothing_that_was_pruned_meanwhile(pair: Pair) -> None:
    job = add_extract(pair.mirror, tables(3))
    await poll(pair)

    async def publish_and_prune() -> None:
        await mirror_job(pair.other, pair.account, JobId(job))
        (snapshot,) = pair.mirror.snapshots()
        folder = str(snapshot.relative_to(pair.mirror.root))
        with open_root(pair.mirror.root) as root:
            trash.discard(root, folder, "pruned", depth=2)
            trash.empty(root, "pruned")
        await pair.other.manifest.move(ACME, JobId(job), JobState.PRUNED, at=pair.mirror.clock.now())

    for where in ("rename", "commit"):
        await pair.mirror_frozen(where, job, publish_and_prune)

        assert pair.mirror.snapshots() == []
        assert await pair.state(job) is JobState.PRUNED
        await pair.other.manifest.move(ACME, JobId(job), JobState.SEEN, at=pair.mirror.clock.now())


async def test_a_name_that_was_claimed_and_never_filled_is_used(pair: Pair) -> None:
    """A host was killed between its mkdir and its rename, on a file system that cannot refuse to replace."""
    job = add_extract(pair.mirror, tables(3))
    await poll(pair)
    folder = "acme/request/2026/11/22/claimed"
    await pair.one.manifest.move(ACME, JobId(job), JobState.LISTED, at=pair.mirror.clock.now(), folder=folder)
    (pair.mirror.root / folder).mkdir(parents=True)

    outcome = await mirror_job(pair.other, pair.account, JobId(job))

    assert [published.folder for published in outcome.published] == [folder]
    pair.assert_one_snapshot(job)


async def test_a_job_that_is_done_already_is_looked_at_and_left_alone(pair: Pair) -> None:
    job = add_extract(pair.mirror, tables(3))
    await poll(pair)
    await mirror_job(pair.one, pair.account, JobId(job))

    outcome = await mirror_job(pair.other, pair.account, JobId(job))

    assert (outcome.published, outcome.failed, outcome.calls) == ([], [], 0)


async def test_a_task_that_is_another_host_s_by_now_does_nothing(pair: Pair) -> None:
    job = add_extract(pair.mirror, tables(3))
    await poll(pair)

    assert isinstance(pair.one.peers, SeveralHosts)
    context = replace(pair.one, peers=pair.one.peers.with_ticket(Ticket(id=1, worker=1, attempts=0)))
    outcome = await mirror_job(context, pair.account, JobId(job))

    assert (outcome.published, outcome.failed, outcome.error) == ([], [], None)
    assert await pair.state(job) is JobState.SEEN
    assert pair.mirror.sandbox.count("storage") == 0


async def test_what_two_hosts_learn_of_an_account_at_the_same_time_both_stays(pair: Pair) -> None:
    before = await pair.one.manifest.facts(ACME)
    await pair.one.manifest.learn(ACME, replace(before, bytes_per_second=5.0), before=before)
    await pair.other.manifest.learn(ACME, replace(before, etag_is_md5=True), before=before)

    facts = await pair.one.manifest.facts(ACME)
    assert (facts.bytes_per_second, facts.etag_is_md5) == (5.0, True)


async def test_the_start_of_another_host_leaves_alone_what_one_has_in_hand(pair: Pair, database: str) -> None:
    job = add_extract(pair.mirror, tables(4))
    await poll(pair)
    third = config_of(pair.mirror, database, 3)

    async def come_up() -> None:
        async with pair.mirror.opened(role="run", config=third):
            pass

    outcome = await pair.mirror_frozen("rename", job, come_up)

    assert len(outcome.published) == 1
    pair.assert_one_snapshot(job)


async def test_what_a_host_begins_during_the_start_of_another_is_left_alone(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not open yet when the open jobs are looked up, and has a staging right after."""
    jobs, begun = SqlManifest.jobs, list[Staging]()

    async def late(manifest: SqlManifest, account: AccountName, **options: Any) -> Any:
        found = await jobs(manifest, account, **options)
        if manifest is pair.other.manifest and options.get("states") == OPEN and not begun:
            job = add_extract(pair.mirror, tables(2))
            await poll(pair)
            begun.append(Staging(pair.one.root, JobId(job), 1))
        return found

    monkeypatch.setattr(SqlManifest, "jobs", late)
    assert pair.other.peers.are_at_work
    await recover(pair.other, [pair.account])

    with begun[0] as staging:
        assert (pair.mirror.root / staging.relative).is_dir()


async def test_the_start_of_another_host_moves_latest_that_a_killed_one_left_behind(pair: Pair, database: str) -> None:
    old = add_extract(pair.mirror, tables(2), days_ago=1)
    new = add_extract(pair.mirror, tables(2, seed=1))
    await poll(pair)
    for job in (old, new):
        await mirror_job(pair.one, pair.account, JobId(job))
    (latest,) = pair.mirror.root.glob("acme/*/latest")
    for come_up in (True, False):
        latest.unlink()
        latest.symlink_to(pair.mirror.snapshot_of(old).relative_to(latest.parent))

        if come_up:
            third = config_of(pair.mirror, database, 3)
            async with pair.mirror.opened(role="run", config=third):
                pass
        else:
            # The task of a host that was killed before it ended it.
            await mirror_job(pair.one, pair.account, JobId(new))

        assert latest.resolve() == pair.mirror.snapshot_of(new)


async def test_a_host_that_took_long_to_come_up_is_there_for_the_next_one(tmp_path: Path, database: str) -> None:
    """Nothing is heard of it while it recovers, and the next waits for its end: then it must not be taken for gone."""
    async with mirroring(tmp_path) as mirror:
        config = config_of(mirror, database, 1)
        async with open_sync(
            config, mirror.stores(config), environ=mirror.environ, clock=mirror.clock, role="run"
        ) as context:
            async with context.manifest.writing() as connection:
                await connection.execute(sa.text("UPDATE host SET seen_at = seen_at - 3600000000"))
            await recover(context, account_settings(config))
            (host,) = await Hosts(context.manifest).known()

    assert host.is_alive


async def test_a_command_for_one_at_a_time_is_refused_while_hosts_are_at_work(pair: Pair, database: str) -> None:
    third = config_of(pair.mirror, database, 3)

    with pytest.raises(MirrorLocked, match="daemons on the same manifest are running"):
        async with pair.mirror.opened(config=third):
            pass


async def test_a_start_on_the_same_state_folder_takes_the_place_of_the_one_before(
    tmp_path: Path, database: str
) -> None:
    """A host that was killed and is there again: nobody has to wait until it was silent for long."""
    async with mirroring(tmp_path) as mirror:
        config = config_of(mirror, database, 1)
        async with (
            open_sync(config, mirror.stores(config), environ=mirror.environ, clock=mirror.clock, role="run") as context,
            context.manifest.writing() as connection,
        ):
            worker = await connection.scalar(sa.text("SELECT worker_id FROM procrastinate_register_worker_v1()"))
            await connection.execute(
                sa.text("INSERT INTO host_worker SELECT :worker, id FROM host"), {"worker": worker}
            )
            await connection.execute(
                sa.text(
                    "INSERT INTO procrastinate_jobs (queue_name, task_name, status, worker_id) "
                    "VALUES ('mirror', 'dcsync:mirror', 'doing', :worker)"
                ),
                {"worker": worker},
            )
            # A crash leaves its row behind.
            await connection.execute(sa.text("CREATE TABLE kept AS SELECT * FROM host"))
            await connection.execute(sa.text("CREATE TABLE kept_worker AS SELECT * FROM host_worker"))
        async with paired_again(config, mirror) as context, context.manifest.reading() as connection:
            hosts = (await connection.execute(sa.text("SELECT id FROM host"))).all()
            stalled = await connection.scalar(sa.text("SELECT worker_id IS NULL FROM procrastinate_jobs"))

    assert len(hosts) == 1
    assert stalled is True


@asynccontextmanager
async def paired_again(config: Config, mirror: Mirror) -> AsyncIterator[SyncContext]:
    """Bring back the rows of a host that was killed, and start it again."""
    import psycopg

    place = mirror.stores(config).place
    assert isinstance(place, Database)
    with psycopg.connect(place.conninfo) as connection:
        connection.execute("INSERT INTO host SELECT * FROM kept")
        connection.execute("INSERT INTO host_worker SELECT * FROM kept_worker")
        connection.execute("DROP TABLE kept, kept_worker")
    async with open_sync(
        config, mirror.stores(config), environ=mirror.environ, clock=mirror.clock, role="run"
    ) as context:
        yield context
