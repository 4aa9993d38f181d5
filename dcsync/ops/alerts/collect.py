"""What is amiss, in words: from what a run met, and from what should have come and did not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from dcsync.core.alerts import Alert, AlertCode
from dcsync.core.freshness import Expectation, Stage
from dcsync.core.lifecycle import OPEN, JobState, nears_expiry
from dcsync.core.model import DataRequest, Job, RequestId
from dcsync.core.ports import KnownJob, KnownRequest
from dcsync.manifest import HookRun
from dcsync.ops.alerts import hooks
from dcsync.ops.context import AccountSettings
from dcsync.ops.mirroring.run import AccountOutcome
from dcsync.ops.status import Attention

#: Alerts that only a poll that worked can resolve.
OF_A_POLL = frozenset({AlertCode.L_LATE, AlertCode.L_SLOW})


def of_a_run(outcome: AccountOutcome) -> list[Alert]:
    """Return what stopped an account's part of a run."""
    return [] if outcome.error is None else [Alert.of_error(outcome.error, account=outcome.account.name)]


def of_jobs(
    outcome: AccountOutcome, jobs: Iterable[KnownJob], requests: Mapping[RequestId, KnownRequest], now: datetime
) -> list[Alert]:
    """Return the jobs that failed and wait to be tried again, and those whose extract will be deleted upstream.

    Of all jobs that are known: one that this run did not try, or did not get to, is no better off than before it.
    """
    name, alerts = outcome.account.name, []
    hints = {failed.job: failed.hint for failed in outcome.failed}
    for known in jobs:
        job, code = known.job, known.reason_code
        if known.state not in OPEN or not _is_mirrored(outcome.account, known, requests):
            continue
        if known.state is JobState.FAILED and code is not None:
            alerts.append(
                Alert.of(
                    AlertCode.parse(code),
                    account=name,
                    subject=job.id,
                    message=f"job {job.id} cannot be mirrored: {known.reason}",
                    hint=hints.get(job.id, ""),
                    may_pass=True,
                )
            )
        if nears_expiry(job.completed_at, now):
            alerts.append(
                Alert.of(
                    AlertCode.L_EXPIRING,
                    account=name,
                    subject=job.id,
                    message=f"job {job.id} is not mirrored yet, and Autodesk deletes its extract 30 days after it was "
                    "completed",
                )
            )
    return alerts


def _is_mirrored(account: AccountSettings, known: KnownJob, requests: Mapping[RequestId, KnownRequest]) -> bool:
    request = requests.get(known.job.request_id)
    completed, start = known.job.completed_at, account.start
    return (
        request is not None
        and account.wants_request(request)
        and (start is None or completed is None or completed >= start)
    )


def late(account: str, request: DataRequest, expected: Expectation, now: datetime) -> Alert:
    """Return that an extract is not there upstream: that is not for dcsync to mend."""
    hours = expected.late_by(now) / timedelta(hours=1)
    by = f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"
    why = "its job still runs" if expected.stage is Stage.SLOW else "there is no job for it"
    message = f"the extract of {expected.queued_at:%Y-%m-%d %H:%M}Z ({_named(request)}) is {by} late upstream: {why}"
    code = AlertCode.L_SLOW if expected.stage is Stage.SLOW else AlertCode.L_LATE
    return Alert.of(code, account=account, subject=request.id, message=message)


def of_the_token(account: str, token: Attention) -> Alert:
    """Return that a login is needed, or when one will be."""
    return Alert.of(AlertCode.parse(token.code), account=account, message=token.message)


def failed_upstream(account: str, request: DataRequest, job: Job) -> Alert:
    """Return that the newest extract failed at Autodesk's: there is nothing to mirror of it."""
    return Alert.of(
        AlertCode.L_FAILED,
        account=account,
        subject=request.id,
        message=f"the extract of {job.created_at:%Y-%m-%d %H:%M}Z ({_named(request)}) failed upstream: it has no files",
    )


def inactive(account: str, request: DataRequest) -> Alert:
    """Return that a request that was mirrored gives no more extracts."""
    return Alert.of(
        AlertCode.L_INACTIVE,
        account=account,
        subject=request.id,
        message=f"the data request {_named(request)} was set inactive: no new extracts come of it",
    )


def gone(account: str, request: DataRequest) -> Alert:
    """Return that a request that was mirrored is not in the list any more."""
    return Alert.of(
        AlertCode.L_GONE,
        account=account,
        subject=request.id,
        message=f"the data request {_named(request)} is not visible any more: deleted, or the permission is gone",
    )


def given_up(account: str, run: HookRun) -> Alert:
    """Return that a hook failed as often as it is tried."""
    return Alert.of(
        AlertCode.H_FAILED,
        account=account,
        subject=run.argv[0],
        message=f"the hook {run.argv[0]} failed for {run.kind.value} {run.job or ''}".strip() + f": {run.error}",
        hint=hooks.advice(run),
    )


def _named(request: DataRequest) -> str:
    return request.description or request.id
