"""An order that the daemon carries out for a command: what a command can ask of the session, and its progress."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from math import ceil
from typing import TypeAlias

from pydantic import JsonValue

from dcsync.app.from_config import account_settings
from dcsync.app.history import build_histories
from dcsync.app.loads import load_now
from dcsync.app.rebuild import rebuild_manifest
from dcsync.app.stores import Stores
from dcsync.config import Config
from dcsync.core.model import AccountName, JobId
from dcsync.core.waits import WaitReason
from dcsync.daemon import turns
from dcsync.daemon.progress import Progress
from dcsync.daemon.session import Visit
from dcsync.daemon.turns import Turn
from dcsync.manifest import HookRun
from dcsync.ops.history.catch_up import Chosen, HistoryReport
from dcsync.ops.integrity.prune import PruneReport
from dcsync.ops.integrity.rebuild import RebuildReport
from dcsync.ops.integrity.report import VerifyReport
from dcsync.ops.loads.run import Chosen as LoadChosen
from dcsync.ops.loads.run import LoadReport
from dcsync.ops.mirroring.outcome import AccountOutcome, Wanted
from dcsync.ops.mirroring.run import sync
from dcsync.orders import Answer, Progressed

#: Progress that the command has not read yet. It only draws bars, so more is dropped.
_MAX_PENDING = 1000


class Relay:
    """Implements the ports `Observer` and `ReadingObserver`: tells the daemon's own progress and the command."""

    def __init__(self, inner: Progress) -> None:
        self._inner = inner
        #: Set when there are events to take.
        self.has_events = asyncio.Event()
        self._events: list[tuple[str, list[str | int]]] = []
        #: The event that counts the bytes of a file, until another event follows.
        self._counts: dict[tuple[str, ...], list[str | int]] = {}

    def take(self) -> list[Progressed]:
        """Return the events since the last call, in order."""
        events = [Progressed(event=event, values=values) for event, values in self._events]
        self._events, self._counts = [], {}
        self.has_events.clear()
        return events

    def jobs_left(self, account: AccountName, jobs: int) -> None:
        """Tell both."""
        self._inner.jobs_left(account, jobs)
        self._add("jobs_left", account, jobs)

    def job_started(self, account: AccountName, job: JobId, label: str, *, files: int, size: int) -> None:
        """Tell both."""
        self._inner.job_started(account, job, label, files=files, size=size)
        self._add("job_started", account, job, label, files, size)

    def job_advanced(self, job: JobId, size: int) -> None:
        """Tell both."""
        self._inner.job_advanced(job, size)
        self._count("job_advanced", job, size=size)

    def file_started(self, job: JobId, name: str, size: int) -> None:
        """Tell both."""
        self._inner.file_started(job, name, size)
        self._add("file_started", job, name, size)

    def file_resumed(self, job: JobId, name: str, size: int) -> None:
        """Tell both."""
        self._inner.file_resumed(job, name, size)
        self._add("file_resumed", job, name, size)

    def file_advanced(self, job: JobId, name: str, size: int) -> None:
        """Tell both."""
        self._inner.file_advanced(job, name, size)
        self._count("file_advanced", job, name, size=size)

    def file_unchanged(self, job: JobId, name: str) -> None:
        """Tell both."""
        self._inner.file_unchanged(job, name)
        self._add("file_unchanged", job, name)

    def file_done(self, job: JobId, name: str) -> None:
        """Tell both."""
        self._inner.file_done(job, name)
        self._add("file_done", job, name)

    def job_done(self, job: JobId) -> None:
        """Tell both."""
        self._inner.job_done(job)
        self._add("job_done", job)

    def waiting(self, reason: WaitReason, seconds: float) -> None:
        """Tell both."""
        self._inner.waiting(reason, seconds)
        self._add("waiting", reason.value, ceil(seconds))

    def snapshot(self, folder: str, number: int, of: int) -> None:
        """Tell both."""
        self._inner.snapshot(folder, number, of)
        self._add("snapshot", folder, number, of)

    def read(self, size: int) -> None:
        """Tell both."""
        self._inner.read(size)
        self._count("read", size=size)

    def _add(self, event: str, *values: str | int) -> None:
        self._counts.clear()
        if len(self._events) < _MAX_PENDING:
            self._events.append((event, list(values)))
            self.has_events.set()

    def _count(self, event: str, *key: str, size: int) -> None:
        counted = self._counts.get((event, *key))
        if counted is not None:
            counted[-1] = int(counted[-1]) + size
        elif len(self._events) < _MAX_PENDING:
            values: list[str | int] = [*key, size]
            self._counts[event, *key] = values
            self._events.append((event, values))
            self.has_events.set()


