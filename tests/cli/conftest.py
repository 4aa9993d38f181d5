"""A served sandbox, and `dcsync` as a function."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from dcsync.cli.group import run
from tests.rigs.served import TOKEN, Served, served


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of a command: exit status, stdout and stderr."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Dcsync = Callable[..., Result]


@pytest.fixture
def side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """An empty sandbox and a configuration for it."""
    with served(tmp_path) as ready:
        monkeypatch.setenv(TOKEN, ready.token)
        monkeypatch.setenv("DCSYNC_CONFIG", str(ready.config))
        yield ready


@pytest.fixture
def dcsync(capsys: pytest.CaptureFixture[str]) -> Iterator[Dcsync]:
    """Run `dcsync` with these arguments in this process."""

    def call(*arguments: str) -> Result:
        status = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(status=status, out=captured.out, err=captured.err)

    with log_as_before():
        yield call


@contextmanager
def log_as_before() -> Iterator[None]:
    """Undo what a command in this process configures."""
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)
