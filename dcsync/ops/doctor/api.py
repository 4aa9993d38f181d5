"""The checks of `doctor` that ask the remote side: a connection, one call for the hubs, one or two for each account."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from dcsync.api.client import DataConnector, ListOptions
from dcsync.api.limiter import Limiter
from dcsync.api.reach import reach
from dcsync.core.model import DataRequest, Hub
from dcsync.core.names import printable
from dcsync.core.ports import KnownRequest
from dcsync.errors import AccessRefused, ApiError, ApiUnreachable, DcsyncError
from dcsync.ops.context import AccountSettings
from dcsync.ops.doctor.checks import Check, CheckList, Level, failed, ok, skipped, warned

T = TypeVar("T")

#: A person waits; a pause that the API asked for, or the retries of an outage, may take far longer.
PATIENCE_S = 60.0
#: From here on a 60 s URL or a 300 s assertion is at risk (API §6), and from `MAX_SKEW_S` of the transport it fails.
WARN_SKEW_S, FAIL_SKEW_S = 20.0, 120.0
#: Names of what is checked for each account.
OF_ACCOUNT = ("account", "permission", "requests")


async def network(base_url: str) -> Check:
    """Check the name, the connection, and TLS."""
    reached = await reach(base_url)
    tls = reached.tls or "no TLS, which only this machine may do without"
    return ok("network", f"{base_url} is {reached.address}, port {reached.port}, {tls}")


async def examine_api(
    checks: CheckList, api: DataConnector, limiter: Limiter, accounts: Sequence[AccountSettings]
) -> None:
    """Add the checks of an open API, in order."""
    hubs: Sequence[Hub] | None = None
    answered = True
    try:
        hubs = await patient(api.hubs())
        checks.add(ok("api", f"it answers; this user sees {_count(len(hubs), 'hub')}"))
    except DcsyncError as error:
        checks.add(failed("api", error))
        # A refusal of the hubs alone says little of the accounts; without an answer, or a token, there is no more.
        answered = isinstance(error, ApiError) and error.status is not None and not error.transient
    checks.add(clock(api.skew_s))
    for account in accounts:
        if answered:
            await _examine_account(checks, api, account, hubs)
        else:
            skip_account(checks, account)
    await checks.take("quota", _quota(limiter))


def skip_account(checks: CheckList, account: AccountSettings) -> None:
    """Add an account's checks as skipped."""
    checks.add(*(skipped(f"{name}.{account.name}", "needs api") for name in OF_ACCOUNT))


def clock(skew_s: float | None) -> Check:
    """Judge how far this machine's clock is ahead of the API's."""
    if skew_s is None:
        return skipped("clock", "no answer with a date came")
    # Whole seconds, and the answer took its time.
    if abs(skew_s) <= WARN_SKEW_S:
        return ok("clock", f"within {max(1, round(abs(skew_s)))} s of the API's")
    message = f"this machine's clock is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} the API's"
    level = Level.FAIL if abs(skew_s) > FAIL_SKEW_S else Level.WARN
    return Check(name="clock", level=level, message=message, advice="let NTP set the clock: timedatectl set-ntp true")


async def _examine_account(
    checks: CheckList, api: DataConnector, account: AccountSettings, hubs: Sequence[Hub] | None
) -> None:
    allowed = await _permission(api, account)
    checks.add(visible(account, hubs, allowed=allowed.level is Level.OK), allowed)
    name = f"requests.{account.name}"
    if allowed.level is Level.OK:
        await checks.take(name, _requests(api, account))
    else:
        checks.add(skipped(name, f"needs {allowed.name}"))


async def _permission(api: DataConnector, account: AccountSettings) -> Check:
    name = f"permission.{account.name}"
    try:
        # What a run asks first. A project administrator sees what is of a project, and must name it (API §1).
        for project in account.projects or (None,):
            await patient(api.jobs(account.id, ListOptions(limit=1, project_id=project)))
    except DcsyncError as error:
        return failed(name, error)
    of = f" of {_count(len(account.projects), 'project')}" if account.projects else ""
    return ok(name, f"its jobs{of} may be read")


async def _requests(api: DataConnector, account: AccountSettings) -> Check:
    try:
        return requests_of(account, await patient(api.requests(account.id)))
    except AccessRefused as error:
        # A run asks for them only to name the folders, and goes on without.
        message = f"the data requests cannot be read: {error.message}"
        return warned(f"requests.{account.name}", message, error.advice)


def visible(account: AccountSettings, hubs: Sequence[Hub] | None, *, allowed: bool) -> Check:
    """Judge whether an account is among the hubs. `allowed`: its jobs can be read, so it does no harm if it is not."""
    name = f"account.{account.name}"
    if hubs is None:
        return skipped(name, "needs api")
    for hub in hubs:
        if hub.id.removeprefix("b.").lower() == account.id:
            region = f" ({hub.region})" if hub.region else ""
            return ok(name, f"{printable(hub.name)}{region} is visible")
    message = f"{account.id} is not among the {_count(len(hubs), 'hub')} that this user sees"
    if allowed:
        return warned(name, message, "nothing, as its jobs can be read; compare its id with `dcsync accounts`")
    advice = f"compare [[account]] id with `dcsync accounts`; else {AccessRefused.hint}"
    return failed(name, AccessRefused(message, hint=advice))


def requests_of(account: AccountSettings, requests: Sequence[DataRequest]) -> Check:
    """Judge the data requests that can be seen of an account."""
    name = f"requests.{account.name}"
    if not requests:
        advice = "make a data request as this user: only those that the user itself created are ever shown"
        return warned(name, "there are no data requests to be seen", advice)
    wanted = [request for request in requests if account.wants_request(_known(request))]
    told = f"{_count(len(requests), 'data request')} can be seen"
    if not wanted:
        patterns = ", ".join(printable(pattern) for pattern in account.requests)
        return warned(name, f"{told}, none of which is in requests = [{patterns}]", "correct [[account]] requests")
    if len(wanted) < len(requests):
        told = f"{told}, {len(wanted)} of them wanted"
    resting = sorted(printable(request.description or request.id) for request in wanted if request.is_active is False)
    if resting:
        message = f"{told}; {len(resting)} inactive: {', '.join(resting[:5])}{', …' if len(resting) > 5 else ''}"
        return warned(name, message, "no new extracts come of them: activate them, or leave them out of requests")
    return ok(name, told)


async def _quota(limiter: Limiter) -> Check:
    left = await limiter.left()
    message = f"{left} of {limiter.limit} calls of this minute are left"
    if left == 0:
        advice = "wait a minute; if it stays so, other programs use this client id, or api.requests_per_minute is low"
        return warned("quota", message, advice)
    return ok("quota", message)


async def patient(work: Awaitable[T], *, patience_s: float = PATIENCE_S) -> T:
    """Return what a call brings, or give up on it: `ApiUnreachable`."""
    try:
        async with asyncio.timeout(patience_s):
            return await work
    except TimeoutError:
        message = f"the API gave no answer within {patience_s:.0f} s"
        raise ApiUnreachable(message, hint="it is slow, or asked for a pause (see quota); try again later") from None


def _known(request: DataRequest) -> KnownRequest:
    return KnownRequest(id=request.id, description=request.description, slug="", is_delta=request.is_delta)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
