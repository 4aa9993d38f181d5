"""Kills of a run that publishes across file systems. As after a kill, the run changes nothing afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from dcsync.core.lifecycle import JobState
from tests.rigs.mirror import Mirror, add_extract, assert_proved_by_sums, tables
from tests.rigs.odd import mounted

pytestmark = [pytest.mark.needs_root, pytest.mark.timeout(300)]

FILES = {**tables(3), "schemas/table.json": b"{}", "README.html": b"<html>"}
CALLS = ("mkdir", "open", "write", "link", "rename", "unlink", "rmdir", "fsync", "fchmod")
#: Some calls of the copy, then each of those that publish it and swap `latest`. There are fewer than the last one.
POINTS = (*range(1, 90, 8), *range(90, 126))


class Killed(BaseException):
    """The end of the process. No `except Exception` and no `suppress(OSError)` stops it."""


class Killer:
    """Raises at the n-th call since the hidden folder of a copy was made, and at every later one."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.calls = 0
        self.has_killed = False

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if self.calls or (name == "mkdir" and str(arguments[0]).startswith(".dcsync-")):
                self.calls += 1
            if self.calls >= self.at:
                self.has_killed = True
                raise Killed
            return real(*arguments, **options)

        return call


async def test_a_kill_at_any_call_loses_nothing_and_leaves_nothing(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = mirror.root / "acme"
    account.mkdir()
    with mounted("-t", "tmpfs", "-o", "size=64m", "none", account):
        add_extract(mirror, FILES, days_ago=25)
        await mirror.sync()
        killed = []
        for number in POINTS:
            job = add_extract(mirror, {**FILES, "new.csv": b"id\n%d\n" % number}, days_ago=24 - number * 0.1)
            killer = Killer(number)
            with monkeypatch.context() as patched:
                for name in CALLS:
                    patched.setattr(os, name, killer.wrap(name, getattr(os, name)))
                try:
                    await mirror.sync()
                except BaseException:
                    if not killer.has_killed:
                        raise
            killed.append(killer.has_killed)

            await mirror.sync()

            assert (await mirror.states())[job] is JobState.PUBLISHED
            mirror.assert_identical(job)
            assert_proved_by_sums(mirror.snapshot_of(job))
            left = [path.name for path in mirror.root.rglob(".dcsync-*")]
            assert left == [], f"call {number}"
            assert list((mirror.root / ".dcsync/staging").iterdir()) == []
        # From the first call to the last one.
        assert (killed[0], killed[-1]) == (True, False)
