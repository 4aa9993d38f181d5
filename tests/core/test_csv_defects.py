from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core import csv_defects
from dcsync.core.csv_defects import CsvDefect, first_defect


def defect(body: bytes, columns: int = 2) -> CsvDefect | None:
    return first_defect(io.BytesIO(body), columns)


@pytest.mark.parametrize(
    "body",
    [
        b"a,b\n1,2\n",
        b"\xef\xbb\xbfa,b\r\n1,2\r\n",
        b'a,b\n1,"x\ny"\n3,"say ""hi"""\n',
        b"a,b\n1,2\n\n3,4",
        b'a,b\n1,x"y\n',
        b'a,b\n1,"x\r\ny"\n',
        b"a,b",
        b"",
    ],
)
def test_a_sound_table_has_no_defect(body: bytes) -> None:
    assert defect(body) is None


@pytest.mark.parametrize(
    ("body", "line", "words"),
    [
        (b"a,b\n1,2\n1,\xff\n", 3, "not UTF-8"),
        (b"a,b\n1\n2,3\n", 2, "1 field and the header 2"),
        (b'a,b\n"x\ny",2\n1,2,3\n', 4, "3 fields and the header 2"),
        (b'a,b\n1,2\n1,"x\n2,3\n', 3, "a quoted field has no end"),
        (b'a,b\n1,"x"y\n', 2, "text follows the closing quote"),
        (b"a,b\r\n1,2\n1,2\r\n", 2, "another line break"),
        (b"a,b\n1,2\r3,4\n", 2, "a carriage return stands inside a line"),
    ],
)
def test_the_first_defect_is_named_with_its_line(body: bytes, line: int, words: str) -> None:
    found = defect(body)

    assert found is not None
    assert found.line == line
    assert words in found.reason


def test_a_field_beyond_the_limit_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_defects, "LONGEST_LINE", 1 << 20)
    found = defect(b"a,b\n1," + b"x" * (1 << 20) + b"x\n")

    assert found == CsvDefect(line=2, reason="a field is longer than 1 MiB")


@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.text("a\"',\n\r")), max_size=5))
def test_what_a_csv_writer_writes_has_no_defect(rows: list[tuple[str, str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])

    assert defect(text.getvalue().encode()) is None
