"""Who shares a manifest: alive is who was heard of, and a start takes the place of the one before on its folder."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa

from dcsync.cluster.database import parse_database
from dcsync.cluster.hosts import Hosts
from dcsync.cluster.manifest import open_shared_manifest
from dcsync.manifest import SqlManifest


@pytest.fixture
async def manifest(database: str) -> AsyncIterator[SqlManifest]:
    async with open_shared_manifest(parse_database(database)) as opened:
        yield opened


async def arrive(hosts: Hosts, name: str, *, state: str = "") -> int:
    return await hosts.arrive(state=state or name, name=name, pid=7, version="1", role="run")


async def change(manifest: SqlManifest, statement: str) -> None:
    async with manifest.writing() as connection:
        await connection.execute(sa.text(statement))


async def let_pass(manifest: SqlManifest, seconds: int) -> None:
    """Let what was last heard of everybody be so long ago."""
    await change(manifest, f"UPDATE host SET seen_at = seen_at - {seconds * 1_000_000}")  # noqa: S608 - a number
    await change(manifest, f"UPDATE procrastinate_workers SET last_heartbeat = now() - interval '{seconds} s'")  # noqa: S608


async def test_a_host_is_alive_and_does_what_it_says_until_it_leaves(manifest: SqlManifest) -> None:
    hosts = Hosts(manifest)
    beta, alpha = await arrive(hosts, "beta"), await arrive(hosts, "alpha")
    await hosts.beat(alpha, "mirroring 2 extracts (acme)")

    known = await hosts.known()
    await hosts.leave(beta)

    assert [(host.name, host.is_alive, host.doing) for host in known] == [
        ("alpha", True, "mirroring 2 extracts (acme)"),
        ("beta", True, ""),
    ]
    assert [host.id for host in await hosts.known()] == [alpha]


async def test_a_host_that_is_silent_is_gone_and_one_whose_workers_are_heard_is_not(manifest: SqlManifest) -> None:
    hosts = Hosts(manifest)
    silent, working = await arrive(hosts, "silent"), await arrive(hosts, "working")
    async with manifest.writing() as connection:
        worker = await connection.scalar(sa.text("SELECT worker_id FROM procrastinate_register_worker_v1()"))
    await hosts.works_as(working, worker)
    await let_pass(manifest, 31)
    await change(manifest, "UPDATE procrastinate_workers SET last_heartbeat = now()")

    assert {host.id: host.is_alive for host in await hosts.known()} == {silent: False, working: True}


async def test_a_start_on_the_same_folder_ends_the_one_before_and_frees_its_tasks(manifest: SqlManifest) -> None:
    hosts = Hosts(manifest)
    before = await arrive(hosts, "alpha")
    async with manifest.writing() as connection:
        worker = await connection.scalar(sa.text("SELECT worker_id FROM procrastinate_register_worker_v1()"))
    await hosts.works_as(before, worker)
    other = await arrive(hosts, "alpha", state="another folder")

    after = await arrive(hosts, "alpha")

    assert after > before
    assert {host.id for host in await hosts.known()} == {after, other}
    async with manifest.reading() as connection:
        assert await connection.scalar(sa.text("SELECT count(*) FROM procrastinate_workers")) == 0


async def test_who_is_gone_for_a_day_is_forgotten(manifest: SqlManifest) -> None:
    hosts = Hosts(manifest)
    await arrive(hosts, "old")
    await let_pass(manifest, 25 * 3600)

    await arrive(hosts, "new")

    assert [host.name for host in await hosts.known()] == ["new"]
