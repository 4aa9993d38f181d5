"""The folder of a job's snapshot: chosen once, and never one that another job has."""

from __future__ import annotations

import pytest

from dcsync.core.lifecycle import JobState
from dcsync.core.model import Job, JobId
from dcsync.errors import MirrorTampered
from dcsync.manifest import SnapshotRows
from dcsync.ops.mirroring.folder import choose_folder
from tests.fakes import make_job, make_record
from tests.rigs.mirror import TODAY
from tests.rigs.publishing import Workbench

#: Two jobs of one second whose IDs begin alike.
FIRST = make_job(id=JobId("0123456789abcdef-first"), completed_at=TODAY)
SECOND = make_job(id=JobId("0123456789abcdef-second"), completed_at=TODAY)
PLACE = "acme/my-company-data-extract-ce9bc188/2026/11/22/120000Z-"
SHORT, LONGER = f"{PLACE}01234567", f"{PLACE}0123456789abcdef"


async def choose(bench: Workbench, job: Job) -> str:
    return await choose_folder(bench.context, bench.account, bench.request, await bench.know(job))


async def take(bench: Workbench, job: Job, folder: str) -> None:
    await bench.know(job)
    await bench.context.manifest.move(bench.account.name, job.id, JobState.LISTED, at=TODAY, folder=folder)


async def test_a_folder_has_the_time_and_the_first_characters_of_the_id(bench: Workbench) -> None:
    assert await choose(bench, FIRST) == SHORT


async def test_a_folder_that_was_chosen_once_stays(bench: Workbench) -> None:
    await take(bench, FIRST, "acme/elsewhere")

    assert await choose(bench, FIRST) == "acme/elsewhere"


async def test_a_folder_that_another_job_has_is_not_chosen(bench: Workbench) -> None:
    await take(bench, SECOND, SHORT)

    assert await choose(bench, FIRST) == LONGER


async def test_two_ids_that_begin_alike_differ_in_the_longest_name(bench: Workbench) -> None:
    await take(bench, SECOND, SHORT)
    await take(bench, make_job(id=JobId("third"), completed_at=TODAY), LONGER)

    chosen = await choose(bench, FIRST)

    assert chosen.startswith(LONGER)
    assert "first" in chosen


async def test_a_folder_with_something_else_in_it_is_not_chosen(bench: Workbench) -> None:
    (bench.mirror.root / SHORT).mkdir(parents=True)

    assert await choose(bench, FIRST) == LONGER


async def test_a_folder_with_the_snapshot_of_another_job_is_not_chosen(bench: Workbench) -> None:
    place = make_job(id=JobId("01234567"), completed_at=TODAY)
    bench.publish_by_another(place, {"a.csv": "id\n"}, by=SECOND)

    assert await choose(bench, FIRST) == LONGER


async def test_a_folder_with_the_job_s_own_snapshot_is_chosen(bench: Workbench) -> None:
    place = make_job(id=JobId("01234567"), completed_at=TODAY)
    bench.publish_by_another(place, {"a.csv": "id\n"}, by=FIRST)

    assert await choose(bench, FIRST) == SHORT


async def test_a_folder_that_a_rebuild_found_without_its_id_is_chosen(bench: Workbench) -> None:
    rebuilt = make_record(job=make_job(id=JobId("01234567")), request=bench.request, folder=SHORT)
    await SnapshotRows(bench.context.manifest).restore(bench.account.name, rebuilt)
    (bench.mirror.root / SHORT).mkdir(parents=True)

    assert await choose(bench, FIRST) == SHORT


async def test_a_job_without_a_free_folder_is_refused(bench: Workbench) -> None:
    for _ in range(3):
        (bench.mirror.root / await choose(bench, FIRST)).mkdir(parents=True)

    with pytest.raises(MirrorTampered, match=FIRST.id) as raised:
        await choose(bench, FIRST)

    assert raised.value.advice
