"""Notifications and the heartbeat: what is sent where, and that no address is ever logged."""

from __future__ import annotations

import io
import logging
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from dcsync.core.events import Event, EventKind
from dcsync.log import configure
from dcsync.ops.alerts import notify
from tests.fakes import NOON
from tests.rigs.mirror import Mirror, add_extract, tables
from tests.rigs.notified import CANARY, NotificationServer

#: The e-mail plugin of apprise imports it on Python versions that still have it.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port that refuses connections. It is bound, so that no other program gets it, but nothing listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.fixture(autouse=True)
def logged() -> Iterator[io.StringIO]:
    """The log at its most verbose level. No test may leave an address in it."""
    root, others = logging.getLogger(), [logging.getLogger(name) for name in ("apprise", "requests", "urllib3")]
    handlers, levels, before = list(root.handlers), [item.level for item in (root, *others)], structlog.get_config()
    stream = io.StringIO()
    configure("debug", "json", stream=stream)
    yield stream
    root.handlers[:] = handlers
    for item, level in zip((root, *others), levels, strict=True):
        item.setLevel(level)
    structlog.configure(**before)
    assert CANARY not in stream.getvalue()


def make_event(kind: EventKind = EventKind.ALERT, **changes: Any) -> Event:
    values: dict[str, Any] = {"account": "acme", "at": NOON, "message": "a problem", "code": "X-Y", "hint": "fix it"}
    return Event(kind=kind, **{**values, **changes})


# --- messages ---------------------------------------------------------------------------------------------------------


async def test_a_message_reaches_every_address(service: NotificationServer, logged: io.StringIO) -> None:
    assert await notify.send([service.address(), service.address()], [make_event()])

    assert len(service.messages) == 2
    assert service.messages[0]["title"] == "dcsync: acme: alert"
    assert service.messages[0]["message"] == "alert: a problem [X-Y]\n  do: fix it"
    assert service.messages[0]["type"] == "warning"
    assert logged.getvalue() == ""


@pytest.mark.parametrize("kind", [EventKind.SNAPSHOT, EventKind.RECOVERED])
async def test_good_news_is_sent_as_information(service: NotificationServer, kind: EventKind) -> None:
    assert await notify.send([service.address()], [make_event(kind)])

    assert service.messages[0]["type"] == "info"


async def test_several_events_are_one_message(service: NotificationServer) -> None:
    events = [
        make_event(EventKind.SNAPSHOT, message="new", code="", hint=""),
        make_event(EventKind.FAILURE, message="old", hint=""),
    ]

    assert await notify.send([service.address()], events)

    (sent,) = service.messages
    assert sent["title"] == "dcsync: acme: new snapshot and 1 more"
    assert sent["message"] == "new snapshot: new\nfailure: old [X-Y]"
    assert sent["type"] == "warning"


def test_an_event_of_the_whole_mirror_says_so() -> None:
    assert notify.message([make_event(account="")])[0] == "dcsync: the mirror: alert"


async def test_the_other_addresses_are_notified_when_one_refuses(
    service: NotificationServer, dead_port: int, logged: io.StringIO
) -> None:
    dead = f"json://user:{CANARY}@127.0.0.1:{dead_port}/{CANARY}?token={CANARY}"

    assert not await notify.send([dead, service.address()], [make_event()])

    assert len(service.messages) == 1
    assert '"service": "json", "number": 1' in logged.getvalue()


async def test_an_error_status_means_not_sent(service: NotificationServer) -> None:
    service.status = 500

    assert not await notify.send([service.address()], [make_event()])


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"nosuch://{CANARY}", "nosuch"),
        (f"slack://{CANARY}", "slack"),
        (f"json://{CANARY}:port/", "json"),
        (f"{CANARY}", "unknown"),
        (f"{CANARY}:x", "unknown"),
        (f"{CANARY} {CANARY}://x", "unknown"),
        ("", "unknown"),
    ],
)
async def test_an_invalid_address_is_logged_by_position_and_kind(url: str, shown: str, logged: io.StringIO) -> None:
    assert not await notify.send([url], [make_event()])

    assert f'"service": "{shown}", "number": 1' in logged.getvalue()


