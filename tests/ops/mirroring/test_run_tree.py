"""The tree that a run leaves: folders, names, sidecars, modes, and `latest`."""

from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
import stat
import zlib
from contextlib import closing
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from dcsync.errors import (
    ExitStatus,
    ManifestError,
)
from dcsync.sandbox import Fault
from tests.rigs.mirror import (
    Mirror,
    add_extract,
    assert_proved_by_sums,
    sidecar,
    tables,
    walk_folders,
)
from tests.rigs.odd import refuse_to_open
from tests.rigs.zips import make_zip


async def test_a_made_up_account_is_mirrored_byte_for_byte(mirror: Mirror) -> None:
    request = mirror.world.add_request("My Company Data Extract", tables=40)
    jobs = [
        mirror.world.add_job(request, completed_at=mirror.clock.now() - timedelta(days=3 - day), day=day)
        for day in range(3)
    ]

    outcome = await mirror.sync_one()

    assert [published.job for published in outcome.published] == jobs
    for job in jobs:
        mirror.assert_identical(job)
        assert_proved_by_sums(mirror.snapshot_of(job))


async def test_the_tree_is_as_documented(mirror: Mirror) -> None:
    request = mirror.world.add_request("My Company's Ünusual Extract (full)")
    job = add_extract(mirror, tables(2), request=request)

    await mirror.sync()

    folder = mirror.root / "acme" / f"my-company-s-unusual-extract-full-{request[:8]}"
    snapshot = folder / "2026/11/22" / f"120000Z-{job[:8]}"
    assert snapshot.is_dir()
    assert str((folder / "latest").readlink()) == f"2026/11/22/120000Z-{job[:8]}"
    assert {path.name for path in snapshot.iterdir()} == {*tables(2), "SHA256SUMS", "_dcsync.json"}
    for path in snapshot.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o444
    for path in walk_folders(mirror.root):
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert list((mirror.root / ".dcsync" / "staging").iterdir()) == []


async def test_the_sidecar_says_where_everything_came_from(mirror: Mirror) -> None:
    request = mirror.world.add_request("Nightly")
    body = b"id\n"
    mirror.config["mirror"] = {"strategy": "files"}
    files = {"a_b.csv": body, "autodesk_data_extract.zip": make_zip({"a_b.csv": body})}
    job = add_extract(mirror, files, request=request)

    await mirror.sync()

    document = sidecar(mirror.snapshot_of(job))
    assert document["account"] == {"name": "acme", "id": mirror.world.account_id}
    assert document["request"] == {
        "id": request,
        "description": "Nightly",
        "delta": False,
        "is_active": True,
        "created_at": "2026-09-23T12:00:00.000Z",
        "project_id": None,
        "project_ids": [],
        "project_status": "all",
        "service_groups": ["admin", "issues"],
        "date_range": None,
        "start_date": None,
        "end_date": None,
        "schedule": {
            "interval": "DAY",
            "recurring": 1,
            "effective_from": "2026-09-23T12:00:00.000Z",
            "effective_to": None,
        },
    }
    assert document["job"]["completed_at"] == "2026-11-22T12:00:00.000Z"
    assert document["strategy"]["name"] == "files"
    assert document["files"] == [
        {
            "name": "a_b.csv",
            "original": "a_b.csv",
            "size": len(body),
            "crc32": f"{zlib.crc32(body):08x}",
            "md5": hashlib.md5(body, usedforsecurity=False).hexdigest(),
            "sha256": hashlib.sha256(body).hexdigest(),
            "etag": f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"',
            "how": "fetched",
            "packed": None,
            "rows": 0,
            "header": ["id"],
            "kind": "full",
            "created_at": "2026-11-22T11:40:00.000Z",
            "why": "not in the previous snapshot",
        }
    ]
    assert [skip["original"] for skip in document["skipped"]] == ["autodesk_data_extract.zip"]


