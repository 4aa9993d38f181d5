"""Who may call: the token, its scope, and the accounts that its user can see."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from aiohttp import web

from dcsync.sandbox.oauth import Grant
from dcsync.sandbox.refusals import json_api
from dcsync.sandbox.state import State

#: The rights of a call's token, for its handler.
GRANT = web.RequestKey("grant", Grant)
_SCOPE_OF: Final = {"GET": "data:read", "POST": "data:create", "PATCH": "data:write", "DELETE": "data:write"}


def refuse_call(request: web.Request, state: State) -> web.Response | None:
    """Return the refusal of a call to the API, or None. The handler finds the token's rights in `request[GRANT]`."""
    if not state.options.require_auth:
        every = frozenset(_SCOPE_OF.values())
        request[GRANT] = Grant(user=state.world.user_id, scopes=every, expires_at=float("inf"))
        return None
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    grant = state.tokens.grant_of(token) if scheme == "Bearer" else None
    if grant is None:
        return _gateway(401, "AUTH-006", "The access token is invalid or has expired.")
    request[GRANT] = grant
    if _scope_of(request) not in grant.scopes or grant.user is None:
        return _gateway(403, "AUTH-010", "Token does not have the privilege for this request.")
    account = request.match_info.get("account")
    if account is not None and not state.world.admits(grant.user, account.lower()):
        return web.json_response(
            {"title": "Forbidden", "detail": "No access to this account", "status": 403}, status=403
        )
    return None


def refuse_projects(request: web.Request, state: State, projects: Collection[str]) -> web.Response | None:
    """Return the refusal of a project administrator's call that names no project, or one of another administrator.

    Autodesk documents it for GET jobs and for POST requests. For GET requests, the sandbox is as strict.
    """
    own = state.world.project_administrators.get(user_of(request))
    if own is None or (projects and own.issuperset(projects)):
        return None
    detail = "Project administrators must name their projects" if not projects else "No access to this project"
    return web.json_response({"title": "Forbidden", "detail": detail, "status": 403}, status=403)


def user_of(request: web.Request) -> str:
    """Return the user of a call that was not refused."""
    return request[GRANT].user or ""


def no_hub(hub: str) -> web.Response:
    """Return the refusal of the Data Management API for a hub that its user cannot see."""
    return json_api(404, f"The hub {hub} was not found")


def _scope_of(request: web.Request) -> str:
    # GET jobs/:jobId alone documents data:write for a call that reads.
    resource = request.match_info.route.resource
    reads_job = resource is not None and resource.canonical.endswith("/jobs/{job}")
    return "data:write" if reads_job else _SCOPE_OF[request.method]


def _gateway(status: int, code: str, words: str) -> web.Response:
    return web.json_response({"developerMessage": words, "errorCode": code, "moreInfo": ""}, status=status)
