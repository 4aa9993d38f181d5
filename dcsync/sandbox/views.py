"""Data requests and jobs as the API sends them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from dcsync.sandbox.world import JobEntry, RequestEntry, World


def request_json(world: World, entry: RequestEntry) -> dict[str, object]:
    """Return a data request as the API sends it, including its spelling mistakes."""
    return {
        "id": entry.id,
        "description": entry.description,
        "isActive": entry.is_active,
        "accountId": entry.account_id,
        "projectId": entry.project_id,
        "projectIdList": list(entry.project_ids) or None,
        "createdBy": entry.owner or world.user_id,
        "createdByEmail": _email_of(world, entry),
        "createdAt": stamp(entry.created_at),
        "updatedBy": entry.owner or world.user_id,
        "updatedAt": stamp(entry.updated_at or entry.created_at),
        "scheduleInterval": entry.schedule,
        "reoccuringInterval": entry.every,
        "effectiveFrom": stamp(entry.starts_at or entry.created_at),
        "effectiveTo": stamp(entry.ends_at),
        "lastQueuedAt": stamp(
            max((job.created_at for job in world.jobs.values() if job.request is entry), default=None)
        ),
        "serviceGroups": list(entry.service_groups),
        "callbackUrl": entry.callback_url,
        "sendEmail": entry.sends_email,
        "startDate": stamp(entry.start_date),
        "endDate": stamp(entry.end_date),
        "dateRange": entry.date_range,
        "projectStatus": entry.project_status,
    }


def job_json(world: World, job: JobEntry) -> dict[str, object]:
    """Return a job as the API sends it, with a list as JSON in a string, and `""` for a missing number."""
    view = world.view(job)
    projects = job.request.project_ids
    return {
        "id": job.id,
        "requestId": job.request.id,
        "accountId": job.request.account_id,
        "projectId": job.request.project_id,
        "projectIdList": json.dumps(projects) if projects else None,
        "createdBy": job.request.owner or world.user_id,
        "createdByEmail": _email_of(world, job.request),
        "createdAt": stamp(job.created_at),
        "startedAt": stamp(job.created_at),
        "completedAt": stamp(view.completed_at),
        "status": view.status,
        "completionStatus": view.completion,
        "progress": 100 if view.status == "complete" and job.day % 2 else "",
        "sendEmail": job.request.sends_email,
        "lastDownloadedBy": "",
        "lastDownloadedAt": None,
        "startDate": stamp(job.request.start_date),
        "endDate": stamp(job.request.end_date),
    }


def stamp(moment: datetime | None) -> str | None:
    """Return ISO 8601 with milliseconds and Z."""
    return (
        None
        if moment is None
        else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03}Z"
    )


def _email_of(world: World, entry: RequestEntry) -> str:
    return world.emails.get(entry.owner or "", "sandbox.user@example.com")
