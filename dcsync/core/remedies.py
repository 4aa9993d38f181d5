"""The commands that repair a data request, as hints name them. Pure."""

from __future__ import annotations

from typing import Final

from dcsync.core.coverage import Days
from dcsync.core.model import RequestId

#: Creates a data request with every service group, each day.
CREATE: Final = "dcsync requests create"
#: Continues the backfill of an account.
CONTINUE: Final = "dcsync requests backfill activities"


def extend(request: RequestId) -> str:
    """Return the command that moves the end of a schedule."""
    return f"dcsync requests extend {request}"


def activate(request: RequestId) -> str:
    """Return the command that lets a data request run again."""
    return f"dcsync requests activate {request}"


def set_callback(request: RequestId, host: str) -> str:
    """Return the command that sets the callback at a host, to which it adds the secret."""
    return f"dcsync requests set-callback {request} https://{host}/callback/"


def backfill(days: Days) -> str:
    """Return the command that requests the activities of some days."""
    return f"{CONTINUE} --from {days.first:%Y-%m} --to {days.last:%Y-%m}"
