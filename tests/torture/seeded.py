"""Bugs, seeded on purpose: what each rig has to catch. Only the torture's own processes load this (`hatch.py`)."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from dcsync.auth.source import RefreshingToken
from dcsync.auth.token_store import TokenStore
from dcsync.core import names, transfer
from dcsync.errors import DiskError
from dcsync.manifest import SqlManifest, sqlite
from dcsync.mirror import adopt, disk
from dcsync.mirror.part import Part
from dcsync.mirror.root import MirrorRoot
from dcsync.mirror.staging import Staging
from dcsync.ops.mirroring import fetch, job


def no_fsync_of_files() -> None:
    """Nobody makes the bytes of a file durable."""
    fsync = os.fsync
    os.fsync = lambda fd: None if stat.S_ISREG(os.fstat(fd).st_mode) else fsync(fd)  # type: ignore[arg-type]


def no_fsync_of_folders() -> None:
    """Nobody makes a new name durable."""
    fsync = os.fsync
    os.fsync = lambda fd: None if stat.S_ISDIR(os.fstat(fd).st_mode) else fsync(fd)  # type: ignore[arg-type]


def no_fsync_of_data_files() -> None:
    """The files of a snapshot get their name before their bytes are on the disk. All other fsyncs stay."""
    _skip_fsync_of(".part")


def no_fsync_of_own_files() -> None:
    """`_dcsync.json` and `SHA256SUMS` are published before they are on the disk. All other fsyncs stay."""
    _skip_fsync_of(*names.OWN_FILES)


def _skip_fsync_of(*endings: str) -> None:
    fsync = os.fsync

    def careless(fd: Any) -> None:
        if not Path(f"/proc/self/fd/{fd}").readlink().name.endswith(endings):
            fsync(fd)

    os.fsync = careless


def adopted_before_it_is_durable() -> None:
    """What a killed run left is there for who looks: who looks believes that it stays."""
    MirrorRoot.settle = lambda self, folder=None: None  # type: ignore[method-assign]


def commits_not_durable() -> None:
    """`PRAGMA synchronous = NORMAL`: a commit waits for no disk."""
    engine = sqlite._engine

    def careless(path: Path, *, read_only: bool) -> Any:
        made = engine(path, read_only=read_only)

        @sa.event.listens_for(made.sync_engine, "connect")
        def _(connection: Any, _record: Any) -> None:
            connection.cursor().execute("PRAGMA synchronous = NORMAL")

        return made

    sqlite._engine = careless


def commit_before_rename() -> None:
    """The manifest knows a snapshot before its folder is there."""
    late: list[Callable[[], bool]] = []
    rename, commit = Staging.publish, SqlManifest.publish

    def postponed(self: Staging, folder: str) -> bool:
        late.append(lambda: rename(self, folder))
        return True

    async def first(self: SqlManifest, *arguments: Any, **options: Any) -> None:
        await commit(self, *arguments, **options)
        while late:
            late.pop()()

    Staging.publish = postponed  # type: ignore[method-assign]
    SqlManifest.publish = first  # type: ignore[method-assign]


def fsync_again_after_a_failure() -> None:
    """The second fsync says that all is well, and the data is gone (fsyncgate)."""
    fsync = os.fsync

    def stubborn(fd: Any) -> None:
        try:
            fsync(fd)
        except OSError:
            fsync(fd)

    os.fsync = stubborn


def token_used_before_it_is_saved() -> None:
    """The new tokens are written when there is time."""

    async def later(self: RefreshingToken) -> None:
        return

    RefreshingToken._save_unsaved = later  # type: ignore[method-assign]


def intent_not_written() -> None:
    """A token is spent, and no note says so."""
    TokenStore.note_intent = lambda self, intent: None  # type: ignore[method-assign]


def unreadable_is_missing() -> None:
    """`exists()`: no on EACCES and EIO as well."""
    has_folder = MirrorRoot.has_folder

    def exists(self: MirrorRoot, relative: str) -> bool:
        with suppress(DiskError):
            return has_folder(self, relative)
        return False

    MirrorRoot.has_folder = exists  # type: ignore[method-assign]


def short_write_ignored() -> None:
    """What `write` did not take is gone."""
    disk.write_all = os.write  # type: ignore[assignment]


def rename_that_replaces() -> None:
    """Whatever stands where a snapshot is to go gives way."""

    def replacing(source: str, source_folder: int, target: str, target_folder: int) -> None:
        disk.remove_tree(target, target_folder)
        os.rename(source, target, src_dir_fd=source_folder, dst_dir_fd=target_folder)

    disk.rename_noreplace = replacing


def size_not_checked() -> None:
    """A `.part` becomes a file however long it is."""
    Part.digest = lambda self: self._hashers.digest()  # type: ignore[method-assign]


def staging_taken_for_published() -> None:
    """A look at the tree does not leave out what is not published."""
    vars(adopt)["OWN_FOLDER"] = "nothing"


def recovery_that_deletes() -> None:
    """A published folder without a row is taken for rubbish."""

    async def tidy(context: Any, _account: Any, _known: Any, _request: Any, folder: str) -> None:
        with suppress(FileNotFoundError):
            shutil.rmtree(context.root.path / folder)

    vars(job)["adopt_if_there"] = tidy


def no_if_match() -> None:
    """A download goes on, whatever the file is now."""

    def careless(have: Any, unless_etag: str | None) -> dict[str, str]:
        headers = transfer.headers_for(have, unless_etag)
        headers.pop("If-Match", None)
        return headers

    vars(fetch)["headers_for"] = careless


def hash_not_checked() -> None:
    """What an earlier run left is believed."""
    Staging._matches = lambda self, name, record: True  # type: ignore[method-assign]
    vars(adopt)["verify"] = lambda root, found: found


BUGS: Final[dict[str, Callable[[], None]]] = {
    bug.__name__: bug
    for bug in (
        no_fsync_of_files,
        no_fsync_of_folders,
        no_fsync_of_data_files,
        no_fsync_of_own_files,
        adopted_before_it_is_durable,
        commits_not_durable,
        commit_before_rename,
        fsync_again_after_a_failure,
        token_used_before_it_is_saved,
        intent_not_written,
        unreadable_is_missing,
        short_write_ignored,
        rename_that_replaces,
        size_not_checked,
        staging_taken_for_published,
        recovery_that_deletes,
        no_if_match,
        hash_not_checked,
    )
}
