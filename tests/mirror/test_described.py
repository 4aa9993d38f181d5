"""The columns and keys of tables, from the schema documents of a published snapshot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dcsync.core.column_types import Described
from dcsync.core.model import StoredFile
from dcsync.core.schema_documents import MAX_SIZE
from dcsync.mirror.described import describe_tables
from dcsync.mirror.root import MirrorRoot
from tests.fakes import make_stored

FOLDER = "acme/nightly-ce9bc188/2026/11/22/163405Z-9bd7c8a0"
TABLE = "admin_users.csv"


def body_of(*key: str) -> bytes:
    columns = [{"name": "id", "type": "uuid"}, {"name": "created_at", "type": "timestamp"}]
    return json.dumps({"users": {"columns": columns, "primary_key": key}}).encode()


def users(*key: str) -> Described:
    return Described(types={"id": "VARCHAR", "created_at": "TIMESTAMP"}, key=key)


def publish(root: MirrorRoot, body: bytes, name: str = "schemas/admin.json") -> tuple[Path, list[StoredFile]]:
    path = root.path / FOLDER / name
    path.parent.mkdir(parents=True)
    path.write_bytes(body)
    return path, [make_stored(TABLE), make_stored(name, body)]


def test_the_documents_of_a_snapshot_describe_its_tables(root: MirrorRoot) -> None:
    _, files = publish(root, body_of("id"))

    assert describe_tables(root, FOLDER, files) == {TABLE: users("id")}


def test_a_document_that_was_read_before_is_not_read_again(root: MirrorRoot) -> None:
    path, files = publish(root, body_of("id", "created_at"))
    describe_tables(root, FOLDER, files)
    path.unlink()

    assert describe_tables(root, FOLDER, iter(files)) == {TABLE: users("id", "created_at")}


@pytest.mark.parametrize("damage", ["gone", "changed", "folder"])
def test_a_document_that_is_missing_or_damaged_says_nothing_until_it_is_mended(root: MirrorRoot, damage: str) -> None:
    # A content of its own for each case: what was parsed once is known.
    body = body_of() + b" " * len(damage)
    path, files = publish(root, body)
    path.unlink()
    if damage == "changed":
        path.write_bytes(body_of("id"))
    elif damage == "folder":
        path.mkdir()

    assert describe_tables(root, FOLDER, files) == {}

    path.rmdir() if damage == "folder" else path.unlink(missing_ok=True)
    path.write_bytes(body)
    assert describe_tables(root, FOLDER, files) == {TABLE: users()}


def test_a_document_that_is_too_large_is_not_read(root: MirrorRoot) -> None:
    largest = body_of("created_at").ljust(MAX_SIZE)
    path, files = publish(root, largest)
    assert describe_tables(root, FOLDER, files) == {TABLE: users("created_at")}

    path.write_bytes(largest + b" ")
    assert describe_tables(root, FOLDER, [files[0], make_stored("schemas/admin.json", largest + b" ")]) == {}


def test_a_file_outside_of_the_schemas_is_not_read(root: MirrorRoot) -> None:
    _, files = publish(root, body_of("id"), name="admin.json")

    assert describe_tables(root, FOLDER, files) == {}
