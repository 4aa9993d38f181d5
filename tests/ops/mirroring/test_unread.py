"""What a poll could not read is in the outcome of the run, and nothing that waits for it is forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from dcsync.api import client
from dcsync.core.alerts import AlertCode
from dcsync.core.model import AccountId, AccountName, RequestId
from dcsync.errors import AccessRefused, ApiError, ApiFault, BadRequest, ExitStatus, NotFound
from dcsync.manifest import SqlManifest, open_manifest
from dcsync.manifest.broken import BrokenPart, BrokenParts
from dcsync.ops.context import AccountSettings
from dcsync.ops.mirroring import job_lists
from dcsync.ops.mirroring.poll import Poll, PollBefore
from dcsync.ops.mirroring.unread import broken_parts, read_before, record_unread
from dcsync.ops.observed import Observations
from dcsync.sandbox import Fault
from tests.fakes import NOON
from tests.rigs.listener import DAY, HOUR
from tests.rigs.mirror import Mirror, add_extract, status_of, tables


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


# --- what is kept between polls ---------------------------------------------------------------------------------------

ONE, TWO = "1" * 36, "2" * 36
DOWN = ApiFault("no answer")
REQUESTS = BrokenPart(code=AlertCode.L_LIST, subject="requests", message="the list of data requests")


def make_poll(
    *,
    projects: dict[str, ApiError] | None = None,
    requests: dict[str, ApiError] | None = None,
    endless: tuple[str | None, ...] = (),
) -> Poll:
    return Poll(
        changed=(),
        new_requests=(),
        jobs={},
        requests={},
        unread_projects=projects or {},
        unread_requests={RequestId(request): error for request, error in (requests or {}).items()},
        endless=endless,
    )


@pytest.fixture
async def manifest(tmp_path: Path) -> AsyncIterator[SqlManifest]:
    async with open_manifest(tmp_path / "manifest.sqlite") as opened:
        yield opened


ACCOUNT = AccountSettings(name=AccountName("acme"), id=AccountId("a1"))


async def test_the_next_poll_knows_what_the_last_one_could_not_read(manifest: SqlManifest) -> None:
    broken = BrokenParts(manifest, ACCOUNT.name)
    await broken.record(REQUESTS)
    await broken.record(BrokenPart(code=AlertCode.P_REPORT, subject="index.html", message="another part"))
    poll = make_poll(projects={ONE: DOWN}, requests={"R": DOWN}, endless=(None, TWO))

    await record_unread(manifest, ACCOUNT, poll)

    assert await read_before(manifest, ACCOUNT) == PollBefore(endless={None, TWO}, unread_requests={RequestId("R")})
    kept = [(part.code, part.subject) for part in await broken.load()]
    assert sorted(kept) == [
        ("L-LIST", TWO),
        ("L-LIST", "jobs"),
        ("L-LIST", "requests"),
        ("L-PROJECT", ONE),
        ("L-REQUEST", "R"),
        ("P-REPORT", "index.html"),
    ]


async def test_what_can_be_read_again_is_no_alert_any_more(manifest: SqlManifest) -> None:
    broken = BrokenParts(manifest, ACCOUNT.name)
    await broken.record(REQUESTS)
    await record_unread(manifest, ACCOUNT, make_poll(projects={ONE: DOWN}, requests={"R": DOWN}, endless=(None,)))

    await record_unread(manifest, ACCOUNT, make_poll())

    assert await broken.load() == (REQUESTS,)
    assert await Observations(manifest, ACCOUNT.name).unread_since() == {}


async def test_a_project_is_unread_since_the_last_poll_that_read_it(manifest: SqlManifest) -> None:
    observed = Observations(manifest, ACCOUNT.name)
    await manifest.record_poll(ACCOUNT.name, jobs=[], requests=[], at=NOON)
    await record_unread(manifest, ACCOUNT, make_poll(projects={ONE: DOWN}))
    await manifest.record_poll(ACCOUNT.name, jobs=[], requests=[], at=NOON + timedelta(hours=1))

    await record_unread(manifest, ACCOUNT, make_poll(projects={ONE: DOWN, TWO: DOWN}))

    assert await observed.unread_since() == {ONE: NOON, TWO: NOON + timedelta(hours=1)}


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (AccessRefused("no"), "the Project Administrator role"),
        (AccessRefused("no"), "remove it from [[account]] projects"),
        (NotFound("no"), "correct its ID in [[account]] projects"),
        (BadRequest("no"), "correct its ID in [[account]] projects"),
        (DOWN, DOWN.advice),
    ],
)
def test_the_alert_of_a_project_says_what_to_do_about_its_error(error: ApiError, hint: str) -> None:
    (part,) = broken_parts(make_poll(projects={ONE: error}))

    assert part.message == f"project {ONE} cannot be read: {error.message}"
    assert hint in part.hint
    assert part.hint.endswith("Each poll tries again")


def test_a_list_without_an_end_is_named() -> None:
    whole, one = broken_parts(make_poll(endless=(None, ONE)))

    assert whole.message.startswith("Autodesk's job list does not end")
    assert one.message.startswith(f"Autodesk's job list of project {ONE} does not end")


def test_the_alert_of_a_data_request_names_it_and_its_error() -> None:
    (part,) = broken_parts(make_poll(requests={"R": DOWN}))

    assert part.message == "data request R cannot be read: no answer"


def test_an_odd_id_of_a_project_stays_on_one_short_line() -> None:
    poll = make_poll(projects={"x" * 200 + "\n": DOWN}, endless=("y" * 200 + "\n",))

    for part in broken_parts(poll):
        assert "\n" not in part.message
        assert len(part.message) < 200
