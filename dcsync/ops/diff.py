"""Choose two snapshots and compare them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, tzinfo
from fnmatch import fnmatchcase

from dcsync.core import diff as diffing
from dcsync.core.diff import SnapshotDiff
from dcsync.core.model import AccountName, JobId, RequestId, Snapshot, StoredFile
from dcsync.core.names import printable
from dcsync.core.ports import KnownRequest
from dcsync.core.table import TableFacts, is_table
from dcsync.errors import DcsyncError, SnapshotUnclear
from dcsync.mirror import disk
from dcsync.mirror.adopt import read_snapshot
from dcsync.mirror.hashing import count_rows
from dcsync.mirror.root import MirrorRoot
from dcsync.ops.context import ReadContext

LATEST = "latest"
PREVIOUS = "previous"
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
#: Fewer characters of an ID are ambiguous. Folder names show 8.
_LEAST_PREFIX = 4
_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A published snapshot to choose from."""

    account: AccountName
    request: RequestId
    slug: str
    description: str
    job: JobId
    folder: str
    completed_at: datetime | None
    #: Whether the retention policy removed its full tables.
    is_reduced: bool = False
    #: Whether the retention policy removed all of it.
    is_pruned: bool = False

    @property
    def group(self) -> tuple[AccountName, RequestId]:
        """The data request of the snapshot."""
        return (self.account, self.request)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two snapshots and their differences.

    `not_compared` are the files that the retention policy removed from one of them. Nothing else counts them.
    """

    before: Candidate
    after: Candidate
    files_before: int
    files_after: int
    diff: SnapshotDiff
    not_compared: tuple[str, ...] = ()
    #: The files of A and of B that are compared, by Autodesk's names.
    stored: tuple[Mapping[str, StoredFile], Mapping[str, StoredFile]] = field(repr=False)


async def compare(
    context: ReadContext, accounts: Sequence[AccountName], before: str, after: str, *, request: str | None = None
) -> Comparison:
    """Compare the snapshots that two words name: a job ID or its beginning, a day, `latest`, or `previous`.

    Tables without a row count are read. Raises `SnapshotUnclear`, which names the choices.
    """
    candidates = await list_candidates(context, accounts, request)
    if not candidates:
        raise no_snapshots(request)
    old, new = choose(candidates, before, after, context.zone)
    sides = [(await _load(context, side)).files for side in (old, new)]
    removed = await _removed(context, old, sides[0], sides[1]) | await _removed(context, new, sides[1], sides[0])
    left, right = ([stored for stored in side if stored.original not in removed] for side in sides)
    return Comparison(
        before=old,
        after=new,
        files_before=len(left),
        files_after=len(right),
        diff=diffing.compare(left, right),
        not_compared=tuple(sorted(removed)),
        stored=({stored.original: stored for stored in left}, {stored.original: stored for stored in right}),
    )


def no_snapshots(request: str | None) -> SnapshotUnclear:
    """Return the error for an account, or for a data request, that has no snapshot."""
    if request is None:
        return SnapshotUnclear("no snapshot has been published", hint="run dcsync sync first, or check --account")
    hint = "run dcsync status, which lists the data requests that have snapshots"
    return SnapshotUnclear(f"no data request with a snapshot matches {request!r}", hint=hint)


async def _removed(
    context: ReadContext, candidate: Candidate, own: Sequence[StoredFile], other: Sequence[StoredFile]
) -> set[str]:
    """Return the files that a reduced snapshot lost, by Autodesk's names. Any other snapshot lost none."""
    if not candidate.is_reduced:
        return set()
    try:
        found = await context.disk.run(read_snapshot, context.root, candidate.folder)
    except DcsyncError:
        found = None
    if found is not None and found.reduced_at is not None:
        return set(found.removed)
    # Without a usable sidecar, a file that the other snapshot has may be one of them.
    return {stored.original for stored in other} - {stored.original for stored in own}


def choose(candidates: Sequence[Candidate], before: str, after: str, zone: tzinfo) -> tuple[Candidate, Candidate]:
    """Return the snapshots that two words name. `candidates` are sorted by time, oldest first.

    A word that is not an ID means a snapshot of the other word's data request, or of the only data request.
    """
    named = {word: by_id(candidates, word) for word in (before, after) if not _is_relative(word)}
    groups = {candidate.group for candidate in named.values()}
    if not groups:
        groups = _groups_with(candidates, (before, after), zone)
    found: list[Candidate] = []
    for word in (before, after):
        if word in named:
            found.append(named[word])
            continue
        if len(groups) > 1:
            raise several_requests(word, [candidate for candidate in candidates if candidate.group in groups])
        found.append(_relative([candidate for candidate in candidates if candidate.group in groups], word, zone))
    return found[0], found[1]


def _is_relative(word: str) -> bool:
    return word in {LATEST, PREVIOUS} or _DAY.fullmatch(word) is not None


def by_id(candidates: Sequence[Candidate], word: str) -> Candidate:
    """Return the snapshot of a job, by its ID or the first characters. Raises `SnapshotUnclear`."""
    wanted = word.replace("-", "").lower()
    exact = [candidate for candidate in candidates if candidate.job == word]
    found = exact or [
        candidate
        for candidate in candidates
        if len(wanted) >= _LEAST_PREFIX and candidate.job.replace("-", "").lower().startswith(wanted)
    ]
    if not found:
        message = f"no published snapshot has the job ID {printable(word)!r}"
        raise SnapshotUnclear(message)
    if len(found) > 1:
        jobs = ", ".join(candidate.job for candidate in found[:_SHOWN])
        message = f"{len(found)} job IDs begin with {printable(word)!r}: {jobs}"
        raise SnapshotUnclear(message, hint="give more characters of the ID")
    return found[0]


