"""`dcsync requests backfill`: what is requested, what is shown, and what is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from dcsync.app.backfills import NAME, Backfills
from tests.cli.conftest import Dcsync
from tests.rigs.json_page import documented, written
from tests.rigs.served import TOKEN, Served

SCOPES = frozenset({"data:read", "data:create", "data:write"})
COMMAND = ("requests", "backfill", "activities")


def month(ago: int) -> str:
    """Return the month that was so many months ago."""
    today = datetime.now(UTC)
    number = today.year * 12 + today.month - 1 - ago
    return f"{number // 12}-{number % 12 + 1:02}"


@pytest.fixture(autouse=True)
def may_change(side: Served, monkeypatch: pytest.MonkeyPatch, dcsync: Dcsync) -> None:
    """Let the configured access token change data requests, and poll the account once."""
    tokens = side.sandbox.tokens
    monkeypatch.setenv(TOKEN, tokens.issue_access_token(side.sandbox.world.user_id, 86400, scopes=SCOPES))
    assert dcsync("sync").status == 0


def requested(side: Served) -> list[str]:
    return sorted(entry.description for entry in side.sandbox.world.requests.values())


def test_past_months_are_requested_mirrored_and_done(side: Served, dcsync: Dcsync) -> None:
    result = dcsync(*COMMAND, "--from", month(3), "--to", month(1))

    assert result.status == 0, result.err
    assert requested(side) == [f"Activities {month(ago)}" for ago in (3, 2, 1)]
    assert result.out.count("requested") == 3
    assert "0 of 3 parts mirrored, 3 requested" in dcsync("status").out
    side.sandbox.world.complete_jobs()
    assert dcsync("sync").status == 0
    again = dcsync(*COMMAND)
    assert again.status == 0, again.err
    assert "every day is in the mirror" in again.out
    assert len(requested(side)) == 3
    assert "backfill" not in dcsync("status").out
    assert "has no backfill" in dcsync(*COMMAND, "--list").out
    # Nothing is left to do, and nothing is requested again.
    repeated = dcsync(*COMMAND, "--from", month(3), "--to", month(1))
    assert (repeated.status, len(requested(side))) == (0, 3)


def test_the_json_has_the_documented_keys(side: Served, dcsync: Dcsync) -> None:
    made = dcsync(*COMMAND, "--from", month(2), "--to", month(1), "--json").json

    assert set(written(made)) == documented("`dcsync requests backfill activities --json`")
    assert [part["state"] for part in made["backfill"]["parts"]] == ["requested"] * 2
    assert dcsync(*COMMAND, "--list", "--json").json == made
    assert dcsync("status", "--json").json["backfills"] == [made["backfill"]]
    assert set(side.sandbox.world.requests) == {part["request"] for part in made["backfill"]["parts"]}


def test_a_dry_run_shows_the_calls_and_makes_none(side: Served, dcsync: Dcsync) -> None:
    result = dcsync(*COMMAND, "--from", month(2), "--to", month(1), "--dry-run")
    shown = dcsync(*COMMAND, "--from", month(2), "--to", month(1), "--dry-run", "--json")

    assert result.out.count("POST /data-connector/v1/accounts/") == 2
    assert "2 data requests to create, 2 of them today" in result.out
    assert [call["body"]["dateRange"] for call in shown.json["calls"]] == ["CUSTOM"] * 2
    assert shown.json["jobs_left"] == 24
    assert side.sandbox.world.requests == {}
    assert not (side.state / NAME).exists()


def test_one_is_cancelled_and_its_data_requests_are_named(side: Served, dcsync: Dcsync) -> None:
    dcsync(*COMMAND, "--from", month(1), "--to", month(1))
    (made,) = side.sandbox.world.requests

    result = dcsync(*COMMAND, "--cancel")

    assert f"its data request {made} stays: Activities {month(1)}" in result.out
    assert Backfills(side.state).all() == ()
    assert list(side.sandbox.world.requests) == [made]
    assert "has no backfill" in dcsync(*COMMAND, "--cancel").out
    assert dcsync(*COMMAND, "--cancel", "--json").json == {"backfill": None}


def test_a_cancelled_one_is_shown_as_json(side: Served, dcsync: Dcsync) -> None:
    made = dcsync(*COMMAND, "--from", month(1), "--to", month(1), "--json").json

    assert dcsync(*COMMAND, "--cancel", "--json").json == made


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ((), 2, "name the first month with --from"),
        (("--from", "2026-13"), 2, "is not a month such as 2026-11"),
        (("--from", "yesterday"), 2, "is not a month such as 2026-11"),
        (("--from", "9998-01"), 2, "the period has no day before today"),
        (("--from", "2026-09", "--to", "2026-08"), 2, "the last month (--to) is before the first (--from)"),
    ],
)
def test_what_makes_no_sense_is_refused(
    side: Served, dcsync: Dcsync, options: tuple[str, ...], status: int, said: str
) -> None:
    result = dcsync(*COMMAND, *options)

    assert result.status == status
    assert said in result.err
    assert side.sandbox.world.requests == {}


def test_another_end_needs_its_begin(side: Served, dcsync: Dcsync) -> None:
    dcsync(*COMMAND, "--from", month(1), "--to", month(1))

    assert "--to needs --from" in dcsync(*COMMAND, "--to", month(1)).err


def test_an_account_that_would_not_mirror_it_refuses_before_any_call(side: Served, dcsync: Dcsync) -> None:
    side.config.write_text(side.config.read_text() + 'requests = ["Nightly"]\n')

    result = dcsync(*COMMAND, "--from", month(1))

    assert result.status == 2
    assert "add 'Activities *' to [[account]] requests" in result.err
    assert side.sandbox.world.requests == {}


def test_a_mirror_that_was_never_polled_refuses(side: Served, dcsync: Dcsync) -> None:
    side.config.write_text(side.config.read_text().replace(str(side.state), str(side.folder / "other")))

    result = dcsync(*COMMAND, "--from", month(1))

    assert result.status == 2
    assert "run dcsync sync first" in result.err


def test_a_token_that_only_reads_is_refused_and_nothing_is_lost(
    side: Served, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch
) -> None:
    able = side.sandbox.tokens.issue_access_token(side.sandbox.world.user_id, 86400, scopes=SCOPES)
    monkeypatch.setenv(TOKEN, side.sandbox.tokens.issue_access_token(side.sandbox.world.user_id, 86400))
    refused = dcsync(*COMMAND, "--from", month(1), "--to", month(1))
    assert refused.status == 13
    assert "lacks the scope data:create" in refused.err

    monkeypatch.setenv(TOKEN, able)
    assert dcsync(*COMMAND).status == 0

    assert requested(side) == [f"Activities {month(1)}"]


def test_a_month_that_failed_is_told_and_tried_again(side: Served, dcsync: Dcsync) -> None:
    for attempt in range(3):
        assert dcsync(*COMMAND, "--from", month(1), "--to", month(1)).status == 0
        assert len(requested(side)) == attempt + 1
        side.sandbox.world.complete_jobs("failed")
        if attempt:
            assert f"{attempt} failed: its job failed at Autodesk" in dcsync(*COMMAND, "--list").out

    lines = json.loads((side.state / NAME).read_text())["acme"]["parts"]
    assert [part["failures"] for part in lines] == [2]
    assert f"Activities {month(1)} (attempt 3)" in requested(side)


def test_days_that_autodesk_no_longer_serves_are_told(dcsync: Dcsync) -> None:
    result = dcsync(*COMMAND, "--from", month(15), "--to", month(14), "--dry-run")

    assert "about 12 months back" in result.err
    assert result.status == 0


def test_the_month_before_is_at_most_31_days_ago() -> None:
    """The helper of these tests."""
    first = datetime.now(UTC).replace(day=1) - timedelta(days=1)

    assert month(1) == f"{first:%Y-%m}"
