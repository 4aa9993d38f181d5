"""Loads: which tables go into the target, in which order, and what is told about those that do not."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from datetime import timedelta

import pytest

from dcsync.app.from_config import account_settings
from dcsync.core.load_plan import Action
from dcsync.core.load_state import LoadState
from dcsync.core.loads import LoadMode
from dcsync.errors import ConfigError, LoadFailed, ValueRefused
from dcsync.ops.loads.run import WantedLoad, forget_other_loads, run_loads
from dcsync.ops.loads.states import load_state
from tests.rigs.fake_target import WHERE, FakeTarget, load_alerts, run, wanted
from tests.rigs.histories import add_day, build
from tests.rigs.mirror import Mirror
from tests.rigs.waiting import until

pytestmark = pytest.mark.timeout(120)

USERS, ROLES = b"id,name\n1,a\n2,b\n", b"id\n7\n"


async def state_of(mirror: Mirror, name: str = "x") -> LoadState:
    async with mirror.opened() as context:
        return await load_state(context.manifest, name)


def work_of(mirror: Mirror) -> list[str]:
    return sorted(path.name for path in (mirror.root / ".dcsync/load").iterdir())


async def test_each_table_of_the_newest_snapshot_is_loaded(mirror: Mirror) -> None:
    target = FakeTarget()
    await add_day(mirror, {"users.csv": b"id,name\n9,z\n"}, days_ago=1)
    job = await add_day(mirror, {"users.csv": USERS, "roles.csv": ROLES})

    (report,) = await run(mirror, wanted(target))

    assert report.is_complete
    assert target.rows == {"users": [("1", "a"), ("2", "b")], "roles": [("7",)]}
    assert {each.job for each in target.state.values()} == {job}
    state = await state_of(mirror)
    assert (state.target, state.attempts, state.next_try_at) == (WHERE, 0, None)
    assert [(table.table, table.job, table.rows) for table in state.tables] == [("roles", job, 1), ("users", job, 2)]
    assert work_of(mirror) == ["x.lock"]


async def test_a_day_loads_what_changed_and_marks_the_rest(mirror: Mirror) -> None:
    target = FakeTarget()
    await add_day(mirror, {"users.csv": USERS, "roles.csv": ROLES}, days_ago=1)
    await run(mirror, wanted(target))
    job = await add_day(mirror, {"users.csv": b"id,name\n3,c\n", "roles.csv": ROLES})

    await run(mirror, wanted(target))

    assert target.loaded == ["roles", "users", "users"]
    assert target.marked == ["roles"]
    assert target.rows["users"] == [("3", "c")]
    assert {each.job for each in target.state.values()} == {job}


async def test_without_a_new_snapshot_the_daemon_does_not_even_connect(mirror: Mirror) -> None:
    target = FakeTarget()
    await add_day(mirror, {"users.csv": USERS})
    await run(mirror, wanted(target))

    assert await run(mirror, wanted(target), insists=False) == []
    assert target.opened == 1
    assert len(await run(mirror, wanted(target, tables=("users",)), insists=False)) == 1


async def test_a_table_that_fails_is_an_alert_until_it_works_and_stops_no_other(mirror: Mirror) -> None:
    refused = ValueRefused(WHERE, "roles", "not a number", column="id", place="row 1")
    target = FakeTarget(fails={"roles": refused})
    await add_day(mirror, {"users.csv": USERS, "roles.csv": ROLES})

    (report,) = await run(mirror, wanted(target))

    assert (report.is_complete, report.next_try_at) == (False, None)
    assert list(target.rows) == ["users"]
    (alert,) = await load_alerts(mirror)
    assert alert.subject == "x/roles"
    assert alert.message == f"the load x into {WHERE}: roles is not up to date: row 1, column id: not a number"
    assert alert.hint.endswith(". The next try is with the next snapshot. To try at once: dcsync load x")
    assert await run(mirror, wanted(target), insists=False) == []

    target.fails.clear()
    await run(mirror, wanted(target))
    assert await load_alerts(mirror) == []
    assert target.loaded == ["users", "roles"]


async def test_a_target_that_is_away_is_tried_again_at_growing_intervals(mirror: Mirror) -> None:
    target = FakeTarget(is_away=True)
    await add_day(mirror, {"users.csv": USERS})
    start = mirror.clock.now()

    waits = []
    for _ in range(4):
        (report,) = await run(mirror, wanted(target), insists=False)
        assert report.next_try_at is not None
        assert await run(mirror, wanted(target), insists=False) == []
        waits.append((report.next_try_at - mirror.clock.now()).total_seconds() / 60)
        mirror.clock.advance(waits[-1] * 60)
    (alert,) = await load_alerts(mirror)
    target.is_away = False
    (report,) = await run(mirror, wanted(target), insists=False)

    assert waits == [1, 10, 60, 60]
    assert alert.message == f"the load x into {WHERE} failed: connection refused"
    assert f". The next try is at {start:%Y-%m-%d} 14:11 UTC, or with the next snapshot. To try" in alert.hint
    assert await load_alerts(mirror) == []
    assert list(target.rows) == ["users"]


async def test_a_new_snapshot_is_tried_at_once(mirror: Mirror) -> None:
    target = FakeTarget(is_away=True)
    await add_day(mirror, {"users.csv": USERS}, days_ago=1)
    await run(mirror, wanted(target))
    await add_day(mirror, {"users.csv": ROLES})

    assert len(await run(mirror, wanted(target), insists=False)) == 1


async def test_what_the_target_shows_is_remembered_while_it_is_away(mirror: Mirror) -> None:
    target = FakeTarget()
    job = await add_day(mirror, {"users.csv": USERS})
    await run(mirror, wanted(target))
    target.is_away = True
    await run(mirror, wanted(target))

    state = await state_of(mirror)
    assert (state.attempts, state.problem, state.tables[0].job) == (1, "connection refused", job)
    assert state.done_at is not None


async def test_a_load_that_cannot_begin_stops_no_other(mirror: Mirror) -> None:
    def refuse() -> None:
        raise ConfigError("the environment variable X is not set", hint="set it")

    def bug() -> None:
        raise ZeroDivisionError("secret")

    target = FakeTarget()
    await add_day(mirror, {"users.csv": USERS})
    bad = [WantedLoad(settings=wanted(target, name).settings, prepare=how) for name, how in (("a", refuse), ("b", bug))]  # type: ignore[arg-type]

    reports = await run(mirror, [*bad, wanted(target)])

    assert [report.is_complete for report in reports] == [False, False, True]
    first, second = await load_alerts(mirror)
    assert first.message == "the load a failed: the environment variable X is not set"
    assert second.message == "the load b failed: a bug in dcsync (ZeroDivisionError)"


async def test_a_bug_in_one_table_stops_no_other(mirror: Mirror) -> None:
    target = FakeTarget(fails={"roles": ZeroDivisionError("x"), "more": LoadFailed(WHERE, "more", "full")})
    await add_day(mirror, {"users.csv": USERS, "roles.csv": ROLES, "more.csv": ROLES})

    (report,) = await run(mirror, wanted(target))

    assert list(target.rows) == ["users"]
    assert {each.planned.table: each.problem.reason for each in report.problems if each.problem is not None} == {
        "more": "full",
        "roles": "a bug in dcsync (ZeroDivisionError)",
    }


async def test_a_dry_run_changes_nothing(mirror: Mirror) -> None:
    target = FakeTarget()
    await add_day(mirror, {"users.csv": USERS, "activities_x.csv": ROLES})

    (report,) = await run(mirror, wanted(target), is_dry=True)

    assert {each.planned.table: each.planned.action for each in report.outcome.tables} == {
        "activities_x": Action.SKIP,
        "users": Action.LOAD,
    }
    assert (target.rows, await state_of(mirror)) == ({}, LoadState())


async def test_everything_is_loaded_again_if_wanted(mirror: Mirror) -> None:
    target = FakeTarget()
    await add_day(mirror, {"users.csv": USERS})
    await run(mirror, wanted(target))

    await run(mirror, wanted(target), is_full=True)

    assert target.loaded == ["users", "users"]


async def test_names_that_match_nothing_are_an_alert(mirror: Mirror) -> None:
    target = FakeTarget()
    assert (await run(mirror, wanted(target, tables=("users",))))[0].is_complete
    await add_day(mirror, {"users.csv": USERS})

    await run(mirror, [wanted(target, tables=("user",)), wanted(target, "h", mode=LoadMode.HISTORY)])

    assert [alert.message for alert in await load_alerts(mirror)] == [
        f"the load x into {WHERE} failed: no table of a snapshot matches it",
        f"the load h into {WHERE} failed: no table that it names has a row history",
    ]


async def test_alerts_of_loads_that_are_not_configured_are_resolved(mirror: Mirror) -> None:
    target = FakeTarget(is_away=True)
    await add_day(mirror, {"users.csv": USERS})
    await run(mirror, [wanted(target), wanted(target, "y")])

    async with mirror.opened() as context:
        await forget_other_loads(context.manifest, ["y"])

    assert [alert.subject for alert in await load_alerts(mirror)] == ["y"]


async def test_what_a_killed_load_left_is_removed(mirror: Mirror) -> None:
    left = mirror.root / ".dcsync/load/x.work/deep"
    left.mkdir(parents=True)
    (left / "data").write_text("x")
    await add_day(mirror, {"users.csv": USERS})

    await run(mirror, wanted(FakeTarget()))

    assert work_of(mirror) == ["x.lock"]


async def test_a_file_that_leaves_the_mirror_meanwhile_is_looked_for_again(mirror: Mirror) -> None:
    job = await add_day(mirror, {"users.csv": USERS, "roles.csv": ROLES})
    (path,) = mirror.root.glob("acme/*/2*/*/*/*/users.csv")
    moved = path.with_name("away")
    target = FakeTarget()

    def leave_and_return(opened: int) -> None:
        if opened == 1:
            path.rename(moved)
        else:
            moved.rename(path)

    target.entered = leave_and_return
    (report,) = await run(mirror, wanted(target))

    assert report.is_complete
    assert (target.opened, {each.job for each in target.state.values()}) == (2, {job})


async def test_a_file_that_is_missing_is_an_alert(mirror: Mirror) -> None:
    await add_day(mirror, {"users.csv": USERS})
    (path,) = mirror.root.glob("acme/*/2*/*/*/*/users.csv")
    path.unlink()

    (report,) = await run(mirror, wanted(FakeTarget()))

    (problem,) = report.problems
    assert problem.problem is not None
    assert problem.problem.reason == f"{path.relative_to(mirror.root)} is no longer in the mirror"


async def test_cancelling_interrupts_the_target(mirror: Mirror) -> None:
    target = FakeTarget()
    target.before = target.wait_for_interrupt
    await add_day(mirror, {"users.csv": USERS})

    async with asyncio.TaskGroup() as group:
        task = group.create_task(run(mirror, wanted(target)))
        await until(lambda: target.opened, "the load")
        task.cancel()

    assert task.cancelled()
    assert target.interrupted.is_set()
    assert target.rows == {}


async def test_a_target_that_does_not_react_delays_no_end(mirror: Mirror) -> None:
    target, answers = FakeTarget(), threading.Event()
    target.before = answers.wait
    await add_day(mirror, {"users.csv": USERS})

    async with asyncio.TaskGroup() as group:
        task = group.create_task(run(mirror, wanted(target)))
        await until(lambda: target.opened, "the load")
        task.cancel()

    assert task.cancelled()
    assert target.interrupted.is_set()
    assert target.rows == {}
    answers.set()


async def test_a_target_that_never_answers_is_an_alert_and_the_next_load_runs(mirror: Mirror) -> None:
    target, other = FakeTarget(), FakeTarget()
    target.before = target.wait_for_interrupt
    await add_day(mirror, {"users.csv": USERS})

    frozen = replace(wanted(target), limit=timedelta(seconds=0.2))
    report, _ = await run(mirror, [frozen, wanted(other, "y")])

    assert report.outcome.problem is not None
    assert report.next_try_at is not None
    assert other.loaded == ["users"]
    (alert,) = await load_alerts(mirror)
    assert alert.subject == "x"
    assert "a table was not loaded within less than an hour" in alert.message


async def test_of_two_at_once_the_second_finds_everything_loaded(mirror: Mirror) -> None:
    target = FakeTarget()
    await add_day(mirror, {"users.csv": USERS, "roles.csv": ROLES})

    async with mirror.opened() as context, asyncio.TaskGroup() as group:
        accounts = account_settings(mirror.configuration())
        tasks = [group.create_task(run_loads(context, accounts, [wanted(target)])) for _ in range(2)]

    assert sorted(target.loaded) == ["roles", "users"]
    assert all(report.is_complete for task in tasks for report in task.result())


# --- the mode history -------------------------------------------------------------------------------------------------


async def test_the_row_history_is_loaded_once_and_then_its_changes(mirror: Mirror) -> None:
    target = FakeTarget()
    await add_day(mirror, {"users.csv": USERS, "activities_x.csv": ROLES}, days_ago=2)
    await build(mirror)
    await run(mirror, wanted(target, mode=LoadMode.HISTORY))
    job = await add_day(mirror, {"users.csv": b"id,name\n1,a\n", "activities_x.csv": ROLES}, days_ago=1)
    await build(mirror)
    await run(mirror, wanted(target, mode=LoadMode.HISTORY))

    assert target.loaded == ["activities_x", "users", "users"]
    assert target.wholes == [True, True, False]
    assert target.marked == ["activities_x"]
    assert target.state["users"].job == job
    assert target.rows["users"] == [("1", "a"), ("2", "b")]


async def test_a_history_that_began_again_is_loaded_from_its_beginning(mirror: Mirror) -> None:
    target = FakeTarget()
    await add_day(mirror, {"users.csv": USERS}, days_ago=1)
    await build(mirror)
    await run(mirror, wanted(target, mode=LoadMode.HISTORY))
    await add_day(mirror, {"users.csv": ROLES.replace(b"id", b"id,name").replace(b"7", b"7,x")}, days_ago=2)
    await build(mirror)
    await run(mirror, wanted(target, mode=LoadMode.HISTORY))

    assert target.wholes == [True, True]


@pytest.mark.parametrize("mode", LoadMode)
async def test_types_come_from_the_schema_documents(mirror: Mirror, mode: LoadMode) -> None:
    target = FakeTarget()
    # The sandbox adds the schema documents to the archive.
    await add_day(mirror, {"admin_users.csv": USERS}, with_archive=True)
    await build(mirror)

    await run(mirror, wanted(target, mode=mode))

    assert target.types["admin_users"]["project_id"] == "VARCHAR"
