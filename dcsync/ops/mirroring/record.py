"""Make the record of a snapshot that is published or adopted."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from dcsync.core import kinds
from dcsync.core.model import Job
from dcsync.core.ports import KnownRequest
from dcsync.core.snapshot import Record, Transfer
from dcsync.core.summary import Summary
from dcsync.manifest import SnapshotRows
from dcsync.ops.context import AccountSettings, MirrorContext


async def new_record(
    context: MirrorContext,
    account: AccountSettings,
    job: Job,
    request: KnownRequest,
    *,
    folder: str,
    at: datetime,
    transfer: Transfer,
    summary: Summary,
) -> Record:
    """Return the record of a snapshot that is published at `at`. The manifest says when its job was first seen."""
    origin = await SnapshotRows(context.manifest).origin(account.name, job.id)
    first_seen_at, known = (at, request) if origin is None else origin
    return Record(
        job=job,
        request=replace(known, is_delta=known.is_delta or kinds.is_delta(job, known.document)),
        folder=folder,
        first_seen_at=first_seen_at,
        published_at=at,
        transfer=transfer,
        summary=summary,
    )
