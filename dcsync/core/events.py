"""Events: what hooks and notifications are sent, each once. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from dcsync.core.model import Json
from dcsync.core.wire import time_json


class EventKind(StrEnum):
    """What hooks and notifications are for (`on` of the configuration)."""

    SNAPSHOT = "snapshot"
    FAILURE = "failure"
    ALERT = "alert"
    RECOVERED = "recovered"

    @classmethod
    def _missing_(cls, value: object) -> EventKind | None:
        # What 0.1 called it: in older manifests, and in configurations for one more version.
        return cls.ALERT if value == "attention" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened. `account` is empty for the whole mirror."""

    kind: EventKind
    account: str
    at: datetime
    message: str
    code: str = ""
    hint: str = ""
    job: str | None = None
    data: Mapping[str, Json] = field(default_factory=dict)

    def json(self) -> dict[str, Json]:
        """Return what a hook reads on its standard input; the keys are stable."""
        return {
            "event": self.kind.value,
            "account": self.account,
            "at": time_json(self.at),
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "job": self.job,
            **self.data,
        }
