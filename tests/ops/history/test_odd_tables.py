"""Tables that are hard to read: every reader gives their rows exactly, or an error. None gives fewer rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import duckdb

import dcsync
from dcsync.errors import DcsyncError
from dcsync.reading import Snapshot
from tests.rigs.histories import alerts, build, rows_at, state_of
from tests.rigs.mirror import Mirror, add_extract
from tests.rigs.reports import report, views_of

Rows: TypeAlias = list[tuple[str | None, ...]]

ROWS: Rows = [("1", "2"), ("3", "4")]
#: The body and the rows of each table. None: no reader can be sure about the rows.
KINDS: dict[str, tuple[bytes, Rows | None]] = {
    "lf": (b"a,b\n1,2\n3,4\n", ROWS),
    "crlf": (b"a,b\r\n1,2\r\n3,4\r\n", ROWS),
    "cr": (b"a,b\r1,2\r3,4\r", None),
    "mixed": (b"a,b\n1,2\r\n3,4\n", None),
    "mixed the other way": (b"a,b\r\n1,2\n3,4\r\n", None),
    "no end": (b"a,b\n1,2\n3,4", ROWS),
    "blank lines": (b"a,b\n\n1,2\n\n3,4\n\n", ROWS),
    "bom": (b"\xef\xbb\xbfa,b\n1,2\n3,4\n", ROWS),
    "utf-16": ("a,b\n1,2\n".encode("utf-16"), None),
    "not utf-8": (b"a,b\n1,2\n1,\xff\n", None),
    "open quote": (b'a,b\n1,2\n1,"2\n', None),
    "text after a quote": (b'a,b\n1,2\n1,"x"y\n', None),
    "quote inside": (b'a,b\n1,x"y\n', [("1", 'x"y')]),
    "short": (b"a,b\n1,2\n1\n", None),
    "long": (b"a,b\n1,2\n1,2,3\n", None),
    "nothing": (b"", None),
    "no header": (b"\n1,2\n", None),
    "header only": (b"a,b\n", []),
    "two names": (b"a,A\n1,2\n3,4\n", ROWS),
    "no name": (b",b\n1,2\n3,4\n", ROWS),
    "break in a field": (b'a,b\n1,"2\r\n"\n3,4\n', [("1", "2\r\n"), ("3", "4")]),
    "cr in a field": (b'a,b\r\n1,"2\r2"\r\n3,4\r\n', [("1", "2\r2"), ("3", "4")]),
    **{
        f"{name!r} in a name, {end!r}": (f'"a{name}x",b{end}1,2{end}3,4{end}'.encode(), ROWS)
        for name in ("\r", "\n", "\r\n")
        for end in ("\n", "\r\n")
    },
    "cr in the last name": (b'b,"a\rx"\r\n1,2\r\n3,4\r\n', ROWS),
    "cr in the only name": (b'"a\rx"\n1\n3\n', [("1",), ("3",)]),
    "the header again": (b'"a\rx",b\n1,2\n"a\rx",b\n', [("1", "2"), ("a\rx", "b")]),
    "long field": (b'a,b\n1,"' + b"x" * 3_000_000 + b'"\n', [("1", "x" * 3_000_000)]),
}
#: DuckDB cannot tell these line breaks in a name from the ends of lines.
MAY_FAIL = {kind for kind in KINDS if "in a name" in kind or kind == "cr in the last name"}
NAMES = {kind: f"t{number:02}" for number, kind in enumerate(KINDS)}


@dataclass(frozen=True, slots=True)
class Opened:
    """A mirror that was opened once for all tables: its `views.sql`, and what `dcsync.read` gives."""

    mirror: Mirror
    views: duckdb.DuckDBPyConnection
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Reader:
    """A way to read a table, and the errors that it may raise."""

    read: Callable[[Opened, str], Rows]
    errors: type[Exception] | tuple[type[Exception], ...]


def of_view(schema: str, what: str) -> Callable[[Opened, str], Rows]:
    return lambda opened, name: opened.views.execute(f"SELECT {what} FROM {schema}.{name}").fetchall()


READERS = {
    "history": Reader(lambda opened, name: rows_at(opened.mirror, name), duckdb.IOException),
    "latest": Reader(of_view("latest", "* EXCLUDE filename"), duckdb.Error),
    "snapshots": Reader(of_view("snapshots", "* EXCLUDE (filename, snapshot)"), duckdb.Error),
    "dcsync.read": Reader(lambda opened, name: opened.snapshot.table(name).fetchall(), (duckdb.Error, DcsyncError)),
}


async def test_every_reader_gives_the_rows_or_an_error(mirror: Mirror) -> None:
    add_extract(mirror, {f"{NAMES[kind]}.csv": body for kind, (body, _) in KINDS.items()})
    await mirror.sync()
    await report(mirror)
    await build(mirror)
    with views_of(mirror.root) as views:
        opened = Opened(mirror=mirror, views=views, snapshot=dcsync.read(mirror.root).requests[0].latest)
        wrong = {(kind, name): said for kind in KINDS for name in READERS if (said := fault(opened, kind, name))}
    assert wrong == {}

    alerted = {alert.subject.rpartition("/")[2] for alert in await alerts(mirror)}
    assert alerted == {NAMES[kind] for kind in KINDS} - built(mirror)


def fault(opened: Opened, kind: str, name: str) -> str:
    """Return what a reader does wrong with a table. Empty means nothing."""
    rows, reader = KINDS[kind][1], READERS[name]
    try:
        found = sorted(reader.read(opened, NAMES[kind]))
    except reader.errors:
        return "an error" if rows is not None and kind not in MAY_FAIL else ""
    return str(found)[:80] if rows is None or found != sorted(rows) else ""


def built(mirror: Mirror) -> set[str]:
    return {name for name, table in state_of(mirror).tables.items() if table.steps}
