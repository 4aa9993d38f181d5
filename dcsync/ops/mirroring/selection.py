"""Jobs of which the configuration selected no table. They are due as soon as it selects other files."""

from __future__ import annotations

import json
from collections.abc import Mapping

from dcsync.core.lifecycle import JobState
from dcsync.core.model import AccountName, JobId
from dcsync.core.ports import KnownJob
from dcsync.errors import NothingSelected
from dcsync.manifest import SqlManifest, StoredValues
from dcsync.ops.context import AccountSettings


def is_filtered(known: KnownJob) -> bool:
    """Whether the last attempt at a job failed because the configuration selects no table of it."""
    return known.state is JobState.FAILED and known.reason_code == NothingSelected.code


async def note_filtered(manifest: SqlManifest, account: AccountSettings, job: JobId) -> None:
    """Remember the selection that left no table of a job."""
    jobs = await manifest.jobs(account.name, states={JobState.FAILED})
    noted = {job: digest for job, digest in (await _noted(manifest, account.name)).items() if job in jobs}
    noted[job] = account.selection.digest
    await StoredValues(manifest).save(_key(account.name), json.dumps(noted))


async def reselected(
    manifest: SqlManifest, account: AccountSettings, jobs: Mapping[JobId, KnownJob]
) -> frozenset[JobId]:
    """Return the jobs whose last attempt had another selection, so that the current one may select tables."""
    filtered = [job for job, known in jobs.items() if is_filtered(known)]
    if not filtered:
        return frozenset()
    noted = await _noted(manifest, account.name)
    return frozenset(job for job in filtered if noted.get(job) != account.selection.digest)


async def _noted(manifest: SqlManifest, account: AccountName) -> dict[str, str]:
    noted: dict[str, str] = json.loads(await StoredValues(manifest).load(_key(account)) or "{}")
    return noted


def _key(account: AccountName) -> str:
    return f"selection:{account}"
