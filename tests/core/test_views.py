"""The text of `views.sql`; that DuckDB takes it is shown in tests/ops."""

from __future__ import annotations

from typing import Any

import pytest

from dcsync.core import views
from dcsync.core.views import RequestTables, TableHistory
from tests.fakes import NOON


def make_table(name: str = "admin_users.csv", **changes: Any) -> TableHistory:
    return TableHistory(
        **{"name": name, "headers": [("id", "name")], "size": 100, "columns": ("id", "name"), **changes}
    )


def make_request(*tables: TableHistory, **changes: Any) -> RequestTables:
    values: dict[str, Any] = {
        "account": "acme",
        "slug": "nightly-ce9bc188",
        "description": "Nightly",
        "folder": "acme/nightly-ce9bc188",
        "latest": "acme/nightly-ce9bc188/latest",
        "depth": 4,
        "tables": tables,
    }
    return RequestTables(**{**values, **changes})


def statements(*requests: RequestTables, root: str = "/srv/dcsync") -> list[str]:
    text = views.render(root, requests, written_at=NOON)
    return [line for line in text.splitlines() if line and not line.startswith("--")]


EXPECTED = """\
ATTACH IF NOT EXISTS ':memory:' AS "acme_nightly_ce9bc188";
CREATE SCHEMA IF NOT EXISTS "acme_nightly_ce9bc188".latest;
CREATE SCHEMA IF NOT EXISTS "acme_nightly_ce9bc188".history;
CREATE OR REPLACE VIEW "acme_nightly_ce9bc188".latest."admin_users" AS SELECT * FROM read_csv(\
'/srv/dcsync/acme/nightly-ce9bc188/latest/admin_users.csv', \
header = true, delim = ',', quote = '"', escape = '"', \
auto_detect = false, columns = {'id': 'VARCHAR', 'name': 'VARCHAR'}, filename = true);
CREATE OR REPLACE VIEW "acme_nightly_ce9bc188".history."admin_users" AS SELECT *, filename[35:-17] AS snapshot \
FROM read_csv('/srv/dcsync/acme/nightly-ce9bc188/*/*/*/*/admin_users.csv', \
header = true, delim = ',', quote = '"', escape = '"', \
auto_detect = false, columns = {'id': 'VARCHAR', 'name': 'VARCHAR'}, filename = true);
USE "acme_nightly_ce9bc188";
CREATE OR REPLACE VIEW "acme_nightly_ce9bc188".latest."admin_users" AS SELECT * FROM read_csv(\
'/srv/dcsync/acme/nightly-ce9bc188/latest/admin_users.csv', \
header = true, delim = ',', quote = '"', escape = '"', sample_size = -1, filename = true);
"""


def test_each_request_has_a_database_with_latest_and_history() -> None:
    assert statements(make_request(make_table())) == EXPECTED.splitlines()


WHOLE = """\
-- DuckDB views over this mirror, written by dcsync at 2026-11-22T12:00:00.000Z. The next run replaces it.
--   duckdb -init views.sql
--   or in Python: duckdb.connect().execute(open("views.sql").read())
-- latest.<table> is the latest snapshot, with the types that DuckDB detects.
-- history.<table> is every snapshot. Its columns are text, because types can change between snapshots.
-- It also has the columns filename and snapshot (the snapshot's folder, which sorts by time).

-- acme: Nightly
ATTACH IF NOT EXISTS ':memory:' AS "acme_nightly_ce9bc188";
CREATE SCHEMA IF NOT EXISTS "acme_nightly_ce9bc188".latest;
CREATE SCHEMA IF NOT EXISTS "acme_nightly_ce9bc188".history;

-- beta: Weekly
ATTACH IF NOT EXISTS ':memory:' AS "beta_nightly_ce9bc188";
CREATE SCHEMA IF NOT EXISTS "beta_nightly_ce9bc188".latest;
CREATE SCHEMA IF NOT EXISTS "beta_nightly_ce9bc188".history;

-- latest.… and history.… without a prefix belong to this data request:
USE "acme_nightly_ce9bc188";
"""


def test_the_file_explains_itself_and_uses_the_first_request() -> None:
    requests = [make_request(), make_request(account="beta", description="Weekly")]

    assert views.render("/srv/dcsync", requests, written_at=NOON) == WHOLE


@pytest.mark.parametrize(("length", "shown"), [(200, "x" * 200), (201, "x" * 200 + "…")])
def test_a_long_description_is_cut(length: int, shown: str) -> None:
    text = views.render("/srv/dcsync", [make_request(description="x" * length)], written_at=NOON)

    assert f"-- acme: {shown}\n" in text


def test_without_a_snapshot_it_says_so() -> None:
    assert statements() == []
    assert "-- The mirror has no snapshots yet." in views.render("/srv/dcsync", [], written_at=NOON)


