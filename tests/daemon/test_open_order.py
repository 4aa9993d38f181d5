"""The progress of an order, on its way to the command."""

from __future__ import annotations

from dcsync.core.model import AccountName, JobId
from dcsync.daemon.open_order import Relay
from dcsync.daemon.progress import Progress
from dcsync.orders import Progressed
from tests.rigs.mirror import TODAY
from tests.rigs.virtual import VirtualClock

JOB = JobId("1")


def make_relay() -> tuple[Relay, Progress]:
    progress = Progress(VirtualClock(TODAY))
    return Relay(progress), progress


def taken(relay: Relay) -> list[tuple[str, ...]]:
    return [(event.event, *map(str, event.values)) for event in relay.take()]


def test_every_event_is_passed_on_in_order_and_the_daemon_hears_it_too() -> None:
    relay, progress = make_relay()

    relay.job_started(AccountName("acme"), JOB, "label", files=2, size=9)
    assert progress.describe() == "mirroring 1 extract (acme)"
    relay.file_started(JOB, "a.csv", 5)
    relay.file_advanced(JOB, "a.csv", 5)
    relay.file_done(JOB, "a.csv")
    relay.job_done(JOB)
    relay.snapshot("acme/x", 1, 2)
    relay.read(7)

    assert progress.describe() == ""
    assert relay.has_events.is_set()
    assert taken(relay) == [
        ("job_started", "acme", "1", "label", "2", "9"),
        ("file_started", "1", "a.csv", "5"),
        ("file_advanced", "1", "a.csv", "5"),
        ("file_done", "1", "a.csv"),
        ("job_done", "1"),
        ("snapshot", "acme/x", "1", "2"),
        ("read", "7"),
    ]
    assert not relay.has_events.is_set()
    assert relay.take() == []


def test_the_bytes_of_a_file_are_one_event_between_others() -> None:
    relay, _ = make_relay()

    for size in (1, 2, 3):
        relay.file_advanced(JOB, "a.csv", size)
        relay.file_advanced(JOB, "b.csv", -size)
        relay.read(10)
    relay.file_done(JOB, "b.csv")
    relay.file_advanced(JOB, "a.csv", 4)

    assert relay.take() == [
        Progressed(event="file_advanced", values=["1", "a.csv", 6]),
        Progressed(event="file_advanced", values=["1", "b.csv", -6]),
        Progressed(event="read", values=[30]),
        Progressed(event="file_done", values=["1", "b.csv"]),
        Progressed(event="file_advanced", values=["1", "a.csv", 4]),
    ]


def test_a_command_that_reads_nothing_costs_no_memory() -> None:
    relay, _ = make_relay()

    for number in range(5000):
        relay.file_started(JOB, f"{number}.csv", 1)
        relay.file_advanced(JOB, f"{number}.csv", 1)

    assert len(relay.take()) == 1000
