"""`views.sql` works from a copy of the mirror in any place, and wherever it is opened from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import duckdb
import pytest

from tests.rigs.mirror import Mirror, add_extract
from tests.rigs.reports import report, rows, views_of

#: DuckDB finds no file below a folder with a backslash in its name, and none in a path that is not UTF-8.
PLACES = [
    "copy",
    "it's [here] *?",
    'ünï $HOME {a,b} 5% "ع"',
    "a b/[[c]",
    "-- x; DROP TABLE y",
]


async def publish(mirror: Mirror) -> None:
    """Publish two days of two tables, one of which has a row history."""
    for days_ago, count in ((1, 1), (0, 2)):
        add_extract(mirror, {"a.csv": rows(count), "b.csv": rows(count + 1)}, days_ago=days_ago)
        await mirror.sync_one()
    history = next(mirror.root.glob("acme/*")) / "history"
    history.mkdir()
    # DuckDB takes no path that is not UTF-8.
    duckdb.execute("COPY (SELECT 1 AS id, now() AS _valid_from, now() AS _valid_to) TO 'b.parquet'")
    shutil.move("b.parquet", history)
    await report(mirror)


def answers(connection: duckdb.DuckDBPyConnection) -> dict[str, object]:
    """Ask one question of each kind of view."""
    questions = {
        "latest": "SELECT count(*), min(filename) FROM latest.b",
        "snapshots": "SELECT count(*), min(snapshot) FROM snapshots.a",
        "history": "SELECT count(*) FROM history.b",
        "as_of": "SELECT count(*) FROM as_of.a('2026-11-21')",
    }
    return {view: connection.execute(question).fetchone() for view, question in questions.items()}


def expected(mirror: Mirror, place: str) -> dict[str, object]:
    latest = next(mirror.root.glob("acme/*/latest")).relative_to(mirror.root)
    first = mirror.snapshots()[0]
    return {
        "latest": (3, f"{place}/{latest}/b.csv"),
        "snapshots": (3, str(first.relative_to(first.parents[3]))),
        "history": (1,),
        "as_of": (1,),
    }


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")


@pytest.mark.parametrize("place", PLACES)
async def test_a_moved_mirror_is_read_where_the_variable_says(mirror: Mirror, tmp_path: Path, place: str) -> None:
    await publish(mirror)
    moved = tmp_path / place
    moved.parent.mkdir(parents=True, exist_ok=True)
    there = expected(mirror, str(moved))
    mirror.root.rename(moved)

    quoted = str(moved).replace("'", "''")
    with views_of(moved, f"SET VARIABLE dcsync_root = '{quoted}'") as connection:
        assert answers(connection) == there


@pytest.mark.parametrize("place", PLACES)
async def test_the_views_follow_the_variable_after_they_were_loaded(mirror: Mirror, tmp_path: Path, place: str) -> None:
    await publish(mirror)
    copy = tmp_path / place
    shutil.copytree(mirror.root, copy, symlinks=True)
    there = expected(mirror, str(copy))

    with views_of(mirror.root) as connection:
        assert answers(connection) == expected(mirror, str(mirror.root))
        shutil.rmtree(mirror.root)
        connection.execute("SET VARIABLE dcsync_root = $1", [str(copy)])
        assert answers(connection) == there


async def test_a_place_can_be_relative_and_end_with_a_slash(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(mirror)
    monkeypatch.chdir(mirror.root.parent)
    name = mirror.root.name

    with views_of(mirror.root, f"SET VARIABLE dcsync_root = '{name}//'") as connection:
        assert answers(connection) == expected(mirror, name)


@pytest.fixture
def duckdb_program() -> str:
    """The path of the program `duckdb`, which is older than the Python package of the development set."""
    found = shutil.which("duckdb", path=sysconfig.get_path("scripts")) or shutil.which("duckdb")
    if found is None:
        pytest.skip("needs the program `duckdb` (the package duckdb-cli)")
    return found


async def test_the_program_opens_the_file_and_reads_a_copy(mirror: Mirror, tmp_path: Path, duckdb_program: str) -> None:
    add_extract(mirror, {"bad.csv": b'id\n"1\xff', "a.csv": rows(9), "b.csv": rows(9)}, days_ago=2)
    await mirror.sync()
    await publish(mirror)
    copy = tmp_path / "it's a copy"
    shutil.copytree(mirror.root, copy, symlinks=True)
    question = "SELECT count(*) FROM latest.b; FROM as_of.a('2026-11-21'); SELECT min(snapshot) FROM snapshots.bad;"

    def run(*options: str, script: str) -> tuple[int, list[str], str]:
        command = [duckdb_program, "-csv", "-noheader", *options]
        done = subprocess.run(command, input=script, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stdout.splitlines(), done.stderr

    code, lines, error = run("-init", str(mirror.root / "views.sql"), script=question)
    assert (code, lines) == (1, ["3", "1"])
    assert "CSV Error" in error

    shutil.rmtree(mirror.root)
    place = str(copy).replace("'", "''")
    script = f"SET VARIABLE dcsync_root = '{place}';\n.read \"{copy}/views.sql\"\nSELECT count(*) FROM history.b;"
    assert run("-init", "/dev/null", script=script)[:2] == (0, ["1"])


async def test_in_a_place_that_is_not_utf8_it_works_in_the_folder_of_the_mirror(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.folder /= os.fsdecode(b"not-\xff-utf8")
    mirror.root.mkdir(parents=True)
    await publish(mirror)
    monkeypatch.chdir(mirror.root)

    with views_of(Path()) as connection:
        assert answers(connection) == expected(mirror, ".")


async def test_the_mirror_of_another_root_is_read_with_the_same_file(mirror: Mirror, tmp_path: Path) -> None:
    """A view does not remember the files that it saw first."""
    await publish(mirror)
    copy = tmp_path / "copy"
    shutil.copytree(mirror.root, copy, symlinks=True)
    changed = next(copy.glob("acme/*/latest/b.csv"))
    changed.chmod(0o644)
    changed.write_bytes(rows(5))

    with views_of(mirror.root) as connection:
        assert connection.execute("SELECT count(*) FROM latest.b").fetchone() == (3,)
        connection.execute("SET VARIABLE dcsync_root = $1", [str(copy)])
        assert connection.execute("SELECT count(*) FROM latest.b").fetchone() == (5,)
