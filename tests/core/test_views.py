"""The text of `views.sql`; that DuckDB takes it is shown in tests/ops."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from dcsync.core import views
from dcsync.core.sql import csv_form
from dcsync.core.table import TableKind
from dcsync.core.views import RequestTables, TableHistory
from tests.fakes import NOON

DATABASE = '"acme_nightly_ce9bc188"'


def make_table(name: str = "admin_users.csv", **changes: Any) -> TableHistory:
    return TableHistory(**{"name": name, "headers": [("id", "name")], "columns": ("id", "name"), **changes})


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
    """Return the statements for the data requests, without those that all have in common."""
    text = views.render(root, requests, written_at=NOON, zone=UTC)
    found = [line for line in text.splitlines() if line and not line.startswith("--")]
    assert [line.split()[0] for line in found[:5]] == ["SET", "ATTACH", "CREATE", "CREATE", "CREATE"]
    return found[5:]


def created(table: TableHistory, schema: str, **changes: Any) -> str | None:
    """Return the statement that creates the view or macro of a table in a schema, if there is one."""
    return next((line for line in statements(make_request(table, **changes)) if f'.{schema}."' in line), None)


COLUMNS = "columns = {'id': 'VARCHAR', 'name': 'VARCHAR'}, filename = true"
FOLDER = """array_to_string(string_split("filename", '/')[-5:-2], '/')"""
EXPECTED = f"""\
ATTACH IF NOT EXISTS ':memory:' AS {DATABASE};
CREATE SCHEMA IF NOT EXISTS {DATABASE}.latest;
CREATE SCHEMA IF NOT EXISTS {DATABASE}.snapshots;
CREATE SCHEMA IF NOT EXISTS {DATABASE}.history;
CREATE SCHEMA IF NOT EXISTS {DATABASE}.as_of;
SET VARIABLE dcsync_snapshots_acme_nightly_ce9bc188 = [\
{{'completed_at': TIMESTAMPTZ '2026-11-21T12:00:00+00:00', 'snapshot': '2026/11/21/120000Z-9bd7c8a0'}}, \
{{'completed_at': TIMESTAMPTZ '2026-11-22T12:00:00+00:00', 'snapshot': '2026/11/22/120000Z-163405aa'}}];
CREATE OR REPLACE MACRO {DATABASE}.main.snapshot_at(_day) AS list_last(list_filter(\
getvariable('dcsync_snapshots_acme_nightly_ce9bc188'), \
lambda s: s.completed_at <= dcsync_mirror.main.moment(_day))).snapshot;
CREATE OR REPLACE VIEW {DATABASE}.latest."admin_users" AS SELECT * \
REPLACE (TRY_CAST(trim("id") AS BIGINT) AS "id", dcsync_mirror.main.utc(trim("name")) AS "name") FROM read_csv(\
dcsync_mirror.main.path('/acme/nightly-ce9bc188/latest/admin_users.csv'), {csv_form(["id"])}, {COLUMNS});
CREATE OR REPLACE VIEW {DATABASE}.snapshots."admin_users" AS SELECT *, {FOLDER} AS "snapshot" FROM read_csv(\
dcsync_mirror.main.path('/acme/nightly-ce9bc188/*/*/*/*/admin_users.csv'), {csv_form(["id"])}, {COLUMNS});
CREATE OR REPLACE VIEW {DATABASE}.history."admin_users" AS FROM {DATABASE}.snapshots."admin_users";
CREATE OR REPLACE MACRO {DATABASE}.as_of."admin_users"(_day) AS TABLE SELECT * EXCLUDE ("filename", "snapshot") \
REPLACE (TRY_CAST(trim("id") AS BIGINT) AS "id", dcsync_mirror.main.utc(trim("name")) AS "name") \
FROM {DATABASE}.snapshots."admin_users" \
WHERE "snapshot" = {DATABASE}.main.snapshot_at(_day);
USE {DATABASE};
"""  # noqa: S608 - nothing runs it
SNAPSHOTS = [
    (NOON, "2026/11/22/120000Z-163405aa"),
    (NOON - timedelta(days=1), "2026/11/21/120000Z-9bd7c8a0"),
]


def test_each_request_has_a_database_with_a_view_of_each_kind() -> None:
    table = make_table(types={"id": "BIGINT", "name": "TIMESTAMP", "other": "DATE"})

    assert statements(make_request(table, snapshots=SNAPSHOTS)) == EXPECTED.splitlines()


WHOLE = """\
-- DuckDB views over this mirror, written by dcsync at 2026-11-22T12:00:00.000Z. The next run replaces it.
--   duckdb -init views.sql
--   or in Python: duckdb.connect().execute(open("views.sql").read())
-- latest.TABLE: the latest snapshot, with the types in Autodesk's schema documents. A value that does not fit is NULL.
-- snapshots.TABLE: all snapshots, as text, with the columns filename and snapshot (the snapshot's folder).
-- history.TABLE: the row history, as text, with _valid_from and _valid_to or _first_seen, if the mirror has one.
--   Otherwise, it is snapshots.TABLE.
-- as_of.TABLE(day): the rows at the end of a day ('2026-11-01') or at a time ('2026-11-01 12:00', in UTC), with types.

-- The place of the mirror. For a copy or a share, set it to the path there, before or after you load this file.
SET VARIABLE dcsync_root = coalesce(getvariable('dcsync_root'), '/srv/dcsync');
ATTACH IF NOT EXISTS ':memory:' AS dcsync_mirror;
CREATE OR REPLACE MACRO dcsync_mirror.main.path(below) AS \
regexp_replace(rtrim(getvariable('dcsync_root'), '/'), '([*?[])', '[\\1]', 'g') || below;
CREATE OR REPLACE MACRO dcsync_mirror.main.utc(value) AS CASE \
WHEN regexp_matches(value, ':.*[+-]\\d\\d(:?\\d\\d)?$') THEN TRY_CAST(value AS TIMESTAMPTZ) AT TIME ZONE 'UTC' \
ELSE TRY_CAST(value AS TIMESTAMP) END;
CREATE OR REPLACE MACRO dcsync_mirror.main.moment(day) AS CASE WHEN length(day::VARCHAR) = 10 THEN \
((day::VARCHAR::DATE + 1)::TIMESTAMP AT TIME ZONE 'Europe/Berlin') - INTERVAL 1 MICROSECOND \
WHEN regexp_matches(day::VARCHAR, '(Z|[+-]\\d\\d(:?\\d\\d)?)$') THEN day::VARCHAR::TIMESTAMPTZ \
ELSE (day::VARCHAR || 'Z')::TIMESTAMPTZ END;

-- acme: Nightly
ATTACH IF NOT EXISTS ':memory:' AS "acme_nightly_ce9bc188";
CREATE SCHEMA IF NOT EXISTS "acme_nightly_ce9bc188".latest;
CREATE SCHEMA IF NOT EXISTS "acme_nightly_ce9bc188".snapshots;
CREATE SCHEMA IF NOT EXISTS "acme_nightly_ce9bc188".history;
CREATE SCHEMA IF NOT EXISTS "acme_nightly_ce9bc188".as_of;

-- beta: Weekly
ATTACH IF NOT EXISTS ':memory:' AS "beta_nightly_ce9bc188";
CREATE SCHEMA IF NOT EXISTS "beta_nightly_ce9bc188".latest;
CREATE SCHEMA IF NOT EXISTS "beta_nightly_ce9bc188".snapshots;
CREATE SCHEMA IF NOT EXISTS "beta_nightly_ce9bc188".history;
CREATE SCHEMA IF NOT EXISTS "beta_nightly_ce9bc188".as_of;

-- latest.… and the others without a prefix belong to this data request:
USE "acme_nightly_ce9bc188";
"""


def test_the_file_explains_itself_and_uses_the_first_request() -> None:
    requests = [make_request(), make_request(account="beta", description="Weekly")]

    assert views.render("/srv/dcsync", requests, written_at=NOON, zone=ZoneInfo("Europe/Berlin")) == WHOLE


@pytest.mark.parametrize(("length", "shown"), [(200, "x" * 200), (201, "x" * 200 + "…")])
def test_a_long_description_is_cut(length: int, shown: str) -> None:
    text = views.render("/srv/dcsync", [make_request(description="x" * length)], written_at=NOON, zone=UTC)

    assert f"-- acme: {shown}\n" in text


def test_without_a_snapshot_it_says_so() -> None:
    assert statements() == []
    assert "-- The mirror has no snapshots yet." in views.render("/srv/dcsync", [], written_at=NOON, zone=UTC)


@pytest.mark.parametrize(
    ("root", "written"),
    [("/it's", "/it''s"), ("/Größe ع", "/Größe ع"), ("/a\udcff", ".")],
)
def test_the_place_is_written_as_sql_and_is_the_current_folder_if_it_is_not_utf8(root: str, written: str) -> None:
    text = views.render(root, [], written_at=NOON, zone=UTC)

    assert f"coalesce(getvariable('dcsync_root'), '{written}');" in text


def test_each_file_of_a_table_whose_columns_changed_is_read_with_its_own_header() -> None:
    old, new = ("id", "name"), ("name", "id", "more")
    runs = [("2026/01", old), ("2026/02", new), ("2026/03", ()), ("2026/04", old), ("2026/05", new)]

    found = created(make_table(headers=[old, new, ()], runs=runs), "snapshots")

    assert found is not None
    newest, oldest = found.split(" UNION ALL BY NAME ")
    assert "'name': 'VARCHAR', 'id': 'VARCHAR', 'more': 'VARCHAR'" in newest
    assert newest.endswith(
        f" WHERE ({FOLDER} >= '2026/02' AND {FOLDER} < '2026/03') OR ({FOLDER} >= '2026/05')",
    ), newest
    assert "{'id': 'VARCHAR', 'name': 'VARCHAR'}" in oldest
    assert oldest.endswith(f" WHERE ({FOLDER} < '2026/02') OR ({FOLDER} >= '2026/04' AND {FOLDER} < '2026/05');")


def test_where_it_is_not_known_which_header_a_file_has_there_is_the_latest_only() -> None:
    table = make_table(headers=[("id",), ("id", "name")])

    assert created(table, "latest") is not None
    assert created(table, "snapshots", snapshots=SNAPSHOTS) is None
    assert created(table, "history", snapshots=SNAPSHOTS) is None
    assert created(table, "as_of", snapshots=SNAPSHOTS) is None


def test_a_file_whose_header_is_not_known_is_an_error_when_it_is_read() -> None:
    unknown = "columns = {'unknown_header': 'VARCHAR'}"

    assert unknown in str(created(make_table(headers=[None], columns=None), "latest"))
    assert unknown in str(created(make_table(headers=[None], columns=None), "snapshots"))


@pytest.mark.parametrize("headers", [[()], [("",)], []])
def test_a_table_without_columns_has_no_views(headers: list[Any]) -> None:
    assert not any("VIEW" in line for line in statements(make_request(make_table(headers=headers))))


def test_a_table_that_is_empty_in_every_known_snapshot_has_no_view_of_them() -> None:
    table = make_table(headers=[(), ("id",)], runs=[("2026", ())], columns=("id",))

    assert created(table, "latest") is not None
    assert created(table, "snapshots") is None


def test_a_table_that_the_newest_snapshot_lacks_has_no_latest() -> None:
    assert created(make_table(is_current=False), "latest") is None
    assert created(make_table(is_current=False), "history") is not None
    assert created(make_table(), "latest", latest=None) is None
    assert created(make_table(), "history", latest=None) is not None


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(None, True), (TableKind.FULL, True), (TableKind.WINDOW, False), (TableKind.DELTA, False)],
)
def test_a_day_of_a_table_can_be_read_from_a_snapshot_that_has_all_its_rows(
    kind: TableKind | None, expected: bool
) -> None:
    assert (created(make_table(kind=kind), "as_of", snapshots=SNAPSHOTS) is not None) is expected
    assert created(make_table(kind=kind), "as_of") is None


def test_the_row_history_of_a_table_comes_last_and_has_any_day() -> None:
    table = make_table(
        kind=TableKind.WINDOW,
        parquet="acme/[1]/history/admin_users.parquet",
        types={"id": "BIGINT", "name": "VARCHAR"},
    )

    text = views.render("/srv", [make_request(table, make_table("b.csv"))], written_at=NOON, zone=UTC)
    found = statements(make_request(table, make_table("b.csv")))

    assert "\n\n-- From here on DuckDB opens files.\nCREATE OR REPLACE VIEW" in text
    path = "dcsync_mirror.main.path('/acme/[[]1]/history/admin_users.parquet')"
    source = f"read_parquet({path}, hive_partitioning = false)"
    nulls = "NULL::TIMESTAMPTZ AS _valid_from, NULL::TIMESTAMPTZ AS _valid_to, NULL::TIMESTAMPTZ AS _first_seen"
    moment = "dcsync_mirror.main.moment(_day)"
    assert found[-2] == f'CREATE OR REPLACE VIEW {DATABASE}.history."admin_users" AS FROM {source};'
    assert found[-1] == (
        f'CREATE OR REPLACE MACRO {DATABASE}.as_of."admin_users"(_day) AS TABLE '  # noqa: S608 - nothing runs it
        f'SELECT * EXCLUDE (_valid_from, _valid_to, _first_seen) REPLACE (TRY_CAST(trim("id") AS BIGINT) AS "id") '
        f'FROM (FROM {source} UNION ALL BY NAME SELECT {nulls}, NULL::VARCHAR AS "id" WHERE false) '
        f"WHERE (_valid_from <= {moment} OR _first_seen <= {moment}) AND (_valid_to IS NULL OR {moment} < _valid_to);"
    )
    assert [line for line in found if line.startswith("USE")] == [found[-3]]
    assert sum('.snapshots."admin_users"' in line for line in found) == 1


def test_a_table_without_snapshots_has_its_row_history() -> None:
    table = make_table(headers=(), columns=None, is_current=False, parquet="acme/x/history/a.parquet")

    views_of_table = [line for line in statements(make_request(table, snapshots=SNAPSHOTS)) if '"admin_users"' in line]
    assert [line.split(f"{DATABASE}.")[1].split(".")[0] for line in views_of_table] == ["history", "as_of"]
    assert "REPLACE (" not in views_of_table[1]


def test_a_header_with_a_line_break_is_read_as_a_row_and_left_out() -> None:
    header = ("id", "a\rb")
    text = views.render("/srv", [make_request(make_table(headers=[header], columns=header))], written_at=NOON, zone=UTC)

    is_header = """coalesce("id", '') = 'id' AND coalesce("a\rb", '') = 'a' || chr(13) || 'b'"""
    number = f'row_number() OVER (PARTITION BY "filename", {is_header})'
    assert text.count(f"header = false, new_line = '\\n', {COLUMNS.replace('name', 'a' + chr(13) + 'b', 1)}") == 2
    assert text.count(f" QUALIFY NOT ({is_header}) OR {number} > 1") == 2


def test_columns_whose_names_sql_cannot_tell_apart_get_distinct_names() -> None:
    header = ("id", "ID", "", "it's")

    found = str(created(make_table(headers=[header], columns=header, types={"id_2": "DATE"}), "latest"))

    assert "{'id': 'VARCHAR', 'ID_2': 'VARCHAR', 'column_3': 'VARCHAR', 'it''s': 'VARCHAR'}" in found
    assert 'REPLACE (TRY_CAST(trim("ID_2") AS DATE) AS "ID_2")' in found


def test_a_column_that_differs_in_case_from_one_before_is_the_same_column() -> None:
    runs = [("1", ("id",)), ("2", ("ID",))]
    table = make_table(headers=[("id",), ("ID",)], runs=runs, columns=("ID",), types={"id": "BIGINT"})

    assert ' REPLACE (TRY_CAST(trim("ID") AS BIGINT) AS "ID") ' in str(created(table, "as_of", snapshots=SNAPSHOTS))


def test_columns_called_filename_and_snapshot_keep_their_names() -> None:
    header = ("FileName", "source_filename", "snapshot")
    table = make_table(headers=[header], columns=header)

    assert all("filename = 'source_source_filename'" in str(created(table, view)) for view in ("latest", "snapshots"))
    assert """string_split("source_source_filename", '/')""" in str(created(table, "snapshots"))
    assert ' AS "source_snapshot" FROM' in str(created(table, "snapshots"))
    day = str(created(table, "as_of", snapshots=SNAPSHOTS))
    assert 'EXCLUDE ("source_source_filename", "source_snapshot")' in day
    assert f'WHERE "source_snapshot" = {DATABASE}.main.snapshot_at(_day);' in day


def test_a_snapshot_that_stands_beside_latest_is_not_counted_twice() -> None:
    deep, flat, bare = (
        str(created(make_table(), "snapshots", **changes))
        for changes in ({}, {"depth": 1}, {"depth": 1, "latest": None})
    )

    assert "WHERE" not in deep + bare
    folder = """array_to_string(string_split("filename", '/')[-2:-2], '/')"""
    assert flat.endswith(f" WHERE {folder} <> 'latest' AND (true);")


def test_a_table_in_a_folder_of_the_snapshot_has_the_name_of_its_snapshot() -> None:
    found = str(created(make_table("schemas/a.csv"), "snapshots"))

    assert """string_split("filename", '/')[-6:-3]""" in found
    assert '.snapshots."schemas/a" AS' in found


def test_quotes_and_patterns_in_names_stand_for_themselves() -> None:
    found = str(created(make_table('it\'s [a] "t".CSV'), "snapshots", folder="acme/*?"))

    assert "path('/acme/[*][?]/*/*/*/*/it''s [[]a] \"t\".CSV')" in found
    assert '.snapshots."it\'s [a] ""t"""' in found


def test_a_table_whose_name_is_its_extension_keeps_it() -> None:
    assert '.latest.".csv" AS' in str(created(make_table(".csv"), "latest"))


def test_databases_have_names_that_can_be_typed_and_differ() -> None:
    requests = [
        make_request(account="Ac-me", slug="x-1"),
        make_request(account="ac", slug="me-x-1"),
        make_request(account="...", slug="-"),
        make_request(account="dcsync", slug="mirror"),
    ]

    found = [line.split('"')[1] for line in statements(*requests) if line.startswith("ATTACH")]

    assert found == ["ac_me_x_1", "ac_me_x_1_2", "mirror", "dcsync_mirror_2"]


def test_no_description_breaks_out_of_its_comment() -> None:
    assert not any("DROP" in line for line in statements(make_request(description="x\nDROP TABLE t;")))
