"""A bare Debian with a real systemd: a person follows the documentation to the first snapshot, and lives on with it.

The commands are those of the pages. Nothing of this machine is in the system, and its network ends at the sandbox.
"""

from __future__ import annotations

import platform
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import pytest

from dcsync import __version__
from scripts.dist.tree import PYTHON
from tests.rigs import bare, package_driver
from tests.rigs.package_driver import KEPT, RELEASE, SNAPSHOTS
from tests.rigs.package_driver import WHEELS as PLACE_OF_WHEELS
from tests.rigs.release import WHEELS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.machine,
    pytest.mark.needs_root,
    pytest.mark.needs_tool("systemd-nspawn"),
    pytest.mark.needs_tool("mmdebstrap"),
    pytest.mark.needs_tool("rpmbuild"),
    pytest.mark.needs_tool("curl"),
    pytest.mark.needs_tool(f"/usr/bin/{PYTHON}"),
    pytest.mark.timeout(1800),  # a hang; alone on two cores it takes a minute
]
#: The beginnings of what the package prints when it is installed first.
NEXT: Final = "Next: write /etc/dcsync/config.toml (dcsync init), then run: systemctl enable --now dcsync"


@pytest.fixture(scope="module")
def image() -> Iterator[Future[Path]]:
    """Install the bare system while the packages are built."""
    if platform.freedesktop_os_release().get("VERSION_CODENAME") != "bookworm":
        pytest.skip("needs the packages of Debian 12 from this machine's apt")
    with ThreadPoolExecutor(max_workers=1) as pool:
        yield pool.submit(bare.image)


