"""Object storage: S3's responses to a signed GET, as far as downloads need them."""

from __future__ import annotations

import asyncio
import gzip
import re
from urllib.parse import unquote

from aiohttp import web

from dcsync.sandbox.blobs import Blob
from dcsync.sandbox.breakage import break_call, hang_up
from dcsync.sandbox.faults import Fault
from dcsync.sandbox.state import State

_PIECE = 1 << 18
SENT = web.RequestKey("sent", int)
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
#: Faults that change how a normal response is sent.
_SENDING = frozenset({"cut", "short", "short-chunked", "long", "long-chunked", "slow", "gzip"})


class StorageHandlers:
    """Checks in S3's order: signature and expiry, If-Match, If-None-Match, range."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one request and log it."""
        state = self._state
        response: web.StreamResponse | None = None
        try:
            response = await self._answer(request)
            return response
        except ConnectionError:
            # The client closed the connection, which is not a failure of the sandbox.
            return hang_up(request)
        finally:
            state.log_call("storage", request, 0 if response is None else response.status, request.get(SENT, 0))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        state = self._state
        raw_path, _, raw_query = request.raw_path.partition("?")
        fault = state.faults.take("storage", raw_path)
        if request.method != "GET":
            return _xml(403, "AccessDenied", "Access Denied")
        if "Authorization" in request.headers:
            return _xml(400, "InvalidArgument", "Only one auth mechanism allowed")
        wrong = state.signer.check(raw_path, raw_query, state.world.now())
        if wrong == "SignatureDoesNotMatch":
            return _xml(403, wrong, "The request signature we calculated does not match the signature you provided.")
        if wrong == "Expired" or (fault is not None and fault.kind == "expired"):
            return _xml(403, "AccessDenied", "Request has expired")
        broken = None if fault is None else await break_call(request, fault)
        if broken is not None:
            return broken
        _, job, name = unquote(raw_path.removeprefix("/dc-extracts/")).split("/", 2)
        return await self._serve(request, state.world.extract(job)[name], fault)

    async def _serve(self, request: web.Request, blob: Blob, fault: Fault | None) -> web.StreamResponse:
        etag = self._etag(blob)
        if fault is not None and fault.kind == "etag":
            etag = fault.body.decode()
        headers = {"ETag": etag, "Accept-Ranges": "bytes", "Content-Type": "binary/octet-stream"}
        wanted, unwanted = request.headers.get("If-Match"), request.headers.get("If-None-Match")
        if wanted is not None and wanted not in {etag, "*"}:
            return _xml(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
        if unwanted is not None and unwanted in {etag, "*"}:
            return web.Response(status=304, headers={"ETag": etag})
        start, stop, status = 0, blob.size, 200
        span = request.headers.get("Range")
        honoured = self._state.options.if_range == "ignore" or request.headers.get("If-Range") in {None, etag}
        if span is not None and _is_range(span) and honoured and not (fault is not None and fault.kind == "no-range"):
            found = _span(span, blob.size)
            if found is None:
                response = _xml(416, "InvalidRange", "The requested range is not satisfiable")
                response.headers["Content-Range"] = f"bytes */{blob.size}"
                return response
            (start, stop), status = found, 206
            shown = start + 1 if fault is not None and fault.kind == "wrong-range" else start
            headers["Content-Range"] = f"bytes {shown}-{stop - 1}/{blob.size}"
        return await self._send(request, blob, start, stop, status, headers, fault)

    async def _send(
        self,
        request: web.Request,
        blob: Blob,
        start: int,
        stop: int,
        status: int,
        headers: dict[str, str],
        fault: Fault | None,
    ) -> web.StreamResponse:
        kind = fault.kind if fault is not None and fault.kind in _SENDING else None
        if kind == "gzip":
            body = gzip.compress(blob.read(start, stop))
            return web.Response(status=status, body=body, headers={**headers, "Content-Encoding": "gzip"})
        amount = fault.amount if fault is not None else 0
        length = {"short": amount, "long": stop - start + amount}.get(kind or "", stop - start)
        response = web.StreamResponse(status=status, headers=headers)
        if kind in {"short-chunked", "long-chunked"}:
            response.enable_chunked_encoding()
        else:
            response.content_length = length
        await response.prepare(request)
        end = {"cut": start + amount, "short": start + amount, "short-chunked": start + amount}.get(kind or "", stop)
        for position in range(start, min(stop, end), _PIECE):
            piece = blob.read(position, min(stop, end, position + _PIECE))
            await self._write(request, response, piece, slow=fault if kind == "slow" else None)
        if kind == "cut":
            hang_up(request)
        elif kind == "long":
            await self._write(request, response, b"x" * amount)
        elif kind == "long-chunked":
            while True:
                await self._write(request, response, b"x" * _PIECE)
        await response.write_eof()
        return response

    async def _write(
        self, request: web.Request, response: web.StreamResponse, piece: bytes, *, slow: Fault | None = None
    ) -> None:
        step = max(1, slow.amount // 10) if slow is not None else len(piece)
        for position in range(0, len(piece), step):
            part = piece[position : position + step]
            await response.write(part)
            request[SENT] = request.get(SENT, 0) + len(part)
            if slow is not None and self._state.faults.has(slow):
                await asyncio.sleep(len(part) / slow.amount)

    def _etag(self, blob: Blob) -> str:
        match self._state.options.etag:
            case "md5":
                return f'"{blob.md5}"'
            case "multipart":
                return f'"{blob.md5}-7"'
            case "opaque":
                # The ETag changes with each call, as it may in storage that encrypts again.
                self._state.etag_serial += 1
                return f'"{self._state.etag_serial:032x}"'
            case "unequal":
                # The ETag looks like an MD5 but is not one (SSE-KMS).
                return f'"{blob.md5[::-1]}"'


def _is_range(text: str) -> bool:
    """Return whether the sandbox supports a Range. It ignores all others (RFC 9110 §14.2)."""
    match = _RANGE.fullmatch(text.strip())
    if match is None or not (match[1] or match[2]):
        return False
    return not (match[1] and match[2] and int(match[1]) > int(match[2]))


def _span(text: str, size: int) -> tuple[int, int] | None:
    match = _RANGE.fullmatch(text.strip())
    assert match is not None  # noqa: S101 - `_is_range` checked it
    if not match[1]:
        length = min(int(match[2]), size)
        return (size - length, size) if length else None
    start = int(match[1])
    stop = min(int(match[2]) + 1, size) if match[2] else size
    return (start, stop) if start < stop else None


def _xml(status: int, code: str, message: str) -> web.Response:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return web.Response(status=status, text=body, content_type="application/xml")
