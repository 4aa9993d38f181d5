"""The files of the row history of one data request. Blocks.

A Parquet file is written in `.dcsync/history`, fsynced and renamed into place, so that every reader has a whole one.
It has its steps in its metadata. `history.json` repeats them, and is replaced afterwards.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from dcsync.core.row_history import STATE_NAME, RequestState, TableHistory, is_continued, is_of_other_table
from dcsync.core.row_history_json import parse_state, state_json
from dcsync.core.table import TableKind
from dcsync.errors import RowsFailed
from dcsync.mirror import disk
from dcsync.mirror.durable import replace_durably
from dcsync.mirror.hashing import hash_descriptor
from dcsync.mirror.root import OWN_FOLDER, MirrorRoot
from dcsync.opening import NotRegular, open_regular
from dcsync.ops.history.prove import sealed
from dcsync.ops.history.steps import parquet, read_metadata
from dcsync.ops.integrity.history_files import WORK
from dcsync.rows import Engine

_MODE = 0o644
_SUFFIX = ".parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A Parquet file that cannot be used, and what is known about its steps. `is_there` says that it exists."""

    reason: str
    history: TableHistory | None
    is_there: bool = True


class FileDamaged(Exception):
    """A Parquet file is no longer the recorded one."""

    def __init__(self, lost: Lost) -> None:
        super().__init__(lost.reason)
        self.lost = lost


class HistoryFolder:
    """The folder with the history of one data request."""

    def __init__(self, root: MirrorRoot, path: str, request: str, slug: str = "") -> None:
        """Name the folder. `slug` names the data request's unfinished files, which only a build has."""
        self.path = path
        #: The folder for unfinished files of this data request.
        self.work = f"{OWN_FOLDER}/{WORK}{root.mark}/{slug}"
        self.slug = slug
        self._root = root
        self._request = request

    def read(self) -> RequestState:
        """Return what `history.json` says. Empty if it is missing or cannot be used."""
        try:
            return parse_state(json.loads(self._root.read_file(self.path, STATE_NAME)), self._request)
        except (FileNotFoundError, ValueError):
            return RequestState()

    def take_over(self, places: Iterable[str]) -> None:
        """Move the history here from the first place that has it: the layout has changed."""
        for place in places:
            elsewhere = HistoryFolder(self._root, place, self._request, self.slug)
            if place == self.path or elsewhere.read() == RequestState():
                continue
            (source, _, name), (target, _, new) = place.rpartition("/"), self.path.rpartition("/")
            with (
                self._root.folder(source) as old,
                self._root.folder(target, create=True) as parent,
                disk.disk_errors(f"moving {place} to {self.path}"),
            ):
                disk.rename(name, old, new, parent)
                os.fsync(parent)
                os.fsync(old)
            return

    def write(self, state: RequestState) -> None:
        """Replace `history.json`, durably."""
        body = json.dumps(state_json(self._request, state), separators=(",", ":")).encode() + b"\n"
        with self._root.folder(self.path, create=True) as folder, disk.disk_errors(f"writing {self.path}/{STATE_NAME}"):
            replace_durably(folder, STATE_NAME, body, mode=_MODE)

    def names(self) -> list[str]:
        """Return the names of the tables that have a Parquet file."""
        try:
            with self._root.folder(self.path) as folder:
                entries = os.listdir(folder)  # noqa: PTH208 - an open folder
                return sorted(name.removesuffix(_SUFFIX) for name in entries if name.endswith(_SUFFIX))
        except FileNotFoundError:
            return []

    def has_recorded(self, name: str, history: TableHistory) -> bool:
        """Say whether the file of a table is the recorded one, as far as its size and time tell."""
        if history.lost:
            return False
        try:
            with self.opened(name) as descriptor:
                return identity(descriptor) == history.file
        except FileNotFoundError:
            return not history.steps
        except OSError:
            return False

    def check(self, name: str, listed: TableHistory | None, engine: Callable[[], Engine]) -> TableHistory | Lost | None:
        """Return the history of a table as its Parquet file has it. None without a file.

        The file is read only if `history.json` does not know it.
        """
        try:
            with self.opened(name) as descriptor:
                if listed is not None and listed.file == identity(descriptor):
                    return listed
                return _history_of(listed, descriptor, engine)
        except FileNotFoundError:
            is_lost = listed is not None and (listed.steps or listed.lost)
            return Lost(reason="its file is missing", history=listed, is_there=False) if is_lost else listed
        except (RowsFailed, NotRegular) as error:
            reason = error.message if isinstance(error, RowsFailed) else str(error.strerror)
            return Lost(reason=f"its file cannot be read: {reason}", history=listed)

    def sealed(self, name: str, history: TableHistory, engine: Callable[[], Engine]) -> TableHistory:
        """Return a history with everything by which damage is noticed. Older versions of dcsync did not record it.

        Raises `RowsUnproved`, and the errors of `opened`.
        """
        with self.opened(name) as descriptor:
            if history.is_sealed or history.file != identity(descriptor):
                return history
            if history.kind is TableKind.WINDOW:
                history = sealed(engine(), history, parquet(descriptor))
            return replace(history, sha256=hash_descriptor(descriptor).sha256)

    def remove(self, name: str) -> None:
        """Remove the Parquet file of a table, if it exists."""
        with suppress(FileNotFoundError), self._root.folder(self.path) as folder:
            os.unlink(name + _SUFFIX, dir_fd=folder)

    @contextmanager
    def opened(self, name: str) -> Iterator[int]:
        """Open the Parquet file of a table. Raises `FileNotFoundError`, `NotRegular` and `DiskError`s."""
        with self._root.folder(self.path) as folder:
            descriptor = open_regular(name + _SUFFIX, below=folder)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def replacing(self, name: str, leaf: str = "next.parquet") -> Iterator[Replacement]:
        """Open an empty file that can replace the Parquet file of a table. It is removed if it does not.

        Two files that are open at the same time need different names, `leaf`.
        """
        with self._root.folder(self.work, create=True) as work:
            disk.remove_tree(leaf, work)
            descriptor = open_regular(leaf, os.O_RDWR | os.O_CREAT | os.O_EXCL, _MODE, below=work)
            try:
                with self._root.folder(self.path, create=True) as folder:
                    yield Replacement(descriptor, work, leaf, folder, name + _SUFFIX)
            finally:
                os.close(descriptor)
                with suppress(FileNotFoundError):
                    os.unlink(leaf, dir_fd=work)


