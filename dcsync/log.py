"""The log: structlog and the standard library in one stream, one event per line. Redaction is a second safety net."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Protocol

import structlog
from structlog.typing import EventDict, WrappedLogger

#: Keys whose values are always secrets.
_SECRET_KEY = re.compile(r"token|secret|password|passwd|authorization|assertion|signature|private_key", re.IGNORECASE)
#: Keys that structlog's ProcessorFormatter adds, and removes before rendering.
_FORMATTERS_OWN = frozenset({"_record", "_from_structlog"})
#: Keys that match the pattern and are only facts about tokens.
_HARMLESS_KEYS = frozenset({"token_method", "token_expires_at"})
_URL_QUERY = re.compile(r"(https?://[^\s?#'\"<>]*)\?[^\s'\"<>]*", re.IGNORECASE)
_USER = re.compile(r"(https?://)[^\s/?#@'\"<>]*@", re.IGNORECASE)
# A database's user is shown, its password is not.
_DATABASE = re.compile(r"(postgres(?:ql)?://[^\s/?#@:'\"<>]*:)[^\s/?#@'\"<>]*@", re.IGNORECASE)
# A key that names a secret, and its value. The value ends at the closing quote (also an escaped one, JSON in JSON) or,
# without quotes, at the next space. A comma can be part of it.
_QUOTE = re.compile(r"""\\?["']""")
_PAIR = re.compile(
    r"""(?ix)\b(x-amz-[a-z0-9-]+|awsaccesskeyid|signature|sig|(?:access_|refresh_|id_)?token|client_secret|secret
    |(?:client_)?assertion|code_verifier|private_key|authorization|code|password|passwd)
    (\\?["']?\s*[=:]\s*)
    (\\"(?:(?!\\").)*|"(?:\\.|[^"\\])*|'[^']*|(?:(?:basic|bearer|token)\s+)?[^\s&;"'}\])]+)"""
)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}")
# Three parts in base64url. The first one is a JSON object.
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]*")


class Stream(Protocol):
    """The output of the log."""

    def write(self, text: str, /) -> object:
        """Write text."""

    def flush(self) -> None:
        """Flush the output."""

    def isatty(self) -> bool:
        """Return whether the output is a terminal."""


def redact(text: str) -> str:
    """Return text without URL queries, bearer tokens, JWTs, and the values of keys that name a secret."""
    text = _USER.sub(r"\1…@", text)
    text = _DATABASE.sub(r"\1…@", text)
    text = _URL_QUERY.sub(r"\1?…", text)
    text = _BEARER.sub(r"\1 …", text)
    text = _JWT.sub("…", text)
    return _PAIR.sub(_without_value, text)


def _without_value(pair: re.Match[str]) -> str:
    quote = _QUOTE.match(pair[3])
    return f"{pair[1]}{pair[2]}{quote[0] if quote else ''}…"


#: The priorities of syslog by the level's name (sd-daemon(3)).
_PRIORITIES = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}


class _ForJournal(logging.Formatter):
    """Writes the priority before each line. The journal takes it off again (SyslogLevelPrefix= of systemd.exec(5))."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record."""
        prefix = f"<{_PRIORITIES.get(record.levelname, 6)}>"
        return "\n".join(prefix + line for line in self._inner.format(record).split("\n"))


def configure(level: str, form: str, *, stream: Stream, for_journal: bool = False, command: str | None = None) -> None:
    """Set up the log. `form` is `console`, `json`, or `auto`: console on a terminal, else JSON lines.

    With `for_journal`, each line begins with its priority, so that `journalctl -p warning` finds it. An event that the
    result of `command` tells is left out: the field `in_result` has the names of such commands.
    """
    as_console = form == "console" or (form == "auto" and stream.isatty())
    shared: list[Callable[[WrappedLogger, str, EventDict], Mapping[str, Any]]] = [
        _Untold(command),
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # As text: a renderer of structures would show the local variables of each frame, which contain tokens.
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
            *([_as_words, _escape_event] if as_console else []),
            renderer,
        ],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_ForJournal(formatter) if for_journal else formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Their debug and info lines show complete requests.
    for name in ("aiohttp", "apscheduler", "asyncio", "sqlalchemy", "aiosqlite", "stamina", "alembic", "tenacity"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # stamina logs each retry with the arguments of the retried function, such as a URL.
    logging.getLogger("stamina").setLevel(logging.ERROR)
    # apprise shows an address that it cannot parse, with the secret in it. urllib3, which it uses, shows paths.
    logging.getLogger("apprise").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    # dcsync reports the errors of the queue and the driver once. Each of their workers and pools would repeat them.
    for name in ("procrastinate", "psycopg"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _json_line(event: EventDict, **options: Any) -> str:  # noqa: ANN401 - passed on
    """Return readable JSON. Characters that break a line or control a terminal are escaped (faults.md, S10)."""
    text = json.dumps(event, ensure_ascii=False, **options)
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


class _Untold:
    """Drops the events of a command that are part of its result, so that they are shown once."""

    def __init__(self, command: str | None) -> None:
        self._command = command

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        if self._command in event.pop("in_result", "").split():
            raise structlog.DropEvent
        return event


def _redact_event(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Make each value plain, without secrets. A field without a value is left out."""
    for key, value in list(event.items()):
        if value is None:
            del event[key]
        else:
            event[key] = _redacted(key, value)
    return event


def _simplified(value: object) -> object:
    """Return the value of an enum, a time as ISO text, a span in seconds, and anything else as it is."""
    match value:
        case Enum():
            return value.value
        case datetime():
            return value.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"
        case timedelta():
            return value.total_seconds()
        case _:
            return value


def _redacted(key: str, value: object) -> object:
    value = _simplified(value)
    if key in _FORMATTERS_OWN or value is None or isinstance(value, bool | int | float):
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
    # Everything else, such as a URL, a path or bytes, is text.
    return redact(value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value))


def _as_words(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Show values as in JSON, where the renderer of the console would show them as in Python."""
    for key, value in event.items():
        if key not in _FORMATTERS_OWN and isinstance(value, bool | list | dict):
            event[key] = json.dumps(value, ensure_ascii=False, default=str)
    return event


def _escape_event(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Keep one event on one line, whatever characters a name contains (docs/project/faults.md, S10)."""
    for key, value in event.items():
        if isinstance(value, str) and key not in {"exception", "stack"}:
            event[key] = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)
    return event
