"""A sandbox, a mirror anywhere on the disk, and dcsync as a process that can be stopped: where the torture happens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dcsync.sandbox import Sandbox, Synthetic, World
from dcsync.sandbox.blobs import Blob
from tests.rigs import aftermath
from tests.rigs.hatchery import Ended, Hatchery, Hatchling, Order
from tests.rigs.mirror import tables
from tests.rigs.served import served

_ACCESS, _REFRESH = "TORTURE_ACCESS_TOKEN", "TORTURE_REFRESH_TOKEN"
#: dcsync's exit statuses for what can go wrong with a disk: done, incomplete, permission, stopped for safety.
DOCUMENTED = frozenset({0, 3, 13, 14})


@dataclass(slots=True, kw_only=True)
class Stage:
    """Where a run plays: `root` and `state` may be on any file system."""

    sandbox: Sandbox
    hatchery: Hatchery
    #: On a disk that nobody breaks: the configuration, what processes say, what they note.
    folder: Path
    root: Path
    state: Path
    #: With a chain of refresh tokens, else with one access token.
    chained: bool = False
    #: Further lines of the configuration by section.
    more: dict[str, str] = field(default_factory=dict)
    runs: int = 0

    @property
    def world(self) -> World:
        return self.sandbox.world

    def order(self, *argv: str, **options: Any) -> Order:
        """Return the order for a command, `sync` unless another is named."""
        self.runs += 1
        tokens = self.sandbox.tokens
        return Order(
            argv=["--config", str(self.write_config()), *(argv or ("sync",))],
            environ={
                _ACCESS: tokens.issue_access_token("tester", 86400),
                _REFRESH: tokens.issue_refresh_token("tester"),
                "SANDBOX_SECRET": "sandbox-secret",
            },
            folder=self.folder / f"run-{self.runs}",
            **options,
        )

    def start(self, *argv: str, **options: Any) -> Hatchling:
        """Start dcsync."""
        self.forget_calls()
        return self.hatchery.start(self.order(*argv, **options))

    def run(self, *argv: str, **options: Any) -> Ended:
        """Run dcsync to its end."""
        return self.start(*argv, **options).wait()

    def steps(self) -> list[str]:
        """Return what a first run calls to make something visible or durable, in the order of one disk thread."""
        twin = self.elsewhere(self.folder / f"twin-{self.runs}")
        twin.root.mkdir(parents=True)
        twin.state.mkdir(mode=0o700)
        ended = twin.run(one_thread=True)
        self.runs = twin.runs
        assert ended.status == 0, ended.output
        return [event.about for event in ended.events if event.kind == "step"]

    def forget_calls(self) -> None:
        """Let a minute pass for the quota: a machine whose power was cut takes that long."""
        with suppress(OSError):
            (self.state / "quota").unlink()

    def look(self, *, acked: list[str] | tuple[str, ...] = ()) -> list[str]:
        """Return what is wrong with the mirror."""
        return aftermath.look(self.root, self.state, self.world, acked=acked)

    def complete(self, **options: Any) -> list[str]:
        """Run until all should be there, and return what is wrong then."""
        # Asked for by name, a job is tried at once, whatever was to be waited for.
        named = [word for job in self.world.jobs for word in ("--job", job)]
        ended = self.run("sync", *named, **options)
        if ended.status != 0:
            return [f"the following run ended with {ended.status}: {ended.output[-2000:]}"]
        return aftermath.incomplete(self.root, self.state, self.world)

    def write_config(self) -> Path:
        """Write the configuration."""
        path = self.folder / "config.toml"
        auth = (
            f'client_id = "sandbox"\nclient_secret = "env:SANDBOX_SECRET"\nrefresh_token = "env:{_REFRESH}"'
            if self.chained
            else f'access_token = "env:{_ACCESS}"'
        )
        text = {
            "mirror": f"root = {json.dumps(str(self.root))}\nmin_free = 0",
            "state": f"dir = {json.dumps(str(self.state))}",
            "transfer": "concurrency = 4",
            "api": f"base_url = {json.dumps(self.sandbox.base_url)}\nrequests_per_minute = 1000",
            "auth": f'method = "token"\n{auth}',
        }
        for section, lines in self.more.items():
            text[section] = f"{text.get(section, '')}\n{lines}"
        account = f'[[account]]\nname = "acme"\nid = "{self.world.hub_id}"\n'
        path.write_text("".join(f"[{section}]\n{lines}\n" for section, lines in text.items()) + account)
        path.chmod(0o600)
        return path

    def elsewhere(self, folder: Path) -> Stage:
        """Return the same with another root and state folder, below `folder`."""
        return replace(self, root=folder / "mirror", state=folder / "state")


def make_world(jobs: int = 4, *, files: int = 4, size: int = 3000, big: int = 150_000) -> World:
    """Return a world of small extracts: half of them with an archive, some files the same each day."""
    world = World(seed=7)
    request = world.add_request("Torture")
    now = datetime.now(UTC)
    for day in range(jobs):
        bodies: dict[str, bytes | Blob] = {
            **tables(files, size=size, seed=day),
            "drawings.bin": Synthetic(big, day),
            "admin_same.csv": tables(1, size=size)["admin_table_000.csv"],
        }
        completed = now - timedelta(days=jobs - day)
        world.add_job(request, completed_at=completed, files=bodies, with_archive=day % 2 == 1)
    return world


@contextmanager
def staged(
    folder: Path, hatchery: Hatchery, world: World | None = None, *, chained: bool = False, **options: Any
) -> Iterator[Stage]:
    """Serve a world for a mirror in `folder`, until a test puts it elsewhere."""
    folder.mkdir(exist_ok=True)
    with served(folder, world or make_world(), **options) as remote:
        (folder / "state").mkdir(mode=0o700, exist_ok=True)
        yield Stage(
            sandbox=remote.sandbox,
            hatchery=hatchery,
            folder=folder,
            root=folder / "mirror",
            state=folder / "state",
            chained=chained,
        )
