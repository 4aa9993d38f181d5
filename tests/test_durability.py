"""Every durable write: when it returns, a power cut takes nothing, and no name came before its content.

Each test fails when one fsync of the work it is about is removed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dcsync.app.state_dir import state_folder, write_text
from dcsync.auth.token_store import Intent, TokenPair, TokenStore
from dcsync.config.create import create
from dcsync.core.model import AccountName, StoredFile
from dcsync.errors import DcsyncError
from dcsync.manifest.sqlite import set_aside
from dcsync.mirror import disk, reduce, trash
from dcsync.mirror.durable import copy_durably, create_durably, replace_durably, write_new
from dcsync.mirror.latest import LatestKind, point_latest
from dcsync.mirror.reduce import Reduction
from dcsync.mirror.replace import Place, replace_by_bytes, replace_by_link
from dcsync.mirror.root import MirrorRoot, open_root
from dcsync.mirror.staging import Staging
from tests.fakes import JOB_ID, NOON, make_job, make_record, make_stored
from tests.rigs.configs import make_config
from tests.rigs.durability import Recorder, recorded
from tests.rigs.staged import BODY, FOLDER, publish_before, stage

DAY = "acme/request/2026/11/22"
OTHER = f"{DAY}/130000Z-0a000000"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[MirrorRoot]:
    """An empty root."""
    (tmp_path / "mirror").mkdir()
    with open_root(tmp_path / "mirror") as opened:
        yield opened


@pytest.fixture
def published(root: MirrorRoot) -> MirrorRoot:
    """A root with two snapshots of one day."""
    for folder in (FOLDER, OTHER):
        (root.path / folder / "schemas").mkdir(parents=True)
        for name in ("_dcsync.json", "a.csv", "schemas/b.csv"):
            (root.path / folder / name).write_text(f"{name} of {folder}")
    return root


def refuse_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file system refuse hard links, as exFAT does."""

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)


# --- the rig itself ---------------------------------------------------------------------------------------------------


