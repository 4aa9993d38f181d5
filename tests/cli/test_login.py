"""`dcsync login`, `logout` and `accounts`: in a browser, by pasting, and where neither is possible."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import re
import sys
import threading
import tomllib
import webbrowser
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest

from dcsync.auth.token_store import TokenStore
from dcsync.cli.login import Terminal
from dcsync.sandbox import Fault
from dcsync.sandbox.refusals import REQUEST_ID
from tests.cli.conftest import Dcsync
from tests.rigs.browser import browsing, new_page
from tests.rigs.ended import dying
from tests.rigs.json_page import documented, written
from tests.rigs.served import Served, served

AUTH = ('method = "login"', 'client_id = "sandbox"', 'client_secret = "sandbox-secret"')


@pytest.fixture
def signing_in(tmp_path: Path, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A sandbox, and a configuration with method "login" and a separate port."""
    redirect_uri = f"http://localhost:{unused_tcp_port}/callback"
    with served(tmp_path, redirect_uris=(redirect_uri,)) as side:
        side.write_config(auth=(*AUTH, f'redirect_uri = "{redirect_uri}"'))
        monkeypatch.setenv("DCSYNC_CONFIG", str(side.config))
        yield side


@asynccontextmanager
async def login(side: Served, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start `dcsync login`. It is ended with the block at the latest."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "dcsync", "--config", str(side.config), "login", *options),
        env={key: value for key, value in os.environ.items() if key not in {"DISPLAY", "WAYLAND_DISPLAY", "BROWSER"}},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with dying(process):
        yield process


async def address_shown(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    async for line in process.stderr:
        found = re.fullmatch(r"\s+(http://\S+/authentication/v2/authorize\?\S+)\n", line.decode())
        if found:
            return found[1]
    raise AssertionError


async def consent(url: str) -> str:
    query = {key: values[0] for key, values in parse_qs(urlsplit(url).query).items()}
    kept = {name: query[name] for name in ("client_id", "redirect_uri", "state", "code_challenge")}
    form = {**kept, "answer": "allow", "user": "anna"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(url.partition("?")[0], data=form, allow_redirects=False) as page,
    ):
        return page.headers["Location"]


@pytest.mark.needs_tool("chromium")
async def test_signing_in_with_a_real_browser(signing_in: Served, tmp_path: Path) -> None:
    async with login(signing_in, "--json") as process, browsing() as browser:
        page = await new_page(browser)
        await page.goto(await address_shown(process))
        await page.get_by_label("Sign in as").fill("anna")
        await page.get_by_role("button", name="Allow").click()
        await page.get_by_role("heading", name="You are signed in").wait_for()
        await page.screenshot(path=tmp_path / "signed-in.png")
        out, _ = await process.communicate()

    assert process.returncode == 0
    answer = json.loads(out)
    assert set(written(answer)) == documented("`dcsync login --json`")
    assert answer["user"] == "anna"
    assert [account["visible"] for account in answer["accounts"]] == [True]
    assert TokenStore(signing_in.state).read() is not None


@pytest.mark.needs_tool("chromium")
async def test_denying_access_in_a_real_browser(signing_in: Served) -> None:
    async with login(signing_in) as process, browsing() as browser:
        page = await new_page(browser)
        await page.goto(await address_shown(process))
        await page.get_by_role("button", name="Deny").click()
        await page.get_by_text("The user denied access").wait_for()
        _, err = await process.communicate()

    assert process.returncode == 12
    assert "Autodesk refused the sign-in: The user denied access" in err.decode()
    assert "T-REFUSED" in err.decode()


async def test_signing_in_by_pasting_the_address(signing_in: Served) -> None:
    async with login(signing_in) as process:
        address = await consent(await address_shown(process))
        out, err = await process.communicate(f"\nrubbish\n{address}\n".encode())

    assert process.returncode == 0, err.decode()
    assert "signed in as user anna" in out.decode()
    assert "acme: visible" in out.decode()
    assert "does not begin with http://localhost:" in err.decode()


async def test_login_fails_immediately_if_no_code_can_arrive(signing_in: Served) -> None:
    text = signing_in.config.read_text()
    signing_in.config.write_text(re.sub(r'redirect_uri = ".*"', 'redirect_uri = "https://bim.example/cb"', text))
    async with login(signing_in) as process:
        _, err = await process.communicate(b"")

    assert process.returncode == 12
    assert "dcsync cannot listen on https://bim.example/cb: it is not an http address" in err.decode()
    assert "T-NOBODY" in err.decode()


async def test_an_interrupted_sign_in_leaves_everything_as_it_was(signing_in: Served) -> None:
    async with login(signing_in) as process:
        await address_shown(process)
        process.terminate()
        _, err = await process.communicate()

    assert process.returncode == 130
    assert "Traceback" not in err.decode()
    assert TokenStore(signing_in.state).read() is None


def store_token(side: Served) -> str:
    """Save tokens in the token store, as a sign-in does."""
    from dcsync.auth.token_store import TokenPair

    token = side.sandbox.tokens.issue_refresh_token("anna")
    side.state.mkdir(exist_ok=True)
    TokenStore(side.state).save(TokenPair(refresh_token=token))
    return token


def test_sync_works_after_signing_in(signing_in: Served, dcsync: Dcsync) -> None:
    store_token(signing_in)

    assert dcsync("sync").status == 0


def test_without_a_sign_in_every_command_names_dcsync_login(signing_in: Served, dcsync: Dcsync) -> None:
    for command in ("sync", "jobs", "accounts"):
        result = dcsync(command)

        assert result.status == 12, command
        assert "dcsync login" in result.err


def test_logging_out_revokes_the_token(signing_in: Served, dcsync: Dcsync) -> None:
    token = store_token(signing_in)

    assert dcsync("logout").status == 0
    assert token not in signing_in.sandbox.tokens.live_refresh_tokens
    assert "no user was signed in" in dcsync("logout").out


def test_accounts_can_be_pasted_into_a_configuration_that_has_none(signing_in: Served, dcsync: Dcsync) -> None:
    store_token(signing_in)
    signing_in.write_config(auth=AUTH, accounts=False)

    result = dcsync("accounts")

    (account,) = tomllib.loads(result.out)["account"]
    assert account == {"name": "sandbox-construction", "id": signing_in.sandbox.world.hub_id}
    with signing_in.config.open("a") as file:
        file.write(result.out)
    assert dcsync("status").status == 0


def test_a_hub_that_the_configuration_refuses_is_a_comment_and_names_are_unique(
    signing_in: Served, dcsync: Dcsync
) -> None:
    store_token(signing_in)
    world = signing_in.sandbox.world
    world.add_account("Sandbox Construction")
    world.accounts["YnVzaW5lc3M6YWJj"] = "My Hub"
    signing_in.write_config(auth=AUTH, accounts=False)

    result = dcsync("accounts")

    names = [account["name"] for account in tomllib.loads(result.out)["account"]]
    assert names == ["sandbox-construction", "sandbox-construction-2"]
    assert "# My Hub (EMEA): b.YnVzaW5lc3M6YWJj is not an ACC or BIM 360 account" in result.out
    assert [hub["supported"] for hub in dcsync("accounts", "--json").json["accounts"]] == [True, True, False]
    with signing_in.config.open("a") as file:
        file.write(result.out)
    assert dcsync("config", "check").status == 0


def test_an_account_that_is_configured_is_shown_as_a_comment(signing_in: Served, dcsync: Dcsync) -> None:
    store_token(signing_in)

    result = dcsync("accounts")

    assert tomllib.loads(result.out) == {}
    assert "already in the configuration" in result.out
    assert [row["configured"] for row in dcsync("accounts", "--json").json["accounts"]] == [True]


def test_a_region_that_autodesk_could_not_list_is_a_warning(signing_in: Served, dcsync: Dcsync) -> None:
    store_token(signing_in)
    signing_in.sandbox.faults.add(Fault(server="api", kind="warn", body=b"EMEA is down", times=None))

    result = dcsync("accounts")

    assert result.status == 0
    assert "Autodesk could not list all accounts: Unable to get hubs from BIM360DM EMEA.: EMEA is down" in result.err
    (warning,) = dcsync("accounts", "--json").json["warnings"]
    assert "EMEA is down" in warning
    assert f"(request ID {REQUEST_ID})" in warning


def test_a_refusal_of_the_accounts_says_why(signing_in: Served, dcsync: Dcsync) -> None:
    store_token(signing_in)
    signing_in.sandbox.faults.add(Fault(server="api", kind="refuse-json-api", status=403, body=b"no hub", times=None))

    result = dcsync("accounts")

    assert result.status == 13
    assert f"no hub: SANDBOX-42 (request ID {REQUEST_ID})" in result.err


@pytest.mark.parametrize(
    "auth",
    [
        ('method = "token"', 'access_token = "x"'),
        (
            'method = "service-account"',
            'client_id = "c"',
            'client_secret = "s"',
            'service_account_id = "a"',
            'key_id = "k"',
            'private_key = "p"',
        ),
    ],
    ids=["token", "service-account"],
)
@pytest.mark.parametrize("command", ["login", "logout"])
def test_login_is_refused_for_a_method_without_sign_in(
    signing_in: Served, dcsync: Dcsync, auth: tuple[str, ...], command: str
) -> None:
    signing_in.write_config(auth=auth)

    result = dcsync(command)

    assert result.status == 2
    assert "login and logout do not apply" in result.err


@pytest.mark.parametrize(("result", "opens"), [(True, True), (False, False)])
def test_a_browser_says_whether_it_opened(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], result: bool, opens: bool
) -> None:
    monkeypatch.setenv("BROWSER", "a browser")
    monkeypatch.setattr(webbrowser, "open", lambda _: result)

    Terminal(opens_browser=True).show("http://127.0.0.1/", listening=True, why_not="")

    assert ("The browser is opening" in capsys.readouterr().err) is opens


def test_a_browser_in_the_foreground_does_not_stop_the_sign_in(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends after the sign-in, for which dcsync has to go on."""
    goes_on, seen = threading.Event(), queue.SimpleQueue[bool]()

    def stays_open(_: str) -> bool:
        seen.put(goes_on.wait(60))
        return True

    monkeypatch.setenv("BROWSER", "a browser")
    monkeypatch.setattr(webbrowser, "open", stays_open)

    Terminal(opens_browser=True).show("http://127.0.0.1/", listening=True, why_not="")
    goes_on.set()

    assert seen.get(timeout=60)
    assert "The browser is opening" in capsys.readouterr().err
