"""`dcsync requests create`, and the commands that change data requests: each call is what was asked for, and once."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from dcsync.app.pending_requests import NAME
from dcsync.sandbox import Fault
from tests.cli.conftest import Dcsync
from tests.rigs.json_page import documented
from tests.rigs.served import TOKEN, Served

SCOPES = frozenset({"data:read", "data:create", "data:write"})


@pytest.fixture(autouse=True)
def may_change(side: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the configured access token change data requests."""
    tokens = side.sandbox.tokens
    monkeypatch.setenv(TOKEN, tokens.issue_access_token(side.sandbox.world.user_id, 86400, scopes=SCOPES))
    side.write_config()


def changes(side: Served) -> list[tuple[str, str]]:
    return [(call.method, call.path.rpartition("/requests")[2]) for call in side.sandbox.calls if call.method != "GET"]


def create(dcsync: Dcsync, *options: str) -> str:
    result = dcsync("requests", "create", "--json", "--description", "Nightly", *options)
    assert result.status == 0, result.err
    return str(result.json["request"]["id"])


def test_the_list_is_still_the_command_without_another_one(side: Served, dcsync: Dcsync) -> None:
    made = create(dcsync)

    assert [row["id"] for row in dcsync("requests", "--json").json["requests"]] == [made]


def test_a_data_request_is_created_with_the_fields_of_the_options(side: Served, dcsync: Dcsync) -> None:
    result = dcsync(
        *("requests", "create", "--description", "Nightly", "--service-group", "admin", "--service-group", "issues"),
        *("--schedule", "week", "--every", "2", "--from", "2026-12-01T02:00", "--to", "2027-12-01", "--email"),
        *("--project-status", "active", "--date-range", "YESTERDAY"),
    )

    assert result.status == 0, result.err
    (made,) = side.sandbox.world.requests.values()
    shown = dcsync("requests", "--json").json["requests"][0]
    assert shown["serviceGroups"] == ["admin", "issues"]
    assert (shown["scheduleInterval"], shown["reoccuringInterval"]) == ("WEEK", 2)
    assert shown["effectiveFrom"] == "2026-12-01T02:00:00.000Z"
    assert shown["effectiveTo"] == "2027-12-01T23:59:59.999Z"
    assert (shown["projectStatus"], shown["dateRange"], shown["sendEmail"]) == ("active", "YESTERDAY", True)
    assert made.id in result.out
    assert "every 2 weeks, 2026-12-01 02:00Z to 2027-12-01 23:59Z" in result.out
    assert "of 24" in result.out


def test_without_options_everything_is_extracted_daily_for_ten_years(side: Served, dcsync: Dcsync) -> None:
    create(dcsync)

    shown = dcsync("requests", "--json").json["requests"][0]
    assert (shown["serviceGroups"], shown["scheduleInterval"]) == (["all"], "DAY")
    ends = datetime.fromisoformat(shown["effectiveTo"])
    assert timedelta(days=3640) < ends - datetime.now(UTC) < timedelta(days=3660)


def test_a_callback_gets_the_secret_of_the_mirror_which_no_output_shows(side: Served, dcsync: Dcsync) -> None:
    options = ("--callback-url", "https://mirror.example.com/callback/")
    dry = dcsync("requests", "create", "--dry-run", *options)
    made = dcsync("requests", "create", *options)

    secret = (side.state / "callback.secret").read_text().strip()
    (entry,) = side.sandbox.world.requests.values()
    assert entry.callback_url == f"https://mirror.example.com/callback/{secret}"
    assert "https://mirror.example.com/callback/***" in dry.out
    assert secret not in dry.out + dry.err + made.out + made.err


def test_the_json_has_the_documented_keys(side: Served, dcsync: Dcsync) -> None:
    made = dcsync("requests", "create", "--json").json

    assert made.keys() == documented("`dcsync requests create --json`")
    assert dcsync("requests", "deactivate", made["request"]["id"], "--json").json.keys() == {"request"}


