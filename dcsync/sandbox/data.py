"""Extracts generated from a seed: realistic tables, with the same bytes for the same seed, table and version."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
import uuid
import zipfile
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache

ARCHIVE_NAME = "autodesk_data_extract.zip"
README_NAME = "README.html"

_SCHEMAS: Mapping[str, Sequence[str]] = {
    "admin": ("users", "projects", "companies", "business_units", "roles", "project_users", "project_products"),
    "issues": ("issues", "comments", "custom_attributes", "issue_types", "attachments", "checklist_mappings"),
    "rfis": ("rfis", "rfi_comments", "rfi_types", "rfi_responses", "rfi_reviewers", "rfi_location"),
    "forms": ("forms", "form_templates", "form_values", "form_layouts", "labor_log", "weather_log"),
    "activities": ("admin_activities", "docs_activities", "issues_activities", "rfis_activities"),
    "cost": ("budgets", "contracts", "change_orders", "cost_items", "expenses", "payments", "main_contracts"),
    "submittals": ("items", "specs", "packages", "attachments", "comments", "steps"),
    "checklists": ("checklists", "templates", "sections", "section_items", "signatures"),
    "locations": ("nodes", "trees"),
    "markups": ("markup", "comments"),
    "reviews": ("reviews", "workflows", "review_documents", "steps", "candidates"),
    "schedule": ("activities", "schedules", "resources", "dependencies", "comments", "activity_codes"),
    "sheets": ("sheets", "sets", "disciplines", "uploads"),
    "transmittals": ("transmittals", "documents", "recipients", "folders"),
    "meetingminutes": ("meetings", "topics", "items", "attendees", "assignees"),
    "photos": ("photos", "tags"),
    "assets": ("assets", "categories", "statuses", "custom_attributes", "systems"),
    "relationships": ("entity_relationship",),
    "iq": ("company_daily_quality_risk_changes", "issues_quality_categories", "issues_safety_hazard"),
}
#: A full extract has about 260 files.
MAX_TABLES = 260
#: The columns of every table, with the types that Autodesk's schema documents would name.
_COLUMNS = {
    "id": "string: UUID",
    "project_id": "string: UUID",
    "title": "string",
    "description": "string",
    "created_by": "string",
    "created_at": "timestamp: SQL",
    "status": "enum: string",
    "attributes": "string",
    "amount": "number",
}
_HEADER = tuple(_COLUMNS)
_KEY = "id"
#: An edit changes the columns from this one on.
_STATUS = _HEADER.index("status")
_SATURDAY = 6
#: As in the schema documents of Autodesk.
_WINDOW_SENTENCE = (
    "Date Range Extractions Supported - Maximum Date Range Allowed: 31 days - Default Date Range: YESTERDAY"
)
_FIRST = ("Ana", "Björn", "Chloé", "Dmitri", "Elif", "François", "Grace", "Hiroshi", "İpek", "Jürgen", "María", "Zoë")
_LAST = ("Nuñez", "Åkesson", "O'Brien", "Müller", "Šimić", "Tanaka", "da Silva", "Kowalski", "Nguyễn", "Smith")
_WORDS = [
    "beam",
    "slab",
    "duct",
    "riser",
    "curtain",
    "wall",
    "anchor",
    "conduit",
    "fire",
    "damper",
    "level",
    "core",
    "shaft",
    "pour",
    "rebar",
    "grid",
]


def table_names(count: int) -> list[str]:
    """Return `count` names `<schema>_<table>.csv`, at most 260, always in the same order."""
    names = [f"{schema}_{table}.csv" for schema, tables in _SCHEMAS.items() for table in tables]
    index = 2
    while len(names) < MAX_TABLES:
        names += [f"{schema}_{tables[0]}_{index}.csv" for schema, tables in _SCHEMAS.items()]
        index += 1
    return names[: min(count, MAX_TABLES)]


def tables_of(groups: Sequence[str]) -> tuple[str, ...]:
    """Return the tables of an extract with these service groups. A delta group has the tables of its full one."""
    if "all" in groups:
        return tuple(table_names(40))
    plain = {group: _SCHEMAS.get(group.removeprefix("cdc"), ("items",)) for group in groups}
    return tuple(f"{group}_{table}.csv" for group, tables in plain.items() for table in tables)


def versions_on(seed: int, name: str, day: int) -> int:
    """Return the version of a table on a day: about one in five tables changes from one day to the next."""
    return sum(_draw(seed, name, str(past)) < 0.2 for past in range(1, day + 1))


@lru_cache(maxsize=4096)
def table(seed: int, name: str, version: int) -> bytes:
    """Return a table's bytes. One table in six has only a header. A later version has more rows and one edited row."""
    chance = random.Random(f"{seed}/{name}")
    rows = 0 if chance.random() < 1 / 6 else int(20 * 1.5 ** chance.uniform(0, 12))
    line_end = "\r\n" if chance.random() < 0.3 else "\n"
    out = io.StringIO()
    writer = csv.writer(out, lineterminator=line_end)
    writer.writerow(_HEADER)
    for index in range(rows + (version * (1 + rows // 50) if rows else 0)):
        row = _row(random.Random(f"{seed}/{name}/{index}/0"))
        if rows and version and index == version % rows:
            other = _row(random.Random(f"{seed}/{name}/{index}/{version}"))
            row[_STATUS:] = other[_STATUS:]
        writer.writerow(row)
    return out.getvalue().encode()


def is_window(name: str) -> bool:
    """Whether an extract has only the rows of a period in a table, by its name."""
    return name.startswith(("activities_", "cdc"))


@lru_cache(maxsize=4096)
def _rows_of(seed: int, name: str, day: date, begin: str = "", end: str = "~") -> str:
    """Return the rows of one day between two times: up to 40, and on the days of a weekend up to 4."""
    chance = random.Random(f"{seed}/{name}/{day}")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for index in range(chance.randint(0, 4) if day.isoweekday() >= _SATURDAY else chance.randint(10, 40)):
        row = _row(random.Random(f"{seed}/{name}/{day}/{index}"))
        at = row[_HEADER.index("created_at")] = f"{day}T{chance.randint(0, 23):02}:00:00.000Z"
        if begin <= at <= end:
            writer.writerow(row)
    return out.getvalue()


def window(seed: int, name: str, days: Sequence[date], begin: str = "", end: str = "~") -> bytes:
    """Return a table that has only the rows of these days. The rows of a day are always the same.

    `begin` and `end` are times in ISO 8601. Both belong to the window.
    """
    return (",".join(_HEADER) + "\n" + "".join(_rows_of(seed, name, day, begin, end) for day in days)).encode()


def readme(description: str, day: int) -> bytes:
    """Return the README that every extract contains."""
    return (
        f"<!doctype html><html><head><title>Autodesk Data Extract</title></head><body><h1>{description}</h1>"
        f"<p>Extract of day {day}. Each CSV file is a table; see the schemas folder of the archive.</p></body></html>\n"
    ).encode()


def schema_files(names: Sequence[str], *, has_windows: bool = False) -> dict[str, bytes]:
    """Return the ZIP's `schemas/` folder, which is missing from the data listing: a page and a JSON for each schema.

    The pages have the form of Autodesk's. With `has_windows`, the page of the activities says which of its tables a
    period limits. The layout of Autodesk's JSON is not known.
    """
    files = {}
    for schema in sorted({name.split("_", 1)[0] for name in names if name.endswith(".csv")}):
        tables = [name for name in names if name.startswith(f"{schema}_")]
        sections = "".join(_section(name, is_limited=has_windows and is_window(name)) for name in tables)
        page = f"<html><body><h1>{schema} Schema Description</h1>{sections}</body></html>\n"
        files[f"schemas/{schema}.html"] = page.encode()
        columns = [{"name": name, "type": kind} for name, kind in _COLUMNS.items()]
        document = {"schema": schema, "tables": {name: {"columns": columns, "primary_key": [_KEY]} for name in tables}}
        files[f"schemas/{schema}.json"] = json.dumps(document, indent=1).encode()
    return files


def _section(name: str, *, is_limited: bool) -> str:
    """Return the section of a table in the page of its schema."""
    title = name.partition("_")[2].removesuffix(".csv")
    about = f"Rows of {title}. {_WINDOW_SENTENCE}" if is_limited else f"Rows of {title}."
    rows = "".join(
        f"<tr><td>{number}</td><td>{column}</td><td>{kind}</td><td>{'Primary key' if column == _KEY else ''}</td>"
        f"<td></td></tr>"
        for number, (column, kind) in enumerate(_COLUMNS.items(), 1)
    )
    head = "".join(
        f"<th>{word}</th>" for word in ("ordinal_position", "column_name", "data_type", "constraints", "notes")
    )
    return f'<h2 id="{title}">{title}</h2><p>{about}</p><table><tr>{head}</tr>{rows}</table>'


def archive(files: Mapping[str, bytes]) -> bytes:
    """Return a ZIP of these files, with the same bytes each time."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as packed:
        for name, body in files.items():
            entry = zipfile.ZipInfo(name, date_time=(2020, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(entry, body)
    return out.getvalue()


def identifier(*parts: object) -> str:
    """Return a UUID that is derived from these parts."""
    return str(uuid.UUID(bytes=hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:16], version=4))


def _row(chance: random.Random) -> list[str]:
    first, last = chance.choice(_FIRST), chance.choice(_LAST)
    words = " ".join(chance.choices(_WORDS, k=6))
    description = chance.choice(
        [
            words,
            f"{words}, see detail {chance.randint(1, 99)}",
            f'The "{chance.choice(_WORDS)}" clashes with {words}',
            f"{words}\nsecond line, with a comma",
            "",
        ]
    )
    attributes = json.dumps({"priority": chance.choice(["low", "high"]), "tags": chance.sample(_WORDS, 2)})
    day = f"2026-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}"
    at = f"{day}T{chance.randint(0, 23):02}:{chance.randint(0, 59):02}:{chance.randint(0, 59):02}.000Z"
    return [
        str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        f"{chance.choice(_WORDS).title()} {chance.randint(1, 999)}",
        description,
        f"{first} {last} <{first}.{last}@example.com>".lower(),
        at,
        chance.choice(["open", "closed", "in_review", "draft"]),
        attributes,
        f"{chance.uniform(0, 1e6):.2f}",
    ]


def _draw(*parts: object) -> float:
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:6]) / 2**48
