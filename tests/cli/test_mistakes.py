"""Mistakes of operators: each message names the thing and a next step, without a traceback."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.cli.conftest import Dcsync
from tests.rigs.served import TOKEN, Served

Change = Callable[[Served], object]


def rewritten(old: str, new: str) -> Change:
    """Return what replaces a text of the configuration."""

    def change(side: Served) -> None:
        text = side.config.read_text()
        assert old in text
        side.config.write_text(text.replace(old, new))

    return change


def added(text: str) -> Change:
    """Return what adds lines to the configuration."""
    return lambda side: side.config.write_text(f"{side.config.read_text()}\n{text}\n")


def moved_root(side: Served) -> None:
    rewritten(f"{side.root}", "/nonexistent/mirror")(side)


def moved_api(side: Served) -> None:
    rewritten(side.sandbox.base_url, "http://127.0.0.1:9")(side)


def another_account(side: Served) -> None:
    rewritten(side.sandbox.world.hub_id, "b.00000000-0000-4000-8000-000000000000")(side)


def literal_secret(side: Served) -> None:
    rewritten(f"env:{TOKEN}", "hunter2")(side)
    side.config.chmod(0o644)


def nothing(_: Served) -> None:
    """The mistake is on the command line."""


#: What is wrong, the command, its exit status, and what its output says: the thing, and the next step.
MISTAKES: dict[str, tuple[Change, str, int, list[str]]] = {
    "a mistyped command": (nothing, "synch", 2, ["'synch'", "Did you mean 'sync'?"]),
    "a mistyped option": (nothing, "sync --acount acme", 2, ["'--acount'", "'--account'"]),
    "an account that is not configured": (nothing, "sync --account acne", 2, ["'acne'", "the accounts are: acme"]),
    "a mistyped data request": (nothing, "sync --request Nigthly", 2, ["Nigthly", "known data requests: 'Nightly'"]),
    "a job that does not exist": (nothing, "sync --job 123", 2, ["unknown job", "123", "dcsync jobs"]),
    "a comparison without snapshots": (nothing, "diff", 3, ["does not exist yet", "run `dcsync sync`"]),
    "a code that does not exist": (nothing, "explain L-LAET", 2, ["'L-LAET'", "Did you mean L-LATE?"]),
    "half a filter": (nothing, "jobs --filter status", 2, ["'status' is not FIELD=VALUE"]),
    "a part that is none": (nothing, "verify --part 40", 2, ["'40' is not a part such as 1/30"]),
    "a poll without a daemon": (nothing, "poll", 3, ["no daemon", "systemctl start dcsync", "run dcsync sync"]),
    "hooks without a hook": (nothing, "hooks rerun 123", 2, ["no hook is configured", 'on = ["snapshot"]']),
    "pruning without a policy": (nothing, "prune", 0, ["[keep] has no rule", "Set last, daily"]),
    "a configuration that exists": (nothing, "init --root /x --client-id a", 2, ["already exists", "edit the file"]),
    "a configuration that does not": (nothing, "sync --config /nope.toml", 2, ["/nope.toml does not", "dcsync init"]),
    "a folder as configuration": (nothing, "sync --config /etc", 2, ["/etc: not a file but a folder"]),
    "a secret on the command line": (
        nothing,
        "--config /nope/new.toml init --root /x --client-id a --client-secret hunter2",
        2,
        ["other users can see it", "env:NAME, file:PATH"],
    ),
    "a mistyped key": (rewritten("min_free", "minfree"), "sync", 2, [":3: mirror.minfree", '"min_free"']),
    "a relative path": (rewritten('root = "/', 'root = "'), "sync", 2, ["mirror.root", "is not an absolute path"]),
    "a name that is no folder": (rewritten('"acme"', '"a/b"'), "sync", 2, ["account.1.name: 'a/b'", "letters, digits"]),
    "a duration without unit": (added('[poll]\ninterval = "5"'), "sync", 2, ["poll.interval: '5'", '"15m"']),
    "a secret that others can read": (literal_secret, "sync", 2, ["auth.access_token", "chmod 600", "env:NAME"]),
    "a mirror that is not mounted": (moved_root, "sync", 14, ["/nonexistent/mirror", "mount its disk, or create it"]),
    "an address that does not answer": (moved_api, "sync", 3, ["127.0.0.1:9", "Connection refused", "api.base_url"]),
    "an account without access": (another_account, "sync", 13, ["403", "custom integrations"]),
    "a pattern that matches nothing": (
        added('requests = ["Weekly*"]'),
        "sync",
        2,
        ["'Weekly*'", "correct [[account]] requests of acme", "'Nightly'"],
    ),
    "a file pattern that leaves nothing": (added('include = ["x*"]'), "sync", 3, ["C-NOTABLES", "correct include"]),
    "a message that cannot be sent": (
        added('[notify]\nurls = ["mailto://x"]'),
        "notify --test",
        3,
        ["address 1 (mailto)", "apprise/wiki lists the formats"],
    ),
}


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_a_message_that_names_it_and_a_next_step(side: Served, dcsync: Dcsync, mistake: str) -> None:
    change, command, status, words = MISTAKES[mistake]
    request = side.sandbox.world.add_request("Nightly")
    side.sandbox.world.add_job(request, completed_at=datetime.now(UTC), files={"a.csv": b"id\n"}, with_archive=False)
    if command.startswith("sync"):
        dcsync("status")
    change(side)

    result = dcsync(*command.split())

    said = result.out + result.err
    assert (result.status, [word for word in words if word not in said]) == (status, []), said
    assert "Traceback" not in said
    assert "hunter2" not in said
    assert not Path("/nope").exists()


def test_a_token_that_autodesk_rejects_is_named_with_what_to_do(
    side: Served, dcsync: Dcsync, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, "expired")

    result = dcsync("sync")

    assert result.status == 12
    assert "rejected the configured access token" in result.out + result.err
    assert "configure a new access token" in result.out + result.err
    assert side.config.is_file()


def test_there_are_at_least_25() -> None:
    assert len(MISTAKES) >= 25
