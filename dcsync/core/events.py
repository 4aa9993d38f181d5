"""The events that dcsync sends to hooks and notifications, each once. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from dcsync.core.model import Json
from dcsync.core.wire import time_json


class EventKind(StrEnum):
    """The kinds of events that a hook or a notification can choose (`on` in the configuration)."""

    SNAPSHOT = "snapshot"
    FAILURE = "failure"
    ALERT = "alert"
    RECOVERED = "recovered"

    @classmethod
    def _missing_(cls, value: object) -> EventKind | None:
        # The name in version 0.1. Older manifests have it, and configurations may have it for one more version.
        return cls.ALERT if value == "attention" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event. `account` is empty if it concerns the whole mirror."""

    kind: EventKind
    account: str
    at: datetime
    message: str
    code: str = ""
    hint: str = ""
    job: str | None = None
    data: Mapping[str, Json] = field(default_factory=dict)

    def json(self) -> dict[str, Json]:
        """Return the JSON that a hook reads on its standard input. The keys are stable."""
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
