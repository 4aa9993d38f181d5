"""What is amiss, in words: from what a run met, and from what should have come and did not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from dcsync.core.alerts import Concern, EventKind
from dcsync.core.freshness import Expectation, Stage
from dcsync.core.lifecycle import OPEN, JobState, nears_expiry
from dcsync.core.model import DataRequest, Job, RequestId
from dcsync.core.ports import KnownJob, KnownRequest
from dcsync.errors import every_error
from dcsync.manifest import HookRun
from dcsync.ops.alerts import hooks
from dcsync.ops.context import AccountSettings
from dcsync.ops.mirroring.run import AccountOutcome
from dcsync.ops.status import Attention

_HINTS = {kind.code: kind.hint for kind in every_error()}
#: Concerns of which only a poll that worked can say that they are over.
OF_A_POLL = frozenset({"L-LATE", "L-SLOW"})


def of_a_run(outcome: AccountOutcome) -> list[Concern]:
    """Return what stopped an account's part of a run."""
    error = outcome.error
    if error is None:
        return []
    return [
        Concern(
            account=outcome.account.name,
            code=error.code,
            message=error.message,
            hint=error.advice,
            passing=error.transient,
            kind=EventKind.FAILURE if error.transient else EventKind.ATTENTION,
        )
    ]


def of_jobs(
    outcome: AccountOutcome, jobs: Iterable[KnownJob], requests: Mapping[RequestId, KnownRequest], now: datetime
) -> list[Concern]:
    """Return the jobs that failed and wait to be tried again, and those whose extract will be deleted upstream.

    Of all jobs that are known: one that this run did not try, or did not get to, is no better off than before it.
    """
    name, concerns = outcome.account.name, []
    hints = {failed.job: failed.hint for failed in outcome.failed}
    for known in jobs:
        job, code = known.job, known.reason_code
        if known.state not in OPEN or not _is_mirrored(outcome.account, known, requests):
            continue
        if known.state is JobState.FAILED and code is not None:
            concerns.append(
                Concern(
                    account=name,
                    code=code,
                    subject=job.id,
                    message=f"job {job.id} cannot be mirrored: {known.reason}",
                    hint=hints.get(job.id) or _HINTS.get(code, ""),
                    passing=True,
                    kind=EventKind.FAILURE,
                )
            )
        if nears_expiry(job.completed_at, now):
            concerns.append(
                Concern(
                    account=name,
                    code="L-EXPIRING",
                    subject=job.id,
                    message=f"job {job.id} is not mirrored yet, and the server deletes its extract 30 days after it "
                    "was made",
                    hint="see dcsync status for what holds it up",
                )
            )
    return concerns


def _is_mirrored(account: AccountSettings, known: KnownJob, requests: Mapping[RequestId, KnownRequest]) -> bool:
    request = requests.get(known.job.request_id)
    completed, start = known.job.completed_at, account.start
    return (
        request is not None
        and account.wants_request(request)
        and (start is None or completed is None or completed >= start)
    )


def late(account: str, request: DataRequest, expected: Expectation, now: datetime) -> Concern:
    """Return that an extract is not there upstream: that is not for dcsync to mend."""
    hours = expected.late_by(now) / timedelta(hours=1)
    by = f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"
    why = "its job still runs" if expected.stage is Stage.SLOW else "there is no job for it"
    message = f"the extract of {expected.queued_at:%Y-%m-%d %H:%M}Z ({_named(request)}) is {by} late upstream: {why}"
    return Concern(
        account=account,
        code="L-SLOW" if expected.stage is Stage.SLOW else "L-LATE",
        subject=request.id,
        message=message,
        hint="dcsync looks for it at every poll; see the data request in Autodesk's Data Connector",
    )


def of_the_token(account: str, token: Attention) -> Concern:
    """Return that a login is needed, or when one will be."""
    return Concern(account=account, code=token.code, message=token.message, hint="sign in again: dcsync login")


def failed_upstream(account: str, request: DataRequest, job: Job) -> Concern:
    """Return that the newest extract failed at Autodesk's: there is nothing to mirror of it."""
    return Concern(
        account=account,
        code="L-FAILED",
        subject=request.id,
        message=f"the extract of {job.created_at:%Y-%m-%d %H:%M}Z ({_named(request)}) failed upstream: it has no files",
        hint="run the data request again in Autodesk's Data Connector, or wait for its next time",
        kind=EventKind.FAILURE,
    )


def inactive(account: str, request: DataRequest) -> Concern:
    """Return that a request that was mirrored gives no more extracts."""
    return Concern(
        account=account,
        code="L-INACTIVE",
        subject=request.id,
        message=f"the data request {_named(request)} was set inactive: no new extracts come of it",
        hint="activate it again in Autodesk's Data Connector, or leave it out with [[account]] requests",
    )


def gone(account: str, request: DataRequest) -> Concern:
    """Return that a request that was mirrored is not in the list any more."""
    return Concern(
        account=account,
        code="L-GONE",
        subject=request.id,
        message=f"the data request {_named(request)} is not visible any more: deleted, or the permission is gone",
        hint="what is mirrored of it stays; check the user's role and the data request in Autodesk's Data Connector",
    )


def given_up(account: str, run: HookRun) -> Concern:
    """Return that a hook failed as often as it is tried."""
    return Concern(
        account=account,
        code=hooks.CODE,
        subject=run.argv[0],
        message=f"the hook {run.argv[0]} failed for {run.kind.value} {run.job or ''}".strip() + f": {run.error}",
        hint=hooks.advice(run),
    )


def _named(request: DataRequest) -> str:
    return request.description or request.id
