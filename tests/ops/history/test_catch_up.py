"""The row histories of a mirror: built from its snapshots, proved, and never more than one step behind for long."""

from __future__ import annotations

import asyncio
import shutil
import threading
from datetime import timedelta

import duckdb
import pytest

from dcsync.app.from_config import account_settings
from dcsync.core.retention import KeepPolicy
from dcsync.errors import RowsFailed
from dcsync.manifest.broken import BrokenParts
from dcsync.ops.context import HistorySettings
from dcsync.ops.history.catch_up import Chosen, catch_up
from dcsync.ops.history.thread import Stopping, in_thread
from dcsync.ops.integrity.rebuild import rebuild
from dcsync.ops.integrity.verify import verify
from dcsync.rows import opened
from tests.rigs.histories import ALL, add_day, alerts, build, folder_of, rows_at, rows_in, state_of, steps_of
from tests.rigs.mirror import TODAY, Mirror, add_extract
from tests.rigs.prunings import pruned

USERS = "admin_users.csv"


async def test_snapshots_from_before_are_caught_up_oldest_first(mirror: Mirror) -> None:
    jobs = [
        await add_day(mirror, {USERS: b"id,name\n1,a\n2,b\n", "admin_x.csv": b"a\n1\n"}, days_ago=2),
        await add_day(mirror, {USERS: b"id,name\n1,a\n2,c\n", "admin_x.csv": b"a\n1\n"}, days_ago=1),
        await add_day(mirror, {USERS: b"name,id\nc,2\n", "admin_x.csv": b"a\n1\n"}),
    ]
    report = await build(mirror)

    assert report.is_complete
    assert steps_of(mirror, "admin_users") == jobs
    assert rows_at(mirror, "admin_users", TODAY - timedelta(days=2)) == [("1", "a"), ("2", "b")]
    assert rows_at(mirror, "admin_users", TODAY - timedelta(days=1)) == [("1", "a"), ("2", "c")]
    assert rows_at(mirror, "admin_users") == [("2", "c")]
    # The table that does not change was written once.
    (found,) = report.requests
    assert (found.outcome.steps, found.outcome.written) == (6, 4)


async def test_a_second_build_does_nothing(mirror: Mirror) -> None:
    await add_day(mirror, {USERS: b"id\n1\n"})
    await build(mirror)
    before = {path.name: path.stat().st_mtime_ns for path in folder_of(mirror).iterdir()}
    report = await build(mirror)

    assert (report.requests[0].outcome.steps, report.is_complete) == (0, True)
    assert {path.name: path.stat().st_mtime_ns for path in folder_of(mirror).iterdir()} == before


async def test_a_day_without_a_change_writes_no_parquet_file(mirror: Mirror) -> None:
    await add_day(mirror, {USERS: b"id\n1\n"}, days_ago=1)
    await build(mirror)
    before = (folder_of(mirror) / "admin_users.parquet").stat()
    job = await add_day(mirror, {USERS: b"id\n1\n"})
    await build(mirror)

    assert (folder_of(mirror) / "admin_users.parquet").stat() == before
    assert steps_of(mirror, "admin_users")[-1] == job


async def test_only_the_tables_that_are_configured_have_a_history(mirror: Mirror) -> None:
    await add_day(mirror, {USERS: b"id\n1\n", "issues_x.csv": b"a\n1\n"})
    await build(mirror, HistorySettings(tables=("admin_*",)))
    assert set(state_of(mirror).tables) == {"admin_users"}

    await build(mirror)
    assert set(state_of(mirror).tables) == {"admin_users", "issues_x"}


async def test_two_extracts_on_one_day_are_two_steps(mirror: Mirror) -> None:
    for hours in (2, 1):
        await add_day(mirror, {USERS: f"id\n{hours}\n".encode()}, days_ago=hours / 24)
    await build(mirror)

    assert [step.rows for step in state_of(mirror).tables["admin_users"].steps] == [1, 1]
    assert rows_at(mirror, "admin_users", TODAY - timedelta(hours=2)) == [("2",)]


async def test_a_table_that_vanishes_and_comes_back_has_a_gap(mirror: Mirror) -> None:
    first = await add_day(mirror, {USERS: b"id\n1\n"}, days_ago=2)
    await build(mirror)
    await add_day(mirror, {"admin_x.csv": b"a\n1\n"}, days_ago=1)
    await build(mirror)
    third = await add_day(mirror, {USERS: b"id\n2\n"})
    await build(mirror)

    assert steps_of(mirror, "admin_users") == [first, third]
    assert rows_at(mirror, "admin_users") == [("2",)]


