"""The sandbox's storage answers a signed GET like S3, and applies scripted faults."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from yarl import URL

from dcsync.sandbox import Fault
from tests.sandbox.conftest import Answer, Remote, serving

NAME = "admin_users.csv"
BODY = b"".join(hashlib.sha256(bytes([index])).digest() for index in range(32))
ETAG = f'"{hashlib.md5(BODY, usedforsecurity=False).hexdigest()}"'


def add_file(remote: Remote, name: str = NAME, body: bytes = BODY) -> str:
    world = remote.world
    return world.add_job(world.add_request("r"), files={name: body}, with_archive=False)


async def fetch(remote: Remote, fault: Fault | None = None, /, *, method: str = "GET", **headers: str) -> Answer:
    """Sign the URL of a new file and get it, with a fault if one is given."""
    url = await remote.sign(add_file(remote), NAME)
    if fault is not None:
        remote.sandbox.faults.add(fault)
    return await remote.get(url, method=method, **headers)


def code_of(answer: Answer) -> str:
    """Return S3's error code from its XML."""
    assert answer.headers["Content-Type"].startswith("application/xml")
    return answer.body.decode().partition("<Code>")[2].partition("</Code>")[0]


# --- whole files ------------------------------------------------------------------------------------------------------


async def test_a_signed_url_returns_the_whole_file_with_its_md5(remote: Remote) -> None:
    answer = await fetch(remote)

    assert (answer.status, answer.body) == (200, BODY)
    assert answer.headers["ETag"] == ETAG
    assert answer.headers["Content-Length"] == str(len(BODY))
    assert answer.headers["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize("name", ["a b+c%20&d=é?#~.csv", "ключ.csv", "a/b.csv", "%2e%2e.csv", "x;y'z(1)*!.csv"])
async def test_a_name_with_odd_characters_is_served_under_the_url_as_it_was_given(remote: Remote, name: str) -> None:
    url = await remote.sign(add_file(remote, name), name)

    assert (await remote.get(url)).body == BODY


async def test_a_url_that_the_client_rewrites_is_refused(remote: Remote) -> None:
    url = await remote.sign(add_file(remote, "a~b.csv"), "a~b.csv")

    async with remote.session.get(URL(url)) as response:
        assert response.status == 403


@pytest.mark.parametrize(
    ("option", "expected"), [("multipart", f'{ETAG[:-1]}-7"'), ("unequal", f'"{ETAG[-2:0:-1]}"'), ("md5", ETAG)]
)
async def test_an_etag_may_differ_from_the_md5(option: str, expected: str) -> None:
    async with serving(etag=option) as remote:
        assert (await fetch(remote)).headers["ETag"] == expected


async def test_an_opaque_etag_changes_with_each_call() -> None:
    async with serving(etag="opaque") as remote:
        url = await remote.sign(add_file(remote), NAME)

        first, second = await remote.get(url), await remote.get(url)

        assert first.headers["ETag"] != second.headers["ETag"]
        assert (await remote.get(url, If_Match=first.headers["ETag"])).status == 412


# --- signature and expiry ---------------------------------------------------------------------------------------------


async def test_a_url_works_repeatedly_for_sixty_seconds(remote: Remote) -> None:
    url = await remote.sign(add_file(remote), NAME)
    remote.clock.advance(60)
    in_time = [(await remote.get(url)).status for _ in range(2)]
    remote.clock.advance(0.001)
    late = await remote.get(url)

    assert in_time == [200, 200]
    assert (late.status, code_of(late)) == (403, "AccessDenied")
    assert b"Request has expired" in late.body


@pytest.mark.parametrize(
    "tamper",
    [
        lambda url: url.replace(NAME, "other.csv"),
        lambda url: url.replace("admin_users", "admin%5Fusers"),
        lambda url: url.replace("/dc-extracts/", "/dc-extracts//"),
        lambda url: url.replace("Expires=1", "Expires=2"),
        lambda url: url.replace("x-amz-security-token=", "x-amz-security-token=x"),
        lambda url: url[: url.index("Signature=")] + url[url.index("&x-amz") + 1 :],
        lambda url: url.partition("?")[0],
        lambda url: url.replace("%3D", "=", 1),
        lambda url: url + "&Signature=x",
    ],
)
async def test_a_changed_url_is_refused(remote: Remote, tamper: Callable[[str], str]) -> None:
    url = await remote.sign(add_file(remote), NAME)
    assert tamper(url) != url

    answer = await remote.get(tamper(url))

    assert (answer.status, code_of(answer)) == (403, "SignatureDoesNotMatch")
    assert (await remote.get(url)).status == 200


async def test_a_url_of_another_sandbox_is_refused(remote: Remote) -> None:
    async with serving() as other:
        url = await other.sign(add_file(other), NAME)
        moved = url.replace(other.sandbox.storage_url, remote.sandbox.storage_url)

        assert code_of(await remote.get(moved)) == "SignatureDoesNotMatch"


async def test_an_additional_authorization_header_is_400(remote: Remote) -> None:
    answer = await fetch(remote, Authorization=f"Bearer {remote.token}")

    assert (answer.status, code_of(answer)) == (400, "InvalidArgument")


@pytest.mark.parametrize("method", ["HEAD", "PUT", "POST", "DELETE"])
async def test_anything_but_get_is_refused(remote: Remote, method: str) -> None:
    assert (await fetch(remote, method=method)).status == 403


# --- ranges and conditions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-", 100, 1024),
        ("bytes=100-199", 100, 200),
        ("bytes=1000-9999", 1000, 1024),
        ("bytes=-24", 1000, 1024),
        ("bytes=-9999", 0, 1024),
        ("bytes=1023-", 1023, 1024),
    ],
)
async def test_a_range_is_206_with_just_these_bytes(remote: Remote, asked: str, start: int, stop: int) -> None:
    answer = await fetch(remote, Range=asked)

    assert (answer.status, answer.body) == (206, BODY[start:stop])
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/1024"
    assert answer.headers["ETag"] == ETAG


