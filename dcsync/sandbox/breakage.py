"""The effects of scripted faults on a call, before its normal response."""

from __future__ import annotations

import asyncio

from aiohttp import web

from dcsync.sandbox.faults import Fault
from dcsync.sandbox.refusals import refusal

#: The fault of a call, for handlers in which it changes how the normal response is sent.
FAULT = web.RequestKey("fault", Fault)
_REFUSED = 400


def hang_up(request: web.Request) -> web.Response:
    """Close the connection. The returned response reaches no client."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


async def break_call(request: web.Request, fault: Fault) -> web.StreamResponse | None:
    """Apply a fault. Returns its response, or None if the normal response follows."""
    match fault.kind:
        case "status":
            return web.Response(status=fault.status, body=fault.body, headers=fault.headers)
        case "json":
            return web.Response(body=fault.body, headers={"Content-Type": "application/json", **fault.headers})
        case "endless":
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            await response.prepare(request)
            while True:
                await response.write(b'[{"name": "x"},' * 8192)
        case "hang":
            await asyncio.sleep(fault.seconds)
            return hang_up(request)
        case "reset":
            return hang_up(request)
        case "delay":
            await asyncio.sleep(fault.seconds)
        case "gather":
            await _gather(fault)
        case _:
            return refusal(fault)
    return None


async def break_answer(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Apply a fault to the response of a call that has done its work."""
    fault = request.get(FAULT)
    if fault is None or not isinstance(response, web.Response) or response.status >= _REFUSED:
        return response
    match fault.kind:
        case "lose-after-commit":
            return hang_up(request)
        case "wait-after-commit":
            await asyncio.sleep(fault.seconds)
        case "garble-after-commit":
            whole = response.body if isinstance(response.body, bytes) else b""
            return web.Response(status=response.status, body=whole[: len(whole) // 2], content_type="application/json")
        case "fail-after-commit":
            text = "<html><h1>Bad gateway</h1></html>"
            return web.Response(status=fault.status, text=text, content_type="text/html")
        case _:
            pass
    return response


async def _gather(fault: Fault) -> None:
    """Hold a call until enough calls wait. Calls after the first complete gathering pass through."""
    fault.gathered += 1
    fault.most_gathered = max(fault.most_gathered, fault.gathered)
    waited = 0.0
    while fault.most_gathered < fault.amount and waited < fault.seconds:
        await asyncio.sleep(0.01)
        waited += 0.01
    fault.gathered -= 1
