"""Runs of the tests in a copy of the repository, one for each change."""

from __future__ import annotations

import importlib
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

import hypothesis
import pytest

REPOSITORY: Final = Path(__file__).parents[2]
#: A changed loop may run forever or fill the memory.
_PATIENCE: Final = 5
_PATIENCE_S: Final = 30.0
_MEMORY: Final = 4 << 30
_PROFILE: Final = "mutants"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """The lines of the module that each test executes, and how long the test takes, by the ID of the test."""

    lines: Mapping[str, frozenset[int]]
    seconds: Mapping[str, float]

    def tests_of(self, statement: range | None) -> dict[str, float]:
        """Return the tests that execute a statement, quickest first, with their times.

        Those are all tests if the statement runs at the import. If none executes it, a process that a test starts may.
        """
        reached = [test for test, lines in self.lines.items() if statement is None or not lines.isdisjoint(statement)]
        return {test: self.seconds[test] for test in sorted(reached or self.lines, key=self.seconds.__getitem__)}


class Runner:
    """A process in a copy of the repository that has imported the libraries. Each test run is a fork of it."""

    def __init__(self, folder: Path, module: str, tests: Sequence[str]) -> None:
        self._copy = folder / "tree"
        _copy_tree(self._copy)
        self._module = self._copy / module
        self._process = subprocess.Popen(
            [sys.executable, "-m", "scripts.mutants", "--serve", *tests],
            cwd=self._copy,
            # The path comes before the editable install, also for the processes that the tests start. Bytecode is
            # matched by second and size, so a change could run with the bytecode of the previous change.
            env={**os.environ, "PYTHONPATH": str(self._copy), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._output = folder / "output"
        self._record = folder / "record"

    def reach(self, source: str) -> Reach:
        """Run all tests without a change, and return what they reach."""
        if self._run(source, patience_s=1800, record=self._record) != 0:
            message = f"the tests fail without a change:\n{self._output.read_text()}"
            raise SystemExit(message)
        record = json.loads(self._record.read_text())
        return Reach(
            lines={test: frozenset(lines) for test, (lines, _) in record.items()},
            seconds={test: seconds for test, (_, seconds) in record.items()},
        )

    def detects(self, source: str, tests: Mapping[str, float]) -> bool:
        """Return whether one of these tests fails or does not end with this source."""
        patience_s = _PATIENCE * sum(tests.values()) + _PATIENCE_S
        return self._run(source, patience_s=patience_s, only=list(tests)) != 0

    def _run(
        self, source: str, *, patience_s: float, only: Sequence[str] | None = None, record: Path | None = None
    ) -> int | None:
        """Return pytest's exit status for a module with this source, or None after a time-out."""
        self._module.write_text(source)
        request = {
            "patience_s": patience_s,
            "output": str(self._output),
            "only": only,
            "record": None if record is None else str(record),
            "module": str(self._module),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        status: int | None = json.loads(self._process.stdout.readline())
        for stale in self._module.parent.glob(f"__pycache__/{self._module.stem}.*"):
            stale.unlink()
        return status

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def _copy_tree(to: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        source = REPOSITORY / name
        if source.is_file():  # a file that was deleted and not yet committed is not
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, to / name)


def serve(tests: Sequence[str]) -> None:
    """Answer each request on stdin with the exit status of a run of the tests."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _import_libraries(tests)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            sys.dont_write_bytecode = request["record"] is None
            plugin = _Quickest(request["only"]) if request["only"] else _Recorder(request["module"], request["record"])
            _run_tests(plugin.files(tests), request["output"], plugin)
        status = _wait(child, request["patience_s"])
        with suppress(ProcessLookupError):  # what the tests started, and left
            os.killpg(child, signal.SIGKILL)
        print(json.dumps(status), file=answers, flush=True)


def _import_libraries(tests: Sequence[str]) -> None:
    """Import everything that the tests import, then unload dcsync's own modules."""
    for name in ["tests.conftest", *(test.removesuffix(".py").replace("/", ".") for test in tests)]:
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.split(".")[0] in {"dcsync", "tests"}]:
        del sys.modules[name]


def _run_tests(tests: Sequence[str], output: str, plugin: object) -> NoReturn:
    os.setsid()
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    sink = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for descriptor in (1, 2):
        os.dup2(sink, descriptor)
    status = 1
    try:
        # Deterministic, so that the result for a change is always the same. One failure is enough, in any form.
        phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        hypothesis.settings.register_profile(_PROFILE, deadline=None, derandomize=True, phases=phases)
        settings = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--hypothesis-profile={_PROFILE}")
        ignored = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
        status = int(pytest.main([*settings, *ignored, *tests], plugins=[plugin]))
    finally:
        sys.stdout.flush()
        os._exit(status)


class _Recorder:
    """Records what each test reaches, in all threads. The time includes that of the trace and of the fixtures."""

    def __init__(self, module: str, to: str) -> None:
        self._module = module
        self._to = Path(to)
        self._lines = set[int]()
        self._record = dict[str, tuple[list[int], float]]()

    @staticmethod
    def files(tests: Sequence[str]) -> Sequence[str]:
        return tests

    def pytest_sessionstart(self) -> None:
        threading.settrace(self._trace)
        sys.settrace(self._trace)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._lines.clear()
        began = time.monotonic()
        result = yield
        self._record[item.nodeid] = (sorted(self._lines), time.monotonic() - began)
        return result

    def pytest_sessionfinish(self) -> None:
        self._to.write_text(json.dumps(self._record))

    def _trace(self, frame: FrameType, _event: str, _argument: Any) -> Any:  # noqa: ANN401 - as `sys.settrace` has it
        if frame.f_code.co_filename != self._module:
            return None
        self._lines.add(frame.f_lineno)
        return self._trace


class _Quickest:
    """Runs only some tests, in their order."""

    def __init__(self, only: Sequence[str]) -> None:
        self._order = {test: place for place, test in enumerate(only)}

    def files(self, tests: Sequence[str]) -> Sequence[str]:
        wanted = {test.split("::")[0] for test in self._order}
        return [test for test in tests if test in wanted]

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self._order), key=lambda i: self._order[i.nodeid])


def _wait(child: int, patience_s: float) -> int | None:
    descriptor = os.pidfd_open(child)
    try:
        is_over, _, _ = select.select([descriptor], [], [], patience_s)
    finally:
        os.close(descriptor)
    if not is_over:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) if is_over else None
