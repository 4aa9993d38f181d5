"""The record of a backfill: how it is written to a file and read from it. Pure."""

from __future__ import annotations

from dcsync.core.backfill import Backfill, Part
from dcsync.core.coverage import parse_days
from dcsync.core.model import Json, RequestId
from dcsync.core.wire import parse_time, time_json


def backfill_json(backfill: Backfill) -> dict[str, Json]:
    """Return the record of a backfill."""
    return {
        "account": backfill.account,
        "days": backfill.days.text,
        "parts": [
            {
                "days": part.days.text,
                "is_mirrored": part.is_mirrored,
                "failures": part.failures,
                "most_failures": part.most_failures,
                "began_at": time_json(part.began_at),
                "request": part.request,
                "retry_at": time_json(part.retry_at),
                "problem": part.problem,
            }
            for part in backfill.parts
        ],
    }


def parse_backfill(value: Json) -> Backfill | None:
    """Parse the record of a backfill. None if it cannot be used, for example because a newer version wrote it."""
    if not isinstance(value, dict) or not isinstance(value.get("parts"), list):
        return None
    days, account, parts = parse_days(value.get("days")), value.get("account"), value.get("parts")
    if days is None or not isinstance(account, str) or not isinstance(parts, list):
        return None
    found = [_parse_part(part) for part in parts]
    if any(part is None for part in found):
        return None
    return Backfill(account=account, days=days, parts=tuple(part for part in found if part is not None))


def _parse_part(value: Json) -> Part | None:
    if not isinstance(value, dict):
        return None
    days, request, problem = parse_days(value.get("days")), value.get("request"), value.get("problem")
    failures, most = value.get("failures"), value.get("most_failures")
    if days is None or not isinstance(failures, int) or not isinstance(most, int):
        return None
    return Part(
        days=days,
        is_mirrored=value.get("is_mirrored") is True,
        failures=failures,
        most_failures=most,
        began_at=parse_time(value.get("began_at")),
        request=RequestId(request) if isinstance(request, str) else None,
        retry_at=parse_time(value.get("retry_at")),
        problem=problem if isinstance(problem, str) else "",
    )
