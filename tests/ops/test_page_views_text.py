"""The text of a table comes out of `views.sql` exactly as it is in the file, whatever its columns and values."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcsync.core import views
from dcsync.core.column_types import TEXT
from dcsync.core.columns import distinct_names
from dcsync.core.views import RequestTables, TableHistory
from tests.fakes import NOON

#: DuckDB takes a NUL for the end of a file's text.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
TYPES = st.sampled_from([TEXT, "DOUBLE", "BIGINT", "TIMESTAMP", "DATE", "BOOLEAN", "DECIMAL(12, 2)"])


def csv_of(rows: Sequence[Sequence[str | None]]) -> bytes:
    """Return rows as CSV. None is an empty field, and the empty string is `""`."""
    lines = (",".join("" if field is None else '"' + field.replace('"', '""') + '"' for field in row) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode()


def load(root: Path, headers: Sequence[tuple[str, ...]], types: dict[str, str]) -> duckdb.DuckDBPyConnection:
    """Load the views of a table with one snapshot for each header, the last of which is the latest."""
    folders = [f"{number:03}" for number in range(len(headers))]
    request = RequestTables(
        account="acme",
        slug="x",
        description="x",
        folder="x",
        latest=f"x/{folders[-1]}",
        depth=1,
        tables=[
            TableHistory(
                name="a.csv",
                headers=list(dict.fromkeys(headers)),
                runs=list(zip(folders, headers, strict=True)),
                columns=headers[-1],
                types=types,
            )
        ],
        snapshots=[(NOON, folders[-1])],
    )
    connection = duckdb.connect()
    # `latest` would be left out as the folder beside the snapshots, so it has another name here.
    connection.execute(views.render(str(root), [request], written_at=NOON, zone=UTC).replace(" <> '", " <> 'not "))
    return connection


@settings(max_examples=20)
@given(st.data())
def test_any_text_comes_back_as_it_was(data: st.DataObject) -> None:
    names = st.lists(TEXTS, min_size=1, max_size=4).map(tuple).filter(any)
    headers = data.draw(st.lists(names, min_size=1, max_size=3))
    tables = [
        data.draw(st.lists(st.tuples(*([st.none() | TEXTS] * len(header))), max_size=4).map(list)) for header in headers
    ]
    # A line without any text in a table of one column is not a row.
    tables = [[row for row in rows if len(row) > 1 or row[0] is not None] for rows in tables]
    types = {name.lower(): data.draw(TYPES) for header in headers for name in distinct_names(header)}
    with TemporaryDirectory() as folder:
        for number, (header, rows) in enumerate(zip(headers, tables, strict=True)):
            path = Path(folder, "x", f"{number:03}", "a.csv")
            path.parent.mkdir(parents=True)
            path.write_bytes(csv_of([header, *rows]))
        with load(Path(folder), headers, types) as connection:
            for number, (header, rows) in enumerate(zip(headers, tables, strict=True)):
                chosen = ", ".join('"' + name.replace('"', '""') + '"' for name in distinct_names(header))
                folder_column = next(
                    name
                    for (name,) in connection.execute("SELECT column_name FROM (DESCRIBE snapshots.a)").fetchall()
                    if name.endswith("snapshot") and name.lower() not in {n.lower() for h in headers for n in h}
                )
                where = f"WHERE \"{folder_column}\" = '{number:03}'"
                found = connection.execute(f"SELECT {chosen} FROM snapshots.a {where}").fetchall()  # noqa: S608 - ours
                assert sorted(found, key=repr) == sorted(rows, key=repr)
            assert len(connection.execute("FROM latest.a").fetchall()) == len(tables[-1])
            assert len(connection.execute("FROM as_of.a('2030-01-01')").fetchall()) == len(tables[-1])


@pytest.mark.parametrize("size", [3 << 20, 15 << 20])
def test_a_field_can_be_as_long_as_a_line(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x/000/a.csv"
    path.parent.mkdir(parents=True)
    path.write_bytes(csv_of([("id", "name"), ("1", "x" * size), ("2", None)]))

    with load(tmp_path, [("id", "name")], {}) as connection:
        found = connection.execute("SELECT id, length(name) FROM snapshots.a ORDER BY id").fetchall()
        assert found == [("1", size), ("2", None)]
