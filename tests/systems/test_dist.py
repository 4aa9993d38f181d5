"""The files of a release: what is in the packages. tests/systems/test_bare_debian.py installs them."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from dcsync import __version__
from scripts.dist.deb import SCRIPTS
from scripts.dist.pinned import EXTRAS, needed, pinned
from scripts.dist.pyz import build_pyz
from scripts.dist.tree import HOME, PYTHON
from tests.rigs.release import REPOSITORY, WHEELS

SYSTEM_PYTHON: Final = f"/usr/bin/{PYTHON}"
#: The packages contain the pinned packages, and installing them needs root.
pytestmark = [
    pytest.mark.machine,
    pytest.mark.needs_root,
    pytest.mark.needs_tool("dpkg-deb"),
    pytest.mark.needs_tool("rpmbuild"),
    pytest.mark.needs_tool(SYSTEM_PYTHON),
    pytest.mark.timeout(600),
]


# --- what is in it ----------------------------------------------------------------------------------------------------


def test_the_packages_contain_the_pinned_set_of_the_extras_and_nothing_of_the_development(tree: Path) -> None:
    names = needed("data-connector-mirror", EXTRAS)

    assert names >= {"aiohttp", "apprise", "click", "duckdb", "isal", "procrastinate", "psycopg-binary", "sqlalchemy"}
    assert not names & {"pytest", "mypy", "ruff"}
    assert len(re.findall(r"^[a-z0-9].*==", pinned(names), re.MULTILINE)) == len(names)
    installed = {path.name.split("-")[0].lower().replace("_", "-") for path in tree.rglob("*.dist-info")}
    assert {name.replace(".", "-") for name in names} | {"data-connector-mirror"} == installed


def test_the_tree_has_the_service_the_manual_and_the_completion_in_place(tree: Path) -> None:
    files = {str(path.relative_to(tree)) for path in tree.rglob("*") if not path.is_relative_to(tree / HOME)}

    assert files >= {
        "usr/bin/dcsync",
        *(f"usr/lib/systemd/system/{name}" for name in ("dcsync.service", "dcsync@.service", "dcsync-sync.service")),
        *(f"usr/lib/systemd/system/{name}" for name in ("dcsync-sync.timer", "dcsync.service.d", "dcsync@.service.d")),
        "usr/lib/sysusers.d/dcsync.conf",
        "usr/lib/tmpfiles.d/dcsync.conf",
        "usr/share/man/man1/dcsync.1.gz",
        "usr/share/bash-completion/completions/dcsync",
        "usr/share/zsh/vendor-completions/_dcsync",
        "usr/share/fish/vendor_completions.d/dcsync.fish",
        "usr/share/doc/data-connector-mirror/config.example.toml",
    }
    unit = (tree / "usr/lib/systemd/system/dcsync.service").read_text()
    assert "\nExecStart=/usr/bin/dcsync --config /etc/dcsync/config.toml run\n" in unit


def test_no_file_names_the_folder_or_the_interpreter_that_it_was_built_with(tree: Path) -> None:
    words = [word.encode() for word in {str(tree), str(REPOSITORY), sys.prefix, sys.executable}]
    found = [path for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]

    assert len(found) > 3000
    assert [str(path) for path in found for word in words if word in path.read_bytes()] == []


def test_no_link_leads_nowhere_and_no_mode_lets_others_write(tree: Path) -> None:
    links = {str(path.relative_to(tree)): str(path.readlink()) for path in tree.rglob("*") if path.is_symlink()}
    modes = {stat.S_IMODE(path.lstat().st_mode) for path in tree.rglob("*") if not path.is_symlink()}

    assert links == {
        "usr/bin/dcsync": "../lib/dcsync/bin/dcsync",
        "usr/lib/dcsync/bin/python3": SYSTEM_PYTHON,
        "usr/share/zsh/vendor-completions/_dcsync": "../site-functions/_dcsync",
        **{
            f"usr/lib/systemd/system/{name}.d": "/etc/dcsync/service.d"
            for name in ("dcsync.service", "dcsync@.service", "dcsync-sync.service")
        },
    }
    assert modes <= {0o755, 0o644}


def test_the_control_file_says_what_the_package_needs(packages: Path) -> None:
    shown = subprocess.run(
        ["dpkg-deb", "--field", packages / "first.deb"], check=True, capture_output=True, text=True
    ).stdout
    fields = dict(re.findall(r"^([A-Z][\w-]*): (.*)$", shown, re.MULTILINE))

    assert fields["Package"] == "data-connector-mirror"
    assert fields["Version"] == __version__
    assert fields["Depends"] == f"{PYTHON}, libc6 (>= 2.28), ca-certificates"
    assert fields["Recommends"] == "systemd, dbus, tzdata"
    assert fields["Provides"] == "dcsync"
    assert 20_000 < int(fields["Installed-Size"]) < 300_000


def test_the_package_has_owners_sums_and_scripts_that_a_shell_can_read(packages: Path, tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "--raw-extract", packages / "first.deb", tmp_path / "raw"], check=True)
    listed = subprocess.run(
        ["dpkg-deb", "--contents", packages / "first.deb"], check=True, capture_output=True, text=True
    ).stdout.splitlines()

    assert {line.split()[1] for line in listed} == {"root/root"}
    assert {line.split()[5].split("/")[1] for line in listed} - {""} == {"usr"}
    for name in SCRIPTS:
        subprocess.run(["sh", "-n", tmp_path / "raw/DEBIAN" / name], check=True)
    subprocess.run(["md5sum", "--check", "--quiet", "--strict", "DEBIAN/md5sums"], cwd=tmp_path / "raw", check=True)


def rpm(*words: str | Path) -> list[str]:
    return subprocess.run(["rpm", *words], check=True, capture_output=True, text=True).stdout.splitlines()


def test_the_rpm_has_the_files_of_the_deb_and_needs_the_interpreter_only(packages: Path, tree: Path) -> None:
    package = packages / "dcsync.rpm"
    files = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_symlink() or path.is_file()}
    listed = rpm("--query", "--package", "--queryformat=[%{FILENAMES} %{FILEUSERNAME} %{FILEMODES:perms}\\n]", package)
    packed = {line.split()[0][1:] for line in listed if not line.split()[2].startswith("d")}

    assert files - packed == {"usr/share/zsh/vendor-completions/_dcsync"}
    assert packed <= files
    assert {line.split()[1] for line in listed} == {"root"}
    needed = {line for line in rpm("--query", "--package", "--requires", package) if not line.startswith("rpmlib(")}
    assert needed == {SYSTEM_PYTHON, "ca-certificates", "/bin/sh"}


def test_the_rpm_installs_into_another_root(packages: Path, tree: Path, tmp_path: Path) -> None:
    rpm("--root", tmp_path, "--initdb")
    rpm("--root", tmp_path, "--install", "--nodeps", "--noscripts", "--force-debian", packages / "dcsync.rpm")

    program = Path("usr/lib/dcsync/bin/dcsync")
    assert (tmp_path / program).read_bytes() == (tree / program).read_bytes()
    assert (tmp_path / "usr/lib/systemd/system/dcsync.service.d").readlink() == Path("/etc/dcsync/service.d")
    verified = subprocess.run(
        ["rpm", "--root", tmp_path, "--verify", "--nodeps", "--noscripts", "data-connector-mirror"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (verified.returncode, verified.stdout) == (0, "")


# --- the single file --------------------------------------------------------------------------------------------------


def test_the_single_file_unpacks_itself_and_mirrors_the_demo(wheel: Path, tmp_path: Path) -> None:
    program = build_pyz(wheel, WHEELS, tmp_path, compress=False)
    # The build of the development and its packages are out of reach.
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PEX_ROOT": str(tmp_path / "unpacked")}

    def dcsync(*words: str) -> str:
        command = [f"/usr/bin/{PYTHON}", str(program), *words]
        return subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    assert program.name.startswith(f"dcsync-{__version__}-python3.")
    assert dcsync("--version") == f"dcsync, version {__version__}\n"
    dcsync("demo", str(tmp_path / "demo"))
    assert len(list((tmp_path / "demo").rglob("SHA256SUMS"))) > 0
    assert (tmp_path / "unpacked").is_dir()


# --- the image --------------------------------------------------------------------------------------------------------

CONTAINERFILE: Final = REPOSITORY / "release/Containerfile"


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the image with their arguments, lines joined."""
    lines = (line for line in CONTAINERFILE.read_text().splitlines() if line and not line.startswith("#"))
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(name, " ".join(rest.split())) for name, _, rest in (line.partition(" ") for line in joined)]


