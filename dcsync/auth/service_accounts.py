"""Service accounts and their keys at Autodesk, managed by the application itself (Secure Service Accounts API).

Each call uses a token of the application with the one scope that the call needs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar
from urllib.parse import quote

import aiohttp
import structlog

from dcsync.auth.endpoint import TokenEndpoint
from dcsync.core import wire
from dcsync.core.model import Json
from dcsync.core.reasons import reason
from dcsync.errors import (
    AccessRefused,
    ApiError,
    ApiFault,
    ApiUnreachable,
    BadAnswer,
    BadRequest,
    ClientRejected,
    NotFound,
    RateLimited,
    Unconfirmed,
)
from dcsync.network import DIRECT, EXCHANGE_ERRORS, NOTHING_SENT, Network

log = structlog.get_logger(__name__)

T = TypeVar("T")

ENABLED: Final = "ENABLED"
DISABLED: Final = "DISABLED"
_ROOT: Final = "/authentication/v2/service-accounts"
_ACCOUNT: Final = "application:service_account"
_KEY: Final = "application:service_account_key"
_SENDS: Final = 3
_MAX_BODY: Final = 1 << 20
_TIMEOUT: Final = aiohttp.ClientTimeout(total=120, connect=30, sock_read=60)
_NAME_HINT = "use 5 to 64 letters, digits and dashes for the name, and a name that no other service account has"
_ACCOUNTS_HINT = "an app has at most 10 service accounts: name one of dcsync service-account list, which gets a new key"
_KEY_HINT = "a service account has at most 3 keys: remove one that nothing uses with dcsync service-account delete-key"
_KEYS_HINT = "a disabled service account shows no keys: run dcsync service-account enable with its ID"
_APP_HINT = "use the client ID and the client secret of a server-to-server app, which alone can have service accounts"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAccount:
    """A service account. Until it is invited to an account of ACC by its e-mail address, it sees nothing."""

    id: str
    email: str
    #: `ENABLED`, `DISABLED` or `DEACTIVATED`. Empty right after its creation.
    status: str = ""
    created_at: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key of a service account, without its private half."""

    id: str
    status: str = ""
    created_at: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A new key. Autodesk shows the private half in this answer only, as PEM text."""

    id: str
    private_key: str = field(repr=False)


class ServiceAccountAdmin:
    """The service accounts of one application. Raises `ApiError`s, and the `AuthError`s of the token endpoint."""

    def __init__(self, *, endpoint: TokenEndpoint, base_url: str, network: Network = DIRECT) -> None:
        self._endpoint = endpoint
        self._base_url = base_url.rstrip("/")
        self._network = network
        self._tokens: dict[str, str] = {}

    async def list(self) -> tuple[ServiceAccount, ...]:
        """Return all service accounts of the application."""
        value = await self._call("GET", _ROOT, f"{_ACCOUNT}:read")
        return tuple(_account(entry) for entry in _entries(value, "serviceAccounts", f"GET {_ROOT}"))

    async def create(self, name: str, *, first_name: str, last_name: str) -> ServiceAccount:
        """Create a service account. After a lost answer it is looked up by its name, which is unique."""
        body = {"name": name, "firstName": first_name, "lastName": last_name}

        async def send() -> ServiceAccount:
            return _account(await self._call("POST", _ROOT, f"{_ACCOUNT}:write", body))

        async def find() -> ServiceAccount | None:
            return next((found for found in await self.list() if found.email.startswith(f"{name}@")), None)

        return await _once(send, find)

    async def set_status(self, account: str, status: str) -> None:
        """Set the status to `ENABLED` or `DISABLED`. Nothing is sent if it has this status."""

        async def find() -> bool | None:
            value = await self._call("GET", _path(account), f"{_ACCOUNT}:read")
            return True if _account(value).status == status else None

        async def send() -> bool:
            await self._call("PATCH", _path(account), f"{_ACCOUNT}:write", {"status": status})
            return True

        if await find() is None:
            await _once(send, find)

    async def delete(self, account: str) -> None:
        """Delete a service account with its keys. It may be gone already."""
        await self._delete(_path(account), f"{_ACCOUNT}:write")

    async def keys(self, account: str) -> tuple[Key, ...]:
        """Return the keys of an enabled service account."""
        path = f"{_path(account)}/keys"
        value = await self._call("GET", path, f"{_KEY}:read")
        return tuple(_key(entry) for entry in _entries(value, "keys", f"GET {path}"))

    async def create_key(self, account: str) -> NewKey:
        """Create a key. If the answer with its private half is lost, the key is deleted and a new one created.

        Two processes must not create keys for one service account at the same time.
        """
        path = f"{_path(account)}/keys"
        known = {key.id for key in await self.keys(account)}

        async def send() -> NewKey:
            return _new_key(await self._call("POST", path, f"{_KEY}:write"))

        async def remove_lost() -> NewKey | None:
            for key in await self.keys(account):
                if key.id not in known:
                    await self.delete_key(account, key.id)
            return None

        return await _once(send, remove_lost)

    async def delete_key(self, account: str, key: str) -> None:
        """Delete a key of an enabled service account. It may be gone already."""
        await self._delete(f"{_path(account)}/keys/{quote(key, safe='')}", f"{_KEY}:write")

    async def _delete(self, path: str, scope: str) -> None:
        async def send() -> bool:
            try:
                await self._call("DELETE", path, scope)
            except NotFound:
                log.debug("deleted before", path=path)
            return True

        async def repeat() -> None:
            return None

        await _once(send, repeat)

    async def _call(self, method: str, path: str, scope: str, body: Json = None) -> Json:
        token, is_new = self._tokens.get(scope), False
        if token is None:
            token, is_new = await self._new_token(scope), True
        status, headers, answer = await self._exchange(method, path, token, body)
        if status == 401 and not is_new:
            token = await self._new_token(scope)
            status, headers, answer = await self._exchange(method, path, token, body)
        if status in {200, 201, 204}:
            return _decoded(answer, f"{method} {path}", changes=method != "GET")
        raise _refusal(method, path, status, reason(headers, answer, secrets=[token]), answer)

    async def _new_token(self, scope: str) -> str:
        token = (await self._endpoint.application_token((scope,))).access_token
        self._tokens[scope] = token
        return token

    async def _exchange(self, method: str, path: str, token: str, body: Json) -> tuple[int, Mapping[str, str], bytes]:
        try:
            async with (
                aiohttp.ClientSession(
                    connector=self._network.connector(force_close=True),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    timeout=_TIMEOUT,
                ) as session,
                session.request(
                    method,
                    self._base_url + path,
                    json=body,
                    headers={"Authorization": f"Bearer {token}", "Accept": "application/json"},
                    allow_redirects=False,
                    **self._network.route(self._base_url),
                ) as response,
            ):
                answer = await response.content.read(_MAX_BODY)
                while not response.content.at_eof() and len(answer) < _MAX_BODY:
                    answer += await response.content.read(_MAX_BODY)
                return response.status, {key.lower(): value for key, value in response.headers.items()}, answer
        except EXCHANGE_ERRORS as error:
            failure = self._network.explain(error, self._base_url)
            message = f"{method} {path} failed: {failure.reason}"
            if method != "GET" and not isinstance(error, NOTHING_SENT):
                raise Unconfirmed(message) from None
            raise ApiUnreachable(message, hint=failure.hint) from None


async def _once(send: Callable[[], Awaitable[T]], find: Callable[[], Awaitable[T | None]]) -> T:
    """Send a call. If its answer is lost, look for its effect first, and send it again only without one."""
    for _ in range(_SENDS - 1):
        try:
            return await send()
        except Unconfirmed as error:
            log.warning("looking for the effect of a call whose answer was lost", error=error.message)
        found = await find()
        if found is not None:
            return found
    return await send()


def _refusal(method: str, path: str, status: int, words: str, answer: bytes) -> ApiError | ClientRejected:
    message = f"{method} {path} returned {status}: {words}" if words else f"{method} {path} returned {status}"
    match status:
        case 400:
            hint = _NAME_HINT if method == "POST" and path == _ROOT else _KEYS_HINT if "/keys" in path else None
            return BadRequest(message, status=status, hint=hint)
        case 401:
            return ClientRejected(message, hint=_APP_HINT)
        case 403:
            limit = _KEY_HINT if path.endswith("/keys") else _ACCOUNTS_HINT
            is_limit = _title(answer) == "limit_exceeded"
            return AccessRefused(message, status=status, hint=limit if is_limit else _APP_HINT)
        case 404:
            return NotFound(message, status=status, hint="list the service accounts and their keys")
        case 429:
            return RateLimited(message, status=status, hint="run the command again in a minute")
        case _ if status >= 500:
            return ApiFault(message, status=status) if method == "GET" else Unconfirmed(message, status=status)
        case _:
            return BadAnswer(message, status=status)


def _title(answer: bytes) -> str | None:
    try:
        value = wire.decode_json(answer)
    except wire.WireError:
        return None
    title = value.get("title") if isinstance(value, Mapping) else None
    return title if isinstance(title, str) else None


def _decoded(answer: bytes, call: str, *, changes: bool) -> Json:
    if not answer:
        return None
    try:
        return wire.decode_json(answer)
    except wire.WireError:
        # The answer may have a private key, so it is not quoted.
        message = f"{call} returned a body that is not valid JSON"
        raise (Unconfirmed(message) if changes else BadAnswer(message)) from None


def _entries(value: Json, name: str, call: str) -> Sequence[Json]:
    found = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(found, Sequence) or isinstance(found, str):
        message = f"{call} returned no list `{name}`"
        raise BadAnswer(message, status=200)
    return found


def _account(value: Json) -> ServiceAccount:
    return ServiceAccount(
        id=_text(value, "serviceAccountId", "a service account"),
        email=_text(value, "email", "a service account"),
        status=_optional(value, "status"),
        created_at=_optional(value, "createdAt"),
    )


def _key(value: Json) -> Key:
    return Key(
        id=_text(value, "kid", "a key"), status=_optional(value, "status"), created_at=_optional(value, "createdAt")
    )


def _new_key(value: Json) -> NewKey:
    return NewKey(id=_text(value, "kid", "a new key"), private_key=_text(value, "privateKey", "a new key"))


def _text(value: Json, name: str, what: str) -> str:
    found = _optional(value, name)
    if not found:
        message = f"Autodesk described {what} without its `{name}`"
        raise Unconfirmed(message) if what == "a new key" else BadAnswer(message)
    return found


def _optional(value: Json, name: str) -> str:
    found = value.get(name) if isinstance(value, Mapping) else None
    return found if isinstance(found, str) else ""


def _path(account: str) -> str:
    return f"{_ROOT}/{quote(account, safe='')}"
