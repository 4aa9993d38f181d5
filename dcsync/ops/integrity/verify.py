"""Read every byte of the mirror again and compare it with the manifest and `SHA256SUMS`.

A part reads only its share of the contents. Each content belongs to one part, for all snapshots that share it, so all
parts together read everything once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import lru_cache

import structlog

from dcsync.core import sidecar
from dcsync.core.layout import recognise
from dcsync.core.lifecycle import ON_DISK, OPEN, JobState
from dcsync.core.model import AccountName, JobId, Snapshot
from dcsync.core.names import OWN_FILES, SIDECAR_NAME, SUMS_NAME
from dcsync.errors import DcsyncError, DiskFault, MirrorTampered
from dcsync.manifest import SnapshotRows, StoredValues
from dcsync.manifest.damage import record_damage
from dcsync.mirror import adopt
from dcsync.mirror.check import Entry, Survey, survey
from dcsync.ops.context import AccountSettings, MirrorContext, SyncContext
from dcsync.ops.integrity.content_reader import ContentReader, ReadingObserver, Unwatched
from dcsync.ops.integrity.history_files import damaged_histories
from dcsync.ops.integrity.rebuild import is_placed
from dcsync.ops.integrity.repair import repair_files, repair_folders
from dcsync.ops.integrity.report import Damage, Kind, Outcome, Repairable, VerifyReport

log = structlog.get_logger(__name__)

#: The key of the part that the last nightly run read.
_LAST_PART = "verify.part"
#: Another process that prunes renames a folder at most this long before it records that.
_PRUNING_S = 1.0
#: How many snapshots are read from the manifest at once. They share most of their files.
_SNAPSHOTS_AT_ONCE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One share of several, counted from 1."""

    number: int
    of: int

    def has(self, key: str) -> bool:
        """Say whether this part reads a content or folder. The answer never changes."""
        return self.of == 1 or _number_of(key) % self.of == self.number - 1


WHOLE = Part(number=1, of=1)


