"""`dcsync at`."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from dcsync.mirror.root import FileLock
from tests.cli.conftest import Dcsync
from tests.rigs.served import Served
from tests.rigs.terminal import on_terminal

FIRST = b'id,status,note\r\n1,open,\r\n2,"a,b",""\r\n'
SECOND = b"id,status\n1,closed\n"
BAD = b"id,v\n1\n"
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def add(side: Served, request: str, at: datetime, files: Mapping[str, bytes]) -> str:
    return side.sandbox.world.add_job(request, completed_at=at, files=dict(files), with_archive=False)


@pytest.fixture
def request_id(side: Served) -> str:
    return side.sandbox.world.add_request("Nightly")


@pytest.fixture
def jobs(side: Served, dcsync: Dcsync, request_id: str) -> list[str]:
    """Three snapshots on two days."""
    now = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    made = [
        add(side, request_id, now - timedelta(days=9), {"admin_users.csv": FIRST, "bad.csv": BAD}),
        add(side, request_id, now - timedelta(days=5, hours=2), {"admin_users.csv": FIRST}),
        add(side, request_id, now - timedelta(days=5), {"admin_users.csv": SECOND, "activities_log.csv": b"id\n1\n"}),
    ]
    assert dcsync("sync").status == 0
    return made


def day(days: float) -> str:
    return f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%d}"


def test_a_day_means_its_last_snapshot_or_the_newest_before_it(jobs: list[str], dcsync: Dcsync) -> None:
    assert dcsync("at", day(9), "admin_users").out.encode() == FIRST
    assert dcsync("at", day(5), "admin_users.csv").out.encode() == SECOND
    between = dcsync("at", day(7), "ADMIN_USERS")

    assert between.out.encode() == FIRST
    assert f"no snapshot of {day(7)}: the newest one before it is of {day(9)} 12:00" in between.err
    assert dcsync("at", day(5), "admin_users").err == ""


def test_a_time_a_job_latest_and_previous_are_understood(jobs: list[str], dcsync: Dcsync) -> None:
    assert dcsync("at", f"{day(5)}T11:00", "admin_users").out.encode() == FIRST
    assert dcsync("at", jobs[0][:8], "admin_users").out.encode() == FIRST
    assert dcsync("at", "latest", "admin_users").out.encode() == SECOND
    assert dcsync("at", "previous", "admin_users").out.encode() == FIRST


def test_the_days_are_those_of_the_mirror_s_zone(jobs: list[str], side: Served, dcsync: Dcsync) -> None:
    side.config.write_text(side.config.read_text().replace("[mirror]", '[mirror]\ntimezone = "Pacific/Kiritimati"'))

    # 12:00 UTC is 02:00 of the next day there.
    assert dcsync("at", day(4), "admin_users").out.encode() == SECOND
    assert dcsync("at", day(5), "admin_users").out.encode() == FIRST


def test_csv_is_the_file_itself_even_if_it_cannot_be_read(jobs: list[str], dcsync: Dcsync, tmp_path: Path) -> None:
    assert dcsync("at", day(9), "bad").out.encode() == BAD
    refused = dcsync("at", day(9), "bad", "-o", str(tmp_path / "bad.json"))

    assert refused.status == 3
    assert "/bad.csv, line 2: it has 1 field and the header 2" in refused.err
    assert list(tmp_path.glob("*bad*")) == []


def test_json_has_an_object_for_each_row(jobs: list[str], dcsync: Dcsync) -> None:
    result = dcsync("at", day(9), "admin_users", "--format", "json")

    assert result.json == [
        {"id": "1", "status": "open", "note": None},
        {"id": "2", "status": "a,b", "note": ""},
    ]
    assert len(result.out.splitlines()) == 4


def test_the_name_of_a_file_chooses_the_format_and_the_file_is_replaced(
    jobs: list[str], dcsync: Dcsync, tmp_path: Path
) -> None:
    for name in ("a.csv", "a.json", "a.parquet"):
        (tmp_path / name).write_text("old")
        assert dcsync("at", day(9), "admin_users", "-o", str(tmp_path / name)).out == ""

    assert (tmp_path / "a.csv").read_bytes() == FIRST
    assert len(json.loads((tmp_path / "a.json").read_text())) == 2
    found = duckdb.connect().execute("SELECT * FROM read_parquet(?)", [str(tmp_path / "a.parquet")]).fetchall()
    assert found == [("1", "open", None), ("2", "a,b", "")]
    assert [path.name for path in tmp_path.glob(".*part")] == []


def test_a_symlink_is_followed_and_the_mirror_is_never_written(
    jobs: list[str], side: Served, dcsync: Dcsync, tmp_path: Path
) -> None:
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    published = next(side.root.rglob("*/admin_users.csv"))
    (tmp_path / "trap.csv").symlink_to(published)
    before = published.read_bytes()

    assert dcsync("at", "latest", "admin_users", "-o", str(tmp_path / "link.csv")).status == 0
    refused = dcsync("at", "latest", "admin_users", "-o", str(tmp_path / "trap.csv"))

    assert (tmp_path / "real.csv").read_bytes() == SECOND
    assert refused.status == 2
    assert "is inside the mirror" in refused.err
    assert published.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("2026-02-30", "admin_users"), "2026-02-30 is not a valid day or time"),
        (("2001-01-01", "admin_users"), "no snapshot is as old as 2001-01-01: the first one is of"),
        (("zzzz9999", "admin_users"), "no published snapshot has the job ID 'zzzz9999'"),
        (("latest", "admin_user"), "did you mean admin_users?"),
        (("latest", "bad"), "has no table named 'bad'"),
        (("latest", "admin_users", "-o", "/dev/null"), "/dev/null is not a regular file"),
        (("latest", "admin_users", "-o", "/nonexistent/x.csv"), "the folder /nonexistent does not exist"),
        (("latest", "a*"), "'a*' can mean activities_log, admin_users"),
    ],
)
def test_a_wrong_word_is_exit_2_with_what_there_is(
    jobs: list[str], dcsync: Dcsync, arguments: tuple[str, ...], words: str
) -> None:
    result = dcsync("at", *arguments)

    assert result.status == 2
    assert words in result.err
    assert result.out == ""


def test_a_mirror_without_snapshots_says_so(side: Served, dcsync: Dcsync) -> None:
    dcsync("sync")

    result = dcsync("at", "latest", "admin_users")

    assert result.status == 2
    assert "no snapshot has been published" in result.err


@pytest.mark.parametrize("command", [("at", "latest", "admin_users"), ("diff",)])
def test_a_data_request_that_is_not_in_the_mirror_is_named(
    jobs: list[str], dcsync: Dcsync, command: tuple[str, ...]
) -> None:
    result = dcsync(*command, "--request", "nope")

    assert result.status == 2
    assert "no data request with a snapshot matches 'nope'" in result.err
    assert "dcsync status" in result.err


def test_of_two_data_requests_the_one_with_the_table_is_taken(jobs: list[str], side: Served, dcsync: Dcsync) -> None:
    other = side.sandbox.world.add_request("Other")
    add(side, other, datetime.now(UTC) - timedelta(days=2), {"admin_users.csv": SECOND, "photos.csv": b"id\n"})
    dcsync("sync")

    assert dcsync("at", "latest", "photos").out == "id\n"
    unclear = dcsync("at", "latest", "admin_users")
    assert unclear.status == 2
    assert "--account acme --request other-" in unclear.err
    assert dcsync("at", "latest", "admin_users", "--request", "Other").out.encode() == SECOND


def test_a_window_table_says_what_it_has(jobs: list[str], dcsync: Dcsync) -> None:
    assert "activities_log has the rows of one extract's period" in dcsync("at", "latest", "activities_log").err


def test_what_the_retention_policy_removed_comes_from_the_row_history(
    jobs: list[str], side: Served, dcsync: Dcsync
) -> None:
    side.config.write_text(side.config.read_text() + '\n[history]\ntables = ["admin_*"]\n\n[keep]\nlast = 1\n')
    assert dcsync("history").status == 0
    assert dcsync("prune", "--force").status == 0
    assert len(list(side.root.glob("acme/*/[0-9]*/**/admin_users.csv"))) == 1

    assert list(csv.reader(dcsync("at", day(9), "admin_users").out.splitlines())) == [
        ["id", "status", "note"],
        ["1", "open", ""],
        ["2", "a,b", ""],
    ]
    assert dcsync("at", day(9), "admin_users").out.splitlines()[1:] == ["1,open,", '2,"a,b",""']
    assert dcsync("at", jobs[0], "admin_users", "--format", "json").json[1] == {"id": "2", "status": "a,b", "note": ""}
    assert dcsync("at", "latest", "admin_users").out.encode() == SECOND
    lost = dcsync("at", f"{day(5)}T11:00", "activities_log")
    assert lost.status == 2
    assert "and the row history does not have its activities_log" in lost.err
    assert f"whole snapshots are of {day(5)}" in lost.err


def test_a_closed_pipe_ends_quietly(jobs: list[str], side: Served, dcsync: Dcsync, request_id: str) -> None:
    rows = b"id\n" + b"".join(b"%d\n" % number for number in range(400_000))
    add(side, request_id, datetime.now(UTC) - timedelta(hours=1), {"big.csv": rows})
    dcsync("sync")

    for form in ("csv", "json", "parquet"):
        words = f"{sys.executable} -m dcsync at latest big --format {form} | head -c 20 >/dev/null"
        done = subprocess.run(["/bin/sh", "-c", words], check=True, stderr=subprocess.PIPE)
        assert done.stderr == b""


def test_a_terminal_shows_some_rows_and_the_columns_that_fit(
    jobs: list[str], side: Served, dcsync: Dcsync, request_id: str
) -> None:
    header = ",".join(["id", "\x1b[31mred", *(f"column_{number}" for number in range(40))])
    rows = "".join(f"{number},{'x' * 90}{',' * 40}\n" for number in range(1000))
    add(side, request_id, datetime.now(UTC) - timedelta(hours=1), {"wide.csv": f"{header}\n{rows}".encode()})
    dcsync("sync")
    command = [sys.executable, "-m", "dcsync", "at", "latest", "wide"]

    with on_terminal(command, width=60, height=60) as terminal:
        assert terminal.end() == 0, terminal.screen.text()
        lines = terminal.screen.lines()
    with on_terminal([*command, "--format", "parquet"], width=60) as refused:
        assert refused.end() == 2
        words = refused.screen.text()

    assert lines[0].split() == ["id", "\\x1b[31mred", "column_0", "column_1"]
    assert lines[1].startswith("0   xxxxx")
    assert lines[20].startswith("19 ")
    assert lines[22].startswith("20 of 1,000 rows, 4 of 42 columns: wide in acme/nightly-")
    assert "Parquet is binary" in words


def test_a_delta_table_is_merged_by_the_row_history(side: Served, dcsync: Dcsync) -> None:
    now = datetime.now(UTC)
    request = side.sandbox.world.add_request(
        "Delta", service_groups=("cdcadmin",), start_date=now - timedelta(days=9), end_date=now
    )
    name = "cdcadmin_users.csv"
    add(side, request, now - timedelta(days=2), {name: b"adsk_row_id,name,deleted_at\n1,Ana,\n2,Bo,\n"})
    add(side, request, now - timedelta(days=1), {name: b"adsk_row_id,name,deleted_at\n2,Bob,\n3,Cy,\n"})
    dcsync("sync")

    extract = dcsync("at", day(1), "cdcadmin_users")
    side.config.write_text(side.config.read_text() + '\n[history]\ntables = ["*"]\n')
    dcsync("history")
    merged = dcsync("at", day(1), "cdcadmin_users")

    assert extract.out.splitlines()[1:] == ["2,Bob,", "3,Cy,"]
    assert "cdcadmin_users has only the rows that changed in one extract's period" in extract.err
    assert sorted(merged.out.splitlines()[1:]) == ["1,Ana,", "2,Bob,", "3,Cy,"]
    assert merged.err == ""


def test_it_works_beside_a_daemon(jobs: list[str], side: Served, dcsync: Dcsync) -> None:
    with (
        FileLock(side.state / "lock", "the state folder", role="daemon"),
        FileLock(side.root / ".dcsync/lock", "the mirror", role="daemon"),
    ):
        assert dcsync("at", "latest", "admin_users").out.encode() == SECOND
        assert dcsync("diff", "--rows").status == 0
        assert dcsync("sync").status == 11
