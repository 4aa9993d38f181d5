"""The log: structlog and the standard library in one stream, one event a line, secrets redacted as a second net."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Protocol

import structlog
from structlog.typing import EventDict, WrappedLogger

#: Keys whose values are secrets whatever they look like.
_SECRET_KEY = re.compile(r"token|secret|password|passwd|authorization|assertion|signature|private_key", re.IGNORECASE)
#: Keys that only sound like it: facts about tokens.
#: What structlog's ProcessorFormatter puts in, and takes out before rendering.
_FORMATTERS_OWN = frozenset({"_record", "_from_structlog"})
_HARMLESS_KEYS = frozenset({"token_method", "token_expires_at"})
_URL_QUERY = re.compile(r"(https?://[^\s?#'\"<>]*)\?[^\s'\"<>]*", re.IGNORECASE)
_USER = re.compile(r"(https?://)[^\s/?#@'\"<>]*@", re.IGNORECASE)
# The user of a database is told, the password is not.
_DATABASE = re.compile(r"(postgres(?:ql)?://[^\s/?#@:'\"<>]*:)[^\s/?#@'\"<>]*@", re.IGNORECASE)
# A key that names a secret, then its value: in quotes of any kind (also escaped ones, JSON within JSON) up to where
# they close, else up to the next blank. A comma may be part of it.
_QUOTE = re.compile(r"""\\?["']""")
_PAIR = re.compile(
    r"""(?ix)\b(x-amz-[a-z0-9-]+|awsaccesskeyid|signature|sig|(?:access_|refresh_|id_)?token|client_secret|secret
    |(?:client_)?assertion|code_verifier|private_key|authorization|code|password|passwd)
    (\\?["']?\s*[=:]\s*)
    (\\"(?:(?!\\").)*|"(?:\\.|[^"\\])*|'[^']*|(?:(?:basic|bearer|token)\s+)?[^\s&;"'}\])]+)"""
)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}")
# Three parts in base64url, the first of which begins as JSON does.
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]*")


class Stream(Protocol):
    """Where the log goes."""

    def write(self, text: str, /) -> object:
        """Write text."""

    def flush(self) -> None:
        """Write it out."""

    def isatty(self) -> bool:
        """Say whether a person reads it."""


def redact(text: str) -> str:
    """Return text without what looks like a secret: queries of URLs, bearer tokens, JWTs, pairs that name one."""
    text = _USER.sub(r"\1…@", text)
    text = _DATABASE.sub(r"\1…@", text)
    text = _URL_QUERY.sub(r"\1?…", text)
    text = _BEARER.sub(r"\1 …", text)
    text = _JWT.sub("…", text)
    return _PAIR.sub(_without_value, text)


def _without_value(pair: re.Match[str]) -> str:
    quote = _QUOTE.match(pair[3])
    return f"{pair[1]}{pair[2]}{quote[0] if quote else ''}…"


def configure(level: str, form: str, *, stream: Stream) -> None:
    """Set up the log. `form` is `console`, `json`, or `auto`: console where a person reads it, else JSON lines."""
    as_console = form == "console" or (form == "auto" and stream.isatty())
    shared: list[Callable[[WrappedLogger, str, EventDict], Mapping[str, Any]]] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # Text, not structures: no renderer that would show the locals of a frame, which hold tokens.
        structlog.processors.format_exc_info,
        _redact_event,
    ]
    renderer = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if as_console
        else structlog.processors.JSONRenderer(_json_line, default=str)
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _redact_event,
            *([_escape_event] if as_console else []),
            renderer,
        ],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Their debug and info lines show whole requests.
    for name in ("aiohttp", "apscheduler", "asyncio", "sqlalchemy", "aiosqlite", "stamina", "alembic", "tenacity"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # stamina announces each retry with the arguments of what it retries, a URL among them.
    logging.getLogger("stamina").setLevel(logging.ERROR)
    # apprise shows an address that it cannot read, and the secret in it; urllib3, which it uses, the path of each one.
    logging.getLogger("apprise").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    # What the queue and the driver meet is told by us, once; each of their workers and pools would say it again.
    for name in ("procrastinate", "psycopg"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _json_line(event: EventDict, **options: Any) -> str:  # noqa: ANN401 - passed on
    """Return JSON that can be read, with an escape for whatever breaks a line or that a terminal obeys (S10)."""
    text = json.dumps(event, ensure_ascii=False, **options)
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _redact_event(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for key, value in list(event.items()):
        event[key] = _redacted(key, value)
    return event


def _redacted(key: str, value: object) -> object:
    if key in _FORMATTERS_OWN or value is None or isinstance(value, bool | int | float | datetime | Enum):
        return value
    if _SECRET_KEY.search(key) and key not in _HARMLESS_KEYS:
        return "***"
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(str(inner)): _redacted(str(inner), item) for inner, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(key, item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _redacted(field.name, getattr(value, field.name)) for field in fields(value) if field.repr}
    if isinstance(value, BaseException):
        return redact(f"{type(value).__name__}: {value}")
    # A URL, a path, bytes, anything: as text, like the rest.
    return redact(value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value))


def _escape_event(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Keep one event on one line: a name with a line break or a terminal's command must not write its own (S10)."""
    for key, value in event.items():
        if isinstance(value, str) and key not in {"exception", "stack"}:
            event[key] = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)
    return event
