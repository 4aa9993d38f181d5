"""`_dcsync.json` and `SHA256SUMS`: a snapshot's own metadata. With it, the snapshot can be checked without a manifest.

A manifest can also adopt the snapshot from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from dcsync.core.anomaly import TableWarning
from dcsync.core.cost import Choice, Method
from dcsync.core.diff import total_rows
from dcsync.core.kinds import parse_kind
from dcsync.core.model import AccountName, DataRequest, How, JobId, Json, RequestId, Snapshot, StoredFile
from dcsync.core.reduction import reduced_in
from dcsync.core.snapshot import Record, parse_record, record_json
from dcsync.core.summary import (
    Summary,
    columns_json,
    parse_columns,
    parse_warnings,
    texts,
    warnings_json,
    whole,
)
from dcsync.core.table import ColumnChange, TableFacts, columns_between
from dcsync.core.wire import WireError, decode_json, parse_request, parse_time, time_json

#: A new number is needed as soon as an older version could misread a newer sidecar.
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The changes since the previous snapshot, by Autodesk's names."""

    against: JobId | None
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    unchanged: int = 0
    #: The tables of both snapshots whose headers differ.
    columns: tuple[ColumnChange, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """The reasons for the download method of a snapshot and of each file."""

    method: Method
    #: The reason for this method, as text.
    reason: str
    #: The choice of the method. None if there was none.
    choice: Choice | None = None
    #: The reason to fetch or link each file, by its name on disk.
    files: Mapping[str, str]
    #: The files that were left out, by Autodesk's name, each with the reason.
    skipped: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """The content of `_dcsync.json`. The record is the manifest's row. A lost manifest is rebuilt from it."""

    dcsync: str
    account: AccountName
    account_id: str
    record: Record
    files: tuple[StoredFile, ...]
    decisions: Decisions
    changes: Changes
    #: When Autodesk created each file, by its original name, if the data listing says it.
    listed_at: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """The facts that a manifest needs to adopt a published folder, read from its sidecar."""

    account: AccountName
    description: str
    is_delta: bool | None
    created_at: datetime | None
    snapshot: Snapshot
    summary: Summary
    #: None if there is no sidecar, or if its record cannot be used.
    record: Record | None = None
    #: The data request as it was. None if the sidecar is of a version that did not record it.
    document: DataRequest | None = None
    #: The SHA-256 of the sidecar itself, if `SHA256SUMS` agrees with it.
    sha256: str | None = None
    #: When the retention policy removed the full tables, and Autodesk's names of the files that it removed.
    reduced_at: datetime | None = None
    removed: tuple[str, ...] = ()
    #: The ID of the account. Its name may have changed since. Empty if the sidecar does not tell.
    account_id: str = ""


def changes_between(previous: Snapshot | None, files: Sequence[StoredFile]) -> Changes:
    """Compare names, SHA-256 hashes, and the headers of the tables."""
    before = {} if previous is None else {stored.original: stored.sha256 for stored in previous.files}
    now = {stored.original: stored.sha256 for stored in files}
    common = before.keys() & now.keys()
    changed = sorted(name for name in common if before[name] != now[name])
    return Changes(
        against=None if previous is None else previous.job,
        added=() if previous is None else tuple(sorted(now.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - now.keys())),
        changed=tuple(changed),
        unchanged=len(common) - len(changed),
        columns=_columns_between(() if previous is None else previous.files, files),
    )


def summarize(files: Sequence[StoredFile], changes: Changes, warnings: Sequence[TableWarning]) -> Summary:
    """Return the summary of a snapshot for its history."""
    return Summary(
        files=len(files),
        size=sum(stored.size for stored in files),
        rows=total_rows(files),
        added=len(changes.added),
        removed=len(changes.removed),
        changed=len(changes.changed),
        columns=changes.columns,
        warnings=tuple(warnings),
    )


def render(provenance: Provenance) -> bytes:
    """Return `_dcsync.json`, indented for readers, with its keys in a fixed order."""
    record, changes, decisions = provenance.record, provenance.changes, provenance.decisions
    job, request, transfer = record.job, record.request, record.transfer
    document: dict[str, Json] = {
        "format": FORMAT,
        "dcsync": provenance.dcsync,
        "account": {"name": provenance.account, "id": provenance.account_id},
        "request": {
            "id": request.id,
            "description": request.description,
            "delta": request.is_delta if request.is_described else None,
            **({} if request.document is None else _request_json(request.document)),
        },
        "job": {
            "id": job.id,
            "project_id": job.project_id,
            "project_ids": list(job.project_ids),
            "start_date": time_json(job.start_date),
            "end_date": time_json(job.end_date),
            "created_at": time_json(job.created_at),
            "started_at": time_json(job.started_at),
            "completed_at": time_json(job.completed_at),
        },
        # A snapshot cannot be changed after its rename, so the record has the time just before the rename.
        "staged_at": time_json(record.published_at),
        "strategy": {
            "name": transfer.strategy,
            "method": decisions.method.value,
            "reason": decisions.reason,
            "calls": transfer.calls,
            "prices": [] if decisions.choice is None else prices_json(decisions.choice),
        },
        "fetched_bytes": transfer.fetched_bytes,
        "linked_bytes": transfer.linked_bytes,
        "files": [
            {
                **file_json(stored),
                "created_at": time_json(provenance.listed_at.get(stored.original)),
                "why": decisions.files.get(stored.name, ""),
            }
            for stored in provenance.files
        ],
        "skipped": [{"original": name, "reason": reason} for name, reason in decisions.skipped],
        "changes": {
            "against": changes.against,
            "added": list(changes.added),
            "removed": list(changes.removed),
            "changed": list(changes.changed),
            "unchanged": changes.unchanged,
            "columns": columns_json(changes.columns),
        },
        "warnings": warnings_json(record.summary.warnings),
        "record": record_json(record),
    }
    return (json.dumps(document, indent=1, ensure_ascii=True) + "\n").encode("ascii")


def render_sums(sums: Iterable[tuple[str, str]]) -> bytes:
    """Return `SHA256SUMS` for pairs of name and hex digest, in `sha256sum`'s format, sorted by name."""
    # Names on disk contain no backslash and no line break, which sha256sum would escape.
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums)).encode()


