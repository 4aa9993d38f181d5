"""`dcsync.read`: a mirror from Python."""

from __future__ import annotations

import csv
import io
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import redirect_stdout
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import pytest

import dcsync
from dcsync import reading
from dcsync.core.model import Json
from dcsync.core.sidecar import Adopted
from dcsync.errors import ConfigError, DiskError, MirrorMissing, RowsUnreadable, SnapshotUnclear, TableUnclear
from dcsync.mirror.adopt import read_snapshot
from dcsync.mirror.root import MirrorRoot
from dcsync.reading import Mirror as ReadMirror
from dcsync.reading import Request, Snapshot
from tests.rigs.histories import build
from tests.rigs.mirror import Mirror, add_extract, mirroring, sidecar

PAGE = Path(__file__).parents[1] / "docs/guides/read-the-data.md"
USERS = b'id,name\n1,Ana\n2,""\n3,\n'
LATER = b"id,name\n1,Ana B\n"


@pytest.fixture
async def mirror(tmp_path: Path) -> AsyncIterator[Mirror]:
    """A mirror with two data requests, which have the same table."""
    async with mirroring(tmp_path) as mirror:
        other = mirror.world.add_request("Tower [B]")
        company = mirror.world.add_request("My Company Data Extract")
        add_extract(mirror, {"admin_users.csv": USERS, "README.html": b"x"}, request=company, days_ago=3)
        add_extract(mirror, {"admin_users.csv": LATER, "activities_log.csv": b"id\n1\n"}, request=company, days_ago=1)
        add_extract(mirror, {"admin_users.csv": USERS, "issues_issues.csv": b"id\n7\n"}, request=other, days_ago=2)
        await mirror.sync()
        yield mirror


def test_it_knows_data_requests_snapshots_and_files(mirror: Mirror) -> None:
    found = dcsync.read(mirror.root)

    assert [(each.account, each.description, len(each.snapshots)) for each in found.requests] == [
        ("acme", "My Company Data Extract", 2),
        ("acme", "Tower [B]", 1),
    ]
    request = found.request("my company*")
    latest = request.latest
    assert latest.tables == ["activities_log", "admin_users"]
    assert latest.path == (mirror.root / "acme" / request.slug / "latest").resolve()
    assert latest.files["admin_users.csv"].read_bytes() == LATER
    assert latest.completed_at is not None
    assert latest.completed_at > (request.snapshots[0].completed_at or latest.completed_at)


def test_fields_are_the_text_in_the_file(mirror: Mirror) -> None:
    first = dcsync.read(mirror.root).request("My*").snapshots[0]

    relation = first.table("Admin_Users.csv")

    assert relation.columns == ["id", "name"]
    assert relation.fetchall() == [("1", "Ana"), ("2", ""), ("3", None)]


def test_a_data_request_is_found_by_id_folder_and_glob(mirror: Mirror) -> None:
    found = dcsync.read(str(mirror.root))
    tower = found.requests[1]

    assert found.request(tower.id) is found.request(tower.slug) is found.request("TOWER*") is tower
    with pytest.raises(SnapshotUnclear, match="2 data requests match") as several:
        found.request("*")
    assert tower.slug in several.value.advice
    with pytest.raises(SnapshotUnclear, match="no data request match"):
        found.request("none")


def test_a_day_means_its_last_snapshot_or_the_newest_before_it(mirror: Mirror) -> None:
    request = dcsync.read(mirror.root).request("My*")
    now = mirror.clock.now()

    assert request.at((now - timedelta(days=2)).date()) is request.snapshots[0]
    assert request.at(f"{now:%Y-%m-%d}") is request.latest
    assert request.at(now - timedelta(days=1, seconds=1)) is request.snapshots[0]
    with pytest.raises(SnapshotUnclear, match="no snapshot as old as 2001-01-01"):
        request.at(date(2001, 1, 1))
    for word in ("yesterday", "2026-02-30"):
        with pytest.raises(SnapshotUnclear, match="is not a valid day or time"):
            request.at(word)


def test_days_are_in_the_given_zone(mirror: Mirror) -> None:
    (first, _) = dcsync.read(mirror.root).request("My*").snapshots
    assert first.completed_at is not None
    zone = ZoneInfo("Pacific/Kiritimati")
    local = first.completed_at.astimezone(zone)

    assert dcsync.read(mirror.root, zone=zone).request("My*").at(local.date()).job == first.job
    assert dcsync.read(mirror.root, zone=zone).request("My*").at(local.replace(tzinfo=None)).job == first.job


def test_relations_of_a_given_connection_can_be_joined(mirror: Mirror) -> None:
    connection = duckdb.connect()
    found = dcsync.read(mirror.root, connection=connection)
    before, after = (each.table("admin_users") for each in found.request("My*").snapshots)

    joined = before.set_alias("b").join(after.set_alias("a"), "a.id = b.id").select("b.name, a.name")

    assert joined.fetchall() == [("Ana", "Ana B")]
    assert found.connection is connection


