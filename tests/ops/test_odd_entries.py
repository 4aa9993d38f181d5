"""A FIFO, a socket, a symlink, a folder or a device in the place of any file or folder of dcsync.

Nothing hangs, one odd entry stops nothing else, and it is named. A test that hangs is ended by its time-out.
"""

from __future__ import annotations

import shutil
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from dcsync.app.from_config import account_settings
from dcsync.app.mirror import open_mirror_unlocked
from dcsync.core.lifecycle import JobState
from dcsync.core.model import JobId
from dcsync.core.retention import KeepPolicy
from dcsync.errors import DcsyncError
from dcsync.ops.integrity.prune import PruneReport, prune
from dcsync.ops.integrity.rebuild import RebuildReport, rebuild
from dcsync.ops.integrity.report import Kind, VerifyReport
from dcsync.ops.integrity.verify import verify
from tests.rigs.mirror import Mirror, add_extract, status_of, tables
from tests.rigs.odd import ODD_KINDS, plant

OTHERS = {"activities_docs.csv": b"id\n1\n", "README.html": b"<html>"}
FILES = {**tables(3), **OTHERS}
#: In the previous snapshot. The second is a file of a folder.
IN_A_SNAPSHOT = ("admin_table_000.csv", "activities_docs.csv", "README.html", "_dcsync.json", "SHA256SUMS")
#: dcsync works without them, and says so.
OWN_WITH_ALERT = (".dcsync/pruned.jsonl", ".dcsync/reduced.jsonl", ".dcsync/trash", ".dcsync/reducing")
#: dcsync replaces them, or needs them for nothing here.
OWN_WITHOUT_ALERT = (
    *(".dcsync/index.html.new", ".dcsync/instance.new", ".dcsync/staging/left", ".dcsync/staging/left.journal"),
    *(".dcsync/quarantine", ".dcsync/trash/left", f".dcsync/reducing/{'0' * 32}", "acme/left", "left"),
)
#: Without them, dcsync does not know whose mirror it is, or whether another dcsync uses it.
NEEDED = ("mirror/.dcsync/lock", "mirror/.dcsync/instance", "state/instance", "state/lock")


