"""What the schema documents of an extract say about the columns of its tables."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core.column_types import Described, described, duckdb_type, matched, sections

TABLES = ("admin_users.csv", "admin_project_users.csv", "cdcadmin_users.csv", "README.html")

USERS = Described(
    types={"id": "VARCHAR", "created_at": "TIMESTAMP", "active": "BOOLEAN", "size": "DOUBLE", "due": "DATE"},
    key=("id",),
)
#: In the form of Autodesk's pages.
PAGE = """<!DOCTYPE html><html><body><h1>admin Schema Description</h1><b>Documentation Updated:</b> 2026-02-17
<ul><li><a href="#users">users</a></li><li><a href="#project_users">project_users</a></li></ul>
<h2 id="users"><a>users</a></h2><p>All users, if x &lt; 2 or 1 < 2</p>
<table class="t"><thead><tr><th>ordinal_position</th><th>column_name</th><th>data_type</th><th>constraints</th>
<th>notes</th></tr></thead><tbody>
<tr><td>1</td><td><code>id</code></td><td>string: <i>UUID</i></td><td>Primary Key</td><td>ID</td></tr>
<tr><td>2</td><td> created_at </td><td>timestamp: SQL</td><td></td><td>Foreign Key: Table: x Column: id</td></tr>
<tr><td>3</td><td>Active</td><td>boolean</td><td></td><td>Is a primary key of nothing</td></tr>
<tr><td>4</td><td>size</td><td>number</td><td>Max length: 255</td><td></td></tr>
<tr><td>5</td><td>due</td><td>date: string</td><td></td></tr>
<tr><td>6</td></tr><tr><td>6</td><td>cut</td></tr>
<tr><td>7</td><td></td><td>number</td></tr>
</tbody></table>
<h2>project_users</h2><p>users</p><table><tr><td>column_name</td><td>data_type</td></tr>
<tr><td>user_id</td><td>string: UUID</td></tr></table></body></html>"""
MARKDOWN = """# admin Schema Description

## users

