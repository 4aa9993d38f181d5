"""Notifications through apprise, and the heartbeat that a mirror without problems sends."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """The outcome of a message to one address. A message that the service accepted has no `error`."""

    #: The address's position in the list, from 1, and its kind of service. The address itself is a secret.
    number: int
    service: str
    error: str | None


async def send(urls: Sequence[str], events: Sequence[Event]) -> bool:
    """Send one message about these events to each address. Returns whether all were accepted. Never raises.

    The log names only the kind of service and its position in the list.
    """
    outcomes = await deliver(urls, events)
    for outcome in outcomes:
        if outcome.error is not None:
            log.warning(
                "notification not sent",
                service=outcome.service,
                number=outcome.number,
                error=outcome.error,
                hint="dcsync notify --test",
                in_result="notify",
            )
    return all(outcome.error is None for outcome in outcomes)


async def deliver(urls: Sequence[str], events: Sequence[Event]) -> list[Delivery]:
    """Send one message about these events to each address. Never raises. No error contains a part of an address."""
    import apprise

    title, body = message(events)
    severity = apprise.NotifyType.INFO
    if any(event.kind in {EventKind.FAILURE, EventKind.ALERT} for event in events):
        severity = apprise.NotifyType.WARNING
    outcomes = []
    for number, url in enumerate(urls, 1):
        error = None
        with _reasons() as reasons:
            try:
                one = apprise.Apprise()
                async with asyncio.timeout(_MESSAGE_S):
                    if not one.add(url):
                        error = "apprise does not know this form of address"
                    elif not await one.async_notify(title=title, body=body, notify_type=severity):
                        error = without_address("; ".join(reasons), url) or "the service did not accept it"
            except TimeoutError:
                error = f"no answer after {_MESSAGE_S:.0f} s"
            except Exception as unexpected:  # noqa: BLE001 - plugins of another library: they must not stop dcsync
                error = type(unexpected).__name__
        outcomes.append(Delivery(number=number, service=service_of(url), error=error))
    return outcomes


class _Collector(logging.Handler):
    """Keeps the text of warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.reasons: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.reasons.append(record.getMessage().strip())


@contextmanager
def _reasons() -> Iterator[list[str]]:
    """Collect the warnings of apprise, which reports the reason of a failure only there. None reaches the log."""
    logger, collector = logging.getLogger("apprise"), _Collector()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(collector)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield collector.reasons
    finally:
        logger.removeHandler(collector)
        logger.setLevel(level)
        logger.propagate = propagate


def without_address(text: str, url: str) -> str:
    """Return text without any word of three or more characters of an address. Only its scheme may stay."""
    _, has_scheme, rest = unquote(url).partition("://")
    words = set(re.findall(r"[^\W_]{3,}", rest if has_scheme else unquote(url)))
    for word in sorted(words, key=len, reverse=True):
        text = re.sub(re.escape(word), "…", text, flags=re.IGNORECASE)
    return text


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


def service_of(url: str) -> str:
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
