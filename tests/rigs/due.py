"""Runs over jobs in any state, with an API that answers from tables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from dcsync.core.lifecycle import JobState
from dcsync.core.model import Job, JobId, RequestId
from dcsync.core.ports import KnownJob
from dcsync.errors import ApiFault
from dcsync.manifest.schema import run as run_table
from dcsync.ops.context import NullObserver
from dcsync.ops.mirroring.outcome import AccountOutcome, Wanted
from dcsync.ops.mirroring.run import sync
from tests.fakes import make_job, make_request
from tests.rigs.canned import CannedApi, Page
from tests.rigs.mirror import TODAY
from tests.rigs.publishing import Workbench, make_id, make_known_request

S = JobState
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
DOWN = ApiFault("no answer")
OTHER = RequestId("0" * 36)


def make(number: int = 1, age: timedelta = DAY, **changes: Any) -> Job:
    """Return a complete job of that age."""
    made = TODAY - age
    return make_job(**{"id": make_id(number), "created_at": made, "completed_at": made, **changes})


def pending(number: int = 1, age: timedelta = DAY, **changes: Any) -> Job:
    return make(number, age, **{"status": "running", "completion_status": None, "completed_at": None, **changes})


class Observer(NullObserver):
    """Remembers which jobs are done."""

    def __init__(self) -> None:
        self.done: list[JobId] = []

    def job_done(self, job: JobId) -> None:
        self.done.append(job)


@dataclass(slots=True, kw_only=True)
class Rig:
    """A mirror, what the manifest has of jobs, and an API."""

    bench: Workbench
    api: CannedApi
    observer: Observer

    async def know(self, job: Job, state: JobState = S.SEEN, *, described: bool = True, **move: Any) -> Job:
        """Record a job in a state. `move` are the fields of its last change."""
        request = make_known_request(id=job.request_id, is_described=described)
        manifest, name = self.bench.context.manifest, self.bench.account.name
        first = S.SEEN if move else state
        document = make_request(id=job.request_id) if described else None
        await manifest.record_poll(
            name, jobs=[KnownJob(job=job, state=first)], requests=[(request, document)], at=TODAY
        )
        if move:
            await manifest.move(name, job.id, state, at=TODAY, **move)
        return job

    def show(self, *pages: Page, **failing: Exception) -> None:
        """Let the API have these pages. `failing` names calls, with `_` for a space."""
        errors = {what.replace("_", " ", 1): error for what, error in failing.items()}
        self.api = CannedApi(pages, requests=[make_request()], failing=errors)

    def fail(self, job: Job, error: Exception) -> None:
        """Let the data listing of a job fail in another way."""
        self.api.failing[f"listing {job.id}"] = error

    async def run(
        self, *names: str, jobs: tuple[JobId, ...] = (), dry_run: bool = False, **account: Any
    ) -> AccountOutcome:
        """Do one run, of these data requests or jobs if any are named."""
        context = replace(self.bench.context, api=self.api, observer=self.observer)
        settings = replace(self.bench.account, **account)
        (outcome,) = await sync(context, [settings], wanted=Wanted(requests=names, jobs=jobs), dry_run=dry_run)
        return outcome

    @property
    def tried(self) -> list[str]:
        """The jobs whose data listing was asked for, in order."""
        return [call.removeprefix("listing ") for call in self.api.asked if call.startswith("listing")]

    async def known(self, job: Job) -> KnownJob:
        found = await self.bench.context.manifest.job(self.bench.account.name, job.id)
        assert found is not None
        return found

    async def runs(self) -> list[Any]:
        async with self.bench.context.manifest.reading() as connection:
            return list(await connection.execute(sa.select(run_table)))
