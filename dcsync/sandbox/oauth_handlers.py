"""The handlers of OAuth: the consent page, the token endpoint, revocation."""

from __future__ import annotations

import base64
import html
from urllib.parse import urlencode

from aiohttp import web

from dcsync.sandbox.oauth import READ, Pair
from dcsync.sandbox.state import State

_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class OAuthHandlers:
    """Answers under `/authentication/v2/` like Autodesk's OAuth."""

    def __init__(self, state: State) -> None:
        self._state = state

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the routes."""
        return [
            web.get("/authentication/v2/authorize", self._authorize),
            web.post("/authentication/v2/authorize", self._consent),
            web.post("/authentication/v2/token", self._token),
            web.post("/authentication/v2/revoke", self._revoke),
        ]

    async def _authorize(self, request: web.Request) -> web.Response:
        query = request.query
        problem = self._client_problem(query.get("client_id", ""), query.get("redirect_uri", ""))
        if problem is None and (query.get("response_type") != "code" or query.get("code_challenge_method") != "S256"):
            problem = "response_type must be code, code_challenge_method S256"
        if problem is not None:
            # No redirect, because nothing may be sent to an unregistered address (RFC 6749 §4.1.2.1).
            return web.json_response({"error": "invalid_request", "error_description": problem}, status=400)
        kept = "".join(
            f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(query.get(name, ""))}">'
            for name in ("client_id", "redirect_uri", "state", "code_challenge", "scope")
        )
        body = f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Sandbox: sign in</title></head>
<body><main><h1>Sandbox</h1><p>The application {html.escape(query["client_id"])} asks to read your data
({html.escape(query.get("scope", ""))}).</p><form method="post" action="/authentication/v2/authorize">{kept}
<label>Sign in as <input name="user" value="sandbox-user"></label>
<button name="answer" value="allow">Allow</button> <button name="answer" value="deny">Deny</button>
</form></main></body></html>"""
        return web.Response(text=body, content_type="text/html")

    async def _consent(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        redirect_uri = form.get("redirect_uri", "")
        problem = self._client_problem(form.get("client_id", ""), redirect_uri)
        if problem is not None:
            return web.json_response({"error": "invalid_request", "error_description": problem}, status=400)
        if form.get("answer") == "allow":
            code = self._state.tokens.issue_code(
                form.get("user", ""),
                challenge=form.get("code_challenge", ""),
                redirect_uri=redirect_uri,
                scopes=frozenset(form.get("scope", "").split()) or READ,
            )
            answer = {"code": code}
        else:
            answer = {"error": "access_denied", "error_description": "The user denied access"}
        answer["state"] = form.get("state", "")
        return web.Response(status=303, headers={"Location": f"{redirect_uri}?{urlencode(answer)}"})

    def _client_problem(self, client_id: str, redirect_uri: str) -> str | None:
        if client_id != self._state.options.client_id:
            return "unknown client"
        registered = self._state.options.redirect_uris
        if registered is not None and redirect_uri not in registered:
            return "the redirect_uri is not registered"
        return None

    async def _token(self, request: web.Request) -> web.StreamResponse:
        form = {name: str(value) for name, value in (await request.post()).items()}
        refusal = self._authenticate(request, form)
        if refusal is not None:
            return refusal
        tokens = self._state.tokens
        match form.get("grant_type"):
            case "refresh_token":
                pair = tokens.refresh(form.get("refresh_token", ""))
                refused = "The refresh token is invalid or expired"
            case "authorization_code":
                pair = tokens.redeem(
                    form.get("code", ""),
                    verifier=form.get("code_verifier", ""),
                    redirect_uri=form.get("redirect_uri", ""),
                )
                refused = "The authorization code is invalid or expired"
            case "client_credentials":
                return self._grant_application(form)
            case grant if grant == _JWT_BEARER:
                return self._mint(form)
            case _:
                return _oauth_error("unsupported_grant_type", "The sandbox does not support this grant type")
        if pair is None:
            return _oauth_error("invalid_grant", refused)
        return _granted(pair)

    def _grant_application(self, form: dict[str, str]) -> web.Response:
        """Grant a token of the application itself, without a user (2-legged)."""
        if self._state.options.client_secret is None:
            return _oauth_error("unauthorized_client", "a public client has no token of its own")
        scopes = frozenset(form.get("scope", "").split())
        if not scopes:
            return _oauth_error("invalid_scope", "The scope is missing")
        token = self._state.tokens.issue_access_token(None, scopes=scopes)
        return _granted(
            Pair(access_token=token, refresh_token="", expires_in=int(self._state.tokens.access_lifetime_s))
        )

    def _mint(self, form: dict[str, str]) -> web.Response:
        options = self._state.options
        if options.client_secret is None:
            return _oauth_error("unauthorized_client", "service accounts need a confidential client")
        audience = f"{self._state.base_url}/authentication/v2/token"
        minted = self._state.tokens.mint(
            form.get("assertion", ""), client_id=options.client_id, audience=audience, only=form.get("scope")
        )
        if isinstance(minted, str):
            return _oauth_error("invalid_grant", minted)
        access_token, expires_in = minted
        return _granted(Pair(access_token=access_token, refresh_token="", expires_in=expires_in))

    async def _revoke(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        refusal = self._authenticate(request, form)
        if refusal is not None:
            return refusal
        self._state.tokens.revoke(form.get("token", ""))
        return web.Response(status=200)

    def _authenticate(self, request: web.Request, form: dict[str, str]) -> web.Response | None:
        options = self._state.options
        header = request.headers.get("Authorization")
        if header is not None and "client_id" in form:
            return _oauth_error("invalid_request", "credentials in the header and in the body")
        if header is not None:
            expected = base64.b64encode(f"{options.client_id}:{options.client_secret or ''}".encode()).decode()
            known = header == f"Basic {expected}" and options.client_secret is not None
        else:
            known = form.get("client_id") == options.client_id and options.client_secret is None
        return None if known else _oauth_error("invalid_client", "The client is not known", status=401)


def _granted(pair: Pair) -> web.Response:
    answer = {"token_type": "Bearer", "expires_in": pair.expires_in, "access_token": pair.access_token}
    if pair.refresh_token:
        answer["refresh_token"] = pair.refresh_token
    return web.json_response(answer)


def _oauth_error(code: str, description: str, *, status: int = 400) -> web.Response:
    return web.json_response({"error": code, "error_description": description}, status=status)
