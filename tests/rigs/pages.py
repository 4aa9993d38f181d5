"""Builders of what a report page is made of."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

from dcsync.core.alerts import Alert, AlertCode
from dcsync.core.anomaly import TableWarning
from dcsync.core.coverage import Days
from dcsync.core.diff import compare
from dcsync.core.freshness import Cause, FreshnessState, MissedSlot, RequestFreshness
from dcsync.core.model import JobId, StoredFile
from dcsync.core.page import AccountHistory, Missing, RequestHistory, page
from dcsync.core.page_view import Page, RequestView
from dcsync.core.summary import PastSnapshot, Summary
from dcsync.core.table import ColumnChange, TableFacts
from dcsync.ops.page import render_page
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


#: Names that want to be more than text.
HOSTILE = [
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "' onmouseover='document.title=\"owned\"",
    "{{ 7 * 7 }} {% raw %}",
    "javascript:document.title='owned'",
    "</style><style>body{display:none}</style>",
    "<!--",
    "&lt;b&gt; &amp;",
    "\u202egpj.exe\u2066",
    "تقرير المشروع اليومي",
    "line\nbreak\ttab\x00nul\x1b[31m",
    "W" * 300,
    "\ud800 lone",
]


def make_account_of(names: list[str], *, snapshots: int = 8) -> AccountHistory:
    """Return an account whose every name is one of these."""
    requests = []
    for number, name in enumerate(names):
        before = [make_stored(f"{name}.csv", b"1", table=TableFacts(header=(name, "b"), rows=10))]
        after = [make_stored(f"{name}.csv", b"2", table=TableFacts(header=("b", name), rows=400 + number))]
        warned = Summary(
            files=3,
            size=5000,
            rows=400,
            changed=1,
            columns=(ColumnChange(table=f"{name}.csv", added=(name,), removed=(name,), reordered=True),),
            warnings=(TableWarning(code="L-ROWS", table=f"{name}.csv", message=f"has 4 rows {name}"),),
        )
        past = [
            make_past(
                index,
                days_ago=snapshots - index,
                folder=f"acme/{name}/{index}",
                summary=warned if index == snapshots - 1 else None,
            )
            for index in range(snapshots)
        ]
        requests.append(
            make_history(
                *past,
                description=name,
                folder=f"acme/{name}",
                newest=compare(before, after),
                missing=[Missing(completed_at=NOON, words=f"no snapshot: {name}")],
                rows={f"{name}.csv": {one.job: 10 * place for place, one in enumerate(past)}},
                freshness=make_freshness(FreshnessState.LATE, 50, 26, 2, description=name),
                skipped=[NOON - timedelta(days=4, hours=3)],
                gaps=[Days(first=date(2026, 11, 2), last=date(2026, 11, 4))],
            )
        )
    alerts = [Alert.of(AlertCode.T_LOGIN, account="acme", message=name, hint=name) for name in names]
    return make_account(*requests, name=names[0], alerts=alerts)


def write_page(folder: Path, *accounts: AccountHistory) -> Path:
    """Write a page of these accounts as dcsync does, and return its path."""
    path = folder / "index.html"
    path.write_bytes(render_page(page(accounts, now=NOON, version="1.0")).encode("utf-8", "replace"))
    return path