@dataclass(frozen=True, slots=True)
class Replacement:
    """An open file that can replace the file of a table."""

    descriptor: int
    _work: int
    _leaf: str
    _folder: int
    _name: str

    def put_in_place(self, history: TableHistory) -> TableHistory:
        """Fsync the file, give it its name durably, and return its history with what identifies it."""
        disk.set_mode(self.descriptor, _MODE)
        sha256 = hash_descriptor(self.descriptor).sha256
        os.fsync(self.descriptor)
        disk.rename(self._leaf, self._work, self._name, self._folder)
        os.fsync(self._folder)
        return replace(history, file=identity(self.descriptor), sha256=sha256)


def identity(descriptor: int) -> tuple[int, int]:
    """Return the attributes by which dcsync recognizes a file."""
    facts = os.fstat(descriptor)
    return facts.st_size, facts.st_mtime_ns


def check_hash(descriptor: int, history: TableHistory) -> None:
    """Raise `FileDamaged` unless a file has the recorded SHA-256, if there is one."""
    if history.sha256 is not None and hash_descriptor(descriptor).sha256 != history.sha256:
        raise FileDamaged(Lost(reason="its file is damaged: it does not have the recorded SHA-256", history=history))


def _history_of(listed: TableHistory | None, descriptor: int, engine: Callable[[], Engine]) -> TableHistory:
    """Return the history of a file that is not the recorded one: of a build that was killed, or of a copy.

    `listed` may have later steps to the same rows, which wrote no file. Raises `RowsFailed`.
    """
    file, sha256 = identity(descriptor), hash_descriptor(descriptor).sha256
    if listed is not None and listed.sha256 == sha256:
        return replace(listed, file=file)
    found = read_metadata(engine(), descriptor)
    if listed is not None and is_of_other_table(listed, found):
        raise RowsFailed("it has steps of another table")
    if found.kind is TableKind.WINDOW:
        found = sealed(engine(), found, parquet(descriptor))
    if listed is not None and is_continued(listed, found):
        found = replace(listed, steps=(*found.steps, *listed.steps[len(found.steps) :]))
    return replace(found, file=file, sha256=sha256)
