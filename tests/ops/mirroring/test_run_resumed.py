"""A run that was cut short, and what the next one makes of its staging."""

from __future__ import annotations

import asyncio

import pytest

from dcsync.core.model import JobId
from dcsync.ops.context import NullObserver
from dcsync.sandbox import Fault, Synthetic
from tests.rigs.mirror import (
    ARCHIVE,
    Mirror,
    add_extract,
    assert_proved_by_sums,
    sidecar,
    tables,
)
from tests.rigs.zips import make_zip

MIB = 1 << 20


class Cancelling(NullObserver):
    """Cancels the test's own task, as a signal does, once so much has come."""

    def __init__(self, *, after_files: int | None = None, after_bytes: int | None = None) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.done = self.received = 0
        self._after_files, self._after_bytes = after_files, after_bytes

    def file_done(self, job: JobId, name: str) -> None:
        self.done += 1
        if self.done == self._after_files:
            self.task.cancel()

    def file_advanced(self, job: JobId, name: str, size: int) -> None:
        self.received += size
        if self._after_bytes is not None and self.received > self._after_bytes:
            self.task.cancel()


async def test_a_cancelled_run_keeps_what_is_whole_and_the_next_one_fetches_the_rest(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(30))
    mirror.config["transfer"] = {"concurrency": 2}

    cancelling = Cancelling(after_files=10)
    with pytest.raises(asyncio.CancelledError):
        await mirror.sync(observer=cancelling)
    cancelling.task.uncancel()
    assert mirror.visible() == []
    signed_before = mirror.sandbox.count("api", path_contains="/data/")

    await mirror.sync()

    mirror.assert_identical(job)
    signed_after = mirror.sandbox.count("api", path_contains="/data/") - signed_before
    assert signed_after <= 30 - cancelling.done


async def test_a_file_that_was_half_here_goes_on_in_the_next_run(mirror: Mirror) -> None:
    job = add_extract(mirror, {"forms_forms.csv": Synthetic(6 * MIB)})

    cancelling = Cancelling(after_bytes=4 * MIB)
    with pytest.raises(asyncio.CancelledError):
        await mirror.sync(observer=cancelling)
    cancelling.task.uncancel()

    await mirror.sync()

    mirror.assert_identical(job)
    resumed = [call.headers["range"] for call in mirror.sandbox.calls if "range" in call.headers]
    assert len(resumed) == 1
    assert int(resumed[0].removeprefix("bytes=").rstrip("-")) >= 3 * MIB


async def test_a_damaged_file_in_the_staging_is_not_believed(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(3))
    mirror.sandbox.faults.add(Fault(server="storage", kind="expired", match="table_002", times=9))
    await mirror.sync()
    (staged,) = (mirror.root / ".dcsync/staging").rglob("admin_table_000.csv")
    staged.chmod(0o644)
    staged.write_bytes(b"x" * staged.stat().st_size)
    mirror.clock.advance(7 * 3600)

    await mirror.sync()

    mirror.assert_identical(job)


async def test_an_unfinished_file_that_was_linked_after_all_is_not_published(mirror: Mirror) -> None:
    files = {f"t{n}.csv": b"%d," % n * 3000 for n in range(4)} | {"large.csv": b"yesterday" * MIB}
    add_extract(mirror, files, days_ago=1, with_archive=True)
    await mirror.sync()
    mirror.config["mirror"] = {"strategy": "files"}
    job = add_extract(mirror, {**files, "large.csv": b"different" * MIB}, with_archive=True)
    cancelling = Cancelling(after_bytes=4 * MIB)
    with pytest.raises(asyncio.CancelledError):
        await mirror.sync(observer=cancelling)
    cancelling.task.uncancel()
    assert list((mirror.root / ".dcsync/staging").rglob("large.csv.part"))
    mirror.world.replace_file(job, "large.csv", files["large.csv"])
    mirror.world.replace_file(job, ARCHIVE, make_zip(files))
    mirror.config["mirror"] = {"strategy": "zip"}

    await mirror.sync()

    mirror.assert_identical(job)
    hows = {entry["name"]: entry["how"] for entry in sidecar(mirror.snapshot_of(job))["files"]}
    assert hows["large.csv"] == "linked"


async def test_a_member_that_no_later_plan_wants_is_not_published(mirror: Mirror) -> None:
    files = {f"t{n}.csv": b"%d," % n * 3000 for n in range(5)}
    job = add_extract(mirror, {**files, "extra.csv": b"not in the archive", ARCHIVE: make_zip({**files, "s/a": b"a"})})
    mirror.sandbox.faults.add(Fault(server="storage", kind="status", match=r"extra\.csv", times=None))
    assert (await mirror.sync_one()).failed
    assert list((mirror.root / ".dcsync/staging").rglob("s%*a"))
    mirror.sandbox.faults.clear()
    # Without the archive nothing says what it is.
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match=ARCHIVE, times=None))
    mirror.clock.advance(7 * 3600)

    await mirror.sync()

    mirror.assert_identical(job)
    assert not list(mirror.snapshot_of(job).rglob("*~*"))
    assert_proved_by_sums(mirror.snapshot_of(job))


async def test_what_the_configuration_excludes_by_now_is_not_published(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(3))
    mirror.sandbox.faults.add(Fault(server="storage", kind="status", match="table_002", times=None))
    assert (await mirror.sync_one()).failed
    mirror.sandbox.faults.clear()
    mirror.config["account"] = [{"name": "acme", "id": mirror.world.hub_id, "exclude": ["*_000.csv"]}]
    mirror.clock.advance(7 * 3600)

    await mirror.sync()

    snapshot = mirror.snapshot_of(job)
    names = {"admin_table_001.csv", "admin_table_002.csv", "SHA256SUMS", "_dcsync.json"}
    assert {path.name for path in snapshot.iterdir()} == names
    assert_proved_by_sums(snapshot)
