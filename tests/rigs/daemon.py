"""A daemon on a virtual clock against the sandbox."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import time_machine

from dcsync.cluster import make_session, stores_for
from dcsync.config import Config
from dcsync.daemon.local_session import LocalSession
from dcsync.daemon.open_order import Work
from dcsync.daemon.sd_notify import Notifier
from dcsync.daemon.service import Service
from dcsync.errors import ConfigInvalid, ConfigMistake, ExitStatus
from dcsync.sandbox import Options, Sandbox, World
from dcsync.tasks import primary_error
from tests.rigs.mirror import TODAY, Mirror
from tests.rigs.virtual import VirtualClock, settle


class Heard(Notifier):
    """Remembers what systemd would hear."""

    def __init__(self) -> None:
        super().__init__({})
        self.messages: list[str] = []

    def _send(self, *assignments: str) -> None:
        self.messages.extend(assignments)

    @property
    def last_status(self) -> str:
        return next((text for text in reversed(self.messages) if text.startswith("STATUS=")), "")


@dataclass(slots=True, kw_only=True)
class Rig:
    """A daemon that runs, its mirror, and the time."""

    mirror: Mirror
    clock: VirtualClock
    service: Service
    heard: Heard
    task: asyncio.Task[ExitStatus]
    #: What happens when, besides the daemon's own doing.
    plan: list[tuple[datetime, Callable[[], object]]] = field(default_factory=list)

    @property
    def sandbox(self) -> Sandbox:
        return self.mirror.sandbox

    def polls(self) -> int:
        """Return how many pages of jobs were asked for."""
        return self.sandbox.count("api", path_contains="/jobs") - self.sandbox.count("api", path_contains="/jobs/")

    async def pass_time(self, **span: float) -> None:
        """Let time pass, doing what is planned at its time."""
        until = self.clock.now() + timedelta(**span)
        while True:
            due = [item for item in self.plan if item[0] <= self.clock.now()]
            for item in due:
                self.plan.remove(item)
                item[1]()
            if self.clock.now() >= until:
                return
            stop = min([until, *(at for at, _ in self.plan if at <= until)])
            await self.clock.advance(stop - self.clock.now(), quiet=self.is_quiet, stalled=self.is_stalled)

    async def settle(self) -> None:
        """Let what was begun come to its end, without time passing."""
        await settle(self.is_quiet)

    def is_quiet(self) -> bool:
        session = self.service._session
        if self.task.done():
            return True
        assert session is None or isinstance(session, LocalSession)
        # The ticker sleeps, or it is on its round.
        if (
            session is None
            or self.sandbox.active
            or self.service._signals.end.is_set()
            or self.clock.next_due() is None
        ):
            return False
        busy = any(worker.wake.is_set() for worker in session.workers) or session.progress.is_busy
        return not busy and session.context.disk.oldest_s() is None

    def is_stalled(self) -> bool:
        """Whether all work in progress waits for time to pass.

        The ticker always sleeps; with a session, work that waits is one more sleeper. Without that, the work is in a
        thread or on a socket, and on a busy machine it takes its time.
        """
        session = self.service._session
        busy_disk = session is not None and session.context.disk.oldest_s() is not None
        return not self.sandbox.active and not busy_disk and self.clock.sleepers() > (session is not None)


@asynccontextmanager
async def running(
    folder: Path,
    *,
    world: World | None = None,
    now: datetime = TODAY,
    prepare: Callable[[Mirror], object] = lambda _: None,
    works: Mapping[str, Work] | None = None,
    **options: object,
) -> AsyncIterator[Rig]:
    """Start a daemon on an empty mirror; it is stopped with the block."""
    with time_machine.travel(now, tick=False) as traveller:
        clock = VirtualClock(now, traveller)
        world = world or World(now=lambda: clock.now().timestamp())
        async with Sandbox(world, options=Options(**{"quota_per_minute": None, **options})) as sandbox:  # type: ignore[arg-type]
            mirror = Mirror(
                folder=folder,
                sandbox=sandbox,
                clock=clock,  # type: ignore[arg-type]
                environ={"TOKEN": sandbox.tokens.issue_access_token("tester", 400 * 86400)},
            )
            mirror.root.mkdir()
            prepare(mirror)
            async with started(mirror, clock, works=works) as rig:
                yield rig


@asynccontextmanager
async def started(
    mirror: Mirror, clock: VirtualClock, *, works: Mapping[str, Work] | None = None
) -> AsyncIterator[Rig]:
    """Start a daemon on a mirror that is there, and stop it with the block."""
    heard = Heard()

    def load() -> Config:
        try:
            return mirror.configuration()
        except ValueError:
            raise ConfigInvalid((ConfigMistake(file="config.toml", line=1, key="", message="is bad"),)) from None

    service = Service(
        load,
        stores_for,
        environ=mirror.environ,
        clock=clock,
        notifier=heard,
        make_session=make_session,
        works=works,
    )
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(service.run())
            rig = Rig(mirror=mirror, clock=clock, service=service, heard=heard, task=task)
            try:
                await rig.settle()
                yield rig
            finally:
                service.stop()
                while not task.done():
                    await clock.advance(timedelta(seconds=1), quiet=lambda: True)
    except BaseExceptionGroup as errors:
        raise primary_error(errors) from errors


def events(folder: Path) -> list[dict[str, object]]:
    """Return the events that a hook appended to `heard.jsonl` in a folder."""
    path = folder / "heard.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
