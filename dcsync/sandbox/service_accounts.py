"""Service accounts and their keys (Autodesk's Secure Service Accounts)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from dcsync.sandbox.data import identifier
from dcsync.sandbox.oauth import Tokens
from dcsync.sandbox.world import World

MAX_ACCOUNTS = 10
MAX_KEYS = 3
STATUSES: Final = ("ENABLED", "DISABLED")
#: Autodesk's pages differ: the name has at most 64 characters, or at most 100.
_NAME = re.compile(r"(?=.*[A-Za-z0-9])[A-Za-z0-9-]{5,64}")
_PERSON = re.compile(r"(?=.*[A-Za-z0-9])[A-Za-z0-9_-]{5,100}")


class Refused(Exception):
    """The call is refused with this status, title and detail."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail = status, title, detail


@dataclass(slots=True, kw_only=True)
class Key:
    """A key of a service account. The private half is returned once and not kept."""

    id: str
    public: str
    created_at: datetime
    status: str = "ENABLED"


@dataclass(slots=True, kw_only=True)
class ServiceAccount:
    """A service account of the application."""

    id: str
    name: str
    email: str
    created_at: datetime
    status: str = "ENABLED"
    keys: dict[str, Key] = field(default_factory=dict)


class ServiceAccounts:
    """The service accounts of one application. Only enabled keys of enabled accounts can sign an assertion."""

    def __init__(self, world: World, tokens: Tokens, *, client_id: str) -> None:
        self.accounts: dict[str, ServiceAccount] = {}
        self._world = world
        self._tokens = tokens
        self._client_id = client_id
        self._created = 0

    def create(self, body: object) -> ServiceAccount:
        """Create a service account. It has no access to an account of ACC until it is invited."""
        fields = body if isinstance(body, dict) else {}
        for name, shape in (("name", _NAME), ("firstName", _PERSON), ("lastName", _PERSON)):
            if not isinstance(fields.get(name), str) or shape.fullmatch(fields[name]) is None:
                raise Refused(
                    400, "invalid_request", f"The '{name}' is empty, too short, too long, or has other characters."
                )
        if any(account.name == fields["name"] for account in self.accounts.values()):
            raise Refused(400, "invalid_request", "The 'name' already exists.")
        if len(self.accounts) >= MAX_ACCOUNTS:
            raise Refused(403, "limit_exceeded", "The number of service accounts has exceeded the limit.")
        self._created += 1
        account = ServiceAccount(
            id=identifier(self._world.seed, "service account", self._created).replace("-", "")[:12].upper(),
            name=fields["name"],
            email=f"{fields['name']}@{self._client_id}.adskserviceaccount.autodesk.com",
            created_at=self._world.clock(),
        )
        self.accounts[account.id] = account
        self._world.service_accounts[account.id] = set(self._world.accounts) if self._world.invites_all else set()
        self._world.emails[account.id] = account.email
        return account

    def find(self, account_id: str, *, enabled: bool = False) -> ServiceAccount:
        """Return a service account. With `enabled`, a disabled one is refused, like an unknown one."""
        account = self.accounts.get(account_id)
        if account is None:
            raise Refused(404, "not_found", "The service account is not found.")
        if enabled and account.status != "ENABLED":
            raise Refused(400, "invalid_request", "The service account is not currently in an enabled state.")
        return account

    def set_status(self, account: ServiceAccount, body: object) -> None:
        """Enable or disable a service account."""
        account.status = _other_status(account.status, body, "service account")
        self._publish(account)

    def delete(self, account: ServiceAccount) -> None:
        """Delete a service account with its keys."""
        del self.accounts[account.id]
        self._tokens.service_accounts.pop(account.id, None)
        self._world.service_accounts[account.id] = set()

    def add_key(self, account: ServiceAccount, public: str) -> Key:
        """Give a service account a key, by its public half in PEM."""
        if len(account.keys) >= MAX_KEYS:
            raise Refused(403, "limit_exceeded", "The number of keys has exceeded the limit.")
        self._created += 1
        key = Key(id=identifier(self._world.seed, "key", self._created), public=public, created_at=self._world.clock())
        account.keys[key.id] = key
        self._publish(account)
        return key

    def set_key_status(self, account: ServiceAccount, key_id: str, body: object) -> None:
        """Enable or disable a key."""
        key = _key_of(account, key_id)
        key.status = _other_status(key.status, body, "key")
        self._publish(account)

    def delete_key(self, account: ServiceAccount, key_id: str) -> None:
        """Delete a key."""
        del account.keys[_key_of(account, key_id).id]
        self._publish(account)

    def _publish(self, account: ServiceAccount) -> None:
        """Let the token endpoint accept the keys that are enabled now."""
        keys = account.keys.values() if account.status == "ENABLED" else ()
        self._tokens.service_accounts[account.id] = {key.id: key.public for key in keys if key.status == "ENABLED"}


def _key_of(account: ServiceAccount, key_id: str) -> Key:
    if key_id not in account.keys:
        raise Refused(404, "not_found", "The key is not found.")
    return account.keys[key_id]


def _other_status(own: str, body: object, what: str) -> str:
    wanted = body.get("status") if isinstance(body, dict) else None
    if wanted not in STATUSES:
        raise Refused(400, "invalid_request", "The 'status' must be ENABLED or DISABLED.")
    if wanted == own:
        raise Refused(400, "invalid_request", f"The {what} is already in an {own.lower()} state.")
    return str(wanted)
