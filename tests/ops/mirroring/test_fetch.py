"""The bytes: what is asked of the file store, and what its odd answers lead to."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.ops.context import NullObserver
from dcsync.ops.mirroring.outcome import Wanted
from dcsync.sandbox import Fault, Synthetic
from dcsync.sandbox.refusals import REQUEST_ID
from tests.rigs.mirror import Mirror, add_extract, mirroring, sidecar, tables

MIB = 1 << 20


class InFlight(NullObserver):
    """Counts the downloads under way."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.most = 0

    def file_started(self, job: JobId, name: str, size: int) -> None:
        self.names.add(name)
        self.most = max(self.most, len(self.names))

    def file_done(self, job: JobId, name: str) -> None:
        self.names.discard(name)


class Received(NullObserver):
    """Adds up what the bars are told."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.received: dict[str, int] = {}
        self.total = 0

    def job_started(self, account: AccountName, job: JobId, label: str, *, files: int, size: int) -> None:
        self.total += size

    def file_started(self, job: JobId, name: str, size: int) -> None:
        self.sizes[name] = size

    def file_advanced(self, job: JobId, name: str, size: int) -> None:
        self.received[name] = self.received.get(name, 0) + size


async def test_the_file_store_sees_nothing_but_the_signed_url(mirror: Mirror) -> None:
    add_extract(mirror, tables(3))

    await mirror.sync()

    calls = [call for call in mirror.sandbox.calls if call.server == "storage"]
    assert len(calls) == 3
    for call in calls:
        assert call.method == "GET"
        assert call.headers.keys() == {"host", "accept-encoding"}
        assert call.headers["accept-encoding"] == "identity"


async def test_sixteen_downloads_are_in_flight_and_no_more(mirror: Mirror) -> None:
    add_extract(mirror, tables(40))
    # The store answers nobody before 16 are there: whatever the machine is busy with, they must come to that.
    gate = mirror.sandbox.faults.add(Fault(server="storage", kind="gather", amount=16, seconds=20, times=None))
    seen = InFlight()

    await mirror.sync(observer=seen)

    assert seen.most == 16
    assert gate.most_gathered == 16


async def test_the_bars_are_told_true_totals_also_when_a_download_breaks(mirror: Mirror) -> None:
    files = tables(4, size=3 * MIB)
    add_extract(mirror, files)
    mirror.sandbox.faults.add(Fault(server="storage", kind="cut", amount=2 * MIB, match="table_001"))
    mirror.sandbox.faults.add(Fault(server="storage", kind="etag", body=b'W/"weak"', match="table_002"))
    seen = Received()

    await mirror.sync(observer=seen)

    assert seen.total == sum(map(len, files.values()))
    assert seen.sizes == {name: len(body) for name, body in files.items()}
    assert seen.received == seen.sizes


async def test_a_cut_download_goes_on_at_the_byte_it_had_with_a_new_url(mirror: Mirror) -> None:
    job = add_extract(mirror, {"forms_forms.csv": Synthetic(5 * MIB + 17)})
    mirror.sandbox.faults.add(Fault(server="storage", kind="cut", amount=3 * MIB))

    outcome = await mirror.sync_one()

    mirror.assert_identical(job)
    first, second = [call for call in mirror.sandbox.calls if call.server == "storage"]
    assert second.headers["range"] == f"bytes={first.body_bytes_sent}-"
    assert second.headers["if-match"].startswith('"')
    assert mirror.fetched_bytes() == 5 * MIB + 17
    assert outcome.published[0].transfer.calls == 1 + 2
    assert first.query["Signature"] != second.query["Signature"] or first.query["Expires"] != second.query["Expires"]


@pytest.mark.parametrize("kind", ["no-range", "wrong-range"])
async def test_a_server_that_cannot_resume_makes_the_file_start_over(
    mirror: Mirror, kind: Literal["no-range", "wrong-range"]
) -> None:
    job = add_extract(mirror, {"forms_forms.csv": Synthetic(4 * MIB)})
    mirror.sandbox.faults.add(Fault(server="storage", kind="cut", amount=2 * MIB))
    mirror.sandbox.faults.add(Fault(server="storage", kind=kind))

    await mirror.sync()

    mirror.assert_identical(job)


async def test_a_file_that_changes_while_it_is_fetched_is_never_a_mix(mirror: Mirror) -> None:
    job = add_extract(mirror, {"forms_forms.csv": b"a" * (3 * MIB)})
    mirror.sandbox.faults.add(Fault(server="storage", kind="cut", amount=2 * MIB))

    class Replacing(NullObserver):
        def file_advanced(self, job: JobId, name: str, size: int) -> None:
            mirror.world.replace_file(job, name, b"b" * (3 * MIB))

    await mirror.sync(observer=Replacing())

    assert (mirror.snapshot_of(job) / "forms_forms.csv").read_bytes() == b"b" * (3 * MIB)


async def test_an_expired_url_is_signed_again_and_no_token_is_spent(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    mirror.sandbox.faults.add(Fault(server="storage", kind="expired", times=3))

    outcome = await mirror.sync_one()

    mirror.assert_identical(job)
    assert outcome.published[0].transfer.calls == 1 + 4
    assert mirror.sandbox.count("token") == 0
    assert sum(mirror.clock.slept) == 0


async def test_a_url_that_is_refused_for_ever_is_not_signed_for_ever(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    mirror.sandbox.faults.add(Fault(server="storage", kind="expired", times=None))

    outcome = await mirror.sync_one()

    assert [failed.code for failed in outcome.failed] == ["S-REFUSED"]
    assert mirror.sandbox.count("storage") == 9


@pytest.mark.parametrize(
    ("kind", "amount"), [("short", 500), ("short-chunked", 500), ("long", 1), ("long-chunked", 0), ("gzip", 0)]
)
async def test_a_body_of_another_length_than_listed_is_never_published(
    mirror: Mirror, kind: Literal["short", "short-chunked", "long", "long-chunked", "gzip"], amount: int
) -> None:
    add_extract(mirror, tables(3))
    mirror.sandbox.faults.add(Fault(server="storage", kind=kind, amount=amount, times=None, match="table_001"))

    outcome = await mirror.sync_one()

    (failed,) = outcome.failed
    assert failed.code == "F-SIZE"
    assert "admin_table_001.csv" in failed.message
    assert failed.hint
    assert mirror.visible() == []
    # The endless one was cut, not swallowed.
    assert mirror.fetched_bytes() < 64 * MIB


async def test_a_body_without_content_length_is_taken_when_it_is_whole(mirror: Mirror) -> None:
    files = tables(2)
    job = add_extract(mirror, files)
    for name, body in files.items():
        mirror.sandbox.faults.add(Fault(server="storage", kind="short-chunked", amount=len(body), match=name))

    await mirror.sync()

    mirror.assert_identical(job)


async def test_wrong_content_is_quarantined_after_three_runs_and_the_others_go_on(mirror: Mirror) -> None:
    bad = add_extract(mirror, tables(2), days_ago=2)
    good = add_extract(mirror, tables(2, seed=1), days_ago=1)
    mirror.sandbox.faults.add(Fault(server="storage", kind="short", amount=1, times=None, match=f"{bad}.*table_001"))

    states = []
    for _ in range(3):
        outcome = await mirror.sync_one()
        states.append(outcome.failed[0].state)
        mirror.clock.advance(7 * 3600)
    calls_before = len(mirror.sandbox.calls)
    outcome = await mirror.sync_one()

    assert states == [JobState.FAILED, JobState.FAILED, JobState.QUARANTINED]
    assert mirror.snapshots() == [mirror.snapshot_of(good)]
    assert len(mirror.sandbox.calls) - calls_before == 1
    assert not outcome.failed


async def test_a_quarantined_job_that_is_asked_for_by_name_is_tried_again(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    mirror.sandbox.faults.add(Fault(server="storage", kind="short", amount=1, times=9))
    for _ in range(3):
        await mirror.sync()
        mirror.clock.advance(7 * 3600)
    mirror.sandbox.faults.clear()

    await mirror.sync(wanted=Wanted(jobs=(job,)))

    mirror.assert_identical(job)


async def test_a_transfer_that_crawls_is_given_up_and_taken_up_again(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1, size=4000))
    mirror.sandbox.faults.add(Fault(server="storage", kind="slow", amount=2000))

    class Watching(NullObserver):
        def file_advanced(self, job: JobId, name: str, size: int) -> None:
            # What a byte now and then looks like over minutes.
            mirror.clock.advance(61)

    await mirror.sync(observer=Watching())

    mirror.assert_identical(job)
    assert mirror.sandbox.count("storage") > 1


async def test_the_bandwidth_limit_holds_downloads_back(mirror: Mirror) -> None:
    add_extract(mirror, {"a.csv": Synthetic(3 * MIB), "b.csv": Synthetic(MIB, seed=1)})
    mirror.config["transfer"] = {"bandwidth": "1 MiB/s"}

    await mirror.sync()

    # 4 MiB at 1 MiB/s; both wait at once, each for its own and the other's bytes.
    assert 3.0 <= mirror.clock.monotonic() - 1000.0 <= 8.0


async def test_what_did_not_change_comes_by_304_and_is_the_same_inode(mirror: Mirror) -> None:
    yesterday = add_extract(mirror, {**tables(3), "changed.csv": b"old\n"}, days_ago=1)
    await mirror.sync()
    fetched_before = mirror.fetched_bytes()
    today = add_extract(mirror, {**tables(3), "changed.csv": b"new\n", "added.csv": b"here\n"})

    outcome = await mirror.sync_one()

    mirror.assert_identical(today)
    before, after = mirror.snapshot_of(yesterday), mirror.snapshot_of(today)
    for name in tables(3):
        assert (before / name).stat().st_ino == (after / name).stat().st_ino
    assert mirror.fetched_bytes() - fetched_before == len("new\nhere\n")
    assert outcome.published[0].transfer.linked_bytes == sum(map(len, tables(3).values()))
    how = {entry["name"]: entry["how"] for entry in sidecar(after)["files"]}
    assert how == {**dict.fromkeys(tables(3), "linked"), "changed.csv": "fetched", "added.csv": "fetched"}
    assert sidecar(after)["changes"] == {
        "against": yesterday,
        "added": ["added.csv"],
        "removed": [],
        "changed": ["changed.csv"],
        "unchanged": 3,
        "columns": [{"table": "changed.csv", "added": ["new"], "removed": ["old"], "reordered": False}],
    }


async def test_a_file_of_the_snapshot_before_that_was_edited_is_not_linked(mirror: Mirror) -> None:
    yesterday = add_extract(mirror, tables(2), days_ago=1)
    await mirror.sync()
    edited = mirror.snapshot_of(yesterday) / "admin_table_000.csv"
    edited.chmod(0o644)
    edited.write_bytes(b"x" * edited.stat().st_size)
    today = add_extract(mirror, tables(2))

    await mirror.sync()

    mirror.assert_identical(today)


async def test_a_store_whose_etags_never_match_is_not_asked_conditionally_for_ever(tmp_path: Path) -> None:
    async with mirroring(tmp_path, etag="opaque") as mirror:
        jobs = []
        for days_ago in (3, 2, 1):
            jobs.append(add_extract(mirror, tables(4), days_ago=days_ago))
            await mirror.sync()

        asked = ["if-none-match" in call.headers for call in mirror.sandbox.calls if call.server == "storage"]
        assert asked == [False] * 4 + [True] * 4 + [False] * 4
        # Equal content is still one copy on the disk.
        inodes = {(mirror.snapshot_of(job) / "admin_table_000.csv").stat().st_ino for job in jobs}
        assert len(inodes) == 1


async def test_content_that_is_not_its_etag_s_md5_is_refused_once_etags_were_seen_to_be_md5(mirror: Mirror) -> None:
    add_extract(mirror, tables(1), days_ago=1)
    await mirror.sync()
    job = add_extract(mirror, {"forms_forms.csv": b"right\n"})
    lie = b'"' + b"0" * 32 + b'"'
    mirror.sandbox.faults.add(Fault(server="storage", kind="etag", body=lie, times=1))

    await mirror.sync()

    # Fetched a second time, and then it was right.
    assert mirror.sandbox.count("storage") == 1 + 2
    mirror.assert_identical(job)


@pytest.mark.parametrize("etag", ["multipart", "unequal", "opaque"])
async def test_etags_that_are_no_md5_stop_nothing(tmp_path: Path, etag: str) -> None:
    async with mirroring(tmp_path, etag=etag) as mirror:
        job = add_extract(mirror, tables(3))

        outcome = await mirror.sync_one()

        assert not outcome.failed
        mirror.assert_identical(job)


async def test_every_cut_of_a_small_body_gives_the_same_file(mirror: Mirror) -> None:
    """docs/project/faults.md A19, in steps."""
    body = tables(1, size=4096)["admin_table_000.csv"]
    jobs = []
    for index, amount in enumerate(range(0, 4096, 256)):
        jobs.append(add_extract(mirror, {f"cut_{index}.csv": body}, days_ago=20 - index))
        mirror.sandbox.faults.add(Fault(server="storage", kind="cut", amount=amount, match=f"cut_{index}.csv"))

    await mirror.sync()

    for job in jobs:
        mirror.assert_identical(job)


async def test_a_store_that_fails_for_a_while_is_asked_again_with_back_off(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(1))
    mirror.sandbox.faults.add(Fault(server="storage", kind="reset", times=2))
    mirror.sandbox.faults.add(Fault(server="storage", kind="status", status=503, times=2))

    await mirror.sync()

    mirror.assert_identical(job)
    # aiohttp itself asks once more after a reset, so three failures are seen, and each is waited for.
    assert len([seconds for seconds in mirror.clock.slept if seconds > 0]) == 3


async def test_a_url_to_a_host_that_is_not_allowed_is_not_asked(mirror: Mirror) -> None:
    add_extract(mirror, tables(1))
    body = b'{"name": "x", "size": 1, "signedUrl": "https://169.254.169.254/latest/meta-data?X-Amz-Signature=secret"}'
    mirror.sandbox.faults.add(Fault(server="api", kind="json", body=body, match="/data/"))

    outcome = await mirror.sync_one()

    (failed,) = outcome.failed
    assert failed.code == "S-UNSAFE"
    assert "169.254.169.254" in failed.message
    assert "secret" not in failed.message
    assert mirror.sandbox.count("storage") == 0


async def test_a_refusal_of_the_storage_shows_its_reason_and_no_part_of_the_url(tmp_path: Path) -> None:
    async with mirroring(tmp_path) as mirror:
        add_extract(mirror, tables(1))
        refusal = Fault(server="storage", kind="refuse-xml", status=403, body=b"the bucket is closed", times=None)
        mirror.sandbox.faults.add(refusal)

        outcome = await mirror.sync_one()

    (failed,) = outcome.failed
    assert failed.code == "S-REFUSED"
    assert f"SANDBOX-42: the bucket is closed (request ID {REQUEST_ID})" in failed.message
    assert "sandbox-signature" not in failed.message
