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

from dcsync.core.row_history import STATE_NAME, RequestState, TableHistory, parse_state, state_json
from dcsync.errors import RowsFailed
from dcsync.mirror import disk
from dcsync.mirror.durable import replace_durably
from dcsync.mirror.root import OWN_FOLDER, MirrorRoot
from dcsync.opening import NotRegular, open_regular
from dcsync.ops.history.steps import read_metadata
from dcsync.rows import Engine

#: The folder below `.dcsync` for unfinished files.
WORK = "history"
_MODE = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A Parquet file that cannot be used, and what is known about its steps."""

    reason: str
    history: TableHistory | None


class HistoryFolder:
    """The folder with the history of one data request."""

    def __init__(self, root: MirrorRoot, path: str, request: str, slug: str = "") -> None:
        """Name the folder. `slug` names the data request's unfinished files, which only a build has."""
        self.path = path
        #: The folder for unfinished files of this data request.
        self.work = f"{OWN_FOLDER}/{WORK}{root.mark}/{slug}"
        self._slug = slug
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
            elsewhere = HistoryFolder(self._root, place, self._request, self._slug)
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

    def check(self, name: str, listed: TableHistory | None, engine: Callable[[], Engine]) -> TableHistory | Lost | None:
        """Return the history of a table as its Parquet file has it. None without a file.

        The file is read only if `history.json` does not know it.
        """
        try:
            with self.opened(name) as descriptor:
                found = identity(descriptor)
                if listed is not None and listed.file == found:
                    return listed
                return replace(_merged(listed, read_metadata(engine(), descriptor)), file=found)
        except FileNotFoundError:
            return Lost(reason="its file is missing", history=listed) if listed is not None and listed.steps else listed
        except (RowsFailed, NotRegular) as error:
            reason = error.message if isinstance(error, RowsFailed) else str(error.strerror)
            return Lost(reason=f"its file cannot be read: {reason}", history=listed)

    @contextmanager
    def opened(self, name: str) -> Iterator[int]:
        """Open the Parquet file of a table. Raises `FileNotFoundError`, `NotRegular` and `DiskError`s."""
        with self._root.folder(self.path) as folder:
            descriptor = open_regular(f"{name}.parquet", below=folder)
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
                    yield Replacement(descriptor, work, leaf, folder, f"{name}.parquet")
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

    def put_in_place(self) -> tuple[int, int]:
        """Fsync the file, give it its name durably, and return its identity."""
        disk.set_mode(self.descriptor, _MODE)
        os.fsync(self.descriptor)
        disk.rename(self._leaf, self._work, self._name, self._folder)
        os.fsync(self._folder)
        return identity(self.descriptor)


def identity(descriptor: int) -> tuple[int, int]:
    """Return the attributes by which dcsync recognizes a file."""
    facts = os.fstat(descriptor)
    return facts.st_size, facts.st_mtime_ns


def _merged(listed: TableHistory | None, found: TableHistory) -> TableHistory:
    """Return the history of a file. `listed` may have later steps to the same rows, which wrote no file."""
    if listed is None:
        return found
    later = listed.steps[len(found.steps) :]
    is_same = listed.kind is found.kind and listed.steps[: len(found.steps)] == found.steps
    return listed if is_same and not any(step.added or step.removed for step in later) else found
