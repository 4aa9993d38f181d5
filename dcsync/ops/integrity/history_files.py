"""The Parquet files of row histories, read again like the files of snapshots: they may be the only copy of rows."""

from __future__ import annotations

import json
from collections.abc import Callable

from dcsync.core.model import AccountName
from dcsync.core.ports import KnownRequest
from dcsync.core.row_history import STATE_NAME, RequestState, TableHistory
from dcsync.core.row_history_json import parse_state
from dcsync.errors import DcsyncError, MirrorLocked
from dcsync.mirror.check import Entry, survey
from dcsync.mirror.root import OWN_FOLDER, FileLock, MirrorRoot
from dcsync.ops.context import MirrorContext
from dcsync.ops.integrity.content_reader import ContentReader
from dcsync.ops.integrity.report import Damage, Kind

#: The folder below `.dcsync` for unfinished files.
WORK = "history"
_DO = "dcsync history --rebuild builds it again, unless only this file has rows: then restore it from a backup"


def building_lock(root: MirrorRoot, slug: str) -> FileLock:
    """Return the lock of a data request's row history, for the time of a build. Blocks."""
    with root.folder(f"{OWN_FOLDER}/{WORK}", create=True):
        path = root.path / OWN_FOLDER / WORK / f"{slug}.lock"
    return FileLock(path, f"the row history of {slug}", role=None)


async def damaged_histories(
    context: MirrorContext, account: AccountName, reader: ContentReader, *, reads: Callable[[str], bool]
) -> list[Damage]:
    """Return the problems of the files that `history.json` records, of those whose path `reads` chooses."""
    requests = await context.manifest.requests(account)
    newest = {past.request: past for past in await context.manifest.history.snapshots(account) if not past.is_pruned}
    found: list[Damage] = []
    for identifier, past in newest.items():
        if identifier in requests:
            request = requests[identifier]
            folder = context.settings.layout.history_folder(past.folder, request.slug)
            found += await _Files(context, account, request, folder, reader).check(reads)
    return found


class _Files:
    """The files of one data request."""

    def __init__(
        self, context: MirrorContext, account: AccountName, request: KnownRequest, folder: str, reader: ContentReader
    ) -> None:
        self._context = context
        self._account = account
        self._request = request
        self._folder = folder
        self._reader = reader

    async def check(self, reads: Callable[[str], bool]) -> list[Damage]:
        """Compare each file with its SHA-256."""
        found: list[Damage] = []
        for name in (await self._state()).tables:
            if reads(self._path(name)) and await self._problem(name) is not None:
                problem = await self._settled_problem(name)
                found += [] if problem is None else [self._damage(name, *problem)]
        return found

    async def _state(self) -> RequestState:
        try:
            body = await self._context.disk.run(self._context.root.read_file, self._folder, STATE_NAME)
            return parse_state(json.loads(body), self._request.id)
        except (FileNotFoundError, ValueError):
            # The next build completes it from the files.
            return RequestState()

    async def _settled_problem(self, name: str) -> tuple[Kind, str] | None:
        """Look again while no build replaces files. None if one does."""
        try:
            with await self._context.disk.run(building_lock, self._context.root, self._request.slug):
                return await self._problem(name)
        except MirrorLocked:
            return None

    async def _problem(self, name: str) -> tuple[Kind, str] | None:
        history = (await self._state()).tables.get(name)
        if history is None or history.file is None or history.sha256 is None:
            return None
        try:
            entry = await self._entry(name)
            if entry is None:
                return Kind.MISSING, "the file does not exist"
            if not entry.is_file:
                return Kind.CHANGED, "not a regular file"
            digest = await self._reader.digest(self._folder, f"{name}.parquet", entry)
        except FileNotFoundError:
            return Kind.MISSING, "the file does not exist"
        except DcsyncError as error:
            return Kind.UNREADABLE, error.message
        if digest.sha256 == history.sha256:
            return None
        return _different(history, digest.size, digest.sha256)

    async def _entry(self, name: str) -> Entry | None:
        there = await self._context.disk.run(survey, self._context.root, self._folder)
        if f"{name}.parquet" in there.errors:
            raise there.errors[f"{name}.parquet"]
        return there.entries.get(f"{name}.parquet")

    def _damage(self, name: str, kind: Kind, detail: str) -> Damage:
        path = self._path(name)
        return Damage(kind=kind, account=self._account, job=None, path=path, detail=f"{detail}: {_DO}", key=path)

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}.parquet"


def _different(history: TableHistory, size: int, sha256: str) -> tuple[Kind, str]:
    recorded = 0 if history.file is None else history.file[0]
    if size < recorded:
        return Kind.TRUNCATED, f"it has {size} bytes, {recorded} were written"
    return Kind.CHANGED, f"its SHA-256 is {sha256}, {history.sha256} was recorded"
