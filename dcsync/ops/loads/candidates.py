"""The newest state of the tables that a load wants, from the manifest and the row histories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dcsync.core.load_plan import Candidate
from dcsync.core.load_settings import LoadSettings, chain
from dcsync.core.loads import LoadMode
from dcsync.core.model import RequestId, Snapshot, StoredFile
from dcsync.core.ports import KnownRequest
from dcsync.core.row_history import table_name
from dcsync.core.summary import PastSnapshot
from dcsync.core.table import has_rows
from dcsync.ops.context import AccountSettings, MirrorContext
from dcsync.ops.history.files import HistoryFolder


@dataclass(slots=True, kw_only=True)
class Found:
    """The candidates of a load, and for each path the snapshot whose schema documents describe it, and its name there.

    `files` has the identity of the file of each row history. `has_snapshots` says whether the accounts have any.
    """

    candidates: list[Candidate] = field(default_factory=list)
    snapshots: dict[str, tuple[Snapshot, str]] = field(default_factory=dict)
    files: dict[str, tuple[int, int]] = field(default_factory=dict)
    has_snapshots: bool = False

    def add(self, candidate: Candidate, snapshot: Snapshot, original: str) -> None:
        """Add a candidate, whose columns this snapshot describes below this name."""
        self.candidates.append(candidate)
        self.snapshots[candidate.path] = (snapshot, original)


async def find_candidates(context: MirrorContext, accounts: Sequence[AccountSettings], settings: LoadSettings) -> Found:
    """Return the newest state of each table. Data requests are in the order of their first snapshots."""
    found = Found()
    for account in accounts:
        if not settings.wants_account(account.name):
            continue
        requests = await context.manifest.requests(account.name)
        there: dict[RequestId, list[PastSnapshot]] = {}
        for past in await context.manifest.history.snapshots(account.name):
            if not past.is_pruned:
                there.setdefault(past.request, []).append(past)
        found.has_snapshots = found.has_snapshots or bool(there)
        for identifier, snapshots in there.items():
            request = requests.get(identifier)
            if request is not None and account.wants_request(request) and settings.wants_request(request):
                await _find_of_request(context, account, settings, request, snapshots, found)
    return found


async def _find_of_request(
    context: MirrorContext,
    account: AccountSettings,
    settings: LoadSettings,
    request: KnownRequest,
    there: Sequence[PastSnapshot],
    found: Found,
) -> None:
    # A snapshot without a time has no place in the order.
    whole = [past for past in there if past.is_whole and past.completed_at is not None]
    newest = await context.manifest.history.snapshot(account.name, whole[-1].job) if whole else None
    if newest is None:
        return
    if settings.mode is LoadMode.HISTORY:
        folder = context.settings.layout.history_folder(there[-1].folder, request.slug)
        await _find_histories(context, account, settings, request, folder, newest, found)
        return
    for stored in newest.files:
        if settings.wants_table(stored.original) or settings.wants_table(stored.name):
            found.add(_of_csv(account, request, newest, stored), newest, stored.original)


def _of_csv(account: AccountSettings, request: KnownRequest, snapshot: Snapshot, stored: StoredFile) -> Candidate:
    assert snapshot.completed_at is not None  # noqa: S101 - the caller looked
    return Candidate(
        account=account.name,
        request=request.id,
        name=table_name(stored.name),
        path=f"{snapshot.folder}/{stored.name}",
        job=snapshot.job,
        completed=snapshot.completed_at,
        sha256=stored.sha256,
        rows=None if stored.table is None else stored.table.rows,
        kind=stored.kind,
    )


async def _find_histories(
    context: MirrorContext,
    account: AccountSettings,
    settings: LoadSettings,
    request: KnownRequest,
    folder: str,
    newest: Snapshot,
    found: Found,
) -> None:
    state = await context.disk.run(HistoryFolder(context.root, folder, request.id, request.slug).read)
    originals = {table_name(stored.name): stored.original for stored in newest.files if has_rows(stored.original)}
    for name, table in state.tables.items():
        if not table.steps or table.file is None or not settings.wants_table(f"{name}.csv"):
            continue
        last, states = table.steps[-1], chain(table.steps)
        candidate = Candidate(
            account=account.name,
            request=request.id,
            name=name,
            path=f"{folder}/{name}.parquet",
            job=last.job,
            completed=last.time,
            sha256=states[-1],
            rows=last.rows,
            kind=table.kind,
            earlier=frozenset(states[:-1]),
        )
        found.add(candidate, newest, originals.get(name, ""))
        found.files[candidate.path] = table.file
