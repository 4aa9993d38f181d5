"""The handlers of the Data Connector API and of the hubs. `oauth_handlers` has those of OAuth."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from urllib.parse import quote

from aiohttp import web
from aiohttp.typedefs import Handler

from dcsync.sandbox.access import no_hub, refuse_call, refuse_projects, user_of
from dcsync.sandbox.breakage import FAULT, break_answer, break_call, hang_up
from dcsync.sandbox.faults import Fault
from dcsync.sandbox.oauth_handlers import OAuthHandlers
from dcsync.sandbox.query import JOBS, REQUEST_JOBS, REQUESTS, ListFields, QueryError, select
from dcsync.sandbox.refusals import REQUEST_ID, bad_request, not_found, warnings
from dcsync.sandbox.request_handlers import RequestHandlers
from dcsync.sandbox.service_account_handlers import ServiceAccountHandlers
from dcsync.sandbox.state import Origin, State
from dcsync.sandbox.views import job_json, request_json, stamp
from dcsync.sandbox.world import JobEntry, RequestEntry


class ApiHandlers:
    """Answers like the Data Connector API. Faults come first, then the token, the rate limit, and the response."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._calls: deque[float] = deque()

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the routes."""
        account = "/data-connector/v1/accounts/{account}"
        return [
            web.get("/project/v1/hubs", self._hubs),
            web.get("/project/v1/hubs/{hub}", self._hub),
            web.get(f"{account}/requests", self._requests),
            web.get(f"{account}/requests/{{request}}", self._request),
            web.get(f"{account}/requests/{{request}}/jobs", self._request_jobs),
            web.get(f"{account}/jobs", self._jobs),
            web.get(f"{account}/jobs/{{job}}", self._job),
            web.get(f"{account}/jobs/{{job}}/data-listing", self._listing),
            web.get(rf"{account}/jobs/{{job}}/data/{{name:[\s\S]+}}", self._sign),
            *RequestHandlers(self._state).routes(),
            *OAuthHandlers(self._state).routes(),
            *ServiceAccountHandlers(self._state).routes(),
        ]

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Log the call, apply its fault, check its token, and count it against the rate limit."""
        state = self._state
        server: Origin = "token" if request.path.startswith("/authentication/") else "api"
        status = 0
        try:
            if state.options.latency_s:
                await asyncio.sleep(state.options.latency_s)
            fault = state.faults.take(server, request.raw_path)
            if fault is not None:
                request[FAULT] = fault
            response = await self._answer(request, handler, fault, counted=server == "api")
            status = response.status
            return response
        except ConnectionError:
            # The client closed the connection, which is not a failure of the sandbox.
            return hang_up(request)
        finally:
            state.log_call(server, request, status, 0)

    async def _answer(
        self,
        request: web.Request,
        handler: Handler,
        fault: Fault | None,
        *,
        counted: bool,
    ) -> web.StreamResponse:
        if fault is not None:
            broken = await break_call(request, fault)
            if broken is not None:
                return broken
        if counted:
            refusal = refuse_call(request, self._state) or self._check_quota(request)
            if refusal is not None:
                return refusal
            self._state.world.run_schedules()
        response: web.StreamResponse = await handler(request)
        return await break_answer(request, response)

    def _check_quota(self, request: web.Request) -> web.Response | None:
        """Allow 60 calls in any 60 s over all Data Connector endpoints."""
        quota = self._state.options.quota_per_minute
        if quota is None or not request.path.startswith("/data-connector/"):
            return None
        now = self._state.world.now()
        while self._calls and now - self._calls[0] >= 60:
            self._calls.popleft()
        if len(self._calls) >= quota:
            after = max(1, int(61 - (now - self._calls[0])))
            body = {"developerMessage": "Quota limit exceeded."}
            return web.json_response(body, status=429, headers={"Retry-After": str(after)})
        self._calls.append(now)
        return None

    async def _hubs(self, request: web.Request) -> web.Response:
        hubs = self._state.world.hubs_of(user_of(request))
        answer: dict[str, object] = {"jsonapi": {"version": "1.0"}, "data": hubs}
        fault = request.get(FAULT)
        if fault is not None and fault.kind == "warn":
            answer["meta"] = warnings(fault.body.decode())
            return web.json_response(answer, headers={"x-request-id": REQUEST_ID})
        return web.json_response(answer)

    async def _hub(self, request: web.Request) -> web.Response:
        wanted = request.match_info["hub"]
        hub = next((hub for hub in self._state.world.hubs_of(user_of(request)) if hub["id"] == wanted), None)
        return no_hub(wanted) if hub is None else web.json_response({"jsonapi": {"version": "1.0"}, "data": hub})

    async def _requests(self, request: web.Request) -> web.Response:
        world = self._state.world
        rows = [request_json(world, entry) for entry in world.requests.values() if self._is_visible(request, entry)]
        return self._page(request, rows, REQUESTS)

    async def _request(self, request: web.Request) -> web.Response:
        entry = self._find_request(request)
        return not_found("request") if entry is None else web.json_response(request_json(self._state.world, entry))

    async def _request_jobs(self, request: web.Request) -> web.Response:
        entry, world = self._find_request(request), self._state.world
        if entry is None:
            return not_found("request")
        rows = [job_json(world, job) for job in world.jobs.values() if job.request is entry]
        return self._page(request, rows, REQUEST_JOBS)

    async def _jobs(self, request: web.Request) -> web.Response:
        world = self._state.world
        rows = [job_json(world, job) for job in world.jobs.values() if self._is_visible(request, job.request)]
        return self._page(request, rows, JOBS)

    async def _job(self, request: web.Request) -> web.Response:
        job = self._find_job(request)
        return not_found("job") if job is None else web.json_response(job_json(self._state.world, job))

    async def _listing(self, request: web.Request) -> web.Response:
        world, job = self._state.world, self._find_job(request)
        if job is None or not world.has_extract(job):
            return not_found("data listing")
        if job.listing is not None:
            return web.json_response(job.listing)
        rows = [
            # Autodesk sends sizes as numbers or as strings, so the sandbox sends both.
            {"name": name, "createdAt": stamp(job.created_at), "size": str(blob.size) if index % 2 else blob.size}
            for index, (name, blob) in enumerate(world.extract(job.id).items())
        ]
        return web.json_response(rows)

    async def _sign(self, request: web.Request) -> web.Response:
        world, job = self._state.world, self._find_job(request)
        name = request.match_info["name"]
        if job is None or not world.has_extract(job) or name not in world.extract(job.id):
            return not_found("file")
        if self._state.options.sign is not None:
            url = self._state.options.sign(job.id, name)
        else:
            # S3 clients escape at least all characters that are not unreserved. The sandbox escapes a few more.
            key = quote(f"sandbox data/{job.id}/{name}", safe="").replace("~", "%7E").replace("%2F", "/", 1)
            raw_path = f"/dc-extracts/{key}"
            url = f"{self._state.storage_url}{raw_path}?{self._state.signer.sign(raw_path, world.now())}"
        return web.json_response({"name": name, "size": world.extract(job.id)[name].size, "signedUrl": url})

    def _find_request(self, request: web.Request) -> RequestEntry | None:
        entry = self._state.world.requests.get(request.match_info["request"])
        return entry if entry is not None and self._is_visible(request, entry) else None

    def _find_job(self, request: web.Request) -> JobEntry | None:
        job = self._state.world.jobs.get(request.match_info["job"])
        return job if job is not None and self._is_visible(request, job.request) else None

    def _is_visible(self, request: web.Request, entry: RequestEntry) -> bool:
        """Return whether a data request belongs to the account of a call, and to its user."""
        own = request.match_info["account"].lower() == entry.account_id
        return own and self._state.world.is_visible(entry, user_of(request))

    def _page(self, request: web.Request, rows: Sequence[dict[str, object]], fields: ListFields) -> web.Response:
        try:
            selected = select(rows, list(request.query.items()), fields)
        except QueryError as error:
            return bad_request(str(error))
        named = {request.query[name] for name in ("projectId", "filter[projectId]") if name in request.query}
        refusal = None if fields is REQUEST_JOBS else refuse_projects(request, self._state, named)
        if refusal is not None:
            return refusal
        top = self._state.options.max_limit
        limit = selected.limit if top is None else min(selected.limit, top)
        results = selected.rows[selected.offset : selected.offset + limit]
        pagination = {"limit": limit, "offset": selected.offset, "totalResults": len(selected.rows)}
        return web.json_response({"pagination": pagination, "results": results})
