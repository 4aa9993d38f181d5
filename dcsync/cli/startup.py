"""The start of every command: load the configuration, set up the log, run a coroutine that signals can end."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from dcsync.app.state_dir import refuse_to_be_root
from dcsync.cli.group import Globals
from dcsync.cli.journal import Priority, is_journal, with_priority
from dcsync.config import Config, OldName, load
from dcsync.errors import ExitStatus

if TYPE_CHECKING:
    from dcsync.app.stores import Stores

T = TypeVar("T")


class _Stderr:
    """The current `sys.stderr`. Progress bars replace it while they are shown."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr.isatty()


def _print_warning(old: OldName) -> None:
    click.secho(with_priority(f"warning: {old}", Priority.WARNING), fg="yellow", err=True)


def load_config(
    ctx: click.Context,
    *,
    accounts_needed: bool = True,
    logs: bool = True,
    as_owner: bool = True,
    is_order: bool = False,
    warn: Callable[[OldName], None] = _print_warning,
) -> Config:
    """Load the configuration, and set up the log from it and from the global options.

    A command that logs nothing passes no `logs`, and saves the time that the import of the log takes. Such a command
    loads its stores with `load_stores`.

    With `as_owner`, raises `NotStateOwner` for root if the state folder belongs to another user. The group then runs
    the command as that user. An order to a daemon needs neither that user nor its credentials, so `is_order` leaves
    this check to `carry_out` where a daemon works.

    `warn` is called for each name in the file that only this version still accepts.
    """
    options = ctx.obj
    assert isinstance(options, Globals)  # noqa: S101 - the group sets it
    config = load(options.config, environ=os.environ, accounts_needed=accounts_needed)
    if as_owner and not (is_order and _is_listening(config)):
        refuse_to_be_root(Path(config.state.dir))
    if logs:
        set_up_log(ctx, level=config.log.level, form=config.log.format)
    for old in config.old_names:
        warn(old)
    return config


def _is_listening(config: Config) -> bool:
    from dcsync.orders import is_expected

    return is_expected(Path(config.state.dir))


def load_stores(ctx: click.Context) -> tuple[Config, Stores]:
    """Load the configuration and its stores for a command that logs nothing.

    The log is set up only for libraries that write log messages: without it, their raw lines would appear on stderr.
    """
    from dcsync.cluster import stores_for

    config = load_config(ctx, logs=False, as_owner=False)
    stores = stores_for(config, os.environ)
    if stores.has_own_log:
        set_up_log(ctx, level=config.log.level, form=config.log.format)
    return config, stores


def set_up_log(ctx: click.Context, *, level: str, form: str) -> None:
    """Set up the log on stderr. The global options override `level` and `form`."""
    from dcsync.log import configure

    options = ctx.obj
    assert isinstance(options, Globals)  # noqa: S101 - the group sets it
    configure(
        options.log_level or level,
        options.log_format or form,
        stream=_Stderr(),
        for_journal=is_journal(2, os.environ),
        command=ctx.command.name,
    )


def _print_stuck(seconds: float) -> None:
    click.echo(
        f"dcsync: interrupted without waiting for the disk, whose oldest call began {seconds:.0f} s ago", err=True
    )


def run_async(work: Coroutine[None, None, T]) -> T:
    """Run `work`. SIGINT, SIGTERM and SIGHUP cancel it, so that it can save its progress.

    Raises `KeyboardInterrupt` after such a signal. If the disk does not answer, the process ends without it.
    """
    from dcsync.cli.ending import end_despite_disk

    async def with_signals() -> T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        loop = asyncio.get_running_loop()
        interrupted = False

        def interrupt() -> None:
            nonlocal interrupted
            if not interrupted:
                end_despite_disk(ExitStatus.INTERRUPTED, _print_stuck)
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
    """Run `work` in an event loop. Raises `NoThreads` if the system starts no thread.

    Turns on the garbage collector, which `main` turned off for the imports.
    """
    from dcsync.tasks import Threads, is_refused_thread

    if not gc.isenabled():
        # Imported modules live as long as the process, so the collector never has to scan them.
        gc.freeze()
        gc.enable()
    results: list[T] = []
    errors: list[BaseException] = []

    async def supervised() -> None:
        asyncio.get_running_loop().set_default_executor(Threads())
        try:
            results.append(await work)
        except BaseException as error:
            errors.append(error)
            raise

    _use_pidfds()
    try:
        asyncio.run(supervised())
    except RuntimeError as error:
        # asyncio starts a thread to end the threads of the loop.
        if not is_refused_thread(error):
            raise
        if errors:
            raise errors[0] from None
    return results[0]


def _use_pidfds() -> None:
    """Let Python 3.11 wait for processes without a thread for each, as later versions do."""
    if sys.version_info < (3, 12):
        with suppress(OSError):
            os.close(os.pidfd_open(os.getpid()))
            asyncio.set_child_watcher(asyncio.PidfdChildWatcher())  # type: ignore[deprecated]
