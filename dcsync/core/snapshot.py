"""What the tree keeps of the manifest's rows, so that a lost manifest is made anew as it was: pure, to and from JSON.

It stands in each snapshot's `_dcsync.json`, and in the line that is left of a snapshot when it is pruned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from dcsync.core.model import Job, Json, RequestId
from dcsync.core.ports import KnownRequest
from dcsync.core.summary import Summary, parse_summary, summary_json
from dcsync.core.wire import WireError, job_json, parse_job, parse_time

#: What `strategy` says of a snapshot that was found in the tree, when nothing tells how it came there.
ADOPTED = "adopted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A job that was published: its row and its request's, but for the files. Times keep their microseconds."""

    job: Job
    request: KnownRequest
    first_seen_at: datetime
    published_at: datetime
    strategy: str
    calls: int = 0
    fetched_bytes: int = 0
    linked_bytes: int = 0
    seconds: float = 0.0
    pruned_at: datetime | None = None
    #: What its history keeps of it; None in what an older version wrote.
    summary: Summary | None = None


def record_json(record: Record) -> dict[str, Json]:
    """Return a record as it stands in the tree."""
    request = record.request
    return {
        "job": job_json(record.job),
        "request": {
            "id": request.id,
            "description": request.description,
            "slug": request.slug,
            "delta": request.is_delta if request.is_described else None,
            "first_seen_at": _exact(request.first_seen_at),
        },
        "first_seen_at": _exact(record.first_seen_at),
        "published_at": _exact(record.published_at),
        "strategy": record.strategy,
        "calls": record.calls,
        "fetched_bytes": record.fetched_bytes,
        "linked_bytes": record.linked_bytes,
        "seconds": record.seconds,
        "pruned_at": _exact(record.pruned_at),
        "summary": None if record.summary is None else summary_json(record.summary),
    }


def parse_record(value: Json) -> Record:
    """Read a record back; `WireError` when it is none."""
    entry = _mapping(value)
    request = _mapping(entry.get("request"))
    first_seen_at, published_at = parse_time(entry.get("first_seen_at")), parse_time(entry.get("published_at"))
    identifier, slug = request.get("id"), request.get("slug")
    if first_seen_at is None or published_at is None or not (isinstance(identifier, str) and isinstance(slug, str)):
        msg = "a record lacks its times or its request"
        raise WireError(msg)
    if not identifier or not slug:
        msg = "a record's request has no id or no folder"
        raise WireError(msg)
    seconds = entry.get("seconds")
    return Record(
        job=parse_job(entry.get("job")),
        request=KnownRequest(
            id=RequestId(identifier),
            description=str(request.get("description") or ""),
            slug=slug,
            is_delta=request.get("delta") is True,
            is_described=request.get("delta") is not None,
            first_seen_at=parse_time(request.get("first_seen_at")),
        ),
        first_seen_at=first_seen_at,
        published_at=published_at,
        strategy=str(entry.get("strategy") or ADOPTED),
        calls=_count(entry, "calls"),
        fetched_bytes=_count(entry, "fetched_bytes"),
        linked_bytes=_count(entry, "linked_bytes"),
        seconds=float(min(seconds, 1e12))
        if isinstance(seconds, int | float) and not isinstance(seconds, bool)
        else 0.0,
        pruned_at=parse_time(entry.get("pruned_at")),
        summary=parse_summary(entry.get("summary")),
    )


def _exact(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _count(entry: Mapping[str, Json], key: str) -> int:
    value = entry.get(key)
    # What a BigInteger can hold.
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62 else 0


def _mapping(value: Json) -> Mapping[str, Json]:
    if not isinstance(value, Mapping):
        msg = "a record is not an object"
        raise WireError(msg)
    return value
