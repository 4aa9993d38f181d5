"""`dcsync sync`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

import click

from dcsync.cli.completion import account_names, request_ids
from dcsync.cli.group import EXIT_STATUSES
from dcsync.errors import ExitStatus

if TYPE_CHECKING:
    from pydantic import JsonValue

    from dcsync.config import Config
    from dcsync.core.model import Json
    from dcsync.daemon.open_order import OpenOrder
    from dcsync.ops.mirroring.job import Planned
    from dcsync.ops.mirroring.outcome import AccountOutcome, Wanted
    from dcsync.orders import Answer


@click.command("sync", epilog=EXIT_STATUSES)
@click.option(
    "--account",
    "accounts",
    multiple=True,
    metavar="NAME",
    shell_complete=account_names,
    help="Only this account. Can be given multiple times.",
)
@click.option(
    "--request",
    "requests",
    multiple=True,
    metavar="ID|GLOB",
    shell_complete=request_ids,
    help="Only this data request, by ID or description.",
)
@click.option(
    "--job",
    "jobs",
    multiple=True,
    metavar="ID",
    help="Only this job, immediately and even if it is quarantined. Can be given multiple times. Skips published jobs, "
    "unless their snapshot has no table.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be done. Writes nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def sync_command(
    ctx: click.Context,
    accounts: Sequence[str],
    requests: Sequence[str],
    jobs: Sequence[str],
    dry_run: bool,
    as_json: bool,
) -> int:
    """Mirror every extract that is not mirrored yet, oldest first, and exit.

    While the daemon is running, the daemon does it.
    """
    from dcsync.cli.orders import Shown, carry_out, print_answer
    from dcsync.cli.startup import load_config, run_async

    config = load_config(ctx, is_order=not dry_run)
    options = SyncOptions(accounts=list(accounts), requests=list(requests), jobs=list(jobs), as_json=as_json)

    async def alone() -> Answer:
        return _answer(await sync_once(config, accounts, options.wanted(), dry_run=dry_run), options, dry_run=dry_run)

    by_daemon = partial(carry_out, config, "sync", asdict(options), alone=alone, shown=Shown.RUN)
    answer = run_async(alone()) if dry_run else by_daemon()
    with suppress(BrokenPipeError):  # the reader is gone; the exit status is still that of the run
        print_answer(answer)
    return answer.status


@dataclass(frozen=True, kw_only=True)
class SyncOptions:
    """The options of a run."""

    accounts: list[str]
    requests: list[str]
    jobs: list[str]
    as_json: bool

    def wanted(self) -> Wanted:
        """Return what the run is limited to."""
        from dcsync.ops.mirroring.outcome import Wanted

        return Wanted(requests=tuple(self.requests), jobs=tuple(self.jobs))


async def order_work(order: OpenOrder, options: Mapping[str, JsonValue]) -> Answer:
    """Do one run in the daemon."""
    from dcsync.cli.orders import read_options

    chosen = read_options(SyncOptions, options)
    return _answer(await order.sync(chosen.accounts, chosen.wanted()), chosen, dry_run=False)


def _answer(outcomes: Sequence[AccountOutcome], options: SyncOptions, *, dry_run: bool) -> Answer:
    from dcsync.ops.mirroring.outcome import exit_status
    from dcsync.orders import Answer

    answer, status = Answer(), exit_status(outcomes)
    _print_outcomes(answer, outcomes, as_json=options.as_json, dry_run=dry_run)
    unknown = [*_requests_not_found(outcomes, options.requests), *_jobs_not_found(outcomes, options.jobs)]
    for line in unknown:
        answer.echo(f"dcsync: {line}", err=True)
    answer.status = ExitStatus.USAGE if unknown and status is ExitStatus.DONE else status
    return answer


async def sync_once(config: Config, accounts: Sequence[str], wanted: Wanted, *, dry_run: bool) -> list[AccountOutcome]:
    """Recover the mirror, do one run, then send notifications and write the report."""
    from dcsync.app.from_config import account_settings
    from dcsync.app.history import build_after_run
    from dcsync.app.loads import load_after_run
    from dcsync.app.renew import renewing
    from dcsync.app.sync import follow_up, open_dispatcher, open_dry_run, open_sync
    from dcsync.cli.progress import watching
    from dcsync.clock import SystemClock
    from dcsync.cluster import stores_for
    from dcsync.ops.mirroring.run import sync
    from dcsync.ops.recovery import recover

    clock = SystemClock()
    selected = account_settings(config, accounts)
    stores = stores_for(config, os.environ)
    async with watching(clock) as observer, AsyncExitStack() as stack:
        if dry_run:
            context = await stack.enter_async_context(
                open_dry_run(config, stores, environ=os.environ, observer=observer, clock=clock)
            )
            return await sync(context, selected, wanted=wanted, dry_run=True)
        opener = partial(open_sync, environ=os.environ, observer=observer)
        context = await stack.enter_async_context(renewing(opener, config, stores, role="sync", clock=clock))
        await recover(context, account_settings(config))
        dispatcher = await open_dispatcher(config, stores, context, environ=os.environ)
        outcomes = await sync(context, selected, wanted=wanted)
        await follow_up(config, context, dispatcher, outcomes)
        await build_after_run(config, context, dispatcher)
        await load_after_run(config, context, dispatcher)
        return outcomes


def print_outcomes(outcomes: Sequence[AccountOutcome], *, as_json: bool, dry_run: bool) -> None:
    """Print the results of a run, or the plan of a dry run."""
    from dcsync.cli.orders import print_answer
    from dcsync.orders import Answer

    answer = Answer()
    _print_outcomes(answer, outcomes, as_json=as_json, dry_run=dry_run)
    print_answer(answer)


def _print_outcomes(out: Answer, outcomes: Sequence[AccountOutcome], *, as_json: bool, dry_run: bool) -> None:
    from dcsync.cli.output import json_text

    if as_json:
        out.echo(json_text({"accounts": [_outcome_json(outcome) for outcome in outcomes]}))
        return
    for outcome in outcomes:
        if dry_run:
            _print_plans(out, outcome)
        _print_outcome(out, outcome, dry_run=dry_run)


def _print_outcome(out: Answer, outcome: AccountOutcome, *, dry_run: bool) -> None:
    from dcsync.cli.output import size_text, time_text
    from dcsync.core.names import printable
    from dcsync.ops.mirroring.outcome import GONE

    name = outcome.account.name
    for published in outcome.published:
        transfer = published.transfer
        out.echo(
            f"{name}: published {published.folder}: {published.files} files, "
            f"{size_text(transfer.fetched_bytes)} downloaded, {size_text(transfer.linked_bytes)} hard-linked, "
            f"{transfer.calls} API calls"
        )
        for warning in published.warnings:
            out.echo(f"{name}: {printable(warning.table, 200)}: {warning.message} [{warning.code}]", err=True)
    # Many jobs may fail for one reason, such as a wrong `include`.
    for hint, jobs in groupby(outcome.failed, key=lambda failed: failed.hint):
        for failed in jobs:
            when = f"; next attempt {time_text(failed.next_try_at)}" if failed.next_try_at else ""
            what = "cannot be planned" if dry_run else f"is {failed.state}"
            out.echo(f"{name}: job {failed.job} {what}: {failed.message} [{failed.code}]{when}", err=True)
        if hint:
            out.echo(f"  do:   {hint}", err=True)
    for skipped in outcome.skipped:
        out.echo(f"{name}: job {skipped.job}: nothing to do: {skipped.reason}", err=skipped.state in GONE)
    _print_problems(out, outcome)
    if outcome.error is not None:
        out.echo(f"{name}: stopped: {outcome.error.message} [{outcome.error.code}]", err=True)
        out.echo(f"  safe: {outcome.error.safe}", err=True)
        if outcome.error.advice:
            out.echo(f"  do:   {outcome.error.advice}", err=True)
    elif not dry_run and not outcome.published and not outcome.failed and not outcome.skipped:
        retried = outcome.due_later - outcome.blocked
        later = f", {retried} to be retried later" if retried else ""
        later += f", {outcome.blocked} waiting for disk space (see dcsync status)" if outcome.blocked else ""
        running = outcome.waiting - outcome.unclear
        pending = f", {running} still running at Autodesk" if running else ""
        quarantined = f", {outcome.given_up} quarantined (see dcsync status)" if outcome.given_up else ""
        calls = f"{outcome.calls} call{'s' if outcome.calls != 1 else ''}"
        out.echo(f"{name}: nothing new{pending}{later}{quarantined} ({calls})")


def _print_problems(out: Answer, outcome: AccountOutcome) -> None:
    """Print what keeps data out of the mirror although no job failed."""
    from dcsync.core.alerts import ALERT_KINDS, AlertCode
    from dcsync.core.names import printable

    name = outcome.account.name

    def advise(code: AlertCode, is_needed: object) -> None:
        if is_needed and code in outcome.hints:
            out.echo(f"  do:   {outcome.hints[code]}", err=True)

    for text in outcome.unusable:
        what = "an entry of Autodesk's job list cannot be used"
        out.echo(f"{name}: {what}: {printable(text, 300)} [L-ENTRY]", err=True)
    advise(AlertCode.L_ENTRY, outcome.unusable)
    for part in outcome.broken:
        out.echo(f"{name}: {printable(part.message, 400)} [{part.code}]", err=True)
        out.echo(f"  do:   {part.hint or ALERT_KINDS[part.code].hint}", err=True)
    for pattern in outcome.unmatched:
        what = "no visible data request matches"
        out.echo(f"{name}: {what} {pattern!r} in [[account]] requests [C-NOMATCH]", err=True)
    advise(AlertCode.C_NOMATCH, outcome.unmatched)
    for job in outcome.expiring:
        out.echo(f"{name}: job {job} is not mirrored, and Autodesk deletes its extract soon [L-EXPIRING]", err=True)
    advise(AlertCode.L_EXPIRING, outcome.expiring)
    if outcome.unclear:
        jobs = "1 job has" if outcome.unclear == 1 else f"{outcome.unclear} jobs have"
        out.echo(f"{name}: {jobs} a status that dcsync does not know (see dcsync status) [L-STATUS]", err=True)
    advise(AlertCode.L_STATUS, outcome.unclear)


def _print_plans(out: Answer, outcome: AccountOutcome) -> None:
    from dcsync.cli.output import duration_text, size_text

    for planned in outcome.planned:
        plan = planned.plan
        conditional = sum(fetch.unless is not None for fetch in plan.fetches)
        out.echo(f"{outcome.account.name}: would publish {planned.folder} (job {planned.job})")
        out.echo(
            f"  {len(plan.links)} files hard-linked, {len(plan.extracts)} from the ZIP, {len(plan.fetches)} downloaded "
            f"individually ({conditional} of them only if changed), {len(plan.skipped)} skipped"
        )
        choice = planned.choice
        for price in choice.prices:
            rejected = choice.rejected.get(price.method)
            why = "" if rejected is None else f"  ({rejected.text})"
            out.echo(
                f"  {'*' if rejected is None else ' '} {price.method.value:<7} {price.calls:>4} "
                f"{'call ' if price.calls == 1 else 'calls'}  "
                f"{size_text(price.size):>10}  about {duration_text(price.seconds)}{why}"
            )
    if not outcome.planned and not outcome.failed and not outcome.skipped and outcome.error is None:
        out.echo(f"{outcome.account.name}: nothing to do")


def _outcome_json(outcome: AccountOutcome) -> dict[str, Json]:
    from dcsync.core.summary import warnings_json
    from dcsync.core.wire import time_json

    error = outcome.error
    return {
        "name": outcome.account.name,
        "new_jobs": outcome.new_jobs,
        "waiting": outcome.waiting,
        "unclear": outcome.unclear,
        "unusable": list(outcome.unusable),
        "broken": [{"code": part.code, "subject": part.subject, "message": part.message} for part in outcome.broken],
        "unmatched": list(outcome.unmatched),
        "due_later": outcome.due_later,
        "blocked": outcome.blocked,
        "given_up": outcome.given_up,
        "calls": outcome.calls,
        "published": [
            {
                "job": published.job,
                "folder": published.folder,
                "strategy": published.transfer.strategy,
                "files": published.files,
                "fetched_bytes": published.transfer.fetched_bytes,
                "linked_bytes": published.transfer.linked_bytes,
                "calls": published.transfer.calls,
                "warnings": warnings_json(published.warnings),
            }
            for published in outcome.published
        ],
        "failed": [
            {
                "job": failed.job,
                "state": failed.state.value,
                "code": failed.code,
                "message": failed.message,
                "hint": failed.hint,
                "next_try_at": time_json(failed.next_try_at),
            }
            for failed in outcome.failed
        ],
        "skipped": [
            {"job": skipped.job, "state": skipped.state.value, "reason": skipped.reason} for skipped in outcome.skipped
        ],
        "planned": [_plan_json(planned) for planned in outcome.planned],
        "expiring": list(outcome.expiring),
        "error": None if error is None else {"code": error.code, "message": error.message, "hint": error.advice},
    }


def _plan_json(planned: Planned) -> dict[str, Json]:
    from dcsync.core.sidecar import prices_json

    price = planned.choice.price
    return {
        "job": planned.job,
        "request": planned.request,
        "folder": planned.folder,
        "way": price.method.value,
        "reason": planned.choice.describe(),
        "calls": price.calls,
        "fetch_bytes": price.size,
        "expected_seconds": round(price.seconds, 1),
        "prices": prices_json(planned.choice),
        "files": [
            {
                "name": action.file.name,
                "size": action.file.size,
                "action": action.kind.value,
                "reason": action.reason,
            }
            for action in planned.plan.actions
        ],
    }


def _jobs_not_found(outcomes: Sequence[AccountOutcome], jobs: Sequence[str]) -> list[str]:
    touched = {published.job for outcome in outcomes for published in outcome.published}
    touched |= {failed.job for outcome in outcomes for failed in outcome.failed}
    if any(outcome.error for outcome in outcomes):
        return []
    known = {job for outcome in outcomes for job in outcome.found_jobs}
    missing = sorted(set(jobs) - touched - known)
    return [f"unknown job in these accounts: {', '.join(missing)}; dcsync jobs lists the jobs"] if missing else []


def _requests_not_found(outcomes: Sequence[AccountOutcome], requests: Sequence[str]) -> list[str]:
    """Return a line that names the unknown data requests and the known ones, or nothing if all are known."""
    from dataclasses import replace

    from dcsync.core.names import printable

    if any(outcome.error for outcome in outcomes):
        return []
    known = [(outcome.account, request) for outcome in outcomes for request in outcome.requests]
    missing = sorted(
        wanted
        for wanted in set(requests)
        if not any(replace(account, requests=(wanted,)).wants_request(request) for account, request in known)
    )
    if not missing:
        return []
    there = sorted({f"{printable(request.description)!r} ({request.id})" for _, request in known})
    known_words = (
        f"known data requests: {', '.join(there)}"
        if there
        else "no data request has run yet: run it in Autodesk's Data Connector"
    )
    return [f"unknown data request in these accounts: {', '.join(missing)}; {known_words}"]
