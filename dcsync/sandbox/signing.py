"""Signed URLs in SigV2 query form (Amazon S3, "Signing and Authenticating REST Requests"), checked byte for byte."""

from __future__ import annotations

import base64
import hashlib
import hmac
from urllib.parse import quote

_ACCESS_KEY = "ASIASANDBOX7EXAMPLE"


class Signer:
    """Signs and checks paths with its own key. A download must start within `lifetime_s` of signing."""

    def __init__(self, secret: bytes, *, lifetime_s: float) -> None:
        self._secret = secret
        self.lifetime_s = lifetime_s

    def sign(self, raw_path: str, now: float) -> str:
        """Return the exact query for a path. `Expires` has a fraction, so that tests need not wait for full seconds."""
        expires = f"{now + self.lifetime_s:.3f}"
        token = quote(base64.b64encode(hashlib.sha256(raw_path.encode()).digest() * 3).decode(), safe="")
        signature = quote(self._signature(raw_path, expires, token), safe="")
        return f"AWSAccessKeyId={_ACCESS_KEY}&Expires={expires}&Signature={signature}&x-amz-security-token={token}"

    def check(self, raw_path: str, raw_query: str, now: float) -> str | None:
        """Return S3's error code for a request, or None if it is valid. Checks the bytes as they were sent."""
        fields = dict(pair.partition("=")[::2] for pair in raw_query.split("&"))
        expires = fields.get("Expires", "")
        wanted = quote(self._signature(raw_path, expires, fields.get("x-amz-security-token", "")), safe="")
        if not hmac.compare_digest(wanted.encode(), fields.get("Signature", "").encode()):
            return "SignatureDoesNotMatch"
        return "Expired" if now > float(expires) else None

    def _signature(self, raw_path: str, expires: str, token: str) -> str:
        text = f"GET\n\n\n{expires}\nx-amz-security-token:{token}\n{raw_path}"
        return base64.b64encode(hmac.new(self._secret, text.encode(), hashlib.sha1).digest()).decode()
