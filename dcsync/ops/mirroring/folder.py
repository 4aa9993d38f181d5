"""Choose the folder of a job's snapshot: once, and never the folder of another job."""

from __future__ import annotations

from dcsync.core import layout
from dcsync.core.model import Job
from dcsync.core.ports import KnownJob, KnownRequest
from dcsync.errors import MirrorTampered
from dcsync.mirror import adopt
from dcsync.ops.context import AccountSettings, SyncContext

#: The folder's name ends with this many characters of the job's ID. Jobs of one second whose IDs begin alike need more.
_ID_LENGTHS = (layout.SHORT_ID, 16, 64)


async def choose_folder(context: SyncContext, account: AccountSettings, request: KnownRequest, known: KnownJob) -> str:
    """Return the folder of a job's snapshot: the one that was chosen earlier, else one that no other job has."""
    if known.folder is not None:
        return known.folder
    for length in _ID_LENGTHS:
        folder = _folder_for(context, account, request, known.job, length)
        taken_by = await context.manifest.folder_taken_by(folder)
        if taken_by == layout.short_id(known.job.id, length):
            # A rebuild found this folder without its sidecar, and took the short ID from the folder's name.
            return folder
        if taken_by not in {None, known.job.id}:
            continue
        if not await context.disk.run(context.root.has_folder, folder):
            return folder
        found = await context.disk.run(adopt.read_snapshot, context.root, folder)
        if found is not None and found.snapshot.job == known.job.id:
            return folder
    message = f"every folder name of job {known.job.id} is taken by something else"
    raise MirrorTampered(
        message, hint="move folders that are not snapshots out of the data request's folder for that day"
    )


def _folder_for(context: SyncContext, account: AccountSettings, request: KnownRequest, job: Job, length: int) -> str:
    return layout.place(
        context.settings.layout,
        account=account.name,
        request_slug=request.slug,
        project=job.project_id,
        completed_at=job.completed_at,
        job=job.id,
        zone=context.settings.zone,
        id_length=length,
    )
