"""Refusals in each shape in which Autodesk and its storage explain one: as JSON, in headers, as XML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from xml.sax.saxutils import escape

from aiohttp import web

from dcsync.sandbox.faults import Fault

#: The request ID of every refusal, which Autodesk's support asks for.
REQUEST_ID: Final = "5f0d7a2c-3b1e-4c57-9d1a-8e2f6b7c9d10"
_CODE: Final = "SANDBOX-42"


def json_api(status: int, words: str) -> web.Response:
    """Return an error in the format of JSON:API, as the Data Management API does."""
    error = {"id": REQUEST_ID, "status": str(status), "code": _CODE, "title": "Refused", "detail": words}
    return web.json_response({"jsonapi": {"version": "1.0"}, "errors": [error]}, status=status)


def _error_object(status: int, words: str) -> web.Response:
    return web.json_response({"error": {"code": _CODE, "message": words, "status": status}}, status=status)


def _developer_message(status: int, words: str) -> web.Response:
    body = {"developerMessage": words, "errorCode": _CODE, "moreInfo": "https://aps.example.com/errors"}
    return web.json_response(body, status=status)


def _reason(status: int, words: str) -> web.Response:
    return web.json_response({"reason": "Refused", "message": words, "detail": _CODE}, status=status)


def _headers(status: int, words: str) -> web.Response:
    headers = {"x-ads-troubleshooting": words, "WWW-Authenticate": " ".join(("Bearer", f'error="{_CODE}"'))}
    return web.Response(status=status, headers=headers)


def _xml(status: int, words: str) -> web.Response:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{_CODE}</Code><Message>{escape(words)}</Message><RequestId>{REQUEST_ID}</RequestId>"
        "<AWSAccessKeyId>AKIASANDBOX</AWSAccessKeyId><SignatureProvided>sandbox-signature</SignatureProvided></Error>"
    )
    return web.Response(status=status, text=body, content_type="application/xml")


_SHAPES: Final[dict[str, Callable[[int, str], web.Response]]] = {
    "refuse-json-api": json_api,
    "refuse-error-object": _error_object,
    "refuse-developer-message": _developer_message,
    "refuse-reason": _reason,
    "refuse-in-headers": _headers,
    "refuse-xml": _xml,
}
#: The kinds of faults that answer like that.
KINDS: Final = tuple(_SHAPES)


def not_found(kind: str) -> web.Response:
    """Return the Data Connector's answer for an object that does not exist, or that its user cannot see."""
    return web.json_response({"detail": f"The {kind} was not found"}, status=404)


def bad_request(detail: str) -> web.Response:
    """Return the Data Connector's answer for a malformed call."""
    return web.json_response({"title": "Bad request", "detail": detail, "status": 400}, status=400)


def refusal(fault: Fault) -> web.Response | None:
    """Return the answer of a refusal with `status` and the words in `body`. None for any other kind of fault."""
    shape = _SHAPES.get(fault.kind)
    if shape is None:
        return None
    response = shape(fault.status, fault.body.decode())
    response.headers["x-amz-request-id" if fault.server == "storage" else "x-request-id"] = REQUEST_ID
    response.headers.update(fault.headers)
    return response


def warnings(words: str) -> dict[str, object]:
    """Return the `meta` of hubs of which some could not be listed. The keys are those of Autodesk's answer."""
    warning = {
        "Id": None,
        "HttpStatusCode": "403",
        "ErrorCode": _CODE,
        "Title": "Unable to get hubs from BIM360DM EMEA.",
        "Detail": words,
        "AboutLink": None,
    }
    return {"warnings": [warning]}
