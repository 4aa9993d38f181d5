"""Messages and the heartbeat: what is sent where, and that no address is ever shown."""

from __future__ import annotations

import io
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestServer

from dcsync.core.events import Event, EventKind
from dcsync.log import configure
from dcsync.ops.alerts import notify
from tests.fakes import NOON
from tests.rigs.mirror import Mirror, add_extract, tables

#: apprise's plugin for e-mail imports it where it still is.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
#: In every address; nowhere else may it stand.
CANARY = "hunter2canary"


@dataclass(slots=True)
class Service:
    """A server that takes down what it is told, and answers with `status`."""

    status: int = 200
    messages: list[dict[str, Any]] = field(default_factory=list)
    beats: list[str] = field(default_factory=list)
    port: int = 0

    async def take(self, request: web.Request) -> web.Response:
        if request.method == "POST":
            self.messages.append(await request.json())
        else:
            self.beats.append(request.path)
        headers = {"Location": f"http://127.0.0.1:{self.port}/elsewhere"} if 300 <= self.status < 400 else {}
        return web.Response(status=self.status, headers=headers)

    def address(self, scheme: str = "json") -> str:
        return f"{scheme}://127.0.0.1:{self.port}/{CANARY}"


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    taking = Service()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", taking.take)
    async with TestServer(app) as server:
        assert server.port is not None
        taking.port = server.port
        yield taking


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port that refuses: it is bound, so that nobody else gets it, and nobody listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.fixture(autouse=True)
def said() -> Iterator[io.StringIO]:
    """What a log at its most talkative says; no address is in it, whatever the test is about."""
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
    values: dict[str, Any] = {"account": "acme", "at": NOON, "message": "it stands", "code": "X-Y", "hint": "mend it"}
    return Event(kind=kind, **{**values, **changes})


# --- messages ---------------------------------------------------------------------------------------------------------


async def test_a_message_reaches_every_address(service: Service, said: io.StringIO) -> None:
    assert await notify.send([service.address(), service.address()], [make_event()])

    assert len(service.messages) == 2
    assert service.messages[0]["title"] == "dcsync: acme: alert"
    assert service.messages[0]["message"] == "alert: it stands [X-Y]\n  do: mend it"
    assert service.messages[0]["type"] == "warning"
    assert said.getvalue() == ""


@pytest.mark.parametrize("kind", [EventKind.SNAPSHOT, EventKind.RECOVERED])
async def test_good_news_are_no_warning(service: Service, kind: EventKind) -> None:
    assert await notify.send([service.address()], [make_event(kind)])

    assert service.messages[0]["type"] == "info"


async def test_several_events_are_one_message(service: Service) -> None:
    events = [
        make_event(EventKind.SNAPSHOT, message="new", code="", hint=""),
        make_event(EventKind.FAILURE, message="old", hint=""),
    ]

    assert await notify.send([service.address()], events)

    (sent,) = service.messages
    assert sent["title"] == "dcsync: acme: new snapshot and 1 more"
    assert sent["message"] == "new snapshot: new\nfailure: old [X-Y]"
    assert sent["type"] == "warning"


def test_what_concerns_the_whole_mirror_says_so() -> None:
    assert notify.message([make_event(account="")])[0] == "dcsync: the mirror: alert"


async def test_an_address_that_refuses_does_not_keep_the_others_from_hearing(
    service: Service, dead_port: int, said: io.StringIO
) -> None:
    dead = f"json://user:{CANARY}@127.0.0.1:{dead_port}/{CANARY}?token={CANARY}"

    assert not await notify.send([dead, service.address()], [make_event()])

    assert len(service.messages) == 1
    assert '"service": "json", "number": 1' in said.getvalue()


async def test_an_address_that_answers_with_an_error_did_not_take_it(service: Service) -> None:
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
async def test_what_is_no_address_is_named_by_its_place_and_kind(url: str, shown: str, said: io.StringIO) -> None:
    assert not await notify.send([url], [make_event()])

    assert f'"service": "{shown}", "number": 1' in said.getvalue()


def test_apprise_is_there_in_the_development_set() -> None:
    notify.check_installed()


# --- the heartbeat ----------------------------------------------------------------------------------------------------


async def test_a_heartbeat_is_one_call(service: Service, said: io.StringIO) -> None:
    assert await notify.beat(service.address("http"))

    assert service.beats == [f"/{CANARY}"]
    assert said.getvalue() == ""


@pytest.mark.parametrize("status", [302, 308, 404, 500])
async def test_a_heartbeat_that_was_not_taken_is_said_with_its_status(
    service: Service, said: io.StringIO, status: int
) -> None:
    service.status = status

    assert not await notify.beat(service.address("http"))

    assert service.beats == [f"/{CANARY}"]
    assert f'"status": {status}' in said.getvalue()


async def test_a_heartbeat_that_nobody_hears_is_said(dead_port: int, said: io.StringIO) -> None:
    assert not await notify.beat(f"http://127.0.0.1:{dead_port}/{CANARY}")

    assert "the heartbeat was not heard" in said.getvalue()


@pytest.mark.parametrize(
    "url", [CANARY, f"ftp://{CANARY}/", f"http://[{CANARY}", f"http://127.0.0.1:{CANARY}/", "http://"]
)
async def test_what_is_no_address_is_no_heartbeat(url: str, said: io.StringIO) -> None:
    assert not await notify.beat(url)

    assert "the heartbeat was not heard" in said.getvalue()


# --- after a run ------------------------------------------------------------------------------------------------------


async def test_after_a_run_what_changed_is_sent_and_the_watchdog_hears_only_while_all_is_fresh(
    mirror: Mirror, service: Service
) -> None:
    mirror.environ |= {"NOTIFY": service.address(), "BEAT": service.address("http")}
    mirror.config |= {"notify": {"urls": ["env:NOTIFY"]}, "heartbeat": {"url": "env:BEAT"}}
    add_extract(mirror, tables(1))
    await mirror.run()
    # A snapshot is no message unless that is asked for.
    assert (len(service.messages), len(service.beats)) == (0, 1)

    token, mirror.environ["TOKEN"] = mirror.environ["TOKEN"], "wrong"
    for _ in range(3):
        mirror.clock.advance(60)
        await mirror.run()
    assert [message["title"] for message in service.messages] == ["dcsync: acme: alert"]
    assert len(service.beats) == 1

    mirror.environ["TOKEN"] = token
    await mirror.run()
    assert [message["title"] for message in service.messages[1:]] == ["dcsync: acme: recovered"]
    assert len(service.beats) == 2


async def test_addresses_that_do_not_answer_fail_no_run(mirror: Mirror, dead_port: int) -> None:
    mirror.environ |= {"NOTIFY": f"json://127.0.0.1:{dead_port}/{CANARY}", "BEAT": f"http://127.0.0.1:{dead_port}"}
    mirror.config |= {
        "notify": {"urls": ["env:NOTIFY"], "on": ["snapshot"]},
        "heartbeat": {"url": "env:BEAT"},
    }
    add_extract(mirror, tables(1))

    outcome = await mirror.run()

    assert outcome.error is None
    assert len(mirror.snapshots()) == 1
