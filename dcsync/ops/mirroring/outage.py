"""Tell a job that does not work from an outage that all jobs would meet."""

from __future__ import annotations

from dcsync.api.client import DataConnector, ListOptions
from dcsync.errors import ApiError, ApiFault, ApiUnreachable, DcsyncError, DiskError
from dcsync.ops.context import AccountSettings, SyncContext

#: When the calls of this many jobs in a row have failed, the job list shows whether the API works at all.
_JOBS_IN_A_ROW = 2


class OutageWatch:
    """Watches the errors of one account's jobs during a run."""

    def __init__(self, context: SyncContext, account: AccountSettings, *, dry_run: bool) -> None:
        self._context = context
        self._account = account
        self._dry_run = dry_run
        self._in_a_row = 0

    def note_success(self) -> None:
        """Note that a job was mirrored."""
        self._in_a_row = 0

    async def check(self, error: DcsyncError) -> None:
        """Raise if the error of a job comes from an outage. Return if the job alone may have met it.

        An API that does not answer for two jobs in a row, nor for the job list, is down: the error of the list is
        raised. A mirror that cannot be written is out of order: the disk's error is raised.
        """
        if isinstance(error, DiskError) and not self._dry_run:
            await self._context.disk.run(self._context.root.check_writable)
        if not isinstance(error, ApiFault | ApiUnreachable):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        if self._in_a_row >= _JOBS_IN_A_ROW:
            await self._check_list(self._context.api)
            self._in_a_row = 0

    async def _check_list(self, api: DataConnector) -> None:
        projects = self._account.projects or (None,)
        options = ListOptions(limit=1, project_id=projects[0])
        try:
            await api.jobs(self._account.id, options)
        except (ApiFault, ApiUnreachable):
            raise
        except ApiError:
            # It answers.
            return