| ordinal_position | column_name | data_type | constraints | notes |
| --- | --- | :-- | --- | --- |
| 1 | `id` | string: UUID | PK | |
| 2 | created_at | timestamp: SQL |  | |
| 3 | active | boolean |  | |
| 4 | size | number |  | |
| 5 | due | date: string |  | |
"""
COLUMNS: list[Any] = [
    {"name": "id", "type": "uuid", "primaryKey": True},
    {"name": "created_at", "type": "timestamp without time zone", "notes": None},
    {"name": "active", "type": "boolean", "key": False},
    {"name": "size", "type": "numeric", "constraints": ["Max length: 255"]},
    {"name": "due", "type": "date"},
]


def read(document: object, name: str = "schemas/admin.json", *tables: str) -> dict[str, Described]:
    body = document if isinstance(document, str) else json.dumps(document)
    return dict(described({name: body.encode()}, tables or TABLES))


def test_a_page_lists_the_columns_of_each_table_below_its_heading() -> None:
    found = read(PAGE, "schemas/admin.html")

    assert found == {
        "admin_users.csv": USERS,
        "admin_project_users.csv": Described(types={"user_id": "VARCHAR"}),
    }
    assert found == read(PAGE, "schemas/admin.HTM")


def test_a_page_in_markdown_is_read_too() -> None:
    assert read(MARKDOWN, "schemas/admin.md") == {"admin_users.csv": USERS}


WITHOUT_KEY = [{key: value for key, value in column.items() if key != "primaryKey"} for column in COLUMNS]


@pytest.mark.parametrize(
    "document",
    [
        {"admin_users.csv": COLUMNS},
        {"users": {"columns": COLUMNS}},
        {"name": "admin", "tables": [{"table": "users", "description": "All", "fields": COLUMNS}]},
        [{"name": "users", "type": "object", "columns": COLUMNS, "key": "name"}],
        {"tables": {"users": {"columns": WITHOUT_KEY, "primary_key": "id"}}},
        {"tables": [{"name": "ADMIN_USERS", "Columns": WITHOUT_KEY, "primaryKeys": ["id"]}]},
        {"users": {column["name"]: column for column in COLUMNS}},
        {"users": {"key": ["id"], "columns": {column["name"]: column["type"] for column in WITHOUT_KEY}}},
        {
            "users": {
                "type": "object",
                "properties": {
                    "id": {"type": ["string", "null"], "format": "uuid", "constraints": "PRIMARY KEY"},
                    "created_at": {"type": "string", "format": "date-time"},
                    "active": {"type": "boolean"},
                    "size": {"type": "number"},
                    "due": {"type": "string", "format": "date"},
                },
            }
        },
    ],
)
def test_a_json_document_is_searched_for_columns_in_any_layout(document: object) -> None:
    assert read(document) == {"admin_users.csv": USERS}


@pytest.mark.parametrize(
    "document",
    [
        {"users": {"description": "All users", "name": "users"}},
        {"users": [{"name": "id"}, {"type": "uuid"}]},
        {"users": [{"name": "x", "type": "geometry"}]},
        {"users": [{"name": "", "type": "uuid"}]},
        {"users": [{"name": 5, "type": "uuid"}]},
        {"users": {"id": 5}},
        {"users": [5, "id"]},
        {"companies": COLUMNS},
        {"tables": [{"name": 5, "columns": COLUMNS}]},
        5,
    ],
)
def test_a_document_without_columns_of_a_table_says_nothing(document: object) -> None:
    assert read(document) == {}


def test_a_column_is_not_taken_for_a_table() -> None:
    columns = [{"name": "json", "type": "string: UUID"}, {"name": "text", "type": "number"}]

    for document in (
        {"t": {"columns": columns}},
        {"t": columns},
        {"t": {column["name"]: column for column in columns}},
    ):
        found = sections("schemas/a.json", json.dumps(document).encode())
        assert found == {"t": Described(types={"json": "VARCHAR", "text": "DOUBLE"})}


def test_a_document_that_cannot_be_read_says_nothing() -> None:
    assert sections("schemas/admin.json", b"{") == {}
    assert sections("schemas/admin.html", b"\xff\x00<td></tr>") == {}


def test_a_document_describes_the_tables_of_its_own_schema_only() -> None:
    assert read({"users": COLUMNS}, "schemas/issues.json") == {}
    assert read({"users": COLUMNS}, "schemas/cdcadmin.json").keys() == {"cdcadmin_users.csv"}


def test_the_page_decides_and_the_json_adds() -> None:
    head = "<tr><th>Column name</th><th>Type</th></tr>"
    page = f"<h2>users</h2><table>{head}<tr><td>id</td><td>number</td></tr></table>"
    found = described(
        {"schemas/admin.json": json.dumps({"users": COLUMNS}).encode(), "schemas/admin.html": page.encode()}, TABLES
    )

    assert found["admin_users.csv"] == Described(types={**USERS.types, "id": "DOUBLE"}, key=("id",))


def test_a_table_that_is_described_twice_in_a_document_has_its_first_description() -> None:
    page = PAGE + "<h2>users</h2><table><tr><th>name</th><th>type</th></tr><tr><td>x</td><td>y</td></tr></table>"

    assert read(page, "schemas/admin.html")["admin_users.csv"] == USERS


def test_without_a_mark_the_key_is_the_unique_row_identifier() -> None:
    notes = "Unique row identifier to be used in CDC operations"
    rows = [{"name": "id", "type": "uuid"}, {"name": "adsk_row_id", "type": "string", "notes": notes}]

    found = read({"users": rows}, "schemas/cdcadmin.json")
    assert found["cdcadmin_users.csv"].key == ("adsk_row_id",)
    marked = read({"users": [{**rows[0], "key": "PK"}, rows[1]]}, "schemas/cdcadmin.json")
    assert marked["cdcadmin_users.csv"].key == ("id",)


def test_a_key_can_have_several_columns() -> None:
    found = read({"users": {"columns": COLUMNS, "primary_key": ["due", "id"]}})

    assert found["admin_users.csv"].key == ("id", "due")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("string: UUID", "VARCHAR"),
        ("string: null", "VARCHAR"),
        ("enum: string", "VARCHAR"),
        ("varchar(255)", "VARCHAR"),
        ("geometry", "VARCHAR"),
        ("", "VARCHAR"),
        ("time", "VARCHAR"),
        ("number[]", "VARCHAR"),
        ("array of numbers", "VARCHAR"),
        ("JSON number", "VARCHAR"),
        ("timestamp: SQL", "TIMESTAMP"),
        ("TIMESTAMP WITH TIME ZONE", "TIMESTAMP"),
        ("string date-time", "TIMESTAMP"),
        ("date: string", "DATE"),
        ("boolean", "BOOLEAN"),
        ("Bool", "BOOLEAN"),
        ("int", "BIGINT"),
        ("bigint", "BIGINT"),
        ("number", "DOUBLE"),
        ("double precision", "DOUBLE"),
        ("numeric", "DOUBLE"),
        ("numeric(12,2)", "DECIMAL(12, 2)"),
        ("Decimal( 10 )", "DECIMAL(10, 0)"),
        ("numeric(38,38)", "DECIMAL(38, 38)"),
        ("numeric(39,2)", "DOUBLE"),
        ("numeric(2,3)", "DOUBLE"),
        ("numeric(0)", "DOUBLE"),
        ("numeric(1)", "DECIMAL(1, 0)"),
        ("date time", "TIMESTAMP"),
        *((name, "VARCHAR") for name in ("list", "object number", "list of numbers", "char", "text", "uuid")),
        *((name, "TIMESTAMP") for name in ("datetime", "timestamp", "timestamptz")),
        *((name, "BIGINT") for name in ("integer", "smallint", "long")),
        *((name, "DOUBLE") for name in ("decimal", "float", "real")),
    ],
)
def test_types_have_a_type_of_duckdb(name: str, expected: str) -> None:
    assert duckdb_type(name) == expected


@pytest.mark.parametrize(
    "kind",
    [
        "array",
        "bool",
        "char",
        "date",
        "enum",
        "int",
        "json",
        "list",
        "number",
        "object",
        "time",
        "timestamp",
        "varchar",
    ],
)
def test_a_json_value_with_a_known_type_is_a_column(kind: str) -> None:
    assert read({"users": [{"name": "x", "type": kind}]})["admin_users.csv"].types == {"x": duckdb_type(kind)}


@pytest.mark.parametrize(
    ("name", "kind", "mark", "notes"),
    [
        ("column_name", "data_type", "constraints", "notes"),
        ("Column", "Type", "Primary Key", "Description"),
        ("field", "type", "key", "notes"),
        ("name", "Data type", "PRIMARY_KEY", "notes"),
    ],
)
def test_titles_and_keys_can_have_several_names(name: str, kind: str, mark: str, notes: str) -> None:
    cells = [("id", "uuid", "", "Unique row identifier"), ("x", "date", "", "")]
    table = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in cells)
    titles = f"<tr><th>{name}</th><th>{kind}</th><th>{mark}</th><th>{notes}</th></tr>"
    expected = Described(types={"id": "VARCHAR", "x": "DATE"}, key=("id",))

    assert sections("a.html", f"<h3>T.csv</h3>{titles}{table}".encode()) == {"t": expected}
    listed = [dict(zip((name, kind, mark, notes), row, strict=True)) for row in cells]
    for titled in ("table_name", "table", "name"):
        document = {titled: "t", "columns": listed}
        assert sections("a.json", json.dumps(document).encode()) == {"t": expected}
    listed = [{name: "id", kind: "uuid", mark: "PK"}, {name: "x", kind: "date", mark: "no", notes: "not the key"}]
    assert sections("a.json", json.dumps({"t": listed}).encode()) == {"t": expected}


@pytest.mark.parametrize("level", range(8))
def test_a_heading_is_of_any_of_the_six_levels(level: int) -> None:
    titles = "<tr><th>name</th><th>type</th></tr><tr><td>id</td><td>date</td></tr>"

    found = sections("a.html", f"<h{level}>t</h{level}>{titles}".encode())
    assert found == ({"t": Described(types={"id": "DATE"})} if 0 < level < 7 else {"": Described(types={"id": "DATE"})})


@pytest.mark.parametrize("key", ["columns", "fields", "properties"])
def test_the_key_of_the_columns_is_not_a_table(key: str) -> None:
    document = {"t": {key: [{"name": "id", "type": "date"}]}}

    assert sections("a.json", json.dumps(document).encode()) == {"t": Described(types={"id": "DATE"})}


def test_a_table_without_the_titles_of_columns_is_skipped() -> None:
    for titles in ("<th>name</th><th>notes</th>", "<th>type</th><th>notes</th>"):
        page = f"<h2>t</h2><table><tr>{titles}</tr><tr><td>id</td><td>uuid</td></tr></table>"
        assert sections("a.html", page.encode()) == {}


VALUES = st.recursive(
    st.none() | st.booleans() | st.sampled_from(["users", "id", "name", "type", "uuid", "primary key"]) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["users", "columns", "name", "type", "key", "id"]) | st.text(), inner)
    ),
)


@given(st.text(alphabet=st.sampled_from("<>/|#tdrh2 a\n-"), max_size=200), VALUES)
def test_any_document_is_read_without_an_error(page: str, value: object) -> None:
    for name in ("schemas/admin.html", "schemas/admin.md"):
        assert all(found.types for found in sections(name, page.encode()).values())
    found = sections("schemas/admin.json", json.dumps(value).encode())
    assert all(set(part.key) <= part.types.keys() for part in found.values())


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,12}", fullmatch=True)
        | st.sampled_from(["map", "text", "name", "type", "date", "key"]),
        st.sampled_from(["string: UUID", "timestamp: SQL", "number", "boolean", "date: string", "enum: string"]),
        min_size=1,
    ),
    st.data(),
)
def test_a_page_and_its_json_say_the_same(columns: dict[str, str], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(columns)))
    rows = "".join(
        f"<tr><td>{name}</td><td>{kind}</td><td>{'Primary key' if name == key else ''}</td></tr>"
        for name, kind in columns.items()
    )
    page = f"<h2>t</h2><table><tr><th>column_name</th><th>data_type</th><th>constraints</th></tr>{rows}</table>"
    listed = [{"name": name, "type": kind} for name, kind in columns.items()]
    document = {"t": {"columns": listed, "primary_key": key}}

    expected = {"t": Described(types={name: duckdb_type(kind) for name, kind in columns.items()}, key=(key,))}
    assert sections("a.html", page.encode()) == expected
    assert sections("a.json", json.dumps(document).encode()) == expected


def test_sections_that_were_read_before_can_be_matched_again() -> None:
    found = {"schemas/admin.html": sections("schemas/admin.html", PAGE.encode())}

    assert matched(found, TABLES) == described({"schemas/admin.html": PAGE.encode()}, TABLES)
