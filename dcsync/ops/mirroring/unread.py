"""What a poll could not read, kept as alerts: lists of projects, lists without an end, descriptions of requests."""

from __future__ import annotations

from collections.abc import Sequence

from dcsync.core.alerts import AlertCode
from dcsync.core.model import RequestId
from dcsync.core.names import printable
from dcsync.errors import AccessRefused, ApiError, BadRequest, NotFound
from dcsync.manifest import SqlManifest
from dcsync.manifest.broken import BrokenPart, BrokenParts
from dcsync.ops.context import AccountSettings
from dcsync.ops.mirroring.poll import Poll, PollBefore
from dcsync.ops.observed import Observations

#: The subjects of alerts about lists without an end. The list of a project's jobs has the project's ID.
REQUESTS_LIST = "requests"
_WHOLE_ACCOUNT = "jobs"


async def read_before(manifest: SqlManifest, account: AccountSettings) -> PollBefore:
    """Return what the last poll could not read."""
    parts = await BrokenParts(manifest, account.name).load()
    subjects = {part.subject for part in parts if part.code is AlertCode.L_LIST} - {REQUESTS_LIST}
    return PollBefore(
        endless={None if subject == _WHOLE_ACCOUNT else subject for subject in subjects},
        unread_requests={RequestId(part.subject) for part in parts if part.code is AlertCode.L_REQUEST},
    )


def broken_parts(poll: Poll) -> Sequence[BrokenPart]:
    """Return the projects, data requests and lists that keep extracts out of the mirror."""
    unread = [_unread_project(project, error) for project, error in poll.unread_projects.items()]
    unread += [
        BrokenPart(
            code=AlertCode.L_REQUEST,
            subject=request,
            message=f"data request {request} cannot be read: {error.message}",
        )
        for request, error in poll.unread_requests.items()
    ]
    return [*unread, *(_endless(project) for project in poll.endless)]


async def record_unread(manifest: SqlManifest, account: AccountSettings, poll: Poll) -> None:
    """Replace what the poll before could not read. Writes nothing if it is the same."""
    observed = Observations(manifest, account.name)
    before = await observed.unread_since()
    polled_at = (await manifest.facts(account.name)).last_poll_at if poll.unread_projects else None
    since = {project: before.get(project, polled_at) for project in poll.unread_projects}
    if since != before:
        await observed.save_unread_since(since)
    codes = [AlertCode.L_PROJECT, AlertCode.L_REQUEST, AlertCode.L_LIST]
    await BrokenParts(manifest, account.name).replace(
        codes, broken_parts(poll), keeps=lambda part: part.subject == REQUESTS_LIST
    )


def _unread_project(project: str, error: ApiError) -> BrokenPart:
    match error:
        case AccessRefused():
            what = "give the user (or service account) the Project Administrator role in this project and access to "
            what += "Insight, or remove it from [[account]] projects"
        case BadRequest() | NotFound():
            what = "correct its ID in [[account]] projects, or remove it"
        case _:
            what = error.advice
    return BrokenPart(
        code=AlertCode.L_PROJECT,
        subject=project,
        message=f"project {printable(project, 80)} cannot be read: {error.message}",
        hint=f"{what}. Each poll tries again",
    )


def _endless(project: str | None) -> BrokenPart:
    of = "" if project is None else f" of project {printable(project, 80)}"
    message = f"Autodesk's job list{of} does not end, and dcsync left it before its end"
    return BrokenPart(code=AlertCode.L_LIST, subject=project or _WHOLE_ACCOUNT, message=message)
