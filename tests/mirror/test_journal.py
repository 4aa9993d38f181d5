"""The journal of a staging folder: it believes only what this boot of the machine has noted."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dcsync.mirror.journal import Journal, Unfinished, read_stored
from tests.fakes import make_stored

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
ETAG = '"etag"'


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """The descriptor of a folder for the journal `job.journal`."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def journal(folder: int) -> Iterator[Journal]:
    opened = Journal("job", folder)
    yield opened
    opened.close()


def add(tmp_path: Path, *entries: Any) -> None:
    """Add lines to the journal."""
    with (tmp_path / "job.journal").open("a") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)


def test_what_is_noted_is_read_back(journal: Journal, folder: int) -> None:
    stored = make_stored("schemas/b.csv", b"b")

    journal.note_opened("schemas/a.csv", 10, ETAG)
    journal.note_written("schemas/a.csv", 4, 99)
    journal.note_written("schemas/a.csv", 8, 77)
    journal.note_stored(stored)

    unfinished = {"schemas%7Ea.csv": Unfinished(size=10, etag=ETAG, written=8, crc32=77)}
    assert journal.read() == (unfinished, {"schemas/b.csv": stored})
    assert read_stored("job", folder) == {"schemas/b.csv": stored}


def test_a_file_that_began_again_has_nothing_of_before(journal: Journal) -> None:
    journal.note_opened("a.csv", 10, ETAG)
    journal.note_written("a.csv", 4, 99)
    journal.note_opened("a.csv", 11, '"other"')

    assert journal.read()[0] == {"a.csv": Unfinished(size=11, etag='"other"', written=0, crc32=0)}


def test_bytes_count_for_a_file_that_this_boot_began_and_no_other(journal: Journal, tmp_path: Path) -> None:
    journal.note_written("never begun.csv", 4, 99)
    journal.note_opened("a.csv", 10, ETAG)
    journal.note_written("a.csv", 4, 99)
    add(tmp_path, {"written": "a.csv", "size": 9, "crc32": 1, "boot": "another boot"})

    assert journal.read()[0] == {"a.csv": Unfinished(size=10, etag=ETAG, written=4, crc32=99)}


@pytest.mark.parametrize(
    "odd",
    [
        7,
        [],
        {"stored": 7},
        {"stored": {"name": 7}},
        {"stored": {}},
        {"opened": "b.csv"},
        {"opened": "b.csv", "boot": "BOOT", "size": "x", "etag": ETAG},
        {"written": "a.csv", "boot": "BOOT", "size": None, "crc32": 1},
        {"written": "a.csv"},
    ],
)
def test_an_odd_line_costs_no_other_line(journal: Journal, tmp_path: Path, odd: Any) -> None:
    boot = BOOT_ID.read_text().strip()
    journal.note_opened("a.csv", 10, ETAG)
    add(tmp_path, {**odd, "boot": boot} if isinstance(odd, dict) and "boot" in odd else odd)
    journal.note_written("a.csv", 4, 99)

    assert journal.read() == ({"a.csv": Unfinished(size=10, etag=ETAG, written=4, crc32=99)}, {})


def test_each_line_names_the_boot_that_wrote_it(journal: Journal, tmp_path: Path) -> None:
    journal.note_opened("a.csv", 10, ETAG)
    journal.note_written("a.csv", 4, 99)

    lines = [json.loads(line) for line in (tmp_path / "job.journal").read_text().splitlines()]
    assert [line["boot"] for line in lines] == [BOOT_ID.read_text().strip()] * 2


def test_where_boots_cannot_be_told_apart_nothing_is_resumed(folder: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcsync.mirror.journal.boot_id", lambda: "")
    journal = Journal("job", folder)

    journal.note_opened("a.csv", 10, ETAG)
    journal.note_written("a.csv", 4, 99)

    assert journal.read() == ({}, {})
    journal.close()


def test_a_journal_of_several_pieces_is_read_whole(journal: Journal) -> None:
    body = b"x"
    for number in range(3000):
        journal.note_stored(make_stored(f"{number:04}-{'n' * 150}.csv", body))

    assert len(journal.read()[1]) == 3000
