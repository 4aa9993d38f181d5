"""`dcsync`: the group, and the one place where an error becomes a message and an exit status."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click

from dcsync import __version__
from dcsync.errors import DcsyncError, ExitStatus

EXIT_STATUSES = """\b
Exit status:
  0   done
  1   a bug in dcsync
  2   usage or configuration
  3   incomplete; what can still be had is retried
  11  another instance holds the mirror
  12  login required
  13  permission denied
  14  stopped for safety (disk not mounted, wrong marker, mass change)
  130 interrupted
"""

#: Each command's module is imported when it is called: `dcsync --help` answers in a blink.
_COMMANDS = {
    "accounts": ("dcsync.cli.login", "List the accounts (hubs) that you can see."),
    "demo": ("dcsync.cli.demo", "Mirror a made-up account into a folder; nothing to configure."),
    "diff": ("dcsync.cli.diff", "Show what differs between two snapshots."),
    "doctor": ("dcsync.cli.doctor", "Check everything, and say what to do."),
    "hooks": ("dcsync.cli.hooks", "Show what hooks ran, and run those of a snapshot again."),
    "init": ("dcsync.cli.init", "Write a configuration: asks, or takes flags."),
    "jobs": ("dcsync.cli.lists", "List jobs (executions of data requests)."),
    "login": ("dcsync.cli.login", "Sign in with a browser, here or elsewhere."),
    "logout": ("dcsync.cli.login", "Revoke the stored token and forget it."),
    "manifest": ("dcsync.cli.manifest", "Copy the manifest to PostgreSQL for several hosts, or back."),
    "notify": ("dcsync.cli.hooks", "Send a test message to every address of [notify]."),
    "prune": ("dcsync.cli.prune", "Remove the snapshots that the keep policy does not keep."),
    "rebuild": ("dcsync.cli.rebuild", "Make the manifest anew from the tree alone."),
    "requests": ("dcsync.cli.lists", "List data requests."),
    "run": ("dcsync.cli.run", "Run the daemon."),
    "sandbox": ("dcsync.cli.sandbox", "Serve a stand-in of the API on this machine."),
    "status": ("dcsync.cli.status", "Show how the mirror stands."),
    "sync": ("dcsync.cli.sync", "Mirror what is new, once."),
    "verify": ("dcsync.cli.verify", "Read the mirror again and compare it with what was published."),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Globals:
    """The options that stand before the command."""

    config: Path | None
    log_level: str | None
    log_format: str | None


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used, and listed without being imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the commands' names."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import and return a command."""
        if cmd_name not in _COMMANDS:
            return None
        command = getattr(importlib.import_module(_COMMANDS[cmd_name][0]), f"{cmd_name}_command")
        assert isinstance(command, click.Command)  # noqa: S101 - the table above names them
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """Write the commands with the summaries of the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in sorted(_COMMANDS.items())])


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_STATUSES,
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, readable=False),  # what cannot be read is said by the loader, with the user
    metavar="FILE",
    help="The configuration [$DCSYNC_CONFIG, ~/.config/dcsync/config.toml, /etc/dcsync/config.toml].",
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Overrides log.level.")
@click.option("--log-format", type=click.Choice(["auto", "console", "json"]), help="Overrides log.format.")
@click.version_option(__version__, prog_name="dcsync")
@click.pass_context
def dcsync(ctx: click.Context, config: Path | None, log_level: str | None, log_format: str | None) -> None:
    """Keep a whole, verified, dated copy of every Autodesk Data Connector extract on a disk you own."""
    ctx.obj = Globals(config=config, log_level=log_level, log_format=log_format)


def run(arguments: list[str]) -> int:
    """Run the command line with these arguments and return the exit status."""
    try:
        result = dcsync.main(arguments, prog_name="dcsync", standalone_mode=False)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.Abort:
        return _interrupted()
    except click.ClickException as error:
        with suppress(OSError):  # nobody is there to hear it
            error.show()
        return int(ExitStatus.USAGE)
    except DcsyncError as error:
        show_error(error)
        return int(error.exit_status)
    except KeyboardInterrupt:
        return _interrupted()
    except (BrokenPipeError, SystemExit):
        # The reader went away (`dcsync jobs | head`): nothing is wrong, and nothing more can be said. click makes a
        # SystemExit of it, the only one there is in this mode.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
        return int(ExitStatus.DONE)
    except Exception as error:  # noqa: BLE001 - the last line of defence; the traceback is shown
        return _show_bug(error)
    return int(result) if isinstance(result, int) else int(ExitStatus.DONE)


def show_error(error: DcsyncError) -> None:
    """Say on stderr what failed, what is safe, and what to do (FAULTS rule E)."""
    lines = error.message.splitlines() or [type(error).__name__]
    with suppress(OSError):  # nobody is there to hear it
        click.secho(f"dcsync: {lines[0]}", fg="red", err=True)
        for line in lines[1:]:
            click.echo(f"        {line}", err=True)
        click.echo(f"  code: {error.code}", err=True)
        click.echo(f"  safe: {error.safe}", err=True)
        if error.advice:
            click.echo(f"  do:   {error.advice}", err=True)


def _interrupted() -> int:
    with suppress(OSError):  # nobody is there to hear it
        click.echo("dcsync: interrupted; what is staged is kept, the next run goes on from there", err=True)
    return int(ExitStatus.INTERRUPTED)


def _show_bug(error: Exception) -> int:
    from dcsync.log import redact

    # No locals and no chained contexts of other libraries' exceptions beyond their text; secrets are redacted.
    with suppress(OSError):  # nobody is there to hear it
        click.echo(redact("".join(traceback.format_exception(error))), err=True)
        click.secho("dcsync: this is a bug in dcsync; please report it with the lines above", fg="red", err=True)
    return int(ExitStatus.BUG)
