"""Jobs that are staged and published without a download."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from dcsync.app.from_config import account_settings
from dcsync.core.cost import Choice, Method, Price
from dcsync.core.lifecycle import JobState
from dcsync.core.model import Job, JobId, StoredFile
from dcsync.core.ports import KnownJob, KnownRequest
from dcsync.core.sidecar import Decisions
from dcsync.core.snapshot import Record, Transfer
from dcsync.errors import Fenced
from dcsync.mirror.staging import Staging
from dcsync.ops.context import AccountSettings, SyncContext
from dcsync.ops.mirroring.folder import choose_folder
from dcsync.ops.mirroring.publish import Staged, publish
from dcsync.ops.mirroring.run import poll_account
from tests.fakes import REQUEST_ID, make_job, make_request
from tests.rigs.mirror import TODAY, Mirror

SLUG = "my-company-data-extract-ce9bc188"
TRANSFER = Transfer(strategy="zip", calls=3, fetched_bytes=80, linked_bytes=20, seconds=1.25)
PRICE = Price(method=Method.RANGES, calls=2, size=900, requests=4, seconds=1.5)


def make_id(number: int) -> JobId:
    """Return the ID of a job: two of them differ in the first characters."""
    return JobId(f"{number:08x}-0000-4000-8000-000000000000")


def make_known_request(**changes: Any) -> KnownRequest:
    values: dict[str, Any] = {
        "id": REQUEST_ID,
        "description": "My Company Data Extract",
        "slug": SLUG,
        "is_delta": False,
    }
    return KnownRequest(**{**values, **changes})


def make_decisions(**changes: Any) -> Decisions:
    values: dict[str, Any] = {
        "method": Method.RANGES,
        "reason": "ranges: the cheapest",
        "choice": Choice(price=PRICE, prices=(PRICE,)),
        "files": {},
    }
    return Decisions(**{**values, **changes})


class LosesJob:
    """A guard that lets `checks` checks pass. Another host takes the job before the next one."""

    def __init__(self, checks: int, *, meanwhile: Callable[[], None] = lambda: None) -> None:
        self._left = checks
        self._meanwhile = meanwhile

    async def check(self, _: AsyncConnection) -> None:
        if not self._left:
            self._meanwhile()
            message = "another host has the job"
            raise Fenced(message)
        self._left -= 1


@dataclass(slots=True, kw_only=True)
class Workbench:
    """An open mirror in which jobs are staged by hand."""

    mirror: Mirror
    context: SyncContext
    account: AccountSettings
    request: KnownRequest = field(default_factory=make_known_request)

    def job(self, number: int = 1, *, days_ago: int = 0) -> Job:
        return make_job(id=make_id(number), completed_at=TODAY - timedelta(days=days_ago))

    def folder(self, job: Job) -> str:
        """Return the folder of a job's snapshot in the default layout."""
        assert job.completed_at is not None
        return f"acme/{SLUG}/{job.completed_at:%Y/%m/%d/%H%M%SZ}-{job.id[:8]}"

    def path(self, job: Job) -> Path:
        return self.mirror.root / self.folder(job)

    @property
    def latest(self) -> Path:
        return self.mirror.root / "acme" / SLUG / "latest"

    async def know(self, job: Job, *, is_described: bool = True) -> KnownJob:
        """Record a job as a poll does, unless the manifest has it, and return it."""
        manifest, name = self.context.manifest, self.account.name
        known = await manifest.job(name, job.id)
        if known is not None:
            return known
        document = self.request.document or make_request() if is_described else None
        await manifest.record_poll(
            name,
            jobs=[KnownJob(job=job, state=JobState.SEEN)],
            requests=[(self.request, document)],
            at=self.context.clock.now(),
        )
        known = await manifest.job(name, job.id)
        assert known is not None
        return known

    async def state(self, job: Job) -> JobState:
        known = await self.context.manifest.job(self.account.name, job.id)
        assert known is not None
        return known.state

    async def publish(
        self,
        job: Job,
        files: Mapping[str, str],
        *,
        strays: Mapping[str, str] | None = None,
        guard: LosesJob | None = None,
        **changes: Any,
    ) -> Record:
        """Stage these files as those of a job, and publish it.

        `strays` are staged files that no plan wants. `guard` watches the publishing, and nothing before it.
        """
        known = await self.know(job)
        if known.state is JobState.SEEN:
            await self.context.manifest.move(
                self.account.name, job.id, JobState.LISTED, at=self.context.clock.now(), folder=self.folder(job)
            )
        with Staging(self.context.root, self.account.staging_of(job.id)) as staging:
            stored = tuple(stage(staging, name, body) for name, body in files.items())
            for name, body in (strays or {}).items():
                stage(staging, name, body)
            values: dict[str, Any] = {
                "job": job,
                "request": self.request,
                "folder": self.folder(job),
                "previous": None,
                "files": stored,
                "transfer": TRANSFER,
                "decisions": make_decisions(),
            }
            context = self.context
            if guard is not None:
                context = replace(context, manifest=context.manifest.guarded(guard))
            return await publish(context, self.account, staging, Staged(**{**values, **changes}))

    def publish_by_another(self, job: Job, files: Mapping[str, str], *, by: Job | None = None) -> None:
        """Put a snapshot without a record where that of `job` belongs; it is the snapshot of the job `by`."""
        path = self.path(job)
        path.mkdir(parents=True)
        for name, body in files.items():
            (path / name).write_text(body)
        (path / "_dcsync.json").write_text(json.dumps(make_document(by or job, files)))


