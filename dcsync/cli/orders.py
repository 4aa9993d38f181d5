"""The commands that write: carried out by the daemon when it holds the mirror, and by the command itself otherwise.

Both ways call the same operations and make the same `Answer`. `WORKS` has the daemon's way for each command.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import fields
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, assert_never

import click

from dcsync.cli.journal import Priority, with_priority
from dcsync.errors import ConfigError, DcsyncError, ExitStatus

if TYPE_CHECKING:
    import socket

    from _typeshed import DataclassInstance
    from pydantic import JsonValue

    from dcsync.config import Config
    from dcsync.daemon.open_order import OpenOrder, Work
    from dcsync.orders import Answer, Order

T = TypeVar("T", bound="DataclassInstance")

#: The module of each order, which has a function `order_work`.
_MODULES: Final = {
    "history": "dcsync.cli.history",
    "hooks rerun": "dcsync.cli.hooks",
    "load": "dcsync.cli.load",
    "poll": "dcsync.cli.poll",
    "prune": "dcsync.cli.prune",
    "rebuild": "dcsync.cli.rebuild",
    "sync": "dcsync.cli.sync",
    "verify": "dcsync.cli.verify",
}


class Shown(Enum):
    """The progress that a command shows."""

    RUN = "run"
    READING = "reading"
    NOTHING = "nothing"


def carry_out(
    config: Config,
    name: str,
    options: Mapping[str, JsonValue],
    *,
    alone: Callable[[], Coroutine[None, None, Answer]],
    shown: Shown,
) -> Answer:
    """Carry out a command: by the daemon if it holds the mirror, else by `alone`. Return its answer.

    Raises the errors of the command, `KeyboardInterrupt` after a signal, and `DaemonGone` when the daemon ends first.
    Without a daemon, raises `NotStateOwner` for root if the state folder belongs to another user.
    """
    from dcsync.app.fingerprints import fingerprints
    from dcsync.app.state_dir import refuse_to_be_root
    from dcsync.cli.startup import run_async
    from dcsync.orders import Order, connect

    connection = connect(Path(config.state.dir))
    if connection is None:
        if name != "poll":
            refuse_to_be_root(Path(config.state.dir))
        return run_async(alone())
    same = {} if name == "poll" else fingerprints(config)
    order = Order(name=name, options=dict(options), root=str(config.mirror.root), config=same)
    return run_async(_send(connection, order, shown))


async def _send(connection: socket.socket, order: Order, shown: Shown) -> Answer:
    from dcsync.cli.progress import apply_reading, apply_run, reading, watching
    from dcsync.clock import SystemClock
    from dcsync.orders import send

    def waits(what: str) -> None:
        click.echo(f"waiting: the daemon is {what}", err=True)

    match shown:
        case Shown.RUN:
            async with watching(SystemClock()) as observer:
                return await send(connection, order, waits=waits, progressed=partial(apply_run, observer))
        case Shown.READING:
            async with reading(SystemClock()) as reader:
                return await send(connection, order, waits=waits, progressed=partial(apply_reading, reader))
        case Shown.NOTHING:
            return await send(connection, order, waits=waits, progressed=lambda _event, _values: None)
        case _:
            assert_never(shown)


def print_answer(answer: Answer) -> int:
    """Print an answer and return its exit status."""
    for line in answer.lines:
        text = with_priority(line.text, Priority.WARNING) if line.is_error else line.text
        click.echo(text, nl=False, err=line.is_error)
    return answer.status


def read_options(kind: type[T], options: Mapping[str, JsonValue]) -> T:
    """Return the options of an order. Raises `ConfigError` for others than those of this version."""
    from pydantic import TypeAdapter, ValidationError

    if {field.name for field in fields(kind)} == options.keys():
        with suppress(ValidationError):
            return TypeAdapter(kind).validate_python(options)
    message = "the daemon does not understand the options of this command"
    raise ConfigError(message, hint="restart the daemon: systemctl restart dcsync")


def works() -> dict[str, Work]:
    """Return how the daemon carries out each order."""
    return {name: partial(_work, name, module) for name, module in _MODULES.items()}


async def _work(name: str, module: str, order: OpenOrder, options: Mapping[str, JsonValue]) -> Answer:
    """Carry out an order. A bug is part of the answer, as if the command had met it alone."""
    import structlog

    from dcsync.cli.group import bug_report
    from dcsync.orders import Answer

    log = structlog.get_logger(__name__)
    work: Work = importlib.import_module(module).order_work
    try:
        return await work(order, options)
    except DcsyncError:
        raise
    except Exception as error:  # a bug in one order must not end the daemon
        log.exception("a bug in dcsync stopped a command; the daemon continues", command=name)
        answer = Answer(status=ExitStatus.BUG)
        answer.echo(bug_report(error), err=True)
        return answer
