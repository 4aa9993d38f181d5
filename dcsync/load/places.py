"""Folders of files that are replaced in one step: on a disk by renaming, in S3 by an upload."""

from __future__ import annotations

import fcntl
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from dcsync.errors import TargetUnusable
from dcsync.load import causes
from dcsync.load.causes import Cause
from dcsync.load.clients import file_path, s3_files
from dcsync.load.target import Options, check_folder
from dcsync.opening import open_regular
from dcsync.rows.table import descriptor_path

_LOCK: Final = ".dcsync.lock"
#: No reader of `*.parquet` takes an unfinished file.
_PART: Final = ".dcsync.part"
_MODE: Final = 0o644
#: How often the lock of another loader is tried.
_AGAIN_S: Final = 0.05


class Place(ABC):
    """A folder. `folder` is where files are written: the folder itself, or the one for unfinished data."""

    folder: Path

    @abstractmethod
    def cause(self, error: Exception, said: str) -> Cause:
        """Return why the folder cannot be used."""

    @abstractmethod
    def check_writable(self) -> None:
        """Check that files can be written, and leave none. Raises the errors of writing."""

    @abstractmethod
    def names(self) -> set[str]:
        """Return the names of the files. Empty without the folder."""

    @abstractmethod
    def reading(self, name: str) -> AbstractContextManager[str]:
        """Give a path by which DuckDB reads a file. Raises `FileNotFoundError`."""

    @abstractmethod
    def replacing(self, name: str) -> AbstractContextManager[int]:
        """Give an empty open file. At the end of the block it replaces the one of this name, unless the block fails."""

    @abstractmethod
    def locked(self) -> AbstractContextManager[None]:
        """Wait until no other loader writes here, and keep it so during the block. Raises `BlockingIOError`."""


class DiskPlace(Place):
    """A folder on a disk."""

    def __init__(self, options: Options) -> None:
        self.folder = self._folder = Path(file_path(options.address)) / options.dataset
        self._patience_s = options.patience_s

    def cause(self, _: Exception, said: str) -> Cause:
        return causes.of_folder(self._folder, said)

    def check_writable(self) -> None:
        try:
            check_folder(self._folder)
        except FileNotFoundError:
            check_folder(self._folder.parent)

    def names(self) -> set[str]:
        try:
            return {path.name for path in self._folder.iterdir()}
        except FileNotFoundError:
            return set()

    @contextmanager
    def reading(self, name: str) -> Iterator[str]:
        descriptor = open_regular(self._folder / name)
        try:
            yield descriptor_path(descriptor)
        finally:
            os.close(descriptor)

    @contextmanager
    def replacing(self, name: str) -> Iterator[int]:
        part = self._folder / _PART
        with suppress(FileNotFoundError):
            part.unlink()
        descriptor = open_regular(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, _MODE)
        try:
            yield descriptor
            os.fchmod(descriptor, _MODE)
            os.fsync(descriptor)
            part.replace(self._folder / name)
            self._sync()
        finally:
            os.close(descriptor)
            with suppress(FileNotFoundError):
                part.unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        # A missing parent is more likely a disk that is not mounted than a new target.
        self._folder.mkdir(exist_ok=True)
        descriptor = open_regular(self._folder / _LOCK, os.O_RDWR | os.O_CREAT, _MODE)
        try:
            self._wait_for(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _wait_for(self, descriptor: int) -> None:
        until = time.monotonic() + self._patience_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise
            else:
                return
            time.sleep(_AGAIN_S)  # noqa: TID251 - another process has the lock, and this is a thread

    def _sync(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class S3Place(Place):
    """A prefix in a bucket. An upload replaces an object in one step. S3 has no locks."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.folder = self._work = options.work
        self._opened: tuple[Any, str] | None = None

    def cause(self, error: Exception, said: str) -> Cause:
        return Cause(said, causes.of_s3(error) or TargetUnusable.hint)

    @property
    def _files(self) -> Any:  # noqa: ANN401 - fsspec has no types
        return self._open()[0]

    def _key(self, name: str = "") -> str:
        return f"{self._open()[1]}/{self._options.dataset}/{name}".rstrip("/")

    def check_writable(self) -> None:
        # No reader of tables takes it for one.
        key = self._key(_PART)
        self._files.pipe_file(key, b"")
        self._files.rm_file(key)

    def _open(self) -> tuple[Any, str]:
        if self._opened is None:
            self._opened = s3_files(self._options.address)
        return self._opened

    def names(self) -> set[str]:
        try:
            return {str(path).rpartition("/")[2] for path in self._files.ls(self._key(), detail=False, refresh=True)}
        except FileNotFoundError:
            return set()

    @contextmanager
    def reading(self, name: str) -> Iterator[str]:
        path = self._work / f"read{_PART}"
        self._files.get_file(self._key(name), str(path))
        try:
            yield str(path)
        finally:
            path.unlink()

    @contextmanager
    def replacing(self, name: str) -> Iterator[int]:
        path = self._work / f"write{_PART}"
        with suppress(FileNotFoundError):
            path.unlink()
        descriptor = open_regular(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            yield descriptor
            self._files.put_file(str(path), self._key(name))
        finally:
            os.close(descriptor)
            path.unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        yield
