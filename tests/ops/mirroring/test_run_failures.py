"""What a run does when the API, the disk, or a token store fails."""

from __future__ import annotations

import io
import logging
import os
from typing import Any

import pytest
import structlog

from dcsync.app.from_config import account_settings
from dcsync.auth.token_store import TokenPair, TokenStore
from dcsync.core.alerts import AlertCode
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.errors import (
    ApiFault,
    ChecksumMismatch,
    DcsyncError,
    DiskDenied,
    DiskFull,
    DiskReadOnly,
    ExitStatus,
    MirrorTampered,
    TokenStoreUnusable,
    TokenUndecided,
)
from dcsync.log import configure
from dcsync.ops.context import NullObserver
from dcsync.ops.mirroring import poll as polling
from dcsync.ops.mirroring.outcome import exit_status
from dcsync.ops.mirroring.run import poll_account
from dcsync.sandbox import Fault, Synthetic
from tests.rigs.mirror import (
    Mirror,
    add_extract,
    status_of,
    tables,
)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b'[{"name": "", "size": 1}]', "no name"),
        (b'[{"name": null, "size": 1}]', "no name"),
        (b'[{"name": "a.csv", "size": -1}]', "a.csv"),
        (b'[{"name": "a.csv", "size": "many"}]', "many"),
        (b'[{"name": "a.csv", "size": 1}, {"name": "a.csv", "size": 2}]', "twice"),
        (b'{"files": []}', "not an array"),
        (b"[1]", "not an object"),
    ],
)
async def test_a_listing_that_cannot_be_mirrored_is_named_and_nothing_is_published(
    mirror: Mirror, body: bytes, word: str
) -> None:
    add_extract(mirror, tables(1))
    mirror.sandbox.faults.add(Fault(server="api", kind="json", body=body, match="/data-listing", times=None))

    outcome = await mirror.sync_one()

    (failed,) = outcome.failed
    assert failed.code == "L-LISTING"
    assert word in failed.message
    assert failed.hint
    assert mirror.visible() == []