def _groups_with(
    candidates: Sequence[Candidate], words: Sequence[str], zone: tzinfo
) -> set[tuple[AccountName, RequestId]]:
    """Return the data requests with a snapshot of each named day. If no data request has one, return all."""
    groups = {candidate.group for candidate in candidates}
    days = [_day(word) for word in words if word not in {LATEST, PREVIOUS}]
    with_days = {
        group
        for group in groups
        if all(
            any(_is_of(candidate, day, zone) for candidate in candidates if candidate.group == group) for day in days
        )
    }
    return with_days or groups


def _relative(candidates: Sequence[Candidate], word: str, zone: tzinfo) -> Candidate:
    # A reduced snapshot is compared only if its ID or its day names it.
    whole = [candidate for candidate in candidates if not candidate.is_reduced]
    if word in {LATEST, PREVIOUS}:
        if not whole:
            message = f"{candidates[-1].slug} has no snapshot with all its tables"
            raise SnapshotUnclear(message, hint="name the snapshots by their IDs or days")
        if word == LATEST:
            return whole[-1]
        if len(whole) < 2:
            message = f"{whole[-1].slug} has no previous snapshot: its only whole one is {whole[-1].folder}"
            raise SnapshotUnclear(message)
        return whole[-2]
    day = _day(word)
    of_day = [candidate for candidate in whole if _is_of(candidate, day, zone)]
    of_day = of_day or [candidate for candidate in candidates if _is_of(candidate, day, zone)]
    if not of_day:
        days = sorted({_local(candidate, zone) for candidate in candidates if candidate.completed_at}, reverse=True)
        message = f"{candidates[-1].slug} has no snapshot of {word}; the latest days are {', '.join(days[:_SHOWN])}"
        raise SnapshotUnclear(message)
    return of_day[-1]


def _day(word: str) -> date:
    try:
        return date.fromisoformat(word)
    except ValueError:
        message = f"{word} is not a valid date"
        raise SnapshotUnclear(message) from None


def _is_of(candidate: Candidate, day: date, zone: tzinfo) -> bool:
    return candidate.completed_at is not None and _local(candidate, zone) == day.isoformat()


def _local(candidate: Candidate, zone: tzinfo) -> str:
    return (candidate.completed_at or datetime.min.replace(tzinfo=UTC)).astimezone(zone).date().isoformat()


def several_requests(word: str, candidates: Sequence[Candidate]) -> SnapshotUnclear:
    """Return the error for a word that means snapshots of several data requests, with the choices."""
    choices = sorted({(candidate.account, candidate.slug) for candidate in candidates})
    shown = "".join(f"\n--account {account} --request {slug}" for account, slug in choices[:_SHOWN])
    more = f"\n… and {len(choices) - _SHOWN} more" if len(choices) > _SHOWN else ""
    message = f"{word!r} may be a snapshot of several data requests:{shown}{more}"
    return SnapshotUnclear(message, hint="add one of the lines above, or give job IDs")


async def list_candidates(
    context: ReadContext, accounts: Sequence[AccountName], wanted: str | None, *, with_pruned: bool = False
) -> Sequence[Candidate]:
    """Return the published snapshots of accounts, oldest first in each, all or those of one data request."""
    found = []
    for account in accounts:
        requests = await context.manifest.requests(account)
        for past in await context.manifest.history.snapshots(account):
            request = requests.get(past.request)
            if (past.is_pruned and not with_pruned) or request is None or not _is_wanted(request, wanted):
                continue
            found.append(
                Candidate(
                    account=account,
                    request=past.request,
                    slug=request.slug,
                    description=request.description,
                    job=past.job,
                    folder=past.folder,
                    completed_at=past.completed_at,
                    is_reduced=past.is_reduced,
                    is_pruned=past.is_pruned,
                )
            )
    return found


def _is_wanted(request: KnownRequest, wanted: str | None) -> bool:
    return wanted is None or wanted in {request.id, request.slug} or fnmatchcase(request.description, wanted)


async def _load(context: ReadContext, candidate: Candidate) -> Snapshot:
    snapshot = await context.manifest.history.snapshot(candidate.account, candidate.job)
    if snapshot is None:
        message = f"the snapshot {candidate.folder} was pruned a moment ago"
        raise SnapshotUnclear(message)
    return await context.disk.run(with_facts, context.root, snapshot)


def with_facts(root: MirrorRoot, snapshot: Snapshot) -> Snapshot:
    """Return a snapshot with header and row count of every table. Tables that 0.1 did not count are read. Blocks.

    A table that is missing or cannot be read has no counts. `verify` reports it.
    """
    if not any(_is_uncounted(stored) for stored in snapshot.files):
        return snapshot
    try:
        with root.folder(snapshot.folder) as folder:
            files = tuple(
                replace(stored, table=_count(folder, stored)) if _is_uncounted(stored) else stored
                for stored in snapshot.files
            )
    except FileNotFoundError:
        return snapshot
    return replace(snapshot, files=files)


def _is_uncounted(stored: StoredFile) -> bool:
    return stored.table is None and is_table(stored.original)


def _count(folder: int, stored: StoredFile) -> TableFacts | None:
    try:
        descriptor = disk.open_file(stored.name, below=folder)
    except OSError:
        return None
    try:
        return count_rows(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)
