"""What is amiss, in words: from what a run met, and from what should have come and did not."""

from __future__ import annotations

from datetime import datetime, timedelta

from dcsync.core.lifecycle import JobState
from dcsync.core.model import DataRequest
from dcsync.core.notices import Concern, EventKind
from dcsync.core.schedule import Expectation, Stage
from dcsync.manifest import HookRun
from dcsync.ops import hooks
from dcsync.ops.sync import AccountOutcome


def of_a_run(outcome: AccountOutcome) -> list[Concern]:
    """Return what a run met: what stopped the account, jobs that failed, extracts that will be deleted upstream."""
    name, concerns = outcome.account.name, []
    if outcome.error is not None:
        error = outcome.error
        concerns.append(
            Concern(
                account=name,
                code=error.code,
                message=error.message,
                hint=error.advice,
                passing=error.transient,
                kind=EventKind.FAILURE if error.transient else EventKind.ATTENTION,
            )
        )
    concerns += [
        Concern(
            account=name,
            code=failed.code,
            subject=failed.job,
            message=f"job {failed.job} cannot be mirrored: {failed.message}",
            hint=failed.hint,
            passing=True,
            kind=EventKind.FAILURE,
        )
        for failed in outcome.failed
        if failed.state is JobState.FAILED
    ]
    concerns += [
        Concern(
            account=name,
            code="L-EXPIRING",
            subject=job,
            message=f"job {job} is not mirrored yet, and the server deletes its extract 30 days after it was made",
            hint="see dcsync status for what holds it up",
        )
        for job in outcome.expiring
        if job not in {published.job for published in outcome.published}
    ]
    return concerns


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
        hint=f"mend it, then: dcsync hooks rerun {run.job or ''}".strip(),
    )


def _named(request: DataRequest) -> str:
    return request.description or request.id