async def test_html_with_status_200_stops_the_account_and_shows_how_it_begins(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    page = b"<html><title>Corporate proxy login</title></html>"
    mirror.sandbox.faults.add(Fault(server="api", kind="json", body=page, times=None))

    outcome = await mirror.sync_one()

    assert outcome.error is not None
    assert outcome.error.code == "A-ANSWER"
    assert "Corporate proxy login" in outcome.error.message
    assert outcome.exit_status is ExitStatus.INCOMPLETE
    assert mirror.visible() == []


async def test_a_missing_listing_is_looked_for_a_day_and_then_set_aside(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/data-listing", times=None))

    first = await mirror.sync_one()
    mirror.clock.advance(12 * 3600)
    second = await mirror.sync_one()
    mirror.clock.advance(13 * 3600)
    third = await mirror.sync_one()

    assert [outcome.failed[0].state for outcome in (first, second, third)] == [
        JobState.FAILED,
        JobState.FAILED,
        JobState.QUARANTINED,
    ]
    assert first.failed[0].code == "L-MISSING"
    assert "retries for one day" in first.failed[0].hint
    assert "once a day" in third.failed[0].hint
    # Set aside is not forgotten, as long as the server has it.
    assert (await mirror.sync_one()).given_up == 1
    mirror.clock.advance(30 * 86400)
    mirror.environ["TOKEN"] = mirror.sandbox.tokens.issue_access_token("tester")
    last = await mirror.sync_one()
    assert (last.given_up, [(failed.state, failed.code) for failed in last.failed]) == (
        0,
        [(JobState.EXPIRED, "L-MISSING")],
    )
    # What can no longer be mended is named, and does not stay red. The extracts that never came do.
    alerts = {item.alert.code: item.alert for item in (await status_of(mirror)).accounts[0].alerts}
    assert alerts.keys() == {"L-LATE", "L-LOST"}
    assert alerts[AlertCode.L_LOST].kind.exit_status is ExitStatus.DONE
    assert alerts[AlertCode.L_LOST].message.endswith(third.failed[0].message)
    assert not (await mirror.sync_one()).failed


async def test_a_failed_job_waits_for_its_time(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/data-listing"))
    await mirror.sync()
    before = mirror.sandbox.count()

    outcome = await mirror.sync_one()

    assert outcome.due_later == 1
    assert outcome.exit_status is ExitStatus.INCOMPLETE
    assert mirror.sandbox.count() - before == 1


async def test_a_wrong_token_asks_for_a_login(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    mirror.environ["TOKEN"] = "not a token that anybody issued"

    outcome = await mirror.sync_one()

    assert outcome.exit_status is ExitStatus.LOGIN_REQUIRED
    assert mirror.sandbox.count("api") == 1


async def test_an_account_that_may_not_be_seen_does_not_hold_up_the_others(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    other = "b.00000000-0000-4000-8000-000000000000"
    mirror.config["account"] = [{"name": "foreign", "id": other}, {"name": "acme", "id": mirror.world.hub_id}]

    foreign, own = await mirror.sync()

    assert foreign.exit_status is ExitStatus.PERMISSION_DENIED
    assert foreign.error is not None
    assert "No access to this account" in foreign.error.message
    assert [published.job for published in own.published] == [job]
    assert exit_status([foreign, own]) is ExitStatus.PERMISSION_DENIED


async def test_an_api_that_is_down_ends_the_account_and_is_asked_again_next_time(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=503, body=b"<h1>Busy</h1>", times=5))

    outcome = await mirror.sync_one()
    assert outcome.error is not None
    assert outcome.error.code == "A-SERVER"

    await mirror.sync()
    mirror.assert_identical(job)


async def test_a_listing_that_is_empty_at_once_deletes_nothing(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    await mirror.sync()
    body = b'{"pagination": {"limit": 100, "offset": 0, "totalResults": 0}, "results": []}'
    mirror.sandbox.faults.add(Fault(server="api", kind="json", body=body, times=None))

    outcome = await mirror.sync_one()

    assert outcome.exit_status is ExitStatus.DONE
    mirror.assert_identical(job)


async def test_a_snapshot_that_does_not_fit_is_not_begun_and_a_smaller_one_is(mirror: Mirror) -> None:
    free = os.statvfs(mirror.root)
    huge = add_extract(mirror, {"huge.csv": Synthetic(free.f_bavail * free.f_frsize)}, days_ago=1)
    small = add_extract(mirror, tables(1))
    # An MD5 of so many bytes would take its time.
    mirror.world.jobs[huge].listing = [{"name": "huge.csv", "size": free.f_bavail * free.f_frsize}]

    outcome = await mirror.sync_one()

    (failed,) = outcome.failed
    assert failed.code == "F-SPACE"
    assert " GiB free of " in failed.message or " TiB free of " in failed.message
    assert failed.next_try_at is None
    assert [published.job for published in outcome.published] == [small]
    assert mirror.sandbox.count("storage") == 1


async def test_no_token_and_no_signature_reaches_any_log_or_file(
    mirror: Mirror, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where things go wrong."""
    seed = mirror.sandbox.tokens.issue_refresh_token("tester")
    mirror.environ["SEED"] = seed
    mirror.config["auth"] = {
        "method": "token",
        "client_id": "sandbox",
        "client_secret": "sandbox-secret",
        "refresh_token": "env:SEED",
    }
    add_extract(mirror, tables(3))
    for kind in ("reset", "cut", "expired", "status", "short"):
        mirror.sandbox.faults.add(Fault(server="storage", kind=kind, amount=10, status=500, times=2))
    stream = io.StringIO()
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    configure("debug", "json", stream=stream)
    try:
        outcome = await mirror.sync_one()
    finally:
        structlog.reset_defaults()
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)

    secrets = {seed, "sandbox-secret", *mirror.sandbox.tokens.live_refresh_tokens}
    secrets |= {
        call.headers["authorization"].removeprefix("Bearer ")
        for call in mirror.sandbox.calls
        if "authorization" in call.headers
    }
    signed = [call.query for call in mirror.sandbox.calls if call.server == "storage"]
    assert signed
    for query in signed:
        secrets |= {query["Signature"], query["x-amz-security-token"]}
    texts = {"log": stream.getvalue(), "caplog": caplog.text, "output": "".join(capsys.readouterr())}
    texts["outcome"] = repr(outcome)
    for path in [*mirror.state.iterdir(), *mirror.root.rglob("*")]:
        if path.is_file() and not path.name.startswith("token"):
            texts[str(path)] = path.read_bytes().decode("latin-1")
    assert "progress" in texts["log"] or "snapshot" in texts["log"] or "could not be downloaded" in texts["log"]
    for where, text in texts.items():
        for secret in secrets:
            assert secret not in text, where


async def test_a_bug_that_one_job_meets_is_quarantined_after_three_runs_and_the_others_go_on(mirror: Mirror) -> None:
    poison = add_extract(mirror, tables(2), days_ago=2)
    good = add_extract(mirror, tables(2, seed=1), days_ago=1)

    class Broken(NullObserver):
        def job_started(self, account: AccountName, job: JobId, label: str, *, files: int, size: int) -> None:
            if job == poison:
                message = "a secret"
                raise RuntimeError(message)

    outcomes = []
    for _ in range(3):
        outcomes.append(await mirror.sync_one(observer=Broken()))
        mirror.clock.advance(7 * 3600)
    calls_before = len(mirror.sandbox.calls)
    last = await mirror.sync_one(observer=Broken())

    assert [outcome.failed[0].state for outcome in outcomes] == [
        JobState.FAILED,
        JobState.FAILED,
        JobState.QUARANTINED,
    ]
    assert {outcome.exit_status for outcome in outcomes} == {ExitStatus.BUG}
    assert outcomes[0].failed[0].message == "unexpected RuntimeError; the log has the traceback"
    assert mirror.snapshots() == [mirror.snapshot_of(good)]
    assert len(mirror.sandbox.calls) - calls_before == 1
    assert (last.failed, last.given_up) == ([], 1)


async def test_a_new_token_that_the_disk_refuses_is_saved_before_the_run_ends(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run by a timer has no next chance, and the token before is spent."""
    mirror.config["auth"] = {"method": "login", "client_id": "sandbox", "client_secret": "sandbox-secret"}
    mirror.state.mkdir()
    store = TokenStore(mirror.state)
    store.save(TokenPair(refresh_token=mirror.sandbox.tokens.issue_refresh_token("anna")))
    save, refused = TokenStore.save, list[TokenPair]()

    def refuse_once(self: TokenStore, pair: TokenPair) -> None:
        if not refused:
            refused.append(pair)
            message = "writing the token store failed: Input/output error"
            raise TokenStoreUnusable(message)
        save(self, pair)

    monkeypatch.setattr(TokenStore, "save", refuse_once)
    outcome = await mirror.sync_one()

    assert isinstance(outcome.error, TokenStoreUnusable)
    stored = store.read()
    assert stored is not None
    assert {stored.refresh_token} == mirror.sandbox.tokens.live_refresh_tokens
    assert (await mirror.sync_one()).error is None
    assert mirror.sandbox.tokens.refresh_count == 1


class Raising(NullObserver):
    """Raises an error in one job of one account."""

    def __init__(self, account: str, job: str, error: DcsyncError) -> None:
        self._met, self._error = (account, job), error

    def job_started(self, account: AccountName, job: JobId, label: str, *, files: int, size: int) -> None:
        if (account, job) == self._met:
            raise self._error


@pytest.mark.parametrize(
    ("error", "stops_account"),
    [
        (ChecksumMismatch("x"), False),
        (MirrorTampered("x"), False),
        (DiskFull("x"), False),
        (ApiFault("x"), False),
        (DiskDenied("x"), False),
        (DiskReadOnly("x"), True),
        (TokenUndecided("x"), True),
    ],
    ids=lambda value: value.code if isinstance(value, DcsyncError) else None,
)
async def test_the_scope_of_an_error_decides_what_is_still_mirrored(
    mirror: Mirror, error: DcsyncError, stops_account: bool
) -> None:
    """Of an account that stops, the later job is left. Another account mirrors both."""
    first, second = (add_extract(mirror, tables(1, seed=day), days_ago=2 - day) for day in range(2))
    hub = mirror.world.hub_id
    mirror.config["account"] = [{"name": "acme", "id": hub}, {"name": "other", "id": hub}]

    acme, other = await mirror.sync(observer=Raising("acme", first, error))

    assert [published.job for published in other.published] == [first, second]
    assert acme.error is (error if stops_account else None)
    assert [published.job for published in acme.published] == ([] if stops_account else [second])
    assert [(failed.job, failed.code) for failed in acme.failed] == ([] if stops_account else [(first, error.code)])


OPEN_STATES = ["listed", "staging", "failed"]


async def test_an_error_that_says_nothing_of_the_content_never_quarantines_a_job(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    mirror.sandbox.faults.add(Fault(server="storage", kind="status", status=500, times=None))

    for _ in range(5):
        (failed,) = (await mirror.sync_one()).failed
        assert (failed.code, failed.state) == ("S-SERVER", JobState.FAILED)
        mirror.clock.advance(7 * 3600)
    mirror.sandbox.faults.clear()

    assert [published.job for published in (await mirror.sync_one()).published] == [job]


@pytest.mark.parametrize("steps", [[], ["listed"], ["listed", "staging"], ["failed"]], ids=["seen", *OPEN_STATES])
async def test_a_job_in_any_open_state_expires_when_its_extract_is_deleted(mirror: Mirror, steps: list[str]) -> None:
    job = JobId(add_extract(mirror, tables(1), days_ago=1))
    async with mirror.opened() as context:
        (account,) = account_settings(mirror.configuration())
        await poll_account(context, account)
        for step in steps:
            await context.manifest.move(account.name, job, JobState(step), at=mirror.clock.now())
    mirror.clock.advance(30 * 86400)
    mirror.environ["TOKEN"] = mirror.sandbox.tokens.issue_access_token("tester")
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/data-listing", times=None))

    outcome = await mirror.sync_one()

    assert outcome.error is None
    assert [(failed.job, failed.state) for failed in outcome.failed] == [(job, JobState.EXPIRED)]


async def test_a_bug_in_one_account_stops_no_other(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cancelled the runs of all accounts, and left no alert."""
    job = add_extract(mirror, tables(1), request=mirror.world.add_request("Nightly", schedule="ONE_TIME"))
    hub = mirror.world.hub_id
    mirror.config["account"] = [{"name": "acme", "id": hub}, {"name": "other", "id": hub}]
    poll = polling.poll

    async def fail_once(*arguments: Any, **options: Any) -> polling.Poll:
        if arguments[3].name == "acme":
            message = "a word of a secret"
            raise RuntimeError(message)
        return await poll(*arguments, **options)

    monkeypatch.setattr(polling, "poll", fail_once)

    acme, other = await mirror.sync()

    assert [published.job for published in other.published] == [job]
    assert acme.exit_status is ExitStatus.BUG
    assert acme.error is not None
    assert (acme.error.code, acme.error.message) == ("D-BUG", "unexpected RuntimeError; the log has the traceback")
    monkeypatch.undo()
    assert [outcome.error for outcome in await mirror.sync()] == [None, None]
