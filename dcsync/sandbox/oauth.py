"""The token endpoint's memory: access tokens, and refresh tokens that work once."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

_REFRESH_LIFE_S = 15 * 86400.0
_GRACE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refresh:
    user: str
    family: str
    issued_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What a refresh gives."""

    access_token: str
    refresh_token: str
    expires_in: int


class Tokens:
    """Issues tokens. `mode` says what happens to a refresh token that comes a second time.

    `strict`: refused. `grace`: for 30 s it brings the same new pair. `revoke-family`: refused, and the live one dies.
    """

    def __init__(self, now: Callable[[], float], *, access_lifetime_s: float) -> None:
        self.mode: Literal["strict", "grace", "revoke-family"] = "strict"
        self.access_lifetime_s = access_lifetime_s
        self.refresh_count = 0
        self.live_refresh_tokens: set[str] = set()
        self._now = now
        self._refresh: dict[str, _Refresh] = {}
        self._access: dict[str, float] = {}
        self._spent: dict[str, tuple[float, Pair]] = {}

    def issue_refresh_token(self, user: str, *, family: str | None = None) -> str:
        """Begin a chain, or go on with one, and return its live token."""
        token = secrets.token_urlsafe(32)
        self._refresh[token] = _Refresh(user=user, family=family or token, issued_at=self._now())
        self.live_refresh_tokens.add(token)
        return token

    def issue_access_token(self, user: str, lifetime_s: float | None = None) -> str:
        """Return an access token that is good from now on."""
        token = f"{user}.{secrets.token_urlsafe(24)}"
        self._access[token] = self._now() + (self.access_lifetime_s if lifetime_s is None else lifetime_s)
        return token

    def accepts(self, token: str) -> bool:
        """Say whether an access token is good now."""
        return self._access.get(token, 0.0) > self._now()

    def revoke_access(self) -> None:
        """Let every access token so far be refused."""
        self._access.clear()

    def refresh(self, token: str) -> Pair | None:
        """Spend a refresh token; None is `invalid_grant`."""
        entry = self._refresh.get(token)
        now = self._now()
        if entry is None:
            return None
        if token not in self.live_refresh_tokens:
            spent = self._spent.get(token)
            if self.mode == "grace" and spent is not None and now - spent[0] <= _GRACE_S:
                return spent[1]
            if self.mode == "revoke-family":
                family = {name for name, other in self._refresh.items() if other.family == entry.family}
                self.live_refresh_tokens -= family
            return None
        self.live_refresh_tokens.discard(token)
        if now - entry.issued_at > _REFRESH_LIFE_S:
            return None
        self.refresh_count += 1
        pair = Pair(
            access_token=self.issue_access_token(entry.user),
            refresh_token=self.issue_refresh_token(entry.user, family=entry.family),
            expires_in=int(self.access_lifetime_s),
        )
        self._spent[token] = (now, pair)
        return pair
