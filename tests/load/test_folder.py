"""Folders of Parquet files, on a disk and in a real S3."""

from __future__ import annotations

import fcntl
import json
import uuid
from pathlib import Path

import duckdb
import pytest

from dcsync.core.loads import NewColumn
from dcsync.errors import ConfigError, LoadFailed, LoadRefused, TargetUnusable
from dcsync.load import LOADS, Way
from tests.rigs.loads import DATASET, Goal, goal, latest, shows
from tests.rigs.s3 import ACCESS_KEY, REGION, SECRET_KEY, S3Server

USERS = b"id,name\n1,Ada\n2,Grace\n"
NEXT = b"id,name,mail\n3,Edsger,e@example.com\n"


@pytest.fixture
def lake(tmp_path: Path) -> Goal:
    return goal("file", tmp_path)


def metadata(path: Path) -> list[object]:
    found = duckdb.execute(f"SELECT value FROM parquet_kv_metadata('{path}') WHERE key = 'dcsync_load'").fetchone()
    assert found is not None
    loaded = json.loads(found[0])
    assert isinstance(loaded, list)
    return loaded


def test_a_file_says_itself_which_snapshot_it_shows(lake: Goal, tmp_path: Path) -> None:
    with lake.opened() as target:
        latest(target, tmp_path, USERS)
    assert metadata(Path(lake.path) / DATASET / "users.parquet")[:5] == [
        "users",
        "latest",
        "acme",
        "request-1",
        "job-1",
    ]


def test_a_load_that_was_killed_before_the_list_is_repeated(lake: Goal, tmp_path: Path) -> None:
    folder = Path(lake.path) / DATASET
    with lake.opened() as target:
        latest(target, tmp_path, USERS)
        before = (folder / f"{LOADS}.parquet").read_bytes()
        latest(target, tmp_path, NEXT, day=2)
        (folder / f"{LOADS}.parquet").write_bytes(before)
        assert target.shown()["users"].job == "job-1"
        latest(target, tmp_path, NEXT, day=2)
        assert target.shown()["users"].job == "job-2"


def test_what_a_killed_load_left_is_no_table_and_goes_with_the_next(lake: Goal, tmp_path: Path) -> None:
    folder = Path(lake.path) / DATASET
    with lake.opened() as target:
        latest(target, tmp_path, USERS)
        (folder / ".dcsync.part").write_bytes(b"half a file")
        assert set(target.shown()) == {"users"}
        latest(target, tmp_path, NEXT, day=2)
    assert sorted(path.name for path in folder.iterdir()) == [".dcsync.lock", f"{LOADS}.parquet", "users.parquet"]


def test_a_file_of_the_user_is_not_replaced(lake: Goal, tmp_path: Path) -> None:
    folder = Path(lake.path) / DATASET
    folder.mkdir()
    duckdb.execute(f"COPY (SELECT 1 AS mine) TO '{folder}/users.parquet' (FORMAT parquet)")
    before = (folder / "users.parquet").read_bytes()
    with lake.opened() as target, pytest.raises(LoadRefused, match="did not write"):
        latest(target, tmp_path, USERS)
    assert (folder / "users.parquet").read_bytes() == before


@pytest.mark.parametrize("table", ["a/b", ".hidden", LOADS])
def test_a_name_that_is_none_of_a_file_is_refused(lake: Goal, tmp_path: Path, table: str) -> None:
    (tmp_path / "a").mkdir()
    with lake.opened() as target, pytest.raises(LoadRefused, match="cannot be the name of a file"):
        latest(target, tmp_path, USERS, table=table)


def test_a_damaged_list_is_named_and_not_taken_for_an_empty_one(lake: Goal, tmp_path: Path) -> None:
    with lake.opened() as target:
        latest(target, tmp_path, USERS)
        (Path(lake.path) / DATASET / f"{LOADS}.parquet").write_bytes(b"no Parquet")
        with pytest.raises(Exception, match=r"(?i)parquet"):
            target.shown()


def test_another_loader_that_keeps_the_folder_delays_a_load_only_for_a_time(lake: Goal, tmp_path: Path) -> None:
    with lake.opened(patience_s=0.1) as target:
        latest(target, tmp_path, USERS)
        with (Path(lake.path) / DATASET / ".dcsync.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for attempt in (lambda: latest(target, tmp_path, NEXT, day=2), lambda: target.mark([shows(USERS, day=2)])):
                with pytest.raises(LoadFailed, match="another loader used the folder"):
                    attempt()
        assert latest(target, tmp_path, NEXT, day=2).way is Way.WHOLE


@pytest.fixture
def bucket(s3_server: S3Server, tmp_path: Path) -> Goal:
    name = f"lake-{uuid.uuid4().hex[:8]}"
    s3_server.create_bucket(name)
    query = (
        f"endpoint_url={s3_server.endpoint}&region={REGION}&access_key_id={ACCESS_KEY}&secret_access_key={SECRET_KEY}"
    )
    return Goal(f"s3://{name}/acc/data?{query}", tmp_path)


def test_tables_are_objects_in_s3(bucket: Goal, tmp_path: Path) -> None:
    with bucket.opened() as target:
        target.check_writable()
        assert target.shown() == {}
        assert latest(target, tmp_path, USERS).way is Way.WHOLE
        latest(target, tmp_path, USERS, table="others")
        target.mark([shows(USERS, table="others", day=2)])
        latest(target, tmp_path, NEXT, day=2)
        with pytest.raises(LoadRefused, match="new column: more"):
            latest(target, tmp_path, b"id,more\n1,2\n", day=3, on_new_column=NewColumn.STOP)
    with bucket.opened() as target:
        found = target.shown()
    assert {name: (row.job, row.rows) for name, row in found.items()} == {"users": ("job-2", 1), "others": ("job-2", 2)}


def test_a_bucket_that_refuses_is_named_without_the_key(bucket: Goal, tmp_path: Path) -> None:
    address = bucket.address.replace(f"secret_access_key={SECRET_KEY}", "secret_access_key=canary-wrong-key")
    with Goal(address, tmp_path).opened() as target:
        with pytest.raises(TargetUnusable):
            target.check_writable()
        with pytest.raises(TargetUnusable) as caught:
            latest(target, tmp_path, USERS)
    assert caught.value.target.startswith("s3://lake-")
    for secret in (ACCESS_KEY, SECRET_KEY, "canary-wrong-key"):
        assert secret not in str(caught.value)


def test_an_address_in_s3_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    place = Goal("s3://bucket/folder?password=canary-x", tmp_path)
    with place.opened() as target, pytest.raises(ConfigError) as caught:
        target.shown()
    assert "canary-x" not in str(caught.value)
