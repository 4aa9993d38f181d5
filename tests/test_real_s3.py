"""The whole way against a real S3 server, with URLs signed by boto3 in both versions and awkward keys."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dcsync.core.model import JobId
from dcsync.ops.context import NullObserver
from tests.rigs.mirror import Mirror, add_extract, assert_proved_by_sums, mirroring, sidecar, tables
from tests.rigs.s3 import AWKWARD_KEYS, S3Server, Signature

MIB = 1 << 20


class Bucket:
    """The store behind the sandbox's API. `expired` URLs are handed out first, as if they had been kept too long."""

    def __init__(self, server: S3Server, signature: Signature) -> None:
        self.name = f"dc-{uuid.uuid4()}"
        self.signed: list[str] = []
        self.expired = 0
        self._server = server
        self._signature = signature
        server.create_bucket(self.name)

    def sign(self, job: str, name: str) -> str:
        self.signed.append(name)
        if self.expired:
            self.expired -= 1
            return self._server.presign(self.name, f"{job}/{name}", signature=Signature.V2, expires_s=-5)
        return self._server.presign(self.name, f"{job}/{name}", signature=self._signature)

    def upload(self, mirror: Mirror, job: str) -> None:
        for name, blob in mirror.world.extract(job).items():
            self.put(job, name, blob.read(0, blob.size))

    def put(self, job: str, name: str, body: bytes) -> None:
        self._server.put(self.name, f"{job}/{name}", body)


@asynccontextmanager
async def mirroring_s3(folder: Path, server: S3Server, signature: Signature) -> AsyncIterator[tuple[Mirror, Bucket]]:
    bucket = Bucket(server, signature)
    async with mirroring(folder, sign=bucket.sign) as mirror:
        yield mirror, bucket


@pytest.mark.parametrize("signature", list(Signature))
async def test_awkward_keys_come_byte_for_byte(tmp_path: Path, s3_server: S3Server, signature: Signature) -> None:
    async with mirroring_s3(tmp_path, s3_server, signature) as (mirror, bucket):
        files = {key: f"content of {key}\n".encode() * 50 for key in AWKWARD_KEYS}
        job = add_extract(mirror, {**files, "large.csv": bytes(range(256)) * (3 * MIB // 256), "empty.csv": b""})
        bucket.upload(mirror, job)

        outcome = await mirror.sync_one()

        assert not outcome.failed
        mirror.assert_identical(job)
        assert_proved_by_sums(mirror.snapshot_of(job))
        # One URL a file: none was refused, none had to be asked for again.
        assert sorted(bucket.signed) == sorted(mirror.world.extract(job))


@pytest.mark.parametrize("signature", list(Signature))
async def test_what_did_not_change_is_linked_on_the_server_s_304(
    tmp_path: Path, s3_server: S3Server, signature: Signature
) -> None:
    async with mirroring_s3(tmp_path, s3_server, signature) as (mirror, bucket):
        for days_ago, extra in ((1, b"old\n"), (0, b"new\n")):
            job = add_extract(mirror, {**tables(5), "changed.csv": extra}, days_ago=days_ago)
            bucket.upload(mirror, job)

        first, second = (await mirror.sync_one()).published

        assert first.transfer.fetched_bytes == sum(map(len, tables(5).values())) + 4
        assert second.transfer.fetched_bytes == 4
        how = {entry["name"]: entry["how"] for entry in sidecar(mirror.root / second.folder)["files"]}
        assert how == {**dict.fromkeys(tables(5), "linked"), "changed.csv": "fetched"}
        mirror.assert_identical(second.job)


async def test_an_expired_url_is_refused_by_the_server_and_signed_again(tmp_path: Path, s3_server: S3Server) -> None:
    async with mirroring_s3(tmp_path, s3_server, Signature.V2) as (mirror, bucket):
        job = add_extract(mirror, tables(3))
        bucket.upload(mirror, job)
        bucket.expired = 2

        outcome = await mirror.sync_one()

        assert not outcome.failed
        mirror.assert_identical(job)
        assert len(bucket.signed) == 5


class Interrupting(NullObserver):
    """Does something once, in the middle of a download."""

    def __init__(self, after: int, action: Callable[[], object]) -> None:
        self._left = after
        self._action: Callable[[], object] | None = action

    def file_advanced(self, job: JobId, name: str, size: int) -> None:
        self._left -= size
        if self._left < 0 and self._action is not None:
            action, self._action = self._action, None
            action()


@pytest.mark.parametrize("signature", list(Signature))
async def test_a_run_cut_in_the_middle_goes_on_with_range_and_if_match(
    tmp_path: Path, s3_server: S3Server, signature: Signature
) -> None:
    async with mirroring_s3(tmp_path, s3_server, signature) as (mirror, bucket):
        job = add_extract(mirror, {"large.csv": bytes(range(256)) * (24 * MIB // 256)})
        bucket.upload(mirror, job)
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(asyncio.CancelledError):
            await mirror.sync(observer=Interrupting(8 * MIB, task.cancel))
        task.uncancel()

        outcome = await mirror.sync_one()

        mirror.assert_identical(job)
        assert 0 < outcome.published[0].transfer.fetched_bytes <= 24 * MIB - 7 * MIB


async def test_a_file_that_changed_while_it_was_cut_starts_over(tmp_path: Path, s3_server: S3Server) -> None:
    async with mirroring_s3(tmp_path, s3_server, Signature.V4) as (mirror, bucket):
        old, new = b"a" * (24 * MIB), b"b" * (24 * MIB)
        job = add_extract(mirror, {"large.csv": old})
        bucket.upload(mirror, job)
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(asyncio.CancelledError):
            await mirror.sync(observer=Interrupting(8 * MIB, task.cancel))
        task.uncancel()
        bucket.put(job, "large.csv", new)

        await mirror.sync()

        assert (mirror.snapshot_of(job) / "large.csv").read_bytes() == new


async def test_a_key_that_is_gone_fails_the_job_and_shows_no_signature(tmp_path: Path, s3_server: S3Server) -> None:
    async with mirroring_s3(tmp_path, s3_server, Signature.V4) as (mirror, _):
        add_extract(mirror, tables(2))

        outcome = await mirror.sync_one()

        (failed,) = outcome.failed
        assert failed.code == "S-SERVER"
        assert "Signature" not in failed.message
        assert "http" not in failed.message
        assert mirror.visible() == []