def test_the_recorder_sees_unsynced_content_and_names_and_renames_that_come_too_early(tmp_path: Path) -> None:
    with recorded(tmp_path) as recorder:
        descriptor = os.open(tmp_path / "a", os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(descriptor, b"x")
        assert recorder.may_vanish() == {"a"}
        (tmp_path / "a").rename(tmp_path / "b")
        assert recorder.renamed_too_early == [f"a -> {tmp_path / 'b'}"]
        os.fsync(descriptor)
        assert (recorder.may_vanish(), recorder.may_return()) == ({"b"}, {"a"})
        os.close(descriptor)
        folder = os.open(tmp_path, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        assert (recorder.may_vanish(), recorder.may_return()) == (set(), set())


# --- whole files ------------------------------------------------------------------------------------------------------


def test_a_new_file_and_a_copy_are_fsynced(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(BODY)
    folder, source = os.open(tmp_path, os.O_RDONLY), os.open(tmp_path / "source", os.O_RDONLY)
    with recorded(tmp_path) as recorder:
        create_durably(folder, "new", BODY)
        copy_durably(source, folder, "copy")
        write_new(folder, "aside", BODY, mode=0o644)
        assert recorder.may_vanish() == {"new", "copy", "aside.new"}
        os.fsync(folder)
        assert recorder.may_vanish() == set()
    os.close(folder)
    os.close(source)


def test_a_replaced_file_is_fsynced_before_its_rename_and_its_folder_after_it(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    with recorded(tmp_path) as recorder:
        replace_durably(folder, "note", BODY, mode=0o644)
    os.close(folder)

    assert recorder.renamed_too_early == []
    assert recorder.may_vanish() == set()


# --- a snapshot -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("linkable", [True, False], ids=["linked", "copied"])
def test_a_snapshot_is_on_the_disk_with_everything_in_it_before_it_has_its_name(
    root: MirrorRoot, monkeypatch: pytest.MonkeyPatch, linkable: bool
) -> None:
    previous = publish_before(root, {"old.csv": BODY})
    (root.path / DAY).mkdir(parents=True, exist_ok=True)
    if not linkable:
        refuse_hard_links(monkeypatch)
    with recorded(root.path, after_a_kill=True) as recorder, Staging(root, JOB_ID) as staging:
        stage(staging, "a.csv")
        stage(staging, "schemas/b.csv")
        assert staging.link(previous, previous.files[0], "old.csv") is not None
        staging.write_own("_dcsync.json", b"{}")
        staging.write_own("SHA256SUMS", b"")
        staging.unfold(["a.csv", "schemas/b.csv", "old.csv"])

        assert staging.publish(OTHER)

    assert recorder.renamed_too_early == []
    assert {path for path in recorder.may_vanish() if OTHER.startswith(path) or path.startswith(OTHER)} == set()
    assert recorder.may_return() == {f".dcsync/staging/{JOB_ID}.journal"}


def test_each_new_folder_on_the_way_to_a_snapshot_is_on_the_disk(root: MirrorRoot) -> None:
    with recorded(root.path) as recorder, Staging(root, JOB_ID) as staging:
        stage(staging, "a.csv")

        assert staging.publish(OTHER)

    assert recorder.may_vanish() == set()


def test_a_snapshot_that_a_killed_run_renamed_is_on_the_disk_once_it_is_settled(published: MirrorRoot) -> None:
    with recorded(published.path, after_a_kill=True) as recorder:
        published.settle(FOLDER)

    assert {path for path in recorder.may_vanish() if f"{FOLDER}/".startswith(f"{path}/") or path == "."} == set()


# --- repair -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["link", "copy", "bytes"])
def test_a_repaired_file_and_the_damaged_one_are_on_the_disk(
    published: MirrorRoot, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    target, source = Place(folder=FOLDER, name="schemas/b.csv"), Place(folder=OTHER, name="a.csv")
    if way == "copy":
        refuse_hard_links(monkeypatch)
    with recorded(published.path) as recorder:
        if way == "bytes":
            replace_by_bytes(published, target, BODY, label="now")
        else:
            replace_by_link(published, target, source, label="now")

    assert recorder.renamed_too_early == []
    assert recorder.may_vanish() == set()


# --- pruning ----------------------------------------------------------------------------------------------------------


def test_the_line_of_a_pruned_snapshot_is_on_the_disk(root: MirrorRoot) -> None:
    record = make_record(job=make_job(), folder=FOLDER, pruned_at=NOON)
    for _ in range(2):
        with recorded(root.path) as recorder:
            trash.note_pruned(root, trash.Pruned(account=AccountName("acme"), record=record))

        assert recorder.may_vanish() == set()


def test_a_snapshot_is_in_the_trash_for_good_and_gone_from_its_place_for_good(published: MirrorRoot) -> None:
    with recorded(published.path) as recorder:
        trash.discard(published, FOLDER, "leaf", depth=2)

    assert recorder.may_vanish() == set()
    assert recorder.may_return() == set()


def test_a_snapshot_that_comes_back_from_the_trash_is_on_the_disk(published: MirrorRoot) -> None:
    trash.discard(published, FOLDER, "leaf", depth=2)
    with recorded(published.path) as recorder:
        trash.restore(published, FOLDER, "leaf")

    assert recorder.may_vanish() == set()
    assert recorder.may_return() == set()


@pytest.mark.parametrize("way", ["exchange", "two renames", "copies"])
def test_a_reduced_snapshot_is_on_the_disk_before_it_has_its_name(
    published: MirrorRoot, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    one, kept = reduction(published)
    if way == "copies":
        refuse_hard_links(monkeypatch)
    if way == "two renames":
        monkeypatch.setattr(disk, "exchange", lambda *_: False)
    with recorded(published.path) as recorder:
        reduce.build(published, one, kept, own={"_dcsync.json": b"{}", "SHA256SUMS": b""})
        assert recorder.may_vanish() == set()
        reduce.swap(published, one)
        assert recorder.may_vanish() == set()
        assert recorder.may_return() == set()
        reduce.discard_old(published, one)
        assert recorder.may_vanish() == set()
        assert recorder.may_return() == set()

    assert recorder.renamed_too_early == []


def test_a_snapshot_that_is_put_back_is_on_the_disk(published: MirrorRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    one, kept = reduction(published)
    monkeypatch.setattr(disk, "exchange", lambda *_: False)
    reduce.build(published, one, kept, own={"_dcsync.json": b"{}", "SHA256SUMS": b""})
    monkeypatch.setattr(disk, "rename_noreplace", refuse)
    with pytest.raises(DcsyncError):
        reduce.swap(published, one)
    monkeypatch.undo()
    with recorded(published.path) as recorder:
        assert reduce.put_back(published, one)

    assert recorder.may_vanish() == set()
    assert recorder.may_return() == set()


def refuse(*_: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def reduction(root: MirrorRoot) -> tuple[Reduction, list[StoredFile]]:
    """Return a reduction of a snapshot to one file."""
    body = (root.path / FOLDER / "schemas/b.csv").read_bytes()
    one = Reduction(account=AccountName("acme"), job=JOB_ID, folder=FOLDER)
    return one, [make_stored("schemas/b.csv", body)]


# --- latest and the marker --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [LatestKind.SYMLINK, LatestKind.HARDLINKS])
@pytest.mark.parametrize("moves", [False, True])
def test_latest_is_on_the_disk_with_what_it_shows(published: MirrorRoot, kind: LatestKind, moves: bool) -> None:
    def point(snapshot: str) -> None:
        point_latest(published, request_folder="acme/request", name="latest", snapshot=snapshot, kind=kind)

    if moves:
        point(FOLDER)
    with recorded(published.path) as recorder:
        point(OTHER)

    assert recorder.renamed_too_early == []
    assert recorder.may_vanish() == set()


def test_the_marker_and_a_file_of_ours_in_the_root_are_on_the_disk(root: MirrorRoot) -> None:
    with recorded(root.path) as recorder:
        root.write_marker("id")
        assert recorder.may_vanish() == set()
        root.replace_file("index.html", BODY)

    assert recorder.renamed_too_early == []
    assert recorder.may_vanish() == set()


# --- tokens -----------------------------------------------------------------------------------------------------------


def interrupted_save(store: TokenStore) -> None:
    """Leave a whole pair in the slot, as a crash before the rename does."""
    store.save(TokenPair(refresh_token="next"))
    store.path.rename(store.path.with_name("token.next"))


@pytest.mark.parametrize(
    "work",
    [
        lambda store: store.prepare(),
        lambda store: store.save(TokenPair(refresh_token="new")),
        lambda store: store.note_intent(Intent(spending="x", attempt=1, at=NOON)),
        lambda store: store.note_seed("seed"),
        lambda store: store.set_aside(),
        lambda store: store.forget(),
    ],
    ids=["prepare", "save", "note_intent", "note_seed", "set_aside", "forget"],
)
def test_the_token_store_s_changes_are_on_the_disk(tmp_path: Path, work: Callable[[TokenStore], None]) -> None:
    store = TokenStore(tmp_path)
    store.save(TokenPair(refresh_token="old"))
    store.save(TokenPair(refresh_token="current"))
    store.note_intent(Intent(spending="y", attempt=1, at=NOON))
    with recorded(tmp_path) as recorder:
        work(store)

    assert settled(recorder)


def test_a_save_that_a_crash_cut_short_is_on_the_disk_once_it_is_finished(tmp_path: Path) -> None:
    store = TokenStore(tmp_path)
    interrupted_save(store)
    with recorded(tmp_path) as recorder:
        store.settle()

    assert settled(recorder)
    assert store.path.exists()


def settled(recorder: Recorder) -> bool:
    """Say that a power cut would change nothing, and that no name came before its content."""
    return (recorder.renamed_too_early, recorder.may_vanish(), recorder.may_return()) == ([], set(), set())


# --- configuration and state ------------------------------------------------------------------------------------------


def test_a_new_configuration_and_the_folders_above_it_are_on_the_disk(tmp_path: Path) -> None:
    with recorded(tmp_path) as recorder:
        create(tmp_path / "etc/dcsync/config.toml", "[mirror]\n")

    assert recorder.may_vanish() == set()


def test_a_new_state_folder_is_on_the_disk(tmp_path: Path) -> None:
    config = make_config(state={"dir": str(tmp_path / "state")})
    with recorded(tmp_path) as recorder:
        state_folder(config)

    assert settled(recorder)


def test_a_line_in_the_state_folder_is_on_the_disk(tmp_path: Path) -> None:
    with recorded(tmp_path) as recorder:
        write_text(tmp_path, "instance", "id")

    assert settled(recorder)


def test_a_manifest_that_was_set_aside_stays_aside(tmp_path: Path) -> None:
    for suffix in ("", "-wal"):
        (tmp_path / f"manifest.sqlite{suffix}").write_bytes(b"x")
    with recorded(tmp_path) as recorder:
        set_aside(tmp_path / "manifest.sqlite", "damaged")

    assert settled(recorder)
