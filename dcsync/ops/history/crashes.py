"""How often the process ended while it took a step of a row history."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Final

from dcsync.core.row_history import Extract
from dcsync.mirror.durable import replace_durably
from dcsync.mirror.root import MirrorRoot

_NAME: Final = "crashes.json"


class Crashes:
    """Counts how often the process ended while it took a step, so that one table cannot end every start."""

    def __init__(self, root: MirrorRoot, folder: str) -> None:
        self._root = root
        self._folder = folder
        self._counts: dict[str, int] = {}

    def load(self) -> None:
        """Read the counts."""
        with suppress(FileNotFoundError, ValueError, AttributeError, TypeError):
            read = json.loads(self._root.read_file(self._folder, _NAME))
            self._counts = {str(key): int(count) for key, count in read.items()}

    def count(self, name: str, extract: Extract) -> int:
        """Return how often a step ended the process."""
        return self._counts.get(self._key(name, extract), 0)

    def guarding(self, name: str, extract: Extract) -> _Guard:
        """Count a crash for the time of a step."""
        return _Guard(self, self._key(name, extract))

    def change(self, key: str, by: int) -> None:
        """Change a count, durably."""
        self._counts[key] = max(0, self._counts.get(key, 0) + by)
        self._counts = {key: count for key, count in self._counts.items() if count}
        with self._root.folder(self._folder, create=True) as folder:
            if self._counts:
                replace_durably(folder, _NAME, json.dumps(self._counts).encode(), mode=0o600)
            else:
                with suppress(FileNotFoundError):
                    os.unlink(_NAME, dir_fd=folder)

    def forget(self, key: str) -> None:
        """Forget a count."""
        self.change(key, -self._counts.get(key, 0))

    def _key(self, name: str, extract: Extract) -> str:
        return f"{name} {extract.sha256}"


class _Guard:
    """Counts a crash in advance. A step that ends, however, takes it back."""

    def __init__(self, crashes: Crashes, key: str) -> None:
        self._crashes = crashes
        self._key = key

    def __enter__(self) -> None:
        self._crashes.change(self._key, 1)

    def __exit__(self, *error: object) -> None:
        self._crashes.forget(self._key)
