"""The events that hooks and notifications get."""

from __future__ import annotations

import pytest

from dcsync.core.events import Event, EventKind
from tests.fakes import NOON


def test_a_hook_reads_stable_keys_and_those_of_the_event() -> None:
    event = Event(kind=EventKind.SNAPSHOT, account="acme", at=NOON, message="m", job="j", data={"folder": "/f"})

    assert event.json() == {
        "event": "snapshot",
        "account": "acme",
        "at": "2026-11-22T12:00:00.000Z",
        "code": "",
        "message": "m",
        "hint": "",
        "job": "j",
        "folder": "/f",
    }


def test_most_keys_of_an_event_may_be_empty() -> None:
    event = Event(kind=EventKind.ALERT, account="", at=NOON, message="m")

    assert (event.code, event.hint, event.job, event.data) == ("", "", None, {})


def test_the_old_name_of_the_event_is_read_from_older_manifests() -> None:
    assert EventKind("attention") is EventKind.ALERT
    with pytest.raises(ValueError, match="bogus"):
        EventKind("bogus")
