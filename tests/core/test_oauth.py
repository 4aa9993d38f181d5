"""Signing in: PKCE, what the browser brings back, and how old a token may get."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.core.oauth import (
    SignIn,
    begin,
    belongs,
    challenge,
    code_in,
    days_old,
    missing_scope,
    user_of,
    wants_keeping_alive,
)
from dcsync.errors import LoginRefused
from tests.fakes import NOON

REDIRECT = "http://localhost:8080/callback"


def make_attempt(**changes: str) -> SignIn:
    values = {
        "authorize_url": "https://api.example/authentication/v2/authorize",
        "client_id": "the client",
        "redirect_uri": REDIRECT,
        "state": "s" * 43,
        "verifier": "v" * 86,
    }
    values |= changes
    return begin(scopes=("data:read",), **values)


def jwt_of(claims: object) -> str:
    part = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"e30.{part}.signature"


def test_the_address_has_what_rfc_6749_and_7636_ask_for() -> None:
    attempt = make_attempt()

    query = parse_qs(urlsplit(attempt.url).query, strict_parsing=True)
    assert query == {
        "response_type": ["code"],
        "client_id": ["the client"],
        "redirect_uri": [REDIRECT],
        "scope": ["data:read"],
        "state": ["s" * 43],
        "code_challenge": [challenge("v" * 86)],
        "code_challenge_method": ["S256"],
    }
    assert "v" * 86 not in attempt.url


def test_the_challenge_is_that_of_rfc_7636_appendix_b() -> None:
    assert challenge("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk") == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def test_no_repr_shows_what_proves_the_attempt() -> None:
    attempt = make_attempt()
    shown = repr(attempt).replace(attempt.url, "")

    assert attempt.verifier not in shown
    assert attempt.state not in shown


@pytest.mark.parametrize("around", ["{}", "  {}\n", "'{}'", '"{}"'], ids=["plain", "blanks", "quotes", "double"])
def test_the_code_is_taken_out_of_the_address_as_people_paste_it(around: str) -> None:
    attempt = make_attempt()

    assert code_in(attempt, around.format(f"{REDIRECT}?code=the%2Bcode&state={attempt.state}&x=")) == "the+code"


def test_a_host_in_capitals_is_the_same_host() -> None:
    attempt = make_attempt()

    assert code_in(attempt, f"http://LOCALHOST:8080/callback?code=c&state={attempt.state}") == "c"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://localhost:8080/other?code=c&state=STATE", "does not begin with http://localhost:8080/callback"),
        ("https://localhost:8080/callback?code=c&state=STATE", "does not begin with"),
        ("http://localhost:8081/callback?code=c&state=STATE", "does not begin with"),
        ("http://evil@localhost:8080/callback?code=c&state=STATE", "does not begin with"),
        ("just the code", "does not begin with"),
        ("http://[::1", "is not a valid address"),
        (f"{REDIRECT}?code=c", "belongs to a different sign-in"),
        (f"{REDIRECT}?code=c&state=other", "belongs to a different sign-in"),
        (f"{REDIRECT}?code=c&state=STATE&state=STATE", "belongs to a different sign-in"),
        (f"{REDIRECT}?code=c&state=ü", "belongs to a different sign-in"),
        (f"{REDIRECT}?error=access_denied&state=STATE", "Autodesk refused the sign-in: access_denied"),
        (f"{REDIRECT}?error=e&error_description=No%1b%5b2J%0athanks&state=STATE", "refused the sign-in: No"),
        (f"{REDIRECT}?error=e&error_description=one&error_description=two&state=STATE", "refused the sign-in: one"),
        (f"{REDIRECT}?state=STATE", "has no authorization code"),
        (f"{REDIRECT}?code=a&code=b&state=STATE", "has no authorization code"),
    ],
)
def test_an_address_that_does_not_fit_is_refused_in_words(address: str, words: str) -> None:
    attempt = make_attempt()

    with pytest.raises(LoginRefused) as caught:
        code_in(attempt, address.replace("STATE", attempt.state))

    assert words in caught.value.message
    assert caught.value.message.isprintable()
    assert attempt.state not in caught.value.message


@pytest.mark.parametrize(("length", "shown"), [(120, "x" * 120), (121, "x" * 120 + "…")])
def test_a_long_reason_of_autodesk_is_cut(length: int, shown: str) -> None:
    attempt = make_attempt()

    with pytest.raises(LoginRefused) as caught:
        code_in(attempt, f"{REDIRECT}?error=e&error_description={'x' * length}&state={attempt.state}")

    assert caught.value.message == f"Autodesk refused the sign-in: {shown}"


@given(st.text())
def test_whatever_is_pasted_is_a_code_or_a_refusal(text: str) -> None:
    attempt = make_attempt()
    with pytest.raises(LoginRefused):
        code_in(attempt, text)


def test_an_address_belongs_to_the_attempt_with_its_state() -> None:
    attempt = make_attempt()

    assert belongs(attempt, f"{REDIRECT}?state={attempt.state}")
    assert not belongs(attempt, REDIRECT)


@pytest.mark.parametrize(
    ("token", "user"),
    [
        *((jwt_of({"userid": "ABCD"[:length]}), "ABCD"[:length]) for length in (1, 2, 3, 4)),
        (f"e30.{base64.urlsafe_b64encode(b'[' * 100_000).decode()}.x", None),
        (f"e30.{'!' * 5}.x", None),
        (jwt_of({"userid": ""}), None),
        (jwt_of({"userid": 7}), None),
        (jwt_of(["userid"]), None),
        ("opaque", None),
        ("a.b.c.d", None),
        ("e30.!!!.x", None),
        ("e30.gA.x", None),
    ],
)
def test_a_token_says_whose_it_is_or_nothing(token: str, user: str | None) -> None:
    assert user_of(token) == user


@pytest.mark.parametrize(
    ("token", "missing"),
    [
        (jwt_of({"scope": ["data:read"]}), "data:create"),
        (jwt_of({"scope": ["data:read", "data:create"]}), None),
        (jwt_of({"scope": "data:read"}), None),
        (jwt_of({}), None),
        ("opaque", None),
    ],
)
def test_a_token_says_which_scope_it_lacks_if_it_names_its_scopes(token: str, missing: str | None) -> None:
    assert missing_scope(token, "data:create") == missing


@given(st.text(max_size=60))
def test_no_token_is_too_odd_to_be_looked_at(token: str) -> None:
    user_of(f"a.{token}.c")


@pytest.mark.parametrize(
    ("age", "days"),
    [(0, None), (9.99, None), (10, 10), (12.9, 10), (13, 13), (14, 14), (14.9, 14), (15, 15), (400, 15)],
)
def test_a_refresh_token_is_warned_of_at_10_13_14_and_15_days(age: float, days: int | None) -> None:
    assert days_old(NOON - timedelta(days=age), NOON) == days


def test_of_a_token_of_unknown_age_nothing_is_said() -> None:
    assert days_old(None, NOON) is None


@pytest.mark.parametrize(
    ("issued_at", "wanted"),
    [(None, True), (NOON - timedelta(days=6.9), False), (NOON - timedelta(days=7), True)],
)
def test_a_chain_is_kept_alive_from_its_seventh_day_on(issued_at: datetime | None, wanted: bool) -> None:
    assert wants_keeping_alive(issued_at, NOON) is wanted


def test_the_challenge_is_the_sha256_of_the_verifier() -> None:
    digest = hashlib.sha256(b"x" * 43).digest()

    assert base64.urlsafe_b64decode(challenge("x" * 43) + "=") == digest
