"""The effects of scripted faults on a call, before its normal response."""

from __future__ import annotations

import asyncio

from aiohttp import web

from dcsync.sandbox.faults import Fault
from dcsync.sandbox.refusals import refusal

#: The fault of a call, for handlers in which it changes how the normal response is sent.
FAULT = web.RequestKey("fault", Fault)


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


async def _gather(fault: Fault) -> None:
    """Hold a call until enough calls wait. Calls after the first complete gathering pass through."""
    fault.gathered += 1
    fault.most_gathered = max(fault.most_gathered, fault.gathered)
    waited = 0.0
    while fault.most_gathered < fault.amount and waited < fault.seconds:
        await asyncio.sleep(0.01)
        waited += 0.01
    fault.gathered -= 1
