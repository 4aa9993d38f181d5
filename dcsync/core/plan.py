"""The plan of an extract: one action for each file, decided before any download. Pure. A dry run ends here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import ClassVar, TypeAlias, TypeVar

from dcsync.core import names
from dcsync.core.cost import CostInputs, Method, Price
from dcsync.core.model import ARCHIVE_NAME, ListedFile, Snapshot, StoredFile
from dcsync.core.ziplayout import Directory, Member, Span, coalesce, split

#: A gap of up to this many bytes between two members is downloaded and discarded. It does not split a range.
GAP = 1 << 12
#: More ranges than this are merged over wider gaps, because each range costs a request, however small it is.
MOST_SPANS = 128
#: How many ranges of the ZIP are downloaded at the same time, and the smallest piece that is worth a range.
SPANS_AT_ONCE = 4
LEAST_SPAN = 4 << 20
#: Files that only the ZIP has may unpack to this many times the bytes of the listing, or of the ZIP. 64 MiB are always
#: allowed (docs/project/faults.md S4). Tables compress to a tenth or so.
MOST_FURTHER, MOST_UNPACKED, FURTHER_ANYWAY = 4, 100, 64 << 20


class ActionKind(StrEnum):
    """The action for a file, as `sync --dry-run --json` names it. A released value does not change."""

    FETCH = "fetch"
    EXTRACT = "extract"
    LINK = "link"
    KEEP = "keep"
    SKIP = "skip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Download the file by a signed URL. The ETag of `unless`, the file in the previous snapshot, may give a 304."""

    kind: ClassVar[ActionKind] = ActionKind.FETCH
    file: ListedFile
    name: str
    reason: str
    unless: StoredFile | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Extract:
    """Extract the file from the ZIP. Only a listed file can be downloaded by its own URL instead."""

    kind: ClassVar[ActionKind] = ActionKind.EXTRACT
    file: ListedFile
    name: str
    reason: str
    member: Member
    is_listed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Hard-link the file of the previous snapshot, because its content is the same."""

    kind: ClassVar[ActionKind] = ActionKind.LINK
    file: ListedFile
    name: str
    reason: str
    source: StoredFile
    packed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Keep the file that an interrupted run left complete in the staging folder."""

    kind: ClassVar[ActionKind] = ActionKind.KEEP
    file: ListedFile
    name: str
    staged: StoredFile
    reason: str = "staged by an earlier run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """Do not mirror the file."""

    kind: ClassVar[ActionKind] = ActionKind.SKIP
    file: ListedFile
    reason: str
    #: Whether the configuration selects the file, but it cannot be extracted from the ZIP, and only the ZIP has it.
    is_lost: bool = False


A = TypeVar("A", Fetch, Extract, Link, Keep, Skip)
Action: TypeAlias = Fetch | Extract | Link | Keep | Skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The actions for one extract. The largest file comes first, so that it does not run alone at the end."""

    actions: tuple[Action, ...]

    @property
    def fetches(self) -> tuple[Fetch, ...]:
        """The files to download one by one."""
        return self._of(Fetch)

    @property
    def extracts(self) -> tuple[Extract, ...]:
        """The files to extract from the ZIP."""
        return self._of(Extract)

    @property
    def links(self) -> tuple[Link, ...]:
        """The files to link from the previous snapshot."""
        return self._of(Link)

    @property
    def skipped(self) -> tuple[Skip, ...]:
        """The files that are left out."""
        return self._of(Skip)

    @property
    def lost(self) -> tuple[Skip, ...]:
        """The selected files that only the ZIP has and that cannot be extracted."""
        return tuple(skip for skip in self.skipped if skip.is_lost)

    @property
    def keeps_archive(self) -> bool:
        """Whether the snapshot contains the ZIP itself."""
        return any(action.file.name == ARCHIVE_NAME and not isinstance(action, Skip) for action in self.actions)

    @property
    def new_bytes(self) -> int:
        """The bytes to write at most. A 304 needs none."""
        return sum(fetch.file.size for fetch in self.fetches) + sum(extract.file.size for extract in self.extracts)

    def by_url(self) -> Plan:
        """Return the plan with each listed file of the ZIP downloaded by its own URL instead."""
        return replace(self, actions=tuple(_by_url(action) for action in self.actions))

    def _of(self, kind: type[A]) -> tuple[A, ...]:
        return tuple(action for action in self.actions if isinstance(action, kind))


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which files of an extract are mirrored: globs for Autodesk's names, and whether the ZIP is kept."""

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    keep_archive: bool = False

    @property
    def digest(self) -> str:
        """Identifies the selection. Equal for equal selections, also in another process."""
        return hashlib.sha256(json.dumps([self.include, self.exclude, self.keep_archive]).encode()).hexdigest()[:16]

    def reason_to_skip(self, name: str) -> str | None:
        """Return the reason why a file is left out, or None."""
        if name == ARCHIVE_NAME and not self.keep_archive:
            return "repeats the other files (mirror.keep_archive = false)"
        if not any(fnmatchcase(name, glob) for glob in self.include):
            return "not in the account's include"
        return self.reason_to_exclude(name)

    def reason_to_exclude(self, name: str) -> str | None:
        """Return the reason why a file is never mirrored, or None."""
        return "in the account's exclude" if any(fnmatchcase(name, glob) for glob in self.exclude) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The facts to compare a listing with."""

    previous: Snapshot | None = None
    #: The files that an earlier run left complete in the staging folder, by name on disk.
    staged: Mapping[str, StoredFile] | None = None
    directory: Directory | None = None
    #: Whether listed files may come from the ZIP. If not, only the files that the listing lacks do.
    uses_zip: bool = True
    #: Why the content of the ZIP is unknown although the ZIP can be downloaded.
    zip_fault: str | None = None
    #: Why the ZIP cannot be downloaded.
    zip_gone: str | None = None
    #: Names on disk that cannot be linked, because the file differs from its record.
    unlinkable: Collection[str] = ()
    #: The damaged members of the ZIP, by Autodesk's name, and their damage.
    damaged: Mapping[str, str] = field(default_factory=dict)
    #: Whether storage supports conditional requests by ETag.
    conditional: bool = True
    #: Whether equal CRC32 and sizes mean equal content.
    trust_crc: bool = True


def plan(listing: Sequence[ListedFile], known: Known | None = None, *, selection: Selection | None = None) -> Plan:
    """Return an action for each listed file and for each extra member of the ZIP."""
    return _Planner(listing, known or Known(), selection or Selection()).plan()


def archive_in(listing: Sequence[ListedFile]) -> ListedFile | None:
    """Return the ZIP of the listing, or None."""
    return next((file for file in listing if file.name == ARCHIVE_NAME), None)


def prices_of(plan: Plan, directory: Directory | None, inputs: CostInputs) -> dict[Method, Price]:
    """Return the price of each method for the downloads of a plan. Without a directory there is only one method.

    Files that the plan downloads one by one anyway cost the same with each method.
    """
    if directory is None:
        fetches = plan.fetches
        size = sum(fetch.file.size for fetch in fetches)
        return {Method.FILES: inputs.price(Method.FILES, calls=len(fetches), size=size, requests=len(fetches))}
    extracts = plan.extracts
    own = len(plan.fetches)
    own_size = sum(fetch.file.size for fetch in plan.fetches)
    only_there = [extract for extract in extracts if not extract.is_listed]
    rest = spans_of([extract.member for extract in only_there], Method.RANGES, directory)
    listed = [extract for extract in extracts if extract.is_listed]
    prices = {}
    for method in Method:
        if method is Method.FILES:
            spans, singles = rest, listed
        else:
            spans, singles = spans_of([extract.member for extract in extracts], method, directory), []
        prices[method] = inputs.price(
            method,
            calls=own + len(singles) + (1 if spans else 0),
            size=own_size
            + sum(span.stop - span.start for span in spans)
            + sum(extract.file.size for extract in singles),
            requests=own + len(spans) + len(singles),
        )
    return prices


def spans_of(members: Sequence[Member], method: Method, directory: Directory) -> tuple[Span, ...]:
    """Return the ranges of the ZIP to download: around the members, or all of it, split for parallel downloads."""
    gap = directory.size if method is Method.WHOLE else GAP
    spans = coalesce(members, gap=gap)
    while len(spans) > MOST_SPANS:
        gap *= 2
        spans = coalesce(members, gap=gap)
    return split(spans, pieces=SPANS_AT_ONCE, least=LEAST_SPAN)


class _Planner:
    def __init__(self, listing: Sequence[ListedFile], known: Known, selection: Selection) -> None:
        self._listing = listing
        self._known = known
        self._selection = selection
        previous, directory = known.previous, known.directory
        self._before = {} if previous is None else {stored.original: stored for stored in previous.files}
        self._members = {} if directory is None else directory.by_name
        self._spelled = {(names.clash_key(file.name), file.size): file.name for file in listing}
        self._refused = {} if directory is None else {refused.name: refused.reason for refused in directory.refused}

    def plan(self) -> Plan:
        archive = archive_in(self._listing)
        listed = [file.name for file in self._listing]
        known = set(listed)
        further = [
            ListedFile(name=member.name, size=member.size)
            for name, member in self._members.items()
            if name not in known
        ]
        # An entry that unpacks to more than its size is stopped there, so the sum is true for the actual output.
        total = sum(file.size for file in further)
        if total > self._most_further():
            self._refused |= {
                file.name: f"together with the other unlisted entries it unpacks to {total} bytes" for file in further
            }
            further = []
        on_disk = names.assign_paths(listed, [file.name for file in further])
        actions = [
            self._decide(file, on_disk.get(file.name), is_listed=True) for file in self._listing if file is not archive
        ]
        actions += [self._decide(file, on_disk.get(file.name), is_listed=False) for file in further]
        actions += [self._refuse(name, reason) for name, reason in self._refused.items() if name not in known]
        if archive is not None:
            lost = [action for action in actions if isinstance(action, Skip) and action.is_lost]
            actions.append(self._decide_archive(archive, on_disk[archive.name], lost))
        return Plan(actions=tuple(sorted(actions, key=lambda action: (-action.file.size, action.file.name))))

    def _most_further(self) -> int:
        """Return how many bytes the files that only the ZIP has may unpack to."""
        directory = self._known.directory
        by_listing = MOST_FURTHER * sum(file.size for file in self._listing if file.name != ARCHIVE_NAME)
        by_zip = 0 if directory is None else MOST_UNPACKED * directory.size
        return max(FURTHER_ANYWAY, by_listing, by_zip)

    def _decide_archive(self, file: ListedFile, name: str, lost: Sequence[Skip]) -> Action:
        """Leave the ZIP out if it repeats the other files, and only then."""
        skip, why = self._selection.reason_to_skip(file.name), None
        if skip is not None:
            if self._known.zip_gone is not None:
                return Skip(file=file, reason=self._known.zip_gone, is_lost=True)
            why = self._reason_to_keep_archive(lost)
            if why is None:
                return Skip(file=file, reason=skip)
            # `include` does not name the ZIP, but it selects files in it. `exclude` is always obeyed.
            excluded = self._selection.reason_to_exclude(file.name)
            if excluded is not None:
                return Skip(file=file, reason=excluded)
        staged = (self._known.staged or {}).get(name)
        if staged is not None and _is_staged(staged, file, None):
            keep = Keep(file=file, name=name, staged=staged)
            return keep if why is None else replace(keep, reason=why)
        fetch = self._fetch(file, name, self._before.get(file.name), None)
        return fetch if why is None else replace(fetch, reason=why)

    def _reason_to_keep_archive(self, lost: Sequence[Skip]) -> str | None:
        if self._known.zip_fault is not None:
            return f"kept, because it cannot be compared with the other files: {self._known.zip_fault}"
        if lost:
            entries = "1 entry" if len(lost) == 1 else f"{len(lost)} entries"
            return f"kept, because {entries} cannot be extracted (first: {names.printable(lost[0].file.name)})"
        return None

    def _refuse(self, name: str, reason: str) -> Skip:
        file = ListedFile(name=name, size=0)
        skip = self._selection.reason_to_skip(name)
        if skip is not None:
            return Skip(file=file, reason=skip)
        return Skip(file=file, reason=f"only in the ZIP, and refused: {reason}", is_lost=True)

    def _decide(self, file: ListedFile, name: str | None, *, is_listed: bool) -> Action:
        skip = self._selection.reason_to_skip(file.name)
        if skip is not None:
            return Skip(file=file, reason=skip)
        twin = None if is_listed else self._twin(file)
        if twin is not None:
            return Skip(file=file, reason=f"only in the ZIP; the data listing spells it {twin!r}")
        if name is None:
            return Skip(file=file, reason="only in the ZIP, and its path leaves the snapshot", is_lost=True)
        member, doubt = self._members.get(file.name), None
        if is_listed and not self._known.uses_zip:
            member = None
        else:
            doubt = self._doubt(file, member)
        staged = (self._known.staged or {}).get(name)
        if staged is not None and _is_staged(staged, file, member if doubt is None else None):
            return Keep(file=file, name=name, staged=staged)
        if doubt is not None and not is_listed:
            return Skip(file=file, reason=f"only in the ZIP; {doubt}", is_lost=True)
        before = self._before.get(file.name)
        if member is None or doubt is not None:
            return self._fetch(file, name, before, doubt)
        change = self._change(name, before, member)
        if change is None and before is not None:
            reason = "CRC32 and sizes equal those in the previous snapshot"
            return Link(file=file, name=name, reason=reason, source=before, packed=member.packed)
        return Extract(file=file, name=name, reason=change or "", member=member, is_listed=is_listed)

    def _twin(self, file: ListedFile) -> str | None:
        """Return the listed name of the same file, if an extra member only spells it differently.

        If the ZIP has the listed name as well, only equal content makes them one file (`schemas/a.csv` and `a.csv`).
        """
        twin = self._spelled.get((names.clash_key(file.name.rpartition("/")[2]), file.size))
        own = None if twin is None else self._members.get(twin)
        return twin if own is None or own.crc32 == self._members[file.name].crc32 else None

    def _doubt(self, file: ListedFile, member: Member | None) -> str | None:
        """Return the reason why the ZIP is not used for a file, or None."""
        if file.name in self._known.damaged:
            return f"damaged in the ZIP: {self._known.damaged[file.name]}"
        if file.name in self._refused:
            return f"refused in the ZIP: {self._refused[file.name]}"
        if member is None:
            return None if self._known.directory is None else "not in the ZIP"
        if member.size != file.size:
            return f"{member.size} bytes in the ZIP, {file.size} bytes in the data listing"
        return None

    def _change(self, name: str, before: StoredFile | None, member: Member) -> str | None:
        """Return how a member differs from the file in the previous snapshot, or None."""
        if before is None:
            return "not in the previous snapshot"
        if name in self._known.unlinkable:
            return "the file in the previous snapshot differs from its record"
        if before.size != member.size:
            return f"size changed from {before.size}"
        if before.crc32 != member.crc32:
            return "CRC32 changed"
        if before.packed not in {None, member.packed}:
            return "compressed size changed"
        return None if self._known.trust_crc else "same CRC32, which is not trusted (mirror.trust_crc = false)"

    def _fetch(self, file: ListedFile, name: str, before: StoredFile | None, doubt: str | None) -> Fetch:
        prefix = "" if doubt is None else f"{doubt}; "
        if before is None:
            return Fetch(file=file, name=name, reason=prefix + "not in the previous snapshot")
        if before.size != file.size:
            return Fetch(file=file, name=name, reason=prefix + f"size changed from {before.size}")
        if before.etag is None or not self._known.conditional:
            return Fetch(file=file, name=name, reason=prefix + "same size, and no ETag to compare")
        return Fetch(
            file=file, name=name, reason=prefix + "same size; requested only if its ETag changed", unless=before
        )


def _by_url(action: Action) -> Action:
    if isinstance(action, Extract) and action.is_listed:
        return Fetch(file=action.file, name=action.name, reason=action.reason)
    return action


def _is_staged(staged: StoredFile, file: ListedFile, member: Member | None) -> bool:
    """Return whether a staged file is still current. Autodesk may have rebuilt the ZIP in the meantime."""
    same = staged.original == file.name and staged.size == file.size
    return same and (member is None or staged.crc32 == member.crc32)