def parse(body: bytes, *, folder: str) -> Adopted:
    """Parse a sidecar. Raises `WireError` if this version cannot read it."""
    document = _mapping(decode_json(body), "the sidecar")
    if document.get("format") != FORMAT:
        msg = f"the sidecar has the format {document.get('format')!r}, not {FORMAT}"
        raise WireError(msg)
    account, request, job = (_mapping(document.get(key), key) for key in ("account", "request", "job"))
    listed = document.get("files")
    if not isinstance(listed, list):
        msg = "the sidecar has no files"
        raise WireError(msg)
    reduced_at, removed = reduced_in(document)
    snapshot = Snapshot(
        job=JobId(_string(job, "id")),
        request=RequestId(_string(request, "id")),
        folder=folder,
        completed_at=parse_time(job.get("completed_at")),
        files=tuple(_parse_file(_mapping(item, "a file")) for item in listed),
    )
    changes, warnings = _parse_changes(document.get("changes")), parse_warnings(document.get("warnings"))
    summary = summarize(snapshot.files, changes, warnings)
    document_of_request = _parse_request(request)
    return Adopted(
        account=AccountName(_string(account, "name")),
        description=str(request.get("description") or ""),
        is_delta=None if request.get("delta") is None else request["delta"] is True,
        created_at=parse_time(job.get("created_at")),
        snapshot=snapshot,
        summary=summary,
        record=_record_of(snapshot, document.get("record"), summary, document_of_request),
        document=document_of_request,
        reduced_at=reduced_at,
        removed=removed,
        account_id=str(account.get("id") or ""),
    )


def parse_sums(body: bytes) -> dict[str, str]:
    """Parse `SHA256SUMS` into hex digests by name. Malformed lines are skipped."""
    sums = {}
    for line in body.decode("utf-8", "replace").splitlines():
        digest, gap, name = line[:64], line[64:66], line[66:]
        if gap == "  " and name and not digest.strip("0123456789abcdef"):
            sums[name] = digest
    return sums


def file_json(stored: StoredFile) -> dict[str, Json]:
    """Return a file as JSON for the sidecar."""
    return dict(_file_json(stored))


def parse_file(value: Json) -> StoredFile:
    """Parse a file of the sidecar. Raises `WireError` if a required value is missing or not valid."""
    return _parse_file(_mapping(value, "a file"))


def _record_of(snapshot: Snapshot, value: Json, summary: Summary, document: DataRequest | None) -> Record | None:
    """Return the record if there is one that belongs to this snapshot."""
    try:
        record = parse_record(value, folder=snapshot.folder, summary=summary)
    except WireError:
        return None
    same = (record.job.id, record.job.request_id, record.request.id) == (
        snapshot.job,
        snapshot.request,
        snapshot.request,
    )
    return replace(record, request=replace(record.request, document=document)) if same else None


def _request_json(request: DataRequest) -> dict[str, Json]:
    """Return a data request as it was: all that decides its content and schedule, and nothing about its users."""
    return {
        "is_active": request.is_active,
        "created_at": time_json(request.created_at),
        "project_id": request.project_id,
        "project_ids": list(request.project_ids),
        "project_status": request.project_status,
        "service_groups": list(request.service_groups),
        "date_range": request.date_range,
        "start_date": time_json(request.start_date),
        "end_date": time_json(request.end_date),
        "schedule": {
            "interval": request.schedule_interval,
            "recurring": request.recurring_interval,
            "effective_from": time_json(request.effective_from),
            "effective_to": time_json(request.effective_to),
        },
    }


