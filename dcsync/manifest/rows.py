"""Convert rows of the manifest to values and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from dcsync.core import summary, wire
from dcsync.core.kinds import parse_kind
from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, DataRequest, How, Job, JobId, RequestId, StoredFile
from dcsync.core.ports import KnownJob, KnownRequest
from dcsync.core.snapshot import ADOPTED, Record, Transfer
from dcsync.core.summary import NO_SUMMARY
from dcsync.core.table import TableFacts
from dcsync.manifest.schema import content as content_table
from dcsync.manifest.schema import job as job_table
from dcsync.manifest.schema import request as request_table

#: The columns of a job, in the order of `known_job`, and those of a request. Digests are left out: a command that only
#: reads may open a manifest of an older version, which has none.
JOB_COLUMNS = (
    job_table.c.id,
    job_table.c.document,
    job_table.c.state,
    job_table.c.attempts,
    job_table.c.next_try_at,
    job_table.c.reason_code,
    job_table.c.reason,
    job_table.c.folder,
    job_table.c.first_seen_at,
    job_table.c.published_at,
)
#: The columns of a snapshot. The lists of files are left out, because they are long, and older manifests have none.
SNAPSHOT_COLUMNS = tuple(
    column for column in job_table.columns if column.name not in {"digest", "files", "holds_table"}
)
#: The columns that make a file distinct from others. The digest of a content covers them.
CONTENT_COLUMNS = tuple(column.name for column in content_table.columns if column.name not in {"id", "digest"})
REQUEST_COLUMNS = tuple(column for column in request_table.columns if column.name != "digest")


def is_job(account: AccountName, job: JobId) -> sa.ColumnElement[bool]:
    """Return the condition for the row of a job."""
    return sa.and_(job_table.c.account == account, job_table.c.id == job)


def known_job(row: Sequence[Any]) -> KnownJob:
    """Return the job of a row of `JOB_COLUMNS`. Columns are read by position, because there are thousands of rows."""
    _, document, state, attempts, next_try_at, reason_code, reason, folder, first_seen_at, published_at = row
    return KnownJob(
        job=described_job(document),
        state=JobState(state),
        attempts=attempts,
        next_try_at=next_try_at,
        reason_code=reason_code,
        reason=reason,
        folder=folder,
        first_seen_at=first_seen_at,
        published_at=published_at,
    )


@lru_cache(maxsize=4096)
def described_job(document: str) -> Job:
    """Return the job that the API described. Cached, because a run reads all jobs several times."""
    return wire.parse_job(wire.decode_json(document.encode()))


def known_request(row: sa.Row[Any]) -> KnownRequest:
    """Return the data request of a row of `request`."""
    document = None if row.document is None else described_request(row.document)
    return KnownRequest(
        id=RequestId(row.id),
        description=row.description,
        slug=row.slug,
        # An older version may have recorded a request without dates as a delta.
        is_delta=row.is_delta if document is None else document.is_delta,
        # A request that was adopted from the mirror has a description and no document.
        is_described=row.document is not None or bool(row.description),
        first_seen_at=row.first_seen_at,
        document=document,
    )


@lru_cache(maxsize=512)
def described_request(document: str) -> DataRequest:
    """Return the data request that the API described."""
    return wire.parse_request(wire.decode_json(document.encode()))


def snapshot_row(record: Record, *, sidecar_sha256: str | None) -> dict[str, object]:
    """Return the columns of `job` for a snapshot, but for its keys, its digest, and the list of its files."""
    transfer = record.transfer
    return {
        "request": record.request.id,
        "state": _state_of(record).value,
        "completed_at": record.job.completed_at,
        "document": json.dumps(wire.job_json(record.job)),
        "first_seen_at": record.first_seen_at,
        "changed_at": record.pruned_at or record.reduced_at or record.published_at,
        "attempts": 0,
        "next_try_at": None,
        "reason_code": None,
        "reason": None,
        "folder": record.folder,
        "published_at": record.published_at,
        "strategy": transfer.strategy,
        "calls": transfer.calls,
        "fetched_bytes": transfer.fetched_bytes,
        "linked_bytes": transfer.linked_bytes,
        "seconds": transfer.seconds,
        "summary": summary.render(record.summary),
        "sidecar_sha256": sidecar_sha256,
    }


def snapshot_record(row: sa.Row[Any], request: KnownRequest) -> Record:
    """Return the record of a row of `job`. The row must be a snapshot: published, reduced or pruned."""
    return Record(
        job=described_job(row.document),
        request=request,
        folder=row.folder,
        first_seen_at=row.first_seen_at,
        published_at=row.published_at,
        transfer=Transfer(
            strategy=row.strategy or ADOPTED,
            calls=row.calls or 0,
            fetched_bytes=row.fetched_bytes or 0,
            linked_bytes=row.linked_bytes or 0,
            seconds=row.seconds or 0.0,
        ),
        summary=NO_SUMMARY if row.summary is None else summary.parse(row.summary),
        pruned_at=row.changed_at if row.state == JobState.PRUNED.value else None,
        reduced_at=row.changed_at if row.state == JobState.REDUCED.value else None,
    )


def _state_of(record: Record) -> JobState:
    if record.pruned_at is not None:
        return JobState.PRUNED
    return JobState.PUBLISHED if record.reduced_at is None else JobState.REDUCED


def content_row(stored: StoredFile) -> dict[str, str | int | None]:
    """Return the values of `CONTENT_COLUMNS` for a file."""
    return {
        "name": stored.name,
        # As JSON with escapes, because a lone surrogate in a name from Autodesk has no UTF-8.
        "original": json.dumps(stored.original),
        "size": stored.size,
        "crc32": stored.crc32,
        "md5": stored.md5,
        "sha256": stored.sha256,
        "etag": stored.etag,
        "packed": stored.packed,
        "mtime_ns": stored.mtime_ns,
        "inode": None if stored.inode is None else str(stored.inode),
        "rows": None if stored.table is None else stored.table.rows,
        "header": None if stored.table is None else header_digest(stored.table),
        "kind": None if stored.kind is None else stored.kind.value,
    }


@lru_cache(maxsize=1 << 14)
def stored_file(row: tuple[Any, ...], how: str) -> StoredFile:
    """Return the file of `CONTENT_COLUMNS` and two columns of its header. Cached: thousands of snapshots share it."""
    *values, names, is_cut = row
    fields: dict[str, Any] = dict(zip(CONTENT_COLUMNS, values, strict=True))
    rows, inode = fields.pop("rows"), fields["inode"]
    del fields["header"]
    fields |= {
        "original": json.loads(fields["original"]),
        "how": How(how),
        "inode": None if inode is None else int(inode),
        "table": None if names is None else TableFacts(header=_header(names), rows=rows, is_cut=bool(is_cut)),
        "kind": parse_kind(fields["kind"]),
    }
    return StoredFile(**fields)


@lru_cache(maxsize=1 << 10)
def _header(names: str) -> tuple[str, ...]:
    return tuple(json.loads(names))


def header_digest(facts: TableFacts) -> str:
    """Return the key of a header."""
    return hashlib.sha256(json.dumps([facts.is_cut, *facts.header]).encode()).hexdigest()[:32]


def content_digest(values: Iterable[str | int | None]) -> str:
    """Return the digest of a content from its values of `CONTENT_COLUMNS`."""
    # PostgreSQL's text cannot contain NUL: `dcsync.cluster.database` replaces it.
    return hashlib.sha256(json.dumps([*values]).replace("\\u0000", "\\ufffd").encode()).hexdigest()[:32]
