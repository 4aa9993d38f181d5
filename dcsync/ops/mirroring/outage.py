"""Tell a job that does not work from an outage that all jobs would meet."""

from __future__ import annotations

from dcsync.api.client import DataConnector, ListOptions
from dcsync.errors import ApiError, ApiFault, ApiUnreachable, BadAnswer, DcsyncError, DiskError, RateLimited
from dcsync.ops.context import AccountSettings, SyncContext
from dcsync.ops.observed import Observations

#: When the calls of this many jobs in a row have failed, the job list shows whether the API works at all.
_JOBS_IN_A_ROW = 2


class OutageWatch:
    """Watches the errors of one account's jobs during a run."""

    def __init__(self, context: SyncContext, account: AccountSettings, *, dry_run: bool) -> None:
        self._context = context
        self._account = account
        self._dry_run = dry_run
        # On several hosts, each job has a run of its own.
        self._in_a_row = context.unanswered

    def note_success(self) -> None:
        """Note that a job was mirrored, or that the job list was read."""
        self._in_a_row.pop(self._account.name, None)

    async def check(self, error: DcsyncError) -> None:
        """Raise if the error of a job comes from an outage. Return if the job alone may have met it.

        An API that does not answer for two jobs in a row, nor for the job list, is down: the error of the list is
        raised. A mirror that cannot be written is out of order: the disk's error is raised.
        """
        if isinstance(error, DiskError) and not self._dry_run:
            await self._context.disk.run(self._context.root.check_writable)
        if not isinstance(error, ApiFault | ApiUnreachable | BadAnswer):
            self.note_success()
            return
        name = self._account.name
        self._in_a_row[name] = self._in_a_row.get(name, 0) + 1
        if self._in_a_row[name] >= _JOBS_IN_A_ROW:
            unread = await Observations(self._context.manifest, name).unread_since()
            projects = sorted(self._account.projects, key=lambda project: project in unread)
            await ask_list(self._context.api, self._account, projects[0] if projects else None)
            self.note_success()


async def ask_list(api: DataConnector, account: AccountSettings, project: str | None) -> None:
    """Ask for one entry of a job list. Return if Autodesk answers, also if it refuses. Raise the error otherwise."""
    try:
        await api.jobs(account.id, ListOptions(limit=1, project_id=project))
    except (ApiFault, ApiUnreachable, BadAnswer, RateLimited):
        raise
    except ApiError:
        pass  # a refusal is an answer
