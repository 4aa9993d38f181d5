"""Scripted faults: what goes wrong, for which calls, how often. Deterministic, so that a test can count."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal[
    "status",  # answer with `status`, `body`, `headers` and do nothing else
    "json",  # answer 200 with `body`, whatever it is
    "endless",  # answer 200 and send for ever (until the client has enough)
    "hang",  # answer nothing for `seconds`
    "reset",  # close the connection before any answer
    "delay",  # wait `seconds`, then do what is due
    "gather",  # file store: wait until `amount` calls wait here together, `seconds` at most, then do what is due
    "cut",  # the right headers, then only `amount` bytes of the body, then close
    "short",  # `amount` bytes only, with a Content-Length that says so
    "short-chunked",  # `amount` bytes only, without a Content-Length
    "long",  # `amount` bytes too many, with a Content-Length that says so
    "long-chunked",  # bytes without end, without a Content-Length
    "slow",  # `amount` bytes a second
    "no-range",  # ignore Range: 200 and everything
    "wrong-range",  # 206 with a Content-Range that was not asked for
    "etag",  # answer under the ETag `body`
    "gzip",  # say Content-Encoding: gzip, and encode
    "expired",  # 403 as for an expired URL
    "wait-after-commit",  # token endpoint: rotate, then wait `seconds` before answering
    "lose-after-commit",  # token endpoint: rotate, then close the connection
    "garble-after-commit",  # token endpoint: rotate, then send half of the JSON
    "fail-after-commit",  # token endpoint: rotate, then answer `status`
]


@dataclass(slots=True, kw_only=True)
class Fault:
    """One fault. `match` is searched as a regular expression in the path; `skip` calls pass before `times` are hit."""

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
    #: How many calls wait here now, and the most that ever did (kind "gather").
    gathered: int = field(default=0, init=False)
    most_gathered: int = field(default=0, init=False)


class Faults:
    """The script. The first fault that fits a call is used up by it."""

    def __init__(self) -> None:
        self._script: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        """Add a fault to the end of the script."""
        self._script.append(fault)
        return fault

    def clear(self) -> None:
        """Forget the script."""
        self._script.clear()

    def take(self, server: str, path: str) -> Fault | None:
        """Return the fault for a call, if there is one, and count it."""
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
