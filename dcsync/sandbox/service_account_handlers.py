"""The handlers of service accounts and their keys, under `/authentication/v2/service-accounts`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime

from aiohttp import web
from aiohttp.typedefs import Handler

from dcsync.sandbox.service_accounts import Key, Refused, ServiceAccount
from dcsync.sandbox.state import State


class ServiceAccountHandlers:
    """Answers like Autodesk's API for service accounts. Each call needs a token of the application with its scope."""

    def __init__(self, state: State) -> None:
        self._state = state

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the routes."""
        many = "/authentication/v2/service-accounts"
        one, keys = f"{many}/{{account}}", f"{many}/{{account}}/keys"
        account, key = "application:service_account", "application:service_account_key"
        return [
            web.post(many, self._with(f"{account}:write", self._create)),
            web.get(many, self._with(f"{account}:read", self._list)),
            web.get(one, self._with(f"{account}:read", self._get)),
            web.patch(one, self._with(f"{account}:write", self._change)),
            web.delete(one, self._with(f"{account}:write", self._delete)),
            web.post(keys, self._with(f"{key}:write", self._create_key)),
            web.get(keys, self._with(f"{key}:read", self._list_keys)),
            web.patch(f"{keys}/{{key}}", self._with(f"{key}:write", self._change_key)),
            web.delete(f"{keys}/{{key}}", self._with(f"{key}:write", self._delete_key)),
        ]

    def _with(self, scope: str, handler: Callable[[web.Request], Awaitable[web.Response]]) -> Handler:
        """Return the handler for tokens of the application with this scope. All others are refused."""

        async def checked(request: web.Request) -> web.StreamResponse:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            grant = self._state.tokens.grant_of(token) if scheme == "Bearer" else None
            try:
                if grant is None:
                    raise Refused(401, "unauthorized", "The token has expired or is invalid.")
                if grant.user is not None:
                    raise Refused(401, "unauthorized", "The token should be a two-legged token.")
                if scope not in grant.scopes:
                    raise Refused(403, "insufficient_scope", f"The token does not have the scope {scope}.")
                return await handler(request)
            except Refused as error:
                return web.json_response({"title": error.title, "detail": error.detail}, status=error.status)

        return checked

    async def _create(self, request: web.Request) -> web.Response:
        account = self._state.service_accounts.create(await _body_of(request))
        return web.json_response({"serviceAccountId": account.id, "email": account.email}, status=201)

    async def _list(self, _: web.Request) -> web.Response:
        rows = [self._account_json(account) for account in self._state.service_accounts.accounts.values()]
        return web.json_response({"serviceAccounts": rows})

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response(self._account_json(self._find(request)))

    async def _change(self, request: web.Request) -> web.Response:
        account = self._find(request)
        self._state.service_accounts.set_status(account, await _body_of(request))
        return web.json_response(self._account_json(account))

    async def _delete(self, request: web.Request) -> web.Response:
        self._state.service_accounts.delete(self._find(request))
        return web.Response(status=204)

    async def _create_key(self, request: web.Request) -> web.Response:
        account = self._find(request, enabled=True)
        private, public = await asyncio.to_thread(_new_pair)
        key = self._state.service_accounts.add_key(account, public)
        return web.json_response({"kid": key.id, "privateKey": private}, status=201)

    async def _list_keys(self, request: web.Request) -> web.Response:
        return web.json_response({"keys": [_key_json(key) for key in self._find(request, enabled=True).keys.values()]})

    async def _change_key(self, request: web.Request) -> web.Response:
        account = self._find(request, enabled=True)
        self._state.service_accounts.set_key_status(account, request.match_info["key"], await _body_of(request))
        return web.Response(status=204)

    async def _delete_key(self, request: web.Request) -> web.Response:
        self._state.service_accounts.delete_key(self._find(request, enabled=True), request.match_info["key"])
        return web.Response(status=204)

    def _find(self, request: web.Request, *, enabled: bool = False) -> ServiceAccount:
        return self._state.service_accounts.find(request.match_info["account"], enabled=enabled)

    def _account_json(self, account: ServiceAccount) -> dict[str, object]:
        return {
            "serviceAccountId": account.id,
            "email": account.email,
            "createdBy": self._state.options.client_id,
            "status": account.status,
            "createdAt": _stamp(account.created_at),
            "accessedAt": _stamp(account.created_at),
            "expiresAt": _stamp(account.created_at.replace(year=account.created_at.year + 1)),
        }


async def _body_of(request: web.Request) -> object:
    try:
        body: object = await request.json()
    except ValueError:
        raise Refused(400, "invalid_request", "The body is not JSON.") from None
    return body


def _key_json(key: Key) -> dict[str, object]:
    created = _stamp(key.created_at)
    return {"kid": key.id, "status": key.status, "createdAt": created, "accessedAt": created}


def _stamp(moment: datetime) -> str:
    """Return a time in the format of these endpoints, which is not ISO 8601."""
    return f"{moment:%Y-%m-%d %H:%M:%S.%f}000 +0000 UTC"


def _new_pair() -> tuple[str, str]:
    """Return the private and the public half of a new RSA key, in PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()
