"""`dcsync`: the command group. Only this module turns an error into a message and an exit status."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import click

from dcsync import __version__
from dcsync.cli.journal import Priority, with_priority
from dcsync.errors import DcsyncError, ExitStatus, NotStateOwner

#: What each exit status means.
MEANINGS = {
    ExitStatus.DONE: "done",
    ExitStatus.BUG: "a bug in dcsync",
    ExitStatus.USAGE: "usage or configuration",
    ExitStatus.INCOMPLETE: "incomplete; retrying can help",
    ExitStatus.LOCKED: "another instance is using the mirror",
    ExitStatus.LOGIN_REQUIRED: "sign-in required: dcsync login",
    ExitStatus.PERMISSION_DENIED: "permission denied by the API",
    ExitStatus.UNSAFE: "stopped for safety (disk not mounted, wrong disk or mirror, mass change)",
    ExitStatus.INTERRUPTED: "interrupted",
}
_COMMON = frozenset({ExitStatus.DONE, ExitStatus.BUG, ExitStatus.USAGE, ExitStatus.INTERRUPTED})


def exit_statuses(*others: int, **meanings: str) -> str:
    """Return the table for a command's help: the statuses that every command can return, and `others`.

    `meanings` replaces what a status means for this command, by its name in lower case: `incomplete="…"`.
    """
    shown = sorted(_COMMON | {ExitStatus(number) for number in others})
    rows = [f"  {status:<3d} {meanings.get(status.name.lower(), MEANINGS[status])}" for status in shown]
    return "\n".join(["\b", "Exit status:", *rows])


#: The table of a command that can return every status.
EXIT_STATUSES = exit_statuses(*ExitStatus, incomplete="incomplete; the next run retries")

#: A command's module is imported only when the command is called, so that `dcsync --help` answers immediately.
_COMMANDS = {
    "accounts": ("dcsync.cli.login", "List the accounts (hubs) that you can see."),
    "at": ("dcsync.cli.at", "Print a table as it was on a day."),
    "config": ("dcsync.cli.config", "Show or check the configuration, or print its JSON schema."),
    "demo": ("dcsync.cli.demo", "Mirror a made-up account into a folder. Needs no configuration."),
    "diff": ("dcsync.cli.diff", "Compare two snapshots."),
    "doctor": ("dcsync.cli.doctor", "Check the whole setup and say how to fix each problem."),
    "explain": ("dcsync.cli.explain", "Explain a code of an alert or error."),
    "history": ("dcsync.cli.history", "Build the row histories of tables, or prove them again."),
    "hooks": ("dcsync.cli.hooks", "List the runs of hooks, or run the hooks of a snapshot again."),
    "init": ("dcsync.cli.init", "Set up dcsync, up to the first snapshot, or write a configuration."),
    "jobs": ("dcsync.cli.lists", "List jobs (executions of data requests)."),
    "load": ("dcsync.cli.load", "Load tables into your own database, or show what they show."),
    "login": ("dcsync.cli.login", "Sign in to Autodesk with a browser, on this machine or another."),
    "logout": ("dcsync.cli.login", "Revoke the stored refresh token and delete it."),
    "manifest": ("dcsync.cli.manifest", "Copy the manifest to PostgreSQL for several hosts, or back."),
    "notify": ("dcsync.cli.hooks", "Send a test message to every address in [notify]."),
    "poll": ("dcsync.cli.poll", "Let the daemon poll for new extracts now."),
    "prune": ("dcsync.cli.prune", "Remove the snapshots that the retention policy does not keep."),
    "rebuild": ("dcsync.cli.rebuild", "Rebuild the manifest from the mirror."),
    "requests": ("dcsync.cli.requests", "List data requests, or create and change them."),
    "run": ("dcsync.cli.run", "Run the daemon."),
    "sandbox": ("dcsync.cli.sandbox", "Run a local simulator of Autodesk's API."),
    "service": ("dcsync.cli.service", "Install or uninstall the systemd service."),
    "service-account": ("dcsync.cli.service_account", "Create a service account and its key, or replace the key."),
    "status": ("dcsync.cli.status", "Show the state of the mirror."),
    "sync": ("dcsync.cli.sync", "Mirror all new extracts once."),
    "verify": ("dcsync.cli.verify", "Check every file in the mirror against its checksum."),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Globals:
    """The options that come before the command."""

    config: Path | None
    log_level: str | None
    log_format: str | None


class LazyGroup(click.Group):
    """A group that imports a command only when it is used, not to list it."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the commands' names."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, which then takes the global options as well. Suggests the name of a typo."""
        if cmd_name not in _COMMANDS:
            close = get_close_matches(cmd_name, _COMMANDS, n=1)
            message = f"No such command '{cmd_name}'." + (f" Did you mean '{close[0]}'?" if close else "")
            raise click.UsageError(message, ctx)
        command = getattr(importlib.import_module(_COMMANDS[cmd_name][0]), f"{cmd_name.replace('-', '_')}_command")
        assert isinstance(command, click.Command)  # noqa: S101 - the table above names them
        _add_global_options(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """Write the commands with the summaries of the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in sorted(_COMMANDS.items())])


