"""Writing a new configuration: private, whole, and never over one that is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dcsync.config import create, new_place, refuse_existing
from dcsync.errors import ConfigError
from tests.rigs.stats import unread

#: Without root's right to pass over permissions, in a folder that belongs to somebody else.
CREATE = """
import sys
from pathlib import Path
from dcsync.config import create
from dcsync.errors import ConfigError
try:
    create(Path(sys.argv[1]), "text")
except ConfigError as error:
    print(error.message)
"""


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_file_and_its_new_folders_are_for_its_owner_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    path = tmp_path / "new/dcsync/config.toml"

    create(path, "text é\n")

    assert path.read_text(encoding="utf-8") == "text é\n"
    assert mode(path) == 0o600
    assert [mode(folder) for folder in (path.parent, path.parent.parent, tmp_path)] == [0o700, 0o700, 0o755]


def test_a_relative_place_is_of_the_folder_that_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    create(Path("here/config.toml"), "text")

    assert (tmp_path / "here/config.toml").read_text() == "text"


@pytest.mark.parametrize("kind", ["file", "folder", "symlink to nothing"])
def test_what_is_there_stays_as_it_is(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "config.toml"
    match kind:
        case "file":
            path.write_text("mine")
        case "folder":
            path.mkdir()
        case _:
            path.symlink_to("elsewhere")
    before = unread(path.lstat())

    with pytest.raises(ConfigError, match="already exists, and dcsync never overwrites"):
        refuse_existing(path)
    with pytest.raises(ConfigError, match="already exists, and dcsync never overwrites"):
        create(path, "text")

    assert unread(path.lstat()) == before
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_there_is_no_obstacle(tmp_path: Path) -> None:
    refuse_existing(tmp_path / "config.toml")
    refuse_existing(tmp_path / "no/such/folder/config.toml")


def test_a_place_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")

    with pytest.raises(ConfigError, match="cannot write the configuration"):
        create(tmp_path / "file/config.toml", "text")

    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.needs_root
def test_a_disk_that_is_full_leaves_no_half_of_it(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", tmp_path], check=True)
    try:
        with pytest.raises(ConfigError, match="No space left"):
            create(tmp_path / "config.toml", "x" * (1 << 20))

        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


@pytest.mark.needs_root
@pytest.mark.needs_tool("setpriv")
def test_a_folder_that_may_not_be_written_is_said_with_the_uid(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    without = "--bounding-set=-dac_override,-dac_read_search"

    result = subprocess.run(
        ["setpriv", without, "--inh-caps=-all", sys.executable, "-c", CREATE, tmp_path / "config.toml"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert "config.toml: Permission denied (as uid 0)" in result.stdout


def test_it_goes_to_the_file_that_is_named(tmp_path: Path) -> None:
    environ = {"DCSYNC_CONFIG": "/b.toml", "HOME": "/home/anna"}

    assert new_place(Path("/a.toml"), environ=environ, is_root=True) == Path("/a.toml")
    assert new_place(None, environ=environ, is_root=True) == Path("/b.toml")


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({"HOME": "/home/anna"}, "/home/anna/.config/dcsync/config.toml"),
        ({"HOME": "/home/anna", "XDG_CONFIG_HOME": "/conf"}, "/conf/dcsync/config.toml"),
    ],
)
def test_a_user_s_goes_to_their_home_and_root_s_to_the_machine(environ: dict[str, str], place: str) -> None:
    assert new_place(None, environ=environ, is_root=False) == Path(place)
    assert new_place(None, environ=environ, is_root=True) == Path("/etc/dcsync/config.toml")
