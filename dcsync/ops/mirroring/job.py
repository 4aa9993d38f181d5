"""Mirror one job: list its files, compare, choose the cheapest method, download changed files, publish."""

from __future__ import annotations

from dataclasses import dataclass

from dcsync.core import completeness
from dcsync.core import plan as planning
from dcsync.core.anomaly import TableWarning
from dcsync.core.cost import Choice, Method
from dcsync.core.lifecycle import JobState
from dcsync.core.model import Job, JobId, ListedFile, RequestId, SignedFile, Snapshot
from dcsync.core.plan import Known, Plan
from dcsync.core.ports import KnownJob, KnownRequest
from dcsync.core.snapshot import ADOPTED, Transfer
from dcsync.errors import ContentChanged, DiskFull, ExtractEmpty, ExtractMissing, NotFound, RangeIgnored
from dcsync.mirror.staging import Staging
from dcsync.ops.context import AccountSettings, Strategy, SyncContext
from dcsync.ops.limits import refuse_unmounted
from dcsync.ops.mirroring.adopt import adopt_if_there
from dcsync.ops.mirroring.archive import RemoteArchive
from dcsync.ops.mirroring.folder import choose_folder
from dcsync.ops.mirroring.gathering import Gathering, ZipReading
from dcsync.ops.mirroring.knowledge import AccountKnowledge, choose, cost_inputs
from dcsync.ops.mirroring.publish import Staged, publish
from dcsync.ops.mirroring.stage import Stager, read_zip, refuse_without_tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A snapshot that a run published or adopted, and its cost."""

    job: JobId
    folder: str
    files: int
    transfer: Transfer
    #: Tables that look wrong compared with earlier snapshots.
    warnings: tuple[TableWarning, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The plan of a run for a job, and the choice of the method."""

    job: JobId
    request: RequestId
    folder: str
    plan: Plan
    choice: Choice


class JobMirror:
    """Mirrors the jobs of one account, one after another."""

    def __init__(self, context: SyncContext, account: AccountSettings, knowledge: AccountKnowledge) -> None:
        self._context = context
        self._account = account
        self._knowledge = knowledge

    async def plan(self, known: KnownJob, request: KnownRequest) -> Planned:
        """Plan a job and write nothing. Reads its data listing and the central directory of its ZIP."""
        context, job = self._context, known.job
        folder = await choose_folder(context, self._account, request, known)
        listing = await self._list(job)
        previous = await self._previous(request, job)
        listed = planning.archive_in(listing)
        reading = ZipReading()
        if listed is not None:
            archive = RemoteArchive(context, job=job, sign=self._sign, size=listed.size)
            try:
                reading = await read_zip(context, archive, job)
            except (ContentChanged, RangeIgnored) as error:
                reading = ZipReading(broken=error)
        knowledge, settings = self._knowledge, context.settings
        facts = Known(
            previous=previous,
            conditional=knowledge.asks_conditionally,
            trust_crc=settings.trust_crc,
            uses_zip=settings.strategy is not Strategy.FILES,
        )
        plan = planning.plan(listing, reading.known(facts), selection=self._account.selection)
        refuse_without_tables(plan, reading, job)
        prices = planning.prices_of(plan, reading.directory, await cost_inputs(context, knowledge))
        choice = choose(prices, settings.strategy)
        plan = plan.by_url() if choice.price.method is Method.FILES else plan
        return Planned(job=job.id, request=request.id, folder=folder, plan=plan, choice=choice)

    async def mirror(self, known: KnownJob, request: KnownRequest) -> Published:
        """Mirror a job. Raises the error that prevented publishing. Staged files are kept for the next attempt."""
        context, account, job = self._context, self._account, known.job
        folder = await choose_folder(context, account, request, known)
        await refuse_unmounted(context, folder)
        adopted = await adopt_if_there(context, account, known, request, folder)
        if adopted is not None:
            return Published(job=job.id, folder=folder, files=len(adopted.files), transfer=Transfer(strategy=ADOPTED))
        calls_before = context.api.calls
        listing = await self._list(job)
        previous = await self._previous(request, job)
        await self._move(known, JobState.LISTED, folder=folder)
        context.root.check_still_there()
        with await context.disk.run(Staging, context.root, account.staging_of(job.id), context.number) as staging:
            gathering = Gathering(
                job=job, listing=listing, previous=previous, staging=staging, selection=account.selection
            )
            gathering.stage(await context.disk.run(staging.recover))
            began = context.clock.monotonic()
            try:
                await self._move(known, JobState.STAGING)
                await Stager(context, account, self._knowledge, gathering, self._sign).stage(known, folder)
            except DiskFull:
                # Partial files are removed, to make room for other jobs and the next attempt. Complete files stay.
                await context.disk.run(staging.drop_parts)
                raise
            transfer = gathering.transfer(
                calls=context.api.calls - calls_before, seconds=context.clock.monotonic() - began
            )
            staged = Staged(
                job=job,
                request=request,
                folder=folder,
                previous=previous,
                files=gathering.files,
                transfer=transfer,
                decisions=gathering.decisions,
                listed_at=gathering.listed_at,
                zip_warnings=completeness.zip_warnings(gathering.plan, gathering.reading.fault),
            )
            record = await publish(context, account, staging, staged)
        return Published(
            job=job.id,
            folder=folder,
            files=len(staged.files),
            transfer=transfer,
            warnings=record.summary.warnings,
        )

    async def _list(self, job: Job) -> tuple[ListedFile, ...]:
        try:
            listing = await self._context.api.listing(self._account.id, job.id)
        except NotFound as error:
            raise ExtractMissing(error.message) from None
        if not listing:
            # A complete extract contains at least a README. An empty snapshot would look like deleted data.
            message = f"the data listing of job {job.id} is empty"
            raise ExtractEmpty(message)
        return listing

    async def _previous(self, request: KnownRequest, job: Job) -> Snapshot | None:
        return await self._context.manifest.snapshot_before(self._account.name, request.id, job.completed_at)

    async def _sign(self, job: Job, name: str) -> SignedFile:
        return await self._context.api.sign(self._account.id, job.id, name)

    async def _move(self, known: KnownJob, state: JobState, *, folder: str | None = None) -> None:
        # Why the attempt before failed stays an alert until this one succeeds.
        await self._context.manifest.move(
            self._account.name,
            known.job.id,
            state,
            at=self._context.clock.now(),
            reason_code=known.reason_code,
            reason=known.reason,
            folder=folder,
        )
