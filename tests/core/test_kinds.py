"""Which tables have all rows, the rows of a period, or only changed rows."""

from __future__ import annotations

from typing import Any

import pytest

from dcsync.core.kinds import group_of, is_delta, kind_of, parse_kind, request_of
from dcsync.core.model import DataRequest
from dcsync.core.table import TableKind
from tests.fakes import NOON, make_job, make_request

FULL, WINDOW, DELTA = TableKind.FULL, TableKind.WINDOW, TableKind.DELTA
#: As in the schema documents of Autodesk, of an activities table and of a change data capture table.
DEFAULTED = "Date Range Extractions Supported - Maximum Date Range Allowed: 31 days - Default Date Range: YESTERDAY"
SUPPORTED = "This is the Change Data Capture (CDC) enabled version.  Date Range\n Extractions Supported"


def asks(*groups: str, **dates: Any) -> DataRequest:
    return make_request(service_groups=groups, **dates)


@pytest.mark.parametrize(
    ("name", "request_", "kind"),
    [
        ("README.html", asks("all"), None),
        ("schemas/activities.json", asks("all"), None),
        ("admin_users.csv", asks("all"), FULL),
        ("admin_users.csv", asks("admin", date_range="YESTERDAY"), FULL),
        ("admin_users.csv", None, None),
        # Windows, in a request of their own and in every `all` request, with and without dates.
        ("activities_docs_activities.csv", asks("activities"), WINDOW),
        ("activities_docs_activities.csv", asks("all"), WINDOW),
        ("Activities_docs_activities.CSV", asks("all", date_range="PAST_7_DAYS"), WINDOW),
        ("activities_docs_activities.csv", None, WINDOW),
        # A table of the schedule group, and one whose name begins with the same letters.
        ("schedule_activities.csv", asks("all"), FULL),
        ("activitieslog_x.csv", asks("all"), FULL),
        # Change data capture: the dates decide.
        ("cdcissues_issues.csv", asks("cdcissues", start_date=NOON), DELTA),
        ("cdcissues_issues.csv", asks("cdcissues", end_date=NOON), DELTA),
        ("cdcissues_issues.csv", asks("CDCissues", date_range="YESTERDAY"), DELTA),
        ("cdcissues_issues.csv", asks("cdcissues"), FULL),
        ("cdcissues_issues.csv", None, DELTA),
        # Whatever its name, a table that only the delta group explains.
        ("issues_issues.csv", asks("cdcissues", start_date=NOON), DELTA),
        ("issues_issues.csv", asks("cdcissues"), FULL),
        ("issues_issues.csv", asks("admin", "cdcissues", start_date=NOON), DELTA),
        ("admin_users.csv", asks("Admin", "cdcissues", start_date=NOON), FULL),
        ("admin_users.csv", asks("all", "cdcissues", start_date=NOON), FULL),
        ("activities_docs.csv", asks("cdcissues", start_date=NOON), WINDOW),
        ("users.csv", asks("admin"), FULL),
    ],
)
def test_request_and_name_decide_the_kind(name: str, request_: DataRequest | None, kind: TableKind | None) -> None:
    assert kind_of(name, request_) is kind


@pytest.mark.parametrize(
    ("name", "request_", "schema", "kind"),
    [
        ("forms_log.csv", asks("all"), DEFAULTED, WINDOW),
        ("forms_log.csv", None, DEFAULTED.lower(), WINDOW),
        ("activities_docs.csv", asks("all"), DEFAULTED, WINDOW),
        # Not every table of the activities schema supports dates.
        ("activities_types.csv", asks("all"), "The types of activities", FULL),
        ("activities_types.csv", None, "The types of activities", None),
        # Without a default, only a data request with dates is limited.
        ("forms_log.csv", asks("all"), SUPPORTED, FULL),
        ("forms_log.csv", asks("all", start_date=NOON), SUPPORTED, WINDOW),
        ("forms_log.csv", None, SUPPORTED, WINDOW),
        ("cdcforms_log.csv", asks("cdcforms"), SUPPORTED, FULL),
        ("cdcforms_log.csv", asks("cdcforms", start_date=NOON), SUPPORTED, DELTA),
        ("schemas/forms.html", asks("all"), DEFAULTED, None),
    ],
)
def test_the_schema_document_of_a_table_goes_before_its_name(
    name: str, request_: DataRequest | None, schema: str, kind: TableKind | None
) -> None:
    assert kind_of(name, request_, schema) is kind


@pytest.mark.parametrize(
    ("name", "group"),
    [("admin_users.csv", "admin"), ("a/CDC_x.csv", "cdc"), ("users.csv", "users"), ("", "")],
)
def test_the_first_part_of_a_name_is_its_service_group(name: str, group: str) -> None:
    assert group_of(name) == group


@pytest.mark.parametrize(
    ("value", "kind"),
    [("full", FULL), ("window", WINDOW), ("delta", DELTA), (None, None), ("later", None), (5, None), ([], None)],
)
def test_a_recorded_kind_is_read_back_and_a_strange_one_is_unknown(value: Any, kind: TableKind | None) -> None:
    assert parse_kind(value) is kind


def test_only_a_full_table_is_replaced_by_a_newer_one() -> None:
    assert {kind: kind.has_all_rows for kind in TableKind} == {FULL: True, WINDOW: False, DELTA: False}


@pytest.mark.parametrize("dates", [{"start_date": NOON}, {"end_date": NOON}, {"start_date": NOON, "end_date": NOON}])
def test_the_dates_of_a_job_decide_whether_it_has_only_changed_rows(dates: dict[str, Any]) -> None:
    # As the manifest knows the data request until the list is read again.
    before = asks("cdcissues")

    request = request_of(make_job(**dates), before)

    assert kind_of("cdcissues_issues.csv", request) is DELTA
    assert is_delta(make_job(**dates), before)
    assert (request.start_date, request.end_date) == (dates.get("start_date"), dates.get("end_date"))


def test_a_job_without_dates_says_nothing_about_its_data_request() -> None:
    delta = asks("cdcissues", start_date=NOON)

    assert request_of(make_job(), delta) is delta
    assert is_delta(make_job(), delta)
    assert not is_delta(make_job(), asks("cdcissues"))
    assert not is_delta(make_job(start_date=NOON), asks("all"))
    assert not is_delta(make_job(start_date=NOON), None)
