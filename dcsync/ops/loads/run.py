"""Run the loads, one after another, and record what happened: the state of each, and its alerts."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import structlog

from dcsync.core.alerts import AlertCode
from dcsync.core.load_plan import Action, LoadPlan
from dcsync.core.load_settings import LoadSettings, retry_after
from dcsync.core.load_state import LoadState, TableState
from dcsync.core.loads import LoadMode, Shown
from dcsync.core.verdict import span_text
from dcsync.manifest import SqlManifest
from dcsync.manifest.broken import BrokenPart, BrokenParts
from dcsync.ops.context import AccountSettings, MirrorContext
from dcsync.ops.integrity.content_reader import ReadingObserver, Unwatched
from dcsync.ops.loads.candidates import Found, find_candidates
from dcsync.ops.loads.loading import Load, Loading, Outcome, Problem, TableOutcome, problem_of
from dcsync.ops.loads.states import load_state, save_state
from dcsync.ops.loads.thread import in_thread

log = structlog.get_logger(__name__)

#: How often the tables are looked for again because files left the mirror, or were replaced, during a load.
_ATTEMPTS: Final = 3
#: The longest time for one table. A frozen database would keep the other loads waiting, without an alert.
_LIMIT: Final = timedelta(hours=6)


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedLoad:
    """A `[[load]]` of the configuration. `prepare` raises `ConfigError` if its address or a package is missing."""

    settings: LoadSettings
    prepare: Callable[[], Load]
    limit: timedelta = _LIMIT


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What happened to one load. `target` is the address without secrets, or empty if it is not known."""

    settings: LoadSettings
    target: str
    outcome: Outcome
    next_try_at: datetime | None = None

    @property
    def plan(self) -> LoadPlan:
        """The plan of the load. Empty if the target could not be asked."""
        return self.outcome.plan

    @property
    def problems(self) -> Sequence[TableOutcome]:
        """The tables that are not up to date."""
        return [each for each in self.outcome.tables if each.problem is not None]

    @property
    def loaded(self) -> Sequence[TableOutcome]:
        """The tables that were loaded, and not only marked."""
        done = (each for each in self.outcome.tables if each.problem is None)
        return [each for each in done if each.planned.action in {Action.LOAD, Action.CHANGES}]

    @property
    def is_final(self) -> bool:
        """Whether only a new snapshot, or a command, can help."""
        problem = self.outcome.problem
        return problem is None and all(each.problem is None or each.problem.is_final for each in self.problems)

    @property
    def is_complete(self) -> bool:
        """Whether every table of the load is up to date."""
        return self.outcome.problem is None and not self.problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """How the loads run. Without `insists`, a load is left out that is up to date, or must wait after a failure."""

    is_full: bool = False
    is_dry: bool = False
    insists: bool = True


async def run_loads(
    context: MirrorContext,
    accounts: Sequence[AccountSettings],
    loads: Sequence[WantedLoad],
    *,
    chosen: Chosen | None = None,
    observer: ReadingObserver | None = None,
) -> list[LoadReport]:
    """Run these loads, one after another. One that fails is an alert and stops no other.

    Cancelling ends the current one. The next run continues with the tables that are left. Raises errors of the
    manifest.
    """
    reports = []
    for wanted in loads:
        report = await _Run(context, accounts, wanted, chosen or Chosen(), observer or Unwatched()).run()
        if report is not None:
            reports.append(report)
    return reports


async def forget_other_loads(manifest: SqlManifest, names: Sequence[str]) -> None:
    """Resolve the alerts of loads that are no longer configured."""
    await BrokenParts(manifest, None).replace([AlertCode.R_LOAD], [], keeps=lambda part: _name_of(part) in names)


def _name_of(part: BrokenPart) -> str:
    return part.subject.partition("/")[0]


