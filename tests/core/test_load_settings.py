"""What a load wants, and what identifies the rows of a row history."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dcsync.core.load_settings import LoadSettings, chain, retry_after
from dcsync.core.model import AccountName, JobId, RequestId
from dcsync.core.ports import KnownRequest
from dcsync.core.row_history import Step

REQUEST = KnownRequest(
    id=RequestId("ce9bc188-1"), description="Nightly data", slug="nightly-data-ce9bc188", is_delta=False
)


def step(
    number: int, *, added: int = 1, removed: int = 0, columns: tuple[str, ...] = ("id",), digest: str = "d"
) -> Step:
    return Step(
        job=JobId(f"job-{number}"),
        time=datetime(2026, 11, number, tzinfo=UTC),
        sha256=f"sha-{number}",
        rows=number,
        digest=digest,
        columns=columns,
        added=added,
        removed=removed,
    )


@pytest.mark.parametrize("name", ["ce9bc188-1", "nightly-data-ce9bc188", "Nightly*"])
def test_a_data_request_is_named_by_id_folder_or_description(name: str) -> None:
    assert LoadSettings(name="x", dataset="d", requests=(name,)).wants_request(REQUEST)
    assert not LoadSettings(name="x", dataset="d", requests=("other",)).wants_request(REQUEST)
    assert LoadSettings(name="x", dataset="d").wants_request(REQUEST)


def test_an_account_is_named() -> None:
    assert LoadSettings(name="x", dataset="d").wants_account(AccountName("acme"))
    assert LoadSettings(name="x", dataset="d", accounts=("acme",)).wants_account(AccountName("acme"))
    assert not LoadSettings(name="x", dataset="d", accounts=("beta",)).wants_account(AccountName("acme"))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("admin_users.csv", True),
        ("issues/admin_x.csv", False),
        ("extra/more.csv", True),
        ("README.html", False),
        ("schemas/admin_users.csv", False),
    ],
)
def test_tables_are_named_as_in_the_snapshot_or_in_the_row_history(name: str, wanted: bool) -> None:
    settings = LoadSettings(name="x", dataset="d", tables=("admin_*", "extra.more"))

    assert settings.wants_table(name) is wanted


def test_each_step_that_changes_rows_has_an_identity_that_covers_the_steps_before() -> None:
    first, second = step(1), step(2)
    late = step(2, digest="other")

    assert chain([]) == []
    assert len(set(chain([first, second, step(3, removed=1, added=0)]))) == 3
    assert chain([first, second])[0] == chain([first])[0]
    assert chain([late, step(3)])[-1] != chain([second, step(3)])[-1]


def test_a_step_without_changes_keeps_the_identity_unless_a_column_came() -> None:
    same = chain([step(1), step(2, added=0), step(3, added=0)])
    more = chain([step(1), step(2, added=0, columns=("id", "name"))])

    assert len(set(same)) == 1
    assert len(set(more)) == 2


def test_a_failed_load_waits_longer_each_time_and_at_most_an_hour() -> None:
    waits = [retry_after(attempts) for attempts in range(1, 6)]

    assert waits == [timedelta(minutes=1), timedelta(minutes=10), *[timedelta(hours=1)] * 3]
