"""The handlers that create, change and delete data requests."""

from __future__ import annotations

from aiohttp import web

from dcsync.sandbox.access import refuse_projects, user_of
from dcsync.sandbox.refusals import bad_request, not_found
from dcsync.sandbox.request_rules import RuleError, check_fields, check_whole, ids_of, time_of
from dcsync.sandbox.state import State
from dcsync.sandbox.views import request_json
from dcsync.sandbox.world import JOBS_A_DAY, RequestEntry

#: Active data requests for each user of an account (APS, Data Connector API Rate Limit and Quota).
MAX_ACTIVE = 200


class RequestHandlers:
    """Answers POST, PATCH and DELETE like the Data Connector."""

    def __init__(self, state: State) -> None:
        self._state = state

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the routes."""
        path = "/data-connector/v1/accounts/{account}/requests"
        return [
            web.post(path, self._create),
            web.patch(f"{path}/{{request}}", self._change),
            web.delete(f"{path}/{{request}}", self._delete),
        ]

    async def _create(self, request: web.Request) -> web.Response:
        world, user, account = self._state.world, user_of(request), request.match_info["account"].lower()
        try:
            fields = check_fields(await _body_of(request), is_new=True)
            check_whole(fields, is_new=True)
        except RuleError as error:
            return bad_request(str(error))
        refusal = refuse_projects(request, self._state, _projects_of(fields))
        if refusal is not None:
            return refusal
        starts_at = time_of(fields["effectiveFrom"])
        now = world.clock()
        is_active = fields.get("isActive", True) is True
        if is_active and world.active_requests(account, user, now) >= MAX_ACTIVE:
            return bad_request(f"at most {MAX_ACTIVE} data requests can be active")
        runs_now = is_active and starts_at is not None and starts_at <= now
        if runs_now and world.jobs_left(account, user, now) == 0:
            body = {"developerMessage": f"Quota limit exceeded: {JOBS_A_DAY} jobs in 24 hours."}
            return web.json_response(body, status=429)
        entry = world.requests[world.add_request("", hub_id=account, owner=user, created_at=now, tables=())]
        _apply(entry, fields)
        entry.first_at = now if runs_now else starts_at
        entry.has_windows = True
        world.run_schedules(now)
        return web.json_response(request_json(world, entry), status=201)

    async def _change(self, request: web.Request) -> web.Response:
        world, entry = self._state.world, self._find(request)
        if entry is None:
            return not_found("request")
        try:
            changes = check_fields(await _body_of(request), is_new=False)
            check_whole({**request_json(world, entry), **changes}, is_new=False)
        except RuleError as error:
            return bad_request(str(error))
        before = (entry.schedule, entry.every, entry.starts_at)
        _apply(entry, {**request_json(world, entry), **changes})
        if entry.first_at is not None and before != (entry.schedule, entry.every, entry.starts_at):
            entry.first_at, entry.runs = max(entry.starts_at or world.clock(), world.clock()), 0
        entry.updated_at = world.clock()
        world.run_schedules(world.clock())
        return web.json_response(request_json(world, entry))

    async def _delete(self, request: web.Request) -> web.Response:
        entry = self._find(request)
        if entry is None:
            return not_found("request")
        del self._state.world.requests[entry.id]
        return web.Response(status=204)

    def _find(self, request: web.Request) -> RequestEntry | None:
        world, account = self._state.world, request.match_info["account"].lower()
        entry = world.requests.get(request.match_info["request"])
        is_visible = entry is not None and entry.account_id == account and world.is_visible(entry, user_of(request))
        return entry if is_visible else None


async def _body_of(request: web.Request) -> object:
    if request.content_type != "application/json":
        message = "the Content-Type must be application/json"
        raise RuleError(message)
    try:
        body: object = await request.json()
    except ValueError:
        message = "the body must be JSON"
        raise RuleError(message) from None
    return body


def _projects_of(fields: dict[str, object]) -> tuple[str, ...]:
    project = fields.get("projectId")
    return ids_of(fields.get("projectIdList")) or ((str(project),) if project else ())


def _apply(entry: RequestEntry, fields: dict[str, object]) -> None:
    """Take over checked fields. Fields that are missing get their documented defaults."""
    entry.description = str(fields.get("description") or "")
    entry.is_active = fields.get("isActive", True) is True
    entry.schedule = str(fields["scheduleInterval"])
    every = fields.get("reoccuringInterval")
    entry.every = every if isinstance(every, int) and entry.schedule != "ONE_TIME" else None
    entry.starts_at, entry.ends_at = time_of(fields.get("effectiveFrom")), time_of(fields.get("effectiveTo"))
    groups = fields["serviceGroups"]
    entry.service_groups = tuple(groups) if isinstance(groups, list) else ()
    project, several = fields.get("projectId"), ids_of(fields.get("projectIdList"))
    entry.project_ids = _projects_of(fields)
    entry.project_id = str(project) if project and several in {(), (project,)} else None
    entry.callback_url = str(fields["callbackUrl"]) if fields.get("callbackUrl") else None
    entry.sends_email = fields.get("sendEmail", True) is True
    entry.start_date, entry.end_date = time_of(fields.get("startDate")), time_of(fields.get("endDate"))
    entry.date_range = str(fields["dateRange"]) if fields.get("dateRange") else None
    entry.project_status = str(fields.get("projectStatus") or "all")