def test_an_unknown_table_gets_a_suggestion(mirror: Mirror) -> None:
    with pytest.raises(TableUnclear) as caught:
        dcsync.read(mirror.root).request("My*").latest.table("admin_user")

    assert caught.value.advice == "did you mean admin_users?"


async def test_a_row_history_is_read_by_moment(mirror: Mirror) -> None:
    await build(mirror)
    request = dcsync.read(mirror.root).request("My*")

    assert request.history("admin_users").columns == ["id", "name", "_valid_from", "_valid_to"]
    assert sorted(map(str, request.history("admin_users", at=request.snapshots[0].completed_at).fetchall())) == [
        "('1', 'Ana')",
        "('2', '')",
        "('3', None)",
    ]
    assert request.history("admin_users.csv", at=mirror.clock.now()).fetchall() == [("1", "Ana B")]
    assert request.history("activities_log", at="2001-01-01").fetchall() == []
    with pytest.raises(TableUnclear, match="the row history of"):
        request.history("photos_photos")


def test_without_a_row_history_there_is_none(mirror: Mirror) -> None:
    request = dcsync.read(mirror.root).request("My*")

    assert request.history_path is None
    with pytest.raises(TableUnclear):
        request.history("admin_users")


def test_a_table_comes_as_arrow(mirror: Mirror) -> None:
    first = dcsync.read(mirror.root).request("My*").snapshots[0]

    table = first.arrow("admin_users")
    assert type(table).__module__ == "pyarrow.lib"
    assert {str(field.type) for field in table.schema} == {"string"}
    assert table.to_pydict() == {"id": ["1", "2", "3"], "name": ["Ana", "", None]}


