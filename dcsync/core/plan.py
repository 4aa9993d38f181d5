"""What to do with each file of an extract, decided before anything is done. Pure; a dry run is stopping here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias

from dcsync.core import names
from dcsync.core.model import ARCHIVE_NAME, ListedFile, Snapshot, StoredFile
from dcsync.core.quota import WINDOW_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Get it by a signed URL of its own; `unless` is the file before it, whose ETag makes a 304 possible."""

    file: ListedFile
    name: str
    reason: str
    unless: StoredFile | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """It is in the staging folder already, whole, from a run that was cut short."""

    file: ListedFile
    name: str
    staged: StoredFile
    reason: str = "staged by an earlier run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """It is not mirrored."""

    file: ListedFile
    reason: str


Action: TypeAlias = Fetch | Keep | Skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The actions for one extract. The largest file comes first, so that none is left running alone at the end."""

    strategy: str
    actions: tuple[Action, ...]

    @property
    def fetches(self) -> tuple[Fetch, ...]:
        """The files to be asked for."""
        return tuple(action for action in self.actions if isinstance(action, Fetch))

    @property
    def kept(self) -> tuple[Keep, ...]:
        """The files that an earlier run staged."""
        return tuple(action for action in self.actions if isinstance(action, Keep))

    @property
    def skipped(self) -> tuple[Skip, ...]:
        """The files that are left out."""
        return tuple(action for action in self.actions if isinstance(action, Skip))

    @property
    def fetch_bytes(self) -> int:
        """The most that may have to be fetched, in bytes: a 304 brings none."""
        return sum(fetch.file.size for fetch in self.fetches)

    @property
    def total_bytes(self) -> int:
        """The size of the snapshot, in bytes."""
        return self.fetch_bytes + sum(keep.file.size for keep in self.kept)

    @property
    def calls(self) -> int:
        """The API calls it takes when nothing goes wrong: one signed URL a file."""
        return len(self.fetches)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which files of an extract are mirrored: globs over the server's names, and whether the ZIP is kept."""

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    keep_archive: bool = False

    def reason_to_skip(self, name: str) -> str | None:
        """Return why a file is left out, or None."""
        if name == ARCHIVE_NAME and not self.keep_archive:
            return "repeats the other files (mirror.keep_archive = false)"
        if not any(fnmatchcase(name, glob) for glob in self.include):
            return "not in the account's include"
        if any(fnmatchcase(name, glob) for glob in self.exclude):
            return "in the account's exclude"
        return None


def plan(
    listing: Sequence[ListedFile],
    *,
    previous: Snapshot | None = None,
    staged: Mapping[str, StoredFile] | None = None,
    selection: Selection | None = None,
    conditional: bool = True,
) -> Plan:
    """Decide for each listed file, in strategy `files`.

    `staged` maps names on disk to what an earlier run left whole in the staging folder. With `conditional` a file of
    the same name in `previous` makes the fetch conditional on its ETag.
    """
    selection = selection or Selection()
    on_disk = names.assign(file.name for file in listing)
    before = {} if previous is None else {stored.original: stored for stored in previous.files}
    actions: list[Action] = []
    for file in sorted(listing, key=lambda listed: (-listed.size, listed.name)):
        name = on_disk[file.name]
        skip = selection.reason_to_skip(file.name)
        kept = (staged or {}).get(name)
        if skip is not None:
            actions.append(Skip(file=file, reason=skip))
        elif kept is not None and kept.original == file.name and kept.size == file.size:
            actions.append(Keep(file=file, name=name, staged=kept))
        else:
            actions.append(_fetch(file, name, before.get(file.name), conditional=conditional))
    return Plan(strategy="files", actions=tuple(actions))


def expected_seconds(*, calls: int, calls_left: int, limit: int, size: int, bytes_per_second: float | None) -> float:
    """Return the time that `calls` signed URLs and `size` bytes take: the slower of the quota and the line.

    `calls_left` of them go at once, then `limit` a minute. Without a measured speed the line counts as endless.
    """
    waiting = max(0, calls - calls_left)
    by_quota = 0.0 if waiting == 0 else -(-waiting // limit) * WINDOW_S
    by_line = 0.0 if not bytes_per_second else size / bytes_per_second
    return max(by_quota, by_line)


def _fetch(file: ListedFile, name: str, before: StoredFile | None, *, conditional: bool) -> Fetch:
    if before is None:
        return Fetch(file=file, name=name, reason="not in the snapshot before")
    if before.size != file.size:
        return Fetch(file=file, name=name, reason=f"its size changed from {before.size}")
    if before.etag is None or not conditional:
        return Fetch(file=file, name=name, reason="of equal size; nothing tells whether it changed")
    return Fetch(file=file, name=name, reason="of equal size; asked for unless unchanged", unless=before)