@pytest.fixture(scope="module")
def seen(image: Future[Path], packages: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Boot once, do all of it, and return what was seen by step. A step that breaks ends it."""
    folder = tmp_path_factory.mktemp("bare")
    release = folder / "release"
    shutil.copytree(packages, release)
    shutil.copy(wheel, release)
    with bare.booted(folder, image.result(), binds={RELEASE: release, PLACE_OF_WHEELS: WHEELS}) as machine:
        return dict(package_driver.drive(machine))


def statuses(typed: list[dict[str, Any]]) -> dict[str, int]:
    """Return the exit status of each command that failed."""
    return {each["typed"]: each["status"] for each in typed if each["status"]}


def said(typed: list[dict[str, Any]], command: str) -> str:
    (found,) = (each["said"] for each in typed if each["typed"].startswith(command))
    return str(found)


def test_the_machine_has_nothing_of_this_one(seen: dict[str, Any]) -> None:
    step = seen["before"]
    index = (bare.DOWNLOADED / "Packages").read_text()
    fields = [dict(line.split(": ", 1) for line in block.splitlines() if ": " in line) for block in index.split("\n\n")]
    downloaded = {f"{field['Package']}={field['Version']}" for field in fields if field}

    assert (step["programs"], step["python"], step["zones"]) == ([], "", False)
    assert step["processes"] == "systemd\n"
    assert len(step["packages"]) > 80
    assert set(step["packages"]) <= downloaded


# --- the package ------------------------------------------------------------------------------------------------------


def test_installing_the_package_makes_the_user_and_the_folders_and_starts_nothing(seen: dict[str, Any]) -> None:
    installed, fresh = seen["deb"]["installed"], seen["deb"]["fresh"]

    assert installed.status == 0, installed.said
    assert NEXT in installed.said
    assert fresh["folders"] == ["dcsync:dcsync 755", "root:dcsync 750", "root:root 755", "dcsync:dcsync 700"]
    assert (fresh["verify"].status, fresh["verify"].said) == (0, "")
    assert fresh["unit"]["FragmentPath"].endswith("/lib/systemd/system/dcsync.service")
    assert (fresh["unit"]["UnitFileState"], fresh["unit"]["ActiveState"]) == ("disabled", "inactive")
    # Its Python packages are its own.
    assert set(fresh["imports"].values()) == {1}
    # The package dbus has just been installed, and nothing has started it.
    assert fresh["bus"] == "inactive"


@pytest.mark.parametrize("way", ["deb", "wheel"])
def test_the_commands_of_the_readme_lead_from_the_installation_to_the_first_snapshot(
    seen: dict[str, Any], way: str
) -> None:
    step = seen[way]

    assert statuses(step["typed"]) == {}, step["typed"]
    assert "signed in as user ada\n" in said(step["typed"], "dcsync login")
    assert "acme: visible" in said(step["typed"], "dcsync login")
    doctor = said(step["typed"], "dcsync doctor")
    assert "fail" not in doctor, doctor
    assert "client_secret (credential:client-secret)" in doctor
    first = step["first"]
    assert (first["unit"]["ActiveState"], first["unit"]["NRestarts"]) == ("active", "0")
    assert first["owners"] == [first["uid"]]
    assert (first["check"].status, first["warnings"]) == (0, ""), first["check"].said


def test_nothing_on_the_way_looks_like_a_mistake(seen: dict[str, Any]) -> None:
    """What a person sees has no warning, no traceback, and nothing twice."""
    typed = [each for step in ("deb", "wheel", "guided", "workstation") for each in seen[step]["typed"]]
    for each in typed:
        for word in ("warning", "Traceback", "Error", "denied", "not found"):
            assert word not in each["said"], each
    for step in ("deb", "wheel"):
        assert said(seen[step]["typed"], "dcsync login").count("signed in") == 1


def test_an_order_of_root_goes_to_the_daemon(seen: dict[str, Any]) -> None:
    pruned = seen["deb"]["pruned"]

    assert (pruned.status, pruned.said.strip().splitlines()[-1]) == (0, f"0 removed (0 B freed), {SNAPSHOTS} kept")
    assert "prune" not in seen["deb"]["by_root"]


def test_a_reload_needs_no_other_package(seen: dict[str, Any]) -> None:
    """The program /bin/kill is in the package procps, which this machine does not have."""
    assert seen["deb"]["reloaded"].status == 0, seen["deb"]["reloaded"].said


def test_an_upgrade_replaces_the_files_and_starts_the_daemon_again(seen: dict[str, Any]) -> None:
    step = seen["upgrade"]

    assert step["upgraded"].status == 0, step["upgraded"].said
    assert "Next:" not in step["upgraded"].said
    assert (step["files"], step["config"], step["same_pid"], step["left"]) == (["second"], True, False, "")


def test_removing_it_keeps_the_configuration_the_state_and_the_mirror(seen: dict[str, Any]) -> None:
    step = seen["remove"]

    assert step["removed"].status == 0, step["removed"].said
    assert (step["unit"], step["snapshots"], step["left"]) == ("not-found", SNAPSHOTS, [])
    assert step["kept"] == list(KEPT)


def test_the_rpm_is_installed_upgraded_and_removed_in_the_same_way(seen: dict[str, Any]) -> None:
    step = seen["rpm"]

    assert [done.status for done in step["done"]] == [0, 0, 0], step["done"]
    assert NEXT in step["done"][0].said
    assert (step["started"], step["same_pid"]) == ("active", False)
    assert (step["unit"], step["snapshots"], step["left"]) == ("not-found", SNAPSHOTS, [])
    assert step["kept"] == list(KEPT)


def test_purging_it_deletes_the_configuration_and_the_state_but_never_a_mirror(seen: dict[str, Any]) -> None:
    step = seen["purge"]

    assert step["purged"].status == 0, step["purged"].said
    assert (step["folders"], step["snapshots"], step["user"], step["links"]) == ([], SNAPSHOTS, "dcsync", "")
    assert "/var/lib/dcsync is kept, because it contains a mirror: /var/lib/dcsync/mirror" in step["spared"].said
    assert step["mirror"]


# --- the wheel --------------------------------------------------------------------------------------------------------


def test_the_service_of_a_wheel_starts_its_own_program(seen: dict[str, Any]) -> None:
    step = seen["wheel"]

    assert statuses(step["installed"]) == {}, step["installed"]
    assert "create /usr/local/lib/systemd/system/dcsync.service\n" in said(step["installed"], "dcsync service install")
    unit = step["first"]["unit"]
    assert unit["FragmentPath"] == "/usr/local/lib/systemd/system/dcsync.service"
    assert "path=/usr/local/bin/dcsync" in unit["ExecStart"]


def test_init_leads_root_from_the_service_to_the_first_snapshot(seen: dict[str, Any]) -> None:
    step = seen["guided"]

    assert statuses(step["typed"]) == {}, step["typed"]
    assert "Signed in as user ada." in said(step["typed"], "dcsync init")
    assert "systemctl enable --now dcsync" in said(step["typed"], "dcsync init")
    assert step["secret"] == ["root:root 600", "root:dcsync 640"]
    assert step["drop_in"] == "[Service]\nLoadCredential=client-secret:/etc/dcsync/client-secret\n"
    first = step["first"]
    assert first["owners"] == [first["uid"]]
    assert (first["check"].status, first["warnings"]) == (0, ""), first["check"].said


# --- a workstation ----------------------------------------------------------------------------------------------------


def test_the_commands_of_the_readme_lead_a_user_without_rights_to_the_first_snapshot(seen: dict[str, Any]) -> None:
    step = seen["workstation"]

    assert statuses(step["installed"]) == {}, step["installed"]
    assert statuses(step["typed"]) == {}, step["typed"]
    assert f"data-connector-mirror {__version__}" in said(step["installed"], "pipx install")
    assert step["secret"] == ["ada:ada 600"]
    # The page in the browser has told it. Nothing was pasted.
    assert "Signed in as user ada." in said(step["typed"], "dcsync init")
    assert (step["snapshots"], step["report"].status) == (SNAPSHOTS, 0)
