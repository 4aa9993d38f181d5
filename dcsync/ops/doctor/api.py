"""The checks of `doctor` that call the API: one connection, one call for the hubs, one or two for each account."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from datetime import datetime
from typing import TypeVar
from urllib.parse import urlsplit

from dcsync.api.client import DataConnector
from dcsync.api.limiter import Limiter
from dcsync.api.reach import reach
from dcsync.core.model import Hub
from dcsync.core.names import printable
from dcsync.errors import AccessRefused, ApiError, ApiUnreachable, DcsyncError
from dcsync.network import Network
from dcsync.ops.context import AccountSettings
from dcsync.ops.doctor.checks import Check, CheckList, Level, failed, ok, skipped, warned
from dcsync.ops.doctor.data_requests import requests_of
from dcsync.ops.project_lists import data_requests, newest_jobs

T = TypeVar("T")

#: The user is waiting. A pause that the API asked for, or retries in an outage, can take far longer.
PATIENCE_S = 60.0
#: From here on a 60 s URL or a 300 s assertion is at risk (docs/project/api.md §6), and from `MAX_SKEW_S` it fails.
WARN_SKEW_S, FAIL_SKEW_S = 20.0, 120.0
#: Signed URLs name hosts of this form (docs/project/api.md §4).
_ANY_STORAGE = "https://bucket.s3.amazonaws.com/"
#: The checks of each account.
OF_ACCOUNT = ("account", "permission", "requests")


def proxy(network: Network, base_url: str, *, heartbeat: str | None) -> Check:
    """Say which proxy each host is contacted through. The heartbeat's address is a secret, and is only described."""
    uses: dict[str | None, list[str]] = {}
    hosts = [(urlsplit(base_url).hostname or base_url, base_url), ("the storage", _ANY_STORAGE)]
    for shown, url in hosts if heartbeat is None else [*hosts, ("the heartbeat", heartbeat)]:
        found = network.proxies.for_url(url)
        uses.setdefault(None if found is None else found.shown, []).append(shown)
    if set(uses) == {None}:
        return ok("proxy", "none: dcsync contacts all hosts directly")
    described = (f"{name or 'no proxy'} for {', '.join(shown)}" for name, shown in uses.items())
    exceptions = printable(", ".join(network.proxies.exceptions), 200)
    return ok("proxy", "; ".join(described) + (f"; NO_PROXY: {exceptions}" if exceptions else ""))


async def network(base_url: str, used: Network) -> Check:
    """Check the name, the connection, the proxy, and TLS."""
    reached = await reach(base_url, network=used)
    tls = reached.tls or "without TLS (allowed on loopback only)"
    through = used.proxies.for_url(base_url)
    way = f"at {reached.address}, port {reached.port}" if through is None else f"through the proxy {through.shown}"
    return ok("network", f"connected to {base_url} {way}, {tls}")


async def examine_api(
    checks: CheckList,
    api: DataConnector,
    limiter: Limiter,
    accounts: Sequence[AccountSettings],
    *,
    now: datetime,
    secret: str | None = None,
) -> None:
    """Add the checks of an open API, in order. `secret` is that of the daemon's callbacks, if it listens for any."""
    hubs: Sequence[Hub] | None = None
    answered = True
    try:
        warnings: list[str] = []
        hubs = await patient(api.hubs(on_warning=warnings.append))
        checks.add(_hubs_check(hubs, warnings))
    except DcsyncError as error:
        checks.add(failed("api", error))
        # The accounts may work even if the hubs are refused. Without an answer or a token, nothing works.
        answered = isinstance(error, ApiError) and error.status is not None and not error.transient
    checks.add(clock(api.skew_s))
    for account in accounts:
        if answered:
            await _examine_account(checks, api, account, hubs, now, secret)
        else:
            skip_account(checks, account)
    await checks.take("quota", _quota(limiter))


def _hubs_check(hubs: Sequence[Hub], warnings: Sequence[str]) -> Check:
    message = f"the API answers; this user can see {_count(len(hubs), 'hub')}"
    if not warnings:
        return ok("api", message)
    lines = (f"Autodesk could not list all hubs: {warning}" for warning in warnings)
    advice = "nothing, if the accounts below are visible. Otherwise try again later"
    return warned("api", "\n".join((message, *lines)), advice)


