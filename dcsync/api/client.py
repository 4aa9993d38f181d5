"""The Data Connector's endpoints with typed results, and paging that misses no entry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar
from urllib.parse import quote

import structlog

from dcsync.api.limiter import OnWait
from dcsync.api.transport import ATTEMPTS, ApiTransport, CallWatch
from dcsync.core import wire
from dcsync.core.model import AccountId, DataRequest, Hub, Job, JobId, Json, ListedFile, RequestId, SignedFile
from dcsync.core.names import printable
from dcsync.core.new_request import NewRequest, RequestChanges, create_json, update_json
from dcsync.core.ports import TokenSource
from dcsync.core.reasons import warnings_in, with_request_id
from dcsync.errors import BadAnswer, BadListing, NotFound, Unconfirmed

log = structlog.get_logger(__name__)

T = TypeVar("T", Job, DataRequest)
T2 = TypeVar("T2")
T3 = TypeVar("T3")
#: Receives the entries of a list that dcsync cannot use.
OnBad: TypeAlias = Callable[[wire.BadEntry], None]

#: The page size that dcsync requests. The maximum is not documented, so smaller pages are accepted as they come.
PAGE_SIZE = 100
#: Paging stops here: a list with more pages never ends. 24 jobs a day for 30 days are only 720 entries.
MAX_PAGES = 1000
#: The same for data requests, which people create one by one.
MAX_REQUEST_PAGES = 100
#: How often a list that changes while it is read is read again from the top. After that the seen entries are used.
MAX_RESTARTS = 3
#: How often a change or a deletion is sent until an answer arrives.
_SENDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOptions:
    """The documented options of a list call. `limit` is the total number of entries, not the page size.

    Without `sort` and `sort_fields`, the newest entries come first.
    """

    sort: str | None = None
    limit: int | None = None
    offset: int = 0
    sort_fields: tuple[str, ...] = ()
    filters: Mapping[str, str] | None = None
    project_id: str | None = None

    def params(self) -> dict[str, str]:
        """Return the query parameters of all options except `limit` and `offset`."""
        params = {}
        if self.sort is not None or not self.sort_fields:
            # Each field has an order of its own, so `sort` is only sent with them on request.
            params["sort"] = self.sort or "desc"
        if self.sort_fields:
            params["sortFields"] = ",".join(self.sort_fields)
        if self.project_id is not None:
            params["projectId"] = self.project_id
        params.update({f"filter[{field}]": value for field, value in (self.filters or {}).items()})
        return params


class DataConnector:
    """The API of one client ID. Each method makes one call, lists one call per page. Each retry is one more call."""

    def __init__(self, transport: ApiTransport, *, watch: CallWatch | None = None, attempts: int = ATTEMPTS) -> None:
        self._transport = transport
        self._watch = watch or CallWatch()
        self._attempts = attempts

    @property
    def calls(self) -> int:
        """Calls made through this object, including those that failed."""
        return self._watch.calls

    def with_own_count(self, on_wait: OnWait) -> DataConnector:
        """Return the same API with its own call count, which starts at zero. Rate limit, tokens and pauses are shared.

        Accounts run concurrently, so each account counts its own calls. `on_wait` is told when one of them waits.
        """
        return DataConnector(self._transport, watch=CallWatch(on_wait=on_wait))

    def with_one_attempt(self) -> DataConnector:
        """Return the same API with the same call count. Its calls for a single job are not retried.

        A job that failed before has a back-off of its own.
        """
        return DataConnector(self._transport, watch=self._watch, attempts=1)

    @property
    def tokens(self) -> TokenSource:
        """The source of access tokens."""
        return self._transport.tokens

    @property
    def skew_s(self) -> float | None:
        """Whole seconds by which this machine's clock is ahead of the last response's Date. None before a response."""
        return self._transport.skew_s

    async def hubs(self, *, on_warning: Callable[[str], None] = lambda _: None) -> tuple[Hub, ...]:
        """Return the hubs that the user can see. `on_warning` gets Autodesk's warnings: regions that are not listed."""
        path = "/project/v1/hubs"
        headers: dict[str, str] = {}
        value = await self._transport.get(path, watch=self._watch, on_headers=headers.update)
        hubs = _parsed(path, wire.parse_hubs, value)
        for warning in warnings_in(value):
            on_warning(with_request_id(warning, headers))
        return hubs

    async def request(self, account: AccountId, request: RequestId) -> DataRequest:
        """Return one data request."""
        path = f"{_root(account)}/requests/{_segment(request)}"
        return _parsed(path, wire.parse_request, await self._get(path))

    async def requests(
        self,
        account: AccountId,
        options: ListOptions | None = None,
        *,
        on_bad: OnBad | None = None,
        on_endless: Callable[[], None] = lambda: None,
    ) -> list[DataRequest]:
        """Return data requests without duplicates, in the API's order. `on_bad` gets the entries that are left out.

        `on_endless` is called when the list does not end. What was read is returned.
        """
        path, options = f"{_root(account)}/requests", options or ListOptions()
        if options.project_id is not None:
            # Autodesk documents no other way to name the project of data requests (docs/project/api.md §8).
            filters = {"projectId": options.project_id, **(options.filters or {})}
            options = replace(options, project_id=None, filters=filters)
        pages = self._pages(path, wire.parse_request, options, on_bad, MAX_REQUEST_PAGES, on_endless)
        return await _all(pages, options.limit)

    async def jobs(
        self, account: AccountId, options: ListOptions | None = None, *, request: RequestId | None = None
    ) -> list[Job]:
        """Return the jobs of one data request or of all, without duplicates, in the API's order."""
        options = options or ListOptions()
        return await _all(self._pages(_jobs_path(account, request), wire.parse_job, options), options.limit)

    def job_pages(
        self,
        account: AccountId,
        options: ListOptions,
        *,
        request: RequestId | None = None,
        on_bad: OnBad | None = None,
        most_pages: int = MAX_PAGES,
        on_endless: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[list[Job]]:
        """Yield jobs page by page, without duplicates. The caller may stop at any page.

        `on_bad` gets the entries that are left out. It may get one twice, because pages overlap. If the list has more
        than `most_pages`, `on_endless` is called.
        """
        return self._pages(_jobs_path(account, request), wire.parse_job, options, on_bad, most_pages, on_endless)

    async def listing(self, account: AccountId, job: JobId) -> tuple[ListedFile, ...]:
        """Return a job's data listing. Raises `NotFound` if the job has no listing, `BadListing` if it is malformed."""
        path = f"{_root(account)}/jobs/{_segment(job)}/data-listing"
        value = await self._get_of_job(path)
        try:
            return wire.parse_listing(value)
        except wire.WireError as error:
            raise BadListing(str(error)) from None

    async def sign(self, account: AccountId, job: JobId, name: str) -> SignedFile:
        """Return a new signed URL for one file. The download must start within 60 s."""
        path = f"{_root(account)}/jobs/{_segment(job)}/data/{_segment(name)}"
        return _parsed(path, lambda value: wire.parse_signed(value, name), await self._get_of_job(path))

    async def create_request(self, account: AccountId, wanted: NewRequest) -> DataRequest:
        """Create a data request. Needs the scope data:create.

        Raises `Unconfirmed` if it may have been created: look for it before you try again (`ops.requests.create`).
        """
        path = f"{_root(account)}/requests"
        return _confirmed(
            f"POST {path}", await self._transport.send("POST", path, create_json(wanted), watch=self._watch)
        )

    async def update_request(self, account: AccountId, current: DataRequest, changes: RequestChanges) -> DataRequest:
        """Change a data request and return it. Needs the scope data:write. A lost answer is repeated."""
        path = f"{_root(account)}/requests/{_segment(current.id)}"
        body = update_json(current, changes)

        async def send() -> DataRequest:
            return _confirmed(f"PATCH {path}", await self._transport.send("PATCH", path, body, watch=self._watch))

        return await _until_confirmed(send)

    async def delete_request(self, account: AccountId, request: RequestId) -> None:
        """Delete a data request. Needs the scope data:write. A lost answer is repeated."""
        path = f"{_root(account)}/requests/{_segment(request)}"
        tries = 0

        async def send() -> None:
            nonlocal tries
            tries += 1
            try:
                await self._transport.send("DELETE", path, watch=self._watch)
            except NotFound:
                # The attempt before has deleted it, although its answer was lost.
                if tries == 1:
                    raise

        await _until_confirmed(send)

    async def _get(self, path: str, params: Mapping[str, str] | None = None) -> Json:
        return await self._transport.get(path, params, watch=self._watch)

    async def _get_of_job(self, path: str) -> Json:
        return await self._transport.get(path, watch=self._watch, attempts=self._attempts, of_job=True)

    async def _pages(
        self,
        path: str,
        parse: Callable[[Json], T],
        options: ListOptions,
        on_bad: OnBad | None = None,
        most_pages: int = MAX_PAGES,
        on_endless: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[list[T]]:
        """Read a list page by page, with one entry of overlap between pages (docs/project/faults.md A13).

        Lists are sorted newest first. A job that appears while paging moves the other jobs to later pages. They are
        returned twice and recognised by their ID. A job that disappears moves the others to earlier pages, where they
        would be missed. The overlapping entry then differs from the expected one, and the list is read from the top.

        The list ends with an empty page, with the same page three times (an API that ignores `offset`,
        docs/project/faults.md A17), or with a short page that the total does not contradict.
        """
        seen: set[str] = set()
        offset, restarts, last_id = options.offset, 0, None
        before, repeats = None, 0
        for _ in range(most_pages):
            want = PAGE_SIZE if options.limit is None else min(PAGE_SIZE, max(1, options.limit - len(seen) + 1))
            page = _parsed(
                path,
                wire.parse_page,
                await self._get(path, {**options.params(), "limit": str(want), "offset": str(offset)}),
            )
            entries, bad = wire.parse_each(page.results, parse)
            for entry in bad:
                if on_bad is not None:
                    on_bad(entry)
                problem, told = printable(entry.problem, 200), "" if on_bad is None else "sync demo"
                log.warning("skipped a malformed list entry", path=path, problem=problem, in_result=told)
            # The overlap is one entry, so an empty page means that the list became more than one page shorter.
            shifted = not page.results or (bool(entries) and entries[0].id not in seen)
            if last_id is not None and shifted and restarts < MAX_RESTARTS:
                offset, restarts, last_id = options.offset, restarts + 1, None
                continue
            new = list({entry.id: entry for entry in entries if entry.id not in seen}.values())
            seen.update(entry.id for entry in new)
            if new:
                yield new
            # A page without new entries is not yet the end: a list that is read again starts with known entries, and
            # new jobs move known entries to later pages. The same page three times is the end.
            ids = [entry.id for entry in entries]
            repeats, before = (repeats + 1 if ids == before else 0), ids
            at_end = not page.results or _is_last(page, offset, want) or (not new and len(page.results) == 1)
            if at_end or repeats > 1:
                return
            last_id = ids[-1] if ids else last_id
            offset += max(1, len(page.results) - 1)
        log.warning("list does not end", path=path, pages=most_pages, in_result="sync demo")
        on_endless()


async def _all(pages: AsyncIterator[list[T]], limit: int | None) -> list[T]:
    found: list[T] = []
    async for page in pages:
        found.extend(page)
        if limit is not None and len(found) >= limit:
            return found[:limit]
    return found


def _is_last(page: wire.Page, offset: int, wanted: int) -> bool:
    """Return whether a page is shorter than the limit in force and the total does not announce more entries.

    The API may lower the limit without saying so, and then only the total helps. `totalResults` is ambiguous: where it
    counts only the page, it equals the page's length on every page and means nothing.
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
        message = f"GET {path} returned an undocumented response: {error}"
        raise BadAnswer(message, status=200) from None


def _confirmed(call: str, value: Json) -> DataRequest:
    try:
        return wire.parse_request(value)
    except wire.WireError as error:
        message = f"{call} returned an undocumented response: {error}"
        raise Unconfirmed(message) from None


async def _until_confirmed(send: Callable[[], Awaitable[T3]]) -> T3:
    """Repeat a call without an answer. Only for calls that have the same effect once or several times."""
    for _ in range(_SENDS - 1):
        try:
            return await send()
        except Unconfirmed as error:
            log.warning("repeating a call whose answer was lost", error=error.message)
    return await send()


def _root(account: AccountId) -> str:
    return f"/data-connector/v1/accounts/{_segment(account)}"


def _jobs_path(account: AccountId, request: RequestId | None) -> str:
    return f"{_root(account)}/jobs" if request is None else f"{_root(account)}/requests/{_segment(request)}/jobs"


def _segment(value: str) -> str:
    return quote(value, safe="", errors="surrogatepass")
