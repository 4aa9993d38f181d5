"""How many SQL statements a run costs. Each is a hand-over to a thread and back, and most of the CPU of a poll.

The limits are a little above today's numbers. Before you raise one, look for a row that is read twice, or for reads
that could share a statement or a moment (`SqlManifest.at_one_moment`).
"""

from __future__ import annotations

from dcsync.app.from_config import account_settings
from dcsync.app.sync import Reports, follow_up, open_dispatcher
from dcsync.ops.mirroring.run import sync
from tests.rigs.counted import counting_statements
from tests.rigs.mirror import Mirror, add_extract, status_of, tables


async def test_a_run_costs_few_statements(mirror: Mirror) -> None:
    add_extract(mirror, tables(2, seed=1), days_ago=2)
    await mirror.run()
    await mirror.run()

    with counting_statements() as nothing_new:
        await mirror.run()
    add_extract(mirror, tables(2, seed=2))
    with counting_statements() as one_new:
        await mirror.run()
    with counting_statements() as status:
        await status_of(mirror)

    assert len(nothing_new) <= 120
    # Four commits with the digest of the row that they change, the rows of the files, the run and the event.
    assert len(one_new) - len(nothing_new) <= 49
    assert len(status) <= 32


async def test_a_poll_of_ten_accounts_costs_ten_times_that_of_one(mirror: Mirror) -> None:
    mirror.config["account"] = [{"name": f"acme{number}", "id": mirror.world.hub_id} for number in range(10)]
    add_extract(mirror, tables(1))
    config, reports = mirror.configuration(), Reports()
    accounts = account_settings(config)
    async with mirror.opened() as context:
        dispatcher = await open_dispatcher(
            config, mirror.stores(config), context, environ=mirror.environ, runs_hooks=False
        )

        async def poll() -> None:
            await follow_up(config, context, dispatcher, await sync(context, accounts), reports)

        await poll()
        await poll()
        with counting_statements() as texts:
            await poll()

    # In a daemon, which keeps the mirror open. Nothing may be read for each pair of accounts.
    assert len(texts) <= 10 * 63
    # The time of the poll is all that changes.
    assert {text.split(" SET ")[0] for text in texts if not text.startswith("SELECT")} == {"UPDATE account"}
