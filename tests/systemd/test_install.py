"""Installing the service into the folders of several distributions, and uninstalling it. Needs no systemd."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from dcsync.errors import ConfigError, ServiceSetupFailed
from dcsync.systemd import SHARED_SETTINGS, Machine, Step, install_steps, shadowing, uninstall_steps

PROGRAM = Path("/opt/some where/100%/dcsync")
UNITS = "usr/local/lib/systemd/system"
INSTALLED = {
    *(f"{UNITS}/{name}" for name in ("dcsync.service", "dcsync@.service", "dcsync-sync.service", "dcsync-sync.timer")),
    *(f"{UNITS}/{name}.d" for name in ("dcsync.service", "dcsync@.service", "dcsync-sync.service")),
    "usr/local/lib/sysusers.d/dcsync.conf",
    "usr/local/lib/tmpfiles.d/dcsync.conf",
}
#: What the systems have of the folders that matter, as their packages ship them.
SYSTEMS = {
    "Debian 12": ["etc/systemd/system", "etc/tmpfiles.d", "usr/lib/sysusers.d", "usr/lib/systemd/system", "usr/local"],
    "Debian 13": ["etc/systemd/system", "usr/lib/sysusers.d", "usr/lib/systemd/system", "usr/local/lib"],
    "Ubuntu 24.04": ["etc/systemd/system", "etc/tmpfiles.d", "usr/lib/sysusers.d", "usr/lib/systemd/system", "srv"],
    "Fedora": ["etc/systemd/system", "etc/sysusers.d", "etc/tmpfiles.d", "usr/lib/systemd/system", "usr/local/lib"],
    "no systemd": ["etc"],
}
needs_root = pytest.mark.needs_root


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    return make_system(tmp_path / "root", request.param)


@pytest.fixture
def debian(tmp_path: Path) -> Machine:
    return make_system(tmp_path / "root", "Debian 12")


def make_system(root: Path, name: str) -> Machine:
    for folder in ("etc", "usr/lib", *SYSTEMS[name]):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "lib").symlink_to("usr/lib")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    return Machine(root=root)


def carry_out(steps: list[Step]) -> list[str]:
    for step in steps:
        step.do()
    return [step.text for step in steps]


def files(machine: Machine, *folders: str) -> set[str]:
    found = (path for folder in folders for path in (machine.root / folder).rglob("*"))
    return {str(path.relative_to(machine.root)) for path in found if path.is_symlink() or not path.is_dir()}


@needs_root
@pytest.mark.needs_tool("systemd-sysusers")
def test_it_installs_into_the_folders_of_each_system(system: Machine) -> None:
    texts = carry_out(install_steps(system, PROGRAM))

    assert files(system, "usr", "srv", "var") == INSTALLED
    assert len(texts) == len(set(texts)) == 14
    for name in ("dcsync.service", "dcsync@.service", "dcsync-sync.service"):
        unit = (system.root / UNITS / name).read_text()
        assert '\nExecStart="/opt/some where/100%%/dcsync" --config /etc/dcsync/' in unit
        assert (system.root / UNITS / f"{name}.d").readlink() == SHARED_SETTINGS
    uid, gid = system.user("dcsync") or (0, 0)
    assert uid > 0
    assert owners(system, "srv/dcsync", "etc/dcsync", "etc/dcsync/service.d", "var/lib/dcsync", UNITS) == [
        (uid, gid, 0o755),
        (0, gid, 0o750),
        (0, 0, 0o755),
        (uid, gid, 0o700),
        (0, 0, 0o755),
    ]
    assert install_steps(system, PROGRAM) == []


def owners(machine: Machine, *paths: str) -> list[tuple[int, int, int]]:
    found = [(machine.root / path).stat() for path in paths]
    return [(each.st_uid, each.st_gid, stat.S_IMODE(each.st_mode)) for each in found]


@needs_root
@pytest.mark.needs_tool("useradd")
def test_without_systemd_sysusers_useradd_creates_the_user(
    debian: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(only("useradd", into=tmp_path / "bin")))

    texts = carry_out(install_steps(debian, PROGRAM))

    assert "create the user dcsync with useradd" in texts
    line = next(line for line in (debian.root / "etc/passwd").read_text().splitlines() if line.startswith("dcsync:"))
    assert line.endswith(":/var/lib/dcsync:/usr/sbin/nologin")
    uid, gid = debian.user("dcsync") or (0, 0)
    assert owners(debian, "srv/dcsync") == [(uid, gid, 0o755)]


def only(name: str, *, into: Path) -> Path:
    """Return a folder for PATH with this program alone."""
    into.mkdir()
    program = shutil.which(name)
    assert program is not None
    (into / name).symlink_to(program)
    return into


def test_without_a_program_that_creates_users_it_says_what_to_create(
    debian: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ConfigError) as caught:
        install_steps(debian, PROGRAM)

    assert "neither systemd-sysusers nor useradd" in caught.value.message
    assert files(debian, "usr") == set()


def test_a_program_that_fails_is_reported_with_its_own_words(
    debian: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = tmp_path / "bin/systemd-sysusers"
    failing.parent.mkdir()
    failing.write_text("#!/bin/sh\necho Read-only file system >&2; exit 1\n")
    failing.chmod(0o755)
    monkeypatch.setenv("PATH", str(failing.parent))

    with pytest.raises(ServiceSetupFailed, match=r"systemd-sysusers --root .* failed: Read-only file system"):
        carry_out(install_steps(debian, PROGRAM))


@needs_root
@pytest.mark.needs_tool("systemd-sysusers")
def test_an_update_replaces_its_own_files_and_none_of_the_administrator(debian: Machine) -> None:
    own = {
        debian.root / "etc/systemd/system/dcsync.service": "[Service]\nExecStart=/home/anna/dcsync run\n",
        debian.root / "etc/systemd/system/dcsync.service.d/override.conf": "[Service]\nCPUWeight=20\n",
        debian.root / "etc/dcsync/service.d/secrets.conf": "[Service]\nLoadCredential=a:/etc/dcsync/a\n",
        debian.root / "etc/dcsync/config.toml": "# mine\n",
    }
    carry_out(install_steps(debian, Path("/usr/local/bin/dcsync")))
    for path, text in own.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (debian.root / "srv/dcsync").chmod(0o2775)

    texts = carry_out(install_steps(debian, PROGRAM))

    assert texts == [f"update /{UNITS}/{name}" for name in ("dcsync.service", "dcsync@.service", "dcsync-sync.service")]
    assert {path: path.read_text() for path in own} == own
    assert stat.S_IMODE((debian.root / "srv/dcsync").stat().st_mode) == 0o2775
    assert shadowing(debian) == [Path("/etc/systemd/system/dcsync.service")]


@needs_root
@pytest.mark.needs_tool("systemd-sysusers")
def test_beside_a_package_it_creates_the_user_and_the_folders_only(debian: Machine) -> None:
    carry_out(install_steps(debian, PROGRAM))
    for name in ("systemd/system/dcsync.service", "sysusers.d/dcsync.conf"):
        (debian.root / "usr/lib" / name).write_text((debian.root / "usr/local/lib" / name).read_text())
    (debian.root / "etc/passwd").write_text("")
    (debian.root / "srv/dcsync").rmdir()

    texts = carry_out(install_steps(debian, Path("/usr/bin/dcsync")))

    assert texts == [
        "create the user dcsync with systemd-sysusers",
        "create the folder /srv/dcsync (0755 dcsync:dcsync)",
    ]
    assert Path("/usr/local/lib/systemd/system/dcsync.service") in shadowing(debian)


@needs_root
@pytest.mark.needs_tool("systemd-sysusers")
@pytest.mark.needs_tool("systemctl")
def test_uninstalling_leaves_the_data_the_configuration_and_the_user(system: Machine) -> None:
    carry_out(install_steps(system, PROGRAM))
    kept = [
        "srv/dcsync/file",
        "etc/dcsync/config.toml",
        "etc/dcsync/service.d/a.conf",
        "var/lib/dcsync/manifest.sqlite",
    ]
    for name in kept:
        (system.root / name).write_text("kept")
    wanted = system.root / "etc/systemd/system/multi-user.target.wants"
    wanted.mkdir(parents=True)
    for name in ("dcsync.service", "dcsync@slow.service"):
        (wanted / name).symlink_to(f"/{UNITS}/{name.replace('slow', '')}")

    texts = carry_out(uninstall_steps(system))

    assert files(system, "usr", "etc/systemd") == set()
    assert texts[0] == "disable dcsync@slow.service dcsync.service dcsync-sync.timer"
    assert [(system.root / name).read_text() for name in kept] == ["kept"] * 4
    assert system.user("dcsync") is not None
    assert uninstall_steps(system) == []


@needs_root
@pytest.mark.needs_tool("systemd-sysusers")
def test_its_files_are_readable_whatever_the_umask(debian: Machine) -> None:
    before = os.umask(0o077)
    try:
        carry_out(install_steps(debian, PROGRAM))
    finally:
        os.umask(before)

    folder = "usr/local/lib/sysusers.d"
    assert owners(debian, folder, f"{folder}/dcsync.conf") == [(0, 0, 0o755), (0, 0, 0o644)]