class _Run:
    """One run of one load."""

    def __init__(
        self,
        context: MirrorContext,
        accounts: Sequence[AccountSettings],
        wanted: WantedLoad,
        chosen: Chosen,
        observer: ReadingObserver,
    ) -> None:
        self._context = context
        self._accounts = accounts
        self._wanted = wanted
        self._settings = wanted.settings
        self._chosen = chosen
        self._observer = observer

    async def run(self) -> LoadReport | None:
        """Load, and record what happened. None if the load is left out."""
        before = await load_state(self._context.manifest, self._settings.name)
        load: Load | None = None
        outcome = Outcome()
        try:
            load = self._wanted.prepare()
        except Exception as error:  # noqa: BLE001 - the other loads run
            outcome.problem = problem_of(error)
        found = await self._find()
        seen = self._fingerprint(load, found)
        if not self._chosen.insists and _is_left_out(before, seen, self._context.clock.now()):
            return None
        if load is not None:
            outcome = await self._load(load, found)
            for _ in range(_ATTEMPTS - 1):
                if not any(each.problem is not None and each.problem.has_moved for each in outcome.tables):
                    break
                found = await self._find()
                seen = self._fingerprint(load, found)
                outcome = await self._load(load, found)
        if outcome.problem is None and found.has_snapshots and not found.candidates:
            outcome.problem = self._no_tables()
        return await self._ended(before, "" if load is None else load.where, outcome, seen)

    async def _find(self) -> Found:
        return await find_candidates(self._context, self._accounts, self._settings)

    def _fingerprint(self, load: Load | None, found: Found) -> str:
        """Return what identifies everything that decides what the target shows."""
        tables = sorted((each.account, each.request, each.name, each.job, each.sha256) for each in found.candidates)
        facts = [asdict(self._settings), "" if load is None else load.where, tables]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def _no_tables(self) -> Problem:
        if self._settings.mode is LoadMode.HISTORY:
            hint = "compare tables and requests in [[load]] with [history] tables, and run dcsync history"
            return Problem(reason="no table that it names has a row history", hint=hint)
        hint = "correct tables, requests or accounts in [[load]]. dcsync requests lists the data requests"
        return Problem(reason="no table of a snapshot matches it", hint=hint)

    async def _load(self, load: Load, found: Found) -> Outcome:
        loop, seconds = asyncio.get_running_loop(), self._wanted.limit.total_seconds()
        limit = asyncio.timeout(seconds)

        def begun(table: str, number: int, of: int) -> None:
            with suppress(RuntimeError):  # the time is up
                limit.reschedule(loop.time() + seconds)
            self._observer.snapshot(f"{self._settings.name}: {table}", number, of)

        def progressed(table: str, number: int, of: int) -> None:
            loop.call_soon_threadsafe(begun, table, number, of)

        loading = Loading(
            root=self._context.root.path,
            load=load,
            found=found,
            is_full=self._chosen.is_full,
            is_dry=self._chosen.is_dry,
            progressed=progressed,
        )
        try:
            async with limit:
                return await in_thread(loading.run)
        except TimeoutError:
            hint = "check that the target answers, and end what keeps its tables locked"
            reason = f"a table was not loaded within {span_text(self._wanted.limit)}"
            return Outcome(problem=Problem(reason=reason, hint=hint))

    async def _ended(self, before: LoadState, target: str, outcome: Outcome, seen: str) -> LoadReport:
        now = self._context.clock.now()
        report = LoadReport(settings=self._settings, target=target, outcome=outcome)
        attempts = 0 if report.is_complete else before.attempts + 1
        if attempts and not report.is_final:
            report = replace(report, next_try_at=now + retry_after(attempts))
        if self._chosen.is_dry:
            return report
        state = LoadState(
            target=target or before.target,
            attempts=attempts,
            tried_at=now,
            done_at=before.done_at if attempts else now,
            next_try_at=report.next_try_at,
            problem=None if outcome.problem is None else outcome.problem.reason,
            hint=None if outcome.problem is None else outcome.problem.hint or None,
            seen=seen,
            tables=_table_states(outcome, now) or (before.tables if attempts else ()),
        )
        await save_state(self._context.manifest, self._settings.name, state)
        await self._record_alerts(report)
        _log(report)
        return report

    async def _record_alerts(self, report: LoadReport) -> None:
        name = self._settings.name
        where = f"the load {name} into {report.target}" if report.target else f"the load {name}"
        again = "The next try is with the next snapshot"
        if report.next_try_at is not None:
            again = f"The next try is at {report.next_try_at:%Y-%m-%d %H:%M} UTC, or with the next snapshot"
        again = f"{again}. To try at once: dcsync load {name}"
        parts = []
        if report.outcome.problem is not None:
            parts.append(_alert(name, f"{where} failed", report.outcome.problem, again))
        for each in report.problems:
            assert each.problem is not None  # noqa: S101 - it is one of the problems
            table = each.planned.table
            parts.append(_alert(f"{name}/{table}", f"{where}: {table} is not up to date", each.problem, again))
        broken = BrokenParts(self._context.manifest, None)
        await broken.replace([AlertCode.R_LOAD], parts, keeps=lambda part: _name_of(part) != name)


def _is_left_out(before: LoadState, seen: str, now: datetime) -> bool:
    """Say whether nothing is new since the last attempt, and that one succeeded or must not be repeated yet."""
    if before.seen != seen or before.tried_at is None or before.tried_at > now:
        return False
    return not before.attempts or before.next_try_at is None or now < before.next_try_at


def _alert(subject: str, what: str, problem: Problem, again: str) -> BrokenPart:
    hint = f"{problem.hint}. {again}" if problem.hint else again
    return BrokenPart(code=AlertCode.R_LOAD, subject=subject, message=f"{what}: {problem.reason}", hint=hint)


def _table_states(outcome: Outcome, now: datetime) -> tuple[TableState, ...]:
    found = [_table_state(each, now) for each in outcome.tables]
    note = "the newest snapshot does not have it. Its rows stay"
    found += [replace(_shown_state(each.table, each, None), note=note) for each in outcome.plan.gone]
    return tuple(sorted(found, key=lambda each: each.table))


def _table_state(each: TableOutcome, now: datetime) -> TableState:
    is_written = each.planned.writes and each.problem is None
    state = _shown_state(each.planned.table, each.shown, now if is_written else None)
    return replace(
        state,
        account=each.planned.candidate.account,
        request=each.planned.candidate.request,
        note=each.planned.reason or None,
        problem=None if each.problem is None else each.problem.reason,
    )


def _shown_state(table: str, shown: Shown | None, loaded_at: datetime | None) -> TableState:
    if shown is None:
        return TableState(table=table)
    return TableState(
        table=table,
        account=shown.account,
        request=shown.request,
        job=shown.job,
        completed=shown.completed,
        rows=shown.rows,
        loaded_at=shown.loaded_at or loaded_at,
    )


def _log(report: LoadReport) -> None:
    name, outcome = report.settings.name, report.outcome
    if outcome.problem is not None:
        log.warning("load failed", load=name, target=report.target, error=outcome.problem.reason, in_result="load")
    for each in report.problems:
        assert each.problem is not None  # noqa: S101 - it is one of the problems
        reason = each.problem.reason
        log.warning("table not loaded", load=name, table=each.planned.table, error=reason, in_result="load")
    if report.loaded:
        rows = sum(each.sent for each in report.loaded)
        tables = len(report.loaded)
        log.info("tables loaded", load=name, target=report.target, tables=tables, rows=rows, in_result="load")
