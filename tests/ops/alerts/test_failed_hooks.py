"""Hooks that fail: the alert, the rerun, and how long runs are kept."""

from __future__ import annotations

from dcsync.manifest import StandingAlerts
from dcsync.ops.context import SyncContext
from tests.rigs.listener import DAY, EVERYTHING, Listener, make_dispatcher
from tests.rigs.mirror import Mirror, add_extract, tables


async def load_standing(context: SyncContext, code: str) -> list[tuple[str, str]]:
    """Return message and subject of the standing alerts with that code."""
    found = await StandingAlerts(context.manifest).load(["acme"])
    return [(item.alert.message, item.alert.subject) for item in found if item.alert.code == code]


async def test_a_failed_hook_is_an_alert_until_a_rerun_succeeds(mirror: Mirror, listener: Listener) -> None:
    ready = mirror.folder / "ready"
    load = ["/usr/bin/env", "test", "-e", str(ready)]
    mirror.config["notify"] = {"on": EVERYTHING}
    mirror.config["hook"].append({"on": ["snapshot"], "run": load})
    job = add_extract(mirror, tables(1))
    for wait in (0, 60, 600):
        mirror.clock.advance(wait)
        await mirror.run()
    await mirror.run()

    async with mirror.opened() as context:
        dispatcher = await make_dispatcher(mirror, context)
        assert await load_standing(context, "H-FAILED") == [
            (f"the hook /usr/bin/env failed for snapshot {job}: exit status 1", "/usr/bin/env")
        ]
        # It is no reason to run hooks, or it would never end.
        assert listener.kinds() == [("snapshot", "")]
        mirror.clock.advance(3 * DAY)
        ready.touch()
        assert await dispatcher.rerun(job) == 2
        await dispatcher.run_hooks()
    await mirror.run()

    async with mirror.opened() as context:
        assert await load_standing(context, "H-FAILED") == []


async def test_a_failed_hook_that_is_no_longer_configured_is_not_an_alert(mirror: Mirror) -> None:
    mirror.config["hook"] = [{"on": ["snapshot"], "run": ["/bin/false"]}]
    add_extract(mirror, tables(1))
    for wait in (0, 60, 600, 0):
        mirror.clock.advance(wait)
        await mirror.run()
    async with mirror.opened() as context:
        assert len(await load_standing(context, "H-FAILED")) == 1

    mirror.config["hook"] = []
    await mirror.run()

    async with mirror.opened() as context:
        assert await load_standing(context, "H-FAILED") == []


async def test_a_rerun_of_an_unknown_job_runs_nothing(mirror: Mirror, listener: Listener) -> None:
    async with mirror.opened() as context:
        assert await (await make_dispatcher(mirror, context)).rerun("no such job") == 0


async def test_hook_runs_are_deleted_after_90_days(mirror: Mirror, listener: Listener) -> None:
    add_extract(mirror, tables(1))
    await mirror.run()
    mirror.clock.advance(91 * DAY)

    async with mirror.opened() as context:
        dispatcher = await make_dispatcher(mirror, context)
        assert await dispatcher.hook_runs(job=None, limit=10) == ()
