"""A service account's assertion: a JWT that its private key signs. The only place that imports PyJWT."""

from __future__ import annotations

from datetime import datetime, timedelta

from dcsync.auth.endpoint import SCOPES
from dcsync.errors import PrivateKeyUnusable

#: An assertion may end at most 300 s ahead (APS, Secure Service Accounts). A minute less: this machine's clock may be
#: ahead of the server's by as much; behind, it may be four.
_LIFE = timedelta(seconds=300 - 60)


def sign_assertion(
    *, client_id: str, account_id: str, key_id: str, private_key: str, audience: str, now: datetime
) -> str:
    """Return a signed assertion. Raises `PrivateKeyUnusable`; the key is part of no message."""
    import jwt
    from cryptography.exceptions import UnsupportedAlgorithm

    claims = {
        "iss": client_id,
        "sub": account_id,
        "aud": audience,
        "exp": int((now + _LIFE).timestamp()),
        "scope": list(SCOPES),  # an array, not the usual string
    }
    try:
        return jwt.encode(claims, _pem(private_key), algorithm="RS256", headers={"kid": key_id})
    except (ValueError, TypeError, AttributeError, UnsupportedAlgorithm, jwt.PyJWTError):
        # Not the error's text: it may quote what it was given.
        message = "auth.private_key is not a key that can sign (RSA, in PEM, without a password)"
        raise PrivateKeyUnusable(message) from None


def _pem(text: str) -> str:
    r"""Give a key its lines back: an environment variable often holds them joined by a written \n."""
    return text.replace("\\n", "\n") if "\n" not in text else text
