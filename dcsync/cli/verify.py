"""`dcsync verify`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

import click

from dcsync.cli.completion import account_names
from dcsync.cli.group import exit_statuses
from dcsync.errors import DcsyncError

if TYPE_CHECKING:
    from pydantic import JsonValue

    from dcsync.config import Config
    from dcsync.daemon.open_order import OpenOrder
    from dcsync.ops.integrity.report import VerifyReport
    from dcsync.orders import Answer

_PART = re.compile(r"([0-9]{1,4})/([0-9]{1,4})")


@click.command(
    "verify",
    epilog=exit_statuses(
        3,
        11,
        12,
        13,
        14,
        done="no problems, or all repaired",
        incomplete="problems remain, or the check is incomplete",
        unsafe="data is permanently lost, or stopped for safety (disk not mounted, wrong disk or mirror)",
    ),
)
@click.option(
    "--account",
    "accounts",
    multiple=True,
    metavar="NAME",
    shell_complete=account_names,
    help="Only this account. Can be given multiple times.",
)
@click.option("--part", metavar="I/N", help="Read only this part of the files, for example 1/30.")
@click.option(
    "--repair", is_flag=True, help="Replace damaged files with intact copies from the mirror or from Autodesk."
)
@click.option("--rate", metavar="RATE", help="Read at most this much per second. Overrides verify.rate.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def verify_command(
    ctx: click.Context, accounts: Sequence[str], part: str | None, repair: bool, rate: str | None, as_json: bool
) -> int:
    """Check every file in the mirror against the checksum that was recorded when it was published.

    verify finds changed, missing, extra, truncated and unreadable files. It compares them with the manifest and with
    SHA256SUMS. What it finds is the alert V-DAMAGED or V-EXTRA, until a later verify finds it intact. Without --repair
    it changes nothing in the mirror. Extra files of desktops and NAS devices (.DS_Store, Thumbs.db, @eaDir) are counted
    only. [verify] ignore names more.

    --repair replaces a damaged file in every snapshot that shares it. It uses an intact copy from the mirror, or
    downloads the file again: Autodesk keeps extracts for 30 days. The damaged file is moved to .dcsync/quarantine.
    While the daemon is running, the daemon repairs.
    """
    from dcsync.cli.orders import Shown, carry_out, print_answer
    from dcsync.cli.startup import load_config, run_async

    chosen = _part(part)
    config = load_config(ctx, is_order=repair)
    limit = config.verify.rate if rate is None else _rate(rate)
    options = RepairOptions(accounts=list(accounts), part=chosen, rate=limit, as_json=as_json)

    async def alone() -> Answer:
        report = await _verify(config, accounts, part=chosen, repair=repair, rate=limit)
        return answer_of(report, as_json=as_json)

    if not repair:
        return print_answer(run_async(alone()))
    return print_answer(carry_out(config, "verify", asdict(options), alone=alone, shown=Shown.READING))


@dataclass(frozen=True, kw_only=True)
class RepairOptions:
    """The options of an order to verify and repair."""

    accounts: list[str]
    part: tuple[int, int] | None
    rate: int | None
    as_json: bool


async def order_work(order: OpenOrder, options: Mapping[str, JsonValue]) -> Answer:
    """Verify and repair in the daemon."""
    from dcsync.cli.orders import read_options

    chosen = read_options(RepairOptions, options)
    report = await order.repair(chosen.accounts, part=chosen.part, rate=chosen.rate)
    return answer_of(report, as_json=chosen.as_json)


def answer_of(report: VerifyReport, *, as_json: bool) -> Answer:
    """Return what a verify prints."""
    from dcsync.cli.output import json_text
    from dcsync.orders import Answer

    answer = Answer(status=report.exit_status)
    if as_json:
        answer.echo(json_text(report.json()))
    else:
        _print(answer, report)
    if report.not_recorded is not None:
        answer.echo(f"the alerts of this mirror are as before: {report.not_recorded.message}", err=True)
        answer.echo(f"  do:   {report.not_recorded.advice}", err=True)
    return answer


async def _verify(
    config: Config, accounts: Sequence[str], *, part: tuple[int, int] | None, repair: bool, rate: int | None
) -> VerifyReport:
    from dcsync.app.from_config import account_settings
    from dcsync.app.mirror import open_mirror_unlocked
    from dcsync.app.renew import renewing
    from dcsync.app.sync import open_sync
    from dcsync.app.verify import record_findings
    from dcsync.cli.progress import reading
    from dcsync.clock import SystemClock
    from dcsync.cluster import stores_for
    from dcsync.ops.accounts import left_settings
    from dcsync.ops.integrity.verify import verify
    from dcsync.ops.recovery import recover

    selected = account_settings(config, accounts)
    stores = stores_for(config, os.environ)
    async with reading(SystemClock()) as observer:
        if repair:
            opener = partial(open_sync, environ=os.environ)
            async with renewing(opener, config, stores, role="verify") as context:
                # Missing folders are for this command to report, so recovery leaves their rows alone.
                await recover(context, account_settings(config), notices_missing=False)
                return await verify(context, selected, part=part, repair=True, rate=rate, observer=observer)
        async with open_mirror_unlocked(config, stores) as mirror:
            left = [] if accounts else await left_settings(mirror.manifest, selected)
            report = await verify(mirror, [*selected, *left], part=part, rate=rate, observer=observer)
            report.not_configured = [account.name for account in left]
            names = [account.name for account in (*selected, *left)]
            configured = None if accounts else [account.name for account in selected]
            try:
                await record_findings(stores, mirror.manifest, report, names, configured=configured)
            except DcsyncError as error:
                report.not_recorded = error
            return report


def _part(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = _PART.fullmatch(text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        message = f"{text!r} is not a part such as 1/30"
        raise click.BadParameter(message, param_hint="--part")
    return int(match[1]), int(match[2])


def _rate(text: str) -> int | None:
    from dcsync.config.units import parse_rate

    try:
        return parse_rate(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--rate") from None


def _print(out: Answer, report: VerifyReport) -> None:
    from dcsync.cli.output import size_text
    from dcsync.core.names import printable
    from dcsync.ops.integrity.report import Kind, Outcome

    for item in report.damage:
        kept = f"; the damaged file was moved to {item.kept}" if item.kept else ""
        outcome = "" if item.outcome.value == "found" else f" [{item.outcome.value}]"
        path, detail = printable(item.path, 300), printable(item.detail, 400)
        out.echo(f"{item.account}: {item.kind} {path}: {detail}{outcome}{kept}")
    which = "" if report.part is None else f", part {report.part[0]}/{report.part[1]}"
    snapshots = f"{report.snapshots} snapshot{'' if report.snapshots == 1 else 's'}"
    count = len(report.damage)
    found = f"{count} problem{'' if count == 1 else 's'} found" if count else "no problems found"
    ignored = report.ignored_files
    others = f" ({ignored} extra file{'' if ignored == 1 else 's'} of other programs ignored)" if ignored else ""
    read = f"{report.files} unique files, {size_text(report.read_bytes)} read"
    out.echo(f"{snapshots} checked{which}: {read}, {found}{others}")
    for name in report.not_configured:
        out.echo(f"{name} is not in the configuration: its snapshots were checked, and cannot be repaired")
        out.echo("  do:   dcsync status says what to do")
    kinds = {item.kind for item in report.damage if item.outcome is Outcome.FOUND}
    if kinds - {Kind.EXTRA}:
        out.echo("  do:   run dcsync verify --repair")
    if Kind.EXTRA in kinds:
        out.echo("  do:   move what is extra out of the mirror, or name it in [verify] ignore")
