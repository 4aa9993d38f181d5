"""The token endpoint's state: access tokens, single-use refresh tokens, codes, and service accounts."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

_REFRESH_LIFE_S = 15 * 86400.0
_GRACE_S = 30.0
_CODE_LIFE_S = 300.0
#: An assertion may expire at most this far in the future.
_ASSERTION_LIFE_S = 300.0
#: The scopes of a token for which none are named.
READ = frozenset({"data:read"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What an access token permits. A token of the application itself (2-legged) has no user."""

    user: str | None
    scopes: frozenset[str]
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refresh:
    user: str
    scopes: frozenset[str]
    family: str
    issued_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Code:
    user: str
    scopes: frozenset[str]
    challenge: str
    redirect_uri: str
    issued_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The result of a refresh."""

    access_token: str
    refresh_token: str
    expires_in: int


class Tokens:
    """Issues tokens. `mode` decides what happens when a refresh token is used a second time.

    `strict` refuses it. `grace` returns the same new pair for 30 s. `revoke-family` refuses it and revokes its chain.
    """

    def __init__(self, now: Callable[[], float], *, access_lifetime_s: float) -> None:
        self.mode: Literal["strict", "grace", "revoke-family"] = "strict"
        self.access_lifetime_s = access_lifetime_s
        self.refresh_count = 0
        self.live_refresh_tokens: set[str] = set()
        self._now = now
        self._refresh: dict[str, _Refresh] = {}
        self._access: dict[str, Grant] = {}
        self._used: dict[str, tuple[float, Pair]] = {}
        self._codes: dict[str, _Code] = {}
        #: The public keys of each service account: PEM by key ID.
        self.service_accounts: dict[str, dict[str, str]] = {}

    def issue_refresh_token(self, user: str, *, family: str | None = None, scopes: frozenset[str] = READ) -> str:
        """Begin a chain, or continue one, and return its live token."""
        # The prefix lets tests recognise a leaked token.
        token = f"sandbox-refresh-{secrets.token_urlsafe(32)}"
        self._refresh[token] = _Refresh(user=user, scopes=scopes, family=family or token, issued_at=self._now())
        self.live_refresh_tokens.add(token)
        return token

    def issue_access_token(
        self, user: str | None, lifetime_s: float | None = None, *, scopes: frozenset[str] = READ
    ) -> str:
        """Return an access token that is valid from now on. Without a user it is the application's own."""
        # A JWT like Autodesk's, with a random signature.
        claims = {"scope": sorted(scopes), **({} if user is None else {"userid": user})}
        token = f"{_part({'alg': 'RS256'})}.{_part(claims)}.{secrets.token_urlsafe(24)}"
        expires_at = self._now() + (self.access_lifetime_s if lifetime_s is None else lifetime_s)
        self._access[token] = Grant(user=user, scopes=scopes, expires_at=expires_at)
        return token

    def grant_of(self, token: str) -> Grant | None:
        """Return what an access token permits. None if it is not valid now."""
        grant = self._access.get(token)
        return grant if grant is not None and grant.expires_at > self._now() else None

    def accepts(self, token: str) -> bool:
        """Return whether an access token is valid now."""
        return self.grant_of(token) is not None

    def revoke_access(self) -> None:
        """Revoke all access tokens issued so far."""
        self._access.clear()

    def refresh(self, token: str) -> Pair | None:
        """Use a refresh token. None means `invalid_grant`."""
        entry = self._refresh.get(token)
        now = self._now()
        if entry is None:
            return None
        if token not in self.live_refresh_tokens:
            used = self._used.get(token)
            if self.mode == "grace" and used is not None and now - used[0] <= _GRACE_S:
                return used[1]
            if self.mode == "revoke-family":
                family = {name for name, other in self._refresh.items() if other.family == entry.family}
                self.live_refresh_tokens -= family
            return None
        self.live_refresh_tokens.discard(token)
        if now - entry.issued_at > _REFRESH_LIFE_S:
            return None
        self.refresh_count += 1
        pair = Pair(
            access_token=self.issue_access_token(entry.user, scopes=entry.scopes),
            refresh_token=self.issue_refresh_token(entry.user, family=entry.family, scopes=entry.scopes),
            expires_in=int(self.access_lifetime_s),
        )
        self._used[token] = (now, pair)
        return pair

    def issue_code(self, user: str, *, challenge: str, redirect_uri: str, scopes: frozenset[str] = READ) -> str:
        """Return an authorization code, the result of consent."""
        code = secrets.token_urlsafe(32)
        self._codes[code] = _Code(
            user=user, scopes=scopes, challenge=challenge, redirect_uri=redirect_uri, issued_at=self._now()
        )
        return code

    def redeem(self, code: str, *, verifier: str, redirect_uri: str) -> Pair | None:
        """Exchange a code for a token pair, once. None means `invalid_grant`."""
        entry = self._codes.pop(code, None)
        if entry is None or self._now() - entry.issued_at > _CODE_LIFE_S or entry.redirect_uri != redirect_uri:
            return None
        digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        if not entry.challenge or digest != entry.challenge:
            return None
        return Pair(
            access_token=self.issue_access_token(entry.user, scopes=entry.scopes),
            refresh_token=self.issue_refresh_token(entry.user, scopes=entry.scopes),
            expires_in=int(self.access_lifetime_s),
        )

    def revoke(self, token: str) -> None:
        """Revoke a refresh token. An unknown token is not an error (RFC 7009 §2.2)."""
        self.live_refresh_tokens.discard(token)

    def mint(self, assertion: str, *, client_id: str, audience: str, only: str | None = None) -> tuple[str, int] | str:
        """Return an access token and its lifetime for an assertion, or the reason why the assertion is refused.

        `only` has scopes, separated by spaces, and must be a part of those in the assertion.
        """
        import jwt

        try:
            header = jwt.get_unverified_header(assertion)
            claimed = jwt.decode(assertion, options={"verify_signature": False})
            key = self.service_accounts.get(str(claimed.get("sub")), {}).get(str(header.get("kid")))
            if key is None:
                return "the service account or its key is not known"
            # The expiry is checked below, because the world's time counts, not the machine's.
            claims = jwt.decode(assertion, key, algorithms=["RS256"], audience=audience, options={"verify_exp": False})
        except jwt.PyJWTError as error:
            return f"the assertion is not valid: {error}"
        if claims.get("iss") != client_id:
            return "iss is not the client"
        if not isinstance(claims.get("scope"), list):
            return "scope is not an array"
        left = float(claims.get("exp", 0)) - self._now()
        if not 0 < left <= _ASSERTION_LIFE_S:
            return "exp is not within 300 seconds"
        scopes = frozenset(map(str, claims["scope"]))
        if only is not None:
            if not scopes >= set(only.split()):
                return "the scope is not part of that of the assertion"
            scopes = frozenset(only.split())
        return self.issue_access_token(str(claims["sub"]), scopes=scopes), int(self.access_lifetime_s)


def _part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
