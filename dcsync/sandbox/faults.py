"""Scripted faults: their kind, the calls they affect, and how often. All are deterministic, so that tests can count."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal[
    "status",  # answer with `status`, `body`, `headers` and do nothing else
    "json",  # answer 200 with any `body`
    "refuse-json-api",  # answer `status` with the words `body` in this shape (`refusals.py`), as do the next five
    "refuse-error-object",
    "refuse-developer-message",
    "refuse-reason",
    "refuse-in-headers",
    "refuse-xml",
    "warn",  # hubs: answer normally, with the warning `body` about a region that could not be listed
    "endless",  # answer 200 and send until the client closes the connection
    "hang",  # do not answer for `seconds`, then close the connection
    "reset",  # close the connection before the response
    "delay",  # wait `seconds`, then answer normally
    "gather",  # wait until `amount` calls wait together, at most `seconds`, then answer normally
    "cut",  # send the normal headers and `amount` bytes of the body, then close the connection
    "short",  # `amount` bytes only, with a Content-Length that says so
    "short-chunked",  # `amount` bytes only, without a Content-Length
    "long",  # `amount` bytes too many, with a Content-Length that says so
    "long-chunked",  # bytes without end, without a Content-Length
    "slow",  # `amount` bytes per second, until the fault is removed
    "no-range",  # ignore Range and answer 200 with the whole file
    "wrong-range",  # answer 206 with a Content-Range that was not requested
    "etag",  # answer with the ETag `body`
    "gzip",  # answer with Content-Encoding: gzip
    "expired",  # answer 403 as for an expired URL
    "wait-after-commit",  # do the work of the call, then wait `seconds` before answering
    "lose-after-commit",  # do the work, then close the connection
    "garble-after-commit",  # do the work, then send half of the JSON
    "fail-after-commit",  # do the work, then answer `status`
]


@dataclass(slots=True, kw_only=True)
class Fault:
    """One fault. The regular expression `match` selects paths. The first `skip` calls pass, the next `times` fail."""

    server: Literal["api", "token", "storage"]
    kind: Kind
    match: str = ""
    times: int | None = 1
    skip: int = 0
    status: int = 500
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    amount: int = 0
    seconds: float = 0.0
    #: The number of calls that wait now, and its maximum so far (kind "gather").
    gathered: int = field(default=0, init=False)
    most_gathered: int = field(default=0, init=False)


class Faults:
    """The script. Each call uses the first fault that matches it."""

    def __init__(self) -> None:
        self._script: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        """Add a fault to the end of the script."""
        self._script.append(fault)
        return fault

    def remove(self, fault: Fault) -> None:
        """Delete one fault."""
        self._script.remove(fault)

    def has(self, fault: Fault) -> bool:
        """Say whether a fault is still in the script. Used up, it still is."""
        return any(each is fault for each in self._script)

    def clear(self) -> None:
        """Delete all faults."""
        self._script.clear()

    def take(self, server: str, path: str) -> Fault | None:
        """Return the fault for a call, if there is one, and count its use."""
        for fault in self._script:
            if fault.server != server or not re.search(fault.match, path):
                continue
            if fault.skip > 0:
                fault.skip -= 1
                continue
            if fault.times is None:
                return fault
            if fault.times > 0:
                fault.times -= 1
                return fault
        return None
