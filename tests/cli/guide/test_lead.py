"""`dcsync init` leads from nothing to the first snapshot, and goes on wherever it was left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dcsync.config import load
from tests.cli.conftest import Result
from tests.cli.guide.conftest import SECRET, Home, Init
from tests.rigs.hands import CTRL_C, CTRL_D, with_browser
from tests.rigs.person import Person, at_terminal, browser

#: All questions to a person whose browser is here, and the answers. The last two are asked only for a new data request.
APP = [("Client ID", "sandbox"), ("Client secret", SECRET), ("Number", "1")]
FOLDERS = [("Mirror folder", "~/dcsync"), ("Folder for tokens", "~/state")]
SIGN_IN = [("Sign in now?", "y")]
ACCOUNT = [("Account (", "1"), ("Name of its folder", "acme")]
SYNC = [("Create the folder now?", "y"), ("Mirror all extracts now?", "y")]


def all_answers(home: Home) -> list[tuple[str, str]]:
    return [*APP, ("Callback URL", home.callback), *FOLDERS, *SIGN_IN, *ACCOUNT, *SYNC]


@contextmanager
def init(home: Home, *options: str, width: int = 80, **environ: str) -> Iterator[Person]:
    """Start the command on a terminal."""
    line = home.init if not home.place.exists() else ("init",)
    environ = {"BROWSER": browser(home.folder), **environ}
    with at_terminal("--config", home.place, *line, *options, width=width, environ=environ) as user:
        yield user


def with_extract(home: Home) -> None:
    world = home.side.sandbox.world
    world.add_job(world.add_request("Nightly", tables=3))


def test_one_session_leads_a_person_from_nothing_to_the_first_snapshot(home: Home) -> None:
    with_extract(home)

    with init(home) as user:
        for question, answer in all_answers(home):
            user.answer(question, answer)
        status = user.finish()

    assert status == 0, user.seen
    assert len(home.snapshots()) == 1
    assert "published acme/nightly-" in user.seen
    assert SECRET not in user.seen
    assert home.side.sandbox.tokens.live_refresh_tokens
    assert load(home.place, environ={}).accounts[0].id == home.side.sandbox.world.hub_id
    secret = home.place.with_name("client-secret")
    assert (secret.read_text(), secret.stat().st_mode & 0o777) == (f"{SECRET}\n", 0o600)
    # Everything is there now, so nothing is asked, and the next steps are named again.
    with init(home) as user:
        assert user.finish() == 0
    assert "The mirror has snapshots." in user.seen
    assert "notify --test" in user.seen


def test_one_session_creates_a_service_account_a_data_request_and_the_first_snapshot(home: Home) -> None:
    world = home.side.sandbox.world

    with init(home, width=200) as user:
        user.answer("Client ID: ", "sandbox")
        user.answer("Client secret", SECRET)
        user.answer("Number [1]: ", "3")
        user.answer("Name of the service account [dcsync-", "mirror")
        user.answer("Mirror folder [", "~/dcsync")
        user.answer("Folder for tokens and the manifest", "~/state")
        user.until("2. invites mirror@sandbox.adskserviceaccount.autodesk.com under Members")
        world.invite("mirror@sandbox.adskserviceaccount.autodesk.com")
        user.answer("Look again? (y, n, later) [y]: ", "")
        user.answer("its name) [1]: ", "")
        user.answer("Name of its folder in the mirror [sandbox-construction]: ", "")
        user.answer("Description of the new data request [dcsync mirror]: ", "")
        user.answer("Create it? (y, n, later) [y]: ", "")
        user.answer("Create the folder now? ", "")
        user.answer("Mirror all extracts now?", "")
        user.until("No extract is complete yet")
        world.complete_jobs()
        user.answer("Look again now?", "")
        status = user.finish()

    assert status == 0, user.seen
    assert len(home.snapshots()) == 1
    (entry,) = world.requests.values()
    assert (entry.service_groups, entry.schedule, entry.project_status) == (("all",), "DAY", "active")
    assert SECRET not in user.seen
    assert "PRIVATE KEY" not in user.seen
    assert load(home.place, environ={}).auth.method == "service-account"


@pytest.mark.parametrize("key", [CTRL_C, CTRL_D, "later"], ids=["ctrl-c", "ctrl-d", "later"])
def test_it_can_be_left_at_every_question_and_then_asks_nothing_twice(
    home: Home, init: Init, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    with_extract(home)
    with_browser(monkeypatch)
    answers = all_answers(home)
    written = len([*APP, ("Callback URL", ""), *FOLDERS])

    # Before there is a configuration, nothing is written. After it, each answer is kept.
    for number in range(written):
        _left(init([*answers[:number], (answers[number][0], key)]), key)
        assert not home.place.parent.exists()
    _left(init([*answers[:written], (answers[written][0], key)]), key)
    _left(init([answers[written], (answers[written + 1][0], key)]), key)
    _left(init([answers[written + 1], (answers[written + 2][0], key)]), key)
    _left(init([*ACCOUNT, (SYNC[0][0], key)]), key)
    _left(init([SYNC[0], (SYNC[1][0], key)]), key)
    result = init([SYNC[1]])

    assert result.status == 0, result.err
    assert len(home.snapshots()) == 1


def _left(result: Result, key: str) -> None:
    assert result.status == (0 if key == "later" else 130), result
    assert "init" in result.out.splitlines()[-1]
    assert "Traceback" not in result.err


def test_killed_at_any_question_it_ends_right_when_it_is_run_again(home: Home) -> None:
    with_extract(home)
    answers = all_answers(home)
    # The question with which each run begins, and the one at which it is killed. The configuration is written before
    # the question 6, the account before the question 9.
    for first, last in ((0, 5), (0, 6), (6, 7), (7, 9), (9, 10)):
        with init(home) as user:
            for question, answer in answers[first:last]:
                user.answer(question, answer)
            user.until(answers[last][0])
            user.kill()
    with init(home) as user:
        user.answer(*answers[10])
        status = user.finish()

    assert status == 0, user.seen
    assert len(home.snapshots()) == 1


@pytest.mark.parametrize("environ", [{"TERM": "dumb"}, {"NO_COLOR": "1"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}], ids=str)
def test_a_narrow_and_plain_terminal_shows_every_word(home: Home, environ: dict[str, str]) -> None:
    with_extract(home)
    world = home.side.sandbox.world
    world.accounts[world.account_id] = "Münchner Straßenbau"

    with init(home, width=40, **environ) as user:
        for question, answer in all_answers(home)[:-2]:
            user.answer(question, answer)
        user.answer("Create the folder now?", "later")
        status = user.finish()

    assert status == 0, user.seen
    assert "\x1b" not in user.raw
    # The questions and the words of `dcsync login` are wrapped by the terminal.
    prose = user.seen.partition("1. App")[2].partition("Client ID")[0].splitlines()
    assert max(map(len, prose)) <= 40
    assert "M" in user.seen
    assert "nchner Stra" in user.seen


def test_an_existing_file_with_a_mistake_is_named_with_its_line(signed_in: Home, init: Init) -> None:
    signed_in.place.write_text("[mirror]\nroot = 1\n")

    result = init([])

    assert result.status == 2
    assert f"{signed_in.place}:2: mirror.root" in result.err
    assert signed_in.place.read_text() == "[mirror]\nroot = 1\n"