def replace_by(kind: str, place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    plant(kind, place)


def is_odd(kind: str, place: Path) -> bool:
    """Say whether the entry of a kind is still there."""
    mode = place.lstat().st_mode
    return {
        "FIFO": stat.S_ISFIFO,
        "socket": stat.S_ISSOCK,
        "symlink": stat.S_ISLNK,
        "folder": stat.S_ISDIR,
        "device": stat.S_ISCHR,
    }[kind](mode)


async def verified(mirror: Mirror) -> VerifyReport:
    config = mirror.configuration()
    async with open_mirror_unlocked(config, mirror.stores(config), clock=mirror.clock) as context:
        return await verify(context, account_settings(config))


async def pruned(mirror: Mirror) -> PruneReport:
    async with mirror.opened() as context:
        return await prune(context, account_settings(mirror.configuration()), KeepPolicy(last=1), force=True)


async def rebuilt(mirror: Mirror) -> RebuildReport:
    """Rebuild the manifest as the command does, from nothing."""
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()
    async with mirror.opened(notices_missing=False) as context:
        await rebuild(context, account_settings(mirror.configuration()))
        return await rebuild(context, account_settings(mirror.configuration()))


async def alerts_of(mirror: Mirror) -> dict[str, str]:
    """Return the message of each alert by its code."""
    status = await status_of(mirror)
    return {item.alert.code.value: item.alert.message for account in status.accounts for item in account.alerts}


async def published_jobs(mirror: Mirror) -> set[str]:
    return {job for job, state in (await mirror.states()).items() if state is JobState.PUBLISHED}


@pytest.mark.parametrize("kind", ODD_KINDS)
async def test_an_odd_entry_in_the_previous_snapshot_is_damage_there_and_the_next_snapshot_is_whole(
    mirror: Mirror, kind: str
) -> None:
    """Each entry is in the snapshot of a data request of its own."""
    files = {name: {**tables(3, seed=number), **OTHERS} for number, name in enumerate(IN_A_SNAPSHOT)}
    requests = {name: mirror.world.add_request(name) for name in IN_A_SNAPSHOT}
    oldest, previous, newest = ({}, {}, {})
    for name, request in requests.items():
        oldest[name] = add_extract(mirror, files[name], request=request, days_ago=3)
        previous[name] = add_extract(mirror, files[name], request=request, days_ago=2)
    await mirror.run()
    places = {name: mirror.snapshot_of(job) / name for name, job in previous.items()}
    for place in places.values():
        replace_by(kind, place)
    for name, request in requests.items():
        newest[name] = add_extract(mirror, files[name], request=request, days_ago=1)

    outcome = await mirror.run()

    assert {published.job for published in outcome.published} == set(newest.values())
    assert (outcome.failed, outcome.error) == ([], None)
    for name, job in newest.items():
        whole = next(path for path in mirror.root.glob("acme/*/2026/*/*/*") if job[:8] in path.name)
        found = {path.name: path.read_bytes() for path in whole.iterdir() if path.name in files[name]}
        assert found == files[name], name
    damaged = {item.path for item in (await verified(mirror)).damage if item.kind is not Kind.EXTRA}
    assert damaged == {str(place.relative_to(mirror.root)) for place in places.values()}
    report = await rebuilt(mirror)
    assert await published_jobs(mirror) >= {*oldest.values(), *newest.values()}
    assert not report.refused
    # Nothing that only the damaged snapshot has is removed for it, and the others are pruned.
    assert set((await pruned(mirror)).failed) <= {name for job in previous.values() for name in (job, job[:8])}


@pytest.mark.parametrize("kind", ["FIFO", "symlink", "folder"])
@pytest.mark.parametrize(
    "places",
    [("index.html",), ("views.sql",), *((place,) for place in OWN_WITH_ALERT), OWN_WITHOUT_ALERT],
    ids=["index.html", "views.sql", *OWN_WITH_ALERT, "without an alert"],
)
async def test_an_odd_entry_in_the_place_of_another_file_or_folder_of_dcsync_stops_nothing_else(
    mirror: Mirror, places: tuple[str, ...], kind: str
) -> None:
    first = add_extract(mirror, FILES, days_ago=2)
    await mirror.run()
    for place in places:
        replace_by(kind, mirror.root / place)
    second = add_extract(mirror, FILES, days_ago=1)

    outcome = await mirror.run()

    assert [published.job for published in outcome.published] == [second]
    assert (outcome.failed, outcome.error) == ([], None)
    mirror.assert_identical(second)
    assert [item for item in (await verified(mirror)).damage if item.kind is not Kind.EXTRA] == []
    for place in places:
        if place in OWN_WITH_ALERT and not (kind == "folder" and "." not in Path(place).name):
            assert place in (await alerts_of(mirror))["M-TRASH"]
    await pruned(mirror)
    if places != (".dcsync/reducing",):
        await rebuilt(mirror)
        assert await published_jobs(mirror) <= {first, second}


@pytest.mark.parametrize("place", NEEDED)
async def test_an_odd_entry_in_the_place_of_a_file_that_dcsync_needs_is_named_at_once(
    mirror: Mirror, place: str
) -> None:
    add_extract(mirror, FILES, days_ago=2)
    await mirror.run()

    for kind in ("FIFO", "symlink", "folder"):
        replace_by(kind, mirror.folder / place)
        for command in (mirror.run, lambda: pruned(mirror)):
            with pytest.raises(DcsyncError, match=f"{place.rpartition('/')[2]}.* not a regular file"):
                await command()
        await status_of(mirror)
        assert is_odd(kind, mirror.folder / place), kind


@pytest.mark.parametrize("name", ["daemon.json", "manifest.sqlite"])
async def test_an_odd_entry_in_the_state_folder_does_not_hang_the_status(mirror: Mirror, name: str) -> None:
    add_extract(mirror, FILES, days_ago=2)
    await mirror.run()

    for kind in ODD_KINDS:
        replace_by(kind, mirror.state / name)
        if name == "daemon.json":
            await status_of(mirror)
            continue
        with suppress(DcsyncError):
            await status_of(mirror)
        if kind != "symlink":
            with pytest.raises(DcsyncError, match=r"manifest\.sqlite is not a regular file"):
                await mirror.run()
        assert is_odd(kind, mirror.state / name), kind


async def test_an_odd_entry_in_the_staging_of_a_job_is_replaced(mirror: Mirror) -> None:
    """Each entry is in the staging of a job of its own, of which no other job has the files."""
    suffixes = ("/admin_table_000.csv", "/admin_table_001.csv.part", ".journal")
    cases = [(kind, suffix) for kind in ODD_KINDS for suffix in suffixes]
    jobs = [add_extract(mirror, tables(3, seed=number), days_ago=1 + number / 100) for number in range(len(cases))]
    staging = mirror.root / ".dcsync/staging"
    staging.mkdir(parents=True)
    await mirror.states()
    for job, (kind, suffix) in zip(jobs, cases, strict=True):
        (staging / job).mkdir(parents=True, exist_ok=True)
        plant(kind, Path(f"{staging / job}{suffix}"))

    outcome = await mirror.sync_one()

    published = {str(done.job) for done in outcome.published}
    assert [case for job, case in zip(jobs, cases, strict=True) if job not in published] == []
    for job in jobs:
        mirror.assert_identical(job)


@pytest.mark.parametrize("kind", [kind for kind in ODD_KINDS if kind != "folder"])
async def test_an_odd_entry_in_the_place_of_a_snapshot_stops_neither_a_dry_run_nor_the_other_prunings(
    mirror: Mirror, kind: str
) -> None:
    jobs = [add_extract(mirror, tables(2, seed=day), days_ago=5 - day) for day in range(4)]
    await mirror.run()
    replace_by(kind, mirror.snapshot_of(jobs[1]))

    async with mirror.opened() as context:
        accounts, policy = account_settings(mirror.configuration()), KeepPolicy(last=1)
        dry = await prune(context, accounts, policy, dry_run=True)
        report = await prune(context, accounts, policy, force=True)

    assert dry.freed[JobId(jobs[0])] > 0
    assert dry.freed.get(JobId(jobs[1]), 0) == 0
    assert jobs[0] not in report.failed
    assert jobs[2] not in report.failed