async def test_the_umask_does_not_change_who_can_read_the_mirror(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    before = os.umask(0o077)
    try:
        await mirror.sync()
    finally:
        os.umask(before)

    snapshot = mirror.snapshot_of(job)
    for folder in [snapshot, *list(snapshot.parents)[: len(snapshot.relative_to(mirror.root).parts) - 1]]:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755


async def test_the_hive_layout_makes_partitions(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"layout": "hive"}
    job = add_extract(mirror, tables(1))

    await mirror.sync()

    (request,) = (mirror.root / "account=acme").iterdir()
    assert (request / "date=2026-11-22" / f"job={job[:8]}" / "admin_table_000.csv").is_file()
    assert str((request / "_latest").readlink()) == f"date=2026-11-22/job={job[:8]}"


async def test_a_time_zone_decides_the_day(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"timezone": "Pacific/Auckland"}
    add_extract(mirror, tables(1))

    await mirror.sync()

    local = datetime(2026, 11, 22, 12, tzinfo=ZoneInfo("UTC")).astimezone(ZoneInfo("Pacific/Auckland"))
    (snapshot,) = mirror.snapshots()
    assert "2026/11/23" in str(snapshot)
    assert snapshot.name.startswith(local.strftime("%H%M%S+1300"))


async def test_latest_as_hard_links_is_a_real_folder(mirror: Mirror) -> None:
    mirror.config["mirror"] = {"latest": "hardlinks"}
    add_extract(mirror, tables(2), days_ago=1)
    await mirror.sync()
    job = add_extract(mirror, {**tables(1), "new.csv": b"new\n"})

    await mirror.sync()

    (latest,) = mirror.root.glob("acme/*/latest")
    snapshot = mirror.snapshot_of(job)
    assert latest.is_dir()
    assert not latest.is_symlink()
    assert {path.name: path.stat().st_ino for path in latest.iterdir()} == {
        path.name: path.stat().st_ino for path in snapshot.iterdir()
    }


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
async def test_a_latest_that_cannot_be_moved_takes_no_published_snapshot_back(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The disk is full between the commit and the swap: the next start moves it."""
    first = add_extract(mirror, tables(2), days_ago=1)
    await mirror.sync()
    second = add_extract(mirror, tables(2, seed=1))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "symlink", refuse)
        outcome = await mirror.sync_one()

    assert [published.job for published in outcome.published] == [second]
    assert (outcome.failed, outcome.error) == ([], None)
    (latest,) = mirror.root.glob("acme/*/latest")
    assert latest.resolve() == mirror.snapshot_of(first)
    await mirror.sync()
    assert latest.resolve() == mirror.snapshot_of(second)


@pytest.mark.parametrize(
    ("name", "what"),
    [("instance.new", "written: No space left on device"), ("instance", "read: it is a folder, not a regular file")],
)
async def test_a_state_folder_that_does_not_keep_the_instance_is_an_error_of_ours(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, name: str, what: str
) -> None:
    if name == "instance":
        (mirror.state / name).mkdir(parents=True)
    else:
        refuse_to_open(monkeypatch, name, errno.ENOSPC)

    with pytest.raises(ManifestError, match=rf"instance cannot be {what}"):
        await mirror.sync()

    assert mirror.visible() == []


async def test_latest_only_moves_forward(mirror: Mirror) -> None:
    newest = add_extract(mirror, tables(1))
    await mirror.sync()
    add_extract(mirror, tables(1, seed=1), days_ago=2)

    await mirror.sync()

    (latest,) = mirror.root.glob("acme/*/latest")
    assert latest.resolve() == mirror.snapshot_of(newest)
    assert len(mirror.snapshots()) == 2


async def test_a_delta_request_has_a_folder_of_its_own_and_no_latest(mirror: Mirror) -> None:
    full = mirror.world.add_request("Full")
    delta = mirror.world.add_request("Full", service_groups=("cdcissues",), date_range="YESTERDAY")
    add_extract(mirror, tables(1), request=full)
    job = add_extract(mirror, {"issues_changes.csv": b"id\n"}, request=delta)

    await mirror.sync()

    assert [path.parent.name for path in mirror.root.glob("acme/*/latest")] == [f"full-{full[:8]}"]
    mirror.assert_identical(job)


@pytest.mark.parametrize("status", [403, 404])
@pytest.mark.parametrize("groups", [("cdcissues",), ("admin",)], ids=["a delta", "no delta"])
async def test_a_request_that_cannot_be_read_gets_a_latest_when_it_is_known_to_be_no_delta(
    mirror: Mirror, status: int, groups: tuple[str, ...]
) -> None:
    request = mirror.world.add_request("Nightly", service_groups=groups, date_range="YESTERDAY")
    first = add_extract(mirror, tables(2), request=request, days_ago=3)
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=status, match=f"/requests/{request}", times=2))

    await mirror.sync()
    second = add_extract(mirror, tables(2, seed=1), request=request, days_ago=2)
    await mirror.sync()

    assert not list(mirror.root.glob("acme/*/latest"))
    assert [sidecar(mirror.snapshot_of(job))["request"]["delta"] for job in (first, second)] == [None, None]
    # Only a new job of it is a reason to ask again.
    asked = mirror.sandbox.count("api", path_contains=f"/requests/{request}")
    await mirror.sync()
    assert mirror.sandbox.count("api", path_contains=f"/requests/{request}") == asked == 2
    third = add_extract(mirror, tables(2, seed=2), request=request, days_ago=1)
    await mirror.sync()
    await mirror.sync()
    is_delta = groups == ("cdcissues",)
    described = sidecar(mirror.snapshot_of(third))["request"]
    assert (described["id"], described["description"], described["delta"]) == (request, "Nightly", is_delta)
    assert described["service_groups"] == list(groups)
    # The folder that it got at first sight stays its own.
    assert {path.parents[3] for path in mirror.snapshots()} == {mirror.snapshot_of(first).parents[3]}
    latest = [path.resolve() for path in mirror.root.glob("acme/*/latest")]
    assert latest == ([] if is_delta else [mirror.snapshot_of(third)])
    assert mirror.sandbox.count("api", path_contains=f"/requests/{request}") == 3


async def test_requests_that_may_not_be_listed_are_read_one_by_one(mirror: Mirror) -> None:
    for description in ("Nightly", "Weekly"):
        add_extract(mirror, tables(1), request=mirror.world.add_request(description))
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=403, match=r"/requests\?", times=None))

    outcome = await mirror.sync_one()

    assert outcome.exit_status is ExitStatus.DONE
    assert {path.name.partition("-")[0] for path in (mirror.root / "acme").iterdir()} == {"nightly", "weekly"}


async def test_names_that_no_disk_should_see_are_saved_under_safe_ones(mirror: Mirror) -> None:
    files = {
        "../../etc/passwd": b"1",
        "a/b.csv": b"2",
        "CON.csv": b"3",
        "_DCSYNC.json": b"4",
        "sha256sums": b"5",
        "trailing.": b"6",
        "bidi\u202etxt.csv": b"7",
        "Readme.csv": b"8",
        "README.csv": b"9",
        "line\nbreak.csv": b"10",
        "50%.csv": b"11",
        "ok-(1)+'&.csv": b"12",
        "x" * 250 + ".csv": b"13",
    }
    job = add_extract(mirror, files)

    await mirror.sync()

    mirror.assert_identical(job)
    assert_proved_by_sums(mirror.snapshot_of(job))
    names = {entry["original"]: entry["name"] for entry in sidecar(mirror.snapshot_of(job))["files"]}
    assert names["../../etc/passwd"] == "..%2F..%2Fetc%2Fpasswd"
    assert names["50%.csv"] == "50%.csv"
    assert names["ok-(1)+'&.csv"] == "ok-(1)+'&.csv"
    assert names["README.csv"] == "README.csv"
    assert names["Readme.csv"].startswith("Readme~")
    assert not (mirror.folder / "etc").exists()


async def test_names_that_end_in_part_are_files_like_any_other(mirror: Mirror) -> None:
    files = {"x.csv": b"A" * 700_000, "x.csv.part": b"B" * 3000, "y.csv": b"c" * 600_000, "y.csv.part": b"D" * 700_000}
    job = add_extract(mirror, files)
    # The others are whole while these two are half here.
    for name in ("x.csv", "y.csv"):
        mirror.sandbox.faults.add(Fault(server="storage", kind="cut", amount=300_000, match=f"{name}$"))
        mirror.sandbox.faults.add(Fault(server="storage", kind="slow", amount=2_000_000, match=f"{name}$"))

    await mirror.sync()

    mirror.assert_identical(job)
    assert_proved_by_sums(mirror.snapshot_of(job))


async def test_something_else_in_a_snapshot_s_place_is_never_overwritten(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    await mirror.sync_one(dry_run=True)
    (planned,) = (await mirror.sync_one(dry_run=True)).planned
    place = mirror.root / planned.folder
    place.mkdir(parents=True)
    (place / "mine.txt").write_text("keep me")

    await mirror.sync()

    assert (place / "mine.txt").read_text() == "keep me"
    assert [path.name for path in place.iterdir()] == ["mine.txt"]
    # The job got a longer name instead.
    mirror.assert_identical(job)


async def test_changes_without_a_period_are_all_rows_and_get_a_latest(mirror: Mirror) -> None:
    """Autodesk returns all rows then. An older version took every such request for a delta, and kept no `latest`."""
    request = mirror.world.add_request("Changes", service_groups=("cdcissues",))
    job = add_extract(mirror, {"cdcissues_issues.csv": b"id\n1\n"}, request=request)
    await mirror.sync()
    document = sidecar(mirror.snapshot_of(job))

    assert document["request"]["delta"] is False
    assert [entry["kind"] for entry in document["files"]] == ["full"]
    (latest,) = mirror.root.glob("acme/*/latest")
    assert latest.resolve() == mirror.snapshot_of(job)


async def test_a_data_request_that_an_older_version_took_for_a_delta_gets_its_latest_at_the_next_extract(
    mirror: Mirror,
) -> None:
    request = mirror.world.add_request("Changes", service_groups=("cdcissues",))
    add_extract(mirror, tables(1), request=request, days_ago=1)
    await mirror.sync()
    (latest,) = mirror.root.glob("acme/*/latest")
    latest.unlink()
    with closing(sqlite3.connect(mirror.state / "manifest.sqlite")) as connection, connection:
        connection.execute("UPDATE request SET is_delta = 1, digest = NULL")

    job = add_extract(mirror, tables(1, seed=1), request=request)
    await mirror.sync()

    assert latest.resolve() == mirror.snapshot_of(job)
