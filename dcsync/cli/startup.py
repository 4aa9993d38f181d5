"""What every command does first: configuration, log, and a coroutine run with the signals that end it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import TypeVar

import click

from dcsync.cli.group import Globals
from dcsync.config import Config, OldName, load

T = TypeVar("T")


class _Stderr:
    """The standard error of the moment: progress bars put another one in its place while they stand."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr.isatty()


def _print_warning(old: OldName) -> None:
    click.secho(f"warning: {old}", fg="yellow", err=True)


def load_config(
    ctx: click.Context,
    *,
    accounts_needed: bool = True,
    logs: bool = True,
    warn: Callable[[OldName], None] = _print_warning,
) -> Config:
    """Load the configuration and set up the log by it and by the global options.

    A command that logs nothing does without (`logs`), and without the time that it takes to import it. Where the
    manifest is in a database it is set up all the same: else the driver's own lines would stand beside the answer.

    `warn` is called for each name in the file that only this version still accepts.
    """
    options = ctx.obj
    assert isinstance(options, Globals)  # noqa: S101 - the group sets it
    config = load(options.config, environ=os.environ, accounts_needed=accounts_needed)
    if logs or config.state.manifest.is_shared:
        set_up_log(ctx, level=config.log.level, form=config.log.format)
    for old in config.old_names:
        warn(old)
    return config


def set_up_log(ctx: click.Context, *, level: str, form: str) -> None:
    """Set up the log on stderr; the global options go before what is given here."""
    from dcsync.log import configure

    options = ctx.obj
    assert isinstance(options, Globals)  # noqa: S101 - the group sets it
    configure(options.log_level or level, options.log_format or form, stream=_Stderr())


def run_async(work: Coroutine[None, None, T]) -> T:
    """Run `work`; SIGINT and SIGTERM cancel it, which lets it keep what it has. Raises `KeyboardInterrupt` then."""

    async def with_signals() -> T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - we are in one
        loop = asyncio.get_running_loop()
        interrupted = False

        def interrupt() -> None:
            nonlocal interrupted
            interrupted = True
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, interrupt)
        try:
            return await work
        except asyncio.CancelledError:
            if interrupted:
                raise KeyboardInterrupt from None
            raise

    return run_loop(with_signals())


def run_loop(work: Coroutine[None, None, T]) -> T:
    """Run `work` in an event loop, with the garbage collector that `main` had turned off for the imports."""
    if not gc.isenabled():
        # What was imported stays as long as the process: it is never looked at again.
        gc.freeze()
        gc.enable()
    return asyncio.run(work)
