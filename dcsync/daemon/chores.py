"""The nightly maintenance of the daemon, the same on one host and on several."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import structlog

from dcsync.app.from_config import keep_policy
from dcsync.app.history import proving_windows
from dcsync.app.sync import account_token_alert, stored_token
from dcsync.config import Config
from dcsync.core.alerts import AlertCode
from dcsync.core.model import AccountName
from dcsync.daemon import turns
from dcsync.daemon.progress import Progress
from dcsync.daemon.schedule import Kind
from dcsync.errors import DcsyncError, MassChange
from dcsync.manifest.broken import BrokenParts
from dcsync.ops.accounts import left_settings, record_left_damage
from dcsync.ops.alerts.boundary import Part, contain
from dcsync.ops.alerts.dispatch import AlertDispatcher
from dcsync.ops.context import AccountSettings, SyncContext
from dcsync.ops.integrity.content_reader import ReadingObserver
from dcsync.ops.integrity.missing import finish_pruning
from dcsync.ops.integrity.prune import PRUNE_CODES, PruneReport, prune
from dcsync.ops.integrity.reduce import finish_reductions, restore_reductions
from dcsync.ops.integrity.report import VerifyReport
from dcsync.ops.integrity.unfinished import Unfinished, report_unfinished
from dcsync.ops.integrity.verify import verify, verify_nightly

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: The hour, in the mirror's time zone, from which each task is due once a day.
NIGHT: Final = {Kind.KEEP_ALIVE: 1, Kind.PRUNE: 2, Kind.VERIFY: 3, Kind.CHECK: 4, Kind.TIDY: 5}

#: The tasks, as alerts name them.
_NAMES: Final = {
    Kind.KEEP_ALIVE: "the daily renewal of the refresh token",
    Kind.PRUNE: "the nightly prune",
    Kind.VERIFY: "the nightly verify",
    Kind.CHECK: "the daily check of the manifest",
    Kind.TIDY: "the daily deletion of old hook runs",
}


#: The turns that the tasks take, and what the daemon is doing then.
TURNS_OF: Final[Mapping[Kind, tuple[Collection[str], str]]] = {
    Kind.PRUNE: ([turns.PRUNE], "busy with the nightly prune"),
    Kind.VERIFY: ([turns.VERIFY], "busy with the nightly verify"),
    **{kind: ([], "") for kind in (Kind.POLL, Kind.KEEP_ALIVE, Kind.CHECK, Kind.TIDY)},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chores:
    """The maintenance tasks of a whole mirror, one at a time."""

    config: Config
    context: SyncContext
    dispatcher: AlertDispatcher
    progress: Progress
    accounts: Sequence[AccountSettings]

    async def do(self, kind: Kind) -> bool:
        """Do one task. Return whether it sent an event that hooks may wait for. `Kind.POLL` does nothing here.

        A task that fails is an alert until it succeeds. It stops nothing else.
        """
        if kind is Kind.POLL:
            return False
        next_try = "it is tried again the next night"
        part = Part(code=AlertCode.D_CHORE, subject=kind.value, name=_NAMES[kind], next_try=next_try)
        await contain(BrokenParts(self.context.manifest, None), part, partial(self._work, kind))
        return await self.update_alerts()

    async def _work(self, kind: Kind) -> None:
        match kind:
            case Kind.KEEP_ALIVE:
                if await self.context.api.tokens.keep_alive():
                    log.debug("refresh token renewed because of its age")
            case Kind.CHECK:
                await self.context.manifest.check_rows()
            case Kind.TIDY:
                await self.dispatcher.tidy()
            case Kind.PRUNE:
                await self._prune()
            case Kind.VERIFY:
                await self._verify()
            case Kind.POLL:
                pass

    async def prune_now(self, accounts: Sequence[AccountSettings], *, force: bool) -> PruneReport:
        """Prune for a command. Raises `MassChange` without `force`. Cancelling is safe."""

        async def work() -> PruneReport:
            unfinished = await self._finish_interrupted()
            report = await prune(
                self.context,
                accounts,
                keep_policy(self.config),
                force=force,
                windows=proving_windows(self.config),
            )
            await report_unfinished(self.context, unfinished)
            return report

        return await self._alerting(work)

    async def repair_now(
        self,
        accounts: Sequence[AccountSettings],
        *,
        part: tuple[int, int] | None,
        rate: int | None,
        observer: ReadingObserver,
        repairing: Callable[[AccountName], AbstractAsyncContextManager[object]],
    ) -> VerifyReport:
        """Verify and repair for a command. `repairing` is held while an account changes. Cancelling is safe."""
        return await self._alerting(
            lambda: verify(
                self.context, accounts, part=part, repair=True, rate=rate, observer=observer, repairing=repairing
            )
        )

    async def _alerting(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work of a command, then send the alerts that it changed, also if it failed."""
        try:
            result = await work()
        except DcsyncError:
            await self.update_alerts()
            raise
        await self.update_alerts()
        return result

    async def _finish_interrupted(self) -> list[Unfinished]:
        """Finish what a failed disk or a lost host left half removed. Only one task at a time does this."""
        unfinished = await restore_reductions(self.context)
        await finish_reductions(self.context)
        return [*unfinished, *await finish_pruning(self.context)]

    async def _prune(self) -> None:
        unfinished = await self._finish_interrupted()
        policy = keep_policy(self.config)
        try:
            if not policy.keeps_everything:
                await prune(self.context, self.accounts, policy, windows=proving_windows(self.config))
            else:
                for account in self.accounts:
                    await BrokenParts(self.context.manifest, account.name).replace(PRUNE_CODES, [])
        except MassChange as error:
            log.warning("snapshots not pruned", code=error.code, error=error.message, hint=error.advice)
        await report_unfinished(self.context, unfinished)

    async def _verify(self) -> None:
        settings, manifest = self.config.verify, self.context.manifest
        await verify_nightly(
            self.context,
            [*self.accounts, *await left_settings(manifest, self.accounts)],
            days=settings.part_days,
            rate=settings.rate,
            observer=self.progress,
        )
        await record_left_damage(manifest, {account.name for account in self.accounts})

    async def update_alerts(self) -> bool:
        """Send the changed alerts of each account. A task may resolve the problem that an earlier one found."""
        token = await stored_token(self.config, self.context)
        changed = [
            await self.dispatcher.update(account, token=account_token_alert(self.context, account, token))
            for account in self.accounts
        ]
        return any(changed)