def skip_account(checks: CheckList, account: AccountSettings) -> None:
    """Add an account's checks as skipped."""
    checks.add(*(skipped(f"{name}.{account.name}", "needs api") for name in OF_ACCOUNT))


def clock(skew_s: float | None) -> Check:
    """Check the difference between this machine's clock and that of the API."""
    if skew_s is None:
        return skipped("clock", "no answer had a date")
    # The date has whole seconds, and the answer took some time.
    if abs(skew_s) <= WARN_SKEW_S:
        return ok("clock", f"within {max(1, round(abs(skew_s)))} s of the API's")
    message = f"this machine's clock is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} the API's"
    level = Level.FAIL if abs(skew_s) > FAIL_SKEW_S else Level.WARN
    return Check(name="clock", level=level, message=message, advice="let NTP set the clock: timedatectl set-ntp true")


async def _examine_account(
    checks: CheckList,
    api: DataConnector,
    account: AccountSettings,
    hubs: Sequence[Hub] | None,
    now: datetime,
    secret: str | None,
) -> None:
    allowed, can_read = await _permission(api, account)
    checks.add(visible(account, hubs, allowed=can_read), allowed)
    name = f"requests.{account.name}"
    if can_read:
        await checks.take(name, _requests(api, account, now, secret))
    else:
        checks.add(skipped(name, f"needs {allowed.name}"))


async def _permission(api: DataConnector, account: AccountSettings) -> tuple[Check, bool]:
    """Check that the jobs can be read. Returns also whether those of at least one project can."""
    name = f"permission.{account.name}"
    try:
        # The first call of a run. A project administrator has to name the project (docs/project/api.md §1).
        errors = (await patient(newest_jobs(api, account, 1))).errors
    except DcsyncError as error:
        return failed(name, error), False
    if errors:
        message = "\n".join(error.message for error in errors)
        advice = "\n".join(dict.fromkeys(error.advice for error in errors))
        status = errors[0].exit_status
        return Check(name=name, level=Level.FAIL, message=message, advice=advice, exit_status=status), True
    of = f" of {_count(len(account.projects), 'project')}" if account.projects else ""
    return ok(name, f"jobs{of} can be read"), True


async def _requests(api: DataConnector, account: AccountSettings, now: datetime, secret: str | None) -> Check:
    try:
        lists = await patient(data_requests(api, account))
        return requests_of(account, lists.entries, now, secret=secret)
    except AccessRefused as error:
        # A run uses data requests only to name the folders, and continues without them.
        message = f"the data requests cannot be read: {error.message}"
        return warned(f"requests.{account.name}", message, error.advice)


def visible(account: AccountSettings, hubs: Sequence[Hub] | None, *, allowed: bool) -> Check:
    """Check that an account is among the hubs. If its jobs can be read (`allowed`), a missing hub is only a warning."""
    name = f"account.{account.name}"
    if hubs is None:
        return skipped(name, "needs api")
    for hub in hubs:
        if hub.id.removeprefix("b.").lower() == account.id:
            region = f" ({hub.region})" if hub.region else ""
            return ok(name, f"{printable(hub.name)}{region} is visible")
    message = f"{account.id} is not among the {_count(len(hubs), 'hub')} that this user can see"
    if allowed:
        return warned(name, message, "nothing, because its jobs can be read; compare its id with `dcsync accounts`")
    advice = f"compare [[account]] id with `dcsync accounts`; otherwise {AccessRefused.hint}"
    return failed(name, AccessRefused(message, hint=advice))


async def _quota(limiter: Limiter) -> Check:
    left = await limiter.left()
    message = f"{left} of {limiter.limit} calls left in this minute"
    if left == 0:
        advice = (
            "wait a minute; if this stays, other programs use the same client ID, or api.requests_per_minute is too low"
        )
        return warned("quota", message, advice)
    return ok("quota", message)


async def patient(work: Awaitable[T], *, patience_s: float = PATIENCE_S) -> T:
    """Return the result of a call. Raises `ApiUnreachable` after `patience_s`."""
    try:
        async with asyncio.timeout(patience_s):
            return await work
    except TimeoutError:
        message = f"no answer from the API within {patience_s:.0f} s"
        raise ApiUnreachable(
            message, hint="the API is slow, or asked for a pause (see quota); try again later"
        ) from None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