def _parse_request(entry: Mapping[str, Json]) -> DataRequest | None:
    """Parse the data request as it was. None in a sidecar of an older version."""
    if not isinstance(entry.get("service_groups"), list):
        return None
    value = entry.get("schedule")
    schedule = value if isinstance(value, Mapping) else {}
    try:
        # As the API would describe it, so that its rules for odd values apply here too.
        return parse_request(
            {
                "id": entry.get("id"),
                "description": entry.get("description"),
                "isActive": entry.get("is_active"),
                "createdAt": entry.get("created_at"),
                "projectId": entry.get("project_id"),
                "projectIdList": entry.get("project_ids"),
                "projectStatus": entry.get("project_status"),
                "serviceGroups": entry.get("service_groups"),
                "dateRange": entry.get("date_range"),
                "startDate": entry.get("start_date"),
                "endDate": entry.get("end_date"),
                "scheduleInterval": schedule.get("interval"),
                "reoccuringInterval": schedule.get("recurring"),
                "effectiveFrom": schedule.get("effective_from"),
                "effectiveTo": schedule.get("effective_to"),
            }
        )
    except WireError:
        return None


def prices_json(choice: Choice) -> list[Json]:
    """Return the prices that were compared, and why all but one were rejected."""
    return [
        {
            "way": price.method.value,
            "calls": price.calls,
            "bytes": price.size,
            "seconds": round(price.seconds, 1),
            "rejected": choice.rejected.get(price.method),
        }
        for price in choice.prices
    ]


def _file_json(stored: StoredFile) -> dict[str, Json]:
    return {
        "name": stored.name,
        "original": stored.original,
        "size": stored.size,
        "crc32": f"{stored.crc32:08x}",
        "md5": stored.md5,
        "sha256": stored.sha256,
        "etag": stored.etag,
        "how": stored.how.value,
        "packed": stored.packed,
        **_table_json(stored.table),
        **({} if stored.kind is None else {"kind": stored.kind.value}),
    }


def _table_json(facts: TableFacts | None) -> dict[str, Json]:
    if facts is None:
        return {}
    cut: dict[str, Json] = {"header_cut": True} if facts.is_cut else {}
    return {"rows": facts.rows, "header": list(facts.header), **cut}


def _parse_file(entry: Mapping[str, Json]) -> StoredFile:
    size, crc32 = whole(entry.get("size")), _string(entry, "crc32")
    md5, etag = entry.get("md5"), entry.get("etag")
    if size is None:
        msg = "a file of the sidecar has no size"
        raise WireError(msg)
    try:
        checksum, how = int(crc32, 16), How(_string(entry, "how"))
        if not 0 <= checksum <= 0xFFFFFFFF:
            raise ValueError
    except ValueError:
        msg = "a file of the sidecar has no valid crc32 or origin"
        raise WireError(msg) from None
    return StoredFile(
        name=_string(entry, "name"),
        original=_string(entry, "original"),
        size=size,
        sha256=_string(entry, "sha256"),
        crc32=checksum,
        md5=md5 if isinstance(md5, str) else None,
        etag=etag if isinstance(etag, str) else None,
        how=how,
        packed=whole(entry.get("packed")),
        table=_parse_table(entry),
        kind=parse_kind(entry.get("kind")),
    )


def _parse_table(entry: Mapping[str, Json]) -> TableFacts | None:
    """Parse the facts of a table. Sidecars of older versions have none: None."""
    if not isinstance(entry.get("header"), list):
        return None
    return TableFacts(
        header=texts(entry.get("header")), rows=whole(entry.get("rows")), is_cut=entry.get("header_cut") is True
    )


def _parse_changes(value: Json) -> Changes:
    """Parse the changes that a summary counts."""
    entry = value if isinstance(value, Mapping) else {}
    return Changes(
        against=None,
        added=texts(entry.get("added")),
        removed=texts(entry.get("removed")),
        changed=texts(entry.get("changed")),
        columns=parse_columns(entry.get("columns")),
    )


def _columns_between(before: Sequence[StoredFile], now: Sequence[StoredFile]) -> tuple[ColumnChange, ...]:
    known = {stored.original: stored.table for stored in before}
    changes = (
        columns_between(stored.original, known.get(stored.original), stored.table)
        for stored in sorted(now, key=lambda stored: stored.original)
    )
    return tuple(change for change in changes if change is not None)


def _mapping(value: Json, what: str) -> Mapping[str, Json]:
    if not isinstance(value, Mapping):
        msg = f"{what} is not an object"
        raise WireError(msg)
    return value


def _string(entry: Mapping[str, Json], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        msg = f"the sidecar lacks {key}"
        raise WireError(msg)
    return value
