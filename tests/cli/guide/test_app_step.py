"""The app: Autodesk checks it, and a wrong one is asked for again."""

from __future__ import annotations

import os
import signal

import pytest

from dcsync.config import load
from dcsync.sandbox import Fault
from tests.cli.guide.conftest import SECRET, Home, Init, words_of
from tests.rigs.hands import CTRL_C
from tests.rigs.person import at_terminal

REST = [("Callback URL", "later")]


def test_a_wrong_secret_or_client_id_is_asked_for_again_with_autodesk_s_words(home: Home, init: Init) -> None:
    wrong = [
        ("Client ID", "sandbox"),
        ("Client secret", "wrong"),
        ("Client ID [sandbox]", "wrong"),
        ("Client secret", SECRET),
    ]

    result = init([*wrong, ("Client ID [wrong]", "sandbox"), ("Client secret", SECRET), ("Number", "1"), *REST])

    assert result.status == 0, result
    assert words_of(result).count("Autodesk refuses the app: the token endpoint returned 401") == 2
    assert "The client is not known" in words_of(result)
    assert not home.place.parent.exists()


def test_a_stored_secret_is_used_and_replaced_only_after_a_yes(home: Home, init: Init) -> None:
    stored = home.place.with_name("client-secret")
    stored.parent.mkdir(parents=True)
    stored.write_text("wrong\n")
    stored.chmod(0o600)

    kept = init(
        [("Client ID", "sandbox"), ("Client ID [sandbox]", ""), ("Replace the secret in", "n"), ("Client ID", CTRL_C)]
    )
    assert kept.status == 130
    assert stored.read_text() == "wrong\n"
    answers = [
        ("Client ID", "sandbox"),
        ("Client ID [sandbox]", ""),
        ("Replace the secret in", "y"),
        ("Client secret", SECRET),
    ]
    folders = [("Callback URL", home.callback), ("Mirror folder", "~/m"), ("Folder for tokens", "~/s")]
    assert init([*answers, ("Number", "1"), *folders, ("Sign in now?", "later")]).status == 0

    assert stored.read_text() == f"{SECRET}\n"


def test_a_secret_can_stay_where_it_is(home: Home, init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_SECRET", SECRET)
    folders = [("Callback URL", home.callback), ("Mirror folder", "~/m"), ("Folder for tokens", "~/s")]

    result = init(
        [("Client ID", "sandbox"), ("Client secret", "env:APP_SECRET"), ("Number", "1"), *folders, ("Sign in", "later")]
    )

    assert result.status == 0, result
    secret = load(home.place, environ=os.environ, accounts_needed=False).auth.client_secret
    assert secret is not None
    assert secret.describe() == "env:APP_SECRET"
    assert not home.place.with_name("client-secret").exists()


@pytest.mark.parametrize(("value", "words"), [("wrong", "The client is not known"), (None, "APP_SECRET is not set")])
def test_a_reference_that_does_not_work_is_named(
    home: Home, init: Init, monkeypatch: pytest.MonkeyPatch, value: str | None, words: str
) -> None:
    monkeypatch.delenv("APP_SECRET", raising=False)
    if value is not None:
        monkeypatch.setenv("APP_SECRET", value)

    result = init([("Client ID", "sandbox")], "--client-secret", "env:APP_SECRET")

    assert result.status == 2
    assert words in result.err
    assert "correct the client ID or env:APP_SECRET, and run dcsync init again" in result.err


def test_a_public_app_has_no_secret_and_no_service_account(
    home: Home, init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    object.__setattr__(home.side.sandbox.options, "client_secret", None)
    secret = [("Client secret", ""), ("public app", "n"), ("Client secret", ""), ("public app", "y")]
    folders = [("Callback URL", home.callback), ("Mirror folder", "~/m"), ("Folder for tokens", "~/s")]

    result = init([("Client ID", "sandbox"), *secret, ("Number", "2"), *folders, ("Sign in now?", "later")])

    assert result.status == 0, result
    assert "service account" not in result.out
    assert load(home.place, environ={}, accounts_needed=False).auth.client_secret is None


def test_an_unreachable_endpoint_is_named_and_the_check_can_be_left_out(home: Home, init: Init) -> None:
    home.side.sandbox.faults.add(Fault(server="token", kind="reset", match="/token$", times=2))

    result = init(
        [
            *[("Client ID", "sandbox"), ("Client secret", "x")],
            *[("Check the app again?", "y"), ("Check the app again?", "n"), ("Number", "1"), *REST],
        ]
    )

    assert result.status == 0, result
    assert result.err.count("T-ENDPOINT") == 2 + 2


@pytest.mark.parametrize(("answer", "words"), [("two words", "without spaces"), ("\x1b[A", "without spaces")])
def test_a_client_id_is_one_word(init: Init, answer: str, words: str) -> None:
    result = init([("Client ID", answer), ("Client ID", "later")])

    assert result.status == 0
    assert words in result.out


def test_an_interrupt_at_the_secret_gives_the_terminal_back(home: Home) -> None:
    with at_terminal(*home.init) as user:
        user.answer("Client ID", "sandbox")
        user.until("Client secret")
        assert not user.shows_typing()
        user.process.send_signal(signal.SIGINT)
        status = user.finish()
        assert user.shows_typing()

    assert status == 130
    assert "To continue: dcsync init" in user.seen
    assert not home.place.parent.exists()