async def test_the_reason_of_a_refusal_is_reported_without_the_address(
    service: NotificationServer, dead_port: int, logged: io.StringIO
) -> None:
    service.status = 403
    dead = f"json://user:{CANARY}@127.0.0.1:{dead_port}/{CANARY}"

    refused, lost, unknown = await notify.deliver([service.address(), dead, f"nosuch://{CANARY}"], [make_event()])

    assert (refused.number, refused.service) == (1, "json")
    assert refused.error is not None
    assert "error=403" in refused.error
    assert lost.error == "A Connection error occurred sending JSON notification to ….0.0.1."
    assert unknown.error == "apprise does not know this form of address"
    assert logged.getvalue() == ""


@pytest.mark.parametrize(
    ("text", "url", "shown"),
    [
        (
            "posting to hooks.slack.com/services/T0AB failed",
            "slack://T0AB/x",
            "posting to hooks.slack.com/services/… failed",
        ),
        ("user me@example.com refused", "mailto://me:pass@example.com", "user me@….… refused"),
        ("Invalid TOKENA", "slack://tokena", "Invalid …"),
        ("bad pass word", "mailto://x:pass%20word@h", "bad … …"),
        ("bad hunter2canary", "hunter2canary", "bad …"),
        ("error=404.", "json://h/40", "error=404."),
    ],
)
def test_no_word_of_an_address_stays_in_a_reason(text: str, url: str, shown: str) -> None:
    assert notify.without_address(text, url) == shown


def test_apprise_is_installed_for_development() -> None:
    notify.check_installed()


# --- the heartbeat ----------------------------------------------------------------------------------------------------


async def test_a_heartbeat_is_one_call(service: NotificationServer, logged: io.StringIO) -> None:
    assert await notify.send_heartbeat(service.address("http"))

    assert service.heartbeats == [f"/{CANARY}"]
    assert logged.getvalue() == ""


@pytest.mark.parametrize("status", [302, 308, 404, 500])
async def test_a_refused_heartbeat_is_logged_with_its_status(
    service: NotificationServer, logged: io.StringIO, status: int
) -> None:
    service.status = status

    assert not await notify.send_heartbeat(service.address("http"))

    assert service.heartbeats == [f"/{CANARY}"]
    assert f'"status": {status}' in logged.getvalue()


async def test_a_heartbeat_without_a_connection_is_logged(dead_port: int, logged: io.StringIO) -> None:
    assert not await notify.send_heartbeat(f"http://127.0.0.1:{dead_port}/{CANARY}")

    assert "heartbeat request failed" in logged.getvalue()


@pytest.mark.parametrize(
    "url", [CANARY, f"ftp://{CANARY}/", f"http://[{CANARY}", f"http://127.0.0.1:{CANARY}/", "http://"]
)
async def test_a_heartbeat_to_an_invalid_address_is_logged(url: str, logged: io.StringIO) -> None:
    assert not await notify.send_heartbeat(url)

    assert "heartbeat request failed" in logged.getvalue()


# --- after a run ------------------------------------------------------------------------------------------------------


async def test_changes_are_sent_after_a_run_and_the_heartbeat_only_without_alerts(
    mirror: Mirror, service: NotificationServer
) -> None:
    mirror.environ |= {"NOTIFY": service.address(), "BEAT": service.address("http")}
    mirror.config |= {"notify": {"urls": ["env:NOTIFY"]}, "heartbeat": {"url": "env:BEAT"}}
    add_extract(mirror, tables(1))
    await mirror.run()
    # A new snapshot is sent only if [notify] on has it.
    assert (len(service.messages), len(service.heartbeats)) == (0, 1)

    token, mirror.environ["TOKEN"] = mirror.environ["TOKEN"], "wrong"
    for _ in range(3):
        mirror.clock.advance(60)
        await mirror.run()
    assert [message["title"] for message in service.messages] == ["dcsync: acme: alert"]
    assert len(service.heartbeats) == 1

    mirror.environ["TOKEN"] = token
    await mirror.run()
    assert [message["title"] for message in service.messages[1:]] == ["dcsync: acme: recovered"]
    assert len(service.heartbeats) == 2


async def test_unreachable_addresses_do_not_fail_a_run(mirror: Mirror, dead_port: int) -> None:
    mirror.environ |= {"NOTIFY": f"json://127.0.0.1:{dead_port}/{CANARY}", "BEAT": f"http://127.0.0.1:{dead_port}"}
    mirror.config |= {
        "notify": {"urls": ["env:NOTIFY"], "on": ["snapshot"]},
        "heartbeat": {"url": "env:BEAT"},
    }
    add_extract(mirror, tables(1))

    outcome = await mirror.run()

    assert outcome.error is None
    assert len(mirror.snapshots()) == 1
