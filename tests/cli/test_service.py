"""`dcsync service`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.conftest import Dcsync


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\n")
    return tmp_path


def test_from_a_folder_that_the_units_hide_it_says_how_to_install_dcsync(
    dcsync: Dcsync, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/home/anna/.local/bin/dcsync"])

    result = dcsync("service", "install", "--root", str(root))

    assert result.status == 2
    assert "the service cannot use /home/anna/.local/bin/dcsync: its unit hides /home (ProtectHome=)" in result.err
    assert "do:   install dcsync for all users" in result.err
    assert not (root / "usr").exists()


@pytest.mark.needs_root
@pytest.mark.needs_tool("systemd-sysusers")
def test_dry_run_shows_what_install_then_does(dcsync: Dcsync, root: Path) -> None:
    arguments = ("service", "install", "--root", str(root), "--program", "/usr/bin/dcsync")
    before = sorted(root.rglob("*"))

    shown = dcsync(*arguments, "--dry-run")
    untouched = sorted(root.rglob("*")) == before
    done = dcsync(*arguments)

    assert untouched
    assert (shown.status, done.status) == (0, 0)
    *steps, following = done.out.splitlines()
    assert shown.out.splitlines() == [f"would {step}" for step in steps]
    assert "create /usr/local/lib/systemd/system/dcsync.service" in steps
    assert following == ("Next: write /etc/dcsync/config.toml (dcsync init), then run: systemctl enable --now dcsync")
    assert dcsync(*arguments).out.splitlines() == ["Nothing to do", following]


@pytest.mark.needs_root
@pytest.mark.needs_tool("systemd-sysusers")
def test_a_unit_of_the_administrator_is_named(dcsync: Dcsync, root: Path) -> None:
    unit = root / "etc/systemd/system/dcsync.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\n")

    result = dcsync("service", "install", "--root", str(root), "--program", "/usr/bin/dcsync")

    assert result.status == 0
    assert "note: systemd uses /etc/systemd/system/dcsync.service instead of the installed file" in result.err
    assert unit.read_text() == "[Service]\n"


@pytest.mark.needs_root
@pytest.mark.needs_tool("systemd-sysusers")
def test_uninstall_shows_its_steps_and_what_stays(dcsync: Dcsync, root: Path) -> None:
    dcsync("service", "install", "--root", str(root), "--program", "/usr/bin/dcsync")

    shown = dcsync("service", "uninstall", "--root", str(root), "--dry-run")
    done = dcsync("service", "uninstall", "--root", str(root))

    assert "would remove /usr/local/lib/systemd/system/dcsync.service\n" in shown.out
    assert "remove /usr/local/lib/systemd/system/dcsync.service\n" in done.out
    assert "Not removed: the user dcsync, /etc/dcsync, /var/lib/dcsync" in done.out
    assert (root / "srv/dcsync").is_dir()
    assert dcsync("service", "uninstall", "--root", str(root)).out.startswith("Nothing to do\n")


@pytest.mark.needs_root
def test_another_user_than_root_is_told_to_use_sudo(dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/local/bin/dcsync"])
    os.seteuid(65534)
    try:
        result = dcsync("service", "install", "--program", "/usr/bin/env")
    finally:
        os.seteuid(0)

    assert result.status == 2
    assert "only root may install the service" in result.err
    assert "do:   sudo /usr/local/bin/dcsync service install" in result.err


@pytest.mark.needs_root
def test_a_step_that_fails_names_itself_and_that_the_command_can_be_repeated(dcsync: Dcsync, root: Path) -> None:
    (root / "usr").write_text("a file in the place of a folder")

    result = dcsync("service", "install", "--root", str(root), "--program", "/usr/bin/dcsync")

    assert result.status == 2
    assert "create /usr/local/lib/systemd/system/dcsync.service: " in result.err
    assert "the steps shown before are done, and none after them" in result.err
