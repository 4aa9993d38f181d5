"""What a poll could not read is in the outcome of the run, and nothing that waits for it is forgotten."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dcsync.api import client, transport
from dcsync.errors import ExitStatus
from dcsync.ops.mirroring import job_lists
from dcsync.sandbox import Fault
from tests.rigs.listener import DAY, HOUR
from tests.rigs.mirror import Mirror, add_extract, status_of, tables


@pytest.fixture(autouse=True)
def retries_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "backoff", lambda *_, **__: 0.0)


def configure(mirror: Mirror, *requests: str) -> None:
    mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id, "requests": list(requests)}]


async def test_a_data_request_that_a_pattern_may_match_waits_until_it_can_be_read(mirror: Mirror) -> None:
    """After a day, it was not asked for again. Its extracts were never mirrored, and no alert said so."""
    configure(mirror, "My *")
    job = add_extract(mirror, tables(1), request=mirror.world.add_request("My Extract", schedule="ONE_TIME"))
    mirror.sandbox.faults.add(Fault(server="api", kind="status", match="/requests", times=None))
    for _ in range(4):
        outcome = await mirror.run()
        assert outcome.exit_status is ExitStatus.INCOMPLETE
        assert [part.code for part in outcome.broken] == ["L-REQUEST"]
        status = await status_of(mirror)
        # The list of data requests may be an alert too.
        assert set(status.codes) - {"L-LIST"} == {"L-REQUEST"}
        assert status.check is ExitStatus.INCOMPLETE
        mirror.clock.advance(DAY)

    mirror.sandbox.faults.clear()
    outcome = await mirror.run()

    assert [found.job for found in outcome.published] == [job]
    assert (outcome.broken, outcome.exit_status, (await status_of(mirror)).codes) == ([], ExitStatus.DONE, [])


async def test_a_data_request_that_the_configuration_does_not_name_is_no_alert(mirror: Mirror) -> None:
    named = mirror.world.add_request("Nightly", schedule="ONE_TIME")
    configure(mirror, named)
    add_extract(mirror, tables(1), request=named)
    await mirror.run()
    add_extract(mirror, tables(1, seed=1), request=mirror.world.add_request("Other", schedule="ONE_TIME"))
    mirror.sandbox.faults.add(Fault(server="api", kind="status", match="/requests", times=None))

    outcome = await mirror.run()

    assert (outcome.broken, outcome.exit_status, (await status_of(mirror)).codes) == ([], ExitStatus.DONE, [])


async def test_a_run_whose_job_list_does_not_end_is_incomplete(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    """`status --check` said 3 and `sync` said 0."""
    monkeypatch.setattr(client, "PAGE_SIZE", 5)
    monkeypatch.setattr(job_lists, "MOST_PAGES", 2)
    request = mirror.world.add_request("Nightly", schedule="ONE_TIME")
    for number in range(30):
        created_at = mirror.clock.now() - timedelta(seconds=number)
        mirror.world.add_job(request, status="running", created_at=created_at, completed_at=None, files={})

    outcome = await mirror.run()

    assert [(part.code, part.subject) for part in outcome.broken] == [("L-LIST", "jobs")]
    assert outcome.exit_status is ExitStatus.INCOMPLETE


async def test_a_dry_run_shows_a_quarantined_job_that_is_due_and_writes_nothing(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    mirror.sandbox.faults.add(Fault(server="storage", kind="short", amount=5, times=None))
    for _ in range(3):
        await mirror.sync()
        mirror.clock.advance(HOUR)
    assert (await mirror.sync_one(dry_run=True)).planned == []
    mirror.clock.advance(DAY)

    outcome = await mirror.sync_one(dry_run=True)

    assert [planned.job for planned in outcome.planned] == [job]
    assert (await mirror.states())[job].value == "quarantined"
