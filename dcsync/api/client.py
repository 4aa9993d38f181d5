"""The Data Connector's endpoints, typed; paging that misses nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

import structlog

from dcsync.api.transport import ApiTransport
from dcsync.core import wire
from dcsync.core.model import AccountId, DataRequest, Hub, Job, JobId, Json, ListedFile, RequestId, SignedFile
from dcsync.core.names import printable
from dcsync.core.ports import TokenSource
from dcsync.errors import BadAnswer, BadListing

log = structlog.get_logger(__name__)

T = TypeVar("T", Job, DataRequest)
T2 = TypeVar("T2")

#: What is asked for; the maximum is not documented, and a server that gives less is believed by what it sends.
PAGE_SIZE = 100
#: A list that goes on for longer has lost its way: 24 jobs a day for 30 days are 720.
MAX_PAGES = 1000
#: How often a list that shifts under the reader is read anew before what was seen is taken.
MAX_RESTARTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOptions:
    """The lists' own options, as the API documents them. `limit` counts what is returned in all."""

    sort: str = "desc"
    limit: int | None = None
    offset: int = 0
    sort_fields: tuple[str, ...] = ()
    filters: Mapping[str, str] | None = None
    project_id: str | None = None

    def params(self) -> dict[str, str]:
        """Return the query of the options that do not page."""
        params = {"sort": self.sort}
        if self.sort_fields:
            params["sortFields"] = ",".join(self.sort_fields)
        if self.project_id is not None:
            params["projectId"] = self.project_id
        params.update({f"filter[{field}]": value for field, value in (self.filters or {}).items()})
        return params


