"""A load that is interrupted, whatever its database does."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import psycopg
import pytest

from dcsync.errors import LoadInterrupted
from dcsync.load import Target
from dcsync.load.postgres import PostgresTarget
from dcsync.ops.loads.thread import Stopping, in_thread
from tests.rigs.loads import Goal, goal, latest
from tests.rigs.postgres import Postgres
from tests.rigs.waiting import until

USERS = b"id,name\n1,Ada\n2,Grace\n"
NEXT = b"id,name\n1,Ada\n3,Edsger\n"
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dcsync' AND wait_event_type = 'Lock'"


@pytest.fixture
def server(postgres_server: Postgres, tmp_path: Path) -> Goal:
    return goal("postgresql", tmp_path, postgres_server)


class Load:
    """A load that waits for another user of its table. `ended` is set when its thread has got `LoadInterrupted`."""

    def __init__(self, target: Target, folder: Path) -> None:
        self._target = target
        self._folder = folder
        self.ended = threading.Event()

    def __call__(self, stopping: Stopping) -> None:
        stopping.watch(self._target.interrupt)
        try:
            latest(self._target, self._folder, NEXT, day=2)
        except LoadInterrupted:
            self.ended.set()
            raise


async def test_a_load_that_waits_can_be_interrupted(server: Goal, tmp_path: Path) -> None:
    with server.opened(patience_s=3600) as target:
        latest(target, tmp_path, USERS)
        load = Load(target, tmp_path)
        with psycopg.connect(server.address) as reader:
            reader.execute("SELECT * FROM acc.users")
            async with asyncio.TaskGroup() as group:
                task = group.create_task(in_thread(load))
                await until(lambda: server.ask(WAITING) == [(1,)], "the load waits")
                task.cancel()
            await until(load.ended.is_set, "the end of the load")
            # The server, too, waits no longer for the reader.
            await until(lambda: server.ask(WAITING) == [(0,)], "the end of the statement")
        with pytest.raises(LoadInterrupted):
            latest(target, tmp_path, NEXT, day=2)
    assert server.rows() == [("1", "Ada"), ("2", "Grace")]


async def test_a_frozen_database_delays_no_end(server: Goal, tmp_path: Path, postgres_server: Postgres) -> None:
    with server.opened(patience_s=3600) as target:
        latest(target, tmp_path, USERS)
        load = Load(target, tmp_path)
        with psycopg.connect(server.address) as reader:
            reader.execute("SELECT * FROM acc.users")
            async with asyncio.TaskGroup() as group:
                task = group.create_task(in_thread(load))
                await until(lambda: server.ask(WAITING) == [(1,)], "the load waits")
                with postgres_server.frozen() as is_frozen:
                    task.cancel()
                    await until(task.done, "the end of the task")
                    await until(load.ended.is_set, "the end of the load")
                    assert is_frozen()
    assert server.rows() == [("1", "Ada"), ("2", "Grace")]


def test_a_load_that_was_interrupted_while_it_connected_sends_nothing(server: Goal) -> None:
    with server.opened() as target:
        assert isinstance(target, PostgresTarget)
        target.interrupt()
        with pytest.raises(LoadInterrupted):
            target.execute("CREATE SCHEMA acc")
    assert server.ask("SELECT 1 FROM pg_namespace WHERE nspname = 'acc'") == []


def test_a_server_that_vanishes_is_noticed_within_a_minute_or_so(server: Goal) -> None:
    with server.opened() as target:
        assert isinstance(target, PostgresTarget)
        given = target.connection.get_dsn_parameters()
        assert target.execute("SHOW client_connection_check_interval") == [("1s",)]
    idle, interval, count = (int(given[f"keepalives_{name}"]) for name in ("idle", "interval", "count"))
    assert idle + interval * count <= 60
    assert int(given["tcp_user_timeout"]) <= 60_000
    assert 0 < int(given["connect_timeout"]) <= 15


def test_what_is_watched_after_the_end_was_asked_for_is_interrupted_at_once() -> None:
    stopping, interrupted = Stopping(), threading.Event()
    stopping.stop()
    stopping.watch(interrupted.set)
    assert interrupted.is_set()
    stopping.watch(None)
