"""Prunings that a crash cut short and that cannot be finished now: each is an alert and stops nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from dcsync.core.alerts import AlertCode
from dcsync.core.model import AccountName, JobId
from dcsync.errors import DcsyncError
from dcsync.manifest.broken import BrokenPart, BrokenParts
from dcsync.ops.context import MirrorContext

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """A snapshot in `.dcsync` whose interrupted pruning cannot be finished or undone now. It is not missing."""

    account: AccountName
    job: JobId
    folder: str
    error: DcsyncError


async def report_unfinished(context: MirrorContext, unfinished: Iterable[Unfinished]) -> None:
    """Record the alert of each. The next prune resolves it."""
    for one in unfinished:
        message = f"the interrupted pruning of {one.folder} cannot be finished: {one.error.message}"
        log.warning("interrupted pruning not finished", account=one.account, folder=one.folder, error=one.error.message)
        part = BrokenPart(code=AlertCode.M_PRUNE, subject=one.job, message=message, hint=one.error.advice)
        await BrokenParts(context.manifest, one.account).record(part)
