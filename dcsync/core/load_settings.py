"""What a load wants, what identifies the rows of a row history, and when a load is tried again. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Final

from dcsync.core.loads import LoadMode, NewColumn
from dcsync.core.model import AccountName
from dcsync.core.ports import KnownRequest
from dcsync.core.row_history import Step, table_name
from dcsync.core.table import has_rows

#: The waits after failed attempts. The last one repeats.
_RETRY_AFTER: Final = (timedelta(minutes=1), timedelta(minutes=10), timedelta(hours=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """A `[[load]]` of the configuration, without its address. Empty `accounts` and `requests` are all."""

    name: str
    dataset: str
    mode: LoadMode = LoadMode.LATEST
    on_new_column: NewColumn = NewColumn.ADD
    tables: tuple[str, ...] = ("*",)
    accounts: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()

    def wants_account(self, name: AccountName) -> bool:
        """Say whether the load has tables of an account."""
        return not self.accounts or name in self.accounts

    def wants_request(self, request: KnownRequest) -> bool:
        """Say whether it has a data request: by its ID, its folder's name, or a glob for its description."""
        return not self.requests or any(
            name in {request.id, request.slug} or fnmatchcase(request.description, name) for name in self.requests
        )

    def wants_table(self, original: str) -> bool:
        """Say whether it has a table, by Autodesk's name of its file or by the name of its row history."""
        return has_rows(original) and any(
            fnmatchcase(original, glob) or fnmatchcase(table_name(original), glob) for glob in self.tables
        )


def chain(steps: Sequence[Step]) -> list[str]:
    """Return what identifies the rows of a history after each of its steps. A step that changes no row keeps it.

    It covers the steps before as well: a history that began again has other rows with the same last snapshot.
    """
    found: list[str] = []
    before, columns = "", None
    for step in steps:
        if before and not (step.added or step.removed) and step.columns == columns:
            found.append(before)
            continue
        columns = step.columns
        facts = [before, step.job, step.sha256, step.digest, step.added, step.removed, list(columns)]
        before = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        found.append(before)
    return found


def retry_after(attempts: int) -> timedelta:
    """Return how long to wait after this number of failed attempts, from 1."""
    return _RETRY_AFTER[min(attempts, len(_RETRY_AFTER)) - 1]
