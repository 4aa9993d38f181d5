"""Rebuild the manifest from the mirror alone: from sidecars, or else folder names and hashes, and the lines of pruning.

A rebuild may be interrupted at any time. The manifest says that it is being rebuilt, and the next start continues.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

import structlog

from dcsync.core import layout
from dcsync.core.layout import request_slug
from dcsync.core.lifecycle import OPEN, JobState
from dcsync.core.model import AccountName, How, Job, JobId, Json, RequestId, Snapshot, StoredFile
from dcsync.core.names import OWN_FILES, SIDECAR_NAME, clash_key, printable
from dcsync.core.ports import KnownRequest
from dcsync.core.sidecar import Adopted, Changes, summarize
from dcsync.core.snapshot import ADOPTED, Record, Transfer
from dcsync.errors import DcsyncError, DiskError, MirrorTampered
from dcsync.manifest import SnapshotRows, StoredValues
from dcsync.mirror import adopt
from dcsync.mirror.check import Survey, survey
from dcsync.mirror.root import OWN_FOLDER
from dcsync.mirror.trash import PRUNED
from dcsync.ops.accounts import account_move, owner_of
from dcsync.ops.context import AccountSettings, MirrorContext, MirrorSettings
from dcsync.ops.integrity.content_reader import ContentReader, ReadingObserver, Unwatched
from dcsync.ops.integrity.reduce import restore_reductions
from dcsync.ops.mirroring.adopt import is_hollow
from dcsync.ops.trash import read_pruned

log = structlog.get_logger(__name__)

#: The key of the note that a rebuild has begun and not ended.
REBUILDING = "rebuilding"
_HINT = "check the folder. If Autodesk still has the extract, move the folder away, and dcsync downloads it again"


class Source(StrEnum):
    """The source of a row."""

    SIDECAR = "sidecar"
    #: The folder's name and its files' hashes: the IDs are as short as in the name (docs/project/faults.md M2).
    NAMES = "names"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """A snapshot that is in the manifest again. `damaged` lists files that differ from what was published."""

    account: AccountName
    job: JobId
    folder: str
    files: int
    source: Source
    damaged: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class RebuildReport:
    """The result of a rebuild. `refused` lists folders that look like snapshots but cannot be adopted, and why."""

    set_aside: str | None = None
    snapshots: list[Rebuilt] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    pruned: int = 0
    read_bytes: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether every snapshot of the mirror is in the manifest and none is damaged."""
        return not self.refused and not any(rebuilt.damaged for rebuilt in self.snapshots)

    def json(self) -> dict[str, Json]:
        """Return the report for programs."""
        return {
            "set_aside": self.set_aside,
            "bytes_read": self.read_bytes,
            "pruned": self.pruned,
            "snapshots": [
                {
                    "account": rebuilt.account,
                    "job": rebuilt.job,
                    "folder": rebuilt.folder,
                    "files": rebuilt.files,
                    "source": rebuilt.source.value,
                    "damaged": list(rebuilt.damaged),
                }
                for rebuilt in self.snapshots
            ],
            "refused": [{"folder": folder, "reason": reason} for folder, reason in self.refused],
        }


async def is_under_way(context: MirrorContext) -> bool:
    """Say whether a rebuild was interrupted."""
    return await StoredValues(context.manifest).load(REBUILDING) is not None


def is_placed(settings: MirrorSettings, folder: str) -> bool:
    """Say whether a folder is where the layout puts a snapshot. Only the date distinguishes it from other folders."""
    where = layout.recognise(settings.layout, folder, settings.zone)
    return where is not None and where.completed_at is not None


async def rebuild(
    context: MirrorContext, accounts: Sequence[AccountSettings], *, observer: ReadingObserver | None = None
) -> RebuildReport:
    """Adopt every snapshot of the mirror, and hash each inode once. `accounts` are the configured accounts.

    A snapshot with a damaged file is recorded as it was published, and the report names the damage. `verify` finds it
    again. Cancelling is safe: the next rebuild does not repeat what is done.
    """
    return await _Rebuild(context, accounts, observer or Unwatched()).run()


