"""kill -9 of the daemon while it carries out an order of a command, of each kind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dcsync.orders import connect, peer_of
from dcsync.sandbox import Options, Sandbox, World
from tests.rigs.kills import TOKEN, write_config
from tests.rigs.mirror import assert_identical, sidecar, tables
from tests.rigs.processes import Forking, forking, run_of, said
from tests.rigs.syscalls import Watch
from tests.rigs.waiting import until

#: The policy of the mirror, and a hook that ends at once.
_MORE = ("[keep]", "last = 2", "[history]", 'tables = ["*"]', "[[hook]]", 'on = ["snapshot"]', 'run = ["/bin/true"]')


@dataclass(slots=True, kw_only=True)
class OrderKills:
    """A mirror with some snapshots, a daemon that is killed, and commands beside it."""

    folder: Path
    sandbox: Sandbox
    config: Path
    environ: Mapping[str, str]
    daemons: Forking
    commands: Forking
    #: How many orders were under way when the daemon was killed.
    killed: int = 0
    _days: int = field(default=0)

    @property
    def state(self) -> Path:
        """The state folder."""
        return self.folder / "state"

    def snapshots(self) -> list[Path]:
        """Return the folders of all snapshots, oldest first."""
        return sorted(path.parent for path in (self.folder / "mirror").glob("acme/*/[0-9]*/**/_dcsync.json"))

    def add_day(self) -> None:
        """Let there be one more extract."""
        self._days += 1
        completed_at = datetime.now(UTC) - timedelta(days=20 - self._days)
        request = next(iter(self.sandbox.world.requests))
        files = tables(6, seed=self._days, size=3000)
        self.sandbox.world.add_job(request, completed_at=completed_at, files=files, with_archive=False)

    async def command(self, *argv: str) -> tuple[int, str]:
        """Run a command to its end, and return its status and what it said on stderr."""
        before = len(said(self.commands.folder))
        async with asyncio.timeout(150), run_of(self.commands, *self._argv(*argv), environ=self.environ) as run:
            status = await run.wait()
        return status, said(self.commands.folder)[before:]

    @asynccontextmanager
    async def daemon(self, watch: Watch) -> AsyncIterator[int]:
        """Run a daemon that has polled and is at rest. It is dead at the end of the block."""
        ended = self._runs_ended()
        argv = self._argv("--log-format", "json", "--log-level", "debug", "run")
        async with asyncio.timeout(200), asyncio.TaskGroup() as group:
            task = group.create_task(self.daemons.watched(watch, *argv, environ=self.environ))
            pid = await self._listening(task)
            await until(lambda: self._runs_ended() > ended or task.done(), "its first poll")
            assert not task.done(), said(self.daemons.folder)[-2000:]
            try:
                yield pid
            finally:
                if not task.done():
                    os.kill(pid, signal.SIGKILL)
            assert await task == -signal.SIGKILL

    async def kill_during(self, kind: str, after: int) -> bool:
        """Kill the daemon before its `after`-th change of a file since an order of a kind was sent.

        Return whether the order was under way. It was not if it ended sooner, or if the daemon was busy with something
        else and the command met nobody.
        """
        watch, make = Watch(folder=self.folder), KINDS[kind]
        async with self.daemon(watch):
            argv = make(self)
            await self._at_rest(watch)
            watch.kill_at = len(watch.calls) + after
            status, err = await self.command(*argv)
        assert "Traceback" not in err + said(self.daemons.folder), err
        if "D-DAEMON" not in err:
            # Alone, or by the daemon to the end. A file that is damaged is incomplete.
            assert (status, err) == (0, "") or status == 3, err
            return False
        assert (status, "run the command again" in err) == (3, True), err
        # A daemon that was killed leaves its socket.
        assert (self.state / "orders.sock").is_socket()
        self.killed += 1
        return True

    async def assert_in_order(self) -> None:
        """Start the daemon once more, and look at everything that it left."""
        async with self.daemon(Watch(folder=self.folder)):
            status, err = await self.command("sync")
            assert (status, err) == (0, "")
            # A repair that was killed is repeated.
            status, err = await self.command("verify", "--repair")
            assert status == 0, err
        status, err = await self.command("prune", "--force")
        assert status == 0, err
        status, err = await self.command("verify")
        assert status == 0, err
        found = [sidecar(folder)["job"]["id"] for folder in self.snapshots()]
        assert found == list(self.sandbox.world.jobs)[-2:]
        for folder, job in zip(self.snapshots(), found, strict=True):
            assert_identical(folder, self.sandbox.world, job)

    def _argv(self, *argv: str) -> tuple[str, ...]:
        return ("--config", str(self.config), *argv)

    def _runs_ended(self) -> int:
        return said(self.daemons.folder).count('"run ended"')

    async def _at_rest(self, watch: Watch) -> None:
        """Wait until the daemon changes no file for a moment. If it does so later, its kill meets no order."""
        counts = [-1] * 10

        def is_still() -> bool:
            counts.append(len(watch.calls))
            return counts[-1] == counts[-10]

        await until(is_still, "rest")

    async def _listening(self, task: asyncio.Task[int]) -> int:
        """Wait for the socket of a new daemon, beside which the one of the daemon before may still be there."""
        found: list[int] = []

        def listens() -> bool:
            connection = connect(self.state)
            if connection is not None:
                with connection:
                    found.append(peer_of(connection).pid)
            return connection is not None or task.done()

        await until(listens, "its socket")
        assert found, said(self.daemons.folder)[-2000:]
        return found[0]


def _sync(kills: OrderKills) -> tuple[str, ...]:
    kills.add_day()
    return ("sync",)


def _repair(kills: OrderKills) -> tuple[str, ...]:
    path = kills.snapshots()[-1] / "admin_table_001.csv"
    path.chmod(0o644)
    path.write_bytes(b"x" * path.stat().st_size)
    return ("verify", "--repair")


def _prune(kills: OrderKills) -> tuple[str, ...]:
    return ("prune", "--force")


def _rerun(kills: OrderKills) -> tuple[str, ...]:
    return ("hooks", "rerun", str(sidecar(kills.snapshots()[-1])["job"]["id"]))


KINDS: dict[str, Callable[[OrderKills], tuple[str, ...]]] = {
    "sync": _sync,
    "verify --repair": _repair,
    "prune": _prune,
    "history": lambda _: ("history", "--rebuild"),
    "hooks rerun": _rerun,
    "load": lambda _: ("load", "--full"),
    "rebuild": lambda _: ("rebuild",),
    "poll": lambda _: ("poll",),
}


@asynccontextmanager
async def order_kills(folder: Path) -> AsyncIterator[OrderKills]:
    """Mirror some days, for daemons to be killed on."""
    for name in ("mirror", "daemons", "commands"):
        (folder / name).mkdir()
    world = World(seed=5)
    world.add_request("Nightly")
    async with (
        Sandbox(world, options=Options(quota_per_minute=None)) as sandbox,
        forking(folder / "daemons") as daemons,
        forking(folder / "commands") as commands,
    ):
        kills = OrderKills(
            folder=folder,
            sandbox=sandbox,
            config=write_config(folder, sandbox, *_MORE, "[[load]]", f'to = "sqlite://{folder}/target.db"'),
            environ={TOKEN: sandbox.tokens.issue_access_token("tester", 86400)},
            daemons=daemons,
            commands=commands,
        )
        for _ in range(4):
            kills.add_day()
        status, err = await kills.command("sync")
        assert status == 0, err
        yield kills
