"""What pyproject.toml declares: it is documented, and the wheel has what it should."""

from __future__ import annotations

import re
import subprocess
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from dcsync import DISTRIBUTION, __version__
from scripts.manual import generated_files

REPOSITORY: Final = Path(__file__).parent.parent
PYPROJECT: Final[dict[str, Any]] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
SYSTEMD: Final = (
    *("dcsync.service", "dcsync@.service", "dcsync-sync.service", "dcsync-sync.timer"),
    *("dcsync.sysusers", "dcsync.tmpfiles"),
)
_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")


def name_of(requirement: str) -> str:
    match = _NAME.match(requirement.strip())
    assert match is not None, requirement
    return match[0].lower().replace("_", "-")


def declared() -> dict[str, set[str]]:
    """Return every package that is declared and the extras that it belongs to. An extra's package is in dev as well."""
    project = PYPROJECT["project"]
    found: dict[str, set[str]] = {
        name_of(item): set() for item in (*PYPROJECT["dependency-groups"]["dev"], *project["dependencies"])
    }
    for extra, items in project["optional-dependencies"].items():
        for item in items:
            found.setdefault(name_of(item), set()).add(extra)
    return found


def documented() -> Iterator[tuple[str, set[str]]]:
    """Yield the packages of the table in CONTRIBUTING.md with the extras that it names."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("\n## Dependencies", 1)[1].split("\n## ", 1)[0]
    for row in re.findall(r"^\| ([^|]+) \|", section, re.MULTILINE)[1:]:
        noted = re.search(r"\(extras? ([^)]*)\)", row)
        extras = set(re.findall(r"`(\w+)`", noted[1])) if noted else set()
        names = re.sub(r"\([^)]*\)|\[[^\]]*\]", "", row)
        if names.strip("- "):
            yield from ((name_of(name), extras) for name in names.split(","))


def test_the_dependency_table_lists_exactly_what_is_declared() -> None:
    rows = list(documented())

    assert len(rows) == len(dict(rows))
    assert dict(rows) == declared()


def test_the_pinned_set_has_every_package_that_is_declared() -> None:
    lines = (REPOSITORY / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()
    pinned = {name_of(line) for line in lines if "==" in line}

    assert declared().keys() - pinned == set()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    builder = WheelBuilder(str(REPOSITORY))
    (path,) = builder.build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    with zipfile.ZipFile(path) as opened:
        yield opened


def test_the_wheel_says_that_it_is_typed_and_has_the_files_that_are_no_code(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())

    assert names >= {
        "dcsync/py.typed",
        "dcsync/config/example.toml",
        "dcsync/explain/codes.toml",
        "dcsync/explain/guides/network.md",
        "dcsync/ops/templates/index.html.j2",
        "dcsync/ops/templates/age.js",
        *(f"dcsync/systemd/files/{name}" for name in SYSTEMD),
    }
    assert wheel.read("dcsync/py.typed") == b""


def test_the_wheel_has_the_manual_the_completion_and_the_example_below_its_prefix(wheel: zipfile.ZipFile) -> None:
    data = f"data_connector_mirror-{__version__}.data/data/"
    shared = {name.removeprefix(data): wheel.read(name) for name in wheel.namelist() if name.startswith(data)}

    assert shared.keys() == {*generated_files(), "share/doc/dcsync/config.example.toml"}
    assert shared["share/man/man1/dcsync.1"].startswith(b".TH DCSYNC 1 ")
    assert shared["share/zsh/site-functions/_dcsync"].startswith(b"#compdef dcsync\n")
    assert shared["share/doc/dcsync/config.example.toml"] == (REPOSITORY / "config.example.toml").read_bytes()


def test_the_sdist_has_all_that_the_wheel_is_built_from_and_what_is_generated(tmp_path: Path) -> None:
    (path,) = SdistBuilder(str(REPOSITORY)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(path) as opened:
        names = {name.split("/", 1)[1] for name in opened.getnames()}

    modules = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "dcsync").rglob("*.py")}
    assert names >= modules | {f"dcsync/systemd/files/{name}" for name in SYSTEMD} | set(generated_files())
    assert names >= {"config.example.toml", "dcsync/py.typed", "scripts/build_hook.py", "scripts/manual.py", "LICENSE"}
    assert [name for name in names if name.startswith((".ci", ".venv", "dist/", "build/"))] == []


def test_the_wheel_has_every_module_and_nothing_beside_the_package(wheel: zipfile.ZipFile) -> None:
    modules = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "dcsync").rglob("*.py")}
    beside = f"data_connector_mirror-{__version__}."
    packed = {name for name in wheel.namelist() if not name.startswith((f"{beside}dist-info/", f"{beside}data/"))}

    assert {name for name in packed if name.endswith(".py")} == modules
    assert all(name.startswith("dcsync/") for name in packed)


def test_the_changelog_has_a_dated_section_for_this_version() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")

    assert re.search(rf"^## \[{re.escape(__version__)}\] - \d{{4}}-\d\d-\d\d$", text, re.MULTILINE)
    assert text.index("## [Unreleased]") < text.index(f"## [{__version__}]")


# --- the name ---------------------------------------------------------------------------------------------------------

#: `dcsync` on the index is a stranger's program. These are ways to ask for it.
_STRANGER: Final = re.compile(
    r"\bdcsync\[\w"  # dcsync[notify]
    r"|\b(?:pipx?|uv|uvx)\b(?: tool| pip)? (?:install|inject|run|upgrade|download|add)\b[^\n`;&|#]*?"
    r"[ '\"=]dcsync(?![\w./-])"  # pip install dcsync
    r"|\bPackageNotFoundError\b.*dcsync|\b(?:version|metadata|distribution)\([\"']dcsync[\"']"  # importlib.metadata
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("pip install 'dcsync[notify]'", True),
        ("pipx install dcsync", True),
        ("uv tool install -q dcsync", True),
        ("pip install --quiet dcsync==0.2", True),
        ('importlib.metadata.version("dcsync")', True),
        ("pipx install data-connector-mirror", False),
        ("pipx install './data_connector_mirror-0.2.0-py3-none-any.whl[notify]'", False),
        ("git clone https://example.com/dcsync && cd dcsync && pipx install .", False),
        ("PIPX_HOME=/opt/pipx pipx install . && dcsync login", False),
        ("pip install /usr/src/dcsync/dist/data_connector_mirror-0.2.0-py3-none-any.whl", False),
    ],
)
def test_a_text_that_asks_the_index_for_the_stranger_s_program_is_found(text: str, found: bool) -> None:
    assert (_STRANGER.search(text) is not None) == found


def test_no_text_asks_the_index_for_the_program_of_a_stranger() -> None:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    names = [name for name in done.stdout.split("\0") if name and name != "tests/test_packaging.py"]
    texts = {name: (REPOSITORY / name).read_bytes().decode(errors="replace") for name in names}

    assert len(texts) > 300
    assert [(name, hit[0]) for name, text in texts.items() for hit in _STRANGER.finditer(text)] == []


def test_the_distribution_has_the_name_that_hints_use() -> None:
    assert PYPROJECT["project"]["name"] == DISTRIBUTION == "data-connector-mirror"
    assert PYPROJECT["project"]["scripts"] == {"dcsync": "dcsync.cli:main"}
