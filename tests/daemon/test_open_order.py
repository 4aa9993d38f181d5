"""The progress of an order, on its way to the command."""

from __future__ import annotations

from dcsync.cli.progress import apply_run
from dcsync.core.model import AccountName, JobId
from dcsync.core.waits import WaitReason
from dcsync.daemon.open_order import Relay
from dcsync.daemon.progress import Progress
from dcsync.ops.context import Observer
from dcsync.ops.progress import RunProgress
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

    relay.jobs_left(AccountName("acme"), 1)
    relay.job_started(AccountName("acme"), JOB, "label", files=2, size=9)
    relay.file_started(JOB, "a.csv", 5)
    relay.file_resumed(JOB, "a.csv", 2)
    relay.job_advanced(JOB, 3)
    relay.file_advanced(JOB, "a.csv", 3)
    relay.waiting(WaitReason.RATE_LIMIT, 41.5)
    assert progress.describe() == "mirroring snapshot 1 of 1 (acme), 5/9 B; waiting 42 s for the rate limit"
    relay.file_done(JOB, "a.csv")
    relay.file_unchanged(JOB, "b.csv")
    relay.job_done(JOB)
    relay.jobs_left(AccountName("acme"), 0)
    relay.snapshot("acme/x", 1, 2)
    relay.read(7)

    assert progress.describe() == ""
    assert relay.has_events.is_set()
    assert taken(relay) == [
        ("jobs_left", "acme", "1"),
        ("job_started", "acme", "1", "label", "2", "9"),
        ("file_started", "1", "a.csv", "5"),
        ("file_resumed", "1", "a.csv", "2"),
        ("job_advanced", "1", "3"),
        ("file_advanced", "1", "a.csv", "3"),
        ("waiting", "rate limit", "42"),
        ("file_done", "1", "a.csv"),
        ("file_unchanged", "1", "b.csv"),
        ("job_done", "1"),
        ("jobs_left", "acme", "0"),
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


def sizes(progress: RunProgress) -> list[tuple[str, int, int, int]]:
    return [
        (found.name, found.received, found.size, found.files_done)
        for found in (*progress.jobs.values(), *progress.files.values())
    ]


def test_a_client_sees_every_event_of_the_port_as_the_daemon_does() -> None:
    """Also an event that is added later, and one that the daemon tells in other words."""
    relay, progress = make_relay()
    client, acme = RunProgress(VirtualClock(TODAY)), AccountName("acme")
    events = {
        "jobs_left": (acme, 2),
        "job_started": (acme, JOB, "label"),
        "file_started": (JOB, "a.csv", 90),
        "file_resumed": (JOB, "a.csv", 20),
        "job_advanced": (JOB, 30),
        "file_advanced": (JOB, "a.csv", 30),
        "waiting": (WaitReason.STORAGE, 9.0),
    }
    end = {"file_unchanged": (JOB, "a.csv"), "file_done": (JOB, "a.csv"), "job_done": (JOB,)}
    named = {name for name, value in vars(Observer).items() if callable(value) and not name.startswith("_")}
    assert named == {*events, *end}

    for part in (events, end):
        for name, arguments in part.items():
            options = {"files": 1, "size": 90} if name == "job_started" else {}
            getattr(relay, name)(*arguments, **options)
        for event in relay.take():
            apply_run(client, event.event, event.values)
        assert client.words() == progress.words()
        assert sizes(client) == sizes(progress)

    apply_run(client, "no_such_event", ["1", 2])
    apply_run(client, "waiting", ["no such reason", 2])
    apply_run(client, "job_done", [1])