def test_a_dry_run_shows_the_call_and_makes_none(side: Served, dcsync: Dcsync) -> None:
    result = dcsync("requests", "create", "--dry-run", "--json", "--description", "Nightly")

    assert result.status == 0
    assert result.json["method"] == "POST"
    assert result.json["path"].endswith("/requests")
    assert result.json["body"]["description"] == "Nightly"
    assert side.sandbox.calls == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--service-group", "cdcissues"), "need a period"),
        (("--start-date", "2026-01-01", "--end-date", "2026-03-01"), "longer than 31 days"),
        (("--callback-url", "http://mirror.example.com/callback/"), "https://"),
        (("--from", "2026-12-02", "--to", "2026-12-01"), "ends before it begins"),
        (("--from", "tomorrow"), "is not a time such as"),
        (("--schedule", "hourly"), "hourly"),
    ],
)
def test_what_autodesk_would_refuse_is_refused_before_any_call(
    side: Served, dcsync: Dcsync, options: tuple[str, ...], words: str
) -> None:
    result = dcsync("requests", "create", *options)

    assert result.status == 2
    assert words in result.err
    assert side.sandbox.calls == []


def test_a_token_that_only_reads_says_which_scope_it_lacks(
    side: Served, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, side.sandbox.tokens.issue_access_token(side.sandbox.world.user_id, 86400))

    result = dcsync("requests", "create")

    assert result.status == 13
    assert "lacks the scope data:create" in result.err
    assert side.sandbox.world.requests == {}


def test_a_command_that_was_killed_after_its_call_finds_what_it_created(side: Served, dcsync: Dcsync) -> None:
    """As after a kill between Autodesk's commit and the answer: the note is there, and so is the data request."""
    side.sandbox.faults.add(Fault(server="api", kind="lose-after-commit", match="/requests$", times=None))
    side.sandbox.faults.add(Fault(server="api", kind="status", status=403, match=r"/requests\?", skip=1, times=None))
    lost = dcsync("requests", "create", "--description", "Nightly")
    assert lost.status == 3
    assert "run the same command again" in lost.err
    assert json.loads((side.state / NAME).read_text())
    side.sandbox.faults.clear()

    again = dcsync("requests", "create", "--json", "--description", "Nightly")

    assert again.json["was_there"] is True
    assert list(side.sandbox.world.requests) == [again.json["request"]["id"]]
    assert [method for method, _ in changes(side)] == ["POST"]
    assert json.loads((side.state / NAME).read_text()) == {}


def test_two_equal_commands_create_two(side: Served, dcsync: Dcsync) -> None:
    assert create(dcsync) != create(dcsync)


def test_a_schedule_is_extended_from_its_end_or_from_now(side: Served, dcsync: Dcsync) -> None:
    made = create(dcsync, "--from", "2026-01-01", "--to", "2030-01-01T00:00")

    result = dcsync("requests", "extend", made[:8], "--by", "365d", "--json")

    assert result.status == 0, result.err
    assert result.json["request"]["effectiveTo"] == "2031-01-01T00:00:00.000Z"
    assert changes(side)[-1] == ("PATCH", f"/{made}")
    assert "2035-05-31 23:59Z" in dcsync("requests", "extend", "Nightly", "--to", "2035-05-31").out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--to", "2029-12-31"), "cannot be extended to 2029-12-31 23:59Z, which is not after 2030-01-01 00:00Z"),
        (("--to", "2020-01-01"), "2020-01-01 23:59Z, which is not after 2030-01-01 00:00Z, its end"),
        (("--to", "2031-01-01", "--by", "1d"), "give either --to or --by"),
    ],
)
def test_extending_never_shortens_a_schedule(
    side: Served, dcsync: Dcsync, options: tuple[str, ...], words: str
) -> None:
    made = create(dcsync, "--from", "2026-01-01", "--to", "2030-01-01T00:00")

    result = dcsync("requests", "extend", made, *options)

    assert result.status == 2
    assert words in result.err
    assert [method for method, _ in changes(side)] == ["POST"]


def test_an_ended_schedule_is_not_extended_into_the_past(side: Served, dcsync: Dcsync) -> None:
    made = create(dcsync, "--from", "2025-01-01", "--to", "2030-01-01")
    side.sandbox.world.requests[made].ends_at = datetime(2025, 2, 1, tzinfo=UTC)

    result = dcsync("requests", "extend", made, "--to", "2025-03-01")

    assert result.status == 2
    assert "cannot be extended to 2025-03-01 23:59Z, which is past" in result.err


