"""The S3 server of the tests enforces what Amazon enforces."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
import time_machine
from aiohttp import ClientSession
from yarl import URL

from tests.rigs import s3
from tests.rigs.s3 import AWKWARD_KEYS, S3Server, Signature

BODY: Final = bytes(range(256)) * 512
both_signatures = pytest.mark.parametrize("signature", list(Signature))


async def get(url: str, headers: dict[str, str] | None = None) -> tuple[int, bytes, dict[str, str]]:
    """GET a signed URL exactly as it was given."""
    async with ClientSession() as session, session.get(URL(url, encoded=True), headers=headers) as response:
        return response.status, await response.read(), dict(response.headers)


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> str:
    s3_server.create_bucket("rigs")
    return "rigs"


@both_signatures
@pytest.mark.parametrize("key", AWKWARD_KEYS)
async def test_a_good_url_serves_the_bytes(s3_server: S3Server, bucket: str, key: str, signature: Signature) -> None:
    s3_server.put(bucket, key, BODY + key.encode())

    status, body, _ = await get(s3_server.presign(bucket, key, signature=signature))

    assert (status, body) == (200, BODY + key.encode())


@both_signatures
async def test_an_expired_url_is_refused(s3_server: S3Server, bucket: str, signature: Signature) -> None:
    s3_server.put(bucket, "expired.csv", BODY)
    with time_machine.travel(datetime.now(UTC) - timedelta(minutes=2), tick=False):
        url = s3_server.presign(bucket, "expired.csv", signature=signature, expires_s=60)

    status, body, _ = await get(url)

    assert status == 403
    assert BODY not in body


@both_signatures
async def test_a_url_is_refused_as_soon_as_it_expires(s3_server: S3Server, bucket: str, signature: Signature) -> None:
    s3_server.put(bucket, "soon.csv", BODY)
    with time_machine.travel(datetime.now(UTC) - timedelta(seconds=5), tick=False):
        young = s3_server.presign(bucket, "soon.csv", signature=signature, expires_s=60)
    with time_machine.travel(datetime.now(UTC) - timedelta(seconds=62), tick=False):
        old = s3_server.presign(bucket, "soon.csv", signature=signature, expires_s=60)

    assert [(await get(young))[0], (await get(old))[0]] == [200, 403]


@both_signatures
async def test_a_tampered_signature_is_refused(s3_server: S3Server, bucket: str, signature: Signature) -> None:
    s3_server.put(bucket, "tampered.csv", BODY)
    url = s3_server.presign(bucket, "tampered.csv", signature=signature)
    start = url.index("Signature=") + len("Signature=")
    forged = url[:start] + ("a" if url[start] != "a" else "b") + url[start + 1 :]

    status, body, _ = await get(forged)

    assert status == 403
    assert BODY not in body


@both_signatures
async def test_a_url_opens_no_other_key(s3_server: S3Server, bucket: str, signature: Signature) -> None:
    s3_server.put(bucket, "mine.csv", b"mine")
    s3_server.put(bucket, "hers.csv", b"hers")
    url = s3_server.presign(bucket, "mine.csv", signature=signature)

    status, _, _ = await get(url.replace("mine.csv", "hers.csv"))

    assert status == 403


async def test_a_plain_url_is_refused(s3_server: S3Server, bucket: str) -> None:
    s3_server.put(bucket, "plain.csv", BODY)

    assert (await get(f"{s3_server.endpoint}/{bucket}/plain.csv"))[0] == 403


@both_signatures
async def test_a_range_with_the_right_etag_resumes(s3_server: S3Server, bucket: str, signature: Signature) -> None:
    etag = s3_server.put(bucket, "ranged.csv", BODY)
    url = s3_server.presign(bucket, "ranged.csv", signature=signature)

    status, body, headers = await get(url, {"Range": "bytes=1000-", "If-Match": etag})

    assert (status, body) == (206, BODY[1000:])
    assert headers["Content-Range"] == f"bytes 1000-{len(BODY) - 1}/{len(BODY)}"


@both_signatures
async def test_a_range_with_a_wrong_etag_is_refused(s3_server: S3Server, bucket: str, signature: Signature) -> None:
    s3_server.put(bucket, "ranged.csv", BODY)
    url = s3_server.presign(bucket, "ranged.csv", signature=signature)

    status, _, _ = await get(url, {"Range": "bytes=1000-", "If-Match": '"00000000000000000000000000000000"'})

    assert status == 412


@both_signatures
async def test_an_unchanged_object_is_not_sent_again(s3_server: S3Server, bucket: str, signature: Signature) -> None:
    etag = s3_server.put(bucket, "same.csv", BODY)
    url = s3_server.presign(bucket, "same.csv", signature=signature)

    status, body, _ = await get(url, {"If-None-Match": etag})

    assert (status, body) == (304, b"")


@both_signatures
async def test_this_server_lets_a_stray_authorization_header_pass(
    s3_server: S3Server, bucket: str, signature: Signature
) -> None:
    # Others answer 400 to two ways of signing at once. That dcsync sends none has to be looked at elsewhere.
    s3_server.put(bucket, "bearer.csv", BODY)
    url = s3_server.presign(bucket, "bearer.csv", signature=signature)

    status, body, _ = await get(url, {"Authorization": "Bearer made-up"})

    assert (status, body) == (200, BODY)


def test_a_second_server_lives_beside_the_first_and_ends_with_its_block(s3_server: S3Server, tmp_path: Path) -> None:
    with s3.serving(tmp_path) as second:
        assert second.endpoint != s3_server.endpoint
        os.kill(second.pid, 0)

    with pytest.raises(ProcessLookupError):
        os.kill(second.pid, 0)
