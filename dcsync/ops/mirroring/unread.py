"""What a poll could not read, kept as alerts: lists of projects, lists without an end, descriptions of requests."""

from __future__ import annotations

from dcsync.core.alerts import AlertCode
from dcsync.core.names import printable
from dcsync.manifest import SqlManifest
from dcsync.manifest.broken import BrokenPart, BrokenParts
from dcsync.ops.context import AccountSettings
from dcsync.ops.mirroring.poll import Poll
from dcsync.ops.observed import Observations, UnreadProject

#: The subjects of alerts about lists without an end. The list of a project's jobs has the project's ID.
REQUESTS_LIST = "requests"
_WHOLE_ACCOUNT = "jobs"


async def endless_lists(manifest: SqlManifest, account: AccountSettings) -> set[str | None]:
    """Return the projects whose job list did not end at the last poll. None is the list of the whole account."""
    parts = await BrokenParts(manifest, account.name).load()
    subjects = {part.subject for part in parts if part.code is AlertCode.L_LIST} - {REQUESTS_LIST}
    return {None if subject == _WHOLE_ACCOUNT else subject for subject in subjects}


async def record_unread(manifest: SqlManifest, account: AccountSettings, poll: Poll) -> None:
    """Replace what the poll before could not read. Writes nothing if it is the same."""
    observed = Observations(manifest, account.name)
    before, polled_at = await observed.unread_projects(), (await manifest.facts(account.name)).last_poll_at
    unread = {
        project: UnreadProject(
            since=before[project].since if project in before else polled_at,
            message=f"project {printable(project, 80)} cannot be read: {error.message}",
            hint=f"{error.advice}. Each poll tries again",
        )
        for project, error in poll.unread_projects.items()
    }
    if unread != before:
        await observed.save_unread_projects(unread)
    parts = [
        BrokenPart(
            code=AlertCode.L_REQUEST,
            subject=request,
            message=f"data request {request} cannot be read: {error.message}",
        )
        for request, error in poll.unread_requests.items()
    ]
    parts += [_endless(project) for project in poll.endless]
    broken = BrokenParts(manifest, account.name)
    parts += [part for part in await broken.load() if part.subject == REQUESTS_LIST]
    await broken.replace([AlertCode.L_REQUEST, AlertCode.L_LIST], parts)


def _endless(project: str | None) -> BrokenPart:
    of = "" if project is None else f" of project {printable(project, 80)}"
    message = f"Autodesk's job list{of} does not end, and dcsync left it before its end"
    return BrokenPart(code=AlertCode.L_LIST, subject=project or _WHOLE_ACCOUNT, message=message)
