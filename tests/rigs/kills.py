"""What is killed and looked at afterwards: a world with some days of extracts, and a reader of the mirror."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import signal
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from dcsync.sandbox import Fault, Options, Sandbox, Synthetic, World
from dcsync.sandbox.blobs import Blob
from tests.rigs.mirror import ARCHIVE, assert_identical, assert_proved_by_sums, sidecar, tables, walk_folders
from tests.rigs.processes import Starter, said
from tests.rigs.zips import make_zip, patch_central

TOKEN = "KILL_TEST_TOKEN"
#: How many downloads a kill can interrupt at most.
CONCURRENCY = 4
#: In days' extracts, the largest file.
LARGEST = 2 << 20
#: Of a larger file, what has come and not reached the disk yet is at most so much; the rest is gone on with.
IN_MEMORY = 1 << 20


#: Over a long line each connection gets this many bytes a second, and the large file of a day has this size.
LINE_RATE, LINE_SIZE = 4_000_000, 12 << 20
#: Then a part of that file that another connection brings ahead is in memory until its turn.
PART = 4 << 20


def make_world(*, with_archive: bool, days: int = 6, largest: int = LARGEST) -> World:
    """Make some days of a request with one large file among small ones, and of a narrow one."""
    world = World(seed=5)
    now = datetime.now(UTC)
    full, narrow = world.add_request("Full"), world.add_request("Narrow")
    for day in range(days):
        files: dict[str, bytes | Blob] = {**tables(25, size=2000), "forms_forms.csv": Synthetic(largest, day)}
        completed = now - timedelta(days=days - day)
        world.add_job(full, completed_at=completed, files=files, with_archive=with_archive)
        files = {**tables(5, seed=day)}
        world.add_job(narrow, completed_at=completed - timedelta(hours=1), files=files, with_archive=with_archive)
    if with_archive:
        # Listings that name the ZIP alone: all of it is extracted, or the ZIP itself is kept.
        small = world.add_request("Small")
        plain = make_zip({**tables(3, seed=99), "schemas/admin.json": b"{}"})
        for hours, packed in ((30, plain), (3, patch_central(plain, 1, method=12))):
            completed = now - timedelta(hours=hours)
            world.add_job(small, completed_at=completed, files={ARCHIVE: packed}, with_archive=False)
    return world


def write_config(
    folder: Path,
    sandbox: Sandbox,
    *more: str,
    concurrency: int = CONCURRENCY,
    login: bool = False,
) -> Path:
    """Write a configuration for a mirror and a state below `folder`; with `login` for a chain of refresh tokens."""
    auth = ['method = "token"', f'access_token = "env:{TOKEN}"']
    if login:
        options = sandbox.options
        auth = ['method = "login"', f'client_id = "{options.client_id}"', f'client_secret = "{options.client_secret}"']
    path = folder / "config.toml"
    path.write_text(
        "\n".join(
            [
                "[mirror]",
                f"root = {json.dumps(str(folder / 'mirror'))}",
                "min_free = 0",
                "[state]",
                f"dir = {json.dumps(str(folder / 'state'))}",
                "[transfer]",
                f"concurrency = {concurrency}",
                "[api]",
                f'base_url = "{sandbox.base_url}"',
                "requests_per_minute = 1000",
                "[auth]",
                *auth,
                "[[account]]",
                'name = "acme"',
                f'id = "{sandbox.world.hub_id}"',
                *more,
                "",
            ]
        )
    )
    path.chmod(0o600)
    return path


@dataclass(slots=True)
class Witness:
    """A reader of a mirror that a run may be killed over.

    What it has compared once with the server's bytes it compares again when its size, time or inode has changed.
    """

    root: Path
    world: World
    _compared: dict[Path, frozenset[tuple[object, ...]]] = field(default_factory=dict)

    def snapshots(self) -> set[Path]:
        """Return the folders of all snapshots."""
        return {path.parent for path in self.root.glob("acme/*/[0-9]*/**/_dcsync.json")}

    def look(self) -> int:
        """Look for anything torn in all that a reader can see; return the number of snapshots."""
        if not (self.root / "acme").exists():
            return 0
        snapshots = self.snapshots()
        for folder in walk_folders(self.root):
            names = [path.name for path in folder.iterdir()]
            assert not [name for name in names if name.endswith((".part", ".new"))]
            # A folder with files is a whole snapshot or within one (`schemas`), nothing else has any.
            within = not snapshots.isdisjoint({folder, *folder.parents})
            assert within or not [path for path in folder.iterdir() if path.is_file()]
        for snapshot in snapshots:
            stats = [(path, path.lstat()) for path in snapshot.rglob("*")]
            seen = frozenset((path, stat.st_size, stat.st_mtime_ns, stat.st_ino) for path, stat in stats)
            if self._compared.get(snapshot) != seen:
                assert_identical(snapshot, self.world, sidecar(snapshot)["job"]["id"])
                self._compared[snapshot] = seen
        # Nothing that was there is gone.
        assert self._compared.keys() == snapshots
        for latest in self.root.glob("acme/*/latest"):
            assert latest.resolve() in snapshots
        return len(snapshots)

    def assert_all_mirrored(self) -> None:
        """Compare all of it again: every job is there, `latest` is the newest, no staging is left."""
        self._compared = dict.fromkeys(self._compared, frozenset())
        assert self.look() == len(self.world.jobs)
        for request in self.root.glob("acme/*"):
            snapshots = [path for path in self.snapshots() if request in path.parents]
            newest = max(snapshots, key=lambda path: str(sidecar(path)["job"]["completed_at"]))
            assert (request / "latest").resolve() == newest
        for snapshot in self.snapshots():
            assert_proved_by_sums(snapshot)
        assert list((self.root / ".dcsync/staging").iterdir()) == []


def assert_rows_have_folders(state: Path, root: Path) -> None:
    """Check that every recorded snapshot is there right after a kill (docs/project/design.md, Publish protocol, P6).

    A copy of the manifest is looked at: opening it would bring it to order, which is what the next run has to do.
    """
    with TemporaryDirectory() as folder:
        for path in state.glob("manifest.sqlite*"):
            shutil.copy(path, folder)
        with closing(sqlite3.connect(Path(folder) / "manifest.sqlite")) as connection:
            there = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'job'").fetchone()
            query = "SELECT folder FROM job WHERE state = 'published'"
            acknowledged = connection.execute(query).fetchall() if there else []
    assert [path for (path,) in acknowledged if not (root / path / "_dcsync.json").is_file()] == []


def sent_bytes(sandbox: Sandbox) -> int:
    """Return the bytes of files that the store has sent."""
    return sum(call.body_bytes_sent for call in sandbox.calls if call.server == "storage")


def due_bytes(world: World) -> int:
    """Return the bytes of all files that a mirror must have fetched or linked."""
    return sum(
        blob.size for job in world.jobs for name, blob in world.extract(job).items() if not name.endswith(".zip")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed:
    """What kills at random met."""

    kills: int
    #: Runs that had ended before their kill was due.
    ended: int
    snapshots: int
    #: Of what had to be sent.
    sent_share: float


async def kill_at_random(
    folder: Path,
    *,
    with_archive: bool,
    kills: int,
    latest_s: Callable[[int], float],
    starter: Callable[[int], Starter],
    chance: random.Random,
    over_a_long_line: bool = False,
) -> Killed:
    """Kill `kills` runs and look at the mirror after each; `starter` and `latest_s` say how, and when at the latest.

    Over a long line the large files come through several connections. Whenever all is mirrored, another day is added,
    so that there is something to interrupt again.
    """
    world = (
        make_world(with_archive=with_archive, days=2, largest=LINE_SIZE)
        if over_a_long_line
        else make_world(with_archive=with_archive)
    )
    (folder / "mirror").mkdir()
    witness = Witness(folder / "mirror", world)
    # A little latency, so that there is something to interrupt.
    async with Sandbox(world, options=Options(quota_per_minute=None, latency_s=0.01)) as sandbox:
        if over_a_long_line:
            large = Fault(server="storage", kind="slow", amount=LINE_RATE, match="forms_forms|zip", times=None)
            sandbox.faults.add(large)
        sandbox.faults.add(Fault(server="storage", kind="delay", seconds=0.02, times=None))
        config = write_config(folder, sandbox)
        environ: Mapping[str, str] = {TOKEN: sandbox.tokens.issue_access_token("tester", 86400)}
        killed, ended, seen = 0, 0, []
        while killed < kills:
            run = await starter(killed)("--config", str(config), "sync", environ=environ)
            with suppress(TimeoutError):
                async with asyncio.timeout(chance.uniform(0.0, latest_s(killed))):
                    await run.wait()
            run.send(signal.SIGKILL)
            status = await run.wait()
            assert status in {0, -signal.SIGKILL}, said(folder)
            killed += status != 0
            ended += status == 0
            seen.append(witness.look())
            assert_rows_have_folders(folder / "state", folder / "mirror")
            if status == 0:
                request = next(iter(world.requests))
                more = tables(30, seed=100 + ended)
                world.add_job(request, completed_at=datetime.now(UTC), files=more, with_archive=with_archive)

        last = await starter(killed)("--config", str(config), "sync", environ=environ)

        assert await last.wait() == 0, said(folder)
        assert "Traceback" not in said(folder)
        witness.assert_all_mirrored()
        # Snapshots only ever grew in number.
        assert seen == sorted(seen)
        sent, due = sent_bytes(sandbox), due_bytes(world)
        # No byte twice beyond what was open: at most the downloads in flight at each kill come again, and of the large
        # ones only what had not reached the disk.
        assert sent <= due + kills * CONCURRENCY * (PART if over_a_long_line else IN_MEMORY)
        return Killed(kills=killed, ended=ended, snapshots=len(world.jobs), sent_share=sent / due)
