"""The checks of `doctor` of everything but snapshots: hooks, notifications, metrics, HTTP pages, row histories, loads.

None of them stops the mirror, so each problem is a warning. Nothing is sent and no program is run.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from dcsync.errors import ConfigError, DcsyncError
from dcsync.network import bind_listener, listen_hint
from dcsync.ops.alerts.notify import check_installed, service_of
from dcsync.ops.doctor.checks import Check, CheckList, ok, warned
from dcsync.ops.doctor.machine import Secret
from dcsync.rows import check_installed as check_duckdb
from dcsync.tasks import DiskThreads


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The target of a load. `ask` returns its address without secrets, or raises why a load cannot write there."""

    load: str
    ask: Callable[[], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlets:
    """Everything in the configuration that dcsync makes or sends, but for snapshots."""

    #: The program and the arguments of each hook.
    hooks: Sequence[Sequence[str]]
    #: $PATH, where a program without a slash is searched.
    path: str
    notify: Sequence[Secret]
    heartbeat: Secret | None
    textfile: Path | None
    #: Where the HTTP pages are served. None if nowhere.
    listen: tuple[str, int] | None
    #: The tables with a row history.
    history: Sequence[str] = ()
    loads: Sequence[Target] = ()

    def heartbeat_address(self) -> str | None:
        """Return the heartbeat's address, if there is one that can be read."""
        try:
            return None if self.heartbeat is None else self.heartbeat.resolve()
        except ConfigError:
            return None


async def examine_outlets(checks: CheckList, outlets: Outlets, disk: DiskThreads, *, is_daemon_running: bool) -> None:
    """Check them all."""
    steps: dict[str, Callable[[], Check]] = {
        "hooks": lambda: hooks(outlets.hooks, outlets.path),
        "notify": lambda: notifications(outlets.notify),
        "heartbeat": lambda: heartbeat(outlets.heartbeat),
        "metrics": lambda: metrics_file(outlets.textfile),
        "http": lambda: http_pages(outlets.listen, is_daemon_running=is_daemon_running),
        "history": lambda: row_history(outlets.history),
        "load": lambda: loads(outlets.loads),
    }
    for name, step in steps.items():
        await checks.take(name, disk.run(step))


def hooks(programs: Sequence[Sequence[str]], path: str) -> Check:
    """Check that the program of each hook exists and can be run by this user."""
    if not programs:
        return ok("hooks", "none configured")
    doubts: dict[str, str] = {}
    for program, *_ in programs:
        if shutil.which(program, path=path) is not None:
            continue
        if "/" not in program:
            doubts[f"{program} is not on PATH ({path})"] = "write the whole path of the program in run"
        elif Path(program).is_file():
            doubts[f"{program} cannot be run (as uid {os.geteuid()})"] = f"chmod +x {program}"
        else:
            doubts[f"{program} does not exist"] = "correct run in [[hook]], or install the program"
    if doubts:
        return warned("hooks", "\n".join(doubts), "; ".join(dict.fromkeys(doubts.values())))
    return ok("hooks", f"found: {', '.join(dict.fromkeys(program for program, *_ in programs))}")


def notifications(addresses: Sequence[Secret]) -> Check:
    """Check that apprise is installed and knows each address. Sends nothing."""
    if not addresses:
        return ok("notify", "none configured")
    try:
        check_installed()
    except ConfigError as error:
        return warned("notify", error.message, error.advice)
    import apprise

    doubts, services = {}, []
    for number, secret in enumerate(addresses, 1):
        try:
            address = secret.resolve()
        except ConfigError as error:
            doubts[f"{secret.key}: {error.message}"] = error.advice
            continue
        services.append(service_of(address))
        if apprise.Apprise.instantiate(address) is None:
            message = f"notify.urls, address {number} ({services[-1]}) is not an address that apprise knows"
            doubts[message] = "https://github.com/caronc/apprise/wiki lists the formats"
    if doubts:
        return warned("notify", "\n".join(doubts), "; ".join(dict.fromkeys(doubts.values())))
    return ok("notify", f"{', '.join(services)}: valid; `dcsync notify --test` sends a message")


def row_history(tables: Sequence[str]) -> Check:
    """Check that DuckDB is installed if tables have a row history."""
    if not tables:
        return ok("history", "off: [history] tables is empty")
    try:
        check_duckdb()
    except ConfigError as error:
        return warned("history", error.message, error.advice)
    return ok("history", f"DuckDB is installed; tables: {', '.join(tables)}")


def loads(targets: Sequence[Target]) -> Check:
    """Check that dlt is installed, and that a load can write to each target. Nothing stays there."""
    if not targets:
        return ok("load", "none configured")
    doubts, answers = {}, []
    for target in targets:
        try:
            answers.append(f"{target.load}: {target.ask()}")
        except DcsyncError as error:
            doubts[f"{target.load}: {error.message}"] = error.advice
    if doubts:
        return warned("load", "\n".join(doubts), "; ".join(dict.fromkeys(doubts.values())))
    return ok("load", f"{', '.join(answers)}")


def heartbeat(address: Secret | None) -> Check:
    """Check the heartbeat's address. A request would count as a heartbeat, so none is made."""
    if address is None:
        return ok("heartbeat", "none configured")
    try:
        parts = urlsplit(address.resolve())
    except ConfigError as error:
        return warned("heartbeat", f"heartbeat.url: {error.message}", error.advice)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return warned("heartbeat", "heartbeat.url is not an http or https address", "copy the address of the check")
    return ok("heartbeat", f"{parts.scheme} address; dcsync requests it after each run without problems")


def metrics_file(textfile: Path | None) -> Check:
    """Check that the folder of the metrics file exists and can be written."""
    if textfile is None:
        return ok("metrics", "no metrics.textfile configured")
    folder = textfile.parent
    if not folder.is_dir():
        return warned("metrics", f"{folder} does not exist", "create that folder, or correct metrics.textfile")
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        message = f"{folder} cannot be written (as uid {os.geteuid()})"
        return warned("metrics", message, "make the folder writable for the user that runs dcsync")
    return ok("metrics", f"{textfile} can be written")


def http_pages(listen: tuple[str, int] | None, *, is_daemon_running: bool) -> Check:
    """Check that the daemon can listen on its address. A running daemon uses it already."""
    if listen is None:
        return ok("http", "no http.listen configured")
    host, port = listen
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        bind_listener(str(found[0][4][0]), port).close()
    except OSError as error:
        if is_daemon_running and _answers(host, port):
            return ok("http", f"{host}:{port} is in use, by the running daemon")
        number = None if isinstance(error, socket.gaierror) else error.errno
        message = f"cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()}"
        return warned("http", message, listen_hint(number))
    if is_daemon_running:
        message = f"the running daemon does not listen on {host}:{port}"
        return warned("http", message, "reload the daemon after a change of the configuration; see dcsync status")
    return ok("http", f"{host}:{port} is free")


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True