async def test_a_table_that_cannot_be_read_waits_with_an_alert_and_the_others_go_on(mirror: Mirror) -> None:
    await add_day(mirror, {USERS: b"id,n\n1,a\n", "admin_x.csv": b"a\n1\n"}, days_ago=2)
    await build(mirror)
    bad = await add_day(mirror, {USERS: b"id,n\n1,a\n2\n", "admin_x.csv": b"a\n2\n"}, days_ago=1)
    report = await build(mirror)

    assert not report.is_complete
    (alert,) = await alerts(mirror)
    assert alert.subject.endswith("/admin_users")
    assert "line 3: it has 1 field and the header 2" in alert.message
    assert USERS in alert.message
    assert rows_at(mirror, "admin_x") == [("2",)]
    assert rows_at(mirror, "admin_users") == [("1", "a")]

    third = await add_day(mirror, {USERS: b"id,n\n1,b\n", "admin_x.csv": b"a\n2\n"})
    await build(mirror)
    assert await alerts(mirror) == []
    table = state_of(mirror).tables["admin_users"]
    assert (table.steps[-1].job, [each.job for each in table.omitted]) == (third, [bad])


async def test_a_pruned_snapshot_in_the_middle_is_a_coarser_step(mirror: Mirror) -> None:
    for day in range(3):
        await add_day(mirror, {USERS: f"id\n{day}\n".encode()}, days_ago=4 - day)
    await pruned(mirror, KeepPolicy(last=1), force=True)
    await add_day(mirror, {USERS: b"id\n9\n"})
    await build(mirror)

    assert [step.rows for step in state_of(mirror).tables["admin_users"].steps] == [1, 1]
    assert rows_at(mirror, "admin_users", TODAY - timedelta(days=1)) == [("2",)]


async def test_what_was_built_stays_when_its_snapshots_are_pruned(mirror: Mirror) -> None:
    for day in range(3):
        await add_day(mirror, {USERS: f"id\n{day}\n".encode()}, days_ago=4 - day)
    await build(mirror)
    await pruned(mirror, KeepPolicy(last=1), force=True)
    await add_day(mirror, {USERS: b"id\n9\n"})
    report = await build(mirror, rebuilds=True)

    assert report.requests[0].outcome.kept == ["admin_users"]
    assert rows_at(mirror, "admin_users", TODAY - timedelta(days=4)) == [("0",)]
    assert rows_at(mirror, "admin_users") == [("9",)]


async def test_a_snapshot_that_comes_late_takes_its_place(mirror: Mirror) -> None:
    first = await add_day(mirror, {USERS: b"id\n1\n"}, days_ago=3)
    third = await add_day(mirror, {USERS: b"id\n3\n"}, days_ago=1)
    await build(mirror)
    second = await add_day(mirror, {USERS: b"id\n2\n"}, days_ago=2)
    await build(mirror)

    assert steps_of(mirror, "admin_users") == [first, second, third]
    assert rows_at(mirror, "admin_users", TODAY - timedelta(days=2)) == [("2",)]


async def test_a_snapshot_that_comes_late_is_left_out_if_the_history_cannot_begin_again(mirror: Mirror) -> None:
    for day in (5, 4, 3, 1):
        await add_day(mirror, {USERS: f"id\n{day}\n".encode()}, days_ago=day)
    await build(mirror)
    await pruned(mirror, KeepPolicy(last=1), force=True)
    late = await add_day(mirror, {USERS: b"id\n2\n"}, days_ago=2)
    await build(mirror)

    assert [each.job for each in state_of(mirror).tables["admin_users"].omitted] == [late]
    assert rows_at(mirror, "admin_users", TODAY - timedelta(days=5)) == [("5",)]
    assert await alerts(mirror) == []


async def test_history_json_is_completed_from_the_files(mirror: Mirror) -> None:
    await add_day(mirror, {USERS: b"id\n1\n"}, days_ago=1)
    await build(mirror)
    old = (folder_of(mirror) / "history.json").read_bytes()
    await add_day(mirror, {USERS: b"id\n2\n"})
    await build(mirror)
    wanted = state_of(mirror)
    for body in (old, b"{", b""):
        # As if the process had ended between the Parquet file and history.json.
        (folder_of(mirror) / "history.json").write_bytes(body)
        report = await build(mirror)
        assert state_of(mirror) == wanted
        assert report.requests[0].outcome.written == 0


