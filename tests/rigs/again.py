"""A plugin that notes which tests failed, so that `make test AGAIN=1` can run them once more, with nothing beside them.

The note is `.pytest_cache/again`: their IDs, a line each. There is none if a test did not run at all. `--again` runs
these tests. It collects all tests as before: what a module imports may be why a test in another one fails.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

#: The group at the end of an ID (tests/conftest.py), which only workers know.
_GROUP: Final = re.compile(r"@[\w.]+$")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption("--again", action="store_true", help="run the tests that failed in the run before")


def pytest_configure(config: pytest.Config) -> None:
    """Watch the tests of the process that prints."""
    if not hasattr(config, "workerinput") and not config.getoption("again"):
        _note(config).unlink(missing_ok=True)
        config.pluginmanager.register(_Again(_note(config)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests that passed out."""
    if config.getoption("again"):
        failed = set(_note(config).read_text(encoding="utf-8").splitlines())
        items[:] = [item for item in items if item.nodeid in failed]
        missing = failed.difference(item.nodeid for item in items)
        assert not missing, f"these tests are not there: {sorted(missing)}"


def _note(config: pytest.Config) -> Path:
    return config.rootpath / ".pytest_cache/again"


class _Again:
    def __init__(self, place: Path) -> None:
        self._place = place
        self._ran: set[str] = set()
        self._failed: dict[str, None] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that ran, and whether it failed. A worker that ended is reported as a failure of its test."""
        if report.when == "call" or not report.passed:
            self._ran.add(report.nodeid)
        if report.failed:
            self._failed[_GROUP.sub("", report.nodeid)] = None

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the note."""
        scheduler = getattr(session.config.pluginmanager.get_plugin("dsession"), "sched", None)
        wanted = getattr(scheduler, "collection", None) or [item.nodeid for item in session.items]
        if self._failed and self._ran.issuperset(wanted):
            self._place.parent.mkdir(exist_ok=True)
            self._place.write_text("".join(f"{nodeid}\n" for nodeid in self._failed), encoding="utf-8")
