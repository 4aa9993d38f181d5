"""Why a server refused a call, in its own words: every shape, one line, and nothing secret."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core.model import Json
from dcsync.core.reasons import reason, warnings_in, with_request_id

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
SECRET = "x7Qz-secret+of/the=request"


def words_of(value: object, **headers: str) -> str:
    return reason({name.replace("_", "-"): text for name, text in headers.items()}, json.dumps(value).encode())


# --- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"developerMessage": "no", "errorCode": "AUTH-001", "moreInfo": "link"}, "no: AUTH-001"),
        ({"title": "Bad", "detail": "because", "extra": 1, "status": 400}, "Bad: because"),
        ({"detail": "only this"}, "only this"),
        ({"error": "invalid_grant", "error_description": "gone"}, "invalid_grant: gone"),
        ({"error": {"message": "no access", "code": 403}}, "no access"),
        ({"error": {"code": "DENIED", "message": "no access"}}, "no access: DENIED"),
        ({"reason": "Forbidden", "message": "no", "detail": "role"}, "Forbidden: role: no"),
        ({"title": "same", "detail": "same", "message": 5, "error": ""}, "same"),
        (
            {"errors": [{"title": "Denied", "detail": "no project", "code": "ERR-7", "status": "403"}]},
            "Denied: no project: ERR-7",
        ),
        ({"errors": [{"detail": f"error {number}"} for number in range(9)]}, "error 0: error 1: error 2"),
        ({"errors": ["first", "second"]}, "first: second"),
        ({"errors": [" ", "second"]}, "second"),
        ({"errors": {"title": "one object"}}, "one object"),
        ({"errors": [], "title": "empty"}, "empty"),
        ({"fault": {"faultstring": "expired", "detail": {"errorcode": "oauth.v2"}}}, "oauth.v2: expired"),
        ({"message": "  spaces  "}, "spaces"),
    ],
)
def test_every_shape_becomes_one_line(value: Json, words: str) -> None:
    assert words_of(value) == words


@pytest.mark.parametrize(
    ("body", "content_type", "words"),
    [
        (b'{"code": 7}', "", '{"code": 7}'),
        (b"[1]", "", "[1]"),
        (b"\xef\xbb\xbf{}", "", r"\ufeff{}"),
        (b'\xef\xbb\xbf{"detail": "with a BOM"}', "", "with a BOM"),
        (b"<html><h1>502</h1>\n Bad\tGateway</html>", "", "502 Bad Gateway"),
        (b"Oh <b>no</b>", "text/html; charset=x", "Oh no"),
        (b"a < b", "text/plain", "a < b"),
        (b"", "", ""),
        (b" \n", "", ""),
        # The first 4096 bytes are read.
        (b" " * 4095 + b"ab", "", "a"),
        (b"\xff\x00", "", "\ufffd\\x00"),
        (b"[" * 100_000, "", "[" * 80 + "…"),
        (b'{"title": "' + b"t" * 400 + b'"}', "", "t" * 300 + "…"),
    ],
)
def test_a_body_of_no_known_shape_is_quoted(body: bytes, content_type: str, words: str) -> None:
    assert reason({"content-type": content_type}, body) == words


def test_nested_objects_are_read_to_a_limit() -> None:
    nested: Json = {"message": "deep"}
    for _ in range(4):
        nested = {"error": nested}

    assert words_of(nested) == "deep"
    assert words_of({"error": nested}).startswith('{"error"')


@pytest.mark.parametrize(
    "key",
    [
        *("developerMessage", "faultstring", "reason", "title", "detail", "message", "error", "error_description"),
        *("errorCode", "errorcode", "code"),
    ],
)
def test_each_key_alone_is_a_reason(key: str) -> None:
    assert words_of({key: "why"}) == "why"


# --- storage ----------------------------------------------------------------------------------------------------------


def test_of_storage_only_code_and_message_are_shown() -> None:
    body = (
        b'<?xml version="1.0"?>\n<Error><Code>SignatureDoesNotMatch</Code>'
        b"<Message>It &lt;differs&gt; &amp; so on</Message>"
        b"<AWSAccessKeyId>AKIA-canary</AWSAccessKeyId><StringToSign>GET /canary</StringToSign></Error>"
    )

    assert reason({"content-type": "application/xml"}, body) == "SignatureDoesNotMatch: It <differs> & so on"


def test_a_code_without_a_message_is_enough() -> None:
    assert reason({}, b"<Error><Code>AccessDenied</Code></Error>") == "AccessDenied"


def test_entities_are_not_expanded() -> None:
    body = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><Error><Code>&b;</Code></Error>'

    assert reason({}, body) == "&b;"


# --- headers ----------------------------------------------------------------------------------------------------------


def test_headers_explain_an_empty_body() -> None:
    assert reason({"x-ads-troubleshooting": " no entitlement "}, b"") == "no entitlement"
    challenge = 'Bearer realm="aps", error="invalid_token", error_description="The token has expired"'
    assert reason({"www-authenticate": challenge}, b"") == "invalid_token: The token has expired"
    assert reason({"www-authenticate": "Negotiate"}, b"") == ""
    assert reason({"x-amzn-errortype": "ForbiddenException:http://internal/"}, b"") == "ForbiddenException"


def test_headers_add_to_a_body() -> None:
    assert words_of({"detail": "no"}, x_ads_troubleshooting="no entitlement") == "no; no entitlement"
    assert words_of({"detail": "no"}, x_ads_troubleshooting="no") == "no"


@pytest.mark.parametrize("name", ["x-request-id", "x-ads-request-id", "x-amz-request-id", "x-amzn-requestid"])
def test_the_request_id_is_shown_with_and_without_words(name: str) -> None:
    assert reason({name: "5f0d-7a"}, b'{"detail": "no"}') == "no (request ID 5f0d-7a)"
    assert reason({name: "5f0d-7a"}, b"") == "request ID 5f0d-7a"


@pytest.mark.parametrize("value", ["", "two words", "a" * 81, "a\u202eb", "a?b=c"])
def test_what_is_no_request_id_is_left_out(value: str) -> None:
    assert with_request_id("no", {"x-request-id": value}) == "no"
    assert with_request_id("no", {"x-request-id": value, "x-amz-request-id": "ok"}) == "no (request ID ok)"


# --- secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"the token {SECRET} is not valid",
        "the token x7Qz-secret%2Bof%2Fthe%3Drequest is not valid",
        "GET /bucket/key?X-Amz-Signature=abc-secret&X-Amz-Date=1 was refused",
        "see https://storage.test/x?Signature=abc-secret",
        "token eyJhbGciOi.eyJzdWIsecret.abc-secret has expired",
        "Authorization was Bearer abc-secret.and-more",
        "refresh_token=abc-secret&grant",
        "AWSAccessKeyId=abc-secret",
        "to https%3A%2F%2Fstorage.test%2Fx%3FX-Amz-Date%3D1%26X-Amz-Signature%3Dabc-secret%26X-Amz-Expires%3D60",
        """the answer was {"access_token": "abc-secret", "expires_in": 1}""",
        """{'refresh_token': 'abc-secret'}""",
        "https://anna:abc-secret@storage.test/x is not allowed",
    ],
)
def test_no_secret_is_repeated(text: str) -> None:
    for body in (json.dumps({"detail": text}).encode(), text.encode(), f"<p>{text}</p>".encode()):
        shown = reason({}, body, secrets=[SECRET, ""])

        assert "secret" not in shown
        assert "…" in shown
    assert "secret" not in reason({"x-ads-troubleshooting": text}, b"", secrets=[SECRET])


def test_a_secret_is_hidden_in_each_form_in_which_an_answer_may_repeat_it() -> None:
    for secret in ("a+b/canary", "a%2Bb%2Fcanary"):
        for form in ("a+b/canary", "a%2Bb%2Fcanary"):
            assert reason({}, f"not {form}".encode(), secrets=[secret]) == "not …"


def test_a_secret_has_eight_characters_at_least() -> None:
    assert reason({}, b"12345678 was 1234567", secrets=["12345678"]) == "… was 1234567"
    assert reason({}, b"12345678 was 1234567", secrets=["1234567"]) == "12345678 was 1234567"


def test_a_long_text_is_cut_at_its_last_word_before_secrets_are_looked_for() -> None:
    query = "?a=1" + "x" * 4086

    assert words_of({"detail": query + " words"}) == "?… words"
    assert words_of({"detail": query + "x words"}) == "?… …"
    assert words_of({"detail": "y" * 5000}) == "…"


def test_a_short_value_hides_no_word() -> None:
    assert reason({}, b'{"detail": "60 seconds"}', secrets=["60", "seconds"]) == "60 seconds"


def test_a_secret_is_hidden_before_the_text_is_cut() -> None:
    body = b"x" * 70 + b" Bearer abc-secret-that-is-longer-than-the-limit"

    assert "abc" not in reason({}, body)


def test_a_secret_at_the_end_of_a_long_text_is_not_shown_in_part() -> None:
    """Most of the text is hidden, so that its end is shown."""
    text = "?a=1" + "x" * 4070 + " eyJhbGciOi" + "secret" * 100 + ".eyJzdWI.c"

    assert "secret" not in words_of({"detail": text})


@pytest.mark.parametrize("unit", ["eyJ-", "x-amz-", "?a", "bearer ", "x-amz-a=", "token", "<", "%3F", '"a"'])
def test_a_long_text_is_read_in_linear_time(unit: str) -> None:
    """It would otherwise block everything for hours: a body has up to 16 MiB."""
    assert words_of({"detail": unit * (4_000_000 // len(unit))})


def test_control_characters_and_bidi_are_escaped() -> None:
    assert words_of({"detail": "a\u202eb\x1b[31m\nc"}) == r"a\u202eb\x1b[31m\nc"


@given(
    st.binary() | ANY_JSON.map(lambda value: json.dumps(value).encode()), st.sampled_from(["", "text/html"]), st.text()
)
def test_any_answer_gives_one_printable_line(body: bytes, content_type: str, header: str) -> None:
    words = reason({"content-type": content_type, "x-ads-troubleshooting": header, "x-request-id": header}, body)

    assert words.isprintable()
    assert len(words) <= 420


# --- warnings ---------------------------------------------------------------------------------------------------------


def test_the_warnings_of_the_hubs_are_read_in_autodesks_spelling() -> None:
    warning = {"Id": None, "HttpStatusCode": "403", "ErrorCode": "DM", "Title": "Unable to list EMEA.", "Detail": "no"}

    hubs: Json = {"data": [], "meta": {"warnings": [warning, {}, "plain", 5]}}

    assert warnings_in(hubs) == ("Unable to list EMEA.: no: DM", "plain")


def test_of_many_warnings_three_are_shown_each_cut_and_without_secrets() -> None:
    texts = [f"{number} " + "w" * 400 for number in range(4)]
    assert warnings_in({"meta": {"warnings": texts}}) == tuple(f"{text[:300]}…" for text in texts[:3])
    assert warnings_in({"meta": {"warnings": ["Bearer abc-canary-1", {"title": "a", "detail": "a"}]}}) == ("…", "a")


@pytest.mark.parametrize("value", [None, [], {}, {"meta": 1}, {"meta": {}}, {"meta": {"warnings": {"a": 1}}}])
def test_most_answers_have_no_warnings(value: Json) -> None:
    assert warnings_in(value) == ()


@given(ANY_JSON)
def test_any_warnings_are_printable(value: Json) -> None:
    assert all(warning.isprintable() for warning in warnings_in({"meta": {"warnings": [value]}}))
