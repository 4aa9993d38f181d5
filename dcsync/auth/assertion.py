"""A service account's assertion: a JWT signed with its private key. No other module imports PyJWT."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from dcsync.auth.endpoint import SCOPES
from dcsync.errors import PrivateKeyUnusable

#: An assertion may expire at most 300 s from now (APS, Secure Service Accounts). dcsync takes a minute less, so this
#: machine's clock may be up to one minute ahead of Autodesk's, or up to four minutes behind.
_LIFE = timedelta(seconds=300 - 60)


def sign_assertion(
    *,
    client_id: str,
    service_account_id: str,
    key_id: str,
    private_key: str,
    audience: str,
    now: datetime,
    scopes: Sequence[str] = SCOPES,
) -> str:
    """Return a signed assertion. Raises `PrivateKeyUnusable`. No message contains the key."""
    import jwt
    from cryptography.exceptions import UnsupportedAlgorithm

    claims = {
        "iss": client_id,
        "sub": service_account_id,
        "aud": audience,
        "exp": int((now + _LIFE).timestamp()),
        "scope": list(scopes),  # Autodesk expects an array here, not OAuth's usual string (docs/project/api.md §6)
    }
    try:
        return jwt.encode(claims, _pem(private_key), algorithm="RS256", headers={"kid": key_id})
    except (ValueError, TypeError, AttributeError, UnsupportedAlgorithm, jwt.PyJWTError):
        # The error's own text may quote the key.
        message = "auth.private_key is not a valid signing key (RSA, in PEM, without a password)"
        raise PrivateKeyUnusable(message) from None


def _pem(text: str) -> str:
    r"""Restore the line breaks of a key. Environment variables often hold each line break as the two characters \n."""
    return text.replace("\\n", "\n") if "\n" not in text else text
