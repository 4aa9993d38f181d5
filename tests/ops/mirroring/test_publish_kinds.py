"""What a snapshot records of its tables: their kinds, their days, and how they compare with earlier ones."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from dcsync.core.coverage import Days
from dcsync.core.schema_documents import MAX_SIZE
from dcsync.core.table import TableKind
from tests.fakes import make_delta_request, make_request
from tests.rigs.mirror import TODAY, sidecar
from tests.rigs.publishing import Workbench, make_decisions

#: What a schema document says of a table with only the rows of a period.
SENTENCE = "Date Range Extractions Supported - Default Date Range: YESTERDAY"


async def test_tables_are_compared_with_the_newest_of_several_earlier_snapshots(bench: Workbench) -> None:
    await bench.publish(bench.job(1, days_ago=2), {"a.csv": "id,old\n1,2\n", "old.csv": "id\n1\n"})
    await bench.publish(bench.job(2, days_ago=1), {"a.csv": "id,new\n1,2\n", "new.csv": "id\n1\n"})

    record = await bench.publish(bench.job(3), {"a.csv": "id\n1\n"})

    assert [(warning.code, warning.table) for warning in record.summary.warnings] == [
        ("L-TABLE", "new.csv"),
        ("L-COLUMNS", "a.csv"),
    ]
    assert "'new'" in record.summary.warnings[1].message


async def test_an_earlier_snapshot_is_one_whose_job_completed_earlier(bench: Workbench) -> None:
    await bench.publish(bench.job(2), {"a.csv": "id,new\n1,2\n"})

    record = await bench.publish(bench.job(1, days_ago=1), {"a.csv": "id\n1\n"})

    assert record.summary.warnings == ()


async def test_a_table_that_the_configuration_leaves_out_is_not_missed(bench: Workbench) -> None:
    await bench.publish(bench.job(1, days_ago=1), {"a.csv": "id\n1\n", "b.csv": "id\n1\n"})

    record = await bench.publish(
        bench.job(2), {"a.csv": "id\n1\n"}, decisions=make_decisions(skipped=(("b.csv", "excluded"),))
    )

    assert record.summary.warnings == ()


async def test_fewer_rows_of_a_delta_extract_are_no_warning(bench: Workbench) -> None:
    bench.request = replace(bench.request, is_delta=True, document=make_delta_request())
    await bench.publish(bench.job(1, days_ago=1), {"a.csv": "id\n" + "1\n" * 9, "b.csv": "id\n1\n"})

    record = await bench.publish(bench.job(2), {"a.csv": "id\n1\n"})

    assert record.summary.warnings == ()
    assert not bench.latest.is_symlink()


async def test_the_dates_of_a_job_make_a_delta_before_the_data_request_is_read_again(bench: Workbench) -> None:
    bench.request = replace(bench.request, document=make_request(service_groups=("cdcissues",)))
    full = {"cdcissues_a.csv": "id\n" + "1\n" * 200, "cdcissues_b.csv": "id\n1\n"}
    await bench.publish(bench.job(1, days_ago=1), full)
    assert bench.latest.is_symlink()
    bench.latest.unlink()
    # Its user has added a period since.
    job = replace(bench.job(2), start_date=TODAY - timedelta(days=1), end_date=TODAY)

    record = await bench.publish(job, {"cdcissues_a.csv": "id\n1\n"})

    document = sidecar(bench.path(job))
    assert [entry["kind"] for entry in document["files"]] == ["delta"]
    found = await bench.context.manifest.history.snapshot(bench.account.name, job.id)
    assert found is not None
    assert [stored.kind for stored in found.files] == [TableKind.DELTA]
    assert document["request"]["delta"] is True
    # The data request is recorded as Autodesk described it, without the dates of one job.
    assert document["request"]["start_date"] is None
    assert record.summary.warnings == ()
    assert not bench.latest.is_symlink()


async def test_the_days_of_window_tables_are_recorded_with_the_snapshot(bench: Workbench) -> None:
    bench.request = replace(bench.request, document=make_request(service_groups=("all",), date_range="PAST_7_DAYS"))
    job = replace(bench.job(1), created_at=TODAY)

    await bench.publish(job, {"activities_docs.csv": "id\n1\n"})
    await bench.publish(bench.job(2), {"admin_users.csv": "id\n1\n"})

    day = TODAY.date()
    window = Days(first=day - timedelta(days=7), last=day - timedelta(days=1))
    assert await bench.context.manifest.history.recorded_windows(bench.account.name) == {job.id: window}
    assert sidecar(bench.path(job))["record"]["summary"]["window"] == window.text
    assert "window" not in sidecar(bench.path(bench.job(2)))["record"]["summary"]


async def test_without_a_description_no_days_are_recorded(bench: Workbench) -> None:
    job = bench.job()

    record = await bench.publish(job, {"activities_docs.csv": "id\n1\n"})

    assert [entry["kind"] for entry in sidecar(bench.path(job))["files"]] == ["window"]
    assert record.summary.window is None


async def test_a_window_table_of_the_snapshot_before_may_be_missing_for_a_day(bench: Workbench) -> None:
    await bench.publish(bench.job(1, days_ago=2), {"a.csv": "id\n1\n"})
    await bench.publish(bench.job(2, days_ago=1), {"a.csv": "id\n1\n", "activities_docs.csv": "id\n1\n"})

    record = await bench.publish(bench.job(3), {"a.csv": "id\n1\n"})

    assert record.summary.warnings == ()


async def test_the_schema_documents_of_an_extract_say_which_tables_a_period_limits(bench: Workbench) -> None:
    """Not every table of the activities schema is a window, and another schema may have one."""
    files = {
        "activities_docs.csv": "id\n",
        "activities_types.csv": "id\n",
        "forms_log.csv": "id\n",
        "forms_forms.csv": "id\n",
        "schemas/activities.html": f"<h2>docs</h2><p>{SENTENCE}</p><h2>types</h2><p>All types</p>",
        "schemas/forms.html": f"<h2>forms</h2><p>All forms</p><h2>log</h2><p>{SENTENCE}</p>",
    }
    bench.request = replace(bench.request, document=make_request(service_groups=("all",)))
    job = bench.job()

    await bench.publish(job, files)

    assert {entry["name"]: entry.get("kind") for entry in sidecar(bench.path(job))["files"]} == {
        "activities_docs.csv": "window",
        "activities_types.csv": "full",
        "forms_log.csv": "window",
        "forms_forms.csv": "full",
        "schemas/activities.html": None,
        "schemas/forms.html": None,
    }


@pytest.mark.parametrize(("extra", "kind"), [(0, "window"), (1, "full")])
async def test_a_schema_document_counts_up_to_its_largest_size(bench: Workbench, extra: int, kind: str) -> None:
    bench.request = replace(bench.request, document=make_request(service_groups=("all",)))
    page = f"<h2>log</h2><p>{SENTENCE}</p>"
    job = bench.job()

    await bench.publish(job, {"forms_log.csv": "id\n", "schemas/forms.html": page.ljust(MAX_SIZE + extra)})

    kinds = {entry["name"]: entry.get("kind") for entry in sidecar(bench.path(job))["files"]}
    assert kinds["forms_log.csv"] == kind


async def test_the_text_in_a_table_says_nothing_about_its_kind(bench: Workbench) -> None:
    bench.request = replace(bench.request, document=make_request(service_groups=("all",)))
    job = bench.job()

    await bench.publish(job, {"forms_log.csv": f"log\n{SENTENCE}\n"})

    assert [entry["kind"] for entry in sidecar(bench.path(job))["files"]] == ["full"]


async def test_a_table_that_its_schema_document_limits_to_a_period_may_have_fewer_rows(bench: Workbench) -> None:
    bench.request = replace(bench.request, document=make_request(service_groups=("all",)))
    page = {"schemas/forms.html": f"<h2>log</h2><p>{SENTENCE}</p>"}
    await bench.publish(bench.job(1, days_ago=1), {"forms_log.csv": "id\n" + "1\n" * 500, **page})

    record = await bench.publish(bench.job(2), {"forms_log.csv": "id\n1\n", **page})

    assert record.summary.warnings == ()