@pytest.mark.parametrize("damage", ["missing", "damaged", "foreign", "older"])
async def test_a_file_that_cannot_be_used_is_built_again(mirror: Mirror, damage: str) -> None:
    await add_day(mirror, {USERS: b"id\n1\n"}, days_ago=2)
    await add_day(mirror, {USERS: b"id\n2\n"}, days_ago=1)
    await build(mirror)
    path = folder_of(mirror) / "admin_users.parquet"
    match damage:
        case "missing":
            path.unlink()
        case "damaged":
            path.write_bytes(b"PAR1")
        case "foreign":
            path.unlink()
            path.symlink_to("/etc/passwd")
        case _:
            duckdb.execute(f"COPY (SELECT 1) TO '{path}' (KV_METADATA {{dcsync: '{{\"format\": 0}}'}})")
    await add_day(mirror, {USERS: b"id\n3\n"})
    await build(mirror)

    assert await alerts(mirror) == []
    assert len(steps_of(mirror, "admin_users")) == 3
    assert rows_at(mirror, "admin_users", TODAY - timedelta(days=2)) == [("1",)]


async def test_a_file_that_cannot_be_used_waits_if_its_snapshots_are_pruned(mirror: Mirror) -> None:
    for day in range(3):
        await add_day(mirror, {USERS: f"id\n{day}\n".encode()}, days_ago=4 - day)
    await build(mirror)
    await pruned(mirror, KeepPolicy(last=1), force=True)
    (folder_of(mirror) / "admin_users.parquet").write_bytes(b"PAR1")
    await add_day(mirror, {USERS: b"id\n9\n"})
    await build(mirror)

    (alert,) = await alerts(mirror)
    assert "no snapshot has the rows of 2 steps (2026-" in alert.message
    assert "from a backup" in alert.hint
    assert "dcsync history --rebuild --accept-loss" in alert.hint
    assert not (await build(mirror, rebuilds=True)).is_complete
    assert (await build(mirror, rebuilds=True, accepts_loss=True)).is_complete
    assert await alerts(mirror) == []


async def test_deleting_the_history_builds_it_again(mirror: Mirror) -> None:
    await add_day(mirror, {USERS: b"id\n1\n"})
    await build(mirror)
    shutil.rmtree(folder_of(mirror))
    await build(mirror)

    assert rows_at(mirror, "admin_users") == [("1",)]


async def test_switching_it_off_resolves_its_alerts(mirror: Mirror) -> None:
    await add_day(mirror, {USERS: b"id,n\n2\n"})
    await build(mirror)
    assert len(await alerts(mirror)) == 1
    await build(mirror, HistorySettings())
    assert await alerts(mirror) == []


async def test_hive_readers_skip_the_history(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"layout": "hive"}
    await add_day(mirror, {USERS: b"id\n1\n"})
    await build(mirror, ALL)

    assert folder_of(mirror).name == "_history"


async def test_cancelling_ends_a_statement() -> None:
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def work(stopping: Stopping) -> None:
        with opened(memory=128 << 20, spill=None) as engine:
            stopping.watch(engine)
            loop.call_soon_threadsafe(begun.set)
            # If the interrupt is lost, it ends after a minute.
            engine.run("SELECT sum(i * j) FROM range(10000000) a(i), range(1000) b(j)")

    async with asyncio.TaskGroup() as group:
        task = group.create_task(in_thread(work))
        await begun.wait()
        task.cancel()
        await asyncio.wait({task}, timeout=60)
        assert task.cancelled()


async def test_a_snapshot_that_was_pruned_a_moment_ago_is_no_problem(mirror: Mirror) -> None:
    await add_day(mirror, {USERS: b"id\n1\n"}, days_ago=1)
    await add_day(mirror, {USERS: b"id\n2\n"})
    (first, _) = mirror.snapshots()
    # Another process renames a folder before it records that.
    first.rename(mirror.folder / "pruned")
    async with mirror.opened(notices_missing=False) as context:
        await catch_up(context, account_settings(mirror.configuration()), ALL)
        assert await BrokenParts(context.manifest, mirror.acme).load() == ()
    assert [step.rows for step in state_of(mirror).tables["admin_users"].steps] == [1]
    # It is looked at again, in case that it comes back.
    assert state_of(mirror).jobs == ()


async def test_another_layout_takes_the_history_along(mirror: Mirror) -> None:
    await add_day(mirror, {USERS: b"id\n1\n"}, days_ago=5)
    await add_day(mirror, {USERS: b"id\n2\n"}, days_ago=4)
    await build(mirror)
    await pruned(mirror, KeepPolicy(last=1))
    for layout in ("hive", "{account}/{date:%Y}/{request}-{job}", "dated"):
        mirror.config["mirror"] = {"layout": layout, "latest": "none"}
        await add_day(mirror, {USERS: f"id\n{layout}\n".encode()}, days_ago=3 - len(mirror.snapshots()) / 10)
        await build(mirror)
        (found,) = mirror.root.glob("[!.]*/**/history.json")
        assert rows_in(found.parent, "admin_users", TODAY - timedelta(days=5)) == [("1",)]


