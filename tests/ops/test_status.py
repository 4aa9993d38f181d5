"""How the mirror stands, without a network."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from dcsync.app.status import read_status
from dcsync.auth.token_store import TokenPair, TokenStore
from dcsync.errors import ExitStatus
from dcsync.sandbox import Fault
from tests.rigs.mirror import Mirror, add_extract, status_of, tables


async def status(mirror: Mirror) -> dict[str, Any]:
    document: dict[str, Any] = (await read_status(mirror.configuration(), mirror.stores(), clock=mirror.clock)).json()
    return document


async def test_before_the_first_run_there_is_nothing_to_say(mirror: Mirror) -> None:
    document = await status(mirror)

    (account,) = document["accounts"]
    assert account["name"] == "acme"
    assert account["last_poll"] is None
    assert account["newest_snapshot"] is None
    assert set(account["jobs"].values()) == {0}
    assert document["quota"] == {"limit": 60, "used_last_minute": 0}
    assert not mirror.state.exists()


async def test_after_a_run_it_says_what_is_there(mirror: Mirror) -> None:
    job = add_extract(mirror, tables(2))
    await mirror.sync()
    calls = mirror.sandbox.count()

    document = await status(mirror)

    (account,) = document["accounts"]
    assert account["last_poll"] == account["last_success"] == "2026-11-22T12:00:00.000Z"
    assert account["newest_snapshot"] == str(mirror.snapshot_of(job).relative_to(mirror.root))
    assert account["jobs"]["published"] == 1
    assert account["attention"] == []
    assert document["quota"]["used_last_minute"] == 5
    assert document["disk"]["free_bytes"] > 0
    assert document["daemon"] == {"running": False, "pid": None, "next_poll": None}
    assert mirror.sandbox.count() == calls


async def test_what_needs_a_person_is_listed(mirror: Mirror) -> None:
    old = add_extract(mirror, tables(1), days_ago=25)
    mirror.sandbox.faults.add(Fault(server="api", kind="status", status=404, match="/data-listing", times=None))
    await mirror.sync()
    mirror.environ["TOKEN"] = "wrong"
    await mirror.sync()

    (account,) = (await status(mirror))["accounts"]

    codes = {item["code"] for item in account["attention"]}
    assert codes == {"T-LOGIN", "L-MISSING"}
    assert any(old in item["message"] for item in account["attention"])


async def test_the_token_s_last_day_is_shown(mirror: Mirror) -> None:
    mirror.environ["SEED"] = mirror.sandbox.tokens.issue_refresh_token("tester")
    mirror.config["auth"] = {
        "method": "token",
        "client_id": "sandbox",
        "client_secret": "sandbox-secret",
        "refresh_token": "env:SEED",
    }
    await mirror.sync()

    document = await status(mirror)

    assert document["token"]["method"] == "token"
    assert datetime.fromisoformat(document["token"]["expires_at"]) == datetime(2026, 11, 22, 13, tzinfo=UTC)
    assert datetime.fromisoformat(document["token"]["refresh_by"]) == datetime(2026, 12, 7, 12, tzinfo=UTC)


@pytest.mark.parametrize("how", ["gone", "unmounted", "another"])
async def test_a_disk_that_is_away_is_red_and_no_other_disk_is_measured(mirror: Mirror, how: str) -> None:
    add_extract(mirror, tables(1))
    await mirror.run()
    mirror.root.rename(mirror.folder / "elsewhere")
    if how != "gone":
        mirror.root.mkdir()
    if how == "another":
        (mirror.root / ".dcsync").mkdir()
        (mirror.root / ".dcsync" / "instance").write_text('{"id": "another"}')

    found = await status_of(mirror)

    code = {"gone": "M-MISSING", "unmounted": "M-UNMOUNTED", "another": "M-FOREIGN"}[how]
    assert (found.check, found.free_bytes, found.codes) == (ExitStatus.UNSAFE, None, [code])
    disk = cast("dict[str, Any]", found.json()["disk"])
    assert (disk["free_bytes"], disk["alert"]["code"]) == (None, code)
    assert disk["alert"]["hint"]


async def test_a_mirror_without_snapshots_measures_no_bare_mount_point(mirror: Mirror) -> None:
    await mirror.run()
    assert (await status_of(mirror)).free_bytes is not None
    mirror.root.rename(mirror.folder / "elsewhere")
    mirror.root.mkdir()

    found = await status_of(mirror)

    assert (found.check, found.free_bytes) == (ExitStatus.UNSAFE, None)


async def test_who_holds_the_mirror_is_shown(mirror: Mirror) -> None:
    async with mirror.opened():
        held = await read_status(mirror.configuration(), mirror.stores(), clock=mirror.clock)

    assert held.holder is not None
    assert held.holder.pid is not None
    assert not held.holder.is_daemon
    assert held.json()["daemon"] == {"running": False, "pid": None, "next_poll": None}


def store_chain(mirror: Mirror, *, days_old: float) -> None:
    """Put a chain into the store, as a sign-in so long ago would have."""
    mirror.config["auth"] = {"method": "login", "client_id": "sandbox", "client_secret": "sandbox-secret"}
    mirror.state.mkdir(exist_ok=True)
    issued_at = mirror.clock.now() - timedelta(days=days_old)
    token = mirror.sandbox.tokens.issue_refresh_token("anna")
    TokenStore(mirror.state).save(TokenPair(refresh_token=token, issued_at=issued_at))


async def attention(mirror: Mirror) -> list[tuple[str, str]]:
    (account,) = (await status(mirror))["accounts"]
    return [(item["code"], item["message"]) for item in account["attention"]]


async def test_a_missing_sign_in_is_an_alert(mirror: Mirror) -> None:
    mirror.config["auth"] = {"method": "login", "client_id": "sandbox"}

    assert await attention(mirror) == [("T-LOGIN", "not signed in: run dcsync login")]


async def test_a_configured_token_that_was_not_used_yet_is_not_an_alert(mirror: Mirror) -> None:
    mirror.config["auth"] = {"method": "token", "client_id": "sandbox", "refresh_token": "env:SEED"}

    assert await attention(mirror) == []


@pytest.mark.parametrize(
    ("days", "code", "words"),
    [
        (9.9, None, ""),
        (10, "T-DEADLINE", "was not renewed for 10 days and expires on 2026-11-27 12:00 UTC"),
        (13, "T-DEADLINE", "for 13 days"),
        (14.5, "T-DEADLINE", "for 14 days"),
        (15, "T-LOGIN", "has expired: run dcsync login"),
    ],
)
async def test_a_refresh_token_is_an_alert_before_it_expires(
    mirror: Mirror, days: float, code: str | None, words: str
) -> None:
    store_chain(mirror, days_old=days)

    found = await attention(mirror)

    assert [item[0] for item in found] == ([code] if code else [])
    assert all(words in item[1] for item in found)
    assert (await status(mirror))["token"]["refresh_by"] is not None


async def test_a_refused_token_is_one_alert_until_the_next_sign_in(mirror: Mirror) -> None:
    store_chain(mirror, days_old=1)
    mirror.sandbox.tokens.live_refresh_tokens.clear()
    await mirror.sync()

    assert await attention(mirror) == [
        ("T-LOGIN", "Autodesk no longer accepts the stored refresh token. Run dcsync login")
    ]

    store_chain(mirror, days_old=0)
    await mirror.sync()
    assert await attention(mirror) == []
