"""The manual page and the completion of the shells: made from the commands, and used as a person would."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest

from dcsync import __version__
from dcsync.cli.group import dcsync
from scripts.manual import COMPLETIONS, completion, manual_page
from tests.rigs.ended import ending

#: A hang detector. A shell answers in a second.
TIMEOUT_S: Final = 120


def commands(group: click.Group, names: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield every command and subcommand."""
    context = click.Context(group)
    for name in group.list_commands(context):
        yield (*names, name)
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*names, name))


# --- the manual page --------------------------------------------------------------------------------------------------


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "dcsync.1"
    path.write_text(manual_page())
    return path


@pytest.mark.needs_tool("groff")
def test_troff_finds_nothing_to_remark(page: Path) -> None:
    done = subprocess.run(["groff", "-man", "-ww", "-Tutf8", "-z", page], check=True, capture_output=True, text=True)

    assert done.stdout + done.stderr == ""


@pytest.mark.needs_tool("groff")
def test_it_shows_every_command_with_its_options_and_exit_statuses(page: Path) -> None:
    # No line is broken at this width, and no letter is bold.
    wide = ["groff", "-man", "-Tutf8", "-rLL=1000n", "-P-cbou", str(page)]
    text = subprocess.run(wide, check=True, capture_output=True, text=True).stdout

    assert f"dcsync {__version__}" in text
    assert "dcsync - mirror Autodesk Data Connector extracts" in text
    shown = [tuple(line.split(" [")[0].split()[1:]) for line in text.splitlines() if line.startswith("   dcsync ")]
    assert shown == list(commands(dcsync))
    for words in ("--dry-run", "  14  stopped for safety", "-h, --help", "/etc/dcsync/config.toml", "$DCSYNC_CONFIG"):
        assert words in text, words


def test_text_that_troff_would_obey_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dcsync, "help", ".so /etc/passwd\n\n'x \\fB…\n\n\b\n.TH kept")

    page = manual_page()

    assert "\n\\&.so /etc/passwd\n" in page
    assert "\n\\&'x \\efB\\[u2026]\n" in page
    assert "\n\\&.TH kept\n" in page


# --- completion -------------------------------------------------------------------------------------------------------


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment with `dcsync` on PATH and a home without a shell's configuration."""
    program = tmp_path / "bin/dcsync"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom dcsync.cli import main\nmain()\n")
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL") if name in os.environ}
    checkout = str(Path(__file__).parents[1])
    return {**kept, "PATH": path, "HOME": str(tmp_path), "TERM": "dumb", "PYTHONPATH": checkout}


def installed(folder: Path, shell: str) -> Path:
    """Write the completion of a shell where an installation below `folder` has it."""
    path = folder / COMPLETIONS[shell]
    path.parent.mkdir(parents=True)
    path.write_text(completion(shell))
    return path


@pytest.mark.needs_tool("bash")
def test_bash_completes_commands_and_options(tmp_path: Path, environment: dict[str, str]) -> None:
    script = f"""
    source {installed(tmp_path, "bash")}
    complete -p dcsync
    for words in "dcsync ver" "dcsync sync --dr" "dcsync hooks re"; do
        COMP_WORDS=($words); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=()
        _dcsync_completion dcsync
        echo "${{COMPREPLY[@]}}"
    done
    """

    done = subprocess.run(
        ["bash", "--norc", "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=TIMEOUT_S
    )

    assert done.stdout.splitlines() == [
        "complete -o nosort -F _dcsync_completion dcsync",
        "verify",
        "--dry-run",
        "rerun",
    ]
    assert done.stderr == ""


@pytest.mark.needs_tool("fish")
def test_fish_completes_commands_and_options(tmp_path: Path, environment: dict[str, str]) -> None:
    installed(tmp_path, "fish")
    # The folder below this variable is where packages put their completion.
    variables = {**environment, "XDG_DATA_DIRS": f"{tmp_path}/share"}
    script = 'complete -C "dcsync ver"; complete -C "dcsync sync --dr"; complete -C "dcsync hooks re"'

    done = subprocess.run(
        ["fish", "-c", script], env=variables, capture_output=True, text=True, check=True, timeout=TIMEOUT_S
    )

    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["verify", "--dry-run", "rerun"]


@pytest.mark.needs_tool("zsh")
def test_zsh_completes_a_command_at_the_tab_key(tmp_path: Path, environment: dict[str, str]) -> None:
    folder = installed(tmp_path, "zsh").parent
    (tmp_path / ".zshrc").write_text(
        f"PS1='READY>'\nfpath=({folder} $fpath)\nautoload -Uz compinit && compinit -u -D\nunsetopt beep\n"
    )
    controller, terminal = pty.openpty()
    with ending(
        subprocess.Popen(
            ["zsh", "-i"],
            env={**environment, "ZDOTDIR": str(tmp_path)},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )
    ) as zsh:
        os.close(terminal)
        try:
            read_until(controller, "READY>")
            os.write(controller, b"dcsync ver\t")
            read_until(controller, "dcsync verify")
        finally:
            zsh.kill()
            os.close(controller)


def read_until(descriptor: int, words: str) -> None:
    """Read a terminal until these words have appeared, whatever moves the cursor between them."""
    seen = ""
    while words not in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|[\x00-\x1f]", "", seen):
        seen += os.read(descriptor, 4096).decode(errors="replace")
