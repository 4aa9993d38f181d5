"""When a new snapshot is sent: once, even after a kill, an adoption or a clock that was set back."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from dcsync.app.from_config import account_settings
from dcsync.app.sync import open_dispatcher
from dcsync.ops.mirroring.run import sync
from dcsync.sandbox import Fault
from tests.rigs.listener import HOUR, Listener
from tests.rigs.mirror import Mirror, add_extract, tables


async def run_killed_before_dispatch(mirror: Mirror) -> None:
    config = mirror.configuration()
    async with mirror.opened(config=config) as context:
        await open_dispatcher(config, mirror.stores(config), context, environ=mirror.environ)
        await sync(context, account_settings(config))


async def test_a_new_snapshot_is_sent_once_with_its_folder(mirror: Mirror, listener: Listener) -> None:
    job = add_extract(mirror, tables(2))

    await mirror.run()

    (event,) = listener.events()
    folder = mirror.snapshot_of(job)
    assert event == {
        "event": "snapshot",
        "account": "acme",
        "at": "2026-11-22T12:00:00.000Z",
        "code": "",
        "message": f"new snapshot {folder.relative_to(mirror.root)}",
        "hint": "",
        "job": job,
        "request": next(iter(mirror.world.requests)),
        "description": "My Company Data Extract",
        "folder": str(folder),
        "completed_at": "2026-11-22T12:00:00.000Z",
        "published_at": "2026-11-22T12:00:00.000Z",
        "fetched_bytes": 2001,
        "linked_bytes": 0,
    }
    mirror.clock.advance(HOUR)
    assert await listener.run() == []


async def test_the_next_run_sends_a_snapshot_of_a_run_that_was_killed(mirror: Mirror, listener: Listener) -> None:
    jobs = [add_extract(mirror, tables(1, seed=day), days_ago=2 - day) for day in range(2)]
    mirror.clock.advance(1)
    await mirror.run()
    assert [event["job"] for event in listener.events()] == jobs

    third = add_extract(mirror, tables(1, seed=3))
    mirror.clock.advance(1)
    await run_killed_before_dispatch(mirror)
    mirror.clock.advance(1)
    await mirror.run()

    assert [event["job"] for event in listener.events()] == [third]
    assert await listener.run() == []


async def test_a_hook_that_was_recorded_before_a_kill_runs_once(mirror: Mirror, listener: Listener) -> None:
    add_extract(mirror, tables(1))
    config = mirror.configuration()
    async with mirror.opened(config=config) as context:
        dispatcher = await open_dispatcher(
            config, mirror.stores(config), context, environ=mirror.environ, runs_hooks=False
        )
        (outcome,) = await sync(context, account_settings(config))
        await dispatcher.after_run(outcome)
    assert listener.kinds() == []

    assert await listener.run() == [("snapshot", "")]
    assert await listener.run() == []


async def test_a_new_hook_gets_no_events_for_existing_snapshots(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    await mirror.sync()
    listener = Listener(mirror)

    assert await listener.run() == []
    mirror.clock.advance(1)
    new = add_extract(mirror, tables(1, seed=1))
    await mirror.run()

    assert [event["job"] for event in listener.events()] == [new]


async def test_a_mirror_that_is_adopted_after_its_manifest_was_lost_sends_nothing(
    mirror: Mirror, listener: Listener
) -> None:
    for day in range(3):
        add_extract(mirror, tables(1, seed=day), days_ago=3 - day)
    await mirror.run()
    assert len(listener.events()) == 3
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()
    mirror.clock.advance(1)

    assert await listener.run() == []


async def test_a_single_adopted_snapshot_is_sent(mirror: Mirror, listener: Listener, tmp_path: Path) -> None:
    add_extract(mirror, tables(1), days_ago=1)
    await mirror.run()
    listener.events()
    # As after a kill between the rename and the commit.
    mirror.clock.advance(60)
    job = add_extract(mirror, tables(1, seed=1))
    await mirror.sync()
    folder, aside = mirror.snapshot_of(job), tmp_path / "aside"
    folder.rename(aside)
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/data-listing", times=None))
    mirror.clock.advance(60)
    await mirror.run()
    aside.rename(folder)
    mirror.clock.advance(60)

    assert await listener.run() == [("snapshot", "")]
    assert await listener.run() == []


async def test_a_snapshot_is_sent_even_after_the_clock_was_set_back(mirror: Mirror, listener: Listener) -> None:
    now = mirror.clock.now()
    mirror.clock.set_wall(now + timedelta(days=5))
    first = add_extract(mirror, tables(1))
    await mirror.run()
    mirror.clock.set_wall(now)
    second = add_extract(mirror, tables(1, seed=1))
    await mirror.run()
    third = add_extract(mirror, tables(1, seed=2))
    await mirror.run()

    assert [event["job"] for event in listener.events()] == [first, second, third]
    mirror.clock.set_wall(now + timedelta(days=6))
    assert await listener.run() == []


async def test_a_hook_gets_only_the_events_it_is_configured_for(mirror: Mirror) -> None:
    listener = Listener(mirror, on=["alert"])
    add_extract(mirror, tables(1))
    assert await listener.run() == []

    mirror.environ["TOKEN"] = "wrong"
    assert await listener.run() == [("alert", "T-LOGIN")]
