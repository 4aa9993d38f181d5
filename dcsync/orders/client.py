"""An order to the daemon, from a command."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import assert_never

from dcsync.errors import DaemonGone, MirrorLocked
from dcsync.orders.messages import (
    MAX_LINE,
    PROTOCOL,
    Answer,
    Done,
    Failed,
    Hello,
    Message,
    Order,
    Printed,
    Progressed,
    Waiting,
    decode,
    encode,
)
from dcsync.orders.place import peer_of

#: A daemon that works says hello at once. One that is stopped, or whose disk hangs, may never.
_HELLO_S = 30.0
#: After an interrupt the daemon ends the order within the time that a command alone takes for it.
_CANCEL_S = 15.0
#: Everything but tab and newline: the output of the daemon cannot steer the terminal of root.
_CONTROL = {number: "\ufffd" for number in (*range(32), *range(127, 160)) if chr(number) not in "\t\n"}


async def send(
    connection: socket.socket,
    order: Order,
    *,
    waits: Callable[[str], None],
    progressed: Callable[[str, Sequence[str | int]], None],
) -> Answer:
    """Have an order carried out, and return its answer. Raises the error of the order.

    `waits` is called with what the daemon does first, `progressed` with each event. If this is cancelled, the daemon
    cancels the order, and this waits for that. Raises `DaemonGone` if the daemon ends first, and `MirrorLocked` if it
    has another version.
    """
    pid = peer_of(connection).pid
    reader, writer = await asyncio.open_unix_connection(sock=connection, limit=MAX_LINE)
    try:
        await _greet(reader, pid)
        writer.write(encode(order))
        answer = Answer()
        while True:
            match await _receive(reader):
                case Waiting(what=what):
                    waits(_plain(what))
                case Progressed(event=event, values=values):
                    progressed(event, [_plain(value) if isinstance(value, str) else value for value in values])
                case Printed(text=text, is_error=is_error):
                    answer.lines.append(Printed(text=_plain(text), is_error=is_error))
                case Done(status=status):
                    answer.status = status
                    return answer
                case Failed(error=kind, message=message, advice=advice):
                    raise Failed(error=kind, message=_plain(message), advice=_plain(advice)).as_error()
                case Hello() | Order() | None:
                    message = f"the daemon (pid {pid}) ended before it had carried out the command"
                    raise DaemonGone(message)
                case other:
                    assert_never(other)
    except asyncio.CancelledError:
        await _cancel(reader, writer)
        raise
    finally:
        writer.close()


async def _greet(reader: asyncio.StreamReader, pid: int) -> None:
    """Read the daemon's hello. Raises `DaemonGone` or `MirrorLocked`."""
    try:
        async with asyncio.timeout(_HELLO_S):
            hello = await _receive(reader)
    except TimeoutError:
        message = f"the daemon (pid {pid}) holds the mirror and does not answer"
        hint = "systemctl status dcsync shows what it is doing. If it hangs, systemctl restart dcsync"
        raise DaemonGone(message, hint=hint) from None
    if hello is None:
        message = f"the daemon (pid {pid}) did not accept the command: it is ending, or too many commands are waiting"
        raise DaemonGone(message)
    if not isinstance(hello, Hello) or hello.protocol != PROTOCOL:
        version = hello.version if isinstance(hello, Hello) else "unknown"
        own = Hello().version
        message = f"the daemon (pid {pid}) runs dcsync {_plain(version)}, and this command is of dcsync {own}"
        hint = "restart the daemon, so that it runs the installed version: systemctl restart dcsync"
        raise MirrorLocked(message, pid=pid, hint=hint)


async def _receive(reader: asyncio.StreamReader) -> Message | None:
    """Return the next message. None at the end, and for a line that is not a message."""
    try:
        return decode(await reader.readline())
    except (OSError, ValueError):  # ValueError: the line is too long
        return None


async def _cancel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Let the daemon cancel the order, and wait until it has. A second interrupt does not wait."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_CANCEL_S):
            writer.write_eof()
            while await reader.read(MAX_LINE):
                pass


def _plain(text: str) -> str:
    return text.translate(_CONTROL)