_GLOBAL_OPTIONS = (
    click.Option(
        ["--config"],
        type=click.Path(path_type=Path, readable=False),  # the loader reports an unreadable file together with the user
        metavar="FILE",
        help="Configuration file [$DCSYNC_CONFIG, ~/.config/dcsync/config.toml, /etc/dcsync/config.toml].",
    ),
    click.Option(["--log-level"], type=click.Choice(["debug", "info", "warning", "error"]), help="Override log.level."),
    click.Option(["--log-format"], type=click.Choice(["auto", "console", "json"]), help="Override log.format."),
)


def _override(ctx: click.Context, option: click.Parameter, value: object) -> None:
    """Replace a global option by the one after the command."""
    if value is not None and option.name is not None:
        ctx.obj = replace(ctx.obj, **{option.name: value})


def _add_global_options(command: click.Command) -> None:
    """Let a command and its subcommands take the global options, which their help does not list."""
    names = {param.name for param in command.params}
    for option in _GLOBAL_OPTIONS:
        if option.name not in names:
            after = click.Option(
                option.opts,
                type=option.type,
                metavar=option.metavar,
                expose_value=False,
                hidden=True,
                callback=_override,
            )
            command.params.append(after)
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _add_global_options(inner)


@click.command(
    cls=LazyGroup,
    params=list(_GLOBAL_OPTIONS),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_STATUSES,
)
@click.version_option(__version__, prog_name="dcsync")
@click.pass_context
def dcsync(ctx: click.Context, config: Path | None, log_level: str | None, log_format: str | None) -> None:
    """Mirror Autodesk Data Connector extracts to your own disk, as dated and verified snapshots."""
    ctx.obj = Globals(config=config, log_level=log_level, log_format=log_format)


def run(arguments: list[str]) -> int:
    """Run the command line with these arguments and return the exit status."""
    try:
        result = dcsync.main(arguments, prog_name="dcsync", standalone_mode=False, color=_color())
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.Abort:
        return _interrupted()
    except click.ClickException as error:
        with suppress(OSError):  # stderr is closed or its reader is gone
            error.show()
        return int(ExitStatus.USAGE)
    except NotStateOwner as error:
        return _as_owner(error, arguments)
    except DcsyncError as error:
        show_error(error)
        return int(error.exit_status)
    except KeyboardInterrupt:
        return _interrupted()
    except (BrokenPipeError, SystemExit):
        # The reader closed the pipe (`dcsync jobs | head`). That is not an error. click turns it into a SystemExit and
        # raises no other one in this mode.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
        return int(ExitStatus.DONE)
    except Exception as error:  # noqa: BLE001 - a bug is reported with its traceback
        return show_bug(error)
    return int(result) if isinstance(result, int) else int(ExitStatus.DONE)


def _color() -> bool | None:
    """Return False if the user or the terminal wants no color (no-color.org). None lets the output decide."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None


def _as_owner(error: NotStateOwner, arguments: list[str]) -> int:
    """Run the command again as the owner of the state folder: as its service does, or else only as that user."""
    from dcsync.cli.as_owner import run_as_owner

    try:
        return run_as_owner(error, arguments)
    except DcsyncError as failure:
        show_error(failure)
        return int(failure.exit_status)


def show_error(error: DcsyncError) -> None:
    """Print on stderr what failed, what is safe, and what to do."""
    first, *rest = error_lines(error)
    with suppress(OSError):  # stderr is closed or its reader is gone
        click.echo(click.style(with_priority(first, Priority.ERROR), fg="red"), err=True, color=_color())
        click.echo(with_priority("\n".join(rest), Priority.ERROR), err=True)


def error_lines(error: DcsyncError, *, safe: str | None = None) -> list[str]:
    """Return the lines that tell what failed, what is safe, and what to do."""
    first, *others = error.message.splitlines() or [type(error).__name__]
    lines = [f"dcsync: {first}", *(f"        {line}" for line in others)]
    lines += [f"  code: {error.code} (dcsync explain {error.code})", f"  safe: {safe or error.safe}"]
    return lines + ([f"  do:   {error.advice}"] if error.advice else [])


def _interrupted() -> int:
    with suppress(OSError):  # stderr is closed or its reader is gone
        click.echo("dcsync: interrupted; downloaded data is kept and the next run resumes", err=True)
    return int(ExitStatus.INTERRUPTED)


def show_bug(error: Exception) -> int:
    """Print the traceback of a bug on stderr, without secrets."""
    with suppress(OSError):  # stderr is closed or its reader is gone
        click.echo(with_priority(bug_report(error), Priority.ERROR), err=True, color=_color())
    return int(ExitStatus.BUG)


def bug_report(error: Exception) -> str:
    """Return the traceback of a bug, and what to do with it."""
    from dcsync.log import redact

    # A traceback has no values of local variables. Secrets in its messages are redacted.
    trace = redact("".join(traceback.format_exception(error)))
    return trace + click.style("\ndcsync: this is a bug in dcsync; please report it with the lines above", fg="red")
