"""The data request: the only one, one of several, a new one, or none that will ever run again."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from dcsync.config import load
from dcsync.sandbox import Fault
from tests.cli.guide.conftest import Home, Init
from tests.rigs.hands import with_browser

SYNC = [("Mirror all extracts now?", "later")]


def requests_of(home: Home) -> list[str]:
    return load(home.place, environ={}).accounts[0].requests


def test_the_only_one_is_taken_without_a_question(with_account: Home, init: Init) -> None:
    with_account.side.sandbox.world.add_request("Nightly")

    result = init(SYNC)

    assert result.status == 0, result
    assert "dcsync mirrors the data request Nightly (daily, " in result.out
    assert requests_of(with_account) == []


@pytest.mark.parametrize(("answer", "chosen"), [("", ["*"]), ("all", ["*"]), ("weekly", None), ("2", [1])])
def test_one_of_several_is_chosen_once(
    with_account: Home, init: Init, answer: str, chosen: list[object] | None
) -> None:
    world = with_account.side.sandbox.world
    # The newest one comes first.
    ids = [world.add_request(name, schedule=every) for name, every in (("A", "DAY"), ("B", "WEEK"))][::-1]
    script = [("a number) [all]", answer), *([] if chosen else [("a number) [1]", "")])]

    result = init([*script, *SYNC])

    assert result.status == 0, result
    wanted = chosen or [0]
    assert requests_of(with_account) == [ids[each] if isinstance(each, int) else each for each in wanted]
    # It is not asked again.
    assert init(SYNC).status == 0


def test_a_new_one_beside_others_is_mirrored_as_well(
    with_account: Home, init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_browser(monkeypatch)
    world = with_account.side.sandbox.world
    for name in ("A", "B"):
        world.add_request(name)

    result = init([("a number) [all]", "new"), ("Description", "C"), ("Create it?", ""), *SYNC])

    assert result.status == 0, result
    assert "you sign in once more, with the right to change data requests" in " ".join(result.out.split())
    assert "created data request" in result.out
    assert requests_of(with_account) == ["*"]
    assert [entry.description for entry in world.requests.values()] == ["A", "B", "C"]
    # The token that changes data requests was revoked.
    assert len(with_account.side.sandbox.tokens.live_refresh_tokens) == 1


def test_no_data_request_is_created_without_a_yes(with_account: Home, init: Init) -> None:
    result = init([("Description", ""), ("Create it?", "n")])

    assert result.status == 0, result
    assert "Autodesk shows every user only their own" in " ".join(result.out.split())
    assert "one of the 24 jobs" in " ".join(result.out.split())
    assert with_account.side.sandbox.world.requests == {}


def test_a_lost_answer_of_the_creation_creates_nothing_twice(
    with_account: Home, init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_browser(monkeypatch)
    faults, world = with_account.side.sandbox.faults, with_account.side.sandbox.world
    faults.add(Fault(server="api", kind="lose-after-commit", match="/requests$", times=None))
    faults.add(Fault(server="api", kind="status", status=403, match=r"/requests\?", skip=2, times=None))
    lost = init([("Description", ""), ("Create it?", "")])
    assert lost.status == 3, lost
    assert lost.out.endswith("To continue: dcsync init")
    faults.clear()

    result = init(SYNC)

    assert result.status == 0, result
    assert len(world.requests) == 1


@pytest.mark.parametrize("how", ["inactive", "ended"])
def test_one_that_has_no_more_extracts_is_named_with_its_command(with_account: Home, init: Init, how: str) -> None:
    world = with_account.side.sandbox.world
    entry = world.requests[world.add_request("Old")]
    entry.is_active, entry.ends_at = how != "inactive", datetime(2026, 1, 1, tzinfo=UTC) if how == "ended" else None

    result = init([("a number) [new]", "all"), *SYNC])

    assert result.status == 0, result
    assert f"dcsync requests activate {entry.id[:8]}" in result.out
    assert f"dcsync requests extend {entry.id[:8]}" in result.out
    assert "Old (daily, ended or not active, " in result.out


def test_an_account_without_access_is_told_in_words(with_account: Home, init: Init) -> None:
    with_account.side.sandbox.world.add_request("Nightly")
    with_account.side.sandbox.faults.add(Fault(server="api", kind="status", status=403, match="/requests", times=1))

    result = init([("Look again?", ""), *SYNC])

    assert result.status == 0, result
    assert "A-DENIED" in result.err
    assert "remove its section [[account]]" in " ".join(result.out.split())


def test_another_refusal_stops_it(with_account: Home, init: Init) -> None:
    with_account.side.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/requests", times=None))

    assert init([]).status == 3
