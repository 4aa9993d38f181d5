"""The check of `doctor` for the data requests of an account, and the commands that repair them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from urllib.parse import urlsplit

from dcsync.core import remedies
from dcsync.core.freshness import ENDS_SOON
from dcsync.core.model import DataRequest
from dcsync.core.names import printable
from dcsync.core.ports import KnownRequest
from dcsync.core.schedule import runs_once
from dcsync.ops.context import AccountSettings
from dcsync.ops.doctor.checks import Check, ok, warned

_SHOWN = 5
_RETIRED = "if they are over on purpose, name them in [[account]] retired"


def requests_of(
    account: AccountSettings, requests: Sequence[DataRequest], now: datetime, *, secret: str | None = None
) -> Check:
    """Check the visible data requests of an account. `secret` is that of the daemon's callbacks, if it listens."""
    name = f"requests.{account.name}"
    if not requests:
        advice = f"create a data request as this user: {remedies.CREATE}. Each user sees only data requests that the "
        return warned(name, "no data requests are visible", f"{advice}user itself created")
    wanted = [request for request in requests if account.wants_request(_known(request))]
    described = f"{_count(len(requests))} visible"
    if not wanted:
        patterns = ", ".join(printable(pattern) for pattern in account.requests)
        return warned(name, f"{described}, none of them in requests = [{patterns}]", "correct [[account]] requests")
    if len(wanted) < len(requests):
        described = f"{described}, {len(wanted)} of them mirrored"
    scheduled = [each for each in wanted if not account.is_retired(_known(each)) and not runs_once(each)]
    found = [*_schedules(scheduled, now), *_callbacks(scheduled, secret)]
    if not found:
        return ok(name, described)
    message = "; ".join([described, *(problem for problem, _ in found)])
    return warned(name, message, "\n".join(advice for _, advice in found))


def _schedules(requests: Sequence[DataRequest], now: datetime) -> list[tuple[str, str]]:
    """Return the problems of schedules, each with its advice."""
    inactive = [each for each in requests if each.is_active is False]
    running = [each for each in requests if each.is_active is not False]
    ended = [each for each in running if each.effective_to is not None and each.effective_to <= now]
    ending = [each for each in running if each.effective_to is not None and now < each.effective_to <= now + ENDS_SOON]
    found = []
    if inactive:
        commands = _commands([remedies.activate(each.id) for each in inactive])
        advice = f"they produce no new extracts: {commands}, or {_RETIRED}"
        found.append((f"{len(inactive)} inactive: {_names(inactive)}", advice))
    if ended:
        advice = f"their schedules have ended: {_commands([remedies.extend(each.id) for each in ended])}, or {_RETIRED}"
        found.append((f"{len(ended)} ended: {_names(ended)}", advice))
    if ending:
        advice = f"extend the schedules before they end: {_commands([remedies.extend(each.id) for each in ending])}"
        found.append((f"{len(ending)} to end within {ENDS_SOON.days} days: {_names(ending)}", advice))
    return found


def _callbacks(requests: Sequence[DataRequest], secret: str | None) -> list[tuple[str, str]]:
    """Return the problem of the callbacks, if there is one. Only another callback tells this machine's public name."""
    if secret is None:
        return []
    hosts = {each.id: _host_of(each) for each in requests}
    known = {host for host in hosts.values() if host is not None}
    wrong = [each for each in requests if hosts[each.id] is not None and not _ends_with(each, secret)]
    right = sorted(known - {hosts[each.id] for each in wrong}) or sorted(known)
    missing = [each for each in requests if each.callback_url is None] if known else []
    if not wrong and not missing:
        return []
    commands = [remedies.set_callback(each.id, hosts[each.id] or right[0]) for each in (*wrong, *missing)]
    problem = f"{len(wrong)} with a callback of another mirror: {_names(wrong)}" if wrong else ""
    lacking = f"{len(missing)} without the callback that others have: {_names(missing)}" if missing else ""
    advice = f"the daemon learns of their extracts only at the next poll: {_commands(commands)}"
    return [("; ".join(filter(None, (problem, lacking))), advice)]


def _host_of(request: DataRequest) -> str | None:
    """Return the host of a callback to a dcsync daemon."""
    url = urlsplit(request.callback_url or "")
    return url.netloc if "/callback/" in url.path and url.hostname and url.netloc == url.hostname else None


def _ends_with(request: DataRequest, secret: str) -> bool:
    return urlsplit(request.callback_url or "").path.endswith(f"/callback/{secret}")


def _commands(commands: Sequence[str]) -> str:
    return ", ".join(commands[:_SHOWN]) + (", …" if len(commands) > _SHOWN else "")


def _names(requests: Sequence[DataRequest]) -> str:
    names = sorted(printable(request.description or request.id) for request in requests)
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _known(request: DataRequest) -> KnownRequest:
    return KnownRequest(id=request.id, description=request.description, slug="", is_delta=request.is_delta)


def _count(number: int) -> str:
    return f"{number} data request" if number == 1 else f"{number} data requests"
