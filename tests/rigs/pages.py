"""Builders of what a report page is made of."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from dcsync.core.freshness import Cause, FreshnessState, MissedSlot, RequestFreshness
from dcsync.core.model import JobId, StoredFile
from dcsync.core.page import AccountHistory, RequestHistory, page
from dcsync.core.page_view import Page, RequestView
from dcsync.core.summary import PastSnapshot, Summary
from dcsync.core.table import TableFacts
from tests.fakes import NOON, REQUEST_ID, make_stored


def make_past(
    number: int = 0, *, days_ago: float = 0.0, summary: Summary | None = None, **changes: Any
) -> PastSnapshot:
    completed_at = NOON - timedelta(days=days_ago)
    values: dict[str, Any] = {
        "job": JobId(f"job-{number}"),
        "request": REQUEST_ID,
        "folder": f"acme/nightly-ce9bc188/{completed_at:%Y/%m/%d/%H%M%SZ}-{number:08x}",
        "completed_at": completed_at,
        "published_at": completed_at,
        "is_pruned": False,
        "fetched_bytes": 1024,
        "summary": summary or Summary(files=3, size=2048, rows=10),
    }
    return PastSnapshot(**{**values, **changes})


def make_history(*snapshots: PastSnapshot, **changes: Any) -> RequestHistory:
    values: dict[str, Any] = {
        "id": REQUEST_ID,
        "description": "Nightly",
        "folder": "acme/nightly-ce9bc188",
        "latest": "acme/nightly-ce9bc188/latest",
        "is_delta": False,
        "snapshots": snapshots,
        "rows": {},
    }
    return RequestHistory(**{**values, **changes})


def make_missed(hours_ago: float = 3.0) -> MissedSlot:
    due_at = NOON - timedelta(hours=hours_ago)
    return MissedSlot(queued_at=due_at - timedelta(minutes=40), due_at=due_at, cause=Cause.NOT_STARTED, phase=None)


def make_freshness(
    state: FreshnessState = FreshnessState.OK, *missed_hours_ago: float, **changes: Any
) -> RequestFreshness:
    """Return the freshness of a data request that misses extracts which were due that long ago, oldest first."""
    values: dict[str, Any] = {
        "request": REQUEST_ID,
        "description": "Nightly",
        "state": state,
        "missed": tuple(make_missed(hours_ago) for hours_ago in missed_hours_ago),
    }
    return RequestFreshness(**{**values, **changes})


def make_account(*requests: RequestHistory, **changes: Any) -> AccountHistory:
    values: dict[str, Any] = {
        "name": "acme",
        "last_poll": NOON,
        "last_success": None,
        "alerts": (),
        "requests": requests,
    }
    return AccountHistory(**{**values, **changes})


def page_of(*requests: RequestHistory, **options: Any) -> Page:
    return page([make_account(*requests)], now=NOON, version="1.0", **options)


def view(*snapshots: PastSnapshot, **changes: Any) -> RequestView:
    return page_of(make_history(*snapshots, **changes)).accounts[0].requests[0]


def make_table(name: str, rows: int, *columns: str, version: int = 0) -> StoredFile:
    return make_stored(name, f"{rows}/{version}".encode(), table=TableFacts(header=columns or ("id",), rows=rows))
