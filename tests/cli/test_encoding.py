"""dcsync in a locale that is not UTF-8: names on disk are UTF-8 all the same, and no output fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.rigs.served import TOKEN, Served

#: Not in Latin-1.
NAME = "Größe ع €.csv"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
C = {"LC_ALL": "C"}


@pytest.fixture(scope="module")
def latin_1(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A locale with the encoding Latin-1."""
    folder = tmp_path_factory.mktemp("locales")
    subprocess.run(
        ["localedef", "-f", "ISO-8859-1", "-i", "en_US", str(folder / "en_US.ISO-8859-1")], check=False, timeout=120
    )
    found = {"LOCPATH": str(folder), "LC_ALL": "en_US.ISO-8859-1"}
    asked = [sys.executable, "-c", "import locale; locale.setlocale(locale.LC_ALL, ''); print(locale.getencoding())"]
    known = subprocess.run(asked, env={**os.environ, **found}, capture_output=True, text=True, check=True)
    assert known.stdout.strip().lower() in {"iso-8859-1", "iso8859-1"}
    return found


def call(side: Served, environ: dict[str, str], *arguments: str | bytes) -> subprocess.CompletedProcess[bytes]:
    return python(side, environ, "-m", "dcsync", "--config", str(side.config), *arguments)


def python(side: Served, environ: dict[str, str], *arguments: str | bytes) -> subprocess.CompletedProcess[bytes]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**plain, **environ, TOKEN: side.token},
        capture_output=True,
        check=False,
        timeout=300,
    )


COMMANDS = [
    ("requests",),
    ("jobs",),
    ("jobs", "--json"),
    ("status",),
    ("status", "--json"),
    ("diff", "previous", "latest"),
    ("verify",),
    ("rebuild",),
    ("doctor",),
    ("prune", "--dry-run"),
    ("hooks", "list"),
]
#: Runs the commands in one process of the locale, because each start takes as long as ten commands.
RUN_ALL = """
import json, sys
from dcsync.cli import main
_, config, *commands = sys.argv
for command in commands:
    print("---", command, file=sys.stderr, flush=True)
    sys.argv = ["dcsync", "--config", config, *json.loads(command)]
    try:
        main()
    except SystemExit as ended:
        if ended.code not in {0, 3}:
            raise
"""


@pytest.mark.needs_tool("localedef")
@pytest.mark.parametrize("kind", ["Latin-1", "ASCII", "C"])
def test_every_command_works_and_names_on_disk_are_utf_8(
    side: Served, request: pytest.FixtureRequest, kind: str
) -> None:
    environ = {"ASCII": ASCII, "C": C}.get(kind) or request.getfixturevalue("latin_1")
    order = side.sandbox.world.add_request("Auszug für ع €")
    for day in range(2):
        body = f"id\n{day}\n".encode()
        completed = datetime(2026, 11, 20 + day, tzinfo=UTC)
        side.sandbox.world.add_job(order, completed_at=completed, files={NAME: body}, with_archive=False)
    log = side.folder / "hook.txt"
    side.config.write_text(
        side.config.read_text()
        + f'[[hook]]\non = ["snapshot"]\nrun = ["/bin/sh", "-c", "cat >> {log}; echo \\"$1\\" >> {log}", "x", "ع"]\n'
    )

    synced = call(side, environ, "sync")

    assert (synced.returncode, b"Traceback" in synced.stderr) == (0, False), synced.stderr
    names = [name for _, _, found in os.walk(os.fsencode(side.root)) for name in found]
    assert names.count(NAME.encode()) == 2
    assert "ع".encode() in log.read_bytes()

    done = python(side, environ, "-c", RUN_ALL, str(side.config), *map(json.dumps, COMMANDS))

    # The last command that standard error names is the one that failed.
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    assert {line[4:] for line in done.stderr.splitlines() if line.startswith(b"--- ")} == {
        json.dumps(command).encode() for command in COMMANDS
    }


@pytest.mark.needs_tool("localedef")
def test_characters_that_the_locale_lacks_are_replaced(side: Served, latin_1: dict[str, str]) -> None:
    side.sandbox.world.add_request("Größe ع")

    done = call(side, latin_1, "requests")

    assert "Größe ?".encode("latin-1") in done.stdout


@pytest.mark.parametrize("environ", [ASCII, C, {"LC_ALL": "C.UTF-8"}], ids=["ASCII", "C", "UTF-8"])
def test_an_argument_that_is_no_text_is_an_ordinary_mistake(side: Served, environ: dict[str, str]) -> None:
    for arguments in ((b"requests", b"\xff\xfe"), (b"sync", b"--account", b"\xc3\xa4\xff")):
        done = call(side, environ, *arguments)

        assert (done.returncode, b"Traceback" in done.stderr) == (2, False), done.stderr


def test_an_environment_that_is_no_text_reaches_hooks_unchanged(side: Served) -> None:
    order = side.sandbox.world.add_request("Nightly")
    side.sandbox.world.add_job(order, completed_at=datetime.now(UTC), files={"a.csv": b"id\n"}, with_archive=False)
    log = side.folder / "hook.txt"
    with side.config.open("a") as file:
        file.write(f'[[hook]]\non = ["snapshot"]\nrun = ["/bin/sh", "-c", "echo $ODD > {log}"]\n')

    done = call(side, {**ASCII, "ODD": os.fsdecode(b"\xff\xe9")}, "sync")

    assert (done.returncode, log.read_bytes()) == (0, b"\xff\xe9\n")


def test_an_output_encoding_that_the_user_named_is_kept(side: Served, tmp_path: Path) -> None:
    side.sandbox.world.add_request("Größe ع")

    done = call(side, {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "latin-1"}, "requests")

    assert "Größe ?".encode("latin-1") in done.stdout
