"""Both kinds of session end when asked, in time, and report problems."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from dcsync.app.sync import open_dispatcher, open_sync
from dcsync.cluster.session import SharedSession
from dcsync.config import Config
from dcsync.core.model import AccountName
from dcsync.core.waits import WaitReason
from dcsync.daemon.local_session import LocalSession
from dcsync.daemon.progress import Progress
from dcsync.daemon.session import Session, SessionFactory
from dcsync.daemon.session_parts import SessionParts, Signals
from dcsync.errors import DiskHung, MirrorError
from dcsync.manifest.broken import BrokenPart, BrokenParts
from dcsync.ops.context import AccountSettings
from dcsync.ops.mirroring.outcome import AccountOutcome
from dcsync.sandbox import Fault
from tests.cluster.test_peers import config_of
from tests.cluster.test_session import FAST
from tests.rigs.daemon import Heard
from tests.rigs.mirror import TODAY, Mirror, add_extract, mirroring, tables
from tests.rigs.virtual import VirtualClock
from tests.rigs.waiting import until


@dataclass(slots=True, kw_only=True)
class Rig:
    mirror: Mirror
    session: Session
    signals: Signals
    heard: Heard
    progress: Progress
    clock: VirtualClock

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the session during the block, and ask it to end afterwards."""
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(self.session.run())
            yield

    async def hears(self, text: str) -> None:
        """Wait for a message to systemd that contains a text."""
        await until(lambda: any(text in message for message in self.heard.messages), text)


@asynccontextmanager
async def rig_of(mirror: Mirror, config: Config, make: SessionFactory) -> AsyncIterator[Rig]:
    clock = VirtualClock(TODAY)
    progress, heard, signals = Progress(clock), Heard(), Signals()
    async with open_sync(
        config, mirror.stores(config), environ=mirror.environ, observer=progress, clock=clock, role="run"
    ) as context:
        parts = SessionParts(
            config=config,
            context=context,
            dispatcher=await open_dispatcher(
                config, mirror.stores(config), context, environ=mirror.environ, runs_hooks=False
            ),
            progress=progress,
            notifier=heard,
            signals=signals,
        )
        yield Rig(mirror=mirror, session=make(parts), signals=signals, heard=heard, progress=progress, clock=clock)


