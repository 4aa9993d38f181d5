"""A real PostgreSQL on loopback: Debian's, made anew for the session, and gone with it.

`fsync` is off: what a power cut leaves is PostgreSQL's own business, and its tests. A crash of the server is not among
what that gives up; `restart` and `outage` end it as a crash would.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.rigs.ended import end
from tests.rigs.ports import free_port

PACKAGES = Path("/usr/lib/postgresql")
#: It refuses to run as root.
_USERS = ("postgres", "nobody")
_START_S = 120.0
_STOP_S = 20.0
#: The longest freeze, for a test that would otherwise never end.
_FROZEN_S = 60.0


def programs() -> Path | None:
    """Return the folder of the newest server's programs; None without one."""
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return None
    found = sorted(PACKAGES.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


@dataclass(slots=True, kw_only=True)
class Postgres:
    """A server and how to reach it. Every test takes a database of its own."""

    folder: Path
    port: int
    password: str = field(repr=False)
    _process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres") -> str:
        """Return the address of a database, without the password: connections from this machine are trusted."""
        return f"postgresql://dcsync@127.0.0.1:{self.port}/{database}"

    def fresh(self) -> str:
        """Make an empty database and return its address."""
        name = f"t{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(self, statement: str, *, database: str = "postgres") -> list[tuple[object, ...]]:
        """Execute one statement on a connection of its own and return the rows, if it gives any."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Start the server and wait until it answers.

        After a crash it may find something of its former self that is about to go, and end at once: it is tried again.
        """
        server = programs()
        assert server is not None
        command = [server / "postgres", "-D", self.folder / "data"]
        until = time.monotonic() + _START_S
        while not self._answers():
            if time.monotonic() > until:
                raise AssertionError(self._told("did not start"))
            if self._process is None or self._process.poll() is not None:
                with (self.folder / "log").open("ab") as log:
                    self._process = subprocess.Popen(
                        _unprivileged(command), stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
                    )
            time.sleep(0.05)  # noqa: TID251 - another process's start

    def stop(self) -> None:
        """End it at once, as a crash would: connections break, nothing is said."""
        if self._process is not None:
            # SIGQUIT: immediate shutdown. To the one process that was started here; it ends its own children.
            self._process.send_signal(signal.SIGQUIT)
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                # Its children see that it is gone. It waits for each client that it has yet to refuse.
                end(self._process)
            self._process = None

    def restart(self) -> None:
        """End it at once and start it again."""
        self.stop()
        self.start()

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Be gone during the block."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def frozen(self) -> Iterator[Callable[[], bool]]:
        """Freeze every process of the server. Yield what says that it is frozen: a block that hangs thaws it."""
        assert self._process is not None
        pid = self._process.pid
        os.kill(pid, signal.SIGSTOP)
        processes = [pid, *_children(pid)]
        command = ["sh", "-c", 'sleep "$0"; kill -CONT "$@"', f"{_FROZEN_S:.0f}", *map(str, processes)]
        thaw = subprocess.Popen(command, start_new_session=True)
        try:
            for child in processes[1:]:
                os.kill(child, signal.SIGSTOP)
            yield lambda: thaw.poll() is None
        finally:
            end(thaw, group=True)
            for each in reversed(processes):
                with suppress(ProcessLookupError):
                    os.kill(each, signal.SIGCONT)

    def _told(self, what: str) -> str:
        return f"PostgreSQL {what}:\n{(self.folder / 'log').read_text()[-2000:]}"

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def serving() -> Iterator[Postgres]:
    """Make a server, run it during the block, and leave nothing of it."""
    # Not below pytest's own folder, which nobody else may look into.
    with TemporaryDirectory(prefix="dcsync-postgres-") as name:
        yield from _serving(Path(name))


def _serving(folder: Path) -> Iterator[Postgres]:
    server = programs()
    assert server is not None
    user = _user()
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    port = free_port()
    password = f"canary-{secrets.token_hex(12)}"
    secret = folder / "password"
    secret.write_text(password)
    if user is not None:
        os.chown(secret, user.pw_uid, user.pw_gid)
    subprocess.run(
        _unprivileged(
            [
                *(server / "initdb", "-D", folder / "data", "--username=dcsync", f"--pwfile={secret}"),
                # Another order than that of bytes, so that nothing relies on one.
                *("--encoding=UTF8", "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US"),
                *("--auth=trust", "--no-sync", "--no-instructions"),
            ]
        ),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    secret.unlink()
    _configure(
        folder / "data",
        {
            "listen_addresses": "'127.0.0.1'",
            "port": str(port),
            "unix_socket_directories": "''",
            "fsync": "off",
            "full_page_writes": "off",
            # It would look after hundreds of databases that nobody uses any more.
            "autovacuum": "off",
            "max_connections": "200",
            "log_min_messages": "log",
            "log_min_error_statement": "panic",
        },
    )
    # One role has to give a password; the others are trusted.
    rules = (folder / "data/pg_hba.conf").read_text()
    (folder / "data/pg_hba.conf").write_text(f"host all guarded 127.0.0.1/32 scram-sha-256\n{rules}")
    ready = Postgres(folder=folder, port=port, password=password)
    ready.start()
    ready.execute(f"CREATE ROLE guarded LOGIN SUPERUSER PASSWORD '{password}'")
    try:
        yield ready
    finally:
        ready.stop()


def _children(pid: int) -> list[int]:
    parents = {int(path.name): path / "stat" for path in Path("/proc").iterdir() if path.name.isdecimal()}
    found = []
    for child, stat in parents.items():
        with suppress(OSError):  # it has ended
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(child)
    return found


def _configure(data: Path, settings: Mapping[str, str]) -> None:
    with (data / "postgresql.conf").open("a") as file:
        file.writelines(f"{name} = {value}\n" for name, value in settings.items())


def _user() -> pwd.struct_passwd | None:
    """Return whom to become; None when we are somebody already."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    return next(known[name] for name in _USERS if name in known)


def _unprivileged(command: list[object]) -> list[str]:
    user, words = _user(), [str(word) for word in command]
    if user is None:
        return words
    prefix = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    # It ends with us, however we end.
    return [*prefix, "--pdeathsig=QUIT", *words] if "--pdeathsig" in _help() else [*prefix, *words]


def _help() -> str:
    return subprocess.run(["setpriv", "--help"], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":  # a server by hand: python -m tests.rigs.postgres, until its input ends
    with serving() as by_hand:
        sys.stdout.write(f"{by_hand.url()}\n")
        sys.stdout.flush()
        sys.stdin.readline()