class _Rebuild:
    """One rebuild."""

    def __init__(self, context: MirrorContext, accounts: Sequence[AccountSettings], observer: ReadingObserver) -> None:
        self._context = context
        self._accounts = accounts
        self._observer = observer
        self._records = SnapshotRows(context.manifest)
        self._reader = ContentReader(context, observer=observer)
        self._report = RebuildReport()
        #: The folders of all snapshots.
        self._folders: list[str] = []
        self._partly_moved: dict[AccountName, bool] = {}
        self._jobs: set[tuple[str, str]] = set()
        #: The newest snapshot of each data request so far whose sidecar describes the data request.
        self._newest: dict[tuple[AccountName, RequestId], datetime] = {}

    async def run(self) -> RebuildReport:
        context, report = self._context, self._report
        await restore_reductions(context)
        await StoredValues(context.manifest).save(REBUILDING, "yes")
        # The crash that lost the manifest may have come before the fsync of the newest snapshot.
        await context.disk.run(context.root.settle)
        folders = self._folders = await context.disk.run(self._find)
        # Snapshots with a sidecar first. They have the full IDs of requests, and folder names only a part of them.
        unmarked = []
        known = await self._known()
        self._jobs.update((account, job) for account, job, _ in known)
        taken = {folder for *_, folder in known}
        for folder in folders:
            if folder in taken:
                continue
            found = await self._read(folder)
            if found is None:
                unmarked.append(folder)
            else:
                self._observer.snapshot(folder, len(report.snapshots) + 1, len(folders))
                await self._adopt(folder, found, Source.SIDECAR)
        for folder in unmarked:
            self._observer.snapshot(folder, len(report.snapshots) + 1, len(folders))
            found = await self._guess(folder)
            if found is not None:
                await self._adopt(folder, found, Source.NAMES)
        if await self._restore_pruned():
            await StoredValues(context.manifest).save(REBUILDING, None)
        report.read_bytes = self._reader.read_bytes
        # Before the first snapshot, every run checks whether the mirror has one that the manifest lacks.
        report_it = log.warning if report.snapshots or report.refused or report.pruned else log.debug
        report_it(
            "manifest rebuilt from the mirror",
            snapshots=len(report.snapshots),
            damaged=sum(bool(rebuilt.damaged) for rebuilt in report.snapshots),
            refused=len(report.refused),
            pruned=report.pruned,
            in_result="rebuild",
        )
        return report

    def _find(self) -> list[str]:
        settings = self._context.settings
        latest_depth = len(settings.layout.request_segments) + 1

        def is_latest(folder: str) -> bool:
            parts = folder.split("/")
            return len(parts) == latest_depth and parts[-1] == settings.layout.latest_name

        def placed(folder: str) -> bool:
            return is_placed(settings, folder)

        found = [
            folder for folder in adopt.find_snapshots(self._context.root, is_snapshot=placed) if not is_latest(folder)
        ]
        # Folders in the layout first: any other folder with the same snapshot is a copy.
        return sorted(found, key=lambda folder: (not placed(folder), folder))

    async def _known(self) -> list[tuple[AccountName, JobId, str]]:
        """Return account, job and folder of the snapshots that an interrupted rebuild adopted."""
        manifest = self._context.manifest
        return [
            (account, job, folder)
            for account in await manifest.accounts()
            for job, folder in (await manifest.published_folders(account)).items()
        ]

    async def _read(self, folder: str) -> Adopted | None:
        try:
            found = await self._context.disk.run(adopt.read_snapshot, self._context.root, folder)
        except DcsyncError as error:
            log.warning(
                "the metadata file of a snapshot cannot be read", folder=folder, code=error.code, error=error.message
            )
            return None
        if found is None:
            return None
        return replace(found, account=self._owner(found.account, found.account_id, folder))

    def _owner(self, name: AccountName, account_id: str | None, folder: str) -> AccountName:
        if folder and self._is_partly_moved(name):
            return name
        return owner_of(self._accounts, name, account_id, layout=self._context.settings.layout, folder=folder)

    def _is_partly_moved(self, name: AccountName) -> bool:
        """Say whether an account that left the configuration has snapshots in its folder: a rename was cut short."""
        if name not in self._partly_moved:
            is_configured = any(account.name == name for account in self._accounts)
            in_place = (account_move(self._context.settings.layout, folder, name, name) for folder in self._folders)
            self._partly_moved[name] = not is_configured and any(in_place)
        return self._partly_moved[name]

    async def _adopt(self, folder: str, found: Adopted, source: Source) -> None:
        context = self._context
        record = found.record or self._first_record(found)
        if (found.account, found.snapshot.job) in self._jobs:
            self._refuse(folder, f"a copy: job {found.snapshot.job} has another folder")
            return
        known = await context.manifest.job(found.account, found.snapshot.job)
        if known is not None and known.state in OPEN and is_hollow(found, known.job.id):
            # `sync --job` is replacing this snapshot, which has no table.
            return
        taken_by = await context.manifest.folder_taken_by(folder)
        if taken_by not in {None, found.snapshot.job}:
            self._refuse(folder, f"the manifest has this folder for job {taken_by}")
            return
        if len({clash_key(stored.name) for stored in found.snapshot.files}) != len(found.snapshot.files):
            self._refuse(folder, f"{SIDECAR_NAME} lists a file name twice")
            return
        try:
            survey_ = await context.disk.run(survey, context.root, folder)
            sums = await context.disk.run(adopt.usable_sums, context.root, folder)
            files, damaged = await self._compare(folder, found.snapshot.files, survey_, sums)
            await self._records.restore(
                found.account,
                record,
                files=files,
                sidecar_sha256=found.sha256,
                is_newest=self._is_newest(found.account, found),
            )
        except (DiskError, MirrorTampered, FileNotFoundError) as error:
            self._refuse(folder, str(error))
            return
        except UnicodeEncodeError:
            self._refuse(folder, f"{SIDECAR_NAME} contains invalid Unicode")
            return
        self._jobs.add((found.account, found.snapshot.job))
        rebuilt = Rebuilt(
            account=found.account,
            job=found.snapshot.job,
            folder=folder,
            files=len(files),
            source=source,
            damaged=tuple(damaged),
        )
        self._report.snapshots.append(rebuilt)
        log.debug("snapshot adopted", account=found.account, job=rebuilt.job, folder=folder, files=rebuilt.files)
        if damaged:
            log.error(
                "adopted snapshot is damaged", folder=folder, files=len(damaged), first=damaged[0], in_result="rebuild"
            )

    def _is_newest(self, account: AccountName, found: Adopted) -> bool:
        """Say whether no newer snapshot of the data request was adopted: its data request is as Autodesk knows it."""
        completed_at = found.snapshot.completed_at
        key = account, found.snapshot.request
        if found.document is None or completed_at is None or completed_at < self._newest.get(key, completed_at):
            return False
        self._newest[key] = completed_at
        return True

    async def _compare(
        self, folder: str, recorded: Sequence[StoredFile], found: Survey, sums: Mapping[str, str]
    ) -> tuple[list[StoredFile], list[str]]:
        """Return the files with their facts on the disk, and the files that differ from what was published."""
        files, damaged = [], []
        for stored in recorded:
            entry = found.entries.get(stored.name)
            problem = "missing" if entry is None else "not a regular file"
            if entry is not None and entry.is_file:
                try:
                    digest = await self._reader.digest(folder, stored.name, entry)
                except (DcsyncError, FileNotFoundError) as error:
                    problem = str(error)
                else:
                    here = replace(stored, mtime_ns=entry.mtime_ns, inode=entry.inode)
                    if digest.sha256 == stored.sha256:
                        files.append(here)
                        continue
                    if digest.sha256 == sums.get(stored.name):
                        # The file and SHA256SUMS agree, so the sidecar is damaged.
                        files.append(
                            replace(here, size=digest.size, sha256=digest.sha256, crc32=digest.crc32, md5=None)
                        )
                        continue
                    problem = "content differs from the recorded SHA-256"
            # Without its time and inode, no later snapshot links to the file unchecked.
            files.append(stored)
            damaged.append(f"{stored.name}: {problem}")
        return files, damaged

    def _first_record(self, found: Adopted) -> Record:
        """Return a record for a snapshot that has none."""
        snapshot, now = found.snapshot, self._context.clock.now()
        # The slug was fixed at first sight, and the folder has it.
        where = layout.recognise(self._context.settings.layout, snapshot.folder, self._context.settings.zone)
        slug = where.request_slug if where is not None and where.request_slug is not None else None
        return Record(
            job=Job(
                id=snapshot.job,
                request_id=snapshot.request,
                status="complete",
                completion_status="success",
                created_at=found.created_at,
                completed_at=snapshot.completed_at,
            ),
            request=KnownRequest(
                id=snapshot.request,
                description=found.description,
                slug=slug or request_slug(found.description, snapshot.request),
                is_delta=found.is_delta is True,
                is_described=found.is_delta is not None,
            ),
            folder=snapshot.folder,
            first_seen_at=now,
            published_at=now,
            transfer=Transfer(strategy=ADOPTED),
            summary=found.summary,
            reduced_at=found.reduced_at,
        )

    async def _guess(self, folder: str) -> Adopted | None:
        """Return the facts of a snapshot without a sidecar: its place in the layout, and the hashes of its files."""
        context = self._context
        where = layout.recognise(context.settings.layout, folder, context.settings.zone)
        account = None if where is None else where.account
        if account is None and len(self._accounts) == 1:
            account = self._accounts[0].name
        if where is None or where.completed_at is None or account is None:
            self._refuse(folder, f"no usable {SIDECAR_NAME}, and the layout does not have this name")
            return None
        requests = await context.manifest.requests(AccountName(account))
        slug = where.request_slug or "request"
        request = next((known for known in requests.values() if known.slug == slug), None)
        if request is None:
            # The slug has only a part of the ID, and it does not say whether the request is a delta.
            request = KnownRequest(
                id=RequestId(slug.rpartition("-")[2]), description="", slug=slug, is_delta=False, is_described=False
            )
        try:
            found = await context.disk.run(survey, context.root, folder)
            sums = await context.disk.run(adopt.read_sums, context.root, folder)
            files = await self._hash_all(folder, found, sums)
        except (DcsyncError, FileNotFoundError) as error:
            self._refuse(folder, str(error))
            return None
        if not files:
            self._refuse(folder, "it contains no files")
            return None
        return Adopted(
            account=AccountName(account),
            description=request.description,
            is_delta=request.is_delta if request.is_described else None,
            created_at=None,
            snapshot=Snapshot(
                job=JobId(where.job),
                request=request.id,
                folder=folder,
                completed_at=where.completed_at,
                files=tuple(files),
            ),
            summary=summarize(files, Changes(against=None), ()),
        )

    async def _hash_all(self, folder: str, found: Survey, sums: Mapping[str, str]) -> list[StoredFile]:
        files = []
        for name, entry in found.entries.items():
            if name in OWN_FILES or not entry.is_file:
                continue
            if name not in sums and self._context.settings.ignored.covers(name):
                continue
            digest = await self._reader.digest(folder, name, entry)
            # SHA256SUMS says what was published, whatever the file contains now.
            sha256 = sums.get(name, digest.sha256)
            files.append(
                StoredFile(
                    name=name, original=name, size=digest.size, sha256=sha256, crc32=digest.crc32, how=How.FETCHED
                )
            )
        return files

    async def _restore_pruned(self) -> bool:
        """Record the pruned snapshots. Return False if their lines cannot be read: the next start tries it again."""
        context = self._context
        lines = await read_pruned(context)
        if lines is None:
            self._report.refused.append((f"{OWN_FOLDER}/{PRUNED}", "the lines of pruned snapshots cannot be read"))
            return False
        jobs = {account: await context.manifest.jobs(account) for account in await context.manifest.accounts()}
        configured = {account.name for account in self._accounts}
        for pruned in lines:
            folder, job = pruned.record.folder, pruned.record.job
            is_left = pruned.account in jobs and pruned.account not in configured
            account = pruned.account if is_left else self._owner(pruned.account, job.account_id, "")
            known = jobs.get(account, {}).get(job.id)
            if known is not None and known.state is not JobState.PRUNED:
                # The folder exists: the pruning was interrupted, or the snapshot was downloaded again.
                continue
            if await context.manifest.folder_taken_by(folder) in {None, job.id}:
                try:
                    await self._records.restore(account, pruned.record)
                except UnicodeEncodeError:
                    log.warning("the line of a pruned snapshot contains invalid Unicode", folder=printable(folder, 300))
                    continue
                self._report.pruned += 1
        return True

    def _refuse(self, folder: str, reason: str) -> None:
        self._report.refused.append((folder, reason))
        log.warning(
            "folder cannot be adopted", folder=printable(folder, 300), reason=reason, hint=_HINT, in_result="rebuild"
        )
