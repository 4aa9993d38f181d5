"""Which snapshots are meant, and what differs between them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from dcsync.app.mirror import read_mirror
from dcsync.core.diff import Fate
from dcsync.core.model import AccountName, JobId, RequestId
from dcsync.errors import DcsyncError, ManifestError, SnapshotUnclear
from dcsync.ops.context import ReadContext
from dcsync.ops.diff import Candidate, choose, compare
from tests.rigs.mirror import Mirror, add_extract
from tests.rigs.sqlite import backend_of, change_content, downgrade

ACME = AccountName("acme")


def make_candidate(job: str, day: str, *, request: str = "r1", account: str = "acme", at: str = "12:00") -> Candidate:
    return Candidate(
        account=AccountName(account),
        request=RequestId(request),
        slug=f"slug-{request}",
        description="Nightly",
        job=JobId(job),
        folder=f"{account}/{request}/{job}",
        completed_at=datetime.fromisoformat(f"{day}T{at}:00+00:00"),
    )


ONE = [
    make_candidate("aaaa1111-0000", "2026-11-20"),
    make_candidate("bbbb2222-0000", "2026-11-21", at="06:00"),
    make_candidate("bbbb3333-0000", "2026-11-21", at="23:30"),
    make_candidate("cccc4444-0000", "2026-11-22"),
]
OTHER = make_candidate("dddd5555-0000", "2026-11-22", request="r2")


def chosen(candidates: list[Candidate], before: str, after: str, zone: tzinfo = UTC) -> tuple[str, str]:
    return tuple(candidate.job[:4] for candidate in choose(candidates, before, after, zone))  # type: ignore[return-value]


def test_a_reduced_snapshot_is_chosen_only_by_its_id_or_its_day() -> None:
    reduced = [*(replace(candidate, is_reduced=True) for candidate in ONE[:2]), *ONE[2:]]

    assert chosen(reduced, "previous", "latest") == ("bbbb", "cccc")
    assert choose(reduced, "2026-11-21", "latest", UTC)[0].job.startswith("bbbb3")
    assert choose([*reduced[:2], ONE[3]], "2026-11-21", "latest", UTC)[0].job.startswith("bbbb2")
    assert chosen(reduced, "aaaa1111", "cccc4444") == ("aaaa", "cccc")
    with pytest.raises(SnapshotUnclear, match="has no previous snapshot: its only whole one is acme/r1/cccc4444-0000"):
        choose([*reduced[:2], ONE[3]], "previous", "latest", UTC)
    with pytest.raises(SnapshotUnclear, match="no snapshot with all its tables"):
        choose(reduced[:2], "previous", "latest", UTC)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("previous", "latest", ("bbbb", "cccc")),
        ("aaaa1111-0000", "latest", ("aaaa", "cccc")),
        ("aaaa1111", "cccc4444", ("aaaa", "cccc")),
        ("AAAA11110", "bbbb2", ("aaaa", "bbbb")),
        ("2026-11-20", "2026-11-22", ("aaaa", "cccc")),
        ("latest", "latest", ("cccc", "cccc")),
    ],
)
def test_words_mean_snapshots(before: str, after: str, expected: tuple[str, str]) -> None:
    assert chosen(ONE, before, after) == expected


def test_a_day_is_its_newest_snapshot_in_the_mirror_s_zone() -> None:
    assert choose(ONE, "2026-11-21", "latest", UTC)[0].job == "bbbb3333-0000"
    # 23:30Z is the next day there.
    assert choose(ONE, "2026-11-21", "latest", ZoneInfo("Europe/Berlin"))[0].job == "bbbb2222-0000"


def test_an_id_beside_it_says_which_request_is_meant() -> None:
    assert chosen([*ONE, OTHER], "aaaa1111", "latest") == ("aaaa", "cccc")


def test_a_day_that_only_one_request_has_says_which_is_meant() -> None:
    assert chosen([*ONE, OTHER], "2026-11-20", "latest") == ("aaaa", "cccc")


def test_ids_may_be_of_different_requests() -> None:
    assert chosen([*ONE, OTHER], "cccc4444", "dddd5555") == ("cccc", "dddd")


@pytest.mark.parametrize(
    ("candidates", "before", "after", "words"),
    [
        (ONE, "eeee", "latest", "no published snapshot has the job ID 'eeee'"),
        # Too short to mean anything.
        (ONE, "aa", "latest", "no published snapshot has the job ID 'aa'"),
        (ONE, "bbbb", "latest", "2 job IDs begin with 'bbbb': bbbb2222-0000, bbbb3333-0000"),
        (ONE[:1], "previous", "latest", "slug-r1 has no previous snapshot"),
        (
            ONE,
            "2026-11-19",
            "latest",
            "has no snapshot of 2026-11-19; the latest days are 2026-11-22, 2026-11-21, 2026-11-20",
        ),
        (ONE, "2026-02-30", "latest", "2026-02-30 is not a valid date"),
        ([*ONE, OTHER], "previous", "latest", "--account acme --request slug-r1\n--account acme --request slug-r2"),
        ([*ONE, OTHER], "2026-11-22", "latest", "'2026-11-22' may be a snapshot of several data requests"),
        ([*ONE, OTHER], "aaaa1111", "dddd", None),
        ([*ONE, OTHER, make_candidate("eeee", "2026-11-20", request="r3")], "aaaa1111", "eeee", None),
    ],
)
def test_what_is_not_clear_is_said_with_the_choices(
    candidates: list[Candidate], before: str, after: str, words: str | None
) -> None:
    if words is None:
        assert choose(candidates, before, after, UTC)
        return
    with pytest.raises(SnapshotUnclear) as caught:
        choose(candidates, before, after, UTC)

    assert words in caught.value.message


def test_two_ids_of_two_requests_leave_a_word_unclear() -> None:
    many = [make_candidate(f"{number:04}-0", "2026-11-22", request=f"r{number:02}") for number in range(15)]

    with pytest.raises(SnapshotUnclear, match="and 5 more"):
        choose(many, "latest", "latest", UTC)


@asynccontextmanager
async def reading(mirror: Mirror) -> AsyncIterator[ReadContext]:
    async with read_mirror(mirror.configuration(), mirror.stores()) as context:
        yield context


async def two_days(mirror: Mirror, before: dict[str, Any], after: dict[str, Any]) -> tuple[str, str]:
    jobs = add_extract(mirror, before, days_ago=1), add_extract(mirror, after)
    await mirror.sync()
    return jobs


async def test_published_snapshots_are_compared(mirror: Mirror) -> None:
    await two_days(
        mirror,
        {"a.csv": b"id,name\n1,x\n", "same.csv": b"id\n1\n", "gone.csv": b"id\n"},
        {"a.csv": b'id,mail\n1,"x\ny"\n2,z\n', "same.csv": b"id\n1\n", "README.html": b"<p>"},
    )

    async with reading(mirror) as context:
        found = await compare(context, [ACME], "previous", "latest")

    assert [(table.name, table.fate, table.rows_before, table.rows_after) for table in found.diff.tables] == [
        ("a.csv", Fate.CHANGED, 1, 2),
        ("gone.csv", Fate.REMOVED, 0, None),
    ]
    assert found.diff.tables[0].columns is not None
    assert (found.diff.tables[0].columns.added, found.diff.tables[0].columns.removed) == (("mail",), ("name",))
    assert [other.name for other in found.diff.others] == ["README.html"]
    assert (found.diff.unchanged, found.files_before, found.files_after) == (1, 3, 3)


async def test_tables_of_an_older_version_are_counted_from_their_files(mirror: Mirror) -> None:
    await two_days(mirror, {"a.csv": b"id\n1\n", "b.csv": b"id\n"}, {"a.csv": b"id\n1\n2\n", "b.csv": b"id\n5\n"})
    async with mirror.opened() as context:
        await forget_tables(context.manifest)
    (mirror.snapshots()[0] / "b.csv").unlink()

    async with reading(mirror) as context:
        found = await compare(context, [ACME], "previous", "latest")

    assert [(table.rows_before, table.rows_after) for table in found.diff.tables] == [(1, 2), (None, 1)]


async def test_a_snapshot_that_is_gone_from_the_disk_is_compared_by_what_the_manifest_knows(mirror: Mirror) -> None:
    await two_days(mirror, {"a.csv": b"id\n1\n"}, {"a.csv": b"id\n1\n2\n"})
    async with mirror.opened() as context:
        await forget_tables(context.manifest)
    gone = mirror.snapshots()[0]
    gone.rename(mirror.folder / "aside")

    async with reading(mirror) as context:
        found = await compare(context, [ACME], "previous", "latest")

    assert [(table.rows_before, table.rows_after) for table in found.diff.tables] == [(None, 2)]


@pytest.mark.parametrize("wanted", ["Nightly", "Night*", "{id}", "{slug}"])
async def test_a_request_is_named_by_id_slug_or_description(mirror: Mirror, wanted: str) -> None:
    nightly = mirror.world.add_request("Nightly")
    other = mirror.world.add_request("Other")
    for request in (nightly, other):
        for days_ago in (1, 0):
            add_extract(mirror, {"a.csv": b"id\n"}, request=request, days_ago=days_ago)
    await mirror.sync()
    slug = next(path.name for path in (mirror.root / "acme").iterdir() if path.name.startswith("nightly"))

    async with reading(mirror) as context:
        found = await compare(context, [ACME], "previous", "latest", request=wanted.format(id=nightly, slug=slug))

    assert found.after.request == nightly


async def test_a_pruned_snapshot_is_no_choice(mirror: Mirror) -> None:
    from dcsync.core.lifecycle import JobState

    _, newest = await two_days(mirror, {"a.csv": b"id\n1\n"}, {"a.csv": b"id\n"})
    async with mirror.opened() as context:
        await context.manifest.move(ACME, JobId(newest), JobState.PRUNED, at=mirror.clock.now())

    async with reading(mirror) as context:
        with pytest.raises(SnapshotUnclear, match="has no previous snapshot"):
            await compare(context, [ACME], "previous", "latest")


async def test_looking_needs_no_lock_and_writes_nothing(mirror: Mirror) -> None:
    await two_days(mirror, {"a.csv": b"id\n1\n"}, {"a.csv": b"id\n"})

    async with mirror.opened():
        before = {path: path.stat().st_mtime_ns for path in mirror.root.rglob("*")}
        async with reading(mirror) as context:
            await compare(context, [ACME], "previous", "latest")
        assert {path: path.stat().st_mtime_ns for path in mirror.root.rglob("*")} == before


async def test_before_the_first_run_there_is_no_manifest_to_look_at(mirror: Mirror) -> None:
    with pytest.raises(DcsyncError) as caught:
        async with reading(mirror):
            pass

    assert isinstance(caught.value, ManifestError)


@pytest.mark.parametrize("command", ["diff", "dry run"])
async def test_a_manifest_of_an_older_version_is_left_to_a_run(mirror: Mirror, command: str) -> None:
    await two_days(mirror, {"a.csv": b"id\n1\n"}, {"a.csv": b"id\n"})
    downgrade(mirror.state / "manifest.sqlite", "0003")

    async def look() -> None:
        if command == "dry run":
            await mirror.sync(dry_run=True)
        else:
            async with reading(mirror):
                pass

    with pytest.raises(ManifestError, match="older dcsync") as caught:
        await look()

    assert "dcsync sync" in caught.value.advice


async def forget_tables(manifest: Any) -> None:
    """Make the manifest one of a version that did not count."""
    import sqlalchemy as sa

    from dcsync.manifest.checksums import seal_all

    change_content(backend_of(manifest)._path, "rows = NULL, header = NULL")
    async with manifest.writing() as connection:
        await connection.execute(sa.text("UPDATE job SET summary = NULL"))
        await connection.execute(sa.text("DELETE FROM header"))
        await seal_all(connection)


async def test_a_linked_table_of_an_older_version_is_counted_when_it_is_linked(mirror: Mirror) -> None:
    add_extract(mirror, {"a.csv": b"id\n1\n"}, days_ago=1)
    await mirror.sync()
    async with mirror.opened() as context:
        await forget_tables(context.manifest)
    mirror.clock.advance(timedelta(minutes=5).total_seconds())
    add_extract(mirror, {"a.csv": b"id\n1\n", "b.csv": b"id\n"})
    await mirror.sync()

    async with mirror.opened() as context:
        newest = await context.manifest.snapshot_before(ACME, RequestId(next(iter(mirror.world.requests))), None)

    assert newest is not None
    (linked,) = [stored for stored in newest.files if stored.name == "a.csv"]
    assert linked.how == "linked"
    assert linked.table is not None
    assert linked.table.rows == 1
