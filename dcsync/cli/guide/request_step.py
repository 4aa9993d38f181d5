"""The fifth step: the data request, chosen from those of the user, or created."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dcsync.cli.guide.account_step import change
from dcsync.cli.guide.asking import LaterError, agree, ask, heading, pick, say, show
from dcsync.cli.guide.commands import StoppedError
from dcsync.cli.guide.sign_in_step import Guided, invite, look_again
from dcsync.core.names import printable
from dcsync.errors import ExitStatus

if TYPE_CHECKING:
    from dcsync.config import Account

_ALL, _NEW = "all", "new"
_DESCRIPTION = "dcsync mirror"
_SCHEDULES = {"ONE_TIME": "once", "DAY": "daily", "WEEK": "weekly", "MONTH": "monthly", "YEAR": "yearly"}


def choose_request(guided: Guided) -> None:
    """Make sure that the first account has a data request that dcsync mirrors."""
    account = _account(guided)
    if account.requests:
        return
    heading("4. Data request")
    rows = _requests(guided, account)
    if not rows:
        say(
            "This user has no data request in the account. Autodesk shows every user only their own, so those of "
            "other users do not count."
        )
        _create(guided, account)
        return
    is_live = [_is_live(row) for row in rows]
    if is_live == [True]:
        say(f"dcsync mirrors the data request {_text(rows[0])}.")
        return
    if not any(is_live):
        _show_dead(rows[0])
    question = f"Which one? ({_ALL}: these and later ones; {_NEW}: a new data request; or a number)"
    chosen = pick(question, [_text(row) for row in rows], words=(_ALL, _NEW), default=_ALL if any(is_live) else _NEW)
    if chosen == _NEW:
        _create(guided, account)
    names = ["*"] if chosen in {_ALL, _NEW} else [str(rows[int(chosen)]["id"])]
    _select(guided, account, names)


def _account(guided: Guided) -> Account:
    from dcsync.config import load

    return load(guided.commands.place, environ=os.environ).accounts[0]


def _requests(guided: Guided, account: Account) -> list[dict[str, Any]]:
    """Return the data requests of the account. If the user has no access yet, say so and look again on request."""
    while True:
        answer = guided.commands.answer("requests", "--json", "--account", account.name)
        if answer.status == 0:
            found: list[dict[str, Any]] = answer.value["requests"]
            return found
        if answer.status != ExitStatus.PERMISSION_DENIED:
            raise answer.stop()
        answer.show()
        invite(guided)
        say(f"For another account, remove its section [[account]] from {guided.commands.place}, and run init again.")
        look_again()


def _text(row: dict[str, Any]) -> str:
    active = "" if _is_live(row) else ", ended or not active"
    name = printable(str(row.get("description") or "without a description"), 60)
    return f"{name} ({_schedule(row)}{active}, {str(row['id'])[:8]})"


def _schedule(row: dict[str, Any]) -> str:
    name = str(row.get("scheduleInterval"))
    return _SCHEDULES.get(name, name.lower())


def _is_live(row: dict[str, Any]) -> bool:
    """Return whether a data request will have another extract, as far as its schedule says."""
    from dcsync.core.wire import parse_time

    ends_at = parse_time(row.get("effectiveTo"))
    return bool(row.get("isActive")) and (ends_at is None or ends_at > datetime.now(UTC))


def _show_dead(row: dict[str, Any]) -> None:
    """Say how a data request gets new extracts again."""
    say("None of these data requests will have a new extract. Create a new data request, or let an old one run again:")
    identifier = str(row["id"])[:8]
    show(f"dcsync requests activate {identifier}", f"dcsync requests extend {identifier}")


def _create(guided: Guided, account: Account) -> None:
    """Create a data request with `dcsync requests create`, after the user has confirmed it."""
    description = ask("Description of the new data request", str, default=_DESCRIPTION)
    say("dcsync creates this data request at Autodesk:")
    for name, value in (
        ("description", printable(description, 60)),
        ("service groups", "all"),
        ("projects", "the active ones"),
        ("schedule", "every day from now on, for ten years"),
    ):
        say(value, indent=" " * 18, first=f"  {name:<14}  ")
    say(
        "It costs one of the 24 jobs that you can have in 24 hours. Each extract takes dcsync about 3 of the 60 API "
        "calls a minute. The first snapshot has the size of the whole extract, the later ones share unchanged files. "
        "For other tools, projects or times, answer later, and run dcsync requests create --help."
    )
    if guided.signs_in:
        say(
            "To create it, you sign in once more, with the right to change data requests. That token is revoked "
            "afterwards, and dcsync keeps only the one that reads."
        )
    if not agree("Create it?"):
        raise LaterError
    line = ["requests", "create", "--account", account.name, "--description", description]
    status = guided.commands.run(*line, "--project-status", "active", *guided.no_browser())
    if status:
        raise StoppedError(status)


def _select(guided: Guided, account: Account, names: Sequence[str]) -> None:
    from dcsync.config.change import set_requests

    place = guided.commands.place
    change(place, lambda text: set_requests(text, account.name, names), f"requests = {list(names)}")
    say(f"The account {account.name} mirrors {'all of them' if names == ['*'] else names[0]}.")
