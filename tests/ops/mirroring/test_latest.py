"""Which snapshot `latest` shows, and for which data requests there is one."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from dcsync.app.from_config import account_settings
from dcsync.app.rebuild import rebuild_manifest
from dcsync.app.sync import follow_up, open_dispatcher
from dcsync.core.alerts import Alert, AlertCode
from dcsync.core.layout import parse_layout
from dcsync.core.lifecycle import JobState
from dcsync.core.model import JobId
from dcsync.errors import DiskFull, MirrorTampered
from dcsync.manifest import SqlManifest
from dcsync.mirror.latest import LatestKind
from dcsync.ops.context import SyncContext
from dcsync.ops.mirroring.latest import after_acknowledgement, move_latest, retry_latest
from dcsync.ops.mirroring.run import sync
from tests.fakes import make_delta_request
from tests.rigs.mirror import Mirror, add_extract, sidecar, status_of, tables
from tests.rigs.publishing import Workbench

FILES = {"a.csv": "id\n"}


async def publish_without_latest(bench: Workbench, number: int, *, days_ago: int = 0) -> JobId:
    """Publish a job and remove `latest`."""
    job = bench.job(number, days_ago=days_ago)
    await bench.publish(job, FILES)
    bench.latest.unlink(missing_ok=True)
    return job.id


def with_settings(context: SyncContext, **changes: object) -> SyncContext:
    return replace(context, settings=replace(context.settings, **changes))  # type: ignore[arg-type]


async def test_latest_moves_to_a_newer_snapshot_and_not_back(bench: Workbench) -> None:
    await bench.publish(bench.job(1, days_ago=2), FILES)
    await bench.publish(bench.job(2), FILES)
    assert bench.latest.resolve() == bench.path(bench.job(2))

    await bench.publish(bench.job(3, days_ago=1), FILES)

    assert bench.latest.resolve() == bench.path(bench.job(2))


async def test_the_newest_snapshot_is_shown_whichever_job_asks(bench: Workbench) -> None:
    older = await publish_without_latest(bench, 1, days_ago=1)
    await publish_without_latest(bench, 2)

    await move_latest(bench.context, bench.account, older)

    assert str(bench.latest.readlink()) == f"2026/11/22/{bench.path(bench.job(2)).name}"


@pytest.mark.parametrize(("is_delta", "is_described"), [(True, True), (False, False)])
async def test_a_request_that_is_or_may_be_a_delta_has_no_latest(
    bench: Workbench, *, is_delta: bool, is_described: bool
) -> None:
    document = make_delta_request() if is_delta else None
    description = "" if not is_described else "Changes"
    bench.request = replace(bench.request, is_delta=is_delta, description=description, document=document)
    await bench.know(bench.job(), is_described=is_described)

    await bench.publish(bench.job(), FILES)

    assert not bench.latest.is_symlink()
    assert await bench.state(bench.job()) is JobState.PUBLISHED


async def test_an_unknown_job_moves_nothing(bench: Workbench) -> None:
    await publish_without_latest(bench, 1)

    await move_latest(bench.context, bench.account, JobId("unknown"))

    assert not bench.latest.is_symlink()


async def test_a_job_that_is_not_published_moves_nothing(bench: Workbench) -> None:
    await publish_without_latest(bench, 1)
    await bench.know(bench.job(2))

    await move_latest(bench.context, bench.account, bench.job(2).id)

    assert not bench.latest.is_symlink()


async def test_a_layout_that_mixes_requests_in_a_folder_has_no_latest(bench: Workbench) -> None:
    job = await publish_without_latest(bench, 1)
    mixed = with_settings(bench.context, layout=parse_layout("{account}/{date:%Y}/{date:%m}/{time}-{request}-{job}"))

    await move_latest(mixed, bench.account, job)

    assert not mixed.settings.layout.holds_one_request
    assert not bench.latest.is_symlink()


async def test_a_folder_of_hard_links_is_kept_unless_it_is_to_be_replaced(bench: Workbench) -> None:
    job = await publish_without_latest(bench, 1)
    linked = with_settings(bench.context, latest=LatestKind.HARDLINKS)
    await move_latest(linked, bench.account, job)
    (bench.latest / "a.csv").unlink()

    await move_latest(linked, bench.account, job)
    assert not (bench.latest / "a.csv").exists()

    await move_latest(linked, bench.account, job, rebuild=True)
    assert (bench.latest / "a.csv").read_text() == FILES["a.csv"]


@pytest.mark.parametrize("error", [DiskFull("no space"), MirrorTampered("a file is in the way")])
def test_an_error_after_the_acknowledgement_is_logged_and_not_raised(bench: Workbench, error: Exception) -> None:
    def fail() -> None:
        raise error

    with capture_logs() as lines, after_acknowledgement(bench.account, JobId("j")):
        fail()

    (line,) = lines
    assert (line["log_level"], line["account"], line["job"]) == ("warning", "acme", "j")
    assert line["error"] in str(error)
    assert line["code"]


def test_any_other_error_after_the_acknowledgement_is_raised(bench: Workbench) -> None:
    with pytest.raises(OSError, match="disk"), after_acknowledgement(bench.account, JobId("j")):
        raise OSError(errno.EIO, "disk")


# --- what cannot be made ----------------------------------------------------------------------------------------------


async def alerts(mirror: Mirror) -> list[Alert]:
    """Return the alerts about `latest`."""
    (account,) = (await status_of(mirror)).accounts
    return [item.alert for item in account.alerts if item.alert.code is AlertCode.M_LATEST]


def latest_names(mirror: Mirror) -> list[str]:
    """Return each `latest` in the mirror: its path and what it shows."""
    found = [path for name in ("latest", "_latest") for path in mirror.root.rglob(name) if ".dcsync" not in path.parts]
    return sorted(f"{path.parent.relative_to(mirror.root)}/{path.name}" for path in found)


def is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def request_folder(mirror: Mirror) -> Path:
    return mirror.root / "acme" / f"my-company-data-extract-{next(iter(mirror.world.requests))[:8]}"


def refuse_symlinks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file system have no symlinks, as exFAT."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "symlink", refuse)


async def test_without_symlinks_mirroring_goes_on_and_the_first_run_says_it(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ""
    with monkeypatch.context() as patch:
        refuse_symlinks(patch)
        for day in (2, 1):
            job = add_extract(mirror, tables(2, seed=day), days_ago=day)
            outcome = await mirror.run()

            assert ([done.job for done in outcome.published], outcome.failed) == ([job], [])
            (found,) = await alerts(mirror)
            assert found.subject == next(iter(mirror.world.requests))
            assert f"{request_folder(mirror).relative_to(mirror.root)}/latest" in found.message
            assert 'mirror.latest to "hardlinks" or "none"' in found.hint
            assert (await status_of(mirror)).check == 0

    await mirror.run()

    assert await alerts(mirror) == []
    assert (request_folder(mirror) / "latest").resolve() == mirror.snapshot_of(job)


@pytest.mark.parametrize("kind", ["symlink", "hardlinks", "none"])
async def test_a_folder_of_somebody_stops_nothing_and_stays(mirror: Mirror, kind: str) -> None:
    mirror.config["mirror"] = {"latest": kind}
    add_extract(mirror, tables(2), days_ago=3)
    await mirror.run()
    latest = request_folder(mirror) / "latest"
    if latest.is_symlink():
        latest.unlink()
    (latest / "mine").mkdir(parents=True)
    (latest / "mine/notes.txt").write_text("theirs")

    job = ""
    for day in (2, 1):
        job = add_extract(mirror, tables(2, seed=day), days_ago=day)
        assert [done.job for done in (await mirror.run()).published] == [job]

    assert (latest / "mine/notes.txt").read_text() == "theirs"
    if kind == "none":
        assert await alerts(mirror) == []
        return
    (found,) = await alerts(mirror)
    assert "latest has mine/notes.txt" in found.message
    (latest / "mine/notes.txt").unlink()
    await mirror.run()
    assert await alerts(mirror) == []
    assert sidecar(latest)["job"]["id"] == job


async def test_the_daemon_tries_again_after_a_run_without_a_new_snapshot(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_extract(mirror, tables(2))
    config = mirror.configuration()
    async with mirror.opened() as context:
        with monkeypatch.context() as patch:
            refuse_symlinks(patch)
            (outcome,) = await sync(context, account_settings(config))
        dispatcher = await open_dispatcher(config, mirror.stores(config), context, environ=mirror.environ)
        assert [found.code for found in await alerts(mirror)] == ["M-LATEST"]

        (outcome,) = await sync(context, account_settings(config))
        await follow_up(config, context, dispatcher, [outcome])

    assert await alerts(mirror) == []
    assert (request_folder(mirror) / "latest").exists()


# --- a change of the configuration ------------------------------------------------------------------------------------

MIXED = "{account}/{date:%Y}/{date:%m}/{time}-{request}-{job}"
OTHER = "{request}/of-{account}/{date:%Y-%m-%d}/{job}"


async def start(mirror: Mirror, **settings: str) -> None:
    """Start with other settings. Nothing is new at Autodesk."""
    mirror.config["mirror"] = settings
    assert (await mirror.sync_one()).published == []


@pytest.mark.parametrize("kinds", list(itertools.permutations(["symlink", "hardlinks", "none"], 3)))
async def test_a_change_of_the_mode_leaves_nothing_stale(mirror: Mirror, kinds: tuple[str, ...]) -> None:
    add_extract(mirror, tables(2), days_ago=1)
    mirror.config["mirror"] = {"latest": kinds[0]}
    await mirror.sync()
    for kind in (*kinds[1:], *kinds):
        await start(mirror, latest=kind)

        latest = request_folder(mirror) / "latest"
        assert is_there(latest) is (kind != "none")
        assert latest.is_symlink() is (kind == "symlink")
        if kind != "none":
            assert sidecar(latest)["job"]["id"] == sidecar(mirror.snapshots()[0])["job"]["id"]
    assert await alerts(mirror) == []


@pytest.mark.parametrize("kind", ["symlink", "hardlinks"])
@pytest.mark.parametrize("forgets", [False, True])
async def test_a_change_of_the_layout_leaves_nothing_stale(mirror: Mirror, kind: str, *, forgets: bool) -> None:
    """Also when the manifest was rebuilt since, or is one of the version before."""
    jobs = [add_extract(mirror, tables(2, seed=day), days_ago=6 - day) for day in range(2)]
    mirror.config["mirror"] = {"latest": kind}
    await mirror.sync()
    for day, layout in enumerate(("hive", MIXED, OTHER, "dated"), 2):
        if forgets:
            for path in mirror.state.glob("manifest.sqlite*"):
                path.unlink()
        mirror.config["mirror"] = {"latest": "none" if layout == MIXED else kind, "layout": layout}
        jobs.append(add_extract(mirror, tables(2, seed=day), days_ago=6 - day))
        assert [done.job for done in (await mirror.sync_one()).published] == jobs[-1:]

        slug = request_folder(mirror).name
        expected = {
            "hive": [f"account=acme/request={slug}/_latest"],
            MIXED: [],
            OTHER: [f"{slug}/of-acme/latest"],
            "dated": [f"acme/{slug}/latest"],
        }
        assert latest_names(mirror) == expected[layout]
        for name in latest_names(mirror):
            assert sidecar(mirror.root / name)["job"]["id"] == jobs[-1]
    assert await alerts(mirror) == []


async def test_a_change_of_the_layout_without_a_new_snapshot_leaves_nothing_stale(mirror: Mirror) -> None:
    add_extract(mirror, tables(2), days_ago=1)
    await mirror.sync()

    await start(mirror, layout=MIXED, latest="none")
    assert latest_names(mirror) == []

    await start(mirror, layout="dated")
    assert latest_names(mirror) == [f"acme/{request_folder(mirror).name}/latest"]


async def test_a_request_that_became_a_delta_has_no_latest_and_never_gets_one(mirror: Mirror) -> None:
    add_extract(mirror, tables(2), days_ago=2)
    delta = mirror.world.add_request("Changes", service_groups=("cdcadmin",), date_range="YESTERDAY")
    add_extract(mirror, tables(2, seed=1), request=delta, days_ago=1)
    await mirror.sync()
    slug = request_folder(mirror).name
    assert latest_names(mirror) == [f"acme/{slug}/latest"]
    stale = mirror.snapshots()[0].parents[3] / "latest"
    assert stale.parent.name.startswith("changes-")
    # As a version made it that did not know what a delta is.
    stale.symlink_to(mirror.snapshots()[0].relative_to(stale.parent))
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()

    for layout in ("dated", "hive", MIXED):
        await start(mirror, layout=layout, latest="none" if layout == MIXED else "symlink")
        assert not is_there(stale)

    assert latest_names(mirror) == []


async def test_an_undisturbed_latest_costs_no_write(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    add_extract(mirror, tables(2), days_ago=1)
    await mirror.sync()
    await mirror.sync()
    before = (request_folder(mirror) / "latest").lstat().st_ino

    async with mirror.opened() as context:
        (job,) = await context.manifest.jobs(mirror.acme, states={JobState.PUBLISHED})
        # A write would fail.
        monkeypatch.setattr(SqlManifest, "writing", None)
        await move_latest(context, account_settings(mirror.configuration())[0], job)
        await retry_latest(context, account_settings(mirror.configuration())[0])
        monkeypatch.undo()

    assert (request_folder(mirror) / "latest").lstat().st_ino == before


async def test_an_older_manifest_does_not_move_latest_back(mirror: Mirror) -> None:
    """A backup of the manifest was restored. Autodesk no longer lists the newest extract."""
    older = add_extract(mirror, tables(2), days_ago=1)
    await mirror.sync()
    shutil.copy(mirror.state / "manifest.sqlite", mirror.folder / "backup.sqlite")
    newer = add_extract(mirror, tables(2, seed=1))
    await mirror.sync()
    latest = request_folder(mirror) / "latest"
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()
    shutil.copy(mirror.folder / "backup.sqlite", mirror.state / "manifest.sqlite")
    job = mirror.world.jobs.pop(newer)

    await mirror.run()

    assert latest.resolve() == mirror.snapshot_of(newer)
    (found,) = await alerts(mirror)
    assert str(mirror.snapshot_of(newer).relative_to(mirror.root)) in found.message
    assert "run dcsync rebuild" in found.hint

    await rebuild_manifest(mirror.configuration(), mirror.stores(), clock=mirror.clock)
    await mirror.run()

    assert await alerts(mirror) == []
    assert (await mirror.states()).keys() == {older, newer}
    mirror.world.jobs[newer] = job


async def test_an_older_manifest_adopts_what_autodesk_still_lists(mirror: Mirror) -> None:
    add_extract(mirror, tables(2), days_ago=1)
    await mirror.sync()
    shutil.copy(mirror.state / "manifest.sqlite", mirror.folder / "backup.sqlite")
    newer = add_extract(mirror, tables(2, seed=1))
    await mirror.sync()
    for path in mirror.state.glob("manifest.sqlite*"):
        path.unlink()
    shutil.copy(mirror.folder / "backup.sqlite", mirror.state / "manifest.sqlite")
    fetched = mirror.sandbox.count("storage")

    await mirror.run()

    assert await alerts(mirror) == []
    assert (request_folder(mirror) / "latest").resolve() == mirror.snapshot_of(newer)
    assert mirror.sandbox.count("storage") == fetched


async def test_the_alert_ends_with_the_last_snapshot_of_the_data_request(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = add_extract(mirror, tables(2))
    refuse_symlinks(monkeypatch)
    await mirror.run()
    assert len(await alerts(mirror)) == 1
    async with mirror.opened() as context:
        await context.manifest.move(mirror.acme, JobId(job), JobState.PRUNED, at=mirror.clock.now())

        await retry_latest(context, account_settings(mirror.configuration())[0])

    assert await alerts(mirror) == []
