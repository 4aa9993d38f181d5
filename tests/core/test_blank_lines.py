from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core.blank_lines import blank_lines
from dcsync.core.table import count


@pytest.mark.parametrize(
    ("body", "blank"),
    [
        (b"", 0),
        (b"\n", 0),
        (b"a,b\n1,2\n", 0),
        (b"a,b\n1,2\n\n", 1),
        (b"a,b\r\n\r\n1,2\r\n\r\n", 2),
        (b'a,b\n1,"x\n\n\ny"\n\n', 1),
        (b'a,b\n1,"x\n\n""\n\n"\n', 0),
        (b'"a\n\n",b\n\n1,2', 1),
        (b"a,b\n \n1,2\n", 0),
    ],
)
def test_blank_lines_outside_quotes_are_counted(body: bytes, blank: int) -> None:
    assert blank_lines(io.BytesIO(body)) == blank


_FIELDS = st.text(alphabet='a,"\n\r', max_size=5).map(lambda value: '"' + value.replace('"', '""') + '"')
_RECORDS = st.lists(st.none() | st.lists(_FIELDS, min_size=2, max_size=2), max_size=8)


@given(records=_RECORDS, end=st.sampled_from(["\n", "\r\n"]), is_ended=st.booleans())
def test_what_dcsync_counted_less_the_blank_lines_is_what_a_reader_finds(
    records: list[list[str] | None], end: str, *, is_ended: bool
) -> None:
    body = end.join(["a,b", *("" if record is None else ",".join(record) for record in records)])
    body += end if is_ended else ""
    facts = count([body.encode()])
    rows = [row for row in csv.reader(io.StringIO(body, newline=""), strict=True) if row][1:]

    assert facts is not None
    assert facts.rows is not None
    assert facts.rows - blank_lines(io.BytesIO(body.encode())) == len(rows)
