"""The record of a published snapshot: the content of its row in the manifest, and the same as JSON. Pure.

The record is in the `_dcsync.json` of each snapshot. When a snapshot is pruned, a line with its record remains in the
mirror. A lost manifest is rebuilt from these records, row for row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from dcsync.core.model import Job, Json, RequestId
from dcsync.core.ports import KnownRequest
from dcsync.core.summary import NO_SUMMARY, Summary, parse_summary, summary_json
from dcsync.core.wire import WireError, job_json, parse_job, parse_time

#: The strategies that a snapshot records. `FILES`: no ZIP was usable. `ZIP`: the ZIP was compared first (version 0.1
#: wrote "archive"). `ADOPTED`: the snapshot was found in the mirror without a record of its download.
FILES = "files"
ZIP = "zip"
ADOPTED = "adopted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """How the files of a snapshot were downloaded, and at what cost."""

    strategy: str
    #: API calls.
    calls: int = 0
    fetched_bytes: int = 0
    #: The bytes that were hard-linked instead of downloaded.
    linked_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A published, reduced or pruned snapshot, without its files. Times keep their microseconds.

    `transfer` and `summary` are about the snapshot as it was published.
    """

    job: Job
    request: KnownRequest
    #: Relative to the root. The JSON leaves it out, because a snapshot may be moved with its data request's folder.
    folder: str
    first_seen_at: datetime
    published_at: datetime
    transfer: Transfer
    summary: Summary = NO_SUMMARY
    pruned_at: datetime | None = None
    reduced_at: datetime | None = None


def record_json(record: Record) -> dict[str, Json]:
    """Return a record as JSON, as the mirror stores it."""
    request, transfer = record.request, record.transfer
    return {
        "job": job_json(record.job),
        "request": {
            "id": request.id,
            "description": request.description,
            "slug": request.slug,
            "delta": request.is_delta if request.is_described else None,
            "first_seen_at": exact_time(request.first_seen_at),
        },
        "first_seen_at": exact_time(record.first_seen_at),
        "published_at": exact_time(record.published_at),
        "strategy": transfer.strategy,
        "calls": transfer.calls,
        "fetched_bytes": transfer.fetched_bytes,
        "linked_bytes": transfer.linked_bytes,
        "seconds": transfer.seconds,
        "pruned_at": exact_time(record.pruned_at),
        **({} if record.reduced_at is None else {"reduced_at": exact_time(record.reduced_at)}),
        "summary": summary_json(record.summary),
    }


def parse_record(value: Json, *, folder: str, summary: Summary = NO_SUMMARY) -> Record:
    """Parse the record of the snapshot in `folder`. `summary` is used if the record has none.

    Raises `WireError` if the value is not a valid record.
    """
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
        folder=folder,
        first_seen_at=first_seen_at,
        published_at=published_at,
        transfer=_parse_transfer(entry),
        pruned_at=parse_time(entry.get("pruned_at")),
        reduced_at=parse_time(entry.get("reduced_at")),
        summary=parse_summary(entry.get("summary")) or summary,
    )


def _parse_transfer(entry: Mapping[str, Json]) -> Transfer:
    seconds = entry.get("seconds")
    return Transfer(
        strategy=str(entry.get("strategy") or ADOPTED),
        calls=_count(entry, "calls"),
        fetched_bytes=_count(entry, "fetched_bytes"),
        linked_bytes=_count(entry, "linked_bytes"),
        seconds=float(min(seconds, 1e12))
        if isinstance(seconds, int | float) and not isinstance(seconds, bool)
        else 0.0,
    )


def exact_time(moment: datetime | None) -> str | None:
    """Return a time as JSON, with its microseconds."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _count(entry: Mapping[str, Json], key: str) -> int:
    value = entry.get(key)
    # Fits into a BigInteger column.
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62 else 0


def _mapping(value: Json) -> Mapping[str, Json]:
    if not isinstance(value, Mapping):
        msg = "a record is not an object"
        raise WireError(msg)
    return value