@pytest.mark.parametrize("asked", ["bytes=1024-", "bytes=5000-6000", "bytes=-0"])
async def test_a_range_beyond_the_end_is_416_with_the_size(remote: Remote, asked: str) -> None:
    answer = await fetch(remote, Range=asked)

    assert (answer.status, code_of(answer)) == (416, "InvalidRange")
    assert answer.headers["Content-Range"] == "bytes */1024"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If_Match": ETAG}, 200),
        ({"If_Match": "*"}, 200),
        ({"If_Match": '"other"'}, 412),
        ({"If_Match": ETAG, "Range": "bytes=5-"}, 206),
        ({"If_Match": '"other"', "Range": "bytes=5-"}, 412),
        ({"If_Match": '"other"', "If_None_Match": ETAG}, 412),
        ({"If_None_Match": ETAG}, 304),
        ({"If_None_Match": "*"}, 304),
        ({"If_None_Match": '"other"'}, 200),
    ],
)
async def test_conditions_are_checked_before_the_range(remote: Remote, headers: dict[str, str], status: int) -> None:
    answer = await fetch(remote, None, **headers)

    assert answer.status == status
    assert (answer.body == b"") == (status == 304)
    assert (status == 412) == (b"PreconditionFailed" in answer.body)


@pytest.mark.parametrize(
    ("option", "validator", "status"),
    [("ignore", '"other"', 206), ("ignore", ETAG, 206), ("honour", '"other"', 200), ("honour", ETAG, 206)],
)
async def test_if_range_is_ignored_unless_it_is_to_be_honoured(option: str, validator: str, status: int) -> None:
    async with serving(if_range=option) as remote:
        answer = await fetch(remote, Range="bytes=1000-", If_Range=validator)

        assert answer.status == status
        assert answer.body == (BODY if status == 200 else BODY[1000:])


