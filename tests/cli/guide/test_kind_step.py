"""Who signs in: a person whose callback URL Autodesk knows, or a service account that is created here."""

from __future__ import annotations

import json
import os

import pytest

from dcsync.config import load
from dcsync.sandbox import Fault
from tests.cli.guide.conftest import SECRET, Home, Init, words_of
from tests.rigs.hands import with_browser

APP = [("Client ID", "sandbox"), ("Client secret", SECRET)]
FOLDERS = [("Mirror folder", "~/m"), ("Folder for tokens", "~/s")]


def test_a_callback_url_that_autodesk_does_not_know_is_named_before_the_sign_in(home: Home, init: Init) -> None:
    wrong = "http://localhost:1/callback"

    result = init(
        [*APP, ("Number", "1"), ("Callback URL", wrong), ("Callback URL", home.callback), ("Mirror", "later")]
    )

    assert result.status == 0, result
    words = f"the redirect_uri is not registered. The page of the app must have the callback URL {wrong} and"
    assert words in words_of(result)


@pytest.mark.parametrize("wrong", ["foo", "localhost:8080/callback", "ftp://host/callback", "http://", "http://a b/"])
def test_a_callback_url_that_no_app_can_have_is_asked_for_again(home: Home, init: Init, wrong: str) -> None:
    result = init([*APP, ("Number", "1"), ("Callback URL", wrong), ("Callback URL", "later")])

    assert result.status == 0, result
    assert f"Error: {wrong!r} is not a callback URL such as http://localhost:8080/callback" in result.out
    assert "Autodesk refuses" not in result.out


def test_a_callback_url_can_be_kept_against_the_check(home: Home, init: Init) -> None:
    wrong = "http://localhost:1/callback"
    again = [
        ("Callback URL", wrong),
        ("Callback URL", wrong),
        ("Keep these", "n"),
        ("Callback URL", ""),
        ("Keep these", "y"),
    ]

    result = init([*APP, ("Number", "1"), *again, *FOLDERS, ("Sign in now?", "later")])

    assert result.status == 0, result
    assert load(home.place, environ={}, accounts_needed=False).auth.redirect_uri == wrong


def test_a_page_that_cannot_be_reached_stops_nothing(home: Home, init: Init) -> None:
    home.side.sandbox.faults.add(Fault(server="token", kind="reset", match="/authorize", times=None))

    result = init([*APP, ("Number", "1"), ("Callback URL", home.callback), ("Mirror folder", "later")])

    assert result.status == 0, result
    assert "the sign-in page cannot be reached" in result.err


@pytest.mark.parametrize(("has_one", "shown"), [(True, "[1]"), (False, "[2]")])
def test_the_likely_way_is_the_default(init: Init, monkeypatch: pytest.MonkeyPatch, has_one: bool, shown: str) -> None:
    if has_one:
        with_browser(monkeypatch)

    assert init([*APP, (f"Number {shown}", "later")]).status == 0


@pytest.mark.parametrize("call", range(5))
def test_a_creation_that_lost_a_call_is_continued_and_asks_nothing_twice(home: Home, init: Init, call: int) -> None:
    sandbox = home.side.sandbox
    fault = Fault(server="token", kind="lose-after-commit", match="service-accounts", skip=call, times=None)
    sandbox.faults.add(fault)
    lost = init([*APP, ("Number", "3"), ("Name of the service account", "mirror")])
    assert lost.status == 3
    assert "To continue: dcsync init" in lost.out
    sandbox.faults.clear()

    noted = home.place.with_name("service-account.json").exists()
    asked = [] if noted else [("Client ID", "sandbox"), ("Number", "3"), ("Name of the", "mirror")]
    result = init([*asked, *FOLDERS, ("Look again?", "later")])

    assert result.status == 0, result
    (account,) = sandbox.service_accounts.accounts.values()
    auth = load(home.place, environ={}, accounts_needed=False).auth
    assert (auth.service_account_id, list(account.keys)) == (account.id, [auth.key_id])
    assert f"invites {account.email} under Members" in words_of(result)


def test_an_existing_service_account_needs_its_ids(home: Home, init: Init) -> None:
    ids = [
        ("ID of the service account", "sa"),
        ("ID of its key", "k"),
        ("Reference to its private key", "file:~/key.pem"),
    ]

    result = init([*APP, ("Number", "4"), *ids, *FOLDERS])

    assert result.status == 2
    assert "key.pem does not exist" in result.err
    auth = load(home.place, environ={}, accounts_needed=False).auth
    assert (auth.method, auth.service_account_id, auth.key_id) == ("service-account", "sa", "k")


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (("--method", "login"), [("Callback URL", "later")]),
        (("--method", "service-account"), [("Name of the service account", "later")]),
        (("--method", "service-account", "--service-account", "sa"), [("ID of its key", "later")]),
        (("--key-id", "k"), [("Number [4]", ""), ("ID of the service account", "later")]),
        (("--method", "token"), [("Reference to the refresh token [env:DCSYNC_REFRESH_TOKEN]", "later")]),
    ],
)
def test_an_option_is_an_answer(init: Init, options: tuple[str, ...], asked: list[tuple[str, str]]) -> None:
    assert init([*APP, *asked], *options).status == 0


def test_a_refresh_token_of_another_program_is_used(home: Home, init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEED", home.side.sandbox.tokens.issue_refresh_token("ada"))

    result = init([*APP, ("Reference", "env:SEED"), *FOLDERS, ("Account (", "later")], "--method", "token")

    assert result.status == 0, result
    token = load(home.place, environ=os.environ, accounts_needed=False).auth.refresh_token
    assert token is not None
    assert token.describe() == "env:SEED"


def test_the_note_of_a_service_account_of_another_program_stops_it(home: Home, init: Init) -> None:
    home.place.parent.mkdir(parents=True)
    home.place.with_name("service-account.json").write_text(json.dumps({"other": 1}))

    result = init([])

    assert result.status == 2
    assert "is not a note of dcsync" in result.err


def test_an_access_token_needs_no_app(home: Home, init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCESS", home.side.token)

    result = init([*FOLDERS, ("Account (", "later")], "--access-token", "env:ACCESS")

    assert result.status == 0, result
    assert load(home.place, environ=os.environ, accounts_needed=False).auth.method == "token"


def test_the_client_id_of_a_public_app_is_checked_with_the_page(home: Home, init: Init) -> None:
    object.__setattr__(home.side.sandbox.options, "client_secret", None)
    app = [("Client ID", "wrong"), ("Client secret", ""), ("public app", "y"), ("Number", "1")]
    again = [
        ("Callback URL", home.callback),
        ("Client ID [wrong]", "sandbox"),
        (f"Callback URL of the app [{home.callback}]", ""),
    ]

    result = init([*app, *again, *FOLDERS, ("Sign in now?", "later")])

    assert result.status == 0, result
    assert "unknown client" in words_of(result)
    auth = load(home.place, environ={}, accounts_needed=False).auth
    assert (auth.client_id, auth.redirect_uri) == ("sandbox", home.callback)
