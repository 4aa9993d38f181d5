"""What the schema documents of an extract say about its tables."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core.kinds import kind_of
from dcsync.core.schema_documents import MAX_SIZE, is_schema_document, texts_of_tables
from tests.fakes import make_request

SENTENCE = "Date Range Extractions Supported - Maximum Date Range Allowed: 31 days - Default Date Range: YESTERDAY"
TABLES = (
    "activities_admin_activities.csv",
    "activities_docs_activities.csv",
    "activities_types.csv",
    "admin_users.csv",
)
#: In the form of Autodesk's pages: contents, then a section for each table with its columns.
PAGE = f"""<html><body><h1>activities Schema Description</h1>
<ul><li><a href="#a">admin_activities</a></li><li><a>docs_activities</a></li><li><a>types</a></li></ul>
<h2 id="a">admin_activities</h2><p>Activities in &quot;Administration&quot;</p><p>{SENTENCE}</p>
<table><tr><td>1</td><td>activity_id</td></tr><tr><td>created_at</td><td>Column used for filtering</td></tr></table>
<h2>docs_activities</h2><p>{SENTENCE.lower()}</p><h2>types</h2><p>All types of activities</p></body></html>"""


def kinds(documents: dict[str, str], *tables: str) -> dict[str, str | None]:
    texts = texts_of_tables({name: body.encode() for name, body in documents.items()}, tables or TABLES)
    return {name: kind_of(name, make_request(service_groups=("all",)), texts.get(name)) for name in tables or TABLES}


EXPECTED = {
    "activities_admin_activities.csv": "window",
    "activities_docs_activities.csv": "window",
    "activities_types.csv": "full",
    "admin_users.csv": "full",
}


def test_a_page_has_a_section_for_each_table() -> None:
    assert kinds({"schemas/activities.html": PAGE}) == EXPECTED
    assert kinds({"schemas/activities_schema.htm": PAGE}) == EXPECTED
    assert "Administration" in texts_of_tables({"schemas/activities.html": PAGE.encode()}, TABLES)[TABLES[0]]


@pytest.mark.parametrize(
    "document",
    [
        {
            "activities_admin_activities.csv": {"columns": ["id"], "description": SENTENCE},
            "activities_docs_activities": [SENTENCE],
            "types": {"columns": ["id"]},
        },
        {
            "schema": "activities",
            "tables": [
                {"columns": [{"name": "id"}], "description": SENTENCE, "name": "admin_activities"},
                {"name": "docs_activities", "notes": [SENTENCE, 5, None]},
                {"name": "types", "description": "All types"},
            ],
        },
    ],
)
def test_a_json_document_is_searched_for_the_objects_of_tables(document: object) -> None:
    assert kinds({"schemas/activities.json": json.dumps(document)}) == EXPECTED


def test_a_document_without_the_sentence_says_nothing_about_date_ranges() -> None:
    silent = PAGE.replace(SENTENCE, "").replace(SENTENCE.lower(), "")

    assert kinds({"schemas/activities.html": silent})["activities_types.csv"] == "window"
    assert kinds({"schemas/admin.html": PAGE})["activities_types.csv"] == "window"
    assert kinds({"schemas/activities.json": "{"})["activities_types.csv"] == "window"
    assert kinds({"schemas/activities.html": "<p>no table</p>"})["activities_types.csv"] == "window"


def test_pages_and_json_are_read_together_so_that_either_makes_a_window() -> None:
    both = {"schemas/activities.html": PAGE, "schemas/activities.json": json.dumps({"types": SENTENCE})}

    assert kinds(both)["activities_types.csv"] == "window"


def test_a_table_without_a_second_part_has_its_whole_name() -> None:
    assert kinds({"schemas/forms.txt": f"forms\n{SENTENCE}"}, "forms.csv", "README.html") == {
        "forms.csv": "window",
        "README.html": None,
    }


@pytest.mark.parametrize("heading", ["forms_log", "FORMS_LOG", "forms_log.csv", "log"])
def test_a_section_has_the_name_of_its_table_with_or_without_the_group(heading: str) -> None:
    text = f"types\nAll types\n{heading}\n{SENTENCE}"

    expected = {"forms_log.csv": "window", "forms_types.csv": "full"}
    assert kinds({"schemas/forms.md": text}, *expected) == expected
    assert kinds({"schemas/forms.json": json.dumps({heading: SENTENCE, "types": ""})}, *expected) == expected


def test_what_is_no_json_is_not_read_as_a_page_and_an_empty_key_names_no_table() -> None:
    assert kinds({"schemas/forms.json": f"forms_log\n{SENTENCE}"}, "forms_log.csv") == {"forms_log.csv": "full"}
    assert kinds({"schemas/forms.json": json.dumps({"": SENTENCE})}, "forms.csv") == {"forms.csv": "full"}


def test_a_schema_document_has_up_to_four_mebibytes() -> None:
    assert MAX_SIZE == 4 * 1024 * 1024


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("schemas/activities.html", True),
        ("schema/activities.HTM", True),
        ("x/Schemas/a.json", True),
        ("schemas/a.md", True),
        ("schemas/a.txt", True),
        ("schemas/a.csv", False),
        ("schemas/deep/a.html", False),
        ("activities.html", False),
        ("myschemas/a.html", False),
    ],
)
def test_schema_documents_are_known_by_their_folder(name: str, expected: bool) -> None:
    assert is_schema_document(name) is expected


@given(
    st.binary(max_size=200),
    st.sampled_from(["schemas/activities.html", "schemas/activities.json"]),
    st.recursive(st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)),
)
def test_any_document_is_read_without_an_error(body: bytes, name: str, value: object) -> None:
    assert texts_of_tables({name: body, "schemas/admin.json": json.dumps(value).encode()}, TABLES) is not None
