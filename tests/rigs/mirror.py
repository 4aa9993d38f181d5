"""A mirror on a real folder against the sandbox, on a clock that does not wait."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import zipfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from dcsync.app.from_config import account_settings
from dcsync.app.renew import renewing
from dcsync.app.status import read_status
from dcsync.app.stores import Stores
from dcsync.app.sync import follow_up, open_dispatcher, open_dry_run, open_sync
from dcsync.cluster import stores_for
from dcsync.config import Config
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName
from dcsync.ops.context import Observer, SyncContext
from dcsync.ops.mirroring.outcome import AccountOutcome, Wanted
from dcsync.ops.mirroring.run import sync
from dcsync.ops.recovery import recover
from dcsync.ops.status import Status
from dcsync.sandbox import Options, Sandbox, World
from tests.fakes import FakeClock

ARCHIVE = "autodesk_data_extract.zip"
#: The middle of a day, so that an hour more or less is the same day.
TODAY = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


@dataclass(slots=True, kw_only=True)
class Mirror:
    """A mirror, its state folder, and the remote side."""

    folder: Path
    sandbox: Sandbox
    clock: FakeClock
    environ: dict[str, str]
    #: Sections of the configuration that a test wants otherwise, merged over the usual ones.
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.folder / "mirror"

    @property
    def acme(self) -> AccountName:
        """The name of the account."""
        return AccountName("acme")

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def world(self) -> World:
        return self.sandbox.world

    def configuration(self) -> Config:
        return Config.model_validate(self.document())

    def document(self) -> dict[str, Any]:
        """Return the configuration as TOML would give it."""
        document: dict[str, Any] = {
            "mirror": {"root": str(self.root), "min_free": 0},
            "state": {"dir": str(self.state)},
            "api": {"base_url": self.sandbox.base_url},
            "auth": {"method": "token", "access_token": "env:TOKEN"},
            "account": [{"name": "acme", "id": self.world.hub_id}],
        }
        for section, values in self.config.items():
            document[section] = (
                values if isinstance(values, list) or section == "auth" else {**document.get(section, {}), **values}
            )
        return document

    def stores(self, config: Config | None = None) -> Stores:
        """Return the stores of the configuration, as the commands choose them."""
        return stores_for(config or self.configuration(), self.environ)

    @asynccontextmanager
    async def opened(
        self,
        observer: Observer | None = None,
        *,
        role: str = "sync",
        config: Config | None = None,
        notices_missing: bool = True,
    ) -> AsyncIterator[SyncContext]:
        """Open the mirror and recover it, as every command that writes does."""
        config = config or self.configuration()
        opener = partial(open_sync, environ=self.environ, observer=observer)
        async with renewing(opener, config, self.stores(config), role=role, clock=self.clock) as context:
            await recover(context, account_settings(config), notices_missing=notices_missing)
            yield context

    async def sync(
        self, *, wanted: Wanted | None = None, dry_run: bool = False, observer: Observer | None = None
    ) -> list[AccountOutcome]:
        """Do one run, and nothing of what follows from it."""
        accounts = account_settings(self.configuration())
        if dry_run:
            looking = open_dry_run(
                self.configuration(), self.stores(), environ=self.environ, clock=self.clock, observer=observer
            )
            async with looking as context:
                return await sync(context, accounts, wanted=wanted, dry_run=True)
        async with self.opened(observer) as context:
            return await sync(context, accounts, wanted=wanted)

    async def run(self, *, wanted: Wanted | None = None) -> AccountOutcome:
        """Do one run over the one account with all that follows from it."""
        config = self.configuration()
        async with self.opened() as context:
            dispatcher = await open_dispatcher(config, self.stores(config), context, environ=self.environ)
            (outcome,) = await sync(context, account_settings(config), wanted=wanted)
            await follow_up(config, context, dispatcher, [outcome])
        return outcome

    async def sync_one(self, **options: Any) -> AccountOutcome:
        """Do one run over the one account."""
        (outcome,) = await self.sync(**options)
        return outcome

    async def states(self) -> dict[str, JobState]:
        """Return the state of every job in the manifest, after the recovery that a start does."""
        async with self.opened() as context:
            return {str(job): known.state for job, known in (await context.manifest.jobs(AccountName("acme"))).items()}

    def snapshots(self) -> list[Path]:
        """Return the folders of all published snapshots."""
        # Not `*`: it would match .dcsync/staging, where a sidecar is written before its folder is published.
        return sorted(path.parent for path in self.root.glob("[!.]*/*/[0-9u]*/**/_dcsync.json"))

    def snapshot_of(self, job_id: str) -> Path:
        """Return the folder of a job's snapshot."""
        (found,) = [path for path in self.snapshots() if sidecar(path)["job"]["id"] == job_id]
        return found

    def visible(self) -> list[Path]:
        """Return every file outside `.dcsync` that a reader could see."""
        return sorted(
            path
            for path in self.root.rglob("*")
            if ".dcsync" not in path.relative_to(self.root).parts and not path.is_dir()
        )

    def assert_identical(self, job_id: str) -> None:
        """Check a job's snapshot against what the server has, byte for byte."""
        assert_identical(self.snapshot_of(job_id), self.world, job_id)

    def fetched_bytes(self) -> int:
        """Return the bytes that the file store sent."""
        return sum(call.body_bytes_sent for call in self.sandbox.calls if call.server == "storage")