@pytest.fixture(params=["local", "shared"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    """A session of each kind."""
    async with mirroring(tmp_path) as mirror:
        make: SessionFactory = LocalSession
        config = mirror.configuration()
        if request.param == "shared":
            make = partial(SharedSession, pace=FAST)
            config = config_of(mirror, request.getfixturevalue("database"), 1)
        async with rig_of(mirror, config, make) as ready:
            yield ready


async def test_it_polls_at_its_start_and_ends_when_asked(rig: Rig) -> None:
    job = add_extract(rig.mirror, tables(2))

    async with rig.running():
        await until(rig.mirror.snapshots)
        rig.signals.end.set()

    rig.mirror.assert_identical(job)
    assert "READY=1" in rig.heard.messages


async def test_an_api_that_is_down_is_polled_again_in_a_minute(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was polled at the next interval."""
    asked: list[tuple[str, timedelta]] = []
    monkeypatch.setattr(rig.session, "poll_soon", lambda account, wait: asked.append((account, wait)))
    rig.mirror.sandbox.faults.add(Fault(server="api", kind="status", status=503, match="/jobs", times=None))

    async with rig.running():
        await until(lambda: asked)
        rig.signals.end.set()

    assert asked[0] == ("acme", timedelta(seconds=60))


async def test_work_in_progress_is_cancelled_at_once_when_hurried(rig: Rig) -> None:
    rig.mirror.sandbox.faults.add(Fault(server="api", kind="hang", seconds=60, times=None))

    async with rig.running():
        await until(lambda: rig.mirror.sandbox.active)
        rig.signals.end.set()
        await asyncio.sleep(0.1)  # noqa: TID251 - the same
        assert rig.progress.is_busy
        rig.signals.hurry.set()

    assert not rig.progress.is_busy


async def test_a_lost_mirror_ends_it_with_the_reason(rig: Rig) -> None:
    rig.mirror.root.rename(rig.mirror.folder / "elsewhere")

    async with asyncio.timeout(120):
        with pytest.raises(MirrorError) as caught:
            await rig.session.run()

    assert caught.value.code == "M-MISSING"
    assert not rig.mirror.root.exists()


async def test_a_notice_is_the_first_status_and_stays_in_it_after_a_poll(rig: Rig) -> None:
    rig.session.notice = "running with the previous configuration"
    async with rig.running():
        await rig.hears("STATUS=running with the previous configuration; waiting")
        rig.signals.end.set()

    place = rig.heard.messages.index("READY=1")
    assert rig.heard.messages[place + 1] == "STATUS=running with the previous configuration"


@pytest.mark.parametrize("worker", ["hooks", "chores"])
async def test_a_bug_in_one_worker_stops_no_other(tmp_path: Path, worker: str) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async with mirroring(tmp_path) as mirror, rig_of(mirror, mirror.configuration(), LocalSession) as rig:
        assert isinstance(rig.session, LocalSession)
        (broken,) = [each for each in rig.session.workers if each.name == worker]
        broken.work, broken.describe = fail, lambda: worker
        job = add_extract(mirror, tables(2))
        broken.wake.set()

        async with rig.running():
            await until(mirror.snapshots)
            await until(lambda: not broken.wake.is_set() and broken.is_idle, "the worker waits again")
            rig.signals.end.set()

        mirror.assert_identical(job)


# --- the base alone ---------------------------------------------------------------------------------------------------


class Idle(Session):
    """A session without work."""

    tick_s = 30.0

    def poll_all(self) -> None:
        """There is nothing to poll."""

    def poll_soon(self, account: str, wait: timedelta) -> None:
        """There is nothing to poll."""

    def _start_work(self, group: asyncio.TaskGroup) -> None:
        pass

    async def _end_work(self, group: asyncio.TaskGroup) -> None:
        pass

    async def _check_regularly(self) -> None:
        pass

    def _describe_waiting(self) -> str:
        return "waiting"

    def _note_login(self, account: AccountSettings, *, is_needed: bool) -> None:
        pass

    async def _plan_next(self, account: AccountSettings, outcome: AccountOutcome) -> None:
        pass

    async def run_hooks_soon(self) -> None:
        pass


@pytest.fixture
async def idle(tmp_path: Path) -> AsyncIterator[Rig]:
    async with mirroring(tmp_path) as mirror, rig_of(mirror, mirror.configuration(), Idle) as ready:
        yield ready


async def test_the_watchdog_is_fed_each_round_unless_work_is_stuck(idle: Rig) -> None:
    async def fed_in_a_round() -> bool:
        idle.heard.messages.clear()
        await idle.clock.advance(timedelta(seconds=30), quiet=lambda: True)
        return "WATCHDOG=1" in idle.heard.messages

    async with idle.running():
        assert await fed_in_a_round()
        idle.progress.begin("polling acme")
        assert await fed_in_a_round()

        idle.clock.leap(timedelta(hours=3))
        assert not await fed_in_a_round()
        idle.progress.end("polling acme")
        assert await fed_in_a_round()
        idle.signals.end.set()


async def test_a_hung_disk_is_reported_and_does_not_starve_the_watchdog(
    idle: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle.session.context.disk, "oldest_s", lambda: 31.0)
    idle.progress.begin("polling acme")
    idle.clock.leap(timedelta(hours=3))

    async with idle.running():
        await idle.hears("READY=1")
        await idle.hears("WATCHDOG=1")
        idle.signals.end.set()

    assert idle.progress.is_stuck()
    assert idle.session.describe() == "the disk has not responded for 31 s"


async def test_a_hung_disk_is_an_alert_until_it_answers(idle: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = BrokenParts(idle.session.context.manifest, None)

    async def recorded_after_a_round(number: int) -> Sequence[BrokenPart]:
        await idle.clock.advance(timedelta(seconds=30), quiet=lambda: True)
        found: list[BrokenPart] = []
        async with asyncio.timeout(120):
            while len(found) != number:
                await asyncio.sleep(0.01)  # noqa: TID251 - the manifest's thread
                found = list(await parts.load())
        return found

    async def hangs(*_: object) -> None:
        raise DiskHung("the disk has not answered for 10 s")

    async with idle.running():
        await idle.hears("WATCHDOG=1")
        monkeypatch.setattr(idle.session.context.disk, "oldest_s", lambda: 200.0)
        # A long call on a disk that answers is work.
        assert await recorded_after_a_round(0) == []
        await until(lambda: not idle.session._problems_changed.is_set(), "the disk was asked")

        monkeypatch.setattr(idle.session.context.disk, "ask", hangs)
        (part,) = await recorded_after_a_round(1)
        assert (part.code, part.subject) == ("F-HUNG", socket.gethostname())
        assert part.message == f"the disk of {idle.mirror.root} has not answered for more than 120 s"

        assert idle.session.hung_disk == part.message

        monkeypatch.setattr(idle.session.context.disk, "oldest_s", lambda: 1.0)
        assert await recorded_after_a_round(0) == []
        idle.signals.end.set()


async def test_a_bug_in_the_regular_checks_stops_nothing(idle: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(idle.session, "_check_regularly", fail)
    async with idle.running():
        await idle.hears("WATCHDOG=1")
        idle.heard.messages.clear()
        await idle.clock.advance(timedelta(seconds=30), quiet=lambda: True)
        await idle.hears("WATCHDOG=1")
        idle.signals.end.set()


async def test_codes_of_what_needs_attention_are_in_the_status_line_while_it_waits(idle: Rig) -> None:
    idle.session._alert_codes = ["A-DENIED", "L-LATE"]
    assert idle.session.describe() == "waiting; alerts: A-DENIED, L-LATE (dcsync status)"

    idle.progress.begin("polling acme")
    assert idle.session.describe() == "polling acme"


async def test_the_status_line_tells_the_snapshot_and_counts_a_wait_down(rig: Rig) -> None:
    # The session itself polls the other one meanwhile.
    another = AccountName("other")
    async with rig.running():
        await rig.hears("READY=1")
        rig.progress.jobs_left(another, 6)
        rig.progress.jobs_left(another, 4)
        await rig.hears("STATUS=mirroring snapshot 3 of 6")
        rig.progress.waiting(WaitReason.RATE_LIMIT, 12)
        for left in (12, 7, 2):
            await rig.hears(f"STATUS=mirroring snapshot 3 of 6; waiting {left} s for the rate limit")
            rig.clock.leap(timedelta(seconds=5))
        await until(lambda: rig.heard.messages[-1].endswith("snapshot 3 of 6"), "the end of the wait")
        rig.progress.jobs_left(another, 0)
        rig.signals.end.set()
