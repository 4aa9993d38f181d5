"""What Autodesk's reference documents for the lists: GET requests, GET jobs and GET requests/:requestId/jobs.

The pages are `data-connector-requests-GET`, `data-connector-jobs-GET` and `data-connector-requests-requestId-jobs-GET`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

#: By list: the parameters, the filters with their values, and the fields to sort by.
LISTS: Final[dict[str, Any]] = json.loads(Path(__file__).with_name("reference_lists.json").read_text(encoding="utf-8"))
#: A valid value for each kind of filter.
VALUES: Final = {
    "id": "0f000000-0000-4000-8000-000000000000",
    "range": "2026-11-01T00:00:00.000Z..2026-11-30T23:59:59.999Z",
    "time": "2026-11-01T00:00:00.000Z",
    "number": "1",
    "boolean": "true",
}


def value_of(kind: str | list[str]) -> str:
    """Return a valid value of a filter."""
    return kind[0] if isinstance(kind, list) else VALUES[kind]
