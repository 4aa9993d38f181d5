"""An API that answers from tables, without a network, and notes what it was asked for."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, cast

from dcsync.api.client import MAX_PAGES, DataConnector, ListOptions, OnBad
from dcsync.api.transport import CallWatch
from dcsync.core.model import AccountId, DataRequest, Job, JobId, ListedFile, RequestId
from dcsync.core.wire import BadEntry
from dcsync.errors import DcsyncError, NotFound

if TYPE_CHECKING:
    from dcsync.api.limiter import OnWait
    from dcsync.api.transport import ApiTransport

Page = Sequence[Job | BadEntry | DcsyncError]


class CannedApi(DataConnector):
    """Job lists by project (None is the whole account), data requests, and the errors of each."""

    def __init__(
        self,
        pages: Iterable[Page] = (),
        *,
        projects: dict[str, Iterable[Page]] | None = None,
        requests: Iterable[DataRequest] = (),
        failing: dict[str, Exception] | None = None,
    ) -> None:
        super().__init__(cast("ApiTransport", None))
        self._lists: dict[str | None, list[Page]] = {None: list(pages)}
        self._lists |= {project: list(found) for project, found in (projects or {}).items()}
        self._requests = {request.id: request for request in requests}
        self.failing = failing or {}
        #: The jobs whose data listing is empty.
        self.empty = set[JobId]()
        self._is_tried_once = False
        #: Such as "page 1", "page 2 of ONE", "probe", "probe ONE", "request R1", "requests", "listing J1", and
        #: "listing J1, once" of an API that does not repeat its calls.
        self.asked: list[str] = []

    def with_own_count(self, on_wait: OnWait) -> CannedApi:
        clone = copy.copy(self)
        clone._watch = CallWatch(on_wait=on_wait)
        return clone

    def with_one_attempt(self) -> CannedApi:
        clone = copy.copy(self)
        clone._is_tried_once = True
        return clone

    def _call(self, what: str) -> None:
        self._watch.add()
        self.asked.append(f"{what}, once" if self._is_tried_once else what)
        if what in self.failing:
            raise self.failing[what]

    async def listing(self, account: AccountId, job: JobId) -> tuple[ListedFile, ...]:
        """No job has a listing, unless it fails otherwise."""
        self._call(f"listing {job}")
        if job in self.empty:
            return ()
        message = f"no listing of {job}"
        raise NotFound(message)

    async def job_pages(
        self,
        account: AccountId,
        options: ListOptions,
        *,
        request: RequestId | None = None,
        on_bad: OnBad | None = None,
        most_pages: int = MAX_PAGES,
        on_endless: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[list[Job]]:
        of = "" if options.project_id is None else f" of {options.project_id}"
        pages = self._lists[options.project_id]
        for number, page in enumerate(pages[:most_pages], 1):
            self._call(f"page {number}{of}")
            jobs = [entry for entry in page if isinstance(entry, Job)]
            for entry in page:
                if isinstance(entry, BadEntry) and on_bad is not None:
                    on_bad(entry)
            if jobs:
                yield jobs
        if not pages:
            self._call(f"page 1{of}")
        if len(pages) > most_pages:
            on_endless()

    async def jobs(
        self, account: AccountId, options: ListOptions | None = None, *, request: RequestId | None = None
    ) -> list[Job]:
        options = options or ListOptions()
        of = "" if options.project_id is None else f" {options.project_id}"
        self._call(f"probe{of}" if options.limit == 1 else f"jobs{of}")
        return []

    async def request(self, account: AccountId, request: RequestId) -> DataRequest:
        self._call(f"request {request}")
        if request not in self._requests:
            message = f"no data request {request}"
            raise NotFound(message)
        return self._requests[request]

    async def requests(
        self,
        account: AccountId,
        options: ListOptions | None = None,
        *,
        on_bad: OnBad | None = None,
        on_endless: Callable[[], None] = lambda: None,
    ) -> list[DataRequest]:
        self._call("requests")
        return list(self._requests.values())
