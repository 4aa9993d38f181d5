"""Every connection that this process begins, seen where the interpreter asks the kernel for it."""

from __future__ import annotations

import errno
import ipaddress
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_listening: list[list[object]] = []
_hooked: list[bool] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        for heard in _listening:
            heard.append(arguments[1])
        if _listening and not _is_here(arguments[1]):
            raise ConnectionRefusedError(errno.ECONNREFUSED, "a test does not leave this machine")


def _is_here(address: object) -> bool:
    return not isinstance(address, tuple) or ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback


@contextmanager
def watched() -> Iterator[list[object]]:
    """Give a list that holds the address of each connection attempt of the block, of any socket and library.

    One that would leave this machine is refused.
    """
    if not _hooked:
        # An audit hook stays for good; with nobody listening it does nothing.
        sys.addaudithook(_hear)
        _hooked.append(True)
    heard: list[object] = []
    _listening.append(heard)
    try:
        yield heard
    finally:
        _listening.remove(heard)