# --- faults -----------------------------------------------------------------------------------------------------------


def storage_fault(kind: Any, **values: Any) -> Fault:
    return Fault(server="storage", kind=kind, **values)


RANGE = {"Range": "bytes=1000-"}
BUSY = storage_fault("status", status=503, body=b"busy", headers={"Retry-After": "1"})


@pytest.mark.parametrize(
    ("fault", "asked", "status", "body", "header"),
    [
        (storage_fault("short", amount=100), {}, 200, BODY[:100], ("Content-Length", "100")),
        (storage_fault("short", amount=7), RANGE, 206, BODY[1000:1007], ("Content-Range", "bytes 1000-1023/1024")),
        (storage_fault("long", amount=5), {}, 200, BODY + b"xxxxx", ("Content-Length", "1029")),
        (storage_fault("no-range"), RANGE, 200, BODY, ("Content-Length", "1024")),
        (storage_fault("wrong-range"), RANGE, 206, BODY[1000:], ("Content-Range", "bytes 1001-1023/1024")),
        (storage_fault("etag", body=b'"other"'), {}, 200, BODY, ("ETag", '"other"')),
        (storage_fault("slow", amount=1 << 20), RANGE, 206, BODY[1000:], ("Content-Length", "24")),
        (storage_fault("delay"), {}, 200, BODY, ("ETag", ETAG)),
        (BUSY, {}, 503, b"busy", ("Retry-After", "1")),
    ],
)
async def test_a_response_can_have_one_wrong_property(
    remote: Remote, fault: Fault, asked: dict[str, str], status: int, body: bytes, header: tuple[str, str]
) -> None:
    # A copy, because a fault counts down.
    answer = await fetch(remote, replace(fault), **asked)

    assert (answer.status, answer.body) == (status, body)
    assert answer.headers[header[0]] == header[1]


async def test_cut_sends_normal_headers_and_some_bytes_and_closes(remote: Remote) -> None:
    url = await remote.sign(add_file(remote), NAME)
    remote.sandbox.faults.add(storage_fault("cut", amount=100))
    received = b""

    with pytest.raises(aiohttp.ClientPayloadError):  # noqa: PT012 - the headers come, the end does not
        async with remote.session.get(URL(url, encoded=True)) as response:
            assert response.headers["Content-Length"] == "1024"
            async for piece in response.content.iter_any():
                received += piece

    assert received == BODY[:100]
    assert (await remote.get(url)).body == BODY


async def test_short_chunked_says_no_length(remote: Remote) -> None:
    answer = await fetch(remote, storage_fault("short-chunked", amount=100))

    assert (answer.status, answer.body) == (200, BODY[:100])
    assert "Content-Length" not in answer.headers


async def test_long_chunked_continues_until_the_client_closes(remote: Remote) -> None:
    url = await remote.sign(add_file(remote), NAME)
    remote.sandbox.faults.add(storage_fault("long-chunked"))

    async with remote.session.get(URL(url, encoded=True)) as response:
        first = await response.content.readexactly(1 << 20)
        response.close()

    assert first == BODY + b"x" * ((1 << 20) - len(BODY))


@pytest.mark.parametrize("kind", ["reset", "hang"])
async def test_reset_and_hang_send_no_response(remote: Remote, kind: str) -> None:
    with pytest.raises(aiohttp.ClientConnectionError):
        await fetch(remote, storage_fault(kind, times=None))


async def test_expired_looks_like_an_expired_url(remote: Remote) -> None:
    answer = await fetch(remote, storage_fault("expired"))

    assert (answer.status, code_of(answer)) == (403, "AccessDenied")
    assert b"Request has expired" in answer.body


async def test_gzip_encodes_and_declares_it(remote: Remote) -> None:
    answer = await fetch(remote, storage_fault("gzip"))

    assert answer.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(answer.body) == BODY
    assert zlib.crc32(answer.body) != zlib.crc32(BODY)
