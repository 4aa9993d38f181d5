"""The boundary of a part: its failure stops nothing else, and is an alert until the part works again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from dcsync.core.alerts import AlertCode
from dcsync.errors import DcsyncError
from dcsync.manifest.broken import BrokenPart, BrokenParts

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Something that may fail on its own. `code` and `subject` identify its alert."""

    code: AlertCode
    subject: str
    #: Begins the message of the alert, such as "the nightly verify". Without a path, which the error names.
    name: str
    #: Ends its hint, such as "it is tried again the next night".
    next_try: str


async def contain(parts: BrokenParts, part: Part, work: Callable[[], Awaitable[object]]) -> bool:
    """Do the work of a part and return whether it succeeded. Any error, also a bug, becomes the alert of the part."""
    broken = None
    try:
        await work()
    except DcsyncError as error:
        log.warning("a part failed", part=part.name, code=error.code, error=error.message, hint=error.advice)
        broken = _broken(part, f"failed: {error.message}", error.advice)
    except Exception as error:  # the other parts must not fail with it
        log.exception("a bug in dcsync; everything else continues", part=part.name)
        # The text of an unknown exception may contain a secret. The log redacts it.
        hint = "please report this bug with the lines of the log"
        broken = _broken(part, f"failed because of a bug in dcsync ({type(error).__name__})", hint)
    try:
        await (parts.resolve(part.code, part.subject) if broken is None else parts.record(broken))
    except DcsyncError as error:
        log.warning("the state of a part was not recorded", part=part.name, code=error.code, error=error.message)
    return broken is None


def _broken(part: Part, what: str, advice: str) -> BrokenPart:
    hint = f"{advice}. {part.next_try[:1].upper()}{part.next_try[1:]}" if advice else part.next_try
    return BrokenPart(code=part.code, subject=part.subject, message=f"{part.name} {what}", hint=hint)