@asynccontextmanager
async def mirroring(folder: Path, world: World | None = None, **options: Any) -> AsyncIterator[Mirror]:
    """Start a sandbox with a world of `FakeClock`'s time, and make an empty mirror for it."""
    clock = FakeClock(TODAY)
    world = world or World(now=lambda: clock.now().timestamp())
    async with Sandbox(world, options=Options(**{"quota_per_minute": None, **options})) as sandbox:
        mirror = Mirror(
            folder=folder,
            sandbox=sandbox,
            clock=clock,
            environ={"TOKEN": sandbox.tokens.issue_access_token("tester", 10 * 86400)},
        )
        mirror.root.mkdir()
        yield mirror


async def status_of(mirror: Mirror) -> Status:
    """Return what `dcsync status` reads at the mirror's time."""
    return await read_status(mirror.configuration(), mirror.stores(), clock=mirror.clock)


def sidecar(snapshot: Path) -> dict[str, Any]:
    """Return what `_dcsync.json` says."""
    document: dict[str, Any] = json.loads((snapshot / "_dcsync.json").read_text())
    return document


def assert_identical(snapshot: Path, world: World, job_id: str) -> None:
    """Check every file of a snapshot against the server's bytes, and that there is nothing else.

    What only the archive has (the `schemas` folder) is compared with it.
    """
    extract = {name: blob.read(0, blob.size) for name, blob in world.extract(job_id).items() if name != ARCHIVE}
    recorded = {entry["original"]: entry for entry in sidecar(snapshot)["files"]}
    further = recorded.keys() - extract.keys() - {ARCHIVE}
    if further:
        packed = world.extract(job_id)[ARCHIVE]
        with zipfile.ZipFile(io.BytesIO(packed.read(0, packed.size))) as archive:
            extract |= {name: archive.read(name) for name in further}
    assert recorded.keys() - {ARCHIVE} == extract.keys()
    if ARCHIVE in recorded:
        packed = world.extract(job_id)[ARCHIVE]
        extract[ARCHIVE] = packed.read(0, packed.size)
    for original, expected in extract.items():
        path = snapshot / recorded[original]["name"]
        body = path.read_bytes()
        assert body == expected, original
        assert recorded[original]["sha256"] == hashlib.sha256(body).hexdigest()
    names = {entry["name"] for entry in recorded.values()} | {"_dcsync.json", "SHA256SUMS"}
    assert {str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if not path.is_dir()} == names


def assert_proved_by_sums(snapshot: Path) -> None:
    """Check a snapshot as a reader without dcsync would."""
    subprocess.run(["sha256sum", "-c", "--quiet", "--strict", "SHA256SUMS"], cwd=snapshot, check=True)


def tables(count: int, *, size: int = 1000, seed: int = 0) -> dict[str, bytes]:
    """Return the bodies of small tables, all different."""
    return {f"admin_table_{index:03}.csv": _body(f"{seed}/{index}", size + index) for index in range(count)}


def _body(seed: str, size: int) -> bytes:
    # A header of its own would make each day's table another one.
    out = bytearray(b"id\n" if size > 3 else b"")
    number = 0
    while len(out) < size:
        out += hashlib.sha256(f"{seed}/{number}".encode()).hexdigest().encode()
        number += 1
    return bytes(out[:size])


def add_extract(
    mirror: Mirror,
    files: Mapping[str, Any],
    *,
    request: str | None = None,
    days_ago: float = 0.0,
    **options: Any,
) -> str:
    """Add a complete job with these files, of the first request unless another is named; return its id."""
    world = mirror.world
    if request is None:
        request = next(iter(world.requests), None) or world.add_request("My Company Data Extract")
    completed = mirror.clock.now() - timedelta(days=days_ago)
    return world.add_job(request, completed_at=completed, files=files, **{"with_archive": False, **options})


def walk_folders(root: Path) -> Iterator[Path]:
    """Yield the folders outside `.dcsync`."""
    for path in root.rglob("*"):
        if path.is_dir() and not path.is_symlink() and ".dcsync" not in path.relative_to(root).parts:
            yield path
