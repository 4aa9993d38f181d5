"""The backfills of the accounts, stored in the state folder of the host that they were started on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from dcsync.app.state_dir import read_text, write_text
from dcsync.core.backfill import Backfill
from dcsync.core.backfill_record import backfill_json, parse_backfill
from dcsync.core.model import Json
from dcsync.mirror.root import FileLock

NAME: Final = "backfills.json"


class Backfills:
    """The backfills, one for each account. Blocks. Every change is durable when the method returns."""

    def __init__(self, state: Path) -> None:
        self._state = state

    def lock(self) -> FileLock:
        """Return the lock that the process holds while it continues a backfill."""
        return FileLock(self._state / f"{NAME}.lock", "the backfills", role=None)

    def all(self) -> tuple[Backfill, ...]:
        """Return all backfills. Raises `ManifestError`."""
        found = (parse_backfill(entry) for entry in self._read().values())
        return tuple(backfill for backfill in found if backfill is not None)

    def of(self, account: str) -> Backfill | None:
        """Return the backfill of an account. Raises `ManifestError`."""
        return next((backfill for backfill in self.all() if backfill.account == account), None)

    def save(self, backfill: Backfill) -> None:
        """Store the backfill of an account, or forget it if it is complete. Raises `ManifestError`."""
        if backfill.is_complete:
            self.forget(backfill.account)
            return
        self._write({**self._read(), backfill.account: backfill_json(backfill)})

    def forget(self, account: str) -> None:
        """Remove the backfill of an account. Raises `ManifestError`."""
        found = self._read()
        if found.pop(account, None) is not None:
            self._write(found)

    def _read(self) -> dict[str, Json]:
        try:
            found = json.loads(read_text(self._state / NAME) or "{}")
        except ValueError:
            # What exists at Autodesk is found by its description.
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, backfills: dict[str, Json]) -> None:
        write_text(self._state, NAME, json.dumps(backfills))
