"""Several hosts on one mirror: each a process of its own with a state folder of its own, on a real PostgreSQL.

Run as a program it is one of them, at a pace at which a test does not have to wait for half a minute.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dcsync.sandbox import Sandbox
from tests.rigs.ended import end_soon
from tests.rigs.postgres import Postgres

SEED = "HOSTS_TEST_SEED"
ROOT = Path(__file__).parents[2]


@dataclass(slots=True, kw_only=True)
class Host:
    """One host. `process` is None while it is down."""

    number: int
    folder: Path
    process: asyncio.subprocess.Process | None = None
    is_paused: bool = False

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def said(self, words: str) -> int:
        """Return how often its log has these words."""
        return self.log.read_text().count(words) if self.log.exists() else 0


@dataclass(slots=True, kw_only=True)
class Fleet:
    """The hosts, what they share, and the remote side."""

    folder: Path
    sandbox: Sandbox
    server: Postgres
    address: str
    seed: str
    pace: str = "fast"
    requests_per_minute: int = 1000
    hosts: list[Host] = field(default_factory=list)
    extra: str = ""

    @property
    def root(self) -> Path:
        return self.folder / "mirror"

    @property
    def database(self) -> str:
        return self.address.rsplit("/", 1)[1]

    def add(self, number: int) -> Host:
        """Make a host with a configuration and a state folder of its own."""
        host = Host(number=number, folder=self.folder / f"host-{number}")
        host.folder.mkdir()
        host.config.write_text(
            f"""{self.extra}
[mirror]
root = {json.dumps(str(self.root))}
min_free = 0
[state]
dir = {json.dumps(str(host.folder / "state"))}
manifest = {json.dumps(self.address)}
[poll]
interval = "30s"
jitter = "0s"
[transfer]
concurrency = 4
[api]
base_url = "{self.sandbox.base_url}"
requests_per_minute = {self.requests_per_minute}
[auth]
method = "token"
client_id = "sandbox"
client_secret = "file:{self.folder / "client-secret"}"
refresh_token = "env:{SEED}"
[[account]]
name = "acme"
id = "{self.sandbox.world.hub_id}"
"""
        )
        self.hosts.append(host)
        return host

    async def start(self, host: Host) -> None:
        """Start a host's daemon."""
        with host.log.open("ab") as log:
            host.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.rigs.hosts", str(host.config), self.pace),
                env={**os.environ, SEED: self.seed, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
                cwd=ROOT,
                stdout=log,
                stderr=log,
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        host.is_paused = False

    async def kill(self, host: Host) -> None:
        """End a host as a power cut would."""
        assert host.process is not None
        host.process.kill()
        await end_soon(host.process)
        host.process, host.is_paused = None, False

    def pause(self, host: Host) -> None:
        """Freeze a host, as a hypervisor does."""
        assert host.process is not None
        host.process.send_signal(signal.SIGSTOP)
        host.is_paused = True

    def wake(self, host: Host) -> None:
        """Let a host go on, as if nothing had been."""
        assert host.process is not None
        host.process.send_signal(signal.SIGCONT)
        host.is_paused = False

    def poll_now(self, host: Host) -> None:
        """Let a host look for new jobs at once."""
        assert host.process is not None
        host.process.send_signal(signal.SIGUSR1)

    async def stop(self, host: Host) -> int:
        """End a host in good order; return its exit status."""
        assert host.process is not None
        if host.is_paused:
            self.wake(host)
        host.process.terminate()
        async with asyncio.timeout(90):
            status = await host.process.wait()
        host.process = None
        return status

    def query(self, statement: str) -> list[tuple[object, ...]]:
        """Ask the hosts' database."""
        return self.server.execute(statement, database=self.database)

    def states(self) -> dict[str, int]:
        """Return how many jobs are in each state; nothing while there is no manifest or no database."""
        import psycopg

        with suppress(psycopg.Error):
            rows = self.query("SELECT state, count(*) FROM job GROUP BY state")
            return {str(state): int(str(count)) for state, count in rows}
        return {}

    def workers(self) -> int:
        """Return how many workers the hosts have; none while there is no manifest."""
        import psycopg

        with suppress(psycopg.Error):
            return len(self.query("SELECT 1 FROM host_worker JOIN host ON host.id = host"))
        return 0

    async def published(self, count: int, *, within_s: float = 250) -> float:
        """Wait until so many jobs are published; return how long that took. Else fail, with the hosts' last words."""
        began = asyncio.get_running_loop().time()
        while self.states().get("published", 0) < count:
            await asyncio.sleep(0.2)  # noqa: TID251 - other processes' work
            passed = asyncio.get_running_loop().time() - began
            dead = [host for host in self.hosts if host.process is not None and host.process.returncode is not None]
            if passed > within_s or dead:
                tails = "\n".join(f"--- {host.number}\n{host.log.read_text()[-3000:]}" for host in dead or self.hosts)
                message = f"{self.states()} after {passed:.0f} s, {count} published wanted; ended: {len(dead)}\n{tails}"
                raise AssertionError(message)
        return asyncio.get_running_loop().time() - began


@asynccontextmanager
async def fleet(
    folder: Path, sandbox: Sandbox, server: Postgres, *, hosts: int = 3, **more: object
) -> AsyncIterator[Fleet]:
    """Make hosts that are not started yet; those that run are killed at the end."""
    (folder / "mirror").mkdir()
    secret = folder / "client-secret"
    secret.write_text("sandbox-secret")
    secret.chmod(0o600)
    ready = Fleet(
        folder=folder,
        sandbox=sandbox,
        server=server,
        address=server.fresh(),
        seed=sandbox.tokens.issue_refresh_token("tester"),
        **more,  # type: ignore[arg-type]
    )
    for number in range(1, hosts + 1):
        ready.add(number)
    try:
        yield ready
    finally:
        for host in ready.hosts:
            if host.process is not None and host.process.returncode is None:
                await ready.kill(host)


async def _serve(config: Path, pace: str) -> int:
    from dcsync.cluster import stores_for
    from dcsync.cluster.queue import Pace
    from dcsync.cluster.session import SharedSession
    from dcsync.config import load
    from dcsync.daemon.service import Service
    from dcsync.log import configure

    configure("debug", "json", stream=sys.stderr)
    paces = {
        "fast": Pace(heartbeat_s=0.5, silence_s=3.0, stalled_cron="* * * * * *", due_cron="* * * * * */5", fetch_s=0.5),
        "usual": Pace(),
    }
    service = Service(
        lambda: load(config, environ=os.environ),
        stores_for,
        environ=os.environ,
        make_session=partial(SharedSession, pace=paces[pace]),
    )
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, service.stop)
    loop.add_signal_handler(signal.SIGUSR1, service.poll_now)
    return int(await service.run())


if __name__ == "__main__":
    sys.exit(asyncio.run(_serve(Path(sys.argv[1]), sys.argv[2])))
