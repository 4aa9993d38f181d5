"""Whether the service's user can run the program inside the units."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

import dcsync
from dcsync.errors import ConfigError
from dcsync.systemd import refuse_unusable, this_program


def refusal(*paths: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        refuse_unusable(paths)
    return caught.value


@pytest.mark.parametrize(
    ("path", "setting"),
    [
        ("/home/anna/.local/bin/dcsync", "ProtectHome="),
        ("/root/.local/bin/dcsync", "ProtectHome="),
        ("/run/user/1000/dcsync", "ProtectHome="),
        ("/tmp/venv/bin/dcsync", "PrivateTmp="),  # noqa: S108 - only named
        ("/var/tmp/venv/bin/dcsync", "PrivateTmp="),  # noqa: S108 - the same
    ],
)
def test_a_path_that_the_units_hide_is_refused_with_the_way_to_install_it(path: str, setting: str) -> None:
    error = refusal(Path(path))

    assert f"the service cannot use {path}" in error.message
    assert setting in error.message
    assert "PIPX_BIN_DIR=/usr/local/bin pipx install" in error.advice
    assert "sudo /usr/local/bin/dcsync service install" in error.advice


@pytest.fixture
def visible() -> Iterator[Path]:
    """Return a new folder where the units can see it: not below /tmp, where all others are."""
    with TemporaryDirectory(dir="/opt", prefix="dcsync-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.needs_root
def test_a_link_into_a_hidden_folder_is_refused_by_where_it_leads(visible: Path) -> None:
    (visible / "dcsync").symlink_to("/root/.local/bin/dcsync")

    assert refusal(visible / "dcsync").message.startswith(
        "the service cannot use /root/.local/bin/dcsync: its unit hides"
    )


@pytest.mark.needs_root
def test_a_folder_that_only_its_owner_can_enter_is_refused_by_name(visible: Path) -> None:
    folder = visible / "private"
    (folder / "bin").mkdir(parents=True)
    refuse_unusable([folder / "bin"])
    folder.chmod(0o750)

    error = refusal(folder / "bin")

    assert error.message.endswith(f"its user has no access to {folder} (mode 0750)")
    assert error.advice.startswith(f"chmod o+rx {folder}, or install dcsync for all users")


def test_a_program_that_does_not_exist_is_refused() -> None:
    assert refusal(Path("/usr/no/dcsync")).message.endswith("/usr/no: No such file or directory")


def test_this_installation_is_its_program_its_interpreter_and_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/dcsync", "service", "install"])

    program, needed = this_program()

    assert program == Path("/usr/local/bin/dcsync")
    assert needed == [Path(sys.prefix), Path(sys.base_prefix), Path(dcsync.__file__).parent]


def test_started_as_a_module_the_program_is_the_script_of_the_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(Path(dcsync.__file__).parent / "__main__.py"), "service", "install"])

    assert this_program()[0] == Path(sys.executable).parent / "dcsync"