@pytest.mark.parametrize("headers", [[("id",), ("id", "name")], [None], [None, ("id",)]])
def test_a_table_whose_columns_changed_or_are_not_known_is_read_by_name_of_every_file(headers: list[Any]) -> None:
    (history,) = [line for line in statements(make_request(make_table(headers=headers))) if 'history."' in line]

    assert "union_by_name = true" in history


@pytest.mark.parametrize("headers", [[()], [("",)], []])
def test_a_table_without_columns_has_no_views(headers: list[Any]) -> None:
    assert not any("VIEW" in line for line in statements(make_request(make_table(headers=headers))))


@pytest.mark.parametrize("size", [None, 0])
def test_a_table_that_the_newest_snapshot_lacks_has_a_history_only(size: int | None) -> None:
    (view,) = [line for line in statements(make_request(make_table(size=size))) if "VIEW" in line]

    assert ".history." in view


def test_without_latest_there_is_the_history_only() -> None:
    (view,) = [line for line in statements(make_request(make_table(), latest=None)) if "VIEW" in line]

    assert ".history." in view


@pytest.mark.parametrize(
    "header", [("id", "ID"), ("id", ""), None], ids=["two of one name", "one without a name", "unknown"]
)
def test_columns_that_cannot_be_declared_are_read_from_the_file(header: tuple[str, ...] | None) -> None:
    found = statements(make_request(make_table(headers=[header], columns=header)))

    assert not any("columns = " in line for line in found)
    views = [line for line in found if "VIEW" in line]
    assert found[-len(views) :] == views
    assert [".latest." in line for line in views] == [True, False]


def test_what_reads_no_file_precedes_everything_that_does() -> None:
    found = statements(make_request(make_table("a.csv"), make_table("b.csv", headers=[("id",), ("id", "name")])))

    reading = [line for line in found if "sample_size" in line or "union_by_name" in line]
    assert found[-3:] == reading
    assert [line.count("columns = ") for line in found if "VIEW" in line and line not in reading] == [1, 1, 1]


def test_a_malformed_table_keeps_its_columns_as_text() -> None:
    found = statements(make_request(make_table(is_malformed=True)))

    assert not any("sample_size" in line for line in found)
    assert sum(".latest." in line for line in found if "VIEW" in line) == 1


def test_of_a_large_table_the_types_are_told_by_a_sample() -> None:
    assert "sample_size = 200000" in statements(make_request(make_table(size=4_194_305)))[-1]
    assert "sample_size = -1" in statements(make_request(make_table(size=4_194_304)))[-1]


def test_a_column_called_filename_keeps_its_name() -> None:
    found = statements(make_request(make_table(headers=[("id", "FileName")])))

    assert all("filename = 'source_filename'" in line for line in found if "VIEW" in line)
    assert not any("AS snapshot" in line for line in found)


def test_a_column_called_snapshot_keeps_its_name() -> None:
    assert not any("AS snapshot" in line for line in statements(make_request(make_table(headers=[("snapshot",)]))))


def test_a_snapshot_that_stands_beside_latest_is_not_counted_twice() -> None:
    deep, flat, bare = (
        next(line for line in statements(make_request(make_table(), **changes)) if '.history."' in line)
        for changes in ({}, {"depth": 1}, {"depth": 1, "latest": None})
    )

    assert "WHERE" not in deep + bare
    assert flat.endswith(" WHERE NOT starts_with(filename, '/srv/dcsync/acme/nightly-ce9bc188/latest/');")


def test_quotes_and_patterns_in_names_stand_for_themselves() -> None:
    found = statements(make_request(make_table('it\'s [a] "t".CSV')), root="/srv/*?/")

    assert "'/srv/[*][?]/acme/nightly-ce9bc188/*/*/*/*/it''s [[]a] \"t\".CSV'" in found[4]
    assert '.history."it\'s [a] ""t"""' in found[4]


def test_a_table_whose_name_is_its_extension_keeps_it() -> None:
    assert '.latest.".csv" AS' in statements(make_request(make_table(".csv")))[3]


def test_databases_have_names_that_can_be_typed_and_differ() -> None:
    requests = [
        make_request(account="Ac-me", slug="x-1"),
        make_request(account="ac", slug="me-x-1"),
        make_request(account="...", slug="-"),
    ]

    found = [line.split('"')[1] for line in statements(*requests) if line.startswith("ATTACH")]

    assert found == ["ac_me_x_1", "ac_me_x_1_2", "mirror"]


def test_no_description_breaks_out_of_its_comment() -> None:
    assert not any("DROP" in line for line in statements(make_request(description="x\nDROP TABLE t;")))
