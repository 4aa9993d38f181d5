"""Data requests whose creation began and whose end is not known, noted in the state folder.

With the note, the same command finds what an earlier one created although it was killed (`ops.requests.create`).
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path

from dcsync.app.state_dir import read_text, write_text
from dcsync.core.model import AccountId
from dcsync.core.new_request import NewRequest, create_json
from dcsync.core.wire import parse_time, time_json

NAME = "pending-requests"


class PendingRequests:
    """The notes. Blocks."""

    def __init__(self, state: Path) -> None:
        self._state = state

    def begun(self, account: AccountId, wanted: NewRequest) -> datetime | None:
        """Return when an earlier attempt to create it began. Raises `ManifestError`."""
        return parse_time(self._read().get(_key(account, wanted)))

    def note(self, account: AccountId, wanted: NewRequest, began: datetime) -> None:
        """Note durably that an attempt begins. Raises `ManifestError`."""
        self._write({**self._read(), _key(account, wanted): time_json(began) or ""})

    def forget(self, account: AccountId, wanted: NewRequest) -> None:
        """Remove the note of an attempt whose end is known. Raises `ManifestError`."""
        notes = self._read()
        if notes.pop(_key(account, wanted), None) is not None:
            self._write(notes)

    def _read(self) -> dict[str, str]:
        try:
            found = json.loads(read_text(self._state / NAME) or "{}")
        except ValueError:
            return {}
        return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}

    def _write(self, notes: dict[str, str]) -> None:
        write_text(self._state, NAME, json.dumps(notes))


def _key(account: AccountId, wanted: NewRequest) -> str:
    """Return a digest of everything but the times of the schedule, which may be those of the attempt."""
    fields = {name: value for name, value in create_json(wanted).items() if not name.startswith("effective")}
    return hashlib.sha256(json.dumps([account, fields], sort_keys=True).encode()).hexdigest()[:32]
