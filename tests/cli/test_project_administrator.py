"""A project administrator, whose calls Autodesk refuses without the project: each command names its projects."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.cli.conftest import Dcsync
from tests.cli.test_requests import SCOPES
from tests.rigs.served import TOKEN, Served

ONE, TWO, THREE = (f"{number}0000000-0000-4000-8000-000000000000" for number in (1, 2, 3))


@pytest.fixture
def administrator(side: Served, monkeypatch: pytest.MonkeyPatch) -> Served:
    """The user administers two projects, each with a data request, and both are configured."""
    world = side.sandbox.world
    world.project_administrators[world.user_id] = frozenset({ONE, TWO})
    monkeypatch.setenv(TOKEN, side.sandbox.tokens.issue_access_token(world.user_id, 86400, scopes=SCOPES))
    for name, project in (("First", ONE), ("Second", TWO)):
        request = world.add_request(name, tables=1, schedule="ONE_TIME", project_id=project)
        world.add_job(request, completed_at=world.clock())
    configure(side, ONE, f"b.{TWO}")
    return side


def configure(side: Served, *projects: str) -> None:
    side.write_config()
    with side.config.open("a") as file:
        file.write(f"projects = {list(projects)}\n")


COMMANDS = [
    ("doctor",),
    ("requests",),
    ("requests", "create", "--description", "Every week", "--schedule", "week", "--callback-url", "https://x.example/"),
    ("requests", "create", "--description", "Only one", "--project", f"b.{ONE}"),
    ("requests", "extend", "Every week"),
    ("requests", "deactivate", "Every week"),
    ("requests", "activate", "Every week"),
    ("requests", "set-callback", "Every week", "--none"),
    ("sync",),
    ("requests", "backfill", "activities", "--from", "2026-10", "--to", "2026-10"),
    ("jobs",),
    ("status",),
    ("requests", "delete", "Every week", "--yes"),
]


def test_no_command_makes_a_call_that_is_refused(administrator: Served, dcsync: Dcsync) -> None:
    statuses = {command: dcsync(*command).status for command in COMMANDS}

    assert set(statuses.values()) == {0}, statuses
    refused = {(call.path, *call.query) for call in administrator.sandbox.calls if call.status >= 400}
    # After a lost answer, only the list of the account shows for certain a data request of several projects.
    assert refused == {(whole_list(administrator), "sort", "limit", "offset")}


def whole_list(side: Served) -> str:
    return f"/data-connector/v1/accounts/{side.sandbox.world.account_id}/requests"


def test_a_data_request_has_the_projects_of_the_account_unless_others_are_named(
    administrator: Served, dcsync: Dcsync
) -> None:
    dcsync("requests", "create", "--description", "All")
    dcsync("requests", "create", "--description", "Named", "--project", ONE, "--project", f"b.{ONE}")

    made = {entry.description: entry.project_ids for entry in administrator.sandbox.world.requests.values()}
    assert (made["All"], made["Named"]) == ((ONE, TWO), (ONE,))


def test_the_lists_of_the_projects_are_one_list(administrator: Served, dcsync: Dcsync) -> None:
    def shown(*options: str) -> list[str]:
        return [row["description"] for row in dcsync("requests", "--json", *options).json["requests"]]

    world = administrator.sandbox.world
    both = list(world.requests.values())
    both[0].project_ids = (ONE, TWO)
    both[1].created_at = both[0].created_at + timedelta(seconds=1)
    oldest, newest = (entry.description for entry in both)

    assert shown("--sort", "asc") == [oldest, newest]
    assert shown() == [newest, oldest]
    assert shown("--limit", "1") == [newest]
    assert shown("--limit", "1", "--offset", "1") == [oldest]
    assert shown("--filter", f"projectId={TWO}", "--sort-fields", "isActive")
    assert dcsync("requests", "--sort-fields", "createdAt").status == 2


def test_a_refused_project_is_named_and_hides_no_other(administrator: Served, dcsync: Dcsync) -> None:
    configure(administrator, ONE, THREE, TWO)

    requests, jobs, doctor = dcsync("requests"), dcsync("jobs"), dcsync("doctor")
    create, missing = dcsync("requests", "create"), dcsync("requests", "delete", "Third", "--yes")
    delete, sync = dcsync("requests", "delete", "First", "--yes"), dcsync("sync")

    assert {result.status for result in (requests, jobs, doctor, create, missing)} == {13}
    assert all(THREE in f"{result.err}{result.out}" for result in (requests, jobs, doctor, create, missing))
    assert all(word in requests.out for word in ("First", "Second"))
    assert ONE not in create.err
    assert (delete.status, sync.status) == (0, 3)
    assert "L-PROJECT" in dcsync("status").out
