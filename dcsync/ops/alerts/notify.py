"""Notifications through apprise, and the heartbeat that a mirror without problems sends."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

import aiohttp
import structlog

from dcsync.core.events import Event, EventKind
from dcsync.core.extras import install_hint
from dcsync.errors import ConfigError
from dcsync.network import DIRECT, EXCHANGE_ERRORS, Network

log = structlog.get_logger(__name__)

_HEARTBEAT_S = 10.0
_MESSAGE_S = 60.0
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,20}")
_MARKS = {
    EventKind.SNAPSHOT: "new snapshot",
    EventKind.FAILURE: "failure",
    EventKind.ALERT: "alert",
    EventKind.RECOVERED: "recovered",
}


def check_installed() -> None:
    """Raise `ConfigError` if apprise is not installed: better at the start than at the first notification."""
    try:
        import apprise  # noqa: F401
    except ImportError:
        message = "[notify] urls needs the package apprise, which is not installed"
        raise ConfigError(message, hint=install_hint("notify")) from None


async def send(urls: Sequence[str], events: Sequence[Event]) -> bool:
    """Send one message about these events to each address. Returns whether all were accepted. Never raises.

    The addresses are secrets, so the log names only the kind of service and its position in the list.
    """
    import apprise

    title, body = message(events)
    severity = apprise.NotifyType.INFO
    if any(event.kind in {EventKind.FAILURE, EventKind.ALERT} for event in events):
        severity = apprise.NotifyType.WARNING
    delivered = True
    for number, url in enumerate(urls, 1):
        service = _service(url)
        try:
            one = apprise.Apprise()
            async with asyncio.timeout(_MESSAGE_S):
                sent = one.add(url) and await one.async_notify(title=title, body=body, notify_type=severity)
        except Exception as error:  # noqa: BLE001 - plugins of another library: a failed message must not stop dcsync
            log.warning("notification not sent", service=service, number=number, kind=type(error).__name__)
            delivered = False
            continue
        if not sent:
            log.warning("notification not sent", service=service, number=number, hint="dcsync notify --test")
            delivered = False
    return delivered


def message(events: Sequence[Event]) -> tuple[str, str]:
    """Return title and body of one message about these events."""
    first = events[0]
    where = first.account or "the mirror"
    title = f"dcsync: {where}: {_MARKS[first.kind]}"
    if len(events) > 1:
        title += f" and {len(events) - 1} more"
    lines = []
    for event in events:
        code = f" [{event.code}]" if event.code else ""
        lines.append(f"{_MARKS[event.kind]}: {event.message}{code}")
        if event.hint:
            lines.append(f"  do: {event.hint}")
    return title, "\n".join(lines)


def _service(url: str) -> str:
    """Return the kind of service, which is not secret. A text that is not an address may be a secret as a whole."""
    scheme, found, _ = url.partition("://")
    return scheme.lower() if found and _SCHEME.fullmatch(scheme) else "unknown"


async def send_heartbeat(url: str, network: Network = DIRECT) -> bool:
    """Request the heartbeat URL, which is a secret. Returns whether the service accepted it. Never raises."""
    timeout = aiohttp.ClientTimeout(total=_HEARTBEAT_S)
    try:
        async with (
            aiohttp.ClientSession(
                connector=network.connector(), cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout
            ) as session,
            session.get(
                url, headers=network.plain_headers(url), allow_redirects=False, **network.route(url)
            ) as response,
        ):
            # Redirects are not followed: the heartbeat would reach another service than the configured one.
            is_accepted = 200 <= response.status < 300
            if not is_accepted:
                log.warning("heartbeat request failed", status=response.status)
            return is_accepted
    except EXCHANGE_ERRORS as error:
        # Only the hint: the reason names the host, which may be part of the secret.
        hint = network.explain(error, url).hint
        log.warning("heartbeat request failed", kind=type(error).__name__, **({} if hint is None else {"hint": hint}))
        return False
