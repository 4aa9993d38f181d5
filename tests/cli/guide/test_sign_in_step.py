"""The sign-in of a person: refused, denied, repeated, and the accounts that the user sees."""

from __future__ import annotations

import asyncio
import re
from urllib.parse import parse_qsl

import aiohttp
import pytest

from dcsync.auth.token_store import TokenStore
from dcsync.sandbox import Fault
from tests.cli.guide.conftest import Home, Init
from tests.rigs.hands import CTRL_D, with_browser
from tests.rigs.person import at_terminal


@pytest.fixture
def signed_out(signed_in: Home) -> Home:
    TokenStore(signed_in.folder / "state").forget()
    return signed_in


def test_a_denied_sign_in_is_named_and_can_be_repeated(
    signed_out: Home, init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_browser(monkeypatch, answers=("deny", "allow"))

    result = init([("Sign in now?", ""), ("Try again?", ""), ("Account (", "later")])

    assert result.status == 0, result
    assert "The user denied access" in result.err
    assert "Signed in as user ada." in result.out
    assert TokenStore(signed_out.folder / "state").read() is not None


def test_a_denied_sign_in_can_be_left(signed_out: Home, init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    with_browser(monkeypatch, answers=("deny",))

    result = init([("Sign in now?", ""), ("Try again?", "n")])

    assert (result.status, result.out.endswith("To continue later: dcsync init")) == (0, True)


def test_a_client_that_is_refused_now_stops_it_with_what_to_do(
    signed_out: Home, init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_browser(monkeypatch)
    signed_out.place.with_name("client-secret").write_text("changed")

    result = init([("Sign in now?", "")])

    assert result.status == 2
    assert "T-CLIENT" in result.err
    assert result.out.endswith("To continue: dcsync init")


def test_a_user_without_access_is_told_what_an_administrator_does(signed_in: Home, init: Init) -> None:
    signed_in.side.sandbox.faults.add(Fault(server="api", kind="status", status=403, match="/hubs", times=2))

    result = init([("Look again?", "y"), ("Look again?", "y"), ("Account (", "later")])

    assert result.status == 0, result
    assert result.out.count("1. adds the client ID sandbox under Custom integrations") == 2
    assert "A-DENIED" in result.err


def test_another_refusal_stops_it_and_nothing_is_lost(signed_in: Home, init: Init) -> None:
    signed_in.side.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/hubs", times=None))
    before = signed_in.place.read_bytes()

    result = init([])

    assert result.status == 3
    assert "A-MISSING" in result.err
    assert signed_in.place.read_bytes() == before


def test_a_region_that_autodesk_could_not_list_is_named(signed_in: Home, init: Init) -> None:
    signed_in.side.sandbox.faults.add(Fault(server="api", kind="warn", body=b"EMEA is down", times=None))

    assert "EMEA is down" in init([("Account (", "later")]).out


def test_ctrl_d_leaves_the_wait_for_the_browser(signed_out: Home) -> None:
    with at_terminal("--config", signed_out.place, "init") as user:
        user.answer("Sign in now?", "")
        user.until("press Enter.")
        user.type(CTRL_D)
        status = user.finish()

    assert status == 130
    assert "To continue: dcsync" in user.seen
    assert "Traceback" not in user.seen


def test_without_a_browser_here_the_address_is_pasted(signed_out: Home) -> None:
    with at_terminal("--config", signed_out.place, "init") as user:
        user.answer("Sign in now?", "")
        user.until("press Enter.")
        found = re.search(r"^  (http://\S+/authorize\?\S+)$", user.seen, re.MULTILINE)
        assert found
        assert "The browser is opening" not in user.seen
        user.answer("press Enter.", "rubbish")
        user.answer("does not begin with http://localhost", asyncio.run(_address_after(found[1])))
        user.answer("Account (", "later")
        status = user.finish()

    assert status == 0, user.seen
    assert "Signed in as user ada." in user.seen


async def _address_after(url: str) -> str:
    """Allow access in a browser elsewhere, and return the address that it then cannot open."""
    page, _, query = url.partition("?")
    form = {**dict(parse_qsl(query)), "answer": "allow", "user": "ada"}
    async with aiohttp.ClientSession() as session, session.post(page, data=form, allow_redirects=False) as shown:
        return shown.headers["Location"]
