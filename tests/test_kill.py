"""kill -9 at random moments, start again, and look for anything torn (FAULTS D1)."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dcsync.sandbox import Fault, Options, Sandbox, Synthetic, World
from dcsync.sandbox.world import Blob
from tests.rigs.mirror import assert_identical, assert_proved_by_sums, sidecar, tables, walk_folders

#: Of each kind.
KILLS = 25
#: From before the first import to well into the downloads of a run of about two seconds.
LATEST_S = 2.2
TOKEN = "KILL_TEST_TOKEN"
#: How many downloads a kill can interrupt at most.
CONCURRENCY = 4


def make_world(*, with_archive: bool) -> World:
    world = World(seed=5)
    now = datetime.now(UTC)
    full, narrow = world.add_request("Full"), world.add_request("Narrow")
    for day in range(6):
        files: dict[str, bytes | Blob] = {**tables(25, size=2000), "forms_forms.csv": Synthetic(2 << 20, day)}
        completed = now - timedelta(days=6 - day)
        world.add_job(full, completed_at=completed, files=files, with_archive=with_archive)
        files = {**tables(5, seed=day)}
        world.add_job(narrow, completed_at=completed - timedelta(hours=1), files=files, with_archive=with_archive)
    return world


def write_config(folder: Path, sandbox: Sandbox) -> Path:
    path = folder / "config.toml"
    path.write_text(
        f"""[mirror]
root = {json.dumps(str(folder / "mirror"))}
min_free = 0
[state]
dir = {json.dumps(str(folder / "state"))}
[transfer]
concurrency = {CONCURRENCY}
[api]
base_url = "{sandbox.base_url}"
requests_per_minute = 1000
[auth]
method = "token"
access_token = "env:{TOKEN}"
[[account]]
name = "acme"
id = "{sandbox.world.hub_id}"
"""
    )
    return path


async def start(config: Path, token: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "dcsync",
        "--config",
        str(config),
        "sync",
        env={**os.environ, TOKEN: token},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )


def assert_nothing_torn(root: Path, world: World) -> int:
    """Look at all that a reader can see; return the number of snapshots."""
    if not (root / "acme").exists():
        return 0
    snapshots = {path.parent for path in root.glob("acme/*/[0-9]*/**/_dcsync.json")}
    for folder in walk_folders(root):
        names = [path.name for path in folder.iterdir()]
        assert not [name for name in names if name.endswith((".part", ".new"))]
        # A folder with files is a whole snapshot or within one (`schemas`), nothing else has any.
        within = not snapshots.isdisjoint({folder, *folder.parents})
        assert within or not [path for path in folder.iterdir() if path.is_file()]
    for snapshot in snapshots:
        assert_identical(snapshot, world, sidecar(snapshot)["job"]["id"])
    for latest in root.glob("acme/*/latest"):
        assert latest.resolve() in snapshots
    return len(snapshots)


def assert_latest_is_newest(root: Path) -> None:
    """Look whether a kill between a commit and the swap left an old one behind."""
    for request in root.glob("acme/*"):
        snapshots = [path.parent for path in request.glob("[0-9]*/**/_dcsync.json")]
        newest = max(snapshots, key=lambda path: str(sidecar(path)["job"]["completed_at"]))
        assert (request / "latest").resolve() == newest


@pytest.mark.timeout(400)
@pytest.mark.parametrize("with_archive", [False, True], ids=["by files", "by archive"])
async def test_kills_at_random_moments_leave_nothing_torn(tmp_path: Path, with_archive: bool) -> None:
    """Twenty-five of each kind."""
    world = make_world(with_archive=with_archive)
    chance = random.Random(20261123)
    root = tmp_path / "mirror"
    root.mkdir()
    # A little latency, so that there is something to interrupt.
    async with Sandbox(world, options=Options(quota_per_minute=None, latency_s=0.01)) as sandbox:
        sandbox.faults.add(Fault(server="storage", kind="delay", seconds=0.02, times=None))
        config, token = write_config(tmp_path, sandbox), sandbox.tokens.issue_access_token("tester")
        killed, seen = 0, []
        while killed < KILLS:
            process = await start(config, token)
            with suppress(TimeoutError):
                async with asyncio.timeout(chance.uniform(0.0, LATEST_S)):
                    await process.wait()
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                killed += 1
            _, errors = await process.communicate()
            assert process.returncode in {0, -signal.SIGKILL}, errors.decode()
            seen.append(assert_nothing_torn(root, world))
            if process.returncode == 0:
                # All is mirrored: another day, so that there is something to interrupt again.
                request = next(iter(world.requests))
                more = tables(30, seed=100 + killed)
                world.add_job(request, completed_at=datetime.now(UTC), files=more, with_archive=with_archive)

        last = await start(config, token)
        _, errors = await last.communicate()

        assert last.returncode == 0, errors.decode()
        assert assert_nothing_torn(root, world) == len(world.jobs)
        assert_latest_is_newest(root)
        for path in root.glob("acme/*/[0-9]*/**/_dcsync.json"):
            assert_proved_by_sums(path.parent)
        # Snapshots only ever grew in number, and the kills met runs at work.
        assert seen == sorted(seen)
        assert len(set(seen)) > 5
        assert list((root / ".dcsync/staging").iterdir()) == []
        sent = sum(call.body_bytes_sent for call in sandbox.calls if call.server == "storage")
        due = sum(
            blob.size for job in world.jobs for name, blob in world.extract(job).items() if not name.endswith(".zip")
        )
        # No byte twice beyond what was open: at most the downloads in flight at each kill come again, and of the
        # 2 MiB ones only what had not reached the disk.
        assert sent <= due + KILLS * CONCURRENCY * (1 << 20)