async def test_a_history_is_nothing_that_verify_or_rebuild_report(mirror: Mirror) -> None:
    for layout in ("dated", "hive"):
        mirror.config["mirror"] = {"layout": layout}
        await add_day(mirror, {USERS: f"id\n{layout}\n".encode()}, days_ago=len(layout) / 10)
        await build(mirror)
        async with mirror.opened() as context:
            report = await verify(context, account_settings(mirror.configuration()))
            assert report.damage == []
            rebuilt = await rebuild(context, account_settings(mirror.configuration()))
            assert (rebuilt.is_whole, rebuilt.refused) == (True, [])


async def test_a_data_request_is_built_by_one_process_at_a_time(mirror: Mirror) -> None:
    await add_day(mirror, {USERS: b"id\n1\n"})
    async with mirror.opened() as context:
        accounts = account_settings(mirror.configuration())
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(catch_up(context, accounts, ALL)) for _ in range(3)]
        assert sum(task.result().steps for task in tasks) == 1


async def test_a_rebuild_that_lacks_a_snapshot_leaves_the_history_as_it_was(mirror: Mirror) -> None:
    for day in range(3):
        await add_day(mirror, {USERS: f"id\n{day}\n".encode()}, days_ago=3 - day)
    await build(mirror)
    before = {path.name: path.read_bytes() for path in folder_of(mirror).iterdir()}
    # Another process renames a folder before it records that.
    mirror.snapshots()[1].rename(mirror.folder / "pruned")
    async with mirror.opened(notices_missing=False) as context:
        accounts = account_settings(mirror.configuration())
        report = await catch_up(context, accounts, ALL, chosen=Chosen(rebuilds=True))
    (failed,) = report.requests[0].outcome.failed
    assert "a snapshot was removed" in failed.reason
    assert {path.name: path.read_bytes() for path in folder_of(mirror).iterdir()} == before


async def test_two_data_requests_are_built_at_the_same_time(mirror: Mirror) -> None:
    for name in ("One", "Two"):
        request = mirror.world.add_request(name)
        for day in range(3):
            files = {f"t{number}.csv": f"id\n{name}{day}\n".encode() for number in range(5)}
            add_extract(mirror, files, request=request, days_ago=3 - day)
    await mirror.sync()
    async with mirror.opened() as context, asyncio.TaskGroup() as group:
        accounts = account_settings(mirror.configuration())
        for name in ("One", "Two", "One", "Two"):
            chosen = Chosen(requests=[name], rebuilds=True)
            group.create_task(catch_up(context, accounts, ALL, chosen=chosen))
    for folder in mirror.root.glob("acme/*/history"):
        for number in range(5):
            (row,) = rows_in(folder, f"t{number}")
            assert row in {("One2",), ("Two2",)}
    assert await alerts(mirror) == []
    assert (await build(mirror)).steps == 0


async def test_a_folder_that_cannot_be_used_stops_no_other_data_request(mirror: Mirror) -> None:
    for name in ("One", "Two"):
        add_extract(mirror, {USERS: b"id\n1\n"}, request=mirror.world.add_request(name))
    await mirror.sync()
    (one,) = mirror.root.glob("acme/one-*")
    (one / "history").write_bytes(b"")
    await build(mirror)

    (alert,) = await alerts(mirror)
    assert f"{one.name}/history" in alert.message
    assert len(list(mirror.root.glob("acme/two-*/history/admin_users.parquet"))) == 1
    (one / "history").unlink()
    await build(mirror)
    assert await alerts(mirror) == []


async def test_cancelling_again_or_an_error_at_the_end_is_still_a_cancellation() -> None:
    begun, stopped = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work(stopping: Stopping) -> None:
        with opened(memory=128 << 20, spill=None) as engine:
            stopping.watch(engine)
        loop.call_soon_threadsafe(begun.set)
        # It is asked to stop, and needs a moment with a closed engine.
        assert stopped.wait(60)
        raise RowsFailed("a disk is full")

    async with asyncio.TaskGroup() as group:
        task = group.create_task(in_thread(work))
        await begun.wait()
        for _ in range(3):
            task.cancel()
            await asyncio.wait({task}, timeout=0.2)
            assert not task.done()
        stopped.set()
        await asyncio.wait({task}, timeout=60)
        assert task.cancelled()
