"""Why a call was refused, in the words of the body and the headers of its answer. Pure.

api.md §8 lists the shapes. The words come from outside: they become one printable line of limited length, without
URL queries, tokens, or the secrets that the request contained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html import unescape
from urllib.parse import quote, unquote

from dcsync.core.model import Json
from dcsync.core.names import printable

#: The longest reason that is shown, and the longest text of a body without a known shape.
MAX_WORDS, MAX_UNKNOWN = 300, 80
#: More errors of one answer do not explain it better.
_MAX_ERRORS = 3
_MAX_DEPTH = 4
_MIN_SECRET = 8
#: Longer texts are cut before secrets are looked for: the patterns take quadratic time.
_MAX_SEARCHED = 4096
#: A text is cut after one of these, so that it does not end with a half of a secret.
_SEPARATORS = " \t\r\n,;\"'<>"
#: Keys with words, in the order in which they are shown. `faultstring` and `errorcode` are those of API gateways.
_WORDS = (
    *("developerMessage", "faultstring", "reason", "title", "detail", "message", "error", "error_description"),
    *("errorCode", "errorcode", "code"),
)
#: Keys with further objects that have words.
_NESTED = ("errors", "error", "fault", "detail")
#: Autodesk's support asks for the request ID (docs/project/api.md §8). Storage has its own.
_REQUEST_IDS = ("x-request-id", "x-ads-request-id", "x-amz-request-id", "x-amzn-requestid")
_ID = re.compile(r"[A-Za-z0-9._:=/+-]{1,80}")
_TAG = re.compile(r"<[^>]*>")
# Only these two elements: the others repeat the signature and the URL (Amazon S3, "REST error responses").
_XML_CODE = re.compile(r"<Code>([^<]{1,100})</Code>")
_XML_MESSAGE = re.compile(r"<Message>([^<]{1,300})</Message>")
_CHALLENGE = re.compile(r'\b(?:error|error_description)="([^"]{1,200})"')
# A query, whatever is before it, then tokens, and values of keys that name a secret.
# A URL in a URL is percent-encoded.
_QUERY = re.compile(r"(?i)(?:\?|%3F)[^\s?\"'<>]*(?:=|%3D)[^\s\"'<>]*")
_USER = re.compile(r"(?i)(https?://)[^\s/?#@\"'<>]*@")
_TOKEN = re.compile(r"\b(?:eyJ[\w-]{5,}\.[\w-]{5,}\.[\w-]*|(?i:bearer|basic)\s+[\w.~+/=-]{8,})")
_PAIR = re.compile(
    r"(?i)\b((?:x-amz-[\w-]+|\w*signature|\w*token|\w*secret|assertion|password|awsaccesskeyid)"
    r"(?:=|%3D|[\"']\s*:\s*[\"']))[^\s&;,\"']+"
)


def reason(headers: Mapping[str, str], body: bytes, *, secrets: Sequence[str] = ()) -> str:
    """Return why a call was refused, with the request ID. Empty if the answer does not say.

    `headers` has lower-case keys. `secrets` are those of the request, which an answer may repeat.
    """
    found = [*_body_words(headers, body), *_header_words(headers)]
    words = printable(_without_secrets("; ".join(dict.fromkeys(found)), secrets), MAX_WORDS)
    return with_request_id(words, headers)


def with_request_id(words: str, headers: Mapping[str, str]) -> str:
    """Return words followed by the request ID of an answer, if it has one."""
    identifier = next((value for name in _REQUEST_IDS if (value := headers.get(name)) and _ID.fullmatch(value)), None)
    if identifier is None:
        return words
    return f"{words} (request ID {identifier})" if words else f"request ID {identifier}"


def warnings_in(value: Json) -> tuple[str, ...]:
    """Return the warnings of a JSON:API answer (`meta.warnings`), such as the regions that could not be listed."""
    meta = value.get("meta") if isinstance(value, Mapping) else None
    entries = meta.get("warnings") if isinstance(meta, Mapping) else None
    found = (": ".join(dict.fromkeys(_words_in(entry))) for entry in entries) if isinstance(entries, list) else ()
    return tuple(printable(_without_secrets(words, ()), MAX_WORDS) for words in found if words)[:_MAX_ERRORS]


def _body_words(headers: Mapping[str, str], body: bytes) -> list[str]:
    try:
        value = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        words = list(dict.fromkeys(_words_in(value)))
        if words:
            return [": ".join(words)]
    text = body[:4096].decode("utf-8", "replace")
    if "html" not in headers.get("content-type", "") and text.lstrip()[:1] != "<":
        return _unknown(text)
    code, message = _XML_CODE.search(text), _XML_MESSAGE.search(text)
    if code is not None:
        return [": ".join(unescape(each[1]).strip() for each in (code, message) if each is not None)]
    return _unknown(_TAG.sub(" ", text))


def _unknown(text: str) -> list[str]:
    # Hidden before it is cut: a half of a token would no longer look like one.
    words = " ".join(_without_secrets(text, ()).split())
    return [printable(words, MAX_UNKNOWN)] if words else []


def _words_in(value: object, depth: int = 0) -> Iterator[str]:
    """Yield the words of an error object, and of the objects in it. A list can also contain plain texts."""
    if isinstance(value, str) and value.strip():
        yield value.strip()
    if not isinstance(value, Mapping) or depth > _MAX_DEPTH:
        return
    # The hubs' warnings have `Title` and `Detail`.
    entry = {str(key)[:1].lower() + str(key)[1:]: inner for key, inner in value.items()}
    for key in _NESTED:
        inner = entry.get(key)
        for each in inner[:_MAX_ERRORS] if isinstance(inner, list) else [inner]:
            if not isinstance(inner, str):
                yield from _words_in(each, depth + 1)
    for key in _WORDS:
        inner = entry.get(key)
        if isinstance(inner, str) and inner.strip():
            yield inner.strip()


def _header_words(headers: Mapping[str, str]) -> Iterator[str]:
    troubleshooting = headers.get("x-ads-troubleshooting", "").strip()
    if troubleshooting:
        yield troubleshooting
    challenge = dict.fromkeys(_CHALLENGE.findall(headers.get("www-authenticate", "")))
    if challenge:
        yield ": ".join(challenge)
    kind = headers.get("x-amzn-errortype", "").partition(":")[0].strip()
    if kind:
        yield kind


def _without_secrets(text: str, secrets: Sequence[str]) -> str:
    text = _searched(text)
    for secret in secrets:
        # A shorter text could be part of any word.
        for form in {secret, unquote(secret), quote(secret, safe="")} if len(secret) >= _MIN_SECRET else ():
            text = text.replace(form, "…")
    text = _TOKEN.sub("…", _QUERY.sub("?…", _USER.sub(r"\1…@", text)))
    return _PAIR.sub(r"\1…", text)


def _searched(text: str) -> str:
    if len(text) <= _MAX_SEARCHED:
        return text
    cut = text[:_MAX_SEARCHED]
    return f"{cut[: max(map(cut.rfind, _SEPARATORS)) + 1]}…"
