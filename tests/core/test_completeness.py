"""What a planned snapshot lacks: every table, or files that only the ZIP has."""

from __future__ import annotations

import pytest

from dcsync.core.completeness import (
    FILES_MISSING,
    ZIP_CODES,
    ZIP_KEPT,
    NoTables,
    holds_rows,
    without_tables,
    zip_warnings,
)
from dcsync.core.model import ARCHIVE_NAME
from dcsync.core.plan import Known, Selection, plan
from dcsync.core.ziplayout import Directory, Refused
from tests.fakes import make_listed
from tests.rigs.plans import make_directory

ENCRYPTED = "the content is encrypted"


def refusing(*refused: str, **members: bytes) -> Directory:
    return make_directory(members, refused=tuple(Refused(name=name, reason=ENCRYPTED) for name in refused))


@pytest.mark.parametrize(
    ("listed", "directory", "selection", "lack"),
    [
        (["a.csv"], None, Selection(), None),
        (["A.CSV", "README.html"], None, Selection(), None),
        ([], None, Selection(), NoTables.EXTRACT),
        (["README.html", "schemas/a.csv"], None, Selection(), NoTables.EXTRACT),
        (["a.csv"], None, Selection(include=("b*",)), NoTables.SELECTION),
        (["a.csv", "README.html"], None, Selection(exclude=("*.csv",)), NoTables.SELECTION),
        # The ZIP alone: its content decides.
        ([ARCHIVE_NAME], make_directory({"a.csv": b"1"}), Selection(), None),
        ([ARCHIVE_NAME], make_directory({"a.csv": b"1"}), Selection(include=("b*",)), NoTables.SELECTION),
        ([ARCHIVE_NAME], make_directory({"README.html": b"1"}), Selection(), NoTables.EXTRACT),
        ([ARCHIVE_NAME], make_directory({"README.html": b"1"}), Selection(keep_archive=True), NoTables.EXTRACT),
        # A kept ZIP holds the tables.
        ([ARCHIVE_NAME], refusing("a.csv"), Selection(), None),
        ([ARCHIVE_NAME], refusing("a.csv"), Selection(exclude=("*.zip",)), NoTables.SELECTION),
        ([ARCHIVE_NAME, "a.csv"], None, Selection(include=("*.zip",), keep_archive=True), None),
        ([ARCHIVE_NAME], None, Selection(keep_archive=True), None),
        ([ARCHIVE_NAME], None, Selection(), NoTables.EXTRACT),
    ],
)
def test_a_snapshot_without_tables_has_a_reason(
    listed: list[str], directory: Directory | None, selection: Selection, lack: NoTables | None
) -> None:
    made = plan([make_listed(name, 1) for name in listed], Known(directory=directory), selection=selection)

    assert without_tables(made, directory) is lack


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], False),
        (["README.html", "schemas/a.csv", "SCHEMAS/b.csv"], False),
        (["README.html", "Data.CSV"], True),
        ([ARCHIVE_NAME], True),
    ],
)
def test_a_snapshot_holds_rows_by_the_names_of_its_files(names: list[str], expected: bool) -> None:
    assert holds_rows(names) is expected


def test_a_plan_that_lacks_nothing_has_no_warning() -> None:
    made = plan([make_listed("a.csv", 1)], Known(directory=make_directory({"a.csv": b"1"})))

    assert zip_warnings(made, None) == ()
    zip_alone = plan([make_listed(ARCHIVE_NAME, 100)], selection=Selection(keep_archive=True))
    assert zip_warnings(zip_alone, None) == ()
    # Without a ZIP in the plan there is nothing to say of it.
    assert zip_warnings(made, "no end record") == ()


@pytest.mark.parametrize(
    ("refused", "others"),
    [
        (("schemas/x",), ""),
        (("schemas/x", "schemas/y"), " and 1 more file"),
        (("schemas/x", "schemas/y", "schemas/z"), " and 2 more files"),
    ],
)
def test_files_that_cannot_be_extracted_are_one_warning(refused: tuple[str, ...], others: str) -> None:
    listing = [make_listed("a.csv", 1), make_listed(ARCHIVE_NAME, 100)]
    known = Known(directory=refusing(*refused, **{"a.csv": b"1"}))
    reason = f"(only in the ZIP, and refused: {ENCRYPTED}){others} could not be extracted from the ZIP. "

    (kept,) = zip_warnings(plan(listing, known), None)
    (missing,) = zip_warnings(plan(listing, known, selection=Selection(exclude=("*.zip",))), None)

    assert (kept.code, kept.table) == (ZIP_KEPT, "schemas/x")
    assert {kept.code, missing.code} == ZIP_CODES
    assert kept.message == reason + "The snapshot contains the ZIP itself"
    assert (missing.code, missing.message) == (FILES_MISSING, reason + "The snapshot lacks them")


def test_an_archive_that_cannot_be_read_is_a_warning() -> None:
    listing = [make_listed("a.csv", 1), make_listed(ARCHIVE_NAME, 100)]

    (warning,) = zip_warnings(plan(listing, Known(zip_fault="no end record")), "no end record")

    assert (warning.code, warning.table) == (ZIP_KEPT, ARCHIVE_NAME)
    assert warning.message == (
        "cannot be read (no end record). The snapshot contains it, and the files of the data listing"
    )
