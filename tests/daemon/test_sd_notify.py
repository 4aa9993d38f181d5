"""The messages to systemd, received by sockets like its own."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcsync.daemon.sd_notify import Notifier

#: What systemd reads at most of a message; a longer one it drops as a whole.
NOTIFY_BUFFER_MAX = 4096


class Listener:
    """The socket of the service manager."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(name.replace("@", "\0", 1))
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        """Return the lines of the only message in the queue."""
        return self._socket.recv(1 << 16).decode().split("\n")

    def heard_nothing(self) -> bool:
        try:
            self._socket.recv(1 << 16)
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@dcsync-test/{os.getpid()}/notify@"
    listener = Listener(name)
    yield listener
    listener.close()


def make_notifier(listener: Listener, **environ: str) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": listener.name, **environ})


@pytest.mark.parametrize(
    ("say", "lines"),
    [
        (lambda notifier: notifier.ready("2 accounts"), ["READY=1", "STATUS=2 accounts"]),
        (lambda notifier: notifier.status("fetching 3 of 40"), ["STATUS=fetching 3 of 40"]),
        (lambda notifier: notifier.stopping("draining"), ["STOPPING=1", "STATUS=draining"]),
        (lambda notifier: notifier.watchdog(), ["WATCHDOG=1"]),
        (
            lambda notifier: notifier.opening("rebuilding"),
            ["EXTEND_TIMEOUT_USEC=120000000", "WATCHDOG=1", "STATUS=rebuilding"],
        ),
    ],
    ids=["ready", "status", "stopping", "watchdog", "opening"],
)
def test_each_report_is_one_message(listener: Listener, say: Callable[[Notifier], None], lines: list[str]) -> None:
    say(make_notifier(listener))

    assert listener.heard() == lines
    assert listener.heard_nothing()


def test_reloading_carries_the_time_that_systemd_compares(listener: Listener) -> None:
    before = time.monotonic_ns() // 1000

    make_notifier(listener).reloading()

    reloading, at = listener.heard()
    assert reloading == "RELOADING=1"
    assert before <= int(at.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


@given(text=st.text(max_size=1000))
def test_no_text_can_add_an_assignment_or_make_the_message_too_long(text: str) -> None:
    listener = Listener(f"@dcsync-test/{os.getpid()}/any-text")
    try:
        make_notifier(listener).status(f"{text}\nREADY=1\r{text}")

        message = listener.heard()
    finally:
        listener.close()
    assert len(message) == 1
    assert message[0].startswith("STATUS=")
    assert len(message[0].encode()) < NOTIFY_BUFFER_MAX


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:9999"}])
def test_without_a_socket_nothing_is_sent_and_nothing_fails(environ: dict[str, str]) -> None:
    notifier = Notifier(environ)

    notifier.ready("up")
    notifier.reloading()
    notifier.watchdog()
    notifier.stopping("down")


@pytest.mark.parametrize("name", ["/nowhere/notify", "@dcsync-test/nobody-listens", "/" + "long" * 50])
def test_a_socket_that_is_gone_breaks_nothing(name: str) -> None:
    Notifier({"NOTIFY_SOCKET": name}).ready("up")


def test_the_socket_may_come_back(listener: Listener, tmp_path: Path) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "later")})
    notifier.status("nobody hears this")

    later = Listener(str(tmp_path / "later"))
    notifier.status("back again")

    assert later.heard() == ["STATUS=back again"]
    later.close()


def test_a_manager_that_does_not_read_does_not_block_the_service(listener: Listener) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler, contextlib.suppress(BlockingIOError):
        filler.setblocking(False)
        filler.connect(listener.name.replace("@", "\0", 1))
        while True:
            filler.send(b"STATUS=full")

    # It would never return if it waited for the manager.
    make_notifier(listener).watchdog()


def test_the_watchdog_is_fed_twice_as_often_as_it_must_be(listener: Listener) -> None:
    assert make_notifier(listener, WATCHDOG_USEC="300000000").watchdog_interval_s == 150.0
    mine = make_notifier(listener, WATCHDOG_USEC="3000000", WATCHDOG_PID=str(os.getpid()))
    assert mine.watchdog_interval_s == 1.5


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": ""},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "-5"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "٣"},
        {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "me"},
    ],
)
def test_a_watchdog_that_is_off_or_watches_another_process_is_not_fed(environ: dict[str, str]) -> None:
    assert Notifier(environ).watchdog_interval_s is None