def test_a_schedule_that_ended_begins_again_now(side: Served, dcsync: Dcsync) -> None:
    made = create(dcsync, "--from", "2025-01-01", "--to", "2030-01-01")
    side.sandbox.world.requests[made].ends_at = datetime(2025, 2, 1, tzinfo=UTC)

    result = dcsync("requests", "extend", made, "--json")

    ends = datetime.fromisoformat(result.json["request"]["effectiveTo"])
    assert timedelta(days=364) < ends - datetime.now(UTC) < timedelta(days=366)


def test_a_data_request_that_runs_once_cannot_be_extended(side: Served, dcsync: Dcsync) -> None:
    made = create(dcsync, "--schedule", "once")

    result = dcsync("requests", "extend", made)

    assert result.status == 2
    assert "runs once" in result.err
    assert changes(side) == [("POST", "")]


def test_a_data_request_is_stopped_and_started_again(side: Served, dcsync: Dcsync) -> None:
    made = create(dcsync)

    assert dcsync("requests", "deactivate", made).status == 0
    assert side.sandbox.world.requests[made].is_active is False
    assert dcsync("requests", "activate", made).status == 0
    assert side.sandbox.world.requests[made].is_active is True


def test_a_callback_is_set_and_removed(side: Served, dcsync: Dcsync) -> None:
    made = create(dcsync)

    result = dcsync("requests", "set-callback", made, "https://mirror.example.com/callback")
    secret = (side.state / "callback.secret").read_text().strip()
    assert result.status == 0, result.err
    assert side.sandbox.world.requests[made].callback_url == f"https://mirror.example.com/callback/{secret}"
    assert secret not in result.out + result.err
    assert "callback        https://mirror.example.com/callback/***" in result.out
    insecure = dcsync("requests", "set-callback", made, "http://mirror.example.com/callback")
    assert (insecure.status, "must begin with https://" in insecure.err) == (2, True)
    assert "callback        none" in dcsync("requests", "set-callback", made, "--none").out
    assert not side.sandbox.world.requests[made].callback_url
    assert dcsync("requests", "set-callback", made).status == 2


def test_nothing_is_deleted_without_being_named_and_confirmed(side: Served, dcsync: Dcsync) -> None:
    made = create(dcsync)

    refused = dcsync("requests", "delete", made)
    assert refused.status == 2
    assert "--yes" in refused.err
    assert list(side.sandbox.world.requests) == [made]
    assert dcsync("requests", "delete", made, "--dry-run").out.startswith("DELETE ")
    assert list(side.sandbox.world.requests) == [made]

    assert dcsync("requests", "delete", made, "--yes").status == 0
    assert side.sandbox.world.requests == {}


def test_a_name_that_fits_none_or_several_changes_nothing(side: Served, dcsync: Dcsync) -> None:
    first, second = create(dcsync), create(dcsync)

    several = dcsync("requests", "deactivate", "Nightly")
    none = dcsync("requests", "deactivate", "Weekly")

    assert (several.status, none.status) == (2, 2)
    for result in (several, none):
        assert first in result.err
        assert second in result.err
    assert [method for method, _ in changes(side)] == ["POST", "POST"]


def test_with_several_accounts_one_is_named(side: Served, dcsync: Dcsync) -> None:
    side.config.write_text(
        f'{side.config.read_text()}[[account]]\nname = "other"\nid = "b.0f000000-0000-4000-8000-000000000000"\n'
    )

    assert dcsync("requests", "create").status == 2
    assert dcsync("requests", "create", "--account", "acme").status == 0


def test_a_data_request_that_the_configuration_does_not_select_is_told(side: Served, dcsync: Dcsync) -> None:
    side.config.write_text(f'{side.config.read_text()}requests = ["My company*"]\n')

    result = dcsync("requests", "create", "--description", "Nightly")

    assert result.status == 0
    assert "does not select it" in result.err
