"""Names below `.dcsync/staging`: one folder for each job, and in it all files side by side."""

from __future__ import annotations

import hashlib

from dcsync.core import names
from dcsync.core.model import JobId

#: The suffix of a file that is not complete yet.
PART = ".part"
#: An escape that `names.component` never produces: it leaves `~` alone, and it escapes a `%` that precedes hex digits.
ESCAPE = "%7E"


def staging_leaf(job: JobId, number: int = 0) -> str:
    """Return the name of a job's staging folder. A fencing `number` gives each holder a folder of its own."""
    leaf = names.component(job)
    return leaf if number == 0 else f"{leaf}{ESCAPE}{number}"


def holder_of(leaf: str) -> tuple[str, int]:
    """Return the job's component and the fencing number in a name below the staging, 0 without a number."""
    component, _, rest = leaf.partition(ESCAPE)
    number = rest.partition(ESCAPE)[0]
    return component, int(number) if number.isascii() and number.isdigit() else 0


def staged_leaf(name: str) -> str:
    """Return the one component under which a file of the snapshot is staged.

    Injective, also where the file system folds case. Never collides with another file's `.part`.
    """
    leaf = name.replace("/", ESCAPE)
    if leaf.casefold().endswith(PART):
        leaf += ESCAPE
    if len(leaf.encode()) <= names.MAX_BYTES:
        return leaf
    return ESCAPE + hashlib.sha256(name.encode()).hexdigest()[:32]
