"""Repair the problems that verify found: from another copy in the mirror, or else from Autodesk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog

from dcsync.core import plan as planning
from dcsync.core.cost import Method
from dcsync.core.lifecycle import JobState, has_expired
from dcsync.core.model import Job, JobId, ListedFile, SignedFile, StoredFile
from dcsync.core.plan import Extract, Fetch
from dcsync.core.ziplayout import ZipError
from dcsync.errors import (
    AccessRefused,
    ApiError,
    AuthError,
    DcsyncError,
    DiskError,
    MassChange,
    MirrorTampered,
    NotFound,
    StorageError,
)
from dcsync.manifest import SnapshotRows
from dcsync.mirror.check import stat_entry
from dcsync.mirror.latest import LatestKind
from dcsync.mirror.replace import Place, replace_by_bytes, replace_by_link
from dcsync.mirror.staged_names import staged_leaf
from dcsync.mirror.staging import Staging
from dcsync.ops.context import AccountSettings, SyncContext
from dcsync.ops.integrity.content_reader import ContentReader
from dcsync.ops.integrity.missing import notice_missing
from dcsync.ops.integrity.report import Damage, Outcome, Repairable
from dcsync.ops.mirroring.archive import Extractor, RemoteArchive, open_directory
from dcsync.ops.mirroring.fetch import Fetcher
from dcsync.ops.mirroring.knowledge import AccountKnowledge
from dcsync.ops.mirroring.latest import move_latest
from dcsync.tasks import finish

log = structlog.get_logger(__name__)


async def repair_folders(context: SyncContext, account: AccountSettings, damage: Sequence[Damage]) -> list[Damage]:
    """Let missing snapshots be downloaded again. When too many are missing, nothing is done."""
    if not any(item.is_folder for item in damage):
        return list(damage)
    try:
        await notice_missing(context, account)
    except MassChange as error:
        return [replace(item, detail=f"{item.detail}; {error.message}") if item.is_folder else item for item in damage]
    jobs = await context.manifest.jobs(account.name)
    repaired = []
    for item in damage:
        known = jobs.get(item.job) if item.job is not None and item.is_folder else None
        if known is not None and known.state is JobState.EXPIRED:
            detail = f"{item.detail}, and Autodesk has deleted the extract"
            repaired.append(replace(item, outcome=Outcome.LOST, detail=detail))
        elif known is not None and known.state is JobState.SEEN:
            repaired.append(
                replace(item, outcome=Outcome.REFETCH, detail=f"{item.detail}; the next run downloads it again")
            )
        else:
            repaired.append(item)
    return repaired


async def repair_files(
    context: SyncContext,
    account: AccountSettings,
    damage: Sequence[Damage],
    repairables: Sequence[Repairable],
    reader: ContentReader,
) -> list[Damage]:
    """Replace damaged files by intact files with the same content, in every snapshot that shares them.

    Returns the damage with its outcome. Cancelling is safe: it takes effect between two contents.
    """
    repair = _Repair(context, account, reader)
    by_content: dict[str, list[Repairable]] = {}
    for repairable in repairables:
        by_content.setdefault(repairable.sha256, []).append(repairable)
    outcomes: dict[str, Damage] = {}
    for group in by_content.values():
        for repairable, item in zip(group, await repair.content(group), strict=True):
            outcomes[repairable.damage.path] = item
    await repair.renew_latest()
    return [outcomes.get(item.path, item) for item in damage]


class _NotNow(Exception):
    """The content cannot be downloaded now, but perhaps later."""


class _Gone(Exception):
    """The content can no longer be downloaded from this source."""


class _Repair:
    """The repairs of one account."""

    def __init__(self, context: SyncContext, account: AccountSettings, reader: ContentReader) -> None:
        self._context = context
        self._account = account
        self._reader = reader
        self._records = SnapshotRows(context.manifest)
        self._label = f"{context.clock.now():%Y%m%dT%H%M%SZ}"
        self._touched: set[JobId] = set()

    async def content(self, group: Sequence[Repairable]) -> list[Damage]:
        """Repair every file with one content."""
        try:
            return await self._replace(group)
        except _Gone as gone:
            return [
                replace(repairable.damage, outcome=Outcome.LOST, detail=f"{repairable.damage.detail}; {gone}")
                for repairable in group
            ]
        except (_NotNow, DiskError, MirrorTampered) as error:
            return [
                replace(repairable.damage, detail=f"{repairable.damage.detail}; not repaired: {error}")
                for repairable in group
            ]

    async def renew_latest(self) -> None:
        """Update a `latest` of hard links with the new files."""
        if self._context.settings.latest is LatestKind.HARDLINKS:
            for job in sorted(self._touched):
                await move_latest(self._context, self._account, job, rebuild=True)

    async def _replace(self, group: Sequence[Repairable]) -> list[Damage]:
        body = group[0].body
        if body is not None:
            return [await self._put(repairable, None, body) for repairable in group]
        if group[0].stored is None:
            message = "no other copy exists; the data files of the snapshot are not affected"
            raise _Gone(message)
        spare = await self._spare(group)
        if spare is not None:
            return await self._put_all(group, spare)
        return await self._fetch_and_put(group)

    async def _put_all(self, group: Sequence[Repairable], source: Place) -> list[Damage]:
        damage = [await self._put(group[0], source, None)]
        # The other snapshots share the new file of the first, as they shared the damaged one.
        first = Place(folder=group[0].folder, name=group[0].name)
        damage += [await self._put(repairable, first, None) for repairable in group[1:]]
        return damage

    async def _put(self, repairable: Repairable, source: Place | None, body: bytes | None) -> Damage:
        return await finish(self._put_and_record(repairable, source, body))

    async def _put_and_record(self, repairable: Repairable, source: Place | None, body: bytes | None) -> Damage:
        """Replace one file and record it. A row with the old inode only costs another hash later."""
        context, target = self._context, Place(folder=repairable.folder, name=repairable.name)
        context.root.check_still_there()
        if source is not None:
            facts, kept = await context.disk.run(replace_by_link, context.root, target, source, label=self._label)
        else:
            facts, kept = await context.disk.run(replace_by_bytes, context.root, target, body or b"", label=self._label)
        job = repairable.damage.job
        if job is not None:
            self._touched.add(job)
            if repairable.stored is not None:
                await self._records.note_replaced(
                    self._account.name, job, repairable.name, mtime_ns=facts.st_mtime_ns, inode=facts.st_ino
                )
        return replace(repairable.damage, outcome=Outcome.REPAIRED, kept=kept)

    async def _spare(self, group: Sequence[Repairable]) -> Place | None:
        """Return an intact file with this content elsewhere in the mirror."""
        bad = {repairable.inode for repairable in group}
        damaged = {(repairable.folder, repairable.name) for repairable in group}
        folders = await self._context.manifest.published_folders(self._account.name)
        for job, stored in await self._copies(group):
            folder = folders.get(job)
            if folder is None or (folder, stored.name) in damaged:
                continue
            try:
                entry = await self._context.disk.run(stat_entry, self._context.root, folder, stored.name)
                if (entry.device, entry.inode) in bad or not entry.is_file:
                    continue
                digest = await self._reader.digest(folder, stored.name, entry)
            except (DcsyncError, FileNotFoundError):
                continue
            if digest.sha256 == stored.sha256:
                return Place(folder=folder, name=stored.name)
        return None

    async def _copies(self, group: Sequence[Repairable]) -> Sequence[tuple[JobId, StoredFile]]:
        sha256 = group[0].sha256
        return (await self._records.copies(self._account.name, {sha256}))[sha256]

    # --- from Autodesk ------------------------------------------------------------------------------------------------

    async def _fetch_and_put(self, group: Sequence[Repairable]) -> list[Damage]:
        """Download the content from an extract that Autodesk still has, the newest first."""
        context, now = self._context, self._context.clock.now()
        jobs = await context.manifest.jobs(self._account.name)
        holders = [(jobs[job].job, stored) for job, stored in await self._copies(group) if job in jobs]
        there = [(job, stored) for job, stored in holders if not has_expired(job.completed_at, now)]
        there.sort(key=lambda held: (held[0].completed_at is not None, held[0].completed_at, held[0].id), reverse=True)
        reason = "the mirror has no other copy, and Autodesk has deleted every extract with this content"
        later: _NotNow | None = None
        for job, stored in there:
            leaf = JobId(f"repair-{stored.sha256[:16]}")
            with await context.disk.run(Staging, context.root, leaf) as staging:
                try:
                    fetched = await self._fetch(job, stored, staging)
                    if fetched.sha256 == stored.sha256:
                        source = Place(folder=staging.relative, name=staged_leaf(stored.name))
                        return await self._put_all(group, source)
                    reason = f"Autodesk has different content now (SHA-256 {fetched.sha256})"
                except _Gone as gone:
                    reason = str(gone)
                except _NotNow as error:
                    later = error
                finally:
                    await context.disk.run(staging.discard)
        raise later or _Gone(reason)

    async def _fetch(self, job: Job, stored: StoredFile, staging: Staging) -> StoredFile:
        context = self._context
        await context.disk.run(context.root.check_room, size=stored.size, entries=8, reserve=context.settings.min_free)
        try:
            try:
                return await self._by_url(job, stored, staging)
            except NotFound:
                # A file that exists only in the ZIP has no URL of its own.
                return await self._from_archive(job, stored, staging)
        except (NotFound, ZipError) as error:
            message = f"Autodesk no longer has it ({error})"
            raise _Gone(message) from None
        except StorageError as error:
            if error.poison:
                message = f"Autodesk has different content now ({error.message})"
                raise _Gone(message) from None
            raise _NotNow(error.message) from None
        except (ApiError, AuthError) as error:
            # A missing permission may be granted again. That is not a loss yet.
            refused = "no permission: " if isinstance(error, AccessRefused) else ""
            raise _NotNow(f"{refused}{error.message}") from None

    async def _by_url(self, job: Job, stored: StoredFile, staging: Staging) -> StoredFile:
        knowledge = AccountKnowledge()
        fetcher = Fetcher(self._context, job=job, sign=self._sign, staging=staging, previous=None, knowledge=knowledge)
        listed = ListedFile(name=stored.original, size=stored.size)
        await fetcher.fetch_all((Fetch(file=listed, name=stored.name, reason="repair"),))
        if fetcher.tally.failures:
            raise fetcher.tally.failures[0][1]
        return fetcher.tally.stored[stored.name]

    async def _from_archive(self, job: Job, stored: StoredFile, staging: Staging) -> StoredFile:
        listing = await self._context.api.listing(self._account.id, job.id)
        listed = planning.archive_in(listing)
        if listed is None:
            message = "the extract has no ZIP"
            raise ZipError(message)
        archive = RemoteArchive(self._context, job=job, sign=self._sign, size=listed.size)
        directory = await open_directory(self._context, archive)
        member = next((member for member in directory.members if member.name == stored.original), None)
        if member is None:
            message = "the ZIP does not contain it"
            raise ZipError(message)
        wanted = Extract(
            file=ListedFile(name=stored.original, size=member.size),
            name=stored.name,
            reason="repair",
            member=member,
            is_listed=False,
        )
        extractor = Extractor(self._context, archive, job=job, staging=staging)
        await extractor.extract(planning.spans_of([member], Method.RANGES, directory), [wanted])
        found = extractor.extraction.stored.get(stored.name)
        if found is None:
            message = extractor.extraction.damaged.get(stored.original, "it could not be read")
            raise ZipError(message)
        return found

    async def _sign(self, job: Job, name: str) -> SignedFile:
        return await self._context.api.sign(self._account.id, job.id, name)
