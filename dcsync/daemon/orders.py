"""The daemon's end of the socket: it takes the orders of commands, and has each carried out by the session.

Only the owner of the state folder and root can connect. They are trusted not to harm the daemon, but a client may be
killed, stopped, or of another version.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import NoReturn, Self

import structlog
from structlog.typing import FilteringBoundLogger

from dcsync.app.fingerprints import fingerprints
from dcsync.app.stores import Stores
from dcsync.clock import Clock
from dcsync.config import Config
from dcsync.daemon.open_order import OpenOrder, Work
from dcsync.daemon.session import Session, Visit
from dcsync.errors import ConfigError, DaemonGone, DcsyncError
from dcsync.orders import (
    MAX_LINE,
    SOCKET_NAME,
    Answer,
    Failed,
    Hello,
    Order,
    Peer,
    Waiting,
    decode,
    encode,
    listening,
    peer_of,
)
from dcsync.orders.messages import Message
from dcsync.tasks import DiskThreads, capture, running

log = structlog.get_logger(__name__)

#: The orders that are carried out or wait at the same time.
MAX_CONNECTIONS = 16
#: A command sends its order at once.
_PATIENCE_S = 10.0
#: The longest time for a command to read its answer. One that is stopped (Ctrl-Z) may never read it.
_SEND_S = 600.0
#: Progress is sent this often: often enough for a bar to move.
_PROGRESS_S = 0.1
#: A socket that cannot be made is tried again.
RETRY_S = 60.0
ORDERS_HINT = (
    "make that folder usable for the daemon. Until then, stop the daemon for commands that write. dcsync tries "
)
ORDERS_HINT += "again each minute"


class Orders:
    """The orders of commands to one daemon. `works` has how each kind is carried out. Open it with `opened` first."""

    def __init__(self, works: Mapping[str, Work], *, clock: Clock) -> None:
        #: Why the socket cannot be made now.
        self.problem: str | None = None
        self._works = works
        self._clock = clock
        self._config: Config | None = None
        self._connections = 0
        #: Where to listen now, and whether that has changed.
        self._folder: Path | None = None
        self._moved = asyncio.Event()
        #: The session that carries out orders, once it is there.
        self._session: asyncio.Future[tuple[Session, Stores]] | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Own the connections during the block. At its end, orders that are left are cancelled."""
        async with running(self._serve()):
            yield

    def mirror_locked(self, config: Config) -> None:
        """Listen in the state folder, which this process has locked. Orders wait for `session_opened`."""
        self._config = config
        self._session = self._session or asyncio.get_running_loop().create_future()
        self._listen_in(Path(config.state.dir) if self._works else None)

    def session_opened(self, session: Session, stores: Stores) -> None:
        """Begin to carry out orders."""
        if self._session is not None:
            self._session.set_result((session, stores))

    def session_closed(self) -> None:
        """Let orders wait for the next session."""
        self._session = asyncio.get_running_loop().create_future()

    def mirror_lost(self, error: DcsyncError) -> None:
        """Listen no more: commands meet the same error themselves. Orders that wait fail with it."""
        self._listen_in(None)
        if self._session is not None and not self._session.done():
            self._session.set_exception(error)
            # Read here, because no order may be waiting.
            self._session.exception()
        self._session = None

    def _listen_in(self, folder: Path | None) -> None:
        if folder != self._folder:
            self._folder, self.problem = folder, None
            self._moved.set()

    async def _serve(self) -> NoReturn:
        """Listen where the mirror is open. Connections do not end with the socket."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._moved.clear()
                folder = self._folder
                listener = None if folder is None else group.create_task(self._listen(folder, group), name="orders")
                await self._moved.wait()
                if listener is not None:
                    listener.cancel()
                    await asyncio.wait({listener})

    async def _listen(self, folder: Path, group: asyncio.TaskGroup) -> NoReturn:
        with DiskThreads(1) as disk:
            while True:
                stack = ExitStack()
                try:
                    listener = await disk.run(stack.enter_context, listening(folder))
                    self.problem = None
                    await self._accept(listener, group)
                except (OSError, DcsyncError) as error:
                    words = error.message if isinstance(error, DcsyncError) else (error.strerror or str(error)).lower()
                    problem = f"{folder / SOCKET_NAME} cannot be used: {words}"
                    if problem != self.problem:
                        log.warning("cannot take the orders of commands", error=problem)
                    self.problem = problem
                finally:
                    await disk.run(stack.close)
                await self._clock.sleep(RETRY_S)

    async def _accept(self, listener: socket.socket, group: asyncio.TaskGroup) -> NoReturn:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listener)
            except ConnectionError:
                continue
            peer = peer_of(accepted)
            if peer.uid not in {0, os.geteuid()} or self._connections >= MAX_CONNECTIONS:
                accepted.close()
                log.warning("a command was refused", uid=peer.uid, pid=peer.pid, waiting=self._connections)
                continue
            self._connections += 1
            group.create_task(self._handle(accepted, peer), name="order")

    async def _handle(self, accepted: socket.socket, peer: Peer) -> None:
        """Serve one connection to its end. No error of a command may end the daemon."""
        try:
            async with _Wire.opened(accepted) as wire:
                wire.write(Hello())
                order = await wire.order()
                if order is None:
                    return
                who = structlog.get_logger(__name__).bind(command=order.name, uid=peer.uid, pid=peer.pid)
                who.debug("command received")
                try:
                    await self._carry_out(order, wire, who)
                except DcsyncError as error:
                    await self._refuse(error, wire, who)
        except Exception:  # a bug in one order must not end the daemon
            log.exception("a bug in dcsync; the daemon continues")
        finally:
            self._connections -= 1

    async def _refuse(self, error: DcsyncError, wire: _Wire, who: FilteringBoundLogger) -> None:
        who.info("command failed", code=error.code, error=error.message)
        await wire.send(Failed.of(error))

    async def _carry_out(self, order: Order, wire: _Wire, who: FilteringBoundLogger) -> None:
        work = self._works.get(order.name)
        if work is None:
            message = f"the daemon does not know the command {order.name!r}"
            raise ConfigError(message, hint="restart the daemon: systemctl restart dcsync")
        session, stores = await self._ready(order, wire)
        began = self._clock.monotonic()
        async with session.visited() as visit:
            opened = OpenOrder(visit, stores, lambda what: wire.write(Waiting(what=what)))
            try:
                answer = await self._watched(visit, work(opened, order.options), opened, wire)
            except DcsyncError as error:
                await self._reopened(visit)
                # Before the visit ends: the session waits for it.
                await self._refuse(error, wire, who)
                return
            if answer is not None:
                await self._reopened(visit)
                await wire.send(*opened.progress.take(), *answer.messages())
        seconds = round(self._clock.monotonic() - began, 1)
        if answer is None:
            who.info("command interrupted", seconds=seconds)
        else:
            who.info("command carried out", status=answer.status, seconds=seconds)

    async def _ready(self, order: Order, wire: _Wire) -> tuple[Session, Stores]:
        """Return the session as soon as there is one. Raises the error of the mirror, and `ConfigError`."""
        if self._config is not None:
            _refuse_another(order, self._config)
        if self._session is None:
            message = "the daemon lost the mirror before it had begun to carry out the command"
            raise DaemonGone(message)
        if not self._session.done():
            wire.write(Waiting(what="opening the mirror"))
        return await asyncio.shield(self._session)

    async def _reopened(self, visit: Visit) -> None:
        """Wait for the next session after an order that needed the mirror closed.

        Otherwise the next command could take the mirror from the daemon.
        """
        if visit.survives and self._session is not None:
            with suppress(DcsyncError):
                await asyncio.shield(self._session)

    async def _watched(
        self, visit: Visit, work: Coroutine[None, None, Answer], opened: OpenOrder, wire: _Wire
    ) -> Answer | None:
        """Do the work of an order and send its progress. None if the command ended, which cancels the work.

        Raises the error of the work, and `DaemonGone` when the session ends first.
        """
        async with asyncio.TaskGroup() as group:
            task = group.create_task(capture(work), name="order work")
            visit.task = task
            gone = group.create_task(wire.ended(), name="client")
            report = group.create_task(self._report(opened, wire), name="progress")
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            is_interrupted = not task.done()
            task.cancel()
            await asyncio.wait({task})
            gone.cancel()
            report.cancel()
        if is_interrupted:
            return None
        if task.cancelled():
            message = "the daemon stopped its work on the mirror before it had carried out the command"
            raise DaemonGone(message)
        return task.result().get()

    async def _report(self, opened: OpenOrder, wire: _Wire) -> NoReturn:
        while True:
            await opened.progress.has_events.wait()
            await wire.send(*opened.progress.take())
            await self._clock.sleep(_PROGRESS_S)


def _refuse_another(order: Order, config: Config) -> None:
    """Raise `ConfigError` if the command has read another configuration than the daemon."""
    root = str(config.mirror.root)
    if order.root != root:
        message = f"the daemon that uses {config.state.dir} mirrors into {root}, and this command into {order.root}"
        raise ConfigError(message, hint="name the daemon's configuration: dcsync --config FILE …")
    ours = fingerprints(config)
    different = [name for name in ours if name in order.config and order.config[name] != ours[name]]
    if different:
        message = f"the daemon is running with another configuration than this command: {', '.join(different)} differs"
        raise ConfigError(message, hint="let the daemon read it again: systemctl reload dcsync")


class _Wire:
    """A connection to a command. Nothing here fails because the command has ended."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    @asynccontextmanager
    async def opened(cls, accepted: socket.socket) -> AsyncIterator[Self]:
        """Yield the wire of an accepted connection. What was sent still arrives after the block."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=MAX_LINE, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        accepted.setblocking(False)  # noqa: FBT003 - its signature
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, accepted)
        try:
            yield cls(reader, asyncio.StreamWriter(transport, protocol, reader, loop))
        finally:
            transport.close()

    async def order(self) -> Order | None:
        """Return the order. None for a client that sends none in time, or something else."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                message = decode(await self._reader.readline())
        except (TimeoutError, OSError, ValueError):  # ValueError: the line is too long
            return None
        return message if isinstance(message, Order) else None

    async def ended(self) -> None:
        """Wait until the command has ended, or was interrupted."""
        with suppress(OSError):
            while await self._reader.read(MAX_LINE):
                pass

    def write(self, *messages: Message) -> None:
        """Send small messages without waiting."""
        for message in messages:
            self._writer.write(encode(message))

    async def send(self, *messages: Message) -> None:
        """Send messages, and wait until the command has read most of them."""
        self.write(*messages)
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_SEND_S):
                await self._writer.drain()
