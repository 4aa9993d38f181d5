"""The command line as a whole: help, versions, configuration mistakes, bugs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

import dcsync
from dcsync.cli import group
from dcsync.cli.group import _COMMANDS
from dcsync.errors import ExitStatus
from dcsync.sandbox import Fault
from tests.cli.conftest import Dcsync
from tests.rigs.mirror import assert_identical, tables
from tests.rigs.person import at_terminal
from tests.rigs.served import Served


def test_help_lists_the_commands_and_the_exit_statuses(dcsync: Dcsync) -> None:
    result = dcsync("--help")

    assert result.status == 0
    for name in _COMMANDS:
        assert name in result.out
    for words in ("11  another instance is using the mirror", "14  stopped for safety", "130 interrupted"):
        assert words in result.out


@pytest.mark.parametrize("command", sorted(_COMMANDS))
def test_every_command_s_help_lists_the_exit_statuses(dcsync: Dcsync, command: str) -> None:
    result = dcsync(command, "--help")

    assert result.status == 0
    words = result.out.partition("Exit status:")[2]
    listed = {int(line.split()[0]) for line in words.splitlines() if line.strip()}
    assert {0, 1, 2, 130} <= listed <= set(ExitStatus)


@pytest.mark.parametrize("command", [name for name in _COMMANDS if name in {"config", "hooks", "manifest", "service"}])
def test_no_summary_of_a_subcommand_is_cut(dcsync: Dcsync, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    summaries = dcsync(command, "--help").out.partition("Commands:")[2].partition("Exit status")[0]

    assert summaries.strip()
    assert "..." not in summaries


def test_the_version_is_printed(dcsync: Dcsync) -> None:
    import dcsync as package

    assert dcsync("--version").out == f"dcsync, version {package.__version__}\n"


def test_help_imports_no_heavy_package() -> None:
    code = "import sys; from dcsync.cli.group import run; run(['--help']); print(*sorted(sys.modules))"

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    modules = set(result.stdout.splitlines()[-1].split())
    assert "dcsync.cli.group" in modules
    assert not modules & {"aiohttp", "sqlalchemy", "pydantic", "rich", "alembic", "structlog"}


def test_an_unknown_command_and_an_unknown_option_are_usage_errors(dcsync: Dcsync) -> None:
    assert dcsync("sink").status == 2
    assert dcsync("sync", "--frobnicate").status == 2


@pytest.mark.parametrize(("typed", "meant"), [("synch", "sync"), ("statsu", "status"), ("acounts", "accounts")])
def test_a_typo_gets_a_suggestion(dcsync: Dcsync, typed: str, meant: str) -> None:
    result = dcsync(typed)

    assert result.status == 2
    assert f"Did you mean '{meant}'?" in result.err


def every_command() -> list[list[str]]:
    """Return every command and subcommand, as typed."""
    found = []
    with click.Context(group.dcsync) as ctx:
        for name in _COMMANDS:
            command = group.dcsync.get_command(ctx, name)
            inner = list(command.commands) if isinstance(command, click.Group) else []
            found += [[name, each] for each in inner] or [[name]]
    return found


@pytest.mark.parametrize("command", every_command(), ids=" ".join)
def test_global_options_also_work_after_every_command(dcsync: Dcsync, command: list[str]) -> None:
    """The mistake is reported, so the option is known, with its values."""
    result = dcsync(*command, "--log-level", "loud")

    assert result.status == 2
    assert "Invalid value for '--log-level': 'loud' is not one of" in result.err


def test_the_option_after_the_command_replaces_the_one_before(side: Served, dcsync: Dcsync) -> None:
    for arguments in (
        ["config", "check", "--config", side.config],
        ["config", "--config", side.config, "check"],
        ["--config", "/nonexistent", "config", "check", "--config", side.config],
        ["--config", side.config, "config", "check"],
    ):
        assert dcsync(*arguments).out == f"{side.config} is valid\n"
    assert "/nonexistent does not exist" in dcsync("--config", side.config, "status", "--config", "/nonexistent").err


def test_no_configuration_says_where_it_looked(dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DCSYNC_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    result = dcsync("status")

    assert result.status == 2
    assert str(tmp_path / "dcsync/config.toml") in result.err
    assert "dcsync init" in result.err


def test_every_mistake_in_the_configuration_is_named_with_its_line(side: Served, dcsync: Dcsync) -> None:
    side.config.write_text(
        '[mirror]\nroot = "relative"\nstrategie = "auto"\n[poll]\ninterval = "soon"\n'
        '[auth]\nmethod = "token"\naccess_token = "env:X"\n[[account]]\nname = "acme"\nid = "1"\n'
    )

    result = dcsync("sync")

    assert result.status == 2
    for words in (
        "config.toml:2: mirror.root: 'relative' is not an absolute path",
        'config.toml:3: mirror.strategie: unknown key; did you mean "strategy"?',
        "config.toml:5: poll.interval: 'soon' is not a duration",
        "config.toml:11: account.1.id",
    ):
        assert words in result.err
    assert "nothing was done" in result.err
    assert "Traceback" not in result.err


def test_invalid_toml_is_reported_with_its_line(side: Served, dcsync: Dcsync) -> None:
    side.config.write_text('[mirror]\nroot = "/srv\n')

    result = dcsync("status")

    assert result.status == 2
    assert "config.toml:2: not valid TOML" in result.err


def test_a_secret_that_is_not_set_is_named(side: Served, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.rigs.served import TOKEN

    monkeypatch.delenv(TOKEN)

    result = dcsync("jobs")

    assert result.status == 2
    assert f"{TOKEN} is not set" in result.err
    assert "C-SECRET" in result.err


def test_the_module_runs_as_a_program() -> None:
    result = subprocess.run([sys.executable, "-m", "dcsync", "--version"], capture_output=True, text=True, check=True)

    assert dcsync.__version__ in result.stdout


# --- who listens ------------------------------------------------------------------------------------------------------


def run_in_shell(config: Path, words: str, command: str = "sync") -> int:
    """Run a command in bash, followed by `words`: redirections and pipes."""
    line = f'"{sys.executable}" -m dcsync --config "{config}" {command} {words}'
    return subprocess.run(["bash", "-o", "pipefail", "-c", line], check=False).returncode


@pytest.mark.parametrize("words", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_outputs_are_no_bug(side: Served, words: str) -> None:
    """docs/project/faults.md D10."""
    world = side.sandbox.world
    job = world.add_job(world.add_request("Nightly"), files=tables(2), with_archive=False)

    status = run_in_shell(side.config, words)

    assert status == 0
    (snapshot,) = [path.parent for path in side.root.glob("acme/*/[0-9]*/**/_dcsync.json")]
    assert_identical(snapshot, world, job)


@pytest.mark.parametrize("words", ["2> >(true)", "2>&1 | true", "2>&1 >&- | true"])
def test_an_error_to_a_closed_pipe_keeps_its_exit_status(side: Served, words: str) -> None:
    side.config.write_text(side.config.read_text().replace("min_free = 0", "min_free = -1"))

    assert run_in_shell(side.config, words) == 2


def test_a_sync_into_a_closed_pipe_exits_with_the_status_of_the_run(side: Served) -> None:
    world = side.sandbox.world
    request = world.add_request("Nightly")
    bad, _ = (world.add_job(request, files=tables(2, seed=seed), with_archive=False) for seed in range(2))
    side.sandbox.faults.add(Fault(server="storage", kind="short", amount=1, times=None, match=bad))

    assert run_in_shell(side.config, "2>/dev/null | true") == 3
    assert len(list(side.root.glob("acme/*/[0-9]*/**/_dcsync.json"))) == 1


#: Presses Ctrl-C when a module is imported, and again when something is said.
IMPATIENT = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
class Stderr:
    def __getattr__(self, name):
        return getattr(sys.__stderr__, name)
    def write(self, text):
        os.kill(os.getpid(), signal.SIGINT)
        return sys.__stderr__.write(text)
sys.meta_path.insert(0, Finder())
sys.stderr = Stderr()
from dcsync.cli import main
sys.argv[1:] = ["sync"]
main()
"""


@pytest.mark.parametrize("module", ["dcsync.cli.group", "click", "dcsync.cli.startup", "dcsync.config"])
def test_two_interrupts_during_the_start_leave_no_traceback(module: str) -> None:
    done = subprocess.run([sys.executable, "-c", IMPATIENT, module], check=False, capture_output=True, text=True)

    assert done.returncode == 130
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("environ", "has_color"),
    [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({"TERM": "xterm", "NO_COLOR": "1"}, False)],
    ids=str,
)
def test_an_error_has_no_color_where_none_is_wanted(tmp_path: Path, environ: dict[str, str], has_color: bool) -> None:
    with at_terminal("--config", tmp_path / "none.toml", "sync", environ=environ) as user:
        status = user.finish()

    assert status == 2
    assert "does not exist" in user.seen
    assert ("\x1b[" in user.raw) is has_color
