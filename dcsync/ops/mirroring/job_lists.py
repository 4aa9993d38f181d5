"""Read the job lists of an account: one for the whole account, or one for each configured project."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from dcsync.api.client import DataConnector, ListOptions
from dcsync.core.lifecycle import EXTRACT_LIFE, JobState, is_known_for_good, state_for
from dcsync.core.model import Job, JobId
from dcsync.core.ports import KnownJob
from dcsync.core.wire import BadEntry
from dcsync.errors import ApiError, ApiFault, ApiUnreachable, BadAnswer, RateLimited
from dcsync.ops.context import AccountSettings
from dcsync.ops.mirroring.outage import ask_list
from dcsync.ops.project_lists import of_projects

log = structlog.get_logger(__name__)

#: A job that was created earlier can no longer bring an extract. A job may take some hours to complete.
_LIST_LIFE = EXTRACT_LIFE + timedelta(days=1)
#: A list is left after this many pages. Autodesk allows 24 jobs a day for each user, so 30 days fit into 8 pages.
MOST_PAGES = 200
#: The same for a list that was left before. Its first pages still show what is new.
MOST_PAGES_AGAIN = 10
#: When two projects in a row do not answer, this many others are asked. If none of them answers, it is an outage.
_MOST_ASKED = 3


@dataclass(slots=True, kw_only=True)
class JobLists:
    """What the job lists of an account have shown."""

    jobs: dict[JobId, Job] = field(default_factory=dict)
    #: Entries that dcsync cannot use.
    unusable: list[BadEntry] = field(default_factory=list)
    #: The projects whose list was read.
    read: list[str | None] = field(default_factory=list)
    #: The projects whose list could not be read, each with its error. Nothing of their lists counts.
    unread: dict[str, ApiError] = field(default_factory=dict)
    #: The projects whose list did not end. None is the list of the whole account.
    endless: list[str | None] = field(default_factory=list)


async def read_job_lists(
    api: DataConnector,
    account: AccountSettings,
    known: Mapping[JobId, KnownJob],
    now: datetime,
    *,
    endless: Collection[str | None] = (),
) -> JobLists:
    """Read each list newest first, until a page has only known jobs, or jobs older than Autodesk keeps extracts.

    A project that cannot be read stops no other one. Raises the `ApiError` of the first list if none could be read, or
    that of an outage. `endless` are the lists that did not end at the poll before.
    """
    lists, silent = JobLists(), 0
    for project in dict.fromkeys(account.projects) or (None,):
        reader = _Reader(known=known, project=project, now=now)
        try:
            await reader.read(api, account, MOST_PAGES_AGAIN if project in endless else MOST_PAGES)
        except RateLimited:
            raise
        except ApiError as error:
            silent = silent + 1 if isinstance(error, ApiFault | ApiUnreachable) else 0
            if project is None or (silent > 1 and await _is_outage(api, account, lists, project)):
                raise
            lists.unread[project] = error
            log.warning(
                "project not read",
                account=account.name,
                project=project,
                code=error.code,
                error=error.message,
                in_result="sync demo",
            )
            continue
        silent = 0
        lists.read.append(project)
        lists.jobs.update(reader.jobs)
        lists.unusable.extend(reader.unusable)
        lists.endless.extend([project] if reader.was_left else [])
    if lists.unread and len(lists.unread) == len(set(account.projects)):
        raise of_projects(next(iter(lists.unread.values())), *lists.unread)
    return lists


async def _is_outage(api: DataConnector, account: AccountSettings, lists: JobLists, silent: str) -> bool:
    """Whether no other project answers either. Those that were not asked yet come first."""
    others = [project for project in dict.fromkeys(account.projects) if project not in {*lists.unread, silent}]
    after = others[len(lists.read) :] + others[: len(lists.read)]
    for project in after[:_MOST_ASKED]:
        try:
            await ask_list(api, account, project)
        except (ApiFault, ApiUnreachable, BadAnswer):
            continue
        return False
    return True


@dataclass(slots=True, kw_only=True)
class _Reader:
    """One list, while it is read."""

    known: Mapping[JobId, KnownJob]
    project: str | None
    now: datetime
    jobs: dict[JobId, Job] = field(default_factory=dict)
    unusable: list[BadEntry] = field(default_factory=list)
    was_left: bool = False

    async def read(self, api: DataConnector, account: AccountSettings, most_pages: int) -> None:
        waiting = self._waiting()
        pages = api.job_pages(
            account.id,
            ListOptions(project_id=self.project),
            on_bad=self.unusable.append,
            most_pages=most_pages,
            on_endless=self._leave,
        )
        async for page in pages:
            self.jobs.update({job.id: job for job in page})
            oldest = _oldest_if_in_order(page)
            # A waiting job that is not on the pages up to its date is no longer in the list.
            waiting = {
                job: created_at
                for job, created_at in waiting.items()
                if job not in self.jobs and (oldest is None or created_at is None or created_at <= oldest)
            }
            if oldest is not None and self.now - oldest > _LIST_LIFE:
                return
            if not waiting and self._has_no_news(page, in_order=oldest is not None):
                return

    def _leave(self) -> None:
        self.was_left = True

    def _waiting(self) -> dict[JobId, datetime | None]:
        """Return the jobs that are looked for on later pages, with the times when they were created."""
        return {
            known.job.id: known.job.created_at
            for known in self.known.values()
            if known.state is JobState.WAITING
            and (self.project is None or self.project in known.job.projects)
            and (known.job.created_at is None or self.now - known.job.created_at < _LIST_LIFE)
        }

    def _has_no_news(self, page: Sequence[Job], *, in_order: bool) -> bool:
        return all(self._is_settled(job, in_order=in_order) for job in page)

    def _is_settled(self, job: Job, *, in_order: bool) -> bool:
        known = self.known.get(job.id)
        if known is None:
            # Old jobs count only on a page that is in order. The newest jobs may follow them otherwise.
            return in_order and state_for(job, None, self.now) is JobState.TOO_OLD
        return is_known_for_good(job, known.state, self.now)


def _oldest_if_in_order(page: Sequence[Job]) -> datetime | None:
    """Return the time of a page's last job if the page is in order, newest first."""
    dates = [job.created_at for job in page if job.created_at is not None]
    in_order = len(dates) == len(page) and (len(page) == 1 or dates[0] > dates[-1])
    return dates[-1] if in_order else None
