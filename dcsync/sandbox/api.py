"""The handlers of the Data Connector API and of the hubs. `oauth_handlers` has those of OAuth."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from urllib.parse import quote

from aiohttp import web
from aiohttp.typedefs import Handler

from dcsync.sandbox.breakage import FAULT, break_call, hang_up
from dcsync.sandbox.faults import Fault
from dcsync.sandbox.oauth_handlers import OAuthHandlers
from dcsync.sandbox.refusals import REQUEST_ID, warnings
from dcsync.sandbox.state import Origin, State
from dcsync.sandbox.world import JobEntry, RequestEntry, job_json, request_json, stamp

_DEFAULT_LIMIT = 20


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
            web.get(f"{account}/requests", self._requests),
            web.get(f"{account}/requests/{{request}}", self._request),
            web.get(f"{account}/requests/{{request}}/jobs", self._request_jobs),
            web.get(f"{account}/jobs", self._jobs),
            web.get(f"{account}/jobs/{{job}}", self._job),
            web.get(f"{account}/jobs/{{job}}/data-listing", self._listing),
            web.get(rf"{account}/jobs/{{job}}/data/{{name:[\s\S]+}}", self._sign),
            *OAuthHandlers(self._state).routes(),
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
            refusal = self._authorize(request) or self._check_quota(request)
            if refusal is not None:
                return refusal
        response: web.StreamResponse = await handler(request)
        return response

    def _authorize(self, request: web.Request) -> web.Response | None:
        if not self._state.options.require_auth:
            return None
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not self._state.tokens.accepts(token):
            body = {
                "developerMessage": "The access token is invalid or has expired.",
                "errorCode": "AUTH-006",
                "moreInfo": "",
            }
            return web.json_response(body, status=401)
        account = request.match_info.get("account")
        if account is not None and account.lower() not in self._state.world.accounts:
            return web.json_response(
                {"title": "Forbidden", "detail": "No access to this account", "status": 403}, status=403
            )
        return None

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
        world = self._state.world
        hubs = [
            {"type": "hubs", "id": f"b.{account}", "attributes": {"name": name, "region": "EMEA"}}
            for account, name in world.accounts.items()
        ]
        answer: dict[str, object] = {"jsonapi": {"version": "1.0"}, "data": hubs}
        fault = request.get(FAULT)
        if fault is not None and fault.kind == "warn":
            answer["meta"] = warnings(fault.body.decode())
            return web.json_response(answer, headers={"x-request-id": REQUEST_ID})
        return web.json_response(answer)

    async def _requests(self, request: web.Request) -> web.Response:
        world = self._state.world
        rows = [request_json(world, entry) for entry in world.requests.values() if _is_of(request, entry)]
        return self._page(request, rows)

    async def _request(self, request: web.Request) -> web.Response:
        entry = self._state.world.requests.get(request.match_info["request"])
        if entry is None or not _is_of(request, entry):
            return _not_found("request")
        return web.json_response(request_json(self._state.world, entry))

    async def _request_jobs(self, request: web.Request) -> web.Response:
        wanted = request.match_info["request"]
        world = self._state.world
        if wanted not in world.requests:
            return _not_found("request")
        return self._page(request, [job_json(world, job) for job in world.jobs.values() if job.request.id == wanted])

    async def _jobs(self, request: web.Request) -> web.Response:
        world = self._state.world
        rows = [job_json(world, job) for job in world.jobs.values() if _is_of(request, job.request)]
        project = request.query.get("projectId")
        if project is not None:
            rows = [row for row in rows if row["projectId"] == project]
        return self._page(request, rows)

    async def _job(self, request: web.Request) -> web.Response:
        job = self._state.world.jobs.get(request.match_info["job"])
        return _not_found("job") if job is None else web.json_response(job_json(self._state.world, job))

    async def _listing(self, request: web.Request) -> web.Response:
        world = self._state.world
        job = world.jobs.get(request.match_info["job"])
        if job is None or not world.has_extract(job):
            return _not_found("data listing")
        if job.listing is not None:
            return web.json_response(job.listing)
        rows = [
            # Autodesk sends sizes as numbers or as strings, so the sandbox sends both.
            {"name": name, "createdAt": stamp(job.created_at), "size": str(blob.size) if index % 2 else blob.size}
            for index, (name, blob) in enumerate(world.extract(job.id).items())
        ]
        return web.json_response(rows)

    async def _sign(self, request: web.Request) -> web.Response:
        world = self._state.world
        job: JobEntry | None = world.jobs.get(request.match_info["job"])
        name = request.match_info["name"]
        if job is None or not world.has_extract(job) or name not in world.extract(job.id):
            return _not_found("file")
        if self._state.options.sign is not None:
            url = self._state.options.sign(job.id, name)
        else:
            # S3 clients escape at least all characters that are not unreserved. The sandbox escapes a few more.
            key = quote(f"sandbox data/{job.id}/{name}", safe="").replace("~", "%7E").replace("%2F", "/", 1)
            raw_path = f"/dc-extracts/{key}"
            url = f"{self._state.storage_url}{raw_path}?{self._state.signer.sign(raw_path, world.now())}"
        return web.json_response({"name": name, "size": world.extract(job.id)[name].size, "signedUrl": url})

    def _page(self, request: web.Request, rows: Sequence[dict[str, object]]) -> web.Response:
        query = request.query
        for field, value in query.items():
            if field.startswith("filter[") and field.endswith("]"):
                rows = [row for row in rows if _text(row.get(field[7:-1])) == value]
        try:
            limit, offset = int(query.get("limit", _DEFAULT_LIMIT)), int(query.get("offset", "0"))
        except ValueError:
            return _bad_request("limit and offset must be numbers")
        if limit < 1 or offset < 0 or query.get("sort", "asc") not in {"asc", "desc"}:
            return _bad_request("limit, offset or sort out of range")
        top = self._state.options.max_limit
        limit = limit if top is None else min(limit, top)
        fields = [field for field in query.get("sortFields", "createdAt").split(",") if field]
        # The default order is ascending, so page one contains the oldest entries.
        ordered = sorted(
            rows,
            key=lambda row: [_text(row.get(field)) for field in [*fields, "id"]],
            reverse=query.get("sort") == "desc",
        )
        results = ordered[offset : offset + limit]
        pagination = {"limit": limit, "offset": offset, "totalResults": len(rows)}
        return web.json_response({"pagination": pagination, "results": results})


def _is_of(request: web.Request, entry: RequestEntry) -> bool:
    """Return whether a data request belongs to the account of a call."""
    return request.match_info["account"].lower() == entry.account_id


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _not_found(kind: str) -> web.Response:
    return web.json_response({"detail": f"The {kind} was not found"}, status=404)


def _bad_request(detail: str) -> web.Response:
    return web.json_response({"title": "Bad request", "detail": detail, "status": 400}, status=400)
