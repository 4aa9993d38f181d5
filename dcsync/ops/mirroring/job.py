"""Mirror one job: list its files, compare, choose the cheapest method, download changed files, publish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from dcsync.core import cost, ziplayout
from dcsync.core import plan as planning
from dcsync.core.anomaly import TableWarning
from dcsync.core.cost import CostInputs, Method, Price
from dcsync.core.lifecycle import JobState
from dcsync.core.model import ARCHIVE_NAME, Job, JobId, ListedFile, RequestId, SignedFile, Snapshot, StoredFile
from dcsync.core.names import printable
from dcsync.core.plan import Fetch, Known, Link, Plan
from dcsync.core.ports import KnownJob, KnownRequest
from dcsync.core.snapshot import ADOPTED, Transfer
from dcsync.core.ziplayout import Directory, ZipError
from dcsync.errors import (
    BadListing,
    ContentChanged,
    DcsyncError,
    DiskFull,
    ExtractMissing,
    NotFound,
    RangeIgnored,
    StorageError,
    StorageUnreachable,
    TooSlow,
)
from dcsync.mirror.staging import Staging
from dcsync.ops.context import AccountSettings, Strategy, SyncContext
from dcsync.ops.mirroring.adopt import adopt_if_there
from dcsync.ops.mirroring.archive import Archive, Extractor, RemoteArchive, StagedArchive, open_directory
from dcsync.ops.mirroring.fetch import Fetcher
from dcsync.ops.mirroring.folder import choose_folder
from dcsync.ops.mirroring.gathering import Gathering
from dcsync.ops.mirroring.knowledge import AccountKnowledge
from dcsync.ops.mirroring.publish import Staged, publish
from dcsync.tasks import each

log = structlog.get_logger(__name__)

#: How often a ZIP that changes while it is read is read again, before its files are fetched file by file.
_MAX_READS = 3
#: The number of older snapshots that are searched for a file whose copy in the previous snapshot is damaged.
_MAX_COPIES = 8


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
    """The plan of a run for a job. `price` is that of the chosen method, `prices` those of all methods."""

    job: JobId
    request: RequestId
    folder: str
    plan: Plan
    price: Price
    prices: Mapping[Method, Price]


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
        archive = self._remote_archive(job, listing)
        directory, _ = (None, None) if archive is None else await self._read_directory(archive, job)
        known_here = replace(self._known(directory), previous=previous)
        plan = planning.plan(listing, known_here, selection=self._account.selection)
        prices = planning.prices_of(plan, directory, await self._cost_inputs())
        price = _choose(prices, context.settings.strategy)
        plan = plan.by_url() if price.method is Method.FILES else plan
        return Planned(job=job.id, request=request.id, folder=folder, plan=plan, price=price, prices=prices)

    async def mirror(self, known: KnownJob, request: KnownRequest) -> Published:
        """Mirror a job. Raises the error that prevented publishing. Staged files are kept for the next attempt."""
        context, account, job = self._context, self._account, known.job
        folder = await choose_folder(context, account, request, known)
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
                await self._gather(gathering, known, folder)
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
            )
            record = await publish(context, account, staging, staged)
        return Published(
            job=job.id,
            folder=folder,
            files=len(staged.files),
            transfer=transfer,
            warnings=record.summary.warnings,
        )

    async def _gather(self, gathering: Gathering, known: KnownJob, folder: str) -> None:
        """Stage every file of the job: first from the ZIP, then the rest file by file."""
        job = gathering.job
        await self._move(known, JobState.STAGING)
        archive = await self._archive(gathering)
        directory = None
        for attempt in range(_MAX_READS if archive is not None else 0):
            assert archive is not None  # noqa: S101 - without a ZIP the range is empty
            directory, gathering.broken_off = await self._read_directory(archive, job)
            plan = await self._link(gathering, directory)
            if attempt == 0:
                self._announce(job, folder, plan)
            try:
                if directory is not None:
                    await self._extract(gathering, plan, archive, directory)
                break
            except ContentChanged as error:
                # The ZIP's entries are compared again. A staged file stays if the new ZIP has the same entry.
                log.warning("the ZIP changed while it was read", job=job.id, error=error.message, attempt=attempt + 1)
                directory = None
                archive.forget()
        gathering.plan = gathering.planned(self._known(directory)).by_url()
        if archive is None:
            self._announce(job, folder, gathering.plan)
        await self._fetch_rest(gathering)

    async def _fetch_rest(self, gathering: Gathering) -> None:
        """Fetch the files that did not come from the ZIP. Raise its error if some of them exist only in the ZIP."""
        fetches = gathering.plan.fetches
        if gathering.broken_off is not None and fetches:
            # The smallest file alone first: if the network is down, five attempts show it, not five for each file.
            await self._fetch(gathering, fetches[-1:])
            fetches = fetches[:-1]
        await self._fetch(gathering, fetches)
        if gathering.broken_off is not None and gathering.plan.extracts:
            raise gathering.broken_off

    def _announce(self, job: Job, folder: str, plan: Plan) -> None:
        files = len(plan.fetches) + len(plan.extracts)
        self._context.observer.job_started(self._account.name, job.id, folder, files=files, size=plan.new_bytes)

    # --- comparing ----------------------------------------------------------------------------------------------------

    async def _list(self, job: Job) -> tuple[ListedFile, ...]:
        try:
            listing = await self._context.api.listing(self._account.id, job.id)
        except NotFound as error:
            raise ExtractMissing(error.message) from None
        if not listing:
            # A complete extract contains at least a README. An empty snapshot would look like deleted data.
            message = f"the data listing of job {job.id} is empty"
            raise BadListing(message)
        return listing

    async def _previous(self, request: KnownRequest, job: Job) -> Snapshot | None:
        return await self._context.manifest.snapshot_before(self._account.name, request.id, job.completed_at)

    def _remote_archive(self, job: Job, listing: Sequence[ListedFile]) -> RemoteArchive | None:
        """Return the job's ZIP, if it has one and the strategy allows to read it."""
        settings, listed = self._context.settings, planning.archive_in(listing)
        if settings.strategy is Strategy.FILES:
            return None
        if listed is None:
            log.info("the extract has no ZIP; it is fetched file by file", job=job.id)
            return None
        if settings.strategy is Strategy.AUTO and not planning.zip_saves_calls(listing, self._account.selection):
            return None
        return RemoteArchive(self._context, job=job, sign=self._sign, size=listed.size)

    async def _archive(self, gathering: Gathering) -> Archive | None:
        """Return the ZIP to read from. A ZIP that the snapshot keeps is fetched first and read from the staging."""
        archive = self._remote_archive(gathering.job, gathering.listing)
        if archive is None:
            return None
        kept = [fetch for fetch in gathering.planned(self._known()).fetches if fetch.file.name == ARCHIVE_NAME]
        await self._fetch(gathering, kept)
        stored = gathering.staged.get(ARCHIVE_NAME)
        return archive if stored is None else StagedArchive(self._context, gathering.staging, stored)

    async def _read_directory(self, archive: Archive, job: Job) -> tuple[Directory | None, StorageError | None]:
        """Read the central directory of the ZIP. Return None, with a log line, when the ZIP cannot be used.

        The error is returned with it if the network may be its cause: single files would meet the same error.
        """
        try:
            directory = await open_directory(self._context, archive)
        except (ZipError, StorageError, NotFound) as error:
            words = error.message if isinstance(error, DcsyncError) else str(error)
            log.warning("the ZIP cannot be used; the extract is fetched file by file", job=job.id, reason=words)
            return None, error if isinstance(error, StorageUnreachable | TooSlow) else None
        if directory.refused:
            log.warning(
                "entries of the ZIP are refused",
                job=job.id,
                count=len(directory.refused),
                first=ziplayout.describe(directory.refused[0]),
            )
        return directory, None

    def _known(self, directory: Directory | None = None) -> Known:
        conditional, trust_crc = self._knowledge.asks_conditionally, self._context.settings.trust_crc
        return Known(directory=directory, conditional=conditional, trust_crc=trust_crc)

    async def _cost_inputs(self) -> CostInputs:
        limiter = self._context.limiter
        return CostInputs(
            calls_left=await limiter.left(),
            limit=limiter.limit,
            bytes_per_second=self._knowledge.facts.bytes_per_second,
            slots=self._context.settings.concurrency,
        )

    async def _check_room(self, *, size: int, files: int) -> None:
        """Raise `DiskFull` or `InodesExhausted` unless the files fit, with their folders and our own files."""
        context = self._context
        reserve = context.settings.min_free
        await context.disk.run(context.root.check_room, size=size, entries=files + 2, reserve=reserve)

    # --- download -----------------------------------------------------------------------------------------------------

    async def _link(self, gathering: Gathering, directory: Directory | None) -> Plan:
        """Plan, and hard-link the files that are unchanged. Files that cannot be linked are planned again."""
        while True:
            plan = gathering.planned(self._known(directory))
            if not plan.links:
                return plan
            failed = await self._link_all(gathering, plan.links)
            if failed:
                log.warning(
                    "files of the previous snapshot are damaged; they are downloaded again",
                    job=gathering.job.id,
                    count=len(failed),
                    first=min(failed),
                )

    async def _link_all(self, gathering: Gathering, links: Sequence[Link]) -> set[str]:
        disk, previous = self._context.disk, gathering.previous
        failed: set[str] = set()

        async def link_file(link: Link) -> None:
            assert previous is not None  # noqa: S101 - a link has a source
            linked = await disk.run(gathering.staging.link, previous, link.source, link.name)
            linked = linked or await self._link_older(gathering, previous, link)
            if linked is None:
                failed.add(link.name)
            else:
                gathering.stage({link.name: replace(linked, packed=link.packed)}, {link.name: link.reason})

        await each(links, link_file, at_once=self._context.settings.concurrency)
        gathering.unlinkable |= failed
        return failed

    async def _link_older(self, gathering: Gathering, previous: Snapshot, link: Link) -> StoredFile | None:
        """Link a file that is damaged in the previous snapshot from an older snapshot with an intact copy."""
        manifest, account = self._context.manifest, self._account.name
        for copy in await manifest.copies(account, previous.request, link.source, limit=_MAX_COPIES):
            if copy.job != previous.job:
                linked = await self._context.disk.run(gathering.staging.link, copy, copy.files[0], link.name)
                if linked is not None:
                    log.warning(
                        "a file of the previous snapshot is damaged; it is linked from an older snapshot",
                        job=gathering.job.id,
                        snapshot=previous.folder,
                        file=link.source.name,
                        older=copy.folder,
                    )
                    return linked
        return None

    async def _share(self, gathering: Gathering, extracted: Sequence[StoredFile]) -> None:
        """Replace extracted files that turned out to be unchanged by hard links, to save disk space."""
        previous = gathering.previous
        before = {} if previous is None else {stored.original: stored for stored in previous.files}

        async def share_file(stored: StoredFile) -> None:
            source = before.get(stored.original)
            if source is None or previous is None or not stored.size:
                return
            if (source.size, source.sha256) != (stored.size, stored.sha256):
                return
            linked = await self._context.disk.run(gathering.staging.link, previous, source, stored.name)
            if linked is not None:
                gathering.staged[stored.name] = replace(linked, how=stored.how, packed=stored.packed)

        await each(extracted, share_file, at_once=self._context.settings.concurrency)

    async def _extract(self, gathering: Gathering, plan: Plan, archive: Archive, directory: Directory) -> None:
        """Extract files from the ZIP by the cheapest method. Entries that are damaged are fetched by their own URL."""
        prices = planning.prices_of(plan, directory, await self._cost_inputs())
        price = _choose(prices, self._context.settings.strategy)
        if not archive.is_remote:
            price = prices[Method.RANGES]
        gathering.settle_on(price, prices)
        await self._check_room(size=plan.new_bytes, files=len(plan.actions))
        plan = plan.by_url() if price.method is Method.FILES else plan
        extractor = Extractor(self._context, archive, job=gathering.job, staging=gathering.staging)
        spans = planning.spans_of([extract.member for extract in plan.extracts], price.method, directory)
        began, before = self._context.clock.monotonic(), archive.fetched_bytes
        try:
            await extractor.extract(spans, plan.extracts)
        except RangeIgnored as error:
            log.warning("the rest of the ZIP cannot be read", job=gathering.job.id, reason=error.message)
            # Listed files have URLs of their own. Files that exist only in the ZIP can no longer be downloaded.
            gathering.damaged |= {
                extract.file.name: error.message
                for extract in plan.extracts
                if not extract.is_listed and extract.name not in extractor.extraction.stored
            }
        except (StorageUnreachable, TooSlow) as error:
            # The download was resumed for as long as any bytes arrived. Listed files have URLs of their own.
            gathering.broken_off = error
            log.warning(
                "the download of the ZIP failed; the remaining files are fetched file by file",
                job=gathering.job.id,
                code=error.code,
                reason=error.message,
            )
        finally:
            received = archive.fetched_bytes - before
            gathering.fetched_bytes += received
            self._knowledge.learn_speed(received, self._context.clock.monotonic() - began)
            reasons = {extract.name: extract.reason for extract in plan.extracts}
            gathering.stage(extractor.extraction.stored, reasons)
        await self._share(gathering, tuple(extractor.extraction.stored.values()))
        if extractor.extraction.damaged:
            gathering.damaged |= extractor.extraction.damaged
            name, damage = next(iter(extractor.extraction.damaged.items()))
            log.warning(
                "ZIP entries are damaged; they are fetched file by file",
                job=gathering.job.id,
                count=len(extractor.extraction.damaged),
                first=f"{printable(name)}: {damage}",
            )

    async def _fetch(self, gathering: Gathering, fetches: Sequence[Fetch]) -> None:
        """Fetch files, each by its own signed URL."""
        if fetches:
            await self._check_room(size=sum(fetch.file.size for fetch in fetches), files=len(gathering.listing))
        fetcher = Fetcher(
            self._context,
            job=gathering.job,
            sign=self._sign,
            staging=gathering.staging,
            previous=gathering.previous,
            knowledge=self._knowledge,
        )
        began = self._context.clock.monotonic()
        try:
            await fetcher.fetch_all(tuple(fetches))
        finally:
            gathering.fetched_bytes += fetcher.tally.fetched_bytes
            self._knowledge.learn_conditional(self._account.name)
            self._knowledge.learn_speed(fetcher.tally.fetched_bytes, self._context.clock.monotonic() - began)
            gathering.stage(fetcher.tally.stored, {fetch.name: fetch.reason for fetch in fetches})
        if fetcher.tally.failures:
            raise _first_failure(fetcher.tally.failures)

    async def _sign(self, job: Job, name: str) -> SignedFile:
        return await self._context.api.sign(self._account.id, job.id, name)

    async def _move(self, known: KnownJob, state: JobState, *, folder: str | None = None) -> None:
        await self._context.manifest.move(
            self._account.name, known.job.id, state, at=self._context.clock.now(), folder=folder
        )


def _choose(prices: Mapping[Method, Price], strategy: Strategy) -> Price:
    """Return the cheapest price that the strategy allows."""
    allowed = [price for method, price in prices.items() if strategy is not Strategy.ZIP or method is not Method.FILES]
    return cost.cheapest(allowed or prices.values())


def _first_failure(failures: Sequence[tuple[str, StorageError]]) -> DcsyncError:
    """Return the failure that says most about a job: wrong content goes before network errors."""
    name, error = next(((name, error) for name, error in failures if error.poison), failures[0])
    others = f" (and {len(failures) - 1} more files)" if len(failures) > 1 else ""
    return error.with_message(f"{name!r}: {error.message}{others}")
