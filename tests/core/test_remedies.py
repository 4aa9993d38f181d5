"""The commands that hints name."""

from __future__ import annotations

from datetime import date

from dcsync.core import remedies
from dcsync.core.coverage import Days
from tests.fakes import REQUEST_ID


def test_each_names_its_data_request_or_its_months() -> None:
    days = Days(first=date(2026, 9, 30), last=date(2026, 10, 1))

    assert remedies.extend(REQUEST_ID) == f"dcsync requests extend {REQUEST_ID}"
    assert remedies.activate(REQUEST_ID) == f"dcsync requests activate {REQUEST_ID}"
    assert remedies.set_callback(REQUEST_ID, "m.example.com").endswith(f"{REQUEST_ID} https://m.example.com/callback/")
    assert remedies.backfill(days) == "dcsync requests backfill activities --from 2026-09 --to 2026-10"
