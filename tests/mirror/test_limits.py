"""Properties of file systems that limit a mirror."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dcsync.mirror.limits import Limit, LimitKind, find_limits
from dcsync.mirror.root import MirrorRoot, open_root
from tests.rigs.odd import mounted, overlay, refuse_to_open


@pytest.fixture
def mounts() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def apart(root: MirrorRoot, depth: int = 3) -> list[tuple[str, str | None]]:
    """Return path and type of each folder on another file system."""
    found = find_limits(root, depth=depth)
    assert {limit.kind for limit in found} <= {LimitKind.APART}
    return [(str(Path(limit.path).relative_to(root.path)), limit.file_system) for limit in found]


def test_an_ordinary_mirror_has_no_limits(root: MirrorRoot) -> None:
    (root.path / "acme/request/2026").mkdir(parents=True)
    (root.path / ".dcsync").mkdir()
    (root.path / ".dcsync/instance").write_text("{}")
    (root.path / "index.html").touch()
    os.mkfifo(root.path / "odd")

    assert find_limits(root, depth=3) == []


def test_a_new_root_has_no_limits(root: MirrorRoot) -> None:
    assert find_limits(root, depth=3) == []


@pytest.mark.needs_root
@pytest.mark.parametrize("place", ["acme", "acme/a request", "acme/request/2026", ".dcsync/staging", ".dcsync/trash"])
def test_a_mount_below_the_root_is_found(root: MirrorRoot, mounts: ExitStack, place: str) -> None:
    (root.path / place).mkdir(parents=True)
    mounts.enter_context(mounted("-t", "tmpfs", "none", root.path / place))

    assert apart(root) == [(place, "tmpfs")]
    assert apart(root, depth=1) == [(place, "tmpfs")]


@pytest.mark.needs_root
def test_a_mount_of_the_same_file_system_is_found(root: MirrorRoot, mounts: ExitStack) -> None:
    """The device is the same, and a rename is refused all the same."""
    for name in ("acme", "elsewhere"):
        (root.path / name).mkdir()
    mounts.enter_context(mounted("--bind", root.path / "elsewhere", root.path / "acme"))

    assert [path for path, _ in apart(root)] == ["acme"]


@pytest.mark.needs_root
def test_a_folder_with_another_device_is_found_without_a_mount(
    root: MirrorRoot, mounts: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a btrfs subvolume, which is not in the list of mounts. Only the topmost folder is named."""
    (root.path / "acme/request").mkdir(parents=True)
    mounts.enter_context(mounted("-t", "tmpfs", "none", root.path / "acme/request"))
    (root.path / "acme/request/2026").mkdir()
    refuse_to_open_text(monkeypatch, "/proc/self/mountinfo")

    assert [path for path, _ in apart(root)] == ["acme/request"]
    assert apart(root, depth=1) == []


def refuse_to_open_text(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Let the kernel not tell the mounts."""
    opening = open

    def refuse(name: object, *arguments: object, **options: object) -> object:
        if name == path:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return opening(name, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", refuse)


@pytest.mark.needs_root
@pytest.mark.parametrize("name", [".zfs", ".snapshot"])
def test_the_snapshots_of_the_file_system_itself_are_no_limit(root: MirrorRoot, mounts: ExitStack, name: str) -> None:
    place = root.path / name / "daily"
    place.mkdir(parents=True)
    mounts.enter_context(mounted("-t", "tmpfs", "none", place))

    assert find_limits(root, depth=3) == []


def test_a_folder_that_may_not_be_opened_hides_no_other_limit(
    root: MirrorRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("acme", "other"):
        (root.path / name).mkdir()
    refuse_to_open(monkeypatch, "acme", errno.EACCES)

    assert find_limits(root, depth=3) == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_that_refuses_chmod_is_found(
    root: MirrorRoot, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    (root.path / ".dcsync").mkdir(mode=0o755)
    monkeypatch.setattr(os, "fchmod", refuse)

    (limit,) = find_limits(root, depth=3)

    assert (limit.kind, limit.path) == (LimitKind.MODES, str(root.path))


def test_looking_changes_no_mode(root: MirrorRoot) -> None:
    (root.path / ".dcsync").mkdir()
    (root.path / ".dcsync").chmod(0o751)

    find_limits(root, depth=3)

    assert (root.path / ".dcsync").stat().st_mode & 0o777 == 0o751


@pytest.mark.parametrize("owner", ["another user", "a disk that fails"])
def test_an_owner_who_is_somebody_else_or_another_error_says_nothing_about_chmod(
    root: MirrorRoot, monkeypatch: pytest.MonkeyPatch, owner: str
) -> None:
    def refuse(*_: object) -> None:
        number = errno.EPERM if owner == "another user" else errno.EIO
        raise OSError(number, os.strerror(number))

    (root.path / ".dcsync").mkdir()
    if owner == "another user":
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setattr(os, "fchmod", refuse)

    assert find_limits(root, depth=3) == []


@pytest.mark.needs_root
def test_files_in_the_lower_layer_of_an_overlay_are_found(tmp_path: Path) -> None:
    with overlay(tmp_path) as (lower, merged):
        (lower / ".dcsync").mkdir()
        (lower / ".dcsync/instance").write_text("{}")
        with open_root(merged) as root:
            found = find_limits(root, depth=3)

    assert found == [Limit(kind=LimitKind.LAYER, path=str(merged / ".dcsync"), file_system="overlay")]
