"""The parts that a session is made of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from dcsync.api.client import DataConnector
from dcsync.config import Config
from dcsync.daemon.progress import Progress
from dcsync.daemon.sd_notify import Notifier
from dcsync.errors import ReadOnlySignIn
from dcsync.manifest.broken import BrokenPart
from dcsync.ops.alerts.dispatch import AlertDispatcher
from dcsync.ops.context import SyncContext


def _no_problems() -> Sequence[BrokenPart]:
    return ()


def _nothing_refused() -> None:
    pass


def _read_only() -> AbstractAsyncContextManager[DataConnector]:
    message = "this session only reads at Autodesk"
    raise ReadOnlySignIn(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """Asks a session to end."""

    #: Start no new work. Running work has some seconds to finish.
    end: asyncio.Event = field(default_factory=asyncio.Event)
    #: Cancel running work now.
    hurry: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionParts:
    """The parts of a session."""

    config: Config
    context: SyncContext
    dispatcher: AlertDispatcher
    progress: Progress
    notifier: Notifier
    signals: Signals
    #: Has the secrets of the configuration.
    environ: Mapping[str, str] = field(default_factory=dict)
    #: Returns the parts of the daemon around the session that do not work now.
    problems: Callable[[], Sequence[BrokenPart]] = _no_problems
    #: Opens the API to change data requests. Raises `ReadOnlySignIn` if the sign-in only reads.
    opening: Callable[[], AbstractAsyncContextManager[DataConnector]] = _read_only
    #: Called when Autodesk refused the service account: its key may have been replaced.
    key_refused: Callable[[], None] = _nothing_refused