def test_arrow_needs_pyarrow(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    latest = dcsync.read(mirror.root).request("My*").latest
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as if it were not installed

    with pytest.raises(ConfigError, match="need the package pyarrow, which is not installed"):
        latest.arrow("admin_users")
    # Other libraries take a relation as it is.
    assert hasattr(latest.table("admin_users"), "__arrow_c_stream__")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders whose metadata is read."""
    found: list[str] = []

    def counting(root: MirrorRoot, folder: str) -> Adopted | None:
        found.append(folder)
        return read_snapshot(root, folder)

    monkeypatch.setattr(reading, "read_snapshot", counting)
    return found


def test_a_mirror_with_many_snapshots_opens_with_one_read_for_each_data_request(
    mirror: Mirror, reads: list[str]
) -> None:
    latest = dcsync.read(mirror.root).request("My*").latest
    for day in range(1, 28):
        shutil.copytree(latest.path, latest.path.parents[3] / f"2001/02/{day:02}" / latest.path.name)
    reads.clear()

    found = dcsync.read(mirror.root)
    request = found.request("My*")
    assert request.latest.job == latest.job
    assert len(request.latest.table("admin_users").fetchall()) == 1
    assert request.history_path is None
    assert len(reads) == 2
    request.at(f"{mirror.clock.now():%Y-%m-%d}")
    assert len(reads) == 2
    # The day before the newest extract.
    request.at((latest.completed_at or mirror.clock.now()) - timedelta(days=1))
    assert len(reads) == 3

    assert len(request.snapshots) == 29
    assert (found.unreadable, len(reads), len(set(reads))) == ({}, 30, 30)


@pytest.mark.parametrize("layout", ["hive", "{account}/{request}/{job}"])
async def test_a_mirror_in_another_layout_is_read_as_a_whole(mirror: Mirror, layout: str, reads: list[str]) -> None:
    mirror.config["mirror"] = {"layout": layout, "latest": "none"}
    request = next(each for each in mirror.world.requests if dcsync.read(mirror.root).request("My*").id == each)
    for day in (5, 4):
        add_extract(mirror, {"admin_users.csv": b"id\n%d\n" % day}, request=request, days_ago=-day)
    await mirror.sync()
    found = dcsync.read(mirror.root).request("My*")

    assert found.latest.table("admin_users").fetchall() == [("5",)]
    assert [each.completed_at for each in found.snapshots] == sorted(
        each.completed_at for each in found.snapshots if each.completed_at is not None
    )
    assert len(found.snapshots) == 4


def test_the_newest_snapshot_may_be_unreadable(mirror: Mirror) -> None:
    request = dcsync.read(mirror.root).request("My*")
    write_over(request.latest.path / "_dcsync.json", {})

    found = dcsync.read(mirror.root).request("My*")
    assert (found.latest.path, len(found.snapshots)) == (request.snapshots[0].path, 1)


def test_what_is_no_snapshot_of_this_mirror_is_left_out_and_the_rest_is_read(mirror: Mirror, tmp_path: Path) -> None:
    request = dcsync.read(mirror.root).request("My*")
    broken = mirror.root / "acme/broken"
    for name, body in (("no-json", b"{"), ("newer", b'{"format": 99}'), ("list", b"[]"), ("latin", b"\xff")):
        (broken / name).mkdir(parents=True)
        (broken / name / "_dcsync.json").write_bytes(body)
    (broken / "folder/_dcsync.json").mkdir(parents=True)
    inner = mirror.root / "acme/inner"
    shutil.copytree(request.latest.path, inner / "copy")
    (inner / ".dcsync").mkdir()
    (inner / ".dcsync/instance").write_text("another")
    (mirror.root / "acme/link").symlink_to(request.latest.path)
    shutil.copytree(request.latest.path, mirror.root / ".dcsync/staging/half")

    found = dcsync.read(mirror.root)

    assert [len(each.snapshots) for each in found.requests] == [2, 1]
    assert set(found.unreadable) == {f"acme/broken/{name}" for name in ("no-json", "newer", "list", "latin", "folder")}


async def test_a_reduced_snapshot_has_what_is_left_and_is_not_the_latest(mirror: Mirror) -> None:
    request = dcsync.read(mirror.root).request("My*")
    path = request.latest.path / "_dcsync.json"
    document = sidecar(request.latest.path)
    gone = [entry for entry in document["files"] if entry["name"] == "admin_users.csv"]
    document["files"] = [entry for entry in document["files"] if entry not in gone]
    document["reduced"] = {"at": "2026-11-20T00:00:00Z", "dcsync": "0.3", "files": gone}
    write_over(path, document)

    found = dcsync.read(mirror.root).request("My*")

    assert [each.is_reduced for each in found.snapshots] == [False, True]
    assert found.snapshots[1].tables == ["activities_log"]
    assert found.latest is found.snapshots[0]
    write_over(found.snapshots[0].path / "_dcsync.json", {**document, "job": {**document["job"], "id": "other"}})
    with pytest.raises(SnapshotUnclear, match="no snapshot with all its tables"):
        _ = dcsync.read(mirror.root).request("My*").latest


def write_over(path: Path, document: Json) -> None:
    path.chmod(0o644)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("layout", ["hive", "{account}/{date}/{request}/{job}"])
async def test_other_layouts_are_read(tmp_path: Path, layout: str) -> None:
    async with mirroring(tmp_path) as mirror:
        mirror.config["mirror"] = {"layout": layout, "latest": "none"}
        add_extract(mirror, {"admin_users.csv": USERS})
        await mirror.sync()

        (request,) = dcsync.read(mirror.root).requests

        assert request.slug.startswith("my-company-data-extract-")
        assert len(request.latest.table("admin_users").fetchall()) == 3


async def test_a_root_with_a_pattern_in_its_name_is_read(mirror: Mirror, tmp_path: Path) -> None:
    odd = tmp_path / "a [1]* 'b'?"
    shutil.copytree(mirror.root, odd, symlinks=True)

    assert len(dcsync.read(odd).request("My*").latest.table("admin_users").fetchall()) == 1


@pytest.mark.parametrize("body", [b"", b"\xff\xfei\x00d\x00", b"x" * 70_000])
def test_a_table_without_a_usable_header_is_refused(mirror: Mirror, body: bytes) -> None:
    latest = dcsync.read(mirror.root).request("My*").latest
    path = latest.files["admin_users.csv"]
    path.unlink()
    path.write_bytes(body)

    with pytest.raises(RowsUnreadable, match="line 1: its header cannot be used"):
        latest.table("admin_users")
    path.unlink()
    with pytest.raises(DiskError, match="No such file"):
        latest.table("admin_users")


def test_an_empty_mirror_has_no_data_requests_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    found = dcsync.read(tmp_path)

    assert (found.requests, found.unreadable) == ([], {})
    with pytest.raises(SnapshotUnclear):
        found.request("*")
    with pytest.raises(MirrorMissing):
        dcsync.read(tmp_path / "none")


def test_neither_a_manifest_nor_a_network_is_needed(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(mirror.state)

    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(socket, "socket", refuse)
    assert len(dcsync.read(mirror.root).request("My*").latest.table("admin_users").fetchall()) == 1


def test_the_import_of_the_package_is_as_fast_as_before() -> None:
    program = "import sys, dcsync; print(sorted(name for name in sys.modules if name.startswith('dcsync')))"

    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout == (
        "['dcsync']\n"
    )


def test_types_are_those_that_the_page_names(mirror: Mirror) -> None:
    """Mypy checks the annotations."""
    found: ReadMirror = dcsync.read(mirror.root)
    requests: Sequence[Request] = found.requests
    snapshots: Sequence[Snapshot] = requests[0].snapshots
    completed: datetime | None = snapshots[0].completed_at
    relation: duckdb.DuckDBPyRelation = snapshots[0].table("admin_users")
    path: Path = snapshots[0].files["admin_users.csv"]

    assert completed is not None
    assert completed.tzinfo is UTC
    assert len(relation.fetchall()) == len(list(csv.reader(path.read_text().splitlines()))) - 1


def test_the_lines_of_the_page_work(mirror: Mirror) -> None:
    _, _, rest = PAGE.read_text(encoding="utf-8").partition("import dcsync\n")
    lines = "import dcsync\n" + rest.partition("```")[0]
    assert "mirror.request(" in lines

    with redirect_stdout(io.StringIO()) as shown:
        exec(lines.replace("/srv/dcsync", str(mirror.root)), {})  # noqa: S102 - our own page

    assert [line.split()[-1] for line in shown.getvalue().splitlines()] == ["2", "1", "1", "[]"]