@lru_cache(maxsize=1 << 16)
def _number_of(key: str) -> int:
    """Return the number that decides about the part. Cached, because many snapshots share each content."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big")


async def verify(
    context: MirrorContext,
    accounts: Sequence[AccountSettings],
    *,
    part: tuple[int, int] | None = None,
    repair: bool = False,
    records: bool = False,
    rate: int | None = None,
    observer: ReadingObserver | None = None,
    repairing: Callable[[AccountName], AbstractAsyncContextManager[object]] = nullcontext,
) -> VerifyReport:
    """Read the published snapshots of `accounts`, or a part of them, at most `rate` bytes per second.

    With `repair`, which needs a `SyncContext`, damaged files are replaced by a copy in the mirror, or else downloaded
    again while Autodesk has them. The damaged file is kept in quarantine. `repairing` is held while an account's files
    are replaced. Problems are in the report and are not
    raised. With `repair` or `records`, which need a writable manifest, the manifest keeps them as an alert. Cancelling
    is safe.
    """
    observer = observer or Unwatched()
    reader = ContentReader(context, rate=rate, observer=observer)
    report = VerifyReport(part=part)
    chosen = WHOLE if part is None else Part(number=part[0], of=part[1])
    for account in accounts:
        await _Verification(
            context,
            account,
            chosen,
            reader,
            report,
            records=repair or records,
            observer=observer,
            repairing=repairing if repair else None,
        ).run()
    report.files, report.read_bytes = reader.read_files, reader.read_bytes
    _log_report(report)
    return report


async def verify_nightly(
    context: MirrorContext,
    accounts: Sequence[AccountSettings],
    *,
    days: int,
    repair: bool = False,
    rate: int | None = None,
    observer: ReadingObserver | None = None,
) -> VerifyReport:
    """Read the part after the last one, so that everything is read within `days` nights.

    A missed or interrupted night delays the parts by one night. No part is skipped.
    """
    values = StoredValues(context.manifest)
    last = await values.load(_LAST_PART)
    number = 1
    if last is not None and last.endswith(f"/{days}") and last.partition("/")[0].isdigit():
        number = int(last.partition("/")[0]) % days + 1
    report = await verify(
        context, accounts, part=(number, days), repair=repair, records=True, rate=rate, observer=observer
    )
    await values.save(_LAST_PART, f"{number}/{days}")
    return report


@dataclass(frozen=True, slots=True, kw_only=True)
class _Expected:
    """A file that must exist. `size` is unknown for our own files. `body` is set if it can be generated again."""

    sha256: str
    size: int | None = None
    body: bytes | None = field(default=None, repr=False)


class _Verification:
    """One account's share."""

    def __init__(
        self,
        context: MirrorContext,
        account: AccountSettings,
        part: Part,
        reader: ContentReader,
        report: VerifyReport,
        *,
        records: bool,
        observer: ReadingObserver,
        repairing: Callable[[AccountName], AbstractAsyncContextManager[object]] | None,
    ) -> None:
        """Without `repairing`, nothing is repaired."""
        self._context = context
        self._account = account
        self._part = part
        self._reader = reader
        self._report = report
        self._records_damage = records
        self._observer = observer
        self._repairing = repairing
        self._records = SnapshotRows(context.manifest)
        self._found: list[Damage] = []
        self._repairables: list[Repairable] = []

    async def run(self) -> None:
        jobs = await self._context.manifest.jobs(self._account.name, states=ON_DISK)
        published = list(jobs.values())
        # The newest first, because the next snapshot links to its files.
        published.sort(key=lambda known: (known.folder or "", known.job.id), reverse=True)
        for start in range(0, len(published), _SNAPSHOTS_AT_ONCE):
            batch = published[start : start + _SNAPSHOTS_AT_ONCE]
            # A snapshot that is pruned or reduced from here on is looked at again.
            found = await self._records.snapshots(self._account.name, [known.job.id for known in batch])
            for number, known in enumerate(batch, start + 1):
                self._observer.snapshot(known.folder or "", number, len(published))
                if known.job.id in found:
                    self._report.snapshots += 1
                    await self._check_snapshot(*found[known.job.id])
        await self._unknown_folders()
        if self._found:
            whole = {job for job, known in jobs.items() if known.state is JobState.PUBLISHED}
            async with nullcontext() if self._repairing is None else self._repairing(self._account.name):
                await self._look_again(whole)
                if self._repairing is not None and self._found:
                    await self._repair()
        name = self._account.name
        self._found += await damaged_histories(self._context, name, self._reader, reads=self._part.has)
        self._report.damage += self._found
        if self._records_damage:
            await self._record()

    async def _repair(self) -> None:
        assert isinstance(self._context, SyncContext)  # noqa: S101 - repairing fetches
        folders = await repair_folders(self._context, self._account, self._found)
        self._found = await repair_files(self._context, self._account, folders, self._repairables, self._reader)

    async def _record(self) -> None:
        """Keep the problems that remain, for the alert that stands until a later verify finds none."""
        name = self._account.name
        await record_damage(self._context.manifest, name, self._report.remaining(name), was_read=self._part.has)

    async def _look_again(self, whole: Collection[JobId]) -> None:
        """Forget problems in snapshots that were pruned during the check, and check again those that were reduced.

        `whole` are the jobs whose snapshots had all their files at the beginning.
        """
        # The row is written some fsyncs after the rename.
        await self._context.clock.sleep(_PRUNING_S)
        now = await self._context.manifest.jobs(self._account.name, states=ON_DISK)
        reduced = {job for job in whole if job in now and now[job].state is JobState.REDUCED}
        kept = now.keys() - reduced
        reduced &= {found.job for found in self._found}
        self._found = [found for found in self._found if found.job is None or found.job in kept]
        self._repairables = [repairable for repairable in self._repairables if repairable.damage.job in kept]
        for job in sorted(reduced):
            found = await self._records.snapshot(self._account.name, job)
            if found is not None:
                await self._check_snapshot(*found)

    async def _check_snapshot(self, snapshot: Snapshot, sidecar_sha256: str | None) -> None:
        root, folder = self._context.root, snapshot.folder
        try:
            there = await self._context.disk.run(survey, root, folder)
        except FileNotFoundError:
            self._find(Kind.MISSING, snapshot.job, folder, "the snapshot folder is missing", is_folder=True)
            return
        except DcsyncError as error:
            kind = Kind.CHANGED if isinstance(error, MirrorTampered) else Kind.UNREADABLE
            self._find(kind, snapshot.job, folder, error.message)
            return
        await self._files(snapshot, there)
        if self._part.has(folder):
            await self._folder(snapshot, sidecar_sha256, there)

    async def _files(self, snapshot: Snapshot, there: Survey) -> None:
        """Compare the files that Autodesk delivered."""
        for stored in snapshot.files:
            # Most files are further names of an inode that was read for another snapshot.
            if self._reader.has_read(there.entries.get(stored.name), stored.sha256):
                continue
            if self._part.has(stored.sha256):
                wanted = _Expected(sha256=stored.sha256, size=stored.size)
                await self._file(snapshot, stored.name, wanted, there)

    async def _folder(self, snapshot: Snapshot, sidecar_sha256: str | None, there: Survey) -> None:
        """Compare our own files, and look for extra ones."""
        folder = snapshot.folder
        sums = await self._sums(folder) if sidecar_sha256 is None else {}
        for name, wanted in self._own_files(snapshot, sidecar_sha256, sums).items():
            await self._file(snapshot, name, wanted, there)
        if sidecar_sha256 is None:
            self._compare_sums(snapshot, sums)
        for name in sorted(there.entries.keys() - {stored.name for stored in snapshot.files} - OWN_FILES):
            if self._context.settings.ignored.covers(name):
                self._report.ignored_files += 1
                continue
            self._find(Kind.EXTRA, snapshot.job, f"{folder}/{name}", "not a file of the snapshot", key=folder)

    async def _sums(self, folder: str) -> Mapping[str, str]:
        # The check of SHA256SUMS itself reports an error.
        with suppress(FileNotFoundError):
            return await self._context.disk.run(adopt.usable_sums, self._context.root, folder)
        return {}

    def _own_files(
        self, snapshot: Snapshot, sidecar_sha256: str | None, sums: Mapping[str, str]
    ) -> dict[str, _Expected]:
        """Return the expected `_dcsync.json` and `SHA256SUMS`. An adopted snapshot may have neither."""
        if sidecar_sha256 is None:
            said = sums.get(SIDECAR_NAME)
            return {} if said is None else {SIDECAR_NAME: _Expected(sha256=said)}
        lines = [(stored.name, stored.sha256) for stored in snapshot.files]
        body = sidecar.render_sums([*lines, (SIDECAR_NAME, sidecar_sha256)])
        return {
            SIDECAR_NAME: _Expected(sha256=sidecar_sha256),
            SUMS_NAME: _Expected(sha256=hashlib.sha256(body).hexdigest(), size=len(body), body=body),
        }

    def _compare_sums(self, snapshot: Snapshot, sums: Mapping[str, str]) -> None:
        other = [stored.name for stored in snapshot.files if sums and sums.get(stored.name) != stored.sha256]
        if other:
            detail = f"SHA256SUMS disagrees with the manifest for {len(other)} files (first: {other[0]})"
            self._find(Kind.CHANGED, snapshot.job, f"{snapshot.folder}/{SUMS_NAME}", detail, key=snapshot.folder)

    async def _file(self, snapshot: Snapshot, name: str, wanted: _Expected, there: Survey) -> None:
        """Compare one file and add the problem, if there is one."""
        entry = there.entries.get(name)
        error = next((there.errors[path] for path in _above(name) if path in there.errors), None)
        if entry is None and error is not None:
            self._find_repairable(Kind.UNREADABLE, snapshot, name, wanted, error.message, error=error)
        elif entry is None:
            self._find_repairable(Kind.MISSING, snapshot, name, wanted, "the file does not exist")
        elif not entry.is_file:
            self._find_repairable(Kind.CHANGED, snapshot, name, wanted, "not a regular file")
        elif wanted.size is not None and entry.size != wanted.size:
            kind = Kind.TRUNCATED if entry.size < wanted.size else Kind.CHANGED
            detail = f"it has {entry.size} bytes, {wanted.size} were published"
            self._find_repairable(kind, snapshot, name, wanted, detail, entry=entry)
        else:
            await self._content(snapshot, name, wanted, entry)

    async def _content(self, snapshot: Snapshot, name: str, wanted: _Expected, entry: Entry) -> None:
        try:
            digest = await self._reader.digest(snapshot.folder, name, entry)
        except FileNotFoundError:
            self._find_repairable(Kind.MISSING, snapshot, name, wanted, "the file does not exist")
        except DcsyncError as error:
            self._find_repairable(Kind.UNREADABLE, snapshot, name, wanted, error.message, entry=entry, error=error)
        else:
            if digest.sha256 == wanted.sha256:
                return
            is_own = name in {SIDECAR_NAME, SUMS_NAME}
            if not is_own and digest.sha256 == (await self._sums(snapshot.folder)).get(name):
                detail = f"it matches {SUMS_NAME} but not the manifest: run dcsync rebuild"
                key = _key(snapshot, name, wanted)
                self._find(Kind.CHANGED, snapshot.job, f"{snapshot.folder}/{name}", detail, key=key)
                return
            detail = f"its SHA-256 is {digest.sha256}, {wanted.sha256} was published"
            self._find_repairable(Kind.CHANGED, snapshot, name, wanted, detail, entry=entry)

    async def _unknown_folders(self) -> None:
        """Find folders that look like snapshots of this account but are not in the manifest."""
        context, name = self._context, self._account.name
        settings = context.settings
        known = {
            folder
            for account in await context.manifest.accounts()
            for folder in (await context.manifest.published_folders(account)).values()
        }

        def is_one(folder: str) -> bool:
            return is_placed(settings, folder)

        def find() -> list[str]:
            depth = len(settings.layout.request_segments)
            found = []
            for folder in adopt.find_snapshots(context.root, is_snapshot=is_one):
                parts = folder.split("/")
                is_latest = len(parts) == depth + 1 and parts[-1] == settings.layout.latest_name
                if is_latest or folder in known or settings.ignored.covers(folder):
                    continue
                if self._part.has(folder) and self._is_ours(folder):
                    found.append(folder)
            return found

        for folder in await context.disk.run(find):
            job = await context.manifest.folder_taken_by(folder)
            taker = None if job is None else await context.manifest.job(name, job)
            is_published = taker is not None and taker.state in ON_DISK and taker.folder == folder
            if is_published or (taker is not None and taker.state in OPEN):
                # It was published during the check, or is about to be. Otherwise the next run adopts it.
                continue
            detail = "a snapshot that is not in the manifest; run dcsync rebuild to adopt it"
            self._find(Kind.EXTRA, None, folder, detail, key=folder)

    def _is_ours(self, folder: str) -> bool:
        """Say whether an unknown folder belongs or may belong to this account. Blocks."""
        settings = self._context.settings
        try:
            snapshot = adopt.read_snapshot(self._context.root, folder)
        except DcsyncError:
            snapshot = None
        where = recognise(settings.layout, folder, settings.zone)
        account = snapshot.account if snapshot is not None else None if where is None else where.account
        return account in {None, self._account.name}

    def _find(
        self,
        kind: Kind,
        job: JobId | None,
        path: str,
        detail: str,
        *,
        is_folder: bool = False,
        key: str | None = None,
    ) -> None:
        name = self._account.name
        self._found.append(
            Damage(kind=kind, account=name, job=job, path=path, detail=detail, is_folder=is_folder, key=key)
        )

    def _find_repairable(
        self,
        kind: Kind,
        snapshot: Snapshot,
        name: str,
        wanted: _Expected,
        detail: str,
        *,
        entry: Entry | None = None,
        error: DcsyncError | None = None,
    ) -> None:
        self._find(kind, snapshot.job, f"{snapshot.folder}/{name}", detail, key=_key(snapshot, name, wanted))
        if error is not None and not isinstance(error, DiskFault):
            # An error such as a missing permission does not mean that the file is damaged.
            return
        self._repairables.append(
            Repairable(
                damage=self._found[-1],
                folder=snapshot.folder,
                name=name,
                sha256=wanted.sha256,
                stored=next((stored for stored in snapshot.files if stored.name == name), None),
                body=wanted.body,
                inode=None if entry is None else (entry.device, entry.inode),
            )
        )


def _key(snapshot: Snapshot, name: str, wanted: _Expected) -> str:
    """Return the key that decides which part reads a file: its content, or the folder for our own files."""
    return snapshot.folder if name in {SIDECAR_NAME, SUMS_NAME} else wanted.sha256


def _above(name: str) -> list[str]:
    """Return the paths whose error may hide a file: its own path and the folders above it."""
    parts = name.split("/")
    return [name, *("/".join(parts[:count]) + "/" * (count > 0) for count in range(len(parts)))]


def _log_report(report: VerifyReport) -> None:
    for item in report.damage:
        level = log.error if item.outcome in {Outcome.LOST, Outcome.FOUND} else log.warning
        level(
            f"{item.kind} in the mirror",
            account=item.account,
            job=item.job,
            path=item.path,
            detail=item.detail,
            outcome=item.outcome.value,
            in_result="verify",
        )
    if report.damage or report.files:
        log.info(
            "snapshots verified",
            snapshots=report.snapshots,
            files=report.files,
            read_bytes=report.read_bytes,
            damage=len(report.damage),
            ignored_files=report.ignored_files,
            part=None if report.part is None else f"{report.part[0]}/{report.part[1]}",
            in_result="verify",
        )
