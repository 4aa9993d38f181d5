"""A mirror with a long history: one data request with 260 tables, of which a few change each day.

dcsync's own staging and publishing make it. Only the downloads are left out.
"""

from __future__ import annotations

import asyncio
import random
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dcsync.app.from_config import account_settings
from dcsync.app.sync import open_sync
from dcsync.cluster import stores_for
from dcsync.config import Config
from dcsync.core.cost import Method
from dcsync.core.lifecycle import JobState
from dcsync.core.model import StoredFile
from dcsync.core.ports import KnownJob, KnownRequest
from dcsync.core.sidecar import Decisions
from dcsync.core.snapshot import ZIP, Transfer
from dcsync.mirror.staging import Staging
from dcsync.ops.context import AccountSettings, SyncContext
from dcsync.ops.mirroring.folder import choose_folder
from dcsync.ops.mirroring.poll import PollBefore, poll
from dcsync.ops.mirroring.publish import Staged, publish
from dcsync.ops.recovery import recover
from dcsync.sandbox import World
from tests.rigs.served import TOKEN, Served, served

#: The share of the tables that changes each day.
CHANGED = 0.02
#: The time of the first job is kept here, so that the same mirror can be measured again.
_BEGAN = "began"
_BLOCK = b"".join(b"%016x,open,2026-11-22,Level 3,%d\n" % (row * 2654435761 % 2**64, row) for row in range(250_000))


@contextmanager
def past(folder: Path, days: int, sizes: Sequence[int]) -> Iterator[Served]:
    """Serve an account with `days` jobs, and yield their mirror, with tables of these sizes.

    A mirror that is in the folder already is used again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    is_new = not (folder / _BEGAN).exists()
    if is_new:
        (folder / _BEGAN).write_text((datetime.now(UTC) - timedelta(days=28)).isoformat())
    began = datetime.fromisoformat((folder / _BEGAN).read_text())
    world = World()
    request = world.add_request("My Company Data Extract")
    for day in range(days):
        # Within the 30 days that the server keeps: it lists no older jobs.
        at = began + timedelta(days=27) * day / days
        world.add_job(request, completed_at=at, files={"admin_users.csv": b"id\n"}, with_archive=False)
    with served(folder, world) as side:
        if is_new:
            asyncio.run(_mirror(side, sizes))
        yield side


def add_day(side: Served, day: int, sizes: Sequence[int]) -> None:
    """Add a job with the tables of a day after the last one of the mirror. Its bytes can be downloaded."""
    world = side.sandbox.world
    files = {name_of(index): body(index, version_of(index, day), size) for index, size in enumerate(sizes)}
    world.add_job(next(iter(world.requests)), completed_at=datetime.now(UTC), files=files)


def name_of(index: int) -> str:
    """Return the name of a table."""
    return f"admin_table_{index:03}.csv"


def version_of(index: int, day: int) -> int:
    """Return the day on which a table changed last."""
    while day and random.Random(f"{day}/{index}").random() >= CHANGED:
        day -= 1
    return day


def body(index: int, version: int, size: int) -> bytes:
    """Return a version of a table."""
    return b"id,status,day,level,number\n%d-%d,open,2026-11-22,Level 3,0\n%b" % (index, version, _BLOCK[:size])


async def _mirror(side: Served, sizes: Sequence[int]) -> None:
    config = Config.model_validate(tomllib.loads(side.config.read_text()))
    environ = {TOKEN: side.token}
    (account,) = account_settings(config)
    async with open_sync(config, stores_for(config, environ), environ=environ, role="sync") as context:
        await recover(context, [account])
        found = await poll(context.api, context.manifest, context.clock, account, before=PollBefore())
        jobs = [*found.changed]
        await context.manifest.record_poll(account.name, jobs=jobs, requests=found.new_requests, at=context.clock.now())
        (request,) = found.requests.values()
        jobs.sort(key=lambda known: known.job.completed_at or datetime.min.replace(tzinfo=UTC))
        for day, known in enumerate(jobs):
            await _publish(context, account, known, request, day, sizes)


async def _publish(
    context: SyncContext,
    account: AccountSettings,
    known: KnownJob,
    request: KnownRequest,
    day: int,
    sizes: Sequence[int],
) -> None:
    job, now = known.job, context.clock.now()
    folder = await choose_folder(context, account, request, known)
    previous = await context.manifest.snapshot_before(account.name, request.id, job.completed_at)
    for state in (JobState.LISTED, JobState.STAGING):
        await context.manifest.move(account.name, job.id, state, at=now, folder=folder)
    before = {} if previous is None else {stored.name: stored for stored in previous.files}
    files: list[StoredFile] = []
    with Staging(context.root, account.staging_of(job.id)) as staging:
        for index, size in enumerate(sizes):
            name = name_of(index)
            if previous is not None and version_of(index, day) != day:
                linked = staging.link(previous, before[name], name)
                assert linked is not None
                files.append(linked)
                continue
            content = body(index, day, size)
            part = staging.part(name, name, len(content))
            part.begin(None)
            part.write(content)
            files.append(part.finish(None, packed=len(content) // 5))
        staged = Staged(
            job=job,
            request=request,
            folder=folder,
            previous=previous,
            files=tuple(files),
            transfer=Transfer(strategy=ZIP, calls=2),
            decisions=Decisions(
                method=Method.RANGES, reason="2 calls", files={stored.name: "CRC32 as before" for stored in files}
            ),
        )
        await publish(context, account, staging, staged)
