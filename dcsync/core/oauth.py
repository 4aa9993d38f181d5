"""Sign-in with PKCE: the address to open, and the address that the browser returns to. Pure.

The caller provides the random values.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from urllib.parse import parse_qs, urlencode, urlsplit

from dcsync.core.names import printable
from dcsync.errors import LoginRefused

#: Refresh tokens are valid for 15 days and are single-use (APS, Get a 3-legged token).
REFRESH_LIFE = timedelta(days=15)
#: An unused refresh token is renewed at half of its life (docs/project/design.md, Token protocol, T7).
KEEP_ALIVE_AGE = timedelta(days=7)
#: The ages of a refresh token at which dcsync alerts you (docs/project/design.md, Token protocol, T7).
WARN_AGES = (timedelta(days=10), timedelta(days=13), timedelta(days=14))


@dataclass(frozen=True, slots=True, kw_only=True)
class SignIn:
    """One attempt to sign in. The user opens `url`. `state` and `verifier` stay in this process."""

    url: str
    redirect_uri: str
    state: str = field(repr=False)
    verifier: str = field(repr=False)


def begin(
    *, authorize_url: str, client_id: str, redirect_uri: str, scopes: Sequence[str], state: str, verifier: str
) -> SignIn:
    """Return an attempt to sign in. `state` and `verifier` are random: at least 43 URL-safe characters each."""
    query = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "scope": " ".join(scopes),
        "state": state,
        "code_challenge": challenge(verifier),
        "code_challenge_method": "S256",
    }
    return SignIn(url=f"{authorize_url}?{urlencode(query)}", redirect_uri=redirect_uri, state=state, verifier=verifier)


def challenge(verifier: str) -> str:
    """Return the S256 challenge of a verifier (RFC 7636 §4.2)."""
    digest = hashlib.sha256(verifier.encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def belongs(attempt: SignIn, redirect: str) -> bool:
    """Whether an address has the attempt's `state`. An address without it belongs to a different sign-in."""
    given = parse_qs(urlsplit(redirect).query).get("state", [])
    return len(given) == 1 and hmac.compare_digest(given[0].encode(), attempt.state.encode())


def code_in(attempt: SignIn, redirect: str) -> str:
    """Return the authorization code in `redirect`, the complete address that the browser returned to.

    Raises `LoginRefused` when the address is not the registered one, belongs to another attempt, or has an error.
    """
    try:
        found, expected = urlsplit(redirect.strip().strip("'\"")), urlsplit(attempt.redirect_uri)
    except ValueError:
        message = "the pasted text is not a valid address"
        raise LoginRefused(message) from None
    if (found.scheme, found.netloc.lower(), found.path) != (expected.scheme, expected.netloc.lower(), expected.path):
        message = f"the address does not begin with {attempt.redirect_uri}?"
        hint = (
            "after signing in, copy the whole address from the browser's address bar, even if the page shows an error"
        )
        raise LoginRefused(message, hint=hint)
    if not belongs(attempt, found.geturl()):
        message = "the address belongs to a different sign-in (its state differs)"
        raise LoginRefused(message)
    values = parse_qs(found.query)
    if "error" in values:
        words = values.get("error_description", values["error"])[0]
        message = f"Autodesk refused the sign-in: {printable(words, 120)}"
        hint = "allow access on the page. If the message names the client, check auth.client_id and auth.redirect_uri"
        raise LoginRefused(message, hint=hint)
    codes = values.get("code", [])
    if len(codes) != 1:
        message = "the address has no authorization code"
        raise LoginRefused(message)
    return codes[0]


def user_of(access_token: str) -> str | None:
    """Return the user of an access token, or None: APS tokens are JWTs with the claim `userid`.

    The claim is not verified and grants nothing. It only distinguishes two users of the same operator.
    """
    user = _claims(access_token).get("userid")
    return user if isinstance(user, str) and user else None


def missing_scope(access_token: str, needed: str) -> str | None:
    """Return `needed` if an access token is known to lack this scope. The claim `scope` of a JWT is not verified."""
    scopes = _claims(access_token).get("scope")
    return needed if isinstance(scopes, list) and needed not in scopes else None


def _claims(access_token: str) -> dict[str, object]:
    """Return the claims of a JWT, or none for another token."""
    parts = access_token.split(".")
    if len(parts) != 3:
        return {}
    try:
        # A JWT has no padding, and Python ignores more of it than is needed.
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=="))
    except (ValueError, RecursionError):  # binascii.Error is a ValueError
        return {}
    return claims if isinstance(claims, dict) else {}


def days_old(issued_at: datetime | None, now: datetime) -> int | None:
    """Return the highest warning age, in days, that a refresh token has reached. None before the first."""
    if issued_at is None:
        return None
    reached = [age.days for age in (*WARN_AGES, REFRESH_LIFE) if now - issued_at >= age]
    return max(reached, default=None)


def wants_keeping_alive(issued_at: datetime | None, now: datetime) -> bool:
    """Whether a refresh token has been unused for so long that dcsync renews it. One of unknown age is renewed."""
    return issued_at is None or now - issued_at >= KEEP_ALIVE_AGE