def make_document(job: Job, files: Mapping[str, str]) -> dict[str, Any]:
    """Return the metadata file of a snapshot, without a record."""
    return {
        "format": 1,
        "account": {"name": "acme"},
        "request": {"id": REQUEST_ID, "description": "My Company Data Extract", "delta": False},
        "job": {"id": job.id, "completed_at": f"{job.completed_at:%Y-%m-%dT%H:%M:%SZ}"},
        "files": [
            {
                "name": name,
                "original": name,
                "size": len(body),
                "crc32": "00000000",
                "sha256": hashlib.sha256(body.encode()).hexdigest(),
                "how": "fetched",
            }
            for name, body in files.items()
        ],
    }


def stage(staging: Staging, name: str, body: str) -> StoredFile:
    part = staging.part(name, name, len(body))
    part.begin(None)
    part.write(body.encode())
    return part.finish(None)


async def publish_hollow(mirror: Mirror, *jobs: str) -> list[Path]:
    """Publish jobs of the sandbox without any table, and let `latest` show the last one, as version 0.2 did."""
    folders = []
    async with mirror.opened() as context:
        (account,) = account_settings(mirror.configuration())
        await poll_account(context, account)
        for job in jobs:
            known = await context.manifest.job(account.name, JobId(job))
            assert known is not None
            request = (await context.manifest.requests(account.name))[known.job.request_id]
            folder = await choose_folder(context, account, request, known)
            await context.manifest.move(
                account.name, known.job.id, JobState.LISTED, at=context.clock.now(), folder=folder
            )
            with Staging(context.root, account.staging_of(known.job.id)) as staging:
                staged = Staged(
                    job=known.job,
                    request=request,
                    folder=folder,
                    previous=None,
                    files=(stage(staging, "README.html", "<p>"),),
                    transfer=TRANSFER,
                    decisions=make_decisions(),
                )
                await publish(context, account, staging, staged)
            folders.append(mirror.root / folder)
    latest = mirror.root / "/".join(folders[-1].relative_to(mirror.root).parts[:2]) / "latest"
    latest.unlink(missing_ok=True)
    latest.symlink_to(folders[-1].relative_to(latest.parent))
    return folders


@asynccontextmanager
async def workbench(mirror: Mirror) -> AsyncIterator[Workbench]:
    """Open a mirror to stage and publish by hand."""
    async with mirror.opened() as context:
        (account,) = account_settings(mirror.configuration())
        yield Workbench(mirror=mirror, context=context, account=account)