class DataConnector:
    """The API of one client id. Each method is one call, lists one call a page; a retry is another call."""

    def __init__(self, transport: ApiTransport) -> None:
        #: Calls made through this object, whether they were answered or not.
        self.calls = 0
        self._transport = transport

    def with_own_count(self) -> DataConnector:
        """Return the same API with a count of its own, from zero. All else is shared: quota, tokens, and pauses.

        Accounts run side by side, so each one counts apart.
        """
        return DataConnector(self._transport)

    @property
    def tokens(self) -> TokenSource:
        """Where its access tokens come from."""
        return self._transport.tokens

    @property
    def skew_s(self) -> float | None:
        """How far this machine's clock is ahead of the last answer's Date, to the second; None before an answer."""
        return self._transport.skew_s

    async def hubs(self) -> tuple[Hub, ...]:
        """Return the accounts that the user sees."""
        path = "/project/v1/hubs"
        return _parsed(path, wire.parse_hubs, await self._get(path))

    async def request(self, account: AccountId, request: RequestId) -> DataRequest:
        """Return one data request."""
        path = f"{_root(account)}/requests/{_segment(request)}"
        return _parsed(path, wire.parse_request, await self._get(path))

    async def requests(self, account: AccountId, options: ListOptions | None = None) -> list[DataRequest]:
        """Return data requests, each once, in the server's order."""
        return await self._all(f"{_root(account)}/requests", wire.parse_request, options or ListOptions())

    async def jobs(
        self, account: AccountId, options: ListOptions | None = None, *, request: RequestId | None = None
    ) -> list[Job]:
        """Return jobs, of one request or of all, each once, in the server's order."""
        return await self._all(_jobs_path(account, request), wire.parse_job, options or ListOptions())

    def job_pages(
        self, account: AccountId, options: ListOptions, *, request: RequestId | None = None
    ) -> AsyncIterator[list[Job]]:
        """Yield jobs page by page, each job once; the caller stops when it has seen enough."""
        return self._pages(_jobs_path(account, request), wire.parse_job, options)

    async def listing(self, account: AccountId, job: JobId) -> tuple[ListedFile, ...]:
        """Return a job's data listing. `NotFound` when there is none; `BadListing` when it cannot be mirrored."""
        path = f"{_root(account)}/jobs/{_segment(job)}/data-listing"
        value = await self._get(path)
        try:
            return wire.parse_listing(value)
        except wire.WireError as error:
            raise BadListing(str(error)) from None

    async def sign(self, account: AccountId, job: JobId, name: str) -> SignedFile:
        """Return a fresh signed URL for one file: good for 60 s to start the download."""
        path = f"{_root(account)}/jobs/{_segment(job)}/data/{_segment(name)}"
        return _parsed(path, lambda value: wire.parse_signed(value, name), await self._get(path))

    async def _get(self, path: str, params: Mapping[str, str] | None = None) -> Json:
        return await self._transport.get(path, params, on_call=self._count)

    def _count(self) -> None:
        self.calls += 1

    async def _all(self, path: str, parse: Callable[[Json], T], options: ListOptions) -> list[T]:
        found: list[T] = []
        async for page in self._pages(path, parse, options):
            found.extend(page)
            if options.limit is not None and len(found) >= options.limit:
                return found[: options.limit]
        return found

    async def _pages(self, path: str, parse: Callable[[Json], T], options: ListOptions) -> AsyncIterator[list[T]]:
        """Walk a list with one entry of overlap.

        Newest first, a job that appears while paging pushes the others to later pages: they come twice and are known by
        their id. One that disappears pulls them to earlier pages, where they would be missed: then the overlapping
        entry is not the one expected, and the list is read from the top again (FAULTS A13). Which page is the last is
        told by an empty one, by the same one three times (a server that ignores `offset`, FAULTS A17), or by a short
        one that the total does not contradict.
        """
        seen: set[str] = set()
        offset, restarts, last_id = options.offset, 0, None
        before, repeats = None, 0
        for _ in range(MAX_PAGES):
            want = PAGE_SIZE if options.limit is None else min(PAGE_SIZE, max(1, options.limit - len(seen) + 1))
            page = _parsed(
                path,
                wire.parse_page,
                await self._get(path, {**options.params(), "limit": str(want), "offset": str(offset)}),
            )
            entries, problems = wire.parse_each(page.results, parse)
            for problem in problems:
                log.warning("an entry of a list cannot be used", path=path, problem=printable(problem, 200))
            # The overlap is one entry: an empty page means that the list shrank by more than one page.
            shifted = not page.results or (bool(entries) and entries[0].id not in seen)
            if last_id is not None and shifted and restarts < MAX_RESTARTS:
                offset, restarts, last_id = options.offset, restarts + 1, None
                continue
            new = list({entry.id: entry for entry in entries if entry.id not in seen}.values())
            seen.update(entry.id for entry in new)
            if new:
                yield new
            # Nothing new is not the end: a list that is begun anew repeats itself first, and jobs that appear push what
            # was seen to later pages. The same page three times is.
            ids = [entry.id for entry in entries]
            repeats, before = (repeats + 1 if ids == before else 0), ids
            at_end = not page.results or _is_last(page, offset, want) or (not new and len(page.results) == 1)
            if at_end or repeats > 1:
                return
            last_id = ids[-1] if ids else last_id
            offset += max(1, len(page.results) - 1)
        log.warning("a list has no end", path=path, pages=MAX_PAGES)


def _is_last(page: wire.Page, offset: int, wanted: int) -> bool:
    """A page shorter than the limit in force is the last, unless the total says that more follow.

    A server may clamp the limit without a word; then the total is what tells, and `totalResults` is ambiguous: one that
    counts the page only is equal to its length on every page and says nothing.
    """
    got = len(page.results)
    if got >= min(wanted, page.limit or wanted):
        return False
    if page.total is None:
        return got < min(wanted, page.limit or 0)
    return page.total <= offset + got and (page.limit is not None or page.total != got)


def _parsed(path: str, parse: Callable[[Json], T2], value: Json) -> T2:
    try:
        return parse(value)
    except wire.WireError as error:
        message = f"GET {path} brought something else than documented: {error}"
        raise BadAnswer(message, status=200) from None


def _root(account: AccountId) -> str:
    return f"/data-connector/v1/accounts/{_segment(account)}"


def _jobs_path(account: AccountId, request: RequestId | None) -> str:
    return f"{_root(account)}/jobs" if request is None else f"{_root(account)}/requests/{_segment(request)}/jobs"


def _segment(value: str) -> str:
    return quote(value, safe="", errors="surrogatepass")