def arguments(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def test_the_image_runs_the_daemon_as_a_user_without_rights_and_checks_its_health() -> None:
    known = {"ARG", "FROM", "COPY", "RUN", "ENV", "USER", "VOLUME", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in instructions()} == known
    assert arguments("USER") == ["dcsync"]
    assert json.loads(arguments("HEALTHCHECK")[0].partition("CMD ")[2]) == ["dcsync", "status", "--check"]
    assert [json.loads(arguments(name)[0]) for name in ("ENTRYPOINT", "CMD")] == [["dcsync"], ["run"]]
    assert json.loads(arguments("VOLUME")[0]) == ["/var/lib/dcsync", "/srv/dcsync"]
    assert "DCSYNC_CONFIG=/etc/dcsync/config.toml" in arguments("ENV")[0]


def test_what_the_image_copies_exists_and_its_commands_install_dcsync(wheel: Path, tmp_path: Path) -> None:
    """No registry of images can be reached here, so the commands of the first stage run in a folder."""
    context = tmp_path / "context/dist"
    context.mkdir(parents=True)
    shutil.copy(wheel, context)
    (context / "requirements.txt").write_text(pinned({"click"}))  # enough to start, and fast
    first, second = arguments("COPY")
    *sources, target = first.split()
    copied = tmp_path / target.strip("/")
    copied.mkdir(parents=True)
    for source in sources:
        (path,) = context.parent.glob(source)
        shutil.copy(path, copied)

    command = re.sub(r"(?<=[ \t])/(?=opt/|tmp/)", f"{tmp_path}/", arguments("RUN")[0])
    offline = {"PATH": os.environ["PATH"], "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(WHEELS), "PIP_NO_COMPILE": "1"}
    subprocess.run(["sh", "-euc", command], env=offline, check=True, capture_output=True)

    assert second == "--from=build /opt/dcsync /opt/dcsync"
    done = subprocess.run([tmp_path / "opt/dcsync/bin/dcsync", "--version"], check=True, capture_output=True, text=True)
    assert done.stdout == f"dcsync, version {__version__}\n"
    for each in arguments("RUN"):
        subprocess.run(["sh", "-n", "-c", each], check=True)
