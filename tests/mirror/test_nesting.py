"""A mirror in a mirror: neither takes the other's snapshots for its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dcsync.errors import MirrorForeign, MirrorNotMounted, MirrorTampered
from dcsync.mirror.adopt import find_snapshots
from dcsync.mirror.binding import bound_to, claim, is_new
from dcsync.mirror.limits import LimitKind, find_limits
from dcsync.mirror.nesting import holds_snapshots, is_other_mirror, refuse_inner, refuse_of_other, refuse_outer
from dcsync.mirror.root import MirrorRoot, open_root


@pytest.fixture
def root(tmp_path: Path) -> Iterator[MirrorRoot]:
    (tmp_path / "mirror").mkdir()
    with open_root(tmp_path / "mirror") as opened:
        yield opened


def make_mirror(path: Path) -> Path:
    """Make a mirror with one snapshot."""
    (path / ".dcsync").mkdir(parents=True)
    (path / ".dcsync/instance").write_text('{"id": "theirs"}')
    snapshot = path / "acme/request/2026/11/22/120000Z-9bd7c8a0"
    snapshot.mkdir(parents=True)
    (snapshot / "_dcsync.json").write_text("{}")
    return snapshot


@pytest.mark.parametrize("place", ["inner", "acme/request/2026/11/22/inner"])
def test_a_new_root_inside_another_mirror_is_refused(root: MirrorRoot, place: str) -> None:
    make_mirror(root.path)
    (root.path / place).mkdir(parents=True)

    with open_root(root.path / place) as inner:
        with pytest.raises(MirrorForeign, match=f"inside the mirror {root.path}"):
            is_new(inner, knows_snapshots=False)
        with pytest.raises(MirrorForeign):
            bound_to(inner, state_id="theirs", knows_snapshots=False)
        # The disk of the inner mirror is not mounted.
        with pytest.raises(MirrorNotMounted):
            is_new(inner, knows_snapshots=True)

    assert not (root.path / place / ".dcsync").exists()


def test_a_mirror_that_an_older_dcsync_made_inside_another_one_stays_usable(root: MirrorRoot) -> None:
    make_mirror(root.path)
    make_mirror(root.path / "inner")

    with open_root(root.path / "inner") as inner:
        assert claim(inner, state_id="theirs", knows_snapshots=True) == ("theirs", False)
        (limit,) = (one for one in find_limits(inner, depth=1) if one.kind is LimitKind.NESTED)
        assert limit.path == str(root.path)
    # The outer one never descends into it, and needs nothing else.
    assert claim(root, state_id="theirs", knows_snapshots=True) == ("theirs", False)
    assert all(one.kind is not LimitKind.NESTED for one in find_limits(root, depth=1))


def test_a_root_reached_through_a_symlink_is_refused_where_it_really_is(root: MirrorRoot, tmp_path: Path) -> None:
    make_mirror(root.path)
    (root.path / "inner").mkdir()
    (tmp_path / "link").symlink_to(root.path / "inner")

    with open_root(tmp_path / "link") as inner, pytest.raises(MirrorForeign):
        refuse_outer(inner)


def test_a_mirror_beside_another_is_not_refused(root: MirrorRoot, tmp_path: Path) -> None:
    make_mirror(tmp_path / "other")

    refuse_outer(root)
    refuse_inner(root)


def test_a_new_root_with_a_mirror_inside_is_refused(root: MirrorRoot) -> None:
    make_mirror(root.path / "disks/inner")

    with pytest.raises(MirrorForeign, match="disks/inner is a mirror of its own"):
        claim(root, state_id=None, knows_snapshots=False)

    assert not (root.path / ".dcsync").exists()


def test_no_search_descends_into_another_mirror(root: MirrorRoot) -> None:
    own = make_mirror(root.path).relative_to(root.path)
    inner = make_mirror(root.path / "acme/inner").relative_to(root.path)

    assert list(find_snapshots(root)) == [str(own)]
    assert is_other_mirror(root, "acme/inner")
    assert not is_other_mirror(root, "acme")
    refuse_of_other(root, str(own))
    with pytest.raises(MirrorTampered, match="belongs to the mirror"):
        refuse_of_other(root, str(inner))


def test_a_copy_without_hidden_files_is_told_from_an_empty_mount_point(root: MirrorRoot) -> None:
    with pytest.raises(MirrorNotMounted) as empty:
        is_new(root, knows_snapshots=True)
    (root.path / "acme/r/2026").mkdir(parents=True)
    (root.path / "acme/r/2026/_dcsync.json").write_text("{}")
    with pytest.raises(MirrorNotMounted) as copied:
        is_new(root, knows_snapshots=True)

    assert holds_snapshots(root)
    assert "copy without hidden files" not in empty.value.message
    assert "copy without hidden files" in copied.value.message
    assert "copy .dcsync from the original" in copied.value.advice
    assert "dcsync rebuild" in copied.value.advice
    assert not (root.path / ".dcsync").exists()


def test_a_root_with_snapshots_is_not_new(root: MirrorRoot) -> None:
    (root.path / "acme").mkdir()
    (root.path / "acme/_dcsync.json").write_text("{}")

    assert claim(root, state_id="ours", knows_snapshots=False) == ("ours", False)
    assert root.marker() == "ours"


def test_a_folder_that_cannot_be_read_has_nothing(root: MirrorRoot) -> None:
    (root.path / "file").write_text("")
    (root.path / "link").symlink_to("nowhere")

    assert not holds_snapshots(root)
    refuse_inner(root)
