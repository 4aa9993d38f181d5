"""Which snapshot `latest` shows, and for which data requests there is one."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from dcsync.core.layout import parse_layout
from dcsync.core.lifecycle import JobState
from dcsync.core.model import JobId
from dcsync.errors import DiskFull, MirrorTampered
from dcsync.mirror.latest import LatestKind
from dcsync.ops.context import SyncContext
from dcsync.ops.mirroring.latest import after_acknowledgement, move_latest
from tests.fakes import make_delta_request
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
