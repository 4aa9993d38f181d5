"""Jobs that Autodesk lists and dcsync cannot classify: entries without a usable ID, and unknown statuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from dcsync.api.client import DataConnector
from dcsync.core.lifecycle import JobState
from dcsync.core.model import JobPhase, RequestId
from dcsync.core.ports import KnownJob, KnownRequest
from dcsync.core.wire import BadEntry
from dcsync.errors import ApiError, BadListing, NotFound
from dcsync.manifest import SqlManifest
from dcsync.ops.context import AccountSettings
from dcsync.ops.observed import Observations

log = structlog.get_logger(__name__)


def describe_unusable(
    entries: Sequence[BadEntry], requests: Mapping[RequestId, KnownRequest], account: AccountSettings
) -> list[str]:
    """Return a text for each entry of the job list that dcsync cannot use and the account may want."""
    texts = []
    for entry in entries:
        request = None if entry.request is None else requests.get(entry.request)
        if request is not None and not account.wants_request(request):
            continue
        details = [] if entry.dated_at is None else [f"of {entry.dated_at:%Y-%m-%d %H:%M}Z"]
        if entry.request is not None:
            name = entry.request if request is None else request.description or request.id
            details.append(f"data request {name}")
        texts.append(f"{entry.problem} ({', '.join(details)})" if details else entry.problem)
    return texts


async def probe_listing(
    api: DataConnector, manifest: SqlManifest, account: AccountSettings, jobs: Sequence[KnownJob]
) -> None:
    """Find out whether a job with an unknown status has a data listing, and remember it. Takes one call at most.

    The next poll asks for the next job. A call that fails is repeated then.
    """
    observations = Observations(manifest, account.name)
    unclear = [known.job for known in jobs if known.state is JobState.WAITING and known.job.phase is JobPhase.UNKNOWN]
    listed = dict(await observations.listings(unclear))
    job = next((job for job in unclear if job.id not in listed), None)
    if job is None:
        return
    try:
        listed[job.id] = bool(await api.listing(account.id, job.id))
    except (NotFound, BadListing):
        listed[job.id] = False
    except ApiError as error:
        log.warning("cannot find out whether a job has a data listing", job=job.id, code=error.code)
        return
    await observations.save_listings(listed, unclear)
