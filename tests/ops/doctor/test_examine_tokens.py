"""What `doctor` finds about tokens: their age, their store, and a sign-in that is missing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dcsync.auth.token_store import Intent, TokenPair, TokenStore, fingerprint
from dcsync.errors import SecretUnavailable
from dcsync.ops.doctor import machine as check_machine
from dcsync.ops.doctor.examine import Level
from tests.auth.test_assertion import pem, public
from tests.rigs.examined import (
    ACCOUNT_CHECKS,
    chain,
    examine,
    make_state,
    status,
)
from tests.rigs.mirror import TODAY, Mirror

# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "level", "said"),
    [
        (timedelta(days=9, hours=23), "ok", "valid until 2026-12-07 12:00"),
        (timedelta(days=10), "warn", "valid until 2026-12-07 12:00"),
        (timedelta(days=14, hours=23), "warn", "valid until 2026-12-07 12:00"),
        (timedelta(days=15), "fail", "expired on 2026-12-07"),
    ],
)
async def test_a_refresh_token_s_age_is_judged(mirror: Mirror, age: timedelta, level: str, said: str) -> None:
    chain(mirror)
    await mirror.sync()
    mirror.clock.advance(age.total_seconds())

    checks = await examine(mirror)

    assert checks["token"].level.value == level
    assert said in checks["token"].message
    assert status(checks) == (12 if level == "fail" else 0)
    if level == "fail":
        assert checks["api"].message == "needs token"
        assert mirror.sandbox.tokens.refresh_count == 1


async def test_a_fresh_access_token_spends_no_refresh_token(mirror: Mirror) -> None:
    chain(mirror)
    await mirror.sync()

    checks = await examine(mirror)

    assert checks["api"].level is Level.OK
    assert mirror.sandbox.tokens.refresh_count == 1


async def test_a_first_refresh_token_is_not_spent_where_the_next_one_could_not_be_kept(mirror: Mirror) -> None:
    chain(mirror)

    checks = await examine(mirror)

    assert "was not used yet" in checks["token"].message
    assert checks["api"].level is Level.SKIP
    assert "state.dir does not exist yet to store the next token" in checks["api"].message
    assert mirror.sandbox.tokens.refresh_count == 0
    assert not mirror.state.exists()


async def test_a_first_refresh_token_that_is_not_there_fails_and_is_not_missed_later(mirror: Mirror) -> None:
    chain(mirror)
    make_state(mirror)
    seed = mirror.environ.pop("SEED")

    checks = await examine(mirror)
    assert "SEED is not set" in checks["token"].message
    assert status(checks) == 2

    mirror.environ["SEED"] = seed
    await mirror.sync()
    del mirror.environ["SEED"]
    assert (await examine(mirror))["token"].level is Level.OK


async def test_a_login_without_a_stored_token_needs_one(mirror: Mirror) -> None:
    mirror.config["auth"] = {"method": "login", "client_id": "sandbox"}

    checks = await examine(mirror)

    assert checks["token"].message == "no token is stored in state.dir"
    assert checks["secrets"].message == "none needed"
    assert checks["api"].message == "needs token"
    assert status(checks) == 12


async def test_a_first_refresh_token_whose_chain_is_gone_is_not_offered_again(mirror: Mirror) -> None:
    chain(mirror)
    await mirror.sync()
    for path in (mirror.state / "token.json", mirror.state / "token.previous.json"):
        path.unlink()

    checks = await examine(mirror)

    assert "was already used" in checks["token"].message
    assert status(checks) == 12
    assert mirror.sandbox.tokens.refresh_count == 1


def service_account(mirror: Mirror) -> None:
    mirror.sandbox.tokens.service_accounts["robot"] = {"key-1": public()}
    mirror.environ["KEY"] = pem()
    mirror.config["auth"] = {
        "method": "service-account",
        "client_id": "sandbox",
        "client_secret": "sandbox-secret",
        "service_account_id": "robot",
        "key_id": "key-1",
        "private_key": "env:KEY",
    }


async def test_a_service_account_is_tried_before_there_is_a_state_folder(mirror: Mirror) -> None:
    service_account(mirror)

    checks = await examine(mirror)

    assert "without a deadline" in checks["token"].message
    assert checks["permission.acme"].level is Level.OK
    assert not mirror.state.exists()


@pytest.mark.parametrize(("key", "expected"), [(None, 12), ("no key", 2)])
async def test_a_service_account_that_is_not_accepted_fails_where_it_asks(
    mirror: Mirror, key: str | None, expected: int
) -> None:
    service_account(mirror)
    mirror.sandbox.tokens.service_accounts.clear()
    mirror.environ["KEY"] = key or mirror.environ["KEY"]

    checks = await examine(mirror)

    assert checks["api"].level is Level.FAIL
    assert "auth" in checks["api"].advice
    assert {checks[name].level for name in ACCOUNT_CHECKS} == {Level.SKIP}
    assert status(checks) == expected


def make_store(folder: Path, **intent: Any) -> TokenStore:
    store = TokenStore(folder)
    store.save(TokenPair(refresh_token="r", issued_at=TODAY))
    if intent:
        store.note_intent(Intent(spending=fingerprint("r"), attempt=1, at=TODAY, **intent))
    return store


def test_a_refresh_without_an_answer_is_warned_of(tmp_path: Path) -> None:
    check = check_machine.stored_token(make_store(tmp_path, refused=False), seed=None, now=TODAY)

    assert check.level is Level.WARN
    assert "the token refresh at 2026-11-22 12:00 UTC is unconfirmed" in check.message


def test_a_refused_refresh_token_needs_a_login_unless_a_new_one_is_given(tmp_path: Path) -> None:
    store = make_store(tmp_path, refused=True)
    new = check_machine.Secret(key="refresh_token", where="env:X", resolve=lambda: "another")

    with pytest.raises(Exception, match="at 2026-11-22 12:00 UTC \\(invalid_grant\\)"):
        check_machine.stored_token(store, seed=None, now=TODAY)

    store.save(TokenPair(refresh_token="r", issued_at=TODAY, seed=fingerprint("first")))
    assert "was not used yet" in check_machine.stored_token(store, seed=new, now=TODAY).message


def test_a_token_of_unknown_age_is_taken_as_it_is(tmp_path: Path) -> None:
    store = TokenStore(tmp_path)
    store.save(TokenPair(refresh_token="r"))

    assert check_machine.stored_token(store, seed=None, now=TODAY).level is Level.OK


def test_a_seed_that_is_gone_is_missed_only_while_no_token_is_stored(tmp_path: Path) -> None:
    def gone() -> str:
        message = "the environment variable X is not set"
        raise SecretUnavailable(message)

    seed = check_machine.Secret(key="refresh_token", where="env:X", resolve=gone)

    with pytest.raises(SecretUnavailable):
        check_machine.stored_token(TokenStore(tmp_path), seed=seed, now=TODAY)
    assert check_machine.stored_token(make_store(tmp_path), seed=seed, now=TODAY).level is Level.OK