class OpenOrder:
    """The daemon's side of one order. Everything that needs a turn says what it waits for by `waits`."""

    def __init__(self, visit: Visit, stores: Stores, waits: Callable[[str], object]) -> None:
        self.config: Config = visit.session.config
        self.progress = Relay(visit.session.progress)
        self._visit = visit
        self._session = visit.session
        self._stores = stores
        self._waits = waits

    def poll(self) -> Sequence[AccountName]:
        """Poll every account now, and return their names."""
        self._session.poll_all()
        return [account.name for account in account_settings(self.config)]

    async def sync(self, names: Sequence[str], wanted: Wanted) -> list[AccountOutcome]:
        """Do one run, and what follows it. Raises `MirrorError` when the mirror is lost.

        Cancelling keeps staged files.
        """
        session, accounts = self._session, account_settings(self.config, names)
        if not wanted.jobs:
            # Fencing keeps two hosts from recording a job that was named. Polls share out all other jobs.
            await session.refuse_others("run dcsync poll: the hosts then do everything that is due")
        what = f"mirroring {', '.join(account.name for account in accounts)}"
        async with self._turn([turns.of_account(account.name) for account in accounts], what):
            await session.check_mirror()
            context = replace(session.context, observer=self.progress)
            outcomes = await sync(context, accounts, wanted=wanted)
            await session.complete(outcomes)
        return outcomes

    async def prune(self, names: Sequence[str], *, force: bool) -> PruneReport:
        """Prune as the nightly prune does. Raises `MassChange` without `force`, and `MirrorError`."""
        accounts = account_settings(self.config, names)
        await self._session.refuse_others()
        async with self._turn([turns.PRUNE], "pruning"):
            await self._session.check_mirror()
            return await self._session.chores.prune_now(accounts, force=force)

    async def repair(self, names: Sequence[str], *, part: tuple[int, int] | None, rate: int | None) -> VerifyReport:
        """Verify and repair. Reading excludes another verify only, repairing also what changes the account."""
        accounts = account_settings(self.config, names)
        await self._session.refuse_others()
        async with self._turn([turns.VERIFY], "verifying") as turn:
            await self._session.check_mirror()

            def repairing(account: AccountName) -> AbstractAsyncContextManager[object]:
                return self._turn([turns.of_account(account), turns.PRUNE], f"repairing {account}", within=turn)

            return await self._session.chores.repair_now(
                accounts, part=part, rate=rate, observer=self.progress, repairing=repairing
            )

    async def build_histories(self, names: Sequence[str], chosen: Chosen) -> HistoryReport:
        """Bring row histories up to date, and send the alerts that this changes. Cancelling is safe."""
        await self._session.check_mirror()
        session = self._session
        return await build_histories(
            self.config, session.context, session.dispatcher, names=names, chosen=chosen, observer=self.progress
        )

    async def run_loads(self, names: Sequence[str], chosen: LoadChosen) -> list[LoadReport]:
        """Run loads, and send the alerts that this changes. Cancelling ends the current one, which resumes later."""
        await self._session.check_mirror()
        session = self._session
        return await load_now(
            self.config,
            session.context,
            session.dispatcher,
            names=names,
            chosen=chosen,
            environ=session.derived.environ,
            observer=self.progress,
        )

    async def rerun_hooks(self, job: str) -> tuple[int, Sequence[HookRun]]:
        """Make the hooks of a snapshot due and run them. Return how many there are, and the runs that ended.

        If other hosts are running, any of them may run the hooks, and no run is returned.
        """
        session = self._session
        count = await session.dispatcher.rerun(job)
        if await session.other_hosts():
            await session.run_hooks_soon()
            return count, ()
        async with self._turn([turns.HOOKS], "running hooks"):
            await session.dispatcher.run_hooks()
            return count, (await session.dispatcher.hook_runs(job=job, limit=max(count, 1)))[:count]

    async def rebuild(self) -> RebuildReport:
        """Close the mirror, rebuild the manifest, and open the mirror again."""
        await self._session.refuse_others()
        names = [turns.of_account(account.name) for account in account_settings(self.config)]
        async with self._turn([*names, turns.PRUNE, turns.VERIFY, turns.HOOKS], "rebuilding the manifest"):
            clock = self._session.context.clock
            work = partial(rebuild_manifest, self.config, self._stores, clock=clock, observer=self.progress)
            return await self._session.interlude(self._visit, work)

    @asynccontextmanager
    async def _turn(self, names: Sequence[str], what: str, *, within: Turn | None = None) -> AsyncIterator[Turn]:
        words = f"{what} for a command"
        async with self._session.turns.take(names, words, within=within, waits=self._waits) as turn:
            self._session.refuse_at_end()
            with self._session.busy(words):
                yield turn


#: Carries out one kind of order with these options, and returns what the command prints.
Work: TypeAlias = Callable[[OpenOrder, Mapping[str, JsonValue]], Coroutine[None, None, Answer]]
