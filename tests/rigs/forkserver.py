"""A program that has imported dcsync and forks a run of it at each request: 15 ms instead of a second.

A request is a line of JSON on stdin: `argv`, `env`, `outputs` (the paths of stdout and stderr; null closes one),
`terminal`: null, or the path of a terminal that takes the place of the outputs, and `watch`: null, or the path of a
socket at which somebody listens for the calls that change files (tests/rigs/syscalls.py). The answers are two lines on
stdout: `{"pid": …}` when the run begins, `{"status": …}` when it has ended.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
from collections.abc import Callable
from typing import Any, TextIO

#: What `sync` and `run` import while they work, so that no run has to.
MODULES = (
    "aiosqlite",
    "alembic.command",
    "dcsync.app.login",
    "dcsync.app.sync",
    "dcsync.cli.guide",
    "dcsync.cli.init",
    "dcsync.cli.login",
    "dcsync.cli.output",
    "dcsync.cli.progress",
    "dcsync.cli.run",
    "dcsync.cli.startup",
    "dcsync.cli.sync",
    "dcsync.daemon.service",
    "sqlalchemy.dialects.sqlite.aiosqlite",
    "tests.rigs.syscalls",
)


def serve(requests: TextIO, answers: TextIO) -> Callable[[], object] | None:
    """Answer requests until there are no more; in a forked run return what it is to do."""
    for line in requests:
        request = json.loads(line)
        ready, say_ready = os.pipe()
        pid = os.fork()
        if pid == 0:
            requests.close()
            answers.close()
            os.close(ready)
            main = prepared(request)
            os.close(say_ready)
            return main
        os.close(say_ready)
        os.read(ready, 1)
        os.close(ready)
        print(json.dumps({"pid": pid}), file=answers, flush=True)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status)}), file=answers, flush=True)
    return None


def prepared(request: dict[str, Any]) -> Callable[[], object]:
    """Turn this process into one that was started with that command line."""
    os.setsid()
    sys.argv = ["dcsync", *request["argv"]]
    os.environ.clear()
    os.environ.update(request["env"])
    if request["terminal"] is not None:
        # The first terminal that the leader of a session opens is the one of the session.
        descriptor = os.open(request["terminal"], os.O_RDWR)
        for number in range(3):
            os.dup2(descriptor, number)
        os.close(descriptor)
    for number, path in enumerate([] if request["terminal"] is not None else request["outputs"], 1):
        if path is None:
            os.close(number)
            setattr(sys, ("stdout", "stderr")[number - 1], None)
        else:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(descriptor, number)
            os.close(descriptor)
    if request["watch"] is not None:
        from tests.rigs.syscalls import announce

        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(request["watch"])
            announce(connection)
    from dcsync.cli import main

    return main


if __name__ == "__main__":
    for name in MODULES:
        importlib.import_module(name)
    # Apart from stdout: what is forked has another one.
    run = serve(os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w"))
    if run is not None:
        run()
