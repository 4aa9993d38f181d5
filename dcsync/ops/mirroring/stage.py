"""Stage the files of one job: link the unchanged ones, extract from the ZIP, and fetch the rest file by file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog

from dcsync.core import completeness
from dcsync.core import plan as planning
from dcsync.core.completeness import NoTables
from dcsync.core.cost import Method
from dcsync.core.lifecycle import POISON_ATTEMPTS
from dcsync.core.model import ARCHIVE_NAME, Job, Snapshot, StoredFile
from dcsync.core.names import printable
from dcsync.core.plan import Fetch, Known, Link, Plan
from dcsync.core.ports import KnownJob, Sign
from dcsync.core.ziplayout import Span, ZipError, describe
from dcsync.errors import (
    ContentChanged,
    DcsyncError,
    ExtractEmpty,
    NotFound,
    NothingSelected,
    RangeIgnored,
    StorageError,
)
from dcsync.ops.context import AccountSettings, Strategy, SyncContext
from dcsync.ops.mirroring.archive import Archive, Extractor, RemoteArchive, StagedArchive, open_directory
from dcsync.ops.mirroring.fetch import Fetcher
from dcsync.ops.mirroring.gathering import Gathering, ZipReading
from dcsync.ops.mirroring.knowledge import AccountKnowledge, choose, cost_inputs
from dcsync.tasks import each

log = structlog.get_logger(__name__)

#: How often a ZIP that changes while it is read is read again.
_MAX_READS = 3
#: The number of older snapshots that are searched for a file whose copy in the previous snapshot is damaged.
_MAX_COPIES = 8


async def read_zip(context: SyncContext, archive: Archive, job: Job) -> ZipReading:
    """Read the central directory of the ZIP, or return why that failed.

    Raises `ContentChanged` when the ZIP was replaced, and `RangeIgnored` when it cannot be read in parts.
    """
    try:
        directory = await open_directory(context, archive)
    except ZipError as error:
        log.warning(
            "the ZIP is not valid; it is kept, and the files are fetched one by one", job=job.id, reason=str(error)
        )
        return ZipReading(fault=str(error))
    except NotFound as error:
        log.warning("Autodesk does not have the ZIP that it lists", job=job.id, reason=error.message)
        return ZipReading(gone=_gone(error))
    except (ContentChanged, RangeIgnored):
        raise
    except StorageError as error:
        log.warning("the ZIP cannot be downloaded", job=job.id, code=error.code, reason=error.message)
        return ZipReading(broken=error)
    if directory.refused:
        log.warning(
            "entries of the ZIP are refused",
            job=job.id,
            count=len(directory.refused),
            first=describe(directory.refused[0]),
        )
    return ZipReading(directory=directory)


def refuse_without_tables(plan: Plan, reading: ZipReading, job: Job) -> None:
    """Raise the reason if the snapshot of a plan would hold no table. Such a snapshot would look like deleted data."""
    lack = completeness.without_tables(plan, reading.directory)
    if lack is None:
        return
    if reading.broken is not None:
        # The ZIP may have tables.
        raise reading.broken
    if lack is NoTables.SELECTION:
        message = f"the account's include and exclude leave no table of job {job.id}"
        raise NothingSelected(message)
    missing = "" if reading.gone is None else f", and its ZIP is missing: {reading.gone}"
    message = f"the extract of job {job.id} has no table{missing}"
    raise ExtractEmpty(message)


class Stager:
    """Stages the files of one job. `sign` gives the signed URLs."""

    def __init__(
        self,
        context: SyncContext,
        account: AccountSettings,
        knowledge: AccountKnowledge,
        gathering: Gathering,
        sign: Sign,
    ) -> None:
        self._context = context
        self._account = account
        self._knowledge = knowledge
        self._gathering = gathering
        self._sign = sign
        self._folder = ""

    async def stage(self, known: KnownJob, folder: str) -> None:
        """Stage every file: first from the ZIP, then the rest file by file. `gathering` holds the results.

        If the download of the ZIP fails, the listed files are staged, and then its error is raised: the ZIP may have
        files that the listing lacks. After `POISON_ATTEMPTS` attempts in a row, such files count as lost.
        """
        gathering, self._folder = self._gathering, folder
        archive, reads = await self._archive(), 0
        while archive is not None:
            reads, read = reads + 1, archive
            try:
                archive = await self._from_zip(archive)
            except ContentChanged as error:
                # The ZIP's entries are compared again. A staged file stays if the new ZIP has the same entry.
                log.warning(
                    "the ZIP changed while it was read", job=gathering.job.id, error=error.message, attempt=reads
                )
                gathering.reading = ZipReading(broken=error)
                if reads == _MAX_READS:
                    break
                read.forget()
            except RangeIgnored as error:
                log.warning("the ZIP cannot be read in parts", job=gathering.job.id, reason=error.message)
                archive = await self._whole_zip(error.message)
        plan = self._plan().by_url()
        if gathering.reading.broken is None and _fetches_zip(plan):
            # It is not a valid ZIP, so its content is unknown.
            await self._whole_zip("")
            plan = self._plan().by_url()
        refuse_without_tables(plan, gathering.reading, gathering.job)
        self._announce(plan, _rest_of(plan))
        await self._fetch_rest(plan)
        broken = gathering.reading.broken
        if broken is not None and (gathering.reading.directory is None or plan.extracts or _fetches_zip(plan)):
            self._give_up(known, broken, plan)
            plan = self._plan().by_url()
        gathering.plan = plan

    async def _from_zip(self, archive: Archive) -> Archive | None:
        """Link and extract what the ZIP allows. Return another form of the ZIP to continue with, or None at the end."""
        gathering = self._gathering
        gathering.reading = await read_zip(self._context, archive, gathering.job)
        if gathering.reading.directory is None:
            return None
        plan = await self._link()
        refuse_without_tables(plan, gathering.reading, gathering.job)
        if plan.keeps_archive and archive.is_remote:
            # The snapshot needs the ZIP itself, so the entries are read from it.
            return await self._whole_zip("")
        await self._extract(plan, archive)
        if archive.is_remote and gathering.reading.broken is None and self._plan().keeps_archive:
            # Entries that only the ZIP has are damaged. The download may be the cause, so the next one decides.
            whole = await self._whole_zip("")
            listed = {file.name for file in gathering.listing}
            if whole is not None:
                gathering.damaged = {name: damage for name, damage in gathering.damaged.items() if name in listed}
            return whole
        return None

    async def _whole_zip(self, reason: str) -> Archive | None:
        """Download the ZIP itself. Return None if that fails: the reading then says why."""
        gathering = self._gathering
        listed = planning.archive_in(gathering.listing)
        assert listed is not None  # noqa: S101 - only a listed ZIP is read
        planned = (fetch for fetch in self._plan().fetches if fetch.file.name == ARCHIVE_NAME)
        fetch = next(planned, Fetch(file=listed, name=ARCHIVE_NAME, reason=reason))
        self._announce(self._plan(), [fetch])
        try:
            await self._fetch([fetch])
        except NotFound as error:
            gathering.reading = replace(gathering.reading, gone=_gone(error))
            return None
        except StorageError as error:
            gathering.reading = replace(gathering.reading, broken=error)
            return None
        return StagedArchive(self._context, gathering.staging, gathering.staged[fetch.name])

    def _give_up(self, known: KnownJob, error: StorageError, plan: Plan) -> None:
        """Raise the error of the ZIP, or count what only the ZIP has as lost, when this is not the first attempt."""
        gathering = self._gathering
        attempts = known.attempts + 1 if known.reason_code == error.code else 1
        if attempts < POISON_ATTEMPTS:
            raise error
        gone = f"the download failed {attempts} times ({error.message})"
        gathering.reading = replace(gathering.reading, broken=None, gone=gone)
        gathering.damaged |= {extract.file.name: gone for extract in plan.extracts}
        log.error("the snapshot is published without files that only the ZIP has", job=gathering.job.id, reason=gone)
        if completeness.without_tables(self._plan(), gathering.reading.directory) is not None:
            raise error

    async def _fetch_rest(self, plan: Plan) -> None:
        """Fetch the files that did not come from the ZIP. The ZIP itself was fetched before, if that was possible."""
        fetches = _rest_of(plan)
        if self._gathering.reading.broken is not None and fetches:
            # The smallest file alone first: if the network is down, five attempts show it, not five for each file.
            await self._fetch(fetches[-1:])
            fetches = fetches[:-1]
        await self._fetch(fetches)

    def _announce(self, plan: Plan, fetches: Sequence[Fetch], spans: Sequence[Span] = ()) -> None:
        """Tell the observer what is downloaded next, and so what is left of the job."""
        size = sum(fetch.file.size for fetch in fetches) + sum(span.stop - span.start for span in spans)
        files, account, job = len(plan.fetches) + len(plan.extracts), self._account.name, self._gathering.job.id
        self._context.observer.job_started(account, job, self._folder, files=files, size=size)

    async def _archive(self) -> Archive | None:
        """Return the ZIP to read from. A ZIP that the snapshot keeps is fetched first and read from the staging."""
        gathering = self._gathering
        listed = planning.archive_in(gathering.listing)
        if listed is None:
            log.debug("the extract has no ZIP; it is fetched file by file", job=gathering.job.id)
            return None
        plan = self._plan()
        fetches = [fetch for fetch in plan.fetches if fetch.file.name == ARCHIVE_NAME]
        if fetches:
            self._announce(plan, fetches)
        await self._fetch(fetches)
        stored = gathering.staged.get(ARCHIVE_NAME)
        if stored is not None and stored.size == listed.size:
            return StagedArchive(self._context, gathering.staging, stored)
        return RemoteArchive(self._context, job=gathering.job, sign=self._sign, size=listed.size)

    def _plan(self) -> Plan:
        settings = self._context.settings
        return self._gathering.planned(
            Known(
                conditional=self._knowledge.asks_conditionally,
                trust_crc=settings.trust_crc,
                uses_zip=settings.strategy is not Strategy.FILES,
            )
        )

    async def _check_room(self, *, size: int, files: int) -> None:
        """Raise `DiskFull` or `InodesExhausted` unless the files fit, with their folders and our own files."""
        context = self._context
        reserve = context.settings.min_free
        await context.disk.run(context.root.check_room, size=size, entries=files + 2, reserve=reserve)

    # --- download -----------------------------------------------------------------------------------------------------

    async def _link(self) -> Plan:
        """Plan, and hard-link the files that are unchanged. Files that cannot be linked are planned again."""
        gathering = self._gathering
        while True:
            plan = self._plan()
            if not plan.links:
                return plan
            failed = await self._link_all(plan.links)
            if failed:
                log.warning(
                    "files of the previous snapshot are damaged; they are downloaded again",
                    job=gathering.job.id,
                    count=len(failed),
                    first=min(failed),
                )

    async def _link_all(self, links: Sequence[Link]) -> set[str]:
        disk, gathering, previous = self._context.disk, self._gathering, self._gathering.previous
        failed: set[str] = set()

        async def link_file(link: Link) -> None:
            assert previous is not None  # noqa: S101 - a link has a source
            linked = await disk.run(gathering.staging.link, previous, link.source, link.name)
            linked = linked or await self._link_older(previous, link)
            if linked is None:
                failed.add(link.name)
            else:
                gathering.stage({link.name: replace(linked, packed=link.packed)}, {link.name: link.reason})

        await each(links, link_file, at_once=self._context.settings.concurrency)
        gathering.unlinkable |= failed
        return failed

    async def _link_older(self, previous: Snapshot, link: Link) -> StoredFile | None:
        """Link a file that is damaged in the previous snapshot from an older snapshot with an intact copy."""
        gathering, manifest, account = self._gathering, self._context.manifest, self._account.name
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

    async def _share(self, extracted: Sequence[StoredFile]) -> None:
        """Replace extracted files that turned out to be unchanged by hard links, to save disk space."""
        gathering = self._gathering
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

    async def _extract(self, plan: Plan, archive: Archive) -> None:
        """Extract files from the ZIP by the cheapest method. Entries that are damaged are fetched by their own URL."""
        context, gathering, directory = self._context, self._gathering, self._gathering.reading.directory
        prices = planning.prices_of(plan, directory, await cost_inputs(context, self._knowledge))
        choice = choose(prices, context.settings.strategy)
        method = choice.price.method if archive.is_remote else Method.RANGES
        if context.settings.strategy is Strategy.FILES:
            gathering.settle_without_choice(None, f"{Method.FILES}: configured (mirror.strategy)")
        elif archive.is_remote:
            gathering.settle_on(choice)
        else:
            gathering.settle_without_choice(method, f"{method}: the snapshot keeps the ZIP, which was downloaded first")
        await self._check_room(size=plan.new_bytes, files=len(plan.actions))
        plan = plan.by_url() if method is Method.FILES else plan
        extractor = Extractor(context, archive, job=gathering.job, staging=gathering.staging)
        assert directory is not None  # noqa: S101 - the plan comes from it
        spans = planning.spans_of([extract.member for extract in plan.extracts], method, directory)
        self._announce(plan, _rest_of(plan), spans if archive.is_remote else ())
        began, before = context.clock.monotonic(), archive.fetched_bytes
        try:
            await extractor.extract(spans, plan.extracts)
        except (ContentChanged, RangeIgnored):
            raise
        except StorageError as error:
            # The download was resumed for as long as any bytes arrived. Listed files have URLs of their own.
            gathering.reading = replace(gathering.reading, broken=error)
            log.warning(
                "the download of the ZIP failed; the remaining files are fetched file by file",
                job=gathering.job.id,
                code=error.code,
                reason=error.message,
            )
        finally:
            received = archive.fetched_bytes - before
            gathering.fetched_bytes += received
            self._knowledge.learn_speed(received, context.clock.monotonic() - began)
            reasons = {extract.name: extract.reason for extract in plan.extracts}
            gathering.stage(extractor.extraction.stored, reasons)
        await self._share(tuple(extractor.extraction.stored.values()))
        if extractor.extraction.damaged:
            gathering.damaged |= extractor.extraction.damaged
            name, damage = next(iter(extractor.extraction.damaged.items()))
            log.warning(
                "ZIP entries are damaged",
                job=gathering.job.id,
                count=len(extractor.extraction.damaged),
                first=f"{printable(name)}: {damage}",
            )

    async def _fetch(self, fetches: Sequence[Fetch]) -> None:
        """Fetch files, each by its own signed URL."""
        gathering = self._gathering
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


def _rest_of(plan: Plan) -> tuple[Fetch, ...]:
    """Return the files that are fetched one by one. The ZIP itself is fetched before, if it is."""
    return tuple(fetch for fetch in plan.fetches if fetch.file.name != ARCHIVE_NAME)


def _fetches_zip(plan: Plan) -> bool:
    return any(fetch.file.name == ARCHIVE_NAME for fetch in plan.fetches)


def _gone(error: NotFound) -> str:
    return f"Autodesk does not have it ({error.message})"


def _first_failure(failures: Sequence[tuple[str, StorageError]]) -> DcsyncError:
    """Return the failure that says most about a job: wrong content goes before network errors."""
    name, error = next(((name, error) for name, error in failures if error.poison), failures[0])
    others = f" (and {len(failures) - 1} more files)" if len(failures) > 1 else ""
    return error.with_message(f"{name!r}: {error.message}{others}")
