"""Window tables whose rows the row history is proved to have go with the full tables."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import duckdb
import pytest

from dcsync.app.from_config import account_settings
from dcsync.app.history import proving_windows
from dcsync.app.status import read_status
from dcsync.core.lifecycle import JobState
from dcsync.core.retention import KeepPolicy
from dcsync.errors import MassChange
from dcsync.manifest import SnapshotRows
from dcsync.mirror import disk, reduce, trash
from dcsync.ops.context import HistorySettings
from dcsync.ops.history.windows import window_tables
from dcsync.ops.integrity.history_files import building_lock
from dcsync.ops.integrity.prune import PruneReport, prune
from dcsync.ops.integrity.window_tables import WindowTables
from tests.ops.history.test_verify import rewrite
from tests.rigs.histories import ALL, add_day, alerts, build, folder_of, forget_seals, state_of
from tests.rigs.mirror import Mirror, assert_proved_by_sums, sidecar, tables
from tests.rigs.reductions import FULL, LARGE, ROWS, WINDOWS, activity_rows, damage, fill, pruned, rows_of, window

LAST = KeepPolicy(last=1)
TABLES = tuple(name.removesuffix(".csv") for name in WINDOWS)


def windows(mirror: Mirror) -> list[Path]:
    return sorted(mirror.root.glob("acme/*/2026/*/*/*/activities_*.csv"))


def ledger(mirror: Mirror) -> set[tuple[str, ...]]:
    """Return the rows of all window tables that the row history has."""
    return {
        row
        for name in TABLES
        for row in duckdb.read_parquet(str(folder_of(mirror) / f"{name}.parquet"))
        .project("* EXCLUDE (_first_seen)")
        .fetchall()
    }


def proving(settings: HistorySettings = ALL) -> WindowTables:
    return window_tables(settings)


async def prune_proved(mirror: Mirror, settings: HistorySettings = ALL) -> PruneReport:
    return await pruned(mirror, LAST, windows=proving(settings))


async def test_proved_windows_go_and_their_rows_stay_in_the_history(mirror: Mirror) -> None:
    jobs = await fill(mirror, 3)
    await build(mirror)
    rows = activity_rows(mirror)
    report = await prune_proved(mirror)

    assert (report.reduced, len(windows(mirror))) == (2, len(WINDOWS))
    assert [verdict.division and verdict.division.tables for verdict in report.requests[0].verdicts] == [None, (), ()]
    assert ledger(mirror) == rows
    assert await damage(mirror) == []
    old = mirror.snapshot_of(jobs[0])
    assert_proved_by_sums(old)
    marked = {entry["name"] for entry in sidecar(old)["reduced"]["files"] if entry.get("in_history")}
    assert marked == set(WINDOWS)
    assert (await mirror.states())[jobs[0]] is JobState.REDUCED


async def test_the_days_of_windows_that_went_are_still_covered(mirror: Mirror) -> None:
    await fill(mirror)
    await build(mirror)
    await pruned(mirror, KeepPolicy(weekly=2), windows=proving())

    assert len(windows(mirror)) == 2 * len(WINDOWS)
    assert "L-GAP" not in (await read_status(mirror.configuration(), mirror.stores(), clock=mirror.clock)).codes


async def test_a_rebuild_keeps_a_table_whose_windows_went(mirror: Mirror) -> None:
    await fill(mirror, 3)
    await build(mirror)
    rows = activity_rows(mirror)
    await prune_proved(mirror)
    report = await build(mirror, rebuilds=True)

    assert set(TABLES) <= set(report.requests[0].outcome.kept)
    assert ledger(mirror) == rows


async def test_a_damaged_file_whose_windows_went_is_an_alert(mirror: Mirror) -> None:
    await fill(mirror, 3)
    await build(mirror)
    await prune_proved(mirror)
    path = folder_of(mirror) / f"{TABLES[0]}.parquet"
    path.write_bytes(b"x")
    await build(mirror, retries=True)

    assert [part.subject.rpartition("/")[2] for part in await alerts(mirror)] == [TABLES[0]]
    assert path.read_bytes() == b"x"


async def test_windows_of_snapshots_that_were_reduced_before_go(mirror: Mirror) -> None:
    jobs = await fill(mirror, 3)
    await pruned(mirror, LAST)
    assert len(windows(mirror)) == 3 * len(WINDOWS)
    await build(mirror)
    rows = activity_rows(mirror)
    report = await prune_proved(mirror)

    assert (report.reduced, report.kept, len(windows(mirror))) == (2, 1, len(WINDOWS))
    assert sum(report.freed.values()) > 0
    assert ledger(mirror) == rows
    assert await damage(mirror) == []
    document = sidecar(mirror.snapshot_of(jobs[0]))
    assert {entry["name"] for entry in document["reduced"]["files"]} == {*WINDOWS, *FULL}
    assert {entry["name"] for entry in document["files"]} == {"README.html"}
    assert (await prune_proved(mirror)).reduced == 0


async def test_a_manifest_from_before_the_second_reduction_is_completed(mirror: Mirror) -> None:
    jobs = await fill(mirror, 2)
    await pruned(mirror, LAST)
    await build(mirror)
    kept = mirror.state.parent / "kept"
    shutil.copytree(mirror.state, kept)
    await prune_proved(mirror)
    wanted = rows_of(mirror)
    shutil.rmtree(mirror.state)
    shutil.copytree(kept, mirror.state)

    assert (await mirror.states())[jobs[0]] is JobState.REDUCED
    assert await damage(mirror) == []
    assert rows_of(mirror)["file"] == wanted["file"]


async def test_windows_of_a_snapshot_that_was_reduced_before_stay_without_a_rule(mirror: Mirror) -> None:
    await fill(mirror, 3)
    await pruned(mirror, LAST)
    await build(mirror)
    await pruned(mirror, KeepPolicy(), windows=proving())

    assert len(windows(mirror)) == 3 * len(WINDOWS)


async def test_a_data_request_with_only_window_tables_loses_them(mirror: Mirror) -> None:
    jobs = [await add_day(mirror, {name: window(name, day) for name in WINDOWS}, days_ago=3 - day) for day in range(3)]
    await build(mirror)
    rows = activity_rows(mirror)
    report = await prune_proved(mirror)

    assert (report.reduced, report.kept, len(windows(mirror))) == (2, 1, len(WINDOWS))
    assert ledger(mirror) == rows
    assert await damage(mirror) == []
    assert (await mirror.states())[jobs[0]] is JobState.REDUCED


async def test_a_data_request_with_only_window_tables_keeps_those_that_are_not_proved(mirror: Mirror) -> None:
    for day in range(3):
        await add_day(mirror, {name: window(name, day) for name in WINDOWS}, days_ago=3 - day)
    await build(mirror)
    rows = activity_rows(mirror)
    for name in TABLES:
        path = folder_of(mirror) / f"{name}.parquet"
        facts = path.stat()
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    report = await prune_proved(mirror)

    assert (report.reduced, report.kept, report.freed) == (0, 3, {})
    assert "not proved" in report.requests[0].verdicts[-1].reasons[0]
    assert activity_rows(mirror) == rows


async def test_windows_count_for_the_limit_of_a_prune(mirror: Mirror) -> None:
    for day in range(3):
        await add_day(mirror, {name: window(name, day) for name in WINDOWS}, days_ago=3 - day)
    await build(mirror)
    async with mirror.opened() as context:
        with pytest.raises(MassChange):
            await prune(context, account_settings(mirror.configuration()), LAST, windows=proving())
    assert len(windows(mirror)) == 3 * len(WINDOWS)


async def test_a_dry_run_shows_the_windows_that_the_history_records(mirror: Mirror) -> None:
    await fill(mirror, 3)
    await pruned(mirror, LAST)
    await build(mirror)
    report = await pruned(mirror, LAST, dry_run=True, windows=proving())

    assert (report.removed, report.reduced, report.kept) == (0, 2, 1)
    assert all(size > 0 for size in report.freed.values())
    assert len(windows(mirror)) == 3 * len(WINDOWS)
    shown = json.loads(json.dumps(report.json()))["requests"][0]["snapshots"]
    assert [(each["action"], each["kept_tables"]) for each in shown] == [("keep", []), ("reduce", []), ("reduce", [])]


async def test_nothing_goes_until_the_history_records_by_what_damage_is_noticed(mirror: Mirror) -> None:
    """It is a history of an older version, which the next build completes."""
    await fill(mirror, 3)
    await build(mirror)
    wanted = state_of(mirror)
    forget_seals(folder_of(mirror))
    await prune_proved(mirror)
    assert len(windows(mirror)) == 3 * len(WINDOWS)

    await build(mirror)
    assert state_of(mirror) == wanted
    await prune_proved(mirror)
    assert len(windows(mirror)) == len(WINDOWS)


async def test_nothing_goes_without_the_row_history(mirror: Mirror) -> None:
    await fill(mirror, 3)
    await build(mirror)
    rows = activity_rows(mirror)
    await prune_proved(mirror, HistorySettings())

    assert activity_rows(mirror) == rows


async def test_a_table_that_the_row_history_does_not_want_stays(mirror: Mirror) -> None:
    await fill(mirror, 3)
    await build(mirror)
    await prune_proved(mirror, HistorySettings(tables=(WINDOWS[0],), memory=ALL.memory))

    assert [path.name for path in windows(mirror)].count(WINDOWS[0]) == 1
    assert [path.name for path in windows(mirror)].count(WINDOWS[1]) == 3


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM '{path}' WHERE day <> '0' OR id <> '7'",
        "SELECT * REPLACE (replace(day, '0', '9') AS day) FROM '{path}'",
    ],
)
async def test_a_table_that_the_file_does_not_have_stays(mirror: Mirror, query: str) -> None:
    jobs = await fill(mirror, 3)
    await build(mirror)
    path = folder_of(mirror) / f"{TABLES[0]}.parquet"
    rewrite(path, query)
    state = folder_of(mirror) / "history.json"
    body = json.loads(state.read_bytes())
    body["tables"][TABLES[0]] |= {
        "file": [path.stat().st_size, path.stat().st_mtime_ns],
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    state.write_text(json.dumps(body))
    await prune_proved(mirror)

    assert {each.name for each in mirror.snapshot_of(jobs[0]).glob("activities_*")} == {WINDOWS[0]}


async def test_nothing_goes_without_duckdb(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(mirror, 3)
    await build(mirror)
    rows = activity_rows(mirror)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "duckdb", None)  # as if it were not installed
        report = await prune_proved(mirror)

    assert report.reduced == 2
    assert activity_rows(mirror) == rows


@pytest.mark.parametrize("change", ["waits", "format", "missing", "metadata"])
async def test_nothing_goes_if_the_history_cannot_be_used(mirror: Mirror, change: str) -> None:
    await fill(mirror, 3)
    await build(mirror)
    rows = activity_rows(mirror)
    state = folder_of(mirror) / "history.json"
    body = json.loads(state.read_bytes())
    for name in TABLES:
        path = folder_of(mirror) / f"{name}.parquet"
        if change == "waits":
            body["tables"][name]["waits"] = {"job": "j", "path": "p", "sha256": "0", "reason": "r"}
        elif change == "format":
            body["tables"][name]["format"] = 9
        elif change == "missing":
            path.unlink()
        else:
            duckdb.read_parquet(str(path)).to_parquet(f"{path}.new")
            shutil.move(f"{path}.new", path)
            body["tables"][name]["file"] = [path.stat().st_size, path.stat().st_mtime_ns]
    state.write_text(json.dumps(body))
    await prune_proved(mirror)

    assert activity_rows(mirror) == rows


@pytest.mark.parametrize(("key", "tables", "goes"), [(False, ["*"], False), (True, [], False), (True, ["*"], True)])
async def test_the_key_and_the_row_history_have_to_be_switched_on(
    mirror: Mirror, key: bool, tables: list[str], goes: bool
) -> None:
    await fill(mirror, 2)
    await build(mirror)
    mirror.config["keep"] = {"proved_windows": key}
    mirror.config["history"] = {"tables": tables}
    await pruned(mirror, LAST, windows=proving_windows(mirror.configuration()))

    assert len(windows(mirror)) == (2 if goes else 4)


async def test_a_table_without_a_step_stays(mirror: Mirror) -> None:
    await fill(mirror, 3)
    rows = activity_rows(mirror)
    await prune_proved(mirror)

    assert activity_rows(mirror) == rows


async def test_a_table_with_other_bytes_stays(mirror: Mirror) -> None:
    """Although the history has its rows: the step is one to a file with another SHA-256."""
    await fill(mirror, 3)
    await build(mirror)
    rows = activity_rows(mirror)
    state = folder_of(mirror) / "history.json"
    body = json.loads(state.read_bytes())
    for name in TABLES:
        path = folder_of(mirror) / f"{name}.parquet"
        other = {**body["tables"][name], "steps": [dict(step) for step in body["tables"][name]["steps"]]}
        for step in other["steps"]:
            step["sha256"] = f"0{step['sha256'][1:]}0"[1:]
        duckdb.execute(
            f"COPY (FROM read_parquet('{path}')) TO '{path}.new' "
            f"(FORMAT parquet, KV_METADATA {{dcsync: '{json.dumps(other)}'}})"
        )
        shutil.move(f"{path}.new", path)
        body["tables"][name] = {**other, "file": [path.stat().st_size, path.stat().st_mtime_ns]}
    state.write_text(json.dumps(body))
    await prune_proved(mirror)

    assert activity_rows(mirror) == rows


async def test_a_history_that_is_being_built_takes_no_table(mirror: Mirror) -> None:
    await fill(mirror, 3)
    await build(mirror)
    rows = activity_rows(mirror)
    async with mirror.opened() as context:
        (request,) = (await context.manifest.requests(mirror.acme)).values()
        with building_lock(context.root, request.slug):
            await prune(context, account_settings(mirror.configuration()), LAST, force=True, windows=proving())

    assert activity_rows(mirror) == rows


class Cut(Exception):
    """Ends the work where a kill would."""


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize(
    ("place", "call"),
    [
        (reduce, "append_lines"),
        (reduce, "swap"),
        (disk, "exchange"),
        (SnapshotRows, "restore"),
        (reduce, "discard_old"),
        (trash, "empty"),
    ],
)
async def test_every_row_is_there_after_a_kill(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, place: object, call: str, before: int
) -> None:
    """With `before`, the snapshot was reduced to its window tables before."""
    jobs = await fill(mirror, 2)
    if before:
        await pruned(mirror, LAST)
    await build(mirror)
    rows = activity_rows(mirror)

    def fail(*_: object, **__: object) -> None:
        raise Cut

    async with mirror.opened() as context:
        with monkeypatch.context() as patch:
            patch.setattr(place, call, fail)
            with pytest.raises(Cut):
                await prune(context, account_settings(mirror.configuration()), LAST, force=True, windows=proving())

    await mirror.states()
    assert await damage(mirror) == []
    assert ledger(mirror) == rows
    await prune_proved(mirror)
    assert (await mirror.states())[jobs[0]] is JobState.REDUCED
    assert len(windows(mirror)) == len(WINDOWS)
    assert len(rows) == 2 * ROWS


async def test_a_snapshot_of_which_only_its_metadata_is_left_survives_a_rebuild(mirror: Mirror) -> None:
    for day in range(2):
        files = {**tables(1, size=LARGE, seed=day), WINDOWS[0]: window(WINDOWS[0], day)}
        await add_day(mirror, files, days_ago=2 - day)
    await build(mirror)
    await prune_proved(mirror)
    before = await mirror.states()
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()

    assert await mirror.states() == before
    assert sorted(before.values()) == [JobState.PUBLISHED, JobState.REDUCED]
    assert await damage(mirror) == []
    assert len(windows(mirror)) == 1


async def test_a_damaged_table_stays(mirror: Mirror) -> None:
    jobs = await fill(mirror, 3)
    await build(mirror)
    damaged = mirror.snapshot_of(jobs[0]) / WINDOWS[0]
    damaged.chmod(0o644)
    # The history has all rows that are left.
    damaged.write_bytes(damaged.read_bytes().partition(b"\n")[0] + b"\n")
    await prune_proved(mirror)

    assert damaged.exists()
