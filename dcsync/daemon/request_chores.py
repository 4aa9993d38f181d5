"""What the daemon does for data requests at Autodesk: it extends schedules and continues backfills.

It is done after a poll, by a task of its own that delays nothing else. What fails is an alert of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import structlog

from dcsync.app.backfills import Backfills
from dcsync.app.sync import account_token_alert, stored_token
from dcsync.config import Config
from dcsync.core.alerts import AlertCode
from dcsync.core.backfill import Backfill, Mirrored, PartState, note_mirrored
from dcsync.core.model import AccountName
from dcsync.errors import DcsyncError, MirrorLocked, ReadOnlySignIn, Unconfirmed
from dcsync.manifest.broken import BrokenParts
from dcsync.ops.alerts.boundary import Part, contain
from dcsync.ops.alerts.dispatch import AlertDispatcher
from dcsync.ops.backfill import create_parts, follow, mirrored_activities, refuse_failed
from dcsync.ops.context import AccountSettings, SyncContext
from dcsync.ops.extend import extend_schedules

if TYPE_CHECKING:
    from dcsync.api.client import DataConnector

log = structlog.get_logger(__name__)

#: How many data requests are created after one poll. More would take calls from the downloads.
_MOST: Final = 4
#: How long a backfill that waits for Autodesk is left alone.
_PAUSE_S: Final = 3600.0
_BACKFILL: Final = Part(
    code=AlertCode.D_CHORE,
    subject="backfill",
    name="the backfill of activities",
    next_try="the daemon tries again within an hour",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """The last look of a backfill at Autodesk: when the next one is due, and what the backfill was then."""

    due_at: float
    backfill: Backfill


@dataclass(slots=True, eq=False, kw_only=True)
class RequestChores:
    """The chores of a session, each time that they are due. Cancelling `run` ends them within a moment."""

    config: Config
    context: SyncContext
    dispatcher: AlertDispatcher
    accounts: Sequence[AccountSettings]
    #: Opens the API to change something.
    opening: Callable[[], AbstractAsyncContextManager[DataConnector]]
    _due: asyncio.Event = field(default_factory=asyncio.Event)
    _looks: dict[AccountName, _Look] = field(default_factory=dict)

    def do_soon(self) -> None:
        """Look for what is due."""
        self._due.set()

    async def run(self) -> NoReturn:
        """Do what is due until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            for account in self.accounts:
                await self._contained(account)

    async def _contained(self, account: AccountSettings) -> None:
        try:
            parts = BrokenParts(self.context.manifest, account.name)
            before = await parts.load()
            await extend_schedules(
                self.context.manifest,
                account,
                self.config.requests.extend,
                clock=self.context.clock,
                opening=self.opening,
            )
            await self._continue(account, parts)
            if await parts.load() != before:
                token = await stored_token(self.config, self.context)
                await self.dispatcher.update(account, token=account_token_alert(self.context, account, token))
        except DcsyncError as error:
            log.warning("data requests not looked after", account=account.name, code=error.code, error=error.message)
        except Exception:  # mirroring must not stop with it
            log.exception("a bug in dcsync; the account is mirrored as before", account=account.name)

    async def _continue(self, account: AccountSettings, parts: BrokenParts) -> None:
        """Continue the backfill of an account, if it has one that is due."""
        store = Backfills(Path(self.config.state.dir))
        backfill = await self.context.disk.run(store.of, account.name)
        if backfill is None:
            self._looks.pop(account.name, None)
            await parts.resolve(_BACKFILL.code, _BACKFILL.subject)
            return
        mirrored = await mirrored_activities(self.context.manifest, account, self.context.clock.now())
        look = self._looks.get(account.name)
        # It is looked at before its time if a part has arrived, or if a command has changed it.
        is_same = look is not None and look.backfill == note_mirrored(backfill, mirrored)
        if look is None or not is_same or self.context.clock.monotonic() >= look.due_at:
            await contain(parts, _BACKFILL, partial(self._look_again, account, store, mirrored))

    async def _look_again(self, account: AccountSettings, store: Backfills, mirrored: Mirrored) -> None:
        disk, lock = self.context.disk, store.lock()
        try:
            await disk.run(lock.__enter__)
        except MirrorLocked:
            # A command continues it. The next poll looks again.
            return
        try:
            backfill = await disk.run(store.of, account.name)
            if backfill is not None:
                await self._work(account, store, backfill, mirrored)
        finally:
            await disk.run(lock.__exit__, None, None, None)

    async def _work(self, account: AccountSettings, store: Backfills, backfill: Backfill, mirrored: Mirrored) -> None:
        async def save(changed: Backfill) -> None:
            await self.context.disk.run(store.save, changed)

        found, error = await self._advance(account, note_mirrored(backfill, mirrored), mirrored, save)
        await save(found)
        if found.is_complete:
            log.info("backfill complete", account=account.name, parts=len(found.parts))
            return
        has_progressed = found.count(PartState.REQUESTED) > backfill.count(PartState.REQUESTED)
        pause_s = 0.0 if has_progressed and error is None else _PAUSE_S
        self._looks[account.name] = _Look(due_at=self.context.clock.monotonic() + pause_s, backfill=found)
        if error is not None:
            raise error
        refuse_failed(found)

    async def _advance(
        self,
        account: AccountSettings,
        backfill: Backfill,
        mirrored: Mirrored,
        save: Callable[[Backfill], Awaitable[None]],
    ) -> tuple[Backfill, DcsyncError | None]:
        """Ask Autodesk, and create what may be created now. Return the backfill, and the error that ended it."""
        context, reached = self.context, [backfill]

        async def keep(changed: Backfill) -> None:
            await save(changed)
            reached[0] = changed

        try:
            followed = await follow(context.api, account, backfill, mirrored, context.clock.now())
            await keep(followed.backfill)
            most = min(followed.spare, _MOST)
            if most and followed.backfill.next_part(context.clock.now()) is not None:
                async with self.opening() as api:
                    await create_parts(api, account, followed.backfill, clock=context.clock, save=keep, most=most)
        except ReadOnlySignIn as error:
            waiting = reached[0].count(PartState.WAITING)
            message = f"{waiting} of its data requests are not created: {error.message}"
            hint = "run dcsync requests backfill activities, which signs you in once more"
            return reached[0], ReadOnlySignIn(message, hint=hint)
        except Unconfirmed as error:
            hint = "dcsync looks for the data request before it tries again"
            return reached[0], Unconfirmed(error.message, hint=hint)
        except DcsyncError as error:
            if error.transient:
                log.info("backfill waits", account=account.name, code=error.code, error=error.message)
                return reached[0], None
            return reached[0], error
        return reached[0], None
