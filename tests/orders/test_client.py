"""An order from the side of the command, against a daemon that does what a test says."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import pytest

from dcsync.errors import DaemonGone, MassChange, MirrorLocked
from dcsync.orders import Answer, Failed, Hello, Order, Progressed, Waiting, decode, encode, send
from dcsync.orders.messages import Done, Message, Printed

ORDER = Order(name="prune", root="/srv/dcsync")
Daemon = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True)
class Heard:
    waited: list[str] = field(default_factory=list)
    progress: list[tuple[str, Sequence[str | int]]] = field(default_factory=list)


async def ordered(daemon: Daemon, heard: Heard | None = None) -> Answer:
    """Send an order to a daemon, and close its end when it is through."""
    heard = heard or Heard()
    ours, theirs = socket.socketpair()

    async def serve() -> None:
        reader, writer = await asyncio.open_unix_connection(sock=theirs)
        try:
            await daemon(reader, writer)
        finally:
            writer.close()

    async with asyncio.TaskGroup() as group:
        group.create_task(serve())
        try:
            return await send(
                ours,
                ORDER,
                waits=heard.waited.append,
                progressed=lambda event, values: heard.progress.append((event, values)),
            )
        except (DaemonGone, MassChange, MirrorLocked) as error:
            failure = error
    raise failure


def saying(*messages: Message, raw: bytes = b"") -> Daemon:
    async def daemon(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode(Hello()))
        assert decode(await reader.readline()) == ORDER
        for message in messages:
            writer.write(encode(message))
        writer.write(raw)

    return daemon


async def test_it_passes_on_what_the_daemon_says_and_returns_the_answer() -> None:
    heard = Heard()

    answer = await ordered(
        saying(
            Waiting(what="mirroring acme"),
            Progressed(event="read", values=[7]),
            Printed(text="1 removed\n", is_error=False),
            Printed(text="careful\n", is_error=True),
            Done(status=3),
        ),
        heard,
    )

    assert heard == Heard(waited=["mirroring acme"], progress=[("read", [7])])
    assert answer == Answer(
        status=3, lines=[Printed(text="1 removed\n", is_error=False), Printed(text="careful\n", is_error=True)]
    )


async def test_the_error_of_the_order_is_raised() -> None:
    with pytest.raises(MassChange, match="too many") as caught:
        await ordered(saying(Failed(error="MassChange", message="too many", advice="use --force")))

    assert caught.value.advice == "use --force"


@pytest.mark.parametrize("raw", [b"", b'{"kind": "do', b"garbage\n", b"x" * 300_000 + b"\n", encode(Hello())])
async def test_an_end_before_the_answer_is_an_error(raw: bytes) -> None:
    with pytest.raises(DaemonGone, match="ended before it had carried out the command"):
        await ordered(saying(Printed(text="half\n", is_error=False), raw=raw))


@pytest.mark.parametrize("first", [b"", b"garbage\n"])
async def test_a_daemon_that_accepts_no_order_is_an_error(first: bytes) -> None:
    async def daemon(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)

    with pytest.raises(DaemonGone, match="did not accept the command"):
        await ordered(daemon)


async def test_a_daemon_of_another_version_is_named_and_gets_no_order() -> None:
    read = b"unread"

    async def daemon(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal read
        writer.write(b'{"kind": "hello", "protocol": 99, "version": "9.1"}\n')
        read = await reader.read()

    with pytest.raises(MirrorLocked, match=r"runs dcsync 9\.1, and this command is of dcsync ") as caught:
        await ordered(daemon)

    assert "systemctl restart dcsync" in caught.value.advice
    assert read == b""


async def test_nothing_that_the_daemon_says_steers_the_terminal() -> None:
    heard = Heard()

    answer = await ordered(
        saying(
            Waiting(what="\x1b[2J"),
            Progressed(event="job_done", values=["\x07job"]),
            Printed(text="a\tb\x1b]0;x\x07\x9b\n", is_error=False),
            Done(status=0),
        ),
        heard,
    )

    assert answer.lines[0].text == "a\tb\ufffd]0;x\ufffd\ufffd\n"
    assert heard == Heard(waited=["\ufffd[2J"], progress=[("job_done", ["\ufffdjob"])])


async def test_cancelling_waits_until_the_daemon_has_ended_the_order() -> None:
    begun, events = asyncio.Event(), []

    async def daemon(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode(Hello()))
        await reader.readline()
        begun.set()
        assert await reader.read() == b""
        for _ in range(20):
            await asyncio.sleep(0)  # noqa: TID251 - lets the others run
        events.append("ended")

    async with asyncio.TaskGroup() as group:
        client = group.create_task(ordered(daemon))
        client.add_done_callback(lambda _: events.append("client"))
        await begun.wait()
        client.cancel()

    assert client.cancelled()
    assert events == ["ended", "client"]
