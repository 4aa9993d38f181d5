"""The broken parts of a daemon: alerts about the process itself, such as an address that it cannot listen on."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final

from dcsync.core.alerts import AlertCode
from dcsync.manifest.broken import BrokenPart, BrokenParts
from dcsync.ops.context import MirrorContext

_CODES: Final = (AlertCode.P_LISTEN, AlertCode.P_ORDERS, AlertCode.F_HUNG)


def daemon_part(code: AlertCode, *, message: str, hint: str) -> BrokenPart:
    """Return a broken part of this host's daemon."""
    return BrokenPart(code=code, subject=socket.gethostname(), message=message, hint=hint)


async def record_daemon_parts(context: MirrorContext, parts: Sequence[BrokenPart]) -> None:
    """Record everything that does not work in this host's daemon now. What other living hosts recorded stays."""
    others = {host.name for host in await context.peers.known() if host.is_alive} - {socket.gethostname()}
    await BrokenParts(context.manifest, None).replace(_CODES, parts, keeps=lambda part: part.subject in others)
